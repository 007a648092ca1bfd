//! A site with routers, for what the usual lab, one switch, does not have: clients behind a router, real servers behind a
//! gateway, hops with an MTU of their own, both families, every forwarding method.
//!
//! ```text
//!                      front             back
//!  client ─── router ────────── director ─────┐
//!                │                            ├── rs1, rs2, ...
//!                └──────────────── switch ────┤
//!                                             └── gateway ─── far
//! ```
//!
//! | host | interface | IPv4 | IPv6 |
//! |---|---|---|---|
//! | client | `eth0` | 198.51.100.100/24 | 2001:db8:c::100/64 |
//! | router | `clients` | 198.51.100.254/24 | 2001:db8:c::254/64 |
//! | | `front` | 10.0.0.254/24 | 2001:db8::254/64 |
//! | | `back` | 10.1.0.254/24 | 2001:db8:1::254/64 |
//! | director | `front`, of the DPDK port | 10.0.0.1/24 | 2001:db8::1/64 |
//! | | `back`, of the DPDK port | 10.1.0.1/24 | 2001:db8:1::1/64 |
//! | rs1, rs2, ... | `eth0` | 10.1.0.11/24, ... | 2001:db8:1::11/64, ... |
//! | gateway | `back` | 10.1.0.253/24 | 2001:db8:1::253/64 |
//! | | `far` | 10.2.0.254/24 | 2001:db8:2::254/64 |
//! | far | `eth0` | 10.2.0.11/24 | 2001:db8:2::11/64 |
//!
//! Where replies have to pass the director (NAT), it is the way to the clients of real servers and gateway; else that is the
//! router. The real servers of full NAT know no way to the clients at all.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Result, ensure};

use crate::director::{self, DirectorProcess};
use crate::dissection::Dissection;
use crate::host::Host;
use crate::network::Network;
use crate::quiet;
use crate::real_server::RealServer;
use crate::topology::{PortDriver, mac_of};

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// A forwarding method, as far as the hosts around the director have to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Direct routing.
    Direct,
    /// A tunnel; the real servers' ends are made by the test.
    Tunnel,
    /// NAT.
    Nat,
    /// Full NAT.
    FullNat,
}

/// The networks: the first three octets of IPv4, and what IPv6's host number stands behind.
const CLIENTS: (&str, &str) = ("198.51.100.", "2001:db8:c::");
const FRONT: (&str, &str) = ("10.0.0.", "2001:db8::");
const BACK: (&str, &str) = ("10.1.0.", "2001:db8:1::");
const FAR: (&str, &str) = ("10.2.0.", "2001:db8:2::");

const DIRECTOR: u8 = 1;
const CLIENT: u8 = 100;
const LOCAL: u8 = 200;
const GATEWAY: u8 = 253;
const ROUTER: u8 = 254;

/// Host number of the first real server, less one.
const REAL_SERVER_BASE: u8 = 10;

/// Host number of the real server behind the gateway.
const FAR_REAL_SERVER: u8 = 11;

/// Real servers beside the director, at most.
const REAL_SERVERS_MAX: u8 = 80;

/// Source and destination of the MAC addresses: network and host number, the director's own two ports among them.
const DIRECTOR_FRONT_MAC: Ipv4Addr = Ipv4Addr::new(10, 0, 0, DIRECTOR);
const DIRECTOR_BACK_MAC: Ipv4Addr = Ipv4Addr::new(10, 1, 0, DIRECTOR);

impl Family {
    /// Both.
    pub const ALL: [Family; 2] = [Family::V4, Family::V6];

    fn address(self, (four, six): (&str, &str), host: u8) -> IpAddr {
        // The host number is written the same in both, in IPv6 as if it were hexadecimal.
        let text = match self {
            Family::V4 => format!("{four}{host}"),
            Family::V6 => format!("{six}{host}"),
        };
        text.parse().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    }

