//! All that the director sends, judged by tshark: nothing malformed, no bad checksum.
//!
//! It is caught at the other ends of the director's cables. Checksums are whole there: no cable of a lab leaves them to a
//! device ([`crate::Network::add_cable`]), so that what a client sent has a good one before the director forwards it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};

use crate::capture::Capture;
use crate::host::Host;
use crate::process;
use crate::uml;

const SCRIPT: &str = include_str!("dissection.lua");

/// What tshark must find nothing of. Of a packet that the capture cut it checks no checksum. 0 is `Bad` in Wireshark's
/// epan/proto.h. A TCP checksum of 0xffff that should be 0 is no fault (RFC 1624 section 3): Linux sends it where a device does
/// no checksums (`skb_checksum_help`). Nor is one in what an ICMP error quotes: it is of the whole packet, of which the quote is
/// the beginning.
const FAULTS: &str = "_ws.short || _ws.malformed || gue.malformed || ip.checksum.status == 0 \
    || icmp.checksum.status == 0 || icmpv6.checksum.status == 0 || gre.checksum.status == 0 \
    || (!icmp && !icmpv6 && (udp.checksum.status == 0 || sctp.checksum.status == 0 \
    || (tcp.checksum.status == 0 && !tcp.checksum.ffff)))";

/// Checks that Wireshark does not make by itself.
const PREFERENCES: [&str; 5] = [
    "ip.check_checksum:TRUE",
    "tcp.check_checksum:TRUE",
    "udp.check_checksum:TRUE",
    "sctp.checksum:CRC-32C",
    // Nothing above TCP is looked at.
    "tcp.desegment_tcp_streams:FALSE",
];

/// Faults that an error tells, at most.
const FAULTS_TOLD_MAX: usize = 20;

static MADE: AtomicU32 = AtomicU32::new(0);

/// Captures of what a director sends, from before its start to its end.
pub struct Dissection {
    captures: Vec<Capture>,
    directory: PathBuf,
    number: u32,
}

impl Dissection {
    /// Starts capturing what comes with a MAC address out of a cable, at its other end: each given by host, interface and
    /// the director's MAC address.
    pub fn start(ends: &[(&Host, &str, &str)]) -> Result<Dissection> {
        ensure!(!ends.is_empty(), "a dissection of no cable");
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let start = |&(host, interface, mac): &(&Host, &str, &str)| {
            let name = format!("{interface}-sent-{number}");
            Capture::start_whole(host, interface, &name, &format!("ether src {mac}"))
        };
        let captures = ends.iter().map(start).collect::<Result<Vec<_>>>()?;
        Ok(Dissection { captures, directory: ends[0].0.directory().to_owned(), number })
    }

    /// Ends it. Anything malformed and any bad checksum is an error. Returns how many frames there were.
    pub fn finish(self) -> Result<u64> {
        let recordings = self.captures.into_iter().map(Capture::stop).collect::<Result<Vec<_>>>()?;
        let files: Vec<PathBuf> = recordings.iter().map(|recording| recording.file().to_owned()).collect();
        match uml::captures_directory() {
            Some(output) => leave(&files, &output, self.number)?,
            None => judge(&files, &self.directory)?,
        }
        recordings.iter().map(|recording| recording.count("")).sum()
    }
}

/// Leaves captures to whoever started the guest, by the name of the test.
fn leave(files: &[PathBuf], output: &Path, number: u32) -> Result<()> {
    let thread = std::thread::current();
    let directory = output.join(thread.name().context("no test's thread")?).join(number.to_string());
    std::fs::create_dir_all(&directory)?;
    for file in files {
        std::fs::copy(file, directory.join(file.file_name().context("no name")?))?;
    }
    Ok(())
}

/// Has tshark look at captures, joined by time: fragments that left by several ports are one packet to it.
pub(crate) fn judge(files: &[PathBuf], directory: &Path) -> Result<()> {
    let script = directory.join("dissection.lua");
    std::fs::write(&script, SCRIPT)?;
    let joined = directory.join("joined.pcap");
    process::run(Command::new("mergecap").args(["-F", "pcap", "-w"]).arg(&joined).args(files))?;
    let tshark = || {
        let mut command = Command::new("tshark");
        command.args(["-n", "-r"]).arg(&joined).arg("-X").arg(format!("lua_script:{}", script.display()));
        for preference in PREFERENCES {
            command.args(["-o", preference]);
        }
        // Away from whatever the user's own Wireshark is set to.
        command.env("HOME", directory).env_remove("XDG_CONFIG_HOME");
        command
    };
    let mut faults = tshark();
    faults.args(["-Y", FAULTS, "-T", "fields", "-e", "frame.number", "-e", "eth.src", "-e", "eth.dst"]);
    faults.args(["-e", "_ws.col.Source", "-e", "_ws.col.Destination", "-e", "_ws.col.Protocol"]);
    let found = process::run(faults.args(["-e", "_ws.col.Info", "-e", "_ws.expert.message"]))?;
    let Some(first) = found.lines().next() else { return Ok(()) };
    let number = first.split('\t').next().unwrap_or_default();
    let whole = process::run(tshark().args(["-V", "-x", "-Y", &format!("frame.number == {number}")]))?;
    let told: Vec<&str> = found.lines().take(FAULTS_TOLD_MAX).collect();
    anyhow::bail!(
        "the director sent {} frames that are not as they must be:\n{}\n\nthe first of them:\n{whole}",
        found.lines().count(),
        told.join("\n")
    )
}
