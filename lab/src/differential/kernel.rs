//! The kernel's IPVS in a namespace: in the VM, as root.
//!
//! A namespace for each scenario, because nothing else ends the kernel's connections: `ipvsadm -C` leaves them.

use std::io::Write;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::listing::{self, Filter};
use super::run::Subject;
use super::wire::{
    BARRIER_REAL_SERVER, BARRIER_SERVICE, DIRECTOR_MAC, REAL_SERVERS, ROUTER, ROUTER_MAC, Wire, address_of,
    mac_of, mac_text,
};
use crate::host::Host;
use crate::network::Network;
use crate::process::{output, text};

/// Where every VIP of a scenario is.
const VIP_NETWORKS: [&str; 2] = ["192.0.2.0/24", "10.128.0.0/9"];

/// Loads what `ipvsadm` cannot load by itself.
pub fn load_modules() -> Result<()> {
    crate::process::run(Command::new("modprobe").args(["-a", "ip_vs", "ip_vs_pe_sip"])).map(drop)
}

/// The kernel as a director.
pub struct Kernel {
    host: Host,
    wire: Wire,
}

impl Kernel {
    /// A new namespace with IPVS and nothing in it but the barrier; `far_end` has the other end of its cable, and `number`
    /// is its own.
    pub fn set_up(network: &Network, far_end: &Host, number: usize) -> Result<Kernel> {
        let host = network.add_host(&format!("kernel{number}"))?;
        let far_interface = format!("to-kernel{number}");
        network.add_cable((&host, "eth0"), (far_end, &far_interface))?;
        let mut batch =
            format!("link set eth0 address {}\naddress add 10.0.0.1/24 dev eth0\n", mac_text(DIRECTOR_MAC));
        let neighbours = REAL_SERVERS.chain([BARRIER_REAL_SERVER]).map(|octet| (octet, mac_of(octet)));
        for (octet, mac) in neighbours.chain([(ROUTER, ROUTER_MAC)]) {
            batch += &format!("neighbour add {} lladdr {} dev eth0\n", address_of(octet), mac_text(mac));
        }
        batch += &format!("route add default via {}\n", address_of(ROUTER));
        for network in VIP_NETWORKS {
            batch += &format!("route add local {network} dev lo\n");
        }
        let file = host.directory().join("ip.batch");
        std::fs::write(&file, batch)?;
        host.ip(&format!("-batch {}", file.display()))?;
        host.set("net/ipv4/ip_forward", "1")?;
        host.set("net/ipv4/conf/all/send_redirects", "0")?;
        host.set("net/ipv4/conf/eth0/send_redirects", "0")?;
        // Every refusal is answered, so that none of them is missing because of another.
        host.set("net/ipv4/icmp_ratelimit", "0")?;
        let wire = Wire::open(far_end, &far_interface)?;
        let mut kernel = Kernel { host, wire };
        let (service, real_server) = (BARRIER_SERVICE, address_of(BARRIER_REAL_SERVER));
        kernel.ipvsadm(&[&format!("-A -u {service} -s rr"), &format!("-a -u {service} -r {real_server}")])?;
        kernel.wire.wait_until_forwarding()?;
        Ok(kernel)
    }

    /// Removes the namespace, and with it every connection.
    pub fn remove(self) -> Result<()> {
        crate::process::run(Command::new("ip").args(["netns", "delete", self.host.namespace()])).map(drop)
    }

    fn show(&self, arguments: &[&str]) -> Result<String> {
        let output = self.host.enter(|| output(Command::new("ipvsadm").args(arguments)))??;
        ensure!(output.status.success(), "ipvsadm {arguments:?}: {}", text(&output.stderr));
        Ok(text(&output.stdout))
    }
}

/// Everything but the barrier.
fn is_ours() -> impl Filter {
    |service: &str| service != BARRIER_SERVICE.to_string()
}

impl Subject for Kernel {
    fn ipvsadm(&mut self, commands: &[&str]) -> Result<()> {
        // One process for all of them: in the VM its start is what costs.
        let mut restore = self.host.enter(|| {
            let mut command = Command::new("ipvsadm");
            command.arg("-R").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
        })??;
        let mut stdin = restore.stdin.take().context("no stdin")?;
        for command in commands {
            writeln!(stdin, "{command}")?;
        }
        drop(stdin);
        let output = restore.wait_with_output()?;
        let said = text(&output.stderr);
        ensure!(output.status.success() && said.is_empty(), "{commands:#?}: {} {said}", output.status);
        Ok(())
    }

    fn set(&mut self, name: &str, value: &str) -> Result<()> {
        self.host.set(&format!("net/ipv4/vs/{name}"), value)
    }

    fn add_member(&mut self, mark: u32, protocol: &str, vip: Ipv4Addr, port: u16) -> Result<()> {
        let chain = "add table ip differential; add chain ip differential marks \
                     { type filter hook prerouting priority -150; }";
        let matched = match port {
            0 => format!("ip daddr {vip} ip protocol {protocol}"),
            port => format!("ip daddr {vip} {protocol} dport {port}"),
        };
        let rule = format!("{chain}; add rule ip differential marks {matched} meta mark set {mark}");
        self.host.run(&["nft", &rule]).map(drop)
    }

    fn list(&mut self) -> Result<Vec<String>> {
        let (list, persistent) = (self.show(&["-Ln"])?, self.show(&["-Ln", "--persistent-conn"])?);
        let mut lines = listing::services(&list, &persistent, is_ours())?;
        lines.extend(listing::connections(&self.show(&["-Lcn", "--persistent-conn"])?, is_ours())?);
        Ok(lines)
    }

    fn statistics(&mut self) -> Result<Vec<String>> {
        listing::statistics(&self.show(&["-Ln", "--stats", "--exact"])?, is_ours())
    }

    fn settle(&mut self, time: Duration) {
        std::thread::sleep(time);
    }

    fn wire(&mut self) -> &mut Wire {
        &mut self.wire
    }
}
