//! Proof of what passed an interface: tcpdump into a file, counted afterwards.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use crate::host::Host;
use crate::process::{self, Process};
use crate::wait;

/// The kernel's buffer of a capture: what tcpdump may be behind by.
const BUFFER_KIB: &str = "32768";

/// What stands before a packet on any link: Ethernet's header, tags, what tcpdump makes of links without one.
const LINK_HEADERS_BYTES_MAX: u64 = 64;

/// Runs tcpdump with the arguments after the first, which is the file. Of tcpdump's own files only its standard output can be
/// given a buffer.
const BUFFERED: &str = r#"exec stdbuf --output=1M tcpdump "$@" >"$0""#;

/// A capture that runs, of everything in both directions.
pub struct Capture {
    tcpdump: Process,
    file: PathBuf,
}

impl Capture {
    /// Starts it and waits until it listens. Of each packet the headers are kept, and are in the file at once.
    pub fn start(host: &Host, interface: &str) -> Result<Capture> {
        let file = host.directory().join(format!("{interface}.pcap"));
        let mut command = host.command("tcpdump");
        command.args(["-U", "-s", "128", "-w"]).arg(&file);
        Self::start_tcpdump(command, host, interface, interface, file, "")
    }

    /// Starts one of whole packets that match a tcpdump filter, with a name of its own. They are in the file once it has
    /// ended: a write for each would have tcpdump fall behind a large file.
    pub fn start_whole(host: &Host, interface: &str, name: &str, filter: &str) -> Result<Capture> {
        let file = host.directory().join(format!("{name}.pcap"));
        // The kernel's buffer has as many places as fit, each for the longest packet.
        let length = host.mtu(interface)? + LINK_HEADERS_BYTES_MAX;
        let mut command = host.command("sh");
        command.args(["-c", BUFFERED]).arg(&file).args(["-s", &length.to_string(), "-w", "-"]);
        Self::start_tcpdump(command, host, interface, name, file, filter)
    }

    fn start_tcpdump(
        mut command: Command,
        host: &Host,
        interface: &str,
        name: &str,
        file: PathBuf,
        filter: &str,
    ) -> Result<Capture> {
        command.args(["-i", interface, "-n", "--immediate-mode", "-B", BUFFER_KIB, "-Z", "root", filter]);
        let mut tcpdump = Process::spawn(command, &format!("tcpdump-{name}"), host.directory())?;
        tcpdump.wait_for_output("listening on")?;
        Ok(Capture { tcpdump, file })
    }

    /// Ends it: all that passed before is recorded. A packet that tcpdump itself lost is an error: the recording would prove
    /// nothing.
    pub fn stop(mut self) -> Result<Recording> {
        // It drops what it has not read when it is told to stop. Until then SIGUSR1 has it say how far it is.
        wait::until("tcpdump to read what has passed", || {
            self.tcpdump.signal(Signal::SIGUSR1)?;
            Ok(has_read_all(&self.tcpdump.log()).then_some(()))
        })?;
        self.tcpdump.signal(Signal::SIGINT)?;
        self.tcpdump.wait()?;
        let log = self.tcpdump.log();
        ensure!(log.contains("\n0 packets dropped by kernel"), "the capture is not complete:\n{log}");
        Ok(Recording { file: self.file.clone() })
    }

    /// What was captured so far.
    pub fn so_far(&self) -> Recording {
        Recording { file: self.file.clone() }
    }
}

/// Whether tcpdump has read every packet that the kernel has kept for it when it last said so, in its log:
/// `12 packets captured, 15 packets received by filter, 0 packets dropped by kernel`.
fn has_read_all(log: &str) -> bool {
    let report = log.lines().rfind(|line| line.contains(" packets captured, "));
    let numbers: Vec<u64> =
        report.into_iter().flat_map(str::split_whitespace).filter_map(|word| word.parse().ok()).collect();
    matches!(numbers[..], [captured, received, lost, ..] if captured + lost == received)
}

/// What a capture has recorded; it lives as long as its network.
pub struct Recording {
    file: PathBuf,
}

impl Recording {
    /// The file, in pcap's format.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Packets that match a tcpdump filter.
    pub fn count(&self, filter: &str) -> Result<u64> {
        let text = self.read(&["--count"], filter)?;
        let number = text.split_whitespace().next().context("tcpdump --count said nothing")?;
        number.parse().with_context(|| format!("not a count of packets: {text}"))
    }

    /// Packets that match a tcpdump filter, as tcpdump prints them with their MAC addresses.
    pub fn lines(&self, filter: &str) -> Result<Vec<String>> {
        Ok(self.read(&["-e"], filter)?.lines().map(str::to_owned).collect())
    }

    /// When the packets that match a tcpdump filter passed, in seconds since the epoch.
    pub fn times(&self, filter: &str) -> Result<Vec<f64>> {
        let text = self.read(&["-tt"], filter)?;
        let time = |line: &str| line.split(' ').next()?.parse().ok();
        text.lines().map(|line| time(line).with_context(|| format!("no time: {line}"))).collect()
    }

    fn read(&self, options: &[&str], filter: &str) -> Result<String> {
        process::run(
            Command::new("tcpdump")
                .args(["-n", "-Z", "root", "-r"])
                .arg(&self.file)
                .args(options)
                .arg(filter),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_read_once_the_last_report_of_tcpdump_says_so() {
        let report_with_lost = |captured, received, lost| {
            format!(
                "tcpdump: {captured} packets captured, {received} packets received by filter, {lost} packets dropped by kernel\n"
            )
        };
        let report = |captured, received| report_with_lost(captured, received, 0);
        let title = "tcpdump: listening on eth0, link-type EN10MB (Ethernet), snapshot length 128 bytes\n";
        assert!(!has_read_all(title));
        assert!(!has_read_all(&[title, &report(12, 15)].concat()));
        assert!(has_read_all(&[title, &report(12, 15), &report(15, 15)].concat()));
        assert!(!has_read_all(&[report(15, 15), report(15, 16)].concat()));
        assert!(has_read_all(&report_with_lost(15, 18, 3)) && !has_read_all(&report_with_lost(14, 18, 3)));
    }
}
