//! Verbs that add, change, drain and remove real servers.

use std::net::Ipv4Addr;

use clap::Args;
use ctl::config::RealServerConfig;
use ctl::mac::MacAddress;
use ctl::protocol::{AddRs, Command, DrainRs, MacSource, OneRealServer, SetRs};
use ctl::validate::{THRESHOLD, TIMEOUT_SECONDS};

use super::services::ServiceArguments;
use super::values::{number, rip, seconds};

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct RealServerArguments {
    #[command(flatten)]
    service: ServiceArguments,
    /// Address of the real server (RIP)
    #[arg(value_name = "RIP", value_parser = rip)]
    address: Ipv4Addr,
}

#[derive(Debug, Args)]
pub(crate) struct AddRsArguments {
    #[command(flatten)]
    real_server: RealServerArguments,
    /// Share of new connections, 0 to 65535; 0 gets none
    #[arg(long, default_value_t = 1, allow_hyphen_values = true, value_parser = number(0..=u16::MAX))]
    weight: u16,
    /// MAC address of the real server, instead of asking by ARP
    #[arg(long)]
    mac: Option<MacAddress>,
    #[command(flatten)]
    thresholds: ThresholdArguments,
}

#[derive(Clone, Copy, Debug, Args)]
struct ThresholdArguments {
    /// From so many connections on it gets no new ones; 0: no limit
    #[arg(long, value_name = "CONNECTIONS", allow_hyphen_values = true, value_parser = number(THRESHOLD))]
    upper_threshold: Option<u32>,
    /// Below so many connections it gets new ones again; 0: below three quarters of the upper threshold
    #[arg(long, value_name = "CONNECTIONS", allow_hyphen_values = true, value_parser = number(THRESHOLD))]
    lower_threshold: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct SetRsArguments {
    #[command(flatten)]
    real_server: RealServerArguments,
    /// Share of new connections, 0 to 65535; 0 gets none
    #[arg(long, allow_hyphen_values = true, value_parser = number(0..=u16::MAX))]
    weight: Option<u16>,
    /// MAC address of the real server, or `arp` to ask for it
    #[arg(long, value_name = "MAC|arp")]
    mac: Option<MacSource>,
    #[command(flatten)]
    thresholds: ThresholdArguments,
    /// Give it no new connections, and keep the established ones
    #[arg(long, conflicts_with = "no_drain")]
    drain: bool,
    /// Give it new connections again
    #[arg(long)]
    no_drain: bool,
}

/// Of which `set-rs` needs one.
pub(super) const REAL_SERVER_CHANGES: [&str; 6] =
    ["weight", "mac", "upper_threshold", "lower_threshold", "drain", "no_drain"];

#[derive(Debug, Args)]
pub(crate) struct DrainRsArguments {
    #[command(flatten)]
    real_server: RealServerArguments,
    /// Remove it when its last connection is gone, and after this time at the latest, such as 300s, 5m or 1h
    #[arg(long, value_name = "TIME", value_parser = seconds(TIMEOUT_SECONDS))]
    timeout: Option<u32>,
    /// Clients that persistence keeps on it still open new connections there
    #[arg(long)]
    keep_persistent: bool,
    /// Wait until it is gone or, without --timeout, has no connections left; for this time at most, and print what is
    /// left meanwhile
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, value_parser = seconds(TIMEOUT_SECONDS))]
    wait: Option<Option<u32>>,
}

/// How long to wait for a drain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DrainWait {
    /// The drain that is waited for.
    pub(crate) drain: DrainRs,
    /// At most; none: until the deadline of the drain, or for ever where it has none.
    pub(crate) seconds_max: Option<u32>,
}

impl RealServerArguments {
    pub(crate) fn query(&self) -> OneRealServer {
        OneRealServer { service: self.service.id, address: self.address }
    }
}

impl AddRsArguments {
    pub(crate) fn command(&self) -> Command {
        let OneRealServer { service, address } = self.real_server.query();
        let real_server = RealServerConfig {
            address,
            weight: self.weight,
            mac: self.mac,
            upper_threshold: self.thresholds.upper_threshold.unwrap_or_default(),
            lower_threshold: self.thresholds.lower_threshold.unwrap_or_default(),
            drain: None,
        };
        Command::AddRs(AddRs { service, real_server })
    }
}

impl SetRsArguments {
    pub(crate) fn command(&self) -> Command {
        let OneRealServer { service, address } = self.real_server.query();
        Command::SetRs(SetRs {
            weight: self.weight,
            mac: self.mac,
            drain: (self.drain || self.no_drain).then_some(self.drain),
            upper_threshold: self.thresholds.upper_threshold,
            lower_threshold: self.thresholds.lower_threshold,
            ..SetRs::new(service, address)
        })
    }
}

impl DrainRsArguments {
    pub(crate) fn query(&self) -> DrainRs {
        let OneRealServer { service, address } = self.real_server.query();
        let (timeout_seconds, keep_persistent) = (self.timeout, self.keep_persistent);
        DrainRs { service, address, timeout_seconds, keep_persistent }
    }

    /// None: the tool does not wait.
    pub(crate) fn wait(&self) -> Option<DrainWait> {
        self.wait.map(|seconds_max| DrainWait { drain: self.query(), seconds_max })
    }
}
