//! The kernel's IPVS in a namespace: in the VM, as root.
//!
//! A namespace for each scenario, because nothing else ends the kernel's connections: `ipvsadm -C` leaves them.

use std::io::Write;
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::listing::{self, Filter};
use super::neighbours::{
    BARRIER_REAL_SERVER, DIRECTOR, GATEWAY, LINK_MTUS, Neighbour, REAL_SERVERS, ROUTER, ROUTES, mac_text,
};
use super::run::Subject;
use super::wire::{BARRIER_SERVICES, Wire};
use crate::host::Host;
use crate::network::Network;
use crate::process::{output, text};

/// Where every VIP of a scenario is.
const VIP_NETWORKS: [&str; 2] = ["192.0.2.0/24", "10.128.0.0/9"];

/// Loads what `ipvsadm` cannot load by itself.
pub fn load_modules() -> Result<()> {
    crate::process::run(Command::new("modprobe").args(["-a", "ip_vs", "ip_vs_pe_sip", "ip_vs_ftp"])).map(drop)
}

/// The kernel as a director.
pub struct Kernel {
    host: Host,
    wire: Wire,
}

impl Kernel {
    /// A new namespace with IPVS and nothing in it but the barrier; `far_end` has the other end of its cables, and `number`
    /// is its own. With `vips6`, the IPv6 VIPs' network, it has all links and both families.
    pub fn set_up(network: &Network, far_end: &Host, number: usize, vips6: Option<&str>) -> Result<Kernel> {
        let host = network.add_host(&format!("kernel{number}"))?;
        let links = if vips6.is_some() { LINK_MTUS.len() } else { 1 };
        if vips6.is_some() {
            enable_ipv6(&host)?;
        }
        let ends: Vec<String> = (0..links).map(|link| format!("to-k{number}-{link}")).collect();
        for (link, end) in ends.iter().enumerate() {
            network.add_cable((&host, &format!("eth{link}")), (far_end, end))?;
        }
        let file = host.directory().join("ip.batch");
        std::fs::write(&file, addresses_and_routes(links, vips6))?;
        host.ip(&format!("-batch {}", file.display()))?;
        host.set("net/ipv4/ip_forward", "1")?;
        host.set("net/ipv4/conf/all/send_redirects", "0")?;
        // Every refusal is answered, so that none of them is missing because of another.
        host.set("net/ipv4/icmp_ratelimit", "0")?;
        let mut barriers = Vec::new();
        for (link, service) in BARRIER_SERVICES.iter().enumerate().take(links) {
            host.set(&format!("net/ipv4/conf/eth{link}/send_redirects"), "0")?;
            let real_server = Neighbour { link: link as u8, number: BARRIER_REAL_SERVER }.address();
            barriers.push(format!("-A -u {service} -s rr"));
            barriers.push(format!("-a -u {service} -r {real_server}"));
        }
        let wire = Wire::open(far_end, &ends.iter().map(String::as_str).collect::<Vec<_>>())?;
        let mut kernel = Kernel { host, wire };
        kernel.ipvsadm(&barriers.iter().map(String::as_str).collect::<Vec<_>>())?;
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

/// Everything but the barriers.
fn is_ours() -> impl Filter {
    |service: &str| BARRIER_SERVICES.iter().all(|barrier| service != barrier.to_string())
}

/// What is made from now on has IPv6, and only the addresses that it is given.
fn enable_ipv6(host: &Host) -> Result<()> {
    for (setting, value) in [
        ("all/disable_ipv6", "0"),
        ("default/disable_ipv6", "0"),
        ("all/forwarding", "1"),
        ("default/accept_dad", "0"),
        ("default/addr_gen_mode", "1"),
    ] {
        host.set(&format!("net/ipv6/conf/{setting}"), value)?;
    }
    host.set("net/ipv6/icmp/ratelimit", "0")
}

/// Commands of `ip`.
fn addresses_and_routes(links: usize, vips6: Option<&str>) -> String {
    let mut batch = String::new();
    let hosts = REAL_SERVERS.chain([BARRIER_REAL_SERVER, GATEWAY, ROUTER]);
    for (link, mtu) in LINK_MTUS.iter().enumerate().take(links) {
        let neighbour = |number| Neighbour { link: link as u8, number };
        let (director, mac) = (neighbour(DIRECTOR), mac_text(neighbour(DIRECTOR).mac()));
        batch += &format!("link set eth{link} address {mac} mtu {mtu}\n");
        batch += &format!("address add {}/24 dev eth{link}\n", director.address());
        if vips6.is_some() {
            batch += &format!("address add {}/64 dev eth{link} nodad\n", director.address6());
        }
        for host in hosts.clone().map(neighbour) {
            let mac = mac_text(host.mac());
            batch += &format!("neighbour add {} lladdr {mac} dev eth{link}\n", host.address());
            if vips6.is_some() {
                batch += &format!("neighbour add {} lladdr {mac} dev eth{link}\n", host.address6());
            }
        }
    }
    let router = Neighbour { link: 0, number: ROUTER };
    batch += &format!("route add default via {}\n", router.address());
    for network in VIP_NETWORKS {
        batch += &format!("route add local {network} dev lo\n");
    }
    if let Some(vips) = vips6 {
        for (network, gateway) in ROUTES {
            let is_ip6 = network.contains(':');
            let gateway = if is_ip6 { gateway.address6().to_string() } else { gateway.address().to_string() };
            batch += &format!("route add {network} via {gateway}\n");
        }
        for number in [10, 11] {
            batch += &format!("address add {vips}{number}/128 dev lo nodad\n");
        }
    }
    batch
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

    fn add_member(&mut self, mark: u32, protocol: &str, vip: IpAddr, port: u16) -> Result<()> {
        let (family, of_protocol) = if vip.is_ipv6() { ("ip6", "nexthdr") } else { ("ip", "protocol") };
        let chain = format!(
            "add table {family} differential; add chain {family} differential marks \
             {{ type filter hook prerouting priority -150; }}"
        );
        let matched = match port {
            0 => format!("{family} daddr {vip} {family} {of_protocol} {protocol}"),
            port => format!("{family} daddr {vip} {protocol} dport {port}"),
        };
        let rule = format!("{chain}; add rule {family} differential marks {matched} meta mark set {mark}");
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