    /// The virtual services' address.
    pub fn vip(self) -> IpAddr {
        match self {
            Family::V4 => crate::topology::VIP.into(),
            Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 0x10).into(),
        }
    }

    /// The client's address.
    pub fn client(self) -> IpAddr {
        self.address(CLIENTS, CLIENT)
    }

    /// The director's own address towards the router.
    pub fn dip(self) -> IpAddr {
        self.address(FRONT, DIRECTOR)
    }

    /// The director's own address towards the real servers.
    pub fn dip_back(self) -> IpAddr {
        self.address(BACK, DIRECTOR)
    }

    /// The local address of full NAT, beside [`Family::dip_back`].
    pub fn local(self) -> IpAddr {
        self.address(BACK, LOCAL)
    }

    /// RIP of the real server with this number, from 1 on.
    pub fn rip(self, number: u8) -> IpAddr {
        self.address(BACK, REAL_SERVER_BASE + number)
    }

    /// RIP of the real server behind the gateway.
    pub fn far_rip(self) -> IpAddr {
        self.address(FAR, FAR_REAL_SERVER)
    }

    /// The gateway as the director sees it.
    pub fn gateway(self) -> IpAddr {
        self.address(BACK, GATEWAY)
    }

    /// The router as the director sees it.
    pub fn router(self) -> IpAddr {
        self.address(FRONT, ROUTER)
    }

    /// Bytes of the IP header, without options.
    pub fn header_bytes(self) -> usize {
        match self {
            Family::V4 => 20,
            Family::V6 => 40,
        }
    }

    /// Bits of a whole address.
    pub fn bits(self) -> u8 {
        match self {
            Family::V4 => 32,
            Family::V6 => 128,
        }
    }

    /// `-4` or `-6`, as many programs have it.
    pub fn option(self) -> &'static str {
        match self {
            Family::V4 => "-4",
            Family::V6 => "-6",
        }
    }

    /// The address of no host.
    pub fn unspecified(self) -> IpAddr {
        match self {
            Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
        }
    }

    /// The host itself.
    pub fn loopback(self) -> IpAddr {
        match self {
            Family::V4 => Ipv4Addr::LOCALHOST.into(),
            Family::V6 => Ipv6Addr::LOCALHOST.into(),
        }
    }

    fn network(self, network: (&str, &str)) -> String {
        format!("{}/{}", self.address(network, 0), self.prefix_length())
    }

    fn prefix_length(self) -> u8 {
        match self {
            Family::V4 => 24,
            Family::V6 => 64,
        }
    }
}

impl Method {
    /// Its name in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Method::Direct => "dr",
            Method::Tunnel => "tunnel",
            Method::Nat => "nat",
            Method::FullNat => "fullnat",
        }
    }

    /// The real servers have the VIP.
    fn has_vip(self) -> bool {
        matches!(self, Method::Direct | Method::Tunnel)
    }

    /// Replies pass the director.
    pub fn replies_pass(self) -> bool {
        matches!(self, Method::Nat | Method::FullNat)
    }
}

/// The hosts. Dropped, all of it is gone.
pub struct Site {
    /// The client.
    pub client: Host,
    /// Between the client and everything else.
    pub router: Host,
    /// The director's host; the daemon is started with [`Site::start_director`].
    pub director: Host,
    /// The switch behind the director; `to-<host>` are its sockets.
    pub switch: Host,
    /// Between `far` and the switch.
    pub gateway: Host,
    /// The real servers on the switch, then `far`; nginx on port 80.
    pub real_servers: Vec<RealServer>,
    /// How the hosts are set up.
    pub method: Method,
    /// Driver of the director's ports.
    pub driver: PortDriver,
    workers: u16,
    network: Network,
}

