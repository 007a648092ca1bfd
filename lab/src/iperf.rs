//! iperf3: a server on a host, and what a client measures.

use std::net::IpAddr;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::host::Host;
use crate::process::Process;

/// Seconds of one measurement.
const SECONDS: &str = "2";

/// A server that runs on iperf3's own port of all addresses.
pub struct IperfServer {
    _process: Process,
}

/// What a client sends or gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// TCP from the client to the server, as fast as it goes.
    Upload,
    /// TCP the other way.
    Download,
    /// UDP from the client to the server, so many bits a second.
    Datagrams(u32),
}

/// What arrived.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Received {
    /// Bytes.
    pub bytes: u64,
    /// Datagrams that did not, in percent.
    pub lost_percent: f64,
}

impl IperfServer {
    /// Starts it.
    pub fn start(host: &Host) -> Result<IperfServer> {
        let mut process = host.spawn(&["iperf3", "--server", "--forceflush"])?;
        process.wait_for_output("Server listening on")?;
        Ok(IperfServer { _process: process })
    }
}

/// One measurement.
pub fn measure(client: &Host, server: IpAddr, stream: Stream) -> Result<Received> {
    let (address, rate);
    address = server.to_string();
    let mut arguments = vec!["iperf3", "--client", &address, "--json", "--time", SECONDS];
    match stream {
        Stream::Upload => {}
        Stream::Download => arguments.push("--reverse"),
        Stream::Datagrams(bits_per_second) => {
            rate = bits_per_second.to_string();
            arguments.extend(["--udp", "--length", "1200", "--bitrate", &rate]);
        }
    }
    let text = client.run(&arguments)?;
    let report: Value = serde_json::from_str(&text).with_context(|| format!("iperf3 printed:\n{text}"))?;
    let sum = match stream {
        Stream::Datagrams(_) => &report["end"]["sum"],
        _ => &report["end"]["sum_received"],
    };
    Ok(Received {
        bytes: sum["bytes"].as_u64().with_context(|| format!("iperf3 received nothing:\n{text}"))?,
        lost_percent: sum["lost_percent"].as_f64().unwrap_or(0.0),
    })
}
