//! dpdk-testpmd in macswap mode, told what to do over its stdin.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::ChildStdin;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::cpus::Cpus;
use crate::forwarder::{Counters, Forwarder, Reading};
use crate::process::Process;
use crate::sizing::Sizing;
use crate::traffic::PORT_MAC;

/// Until it forwards: EAL, and the whole pcap file read into mbufs.
const START_LIMIT: Duration = Duration::from_secs(120);
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// The worker's burst and mempool cache, as the director has them (`dataplane::port::BURST`, `mempool::CACHE`).
const BURST: u32 = 32;
const MEMPOOL_CACHE: u32 = 256;

/// A running testpmd that forwards.
pub(crate) struct Testpmd {
    process: Process,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

impl Testpmd {
    /// Starts it, and the forwarding.
    pub(crate) fn start(
        device: &str,
        sizing: &Sizing,
        hugepages: bool,
        cpus: &Cpus,
        directory: &Path,
    ) -> Result<Testpmd> {
        let arguments = arguments(device, sizing, hugepages, cpus);
        // testpmd prints through stdio, which keeps a pipe's lines back until there are 4 KiB of them.
        let program = ["stdbuf", "--output=L", "dpdk-testpmd"];
        let mut process = Process::start("testpmd", &program, &arguments, directory, cpus)?;
        let (stdin, stdout) = process.pipes().context("testpmd has no pipes")?;
        let (sender, lines) = mpsc::channel();
        // Ends with testpmd, which closes its stdout, or with the receiver.
        std::thread::spawn(move || {
            let lines = BufReader::new(stdout).lines().map_while(Result::ok);
            for line in lines {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut testpmd = Testpmd { process, stdin, lines };
        testpmd.tell("start")?;
        let said = testpmd.hear_until("packet forwarding - ports=1", START_LIMIT)?;
        let [a, b, c, d, e, f] = PORT_MAC;
        let mac = format!("{a:02X}:{b:02X}:{c:02X}:{d:02X}:{e:02X}:{f:02X}");
        ensure!(
            said.iter().any(|line| line.contains(&mac)),
            "testpmd's port does not have the MAC {mac} that the traffic is for; it said:\n{}",
            said.join("\n")
        );
        Ok(testpmd)
    }

    fn tell(&mut self, command: &str) -> Result<()> {
        writeln!(self.stdin, "{command}").with_context(|| format!("testpmd is gone:\n{}", self.process.log()))
    }

    /// Lines up to the one that has `text`.
    fn hear_until(&mut self, text: &str, limit: Duration) -> Result<Vec<String>> {
        let deadline = Instant::now() + limit;
        let mut heard = Vec::new();
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    let is_it = line.contains(text);
                    heard.push(line);
                    if is_it {
                        return Ok(heard);
                    }
                }
                Err(reason) => {
                    let why = match reason {
                        RecvTimeoutError::Timeout => format!("did not say `{text}` in {} s", limit.as_secs()),
                        RecvTimeoutError::Disconnected => format!("ended before it said `{text}`"),
                    };
                    bail!("testpmd {why}; it said:\n{}\n{}", heard.join("\n"), self.process.log())
                }
            }
        }
    }
}

impl Forwarder for Testpmd {
    fn id(&self) -> u32 {
        self.process.id()
    }

    /// It has nothing to settle.
    fn settle(&mut self, _flows: u32) -> Result<()> {
        Ok(())
    }

    fn read(&mut self) -> Result<Reading> {
        Reading::take(|| {
            self.tell("show port stats 0")?;
            let mut answer = self.hear_until("NIC statistics for port 0", ANSWER_LIMIT)?;
            answer.extend(self.hear_until("TX-packets", ANSWER_LIMIT)?);
            counters(&answer.join("\n"))
        })
    }

    fn stop(mut self: Box<Self>) -> Result<()> {
        self.tell("quit")?;
        self.process.wait()
    }
}

fn arguments(device: &str, sizing: &Sizing, hugepages: bool, cpus: &Cpus) -> Vec<String> {
    let memory: &[String] = if hugepages {
        &["--in-memory".to_owned()]
    } else {
        &["--no-huge".to_owned(), "-m".to_owned(), sizing.dpdk_mib.to_string(), "--iova-mode=va".to_owned()]
    };
    let eal = [
        format!("--lcores=0@{},1@{}", cpus.others, cpus.worker),
        "--main-lcore=0".to_owned(),
        "--no-pci".to_owned(),
        "--no-telemetry".to_owned(),
        "--no-shconf".to_owned(),
        format!("--file-prefix=dr-bench-{}", std::process::id()),
        "--log-level=warning".to_owned(),
        format!("--vdev={device}"),
        "--".to_owned(),
        "--interactive".to_owned(),
        "--forward-mode=macswap".to_owned(),
        "--nb-cores=1".to_owned(),
        "--rxq=1".to_owned(),
        "--txq=1".to_owned(),
        format!("--burst={BURST}"),
        format!("--mbuf-size={}", sizing.mbuf_data_room),
        format!("--total-num-mbufs={}", sizing.mbufs),
        format!("--mbcache={MEMPOOL_CACHE}"),
        "--no-flush-rx".to_owned(),
    ];
    memory.iter().cloned().chain(eal).collect()
}

/// From `show port stats`.
fn counters(text: &str) -> Result<Counters> {
    let number = |name: &str| {
        let after = text.split_once(&format!("{name}:")).map(|(_, after)| after.split_whitespace().next());
        let digits =
            after.flatten().with_context(|| format!("testpmd's statistics have no {name}:\n{text}"))?;
        digits.parse::<u64>().with_context(|| format!("testpmd's {name} is `{digits}`"))
    };
    let mut lost = Vec::new();
    for name in ["RX-missed", "RX-errors", "RX-nombuf", "TX-errors"] {
        let count = number(name)?;
        if count > 0 {
            lost.push((name.to_owned(), count));
        }
    }
    Ok(Counters {
        received: number("RX-packets")?,
        forwarded: number("TX-packets")?,
        lost,
        connections: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As DPDK 22.11 prints them.
    const STATISTICS: &str = "
testpmd> show port stats 0

  ######################## NIC statistics for port 0  ########################
  RX-packets: 48544992   RX-missed: 0          RX-bytes:  2912699520
  RX-errors: 0
  RX-nombuf:  7         
  TX-packets: 48544960   TX-errors: 0          TX-bytes:  2912697600
";

    #[test]
    fn statistics_are_read_from_what_testpmd_prints() {
        let expected = Counters {
            received: 48_544_992,
            forwarded: 48_544_960,
            lost: vec![("RX-nombuf".to_owned(), 7)],
            connections: None,
        };
        assert_eq!(counters(STATISTICS).unwrap(), expected);
    }

    #[test]
    fn statistics_without_a_counter_are_an_error_that_names_it() {
        let error = counters("RX-packets: 1").unwrap_err();
        assert!(error.to_string().contains("RX-missed"), "{error}");
    }
}