impl Site {
    /// Makes the hosts: so many real servers on the switch, and one behind the gateway.
    pub fn build(method: Method, real_servers: u8, workers: u16) -> Result<Site> {
        ensure!(real_servers <= REAL_SERVERS_MAX, "at most {REAL_SERVERS_MAX} real servers fit");
        let network = Network::new()?;
        let switch = network.add_switch("switch")?;
        let [client, router, gateway, far] = ["client", "router", "gateway", "far"]
            .map(|name| network.add_host(name).and_then(|host| host.enable_ipv6().map(|()| host)));
        let (client, router, gateway, far) = (client?, router?, gateway?, far?);
        // No address in the kernel and no IPv6: the DPDK ports own the DIPs, and nobody else speaks there.
        let director = network.add_host("director")?;
        network.add_cable((&client, "eth0"), (&router, "clients"))?;
        network.add_cable_of_queues((&router, "front"), (&director, "front"), workers)?;
        network.plug_interface(&router, "back", &switch, &mac_of(Ipv4Addr::new(10, 1, 0, ROUTER)))?;
        network.plug_interface_of_queues(&director, "back", &switch, &mac_of(DIRECTOR_BACK_MAC), workers)?;
        network.plug_interface(&gateway, "back", &switch, &mac_of(Ipv4Addr::new(10, 1, 0, GATEWAY)))?;
        network.add_cable((&gateway, "far"), (&far, "eth0"))?;
        director.ip(&format!("link set front address {}", mac_of(DIRECTOR_FRONT_MAC)))?;
        for interface in ["front", "back"] {
            director.leave_to_dpdk(interface)?;
        }
        let mut site = Site {
            client,
            router,
            director,
            switch,
            gateway,
            real_servers: Vec::new(),
            method,
            driver: PortDriver::default(),
            workers,
            network,
        };
        site.give_addresses(&far)?;
        for number in 1..=real_servers {
            let host = site.network.add_host(&format!("rs{number}"))?;
            host.enable_ipv6()?;
            let address = Ipv4Addr::new(10, 1, 0, REAL_SERVER_BASE + number);
            site.network.plug(&host, &site.switch, &mac_of(address))?;
            add_addresses(&host, "eth0", BACK, REAL_SERVER_BASE + number)?;
            site.route_to_clients(&host, BACK)?;
            site.add_real_server(host, address)?;
        }
        site.add_real_server(far, Ipv4Addr::new(10, 2, 0, FAR_REAL_SERVER))?;
        Ok(site)
    }

    /// Addresses and ways of all hosts but the real servers on the switch.
    fn give_addresses(&self, far: &Host) -> Result<()> {
        add_addresses(&self.client, "eth0", CLIENTS, CLIENT)?;
        add_addresses(&self.router, "clients", CLIENTS, ROUTER)?;
        add_addresses(&self.router, "front", FRONT, ROUTER)?;
        add_addresses(&self.router, "back", BACK, ROUTER)?;
        add_addresses(&self.gateway, "back", BACK, GATEWAY)?;
        add_addresses(&self.gateway, "far", FAR, ROUTER)?;
        add_addresses(far, "eth0", FAR, FAR_REAL_SERVER)?;
        for host in [&self.router, &self.gateway] {
            host.set("net/ipv4/ip_forward", "1")?;
            host.set("net/ipv6/conf/all/forwarding", "1")?;
            host.set("net/ipv4/conf/all/send_redirects", "0")?;
            host.set("net/ipv4/conf/default/send_redirects", "0")?;
        }
        for family in Family::ALL {
            let (option, vip) = (family.option(), family.vip());
            self.client.ip(&format!("{option} route add default via {}", family.address(CLIENTS, ROUTER)))?;
            self.router.ip(&format!("{option} route add {vip} via {}", family.dip()))?;
            let (far_network, gateway) = (family.network(FAR), family.gateway());
            self.router.ip(&format!("{option} route add {far_network} via {gateway}"))?;
            far.ip(&format!("{option} route add default via {}", family.address(FAR, ROUTER)))?;
        }
        self.route_to_clients(&self.gateway, BACK)
    }

