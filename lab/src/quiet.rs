//! When nothing is on its way any more: TCP on hosts has ended or has nothing left to send.

use std::fs;

use anyhow::Result;

use crate::host::Host;
use crate::wait;

/// States in `/proc/net/tcp`: the kernel's tcp_states.h.
const ESTABLISHED: &str = "01";
const TIME_WAIT: &str = "06";
const LISTEN: &str = "0A";

/// Waits until TCP has nothing left to send on any of these hosts: of requests that are over, the last FIN and ACK have
/// arrived.
pub fn wait<'a>(hosts: impl IntoIterator<Item = &'a Host>) -> Result<()> {
    for host in hosts {
        wait::until(
            &format!("TCP on {} to be quiet", host.name()),
            || Ok(tcp_is_quiet(host)?.then_some(())),
        )?;
    }
    Ok(())
}

/// Whether no TCP connection of a host has anything left to send by itself: each has ended, or is established and has all
/// that it sent acknowledged.
fn tcp_is_quiet(host: &Host) -> Result<bool> {
    // `/proc/net` would be that of the process's first thread, which stays where it is.
    let table = |name: &str| host.enter(|| fs::read_to_string(format!("/proc/thread-self/net/{name}")));
    let (four, six) = (table("tcp")??, table("tcp6")??);
    Ok(four.lines().skip(1).chain(six.lines().skip(1)).all(|line| {
        // The kernel's Documentation/networking/proc_net_tcp.rst: number, local and remote address, state, tx:rx queue.
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [_, _, _, ESTABLISHED, queues, ..] => queues.starts_with("00000000:"),
            [_, _, _, state, ..] => [TIME_WAIT, LISTEN].contains(&state),
            _ => false,
        }
    }))
}