    /// The way to the clients of a host on the switch.
    fn route_to_clients(&self, host: &Host, network: (&str, &str)) -> Result<()> {
        let next_hop = match self.method {
            Method::Direct | Method::Tunnel => ROUTER,
            Method::Nat => DIRECTOR,
            Method::FullNat => return Ok(()),
        };
        for family in Family::ALL {
            let next_hop = family.address(network, next_hop);
            host.ip(&format!("{} route add default via {next_hop}", family.option()))?;
        }
        Ok(())
    }

    fn add_real_server(&mut self, host: Host, address: Ipv4Addr) -> Result<()> {
        let mut server = RealServer::without_vip(host, address);
        if self.method.has_vip() {
            server.keep_vips_silent()?;
            for family in Family::ALL {
                server.add_vip(family.vip())?;
            }
        }
        server.start_nginx(&[80])?;
        self.real_servers.push(server);
        Ok(())
    }

    /// The router as the client sees it.
    pub fn clients_router(&self, family: Family) -> IpAddr {
        family.address(CLIENTS, ROUTER)
    }

    /// The network, for what the site does not have.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The real server behind the gateway.
    pub fn far(&self) -> &RealServer {
        &self.real_servers[self.real_servers.len() - 1]
    }

    /// Narrows the hop from router to client. The cable stays as it is, so that neither end knows of it by its own MTU: who
    /// sends more is told so by the router.
    pub fn narrow_hop_to_client(&self, mtu: u16) -> Result<()> {
        self.set_hop_to_client(&format!("mtu lock {mtu}"))
    }

    /// The same for the hop from router to director, as far as the VIPs go.
    pub fn narrow_hop_to_vip(&self, mtu: u16) -> Result<()> {
        self.set_hop_to_vip(&format!("mtu lock {mtu}"))
    }

    /// The same for the hop from gateway to `far`.
    pub fn narrow_hop_to_far(&self, mtu: u16) -> Result<()> {
        self.set_hop_to_far(&format!("mtu lock {mtu}"))
    }

    /// Takes back that hops are narrow, and what hosts have learned of it.
    pub fn widen_hops(&self) -> Result<()> {
        self.set_hop_to_client("")?;
        self.set_hop_to_vip("")?;
        self.set_hop_to_far("")?;
        self.forget_path_mtus()
    }

    fn set_hop_to_client(&self, mtu: &str) -> Result<()> {
        for family in Family::ALL {
            let (option, client) = (family.option(), family.client());
            self.router.ip(&format!("{option} route replace {client} dev clients {mtu}"))?;
        }
        Ok(())
    }

    fn set_hop_to_vip(&self, mtu: &str) -> Result<()> {
        for family in Family::ALL {
            let (option, vip, dip) = (family.option(), family.vip(), family.dip());
            self.router.ip(&format!("{option} route replace {vip} via {dip} {mtu}"))?;
        }
        Ok(())
    }

    fn set_hop_to_far(&self, mtu: &str) -> Result<()> {
        for family in Family::ALL {
            let (option, rip) = (family.option(), family.far_rip());
            self.gateway.ip(&format!("{option} route replace {rip} dev far {mtu}"))?;
        }
        Ok(())
    }

    /// Has client and real servers forget what they were told of narrow hops: it goes into the MSS that they say, and nobody
    /// would be told again.
    pub fn forget_path_mtus(&self) -> Result<()> {
        for host in self.real_servers.iter().map(|server| &server.host).chain([&self.client]) {
            for family in Family::ALL {
                host.ip(&format!("{} route flush cache", family.option()))?;
            }
        }
        Ok(())
    }

    /// Has every cable and host carry packets of this size.
    pub fn widen_all(&self, mtu: u16) -> Result<()> {
        let hosts = [&self.client, &self.router, &self.director, &self.switch, &self.gateway];
        for host in hosts.into_iter().chain(self.real_servers.iter().map(|server| &server.host)) {
            // A bridge takes its MTU from its ports.
            for interface in host.interfaces()?.iter().filter(|name| !["lo", "br0"].contains(&name.as_str()))
            {
                host.ip(&format!("link set {interface} mtu {mtu}"))?;
            }
        }
        Ok(())
    }

    /// A director's configuration up to its services: workers, both ports, routes. `director` and `ports` are further lines
    /// of these tables.
    pub fn configuration_with(&self, director: &str, ports: &str) -> Result<String> {
        let mut text = director::text(&self.director, self.workers)?;
        writeln!(text, "{director}")?;
        for (number, (name, network)) in [("front", FRONT), ("back", BACK)].into_iter().enumerate() {
            let device = self.driver.device(number as u32, name, self.workers);
            let [four, six] = Family::ALL
                .map(|family| format!("{}/{}", family.address(network, DIRECTOR), family.prefix_length()));
            writeln!(text, "[[ports]]\nname = {name:?}\ndevice = {device:?}")?;
            writeln!(text, "addresses = [{four:?}, {six:?}]\n{ports}")?;
        }
        for family in Family::ALL {
            let everything = if family == Family::V4 { "0.0.0.0/0" } else { "::/0" };
            for (network, gateway) in
                [(everything.to_owned(), family.router()), (family.network(FAR), family.gateway())]
            {
                writeln!(text, "[[routes]]\nnetwork = {network:?}\ngateway = \"{gateway}\"")?;
            }
        }
        if self.method == Method::FullNat {
            let [four, six] = Family::ALL.map(|family| family.local().to_string());
            writeln!(text, "[nat]\nlocal_addresses = [{four:?}, {six:?}]")?;
        }
        Ok(text)
    }

    /// The same without anything more, and without host interfaces.
    pub fn configuration(&self) -> Result<String> {
        self.configuration_with("", "host_interface = \"off\"")
    }

    /// A service of [`Family::vip`] for a configuration, with real servers of the site's method; `more` are further keys of
    /// each, from a comma on.
    pub fn service(&self, family: Family, protocol: &str, port: u16, rips: &[IpAddr], more: &str) -> String {
        let mut text = format!(
            "[[services]]\nprotocol = {protocol:?}\naddress = \"{}\"\nport = {port}\nscheduler = \"rr\"\nreal_servers = [\n",
            family.vip()
        );
        for rip in rips {
            text.push_str(&format!(
                "    {{ address = \"{rip}\", forwarding = {:?}{more} }},\n",
                self.method.name()
            ));
        }
        text.push_str("]\n");
        text
    }

    /// Waits until TCP has nothing left to send on client and real servers.
    pub fn wait_until_quiet(&self) -> Result<()> {
        let servers = self.real_servers.iter().map(|server| &server.host);
        quiet::wait([&self.client].into_iter().chain(servers))
    }

    /// Starts the director, with all that it sends dissected, and waits until so many real servers get connections.
    pub fn start_director(&self, configuration: &str, real_servers: usize) -> Result<DirectorProcess> {
        let dissection = Dissection::start(&[
            (&self.router, "front", &mac_of(DIRECTOR_FRONT_MAC)),
            (&self.switch, "to-director", &mac_of(DIRECTOR_BACK_MAC)),
        ])?;
        let director =
            DirectorProcess::start_with_text(&self.director, configuration)?.dissected_by(dissection);
        director.wait_until_up(real_servers)?;
        Ok(director)
    }
}

fn add_addresses(host: &Host, interface: &str, network: (&str, &str), number: u8) -> Result<()> {
    for family in Family::ALL {
        let address = family.address(network, number);
        host.add_address(interface, &format!("{address}/{}", family.prefix_length()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_numbers_are_written_the_same_in_both_families() {
        assert_eq!(Family::V4.rip(1).to_string(), "10.1.0.11");
        assert_eq!(Family::V6.rip(1).to_string(), "2001:db8:1::11");
        assert_eq!(Family::V6.network(FAR), "2001:db8:2::/64");
        assert_eq!(Family::V4.network(FAR), "10.2.0.0/24");
    }
}
