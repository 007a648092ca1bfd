//! VLANs on one port: clients and a VIP in one, real servers in another and in none, priority tags, frames of nobody's
//! VLAN and with two tags. In User-mode Linux, whose kernel has VLAN devices.
//!
//! ```text
//!  client (100) ──┐
//!  router ────────┼── switch ── director's one port
//!  rs1 (200) ─────┤
//!  rs2 (none) ────┘
//! ```
//!
//! | network | VLAN | director | others |
//! |---|---|---|---|
//! | 10.0.0.0/24, 2001:db8::/64 | 100 | .1 | client .100, router .254 |
//! | 10.1.0.0/24, 2001:db8:1::/64 | 200 | .1 | rs1 .11, router .254 |
//! | 10.5.0.0/24, 2001:db8:5::/64 | none | .1 | rs2 .11, router .254 |
//!
//! The VIPs are on the wire in VLAN 100. The router is the way back of direct routing; what rs1 sends with its own address goes
//! to the director, as NAT needs it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, ensure};
use lab::differential::frame::{Frame, Mac, Payload};
use lab::topology::mac_of;
use lab::transfer::RandomFile;
use lab::{
    Capture, DirectorProcess, Dissection, Family, Host, Network, PacketSocket, RealServer, client, director,
    quiet, uml, wait,
};

const DIRECTOR_MAC: Mac = [2, 0, 10, 0, 0, 1];
const CLIENT_MAC: Mac = [2, 0, 10, 0, 0, 100];

const CLIENTS_VLAN: u16 = 100;
const SERVERS_VLAN: u16 = 200;
/// One that the port does not have.
const FOREIGN_VLAN: u16 = 300;

/// MTU of the servers' VLAN in one test.
const MTU: u16 = 1400;

const REQUESTS: u32 = 6;

/// More than the director's ring holds.
const FILE_BYTES: usize = 2 << 20;

const TCP_SYN: u8 = 2;

const TPID: [u8; 2] = [0x81, 0x00];
const SERVICE_TPID: [u8; 2] = [0x88, 0xa8];

/// Host interface of the port's untagged side.
const HOST_INTERFACE: &str = "dr-trunk";

/// A network: its VLAN, and what stands before the host's number in its addresses.
struct Segment {
    vlan: Option<u16>,
    four: &'static str,
    six: &'static str,
}

const CLIENTS: Segment = Segment { vlan: Some(CLIENTS_VLAN), four: "10.0.0.", six: "2001:db8::" };
const SERVERS: Segment = Segment { vlan: Some(SERVERS_VLAN), four: "10.1.0.", six: "2001:db8:1::" };
const UNTAGGED: Segment = Segment { vlan: None, four: "10.5.0.", six: "2001:db8:5::" };

impl Segment {
    fn address(&self, family: Family, host: u8) -> String {
        match family {
            Family::V4 => format!("{}{host}", self.four),
            Family::V6 => format!("{}{host}", self.six),
        }
    }

    /// As a configuration's list.
    fn addresses(&self) -> String {
        format!("[\"{}/24\", \"{}/64\"]", self.address(Family::V4, 1), self.address(Family::V6, 1))
    }

    /// Makes the device of a host in it, by number of the host; its name.
    fn join(&self, host: &Host, number: u8) -> Result<String> {
        let device = match self.vlan {
            Some(vlan) => {
                let device = format!("eth0.{vlan}");
                host.ip(&format!("link add link eth0 name {device} type vlan id {vlan}"))?;
                host.ip(&format!("link set {device} up"))?;
                device
            }
            None => "eth0".to_owned(),
        };
        host.add_address(&device, &format!("{}/24", self.address(Family::V4, number)))?;
        host.add_address(&device, &format!("{}/64", self.address(Family::V6, number)))?;
        Ok(device)
    }
}

struct Trunk {
    client: Host,
    switch: Host,
    director: Host,
    /// rs1 and rs2.
    real_servers: Vec<RealServer>,
    network: Network,
}

/// The network of the last test, for the next: to make one takes a while.
static TRUNK: Mutex<Option<Trunk>> = Mutex::new(None);

impl Trunk {
    fn take() -> Result<Trunk> {
        let kept = TRUNK.lock().unwrap_or_else(PoisonError::into_inner).take();
        kept.map_or_else(Trunk::build, Ok)
    }

    fn build() -> Result<Trunk> {
        uml::load_modules(&["8021q"])?;
        let network = Network::new()?;
        let switch = network.add_switch("switch")?;
        let plug = |name: &str, mac: Ipv4Addr| -> Result<Host> {
            let host = network.add_host(name)?;
            host.enable_ipv6()?;
            network.plug(&host, &switch, &mac_of(mac))?;
            Ok(host)
        };
        let client = plug("client", Ipv4Addr::new(10, 0, 0, 100))?;
        let device = CLIENTS.join(&client, 100)?;
        for family in Family::ALL {
            let (option, vip) = (family.option(), family.vip());
            client.ip(&format!("{option} route add {vip} dev {device}"))?;
            client.ip(&format!("{option} route add default via {}", CLIENTS.address(family, 254)))?;
        }
        let router = plug("router", Ipv4Addr::new(10, 0, 0, 254))?;
        for segment in [CLIENTS, SERVERS, UNTAGGED] {
            segment.join(&router, 254)?;
        }
        router.set("net/ipv4/ip_forward", "1")?;
        router.set("net/ipv6/conf/all/forwarding", "1")?;
        // No address in the kernel: the DPDK port owns the DIPs.
        let director = network.add_host("director")?;
        network.plug(&director, &switch, &mac_of(Ipv4Addr::new(10, 0, 0, 1)))?;
        director.leave_to_dpdk("eth0")?;
        let mut real_servers = Vec::new();
        for (name, segment, rip) in
            [("rs1", SERVERS, Ipv4Addr::new(10, 1, 0, 11)), ("rs2", UNTAGGED, Ipv4Addr::new(10, 5, 0, 11))]
        {
            let host = plug(name, rip)?;
            segment.join(&host, 11)?;
            for family in Family::ALL {
                let option = family.option();
                host.ip(&format!("{option} route add default via {}", segment.address(family, 254)))?;
                let (own, dip) = (segment.address(family, 11), segment.address(family, 1));
                host.ip(&format!("{option} route add default via {dip} table 7"))?;
                let clients = CLIENTS.address(family, 0);
                let bits = if family == Family::V4 { 24 } else { 64 };
                host.ip(&format!("{option} rule add from {own} to {clients}/{bits} table 7"))?;
            }
            let mut server = RealServer::without_vip(host, rip);
            server.keep_vips_silent()?;
            for family in Family::ALL {
                server.add_vip(family.vip())?;
            }
            server.start_nginx(&[80, 8080])?;
            real_servers.push(server);
        }
        Ok(Trunk { client, switch, director, real_servers, network })
    }

    /// A configuration with all three interfaces; `port` and `servers` are further lines of the port and of the servers' VLAN.
    fn configuration(&self, port: &str, servers: &str) -> Result<String> {
        Ok(format!(
            "{}[[ports]]\nname = \"trunk\"\ndevice = \"net_af_packet0,iface=eth0,qpairs=1\"\naddresses = {}\n{port}\n\
             [[ports.vlans]]\nid = {CLIENTS_VLAN}\naddresses = {}\n\
             [[ports.vlans]]\nid = {SERVERS_VLAN}\naddresses = {}\n{servers}\n",
            director::text(&self.director, 1)?,
            UNTAGGED.addresses(),
            CLIENTS.addresses(),
            SERVERS.addresses()
        ))
    }

    fn start(&self, configuration: &str, real_servers: usize) -> Result<DirectorProcess> {
        let mac = mac_of(Ipv4Addr::new(10, 0, 0, 1));
        let dissection = Dissection::start(&[(&self.switch, "to-director", &mac)])?;
        let director =
            DirectorProcess::start_with_text(&self.director, configuration)?.dissected_by(dissection);
        director.wait_until_up(real_servers)?;
        Ok(director)
    }

    /// The end of a test.
    fn finish(self, director: DirectorProcess) -> Result<()> {
        quiet::wait(self.real_servers.iter().map(|server| &server.host).chain([&self.client]))?;
        director.finish()?;
        *TRUNK.lock().unwrap_or_else(PoisonError::into_inner) = Some(self);
        Ok(())
    }
}

/// A service of the VIP.
fn service(family: Family, port: u16, rips: &[String], keys: &str) -> String {
    let real_servers: Vec<String> =
        rips.iter().map(|rip| format!("{{ address = \"{rip}\", {keys} }}")).collect();
    format!(
        "[[services]]\nprotocol = \"tcp\"\naddress = \"{}\"\nport = {port}\nscheduler = \"rr\"\nreal_servers = [{}]\n",
        family.vip(),
        real_servers.join(", ")
    )
}

fn rips(family: Family) -> Vec<String> {
    vec![SERVERS.address(family, 11), UNTAGGED.address(family, 11)]
}

/// Requests from VLAN 100 to real servers in VLAN 200 and in none, in each family.
fn requests_go_from_vlan_to_vlan(forwarding: &str, port: u16, replies_pass: bool) -> Result<()> {
    let trunk = Trunk::take()?;
    let mut text = trunk.configuration("host_interface = \"off\"", "")?;
    for family in Family::ALL {
        let target = if replies_pass { ", port = 8080" } else { "" };
        text += &service(family, port, &rips(family), &format!("forwarding = \"{forwarding}\"{target}"));
    }
    let director = trunk.start(&text, 4)?;
    let capture = Capture::start(&trunk.switch, "to-director")?;
    for family in Family::ALL {
        let answers = client::get_many(&trunk.client, family.vip(), port, REQUESTS)?;
        let shares = client::shares(answers.iter().map(|answer| answer.server.as_str()));
        let expected = [("rs1".to_owned(), REQUESTS / 2), ("rs2".to_owned(), REQUESTS / 2)].into();
        ensure!(shares == expected, "{family:?}: {shares:?}");
    }
    quiet::wait(trunk.real_servers.iter().map(|server| &server.host).chain([&trunk.client]))?;
    let capture = capture.stop()?;
    let sent = |filter: &str| {
        capture.count(&format!("ether src {} and {filter}", mac_of(Ipv4Addr::new(10, 0, 0, 1))))
    };
    for family in Family::ALL {
        let (vip, client) = (family.vip(), CLIENTS.address(family, 100));
        // Three of TCP's and one of HTTP at least, of each request.
        let least = u64::from(REQUESTS / 2) * 4;
        let tagged = sent(&format!("vlan {SERVERS_VLAN} and src host {client}"))?;
        ensure!(tagged >= least, "{tagged} packets of {client} went to rs1's VLAN");
        let rs2 = mac_of(Ipv4Addr::new(10, 5, 0, 11));
        let ethertype = if family == Family::V4 { "ip" } else { "ip6" };
        let untagged = sent(&format!("ether proto \\{ethertype} and ether dst {rs2} and src host {client}"))?;
        ensure!(untagged >= least, "{untagged} packets of {client} went to rs2 untagged");
        let replies = sent(&format!("vlan {CLIENTS_VLAN} and src host {vip} and tcp"))?;
        ensure!(
            (replies >= 2 * least) == replies_pass && (replies > 0) == replies_pass,
            "{replies} replies of {vip} passed the director"
        );
    }
    trunk.finish(director)
}

#[test]
fn direct_routing_from_one_vlan_to_another_and_to_none() -> Result<()> {
    uml::test("direct_routing_from_one_vlan_to_another_and_to_none", || {
        requests_go_from_vlan_to_vlan("dr", 80, false)
    })
}

#[test]
fn nat_from_one_vlan_to_another_and_to_none() -> Result<()> {
    uml::test("nat_from_one_vlan_to_another_and_to_none", || requests_go_from_vlan_to_vlan("nat", 80, true))
}

/// A SYN from the client's host to the VIP, with a port of its own and these tags.
fn syn(port: u16, tags: &[([u8; 2], u16)]) -> Vec<u8> {
    let source = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 100), port);
    let IpAddr::V4(vip) = Family::V4.vip() else { unreachable!("an IPv4 VIP") };
    let frame = Frame::new(source, SocketAddrV4::new(vip, 80), Payload::Tcp(TCP_SYN));
    let bytes = frame.bytes(port, CLIENT_MAC, DIRECTOR_MAC);
    let mut tagged = bytes[..12].to_vec();
    for (tpid, tci) in tags {
        tagged.extend(tpid);
        tagged.extend(tci.to_be_bytes());
    }
    tagged.extend(&bytes[12..]);
    tagged
}

#[test]
fn tags_of_priority_and_of_nobody_and_two_of_them() -> Result<()> {
    uml::test("tags_of_priority_and_of_nobody_and_two_of_them", || {
        let trunk = Trunk::take()?;
        let text = trunk.configuration("host_interface = \"off\"", "")?
            + &service(Family::V4, 80, &rips(Family::V4), "");
        let director = trunk.start(&text, 2)?;
        let capture = Capture::start(&trunk.switch, "to-director")?;
        let socket = PacketSocket::open(&trunk.client, "eth0")?;
        // Without a tag, priority 5 of no VLAN, priority 7 of the clients' VLAN: each is forwarded.
        let accepted = [&[][..], &[(TPID, 5 << 13)], &[(TPID, 7 << 13 | CLIENTS_VLAN)]];
        for (number, tags) in (1..).zip(accepted) {
            socket.send(&syn(20_000 + number, tags))?;
        }
        // 4095 is reserved (IEEE 802.1Q table 9-2).
        let refused = [
            ("unknown_vlan", &[(TPID, FOREIGN_VLAN)][..]),
            ("unknown_vlan", &[(TPID, 4095)]),
            ("qinq", &[(SERVICE_TPID, CLIENTS_VLAN), (TPID, SERVERS_VLAN)]),
            ("qinq", &[(TPID, CLIENTS_VLAN), (TPID, SERVERS_VLAN)]),
        ];
        for (number, (_, tags)) in (11..).zip(refused) {
            socket.send(&syn(20_000 + number, tags))?;
        }
        let totals = wait::until("every frame to be counted", || {
            let totals = director.stats()?.totals;
            let (unknown, qinq) = (totals.drops["unknown_vlan"], totals.drops["qinq"]);
            Ok((unknown + qinq >= 4 && totals.forwarded >= 3).then_some(totals))
        })?;
        ensure!(totals.drops["unknown_vlan"] == 2 && totals.drops["qinq"] == 2, "{totals:?}");
        let capture = capture.stop()?;
        let sent = format!("ether src {}", mac_of(Ipv4Addr::new(10, 0, 0, 1)));
        for (port, forwarded) in
            (20_001..=20_003).map(|port| (port, 1)).chain((20_011..=20_014).map(|port| (port, 0)))
        {
            // The real servers take turns, so some are tagged and others not.
            let syns = format!("tcp src port {port} and tcp[tcpflags] == tcp-syn");
            let count = capture.count(&format!("{sent} and {syns}"))?
                + capture.count(&format!("{sent} and vlan {SERVERS_VLAN} and {syns}"))?;
            ensure!(count == forwarded, "port {port}: {count} SYNs came out");
        }
        trunk.finish(director)
    })
}

#[test]
fn hosts_of_each_vlan_and_frames_with_two_tags_reach_the_host_where_they_may() -> Result<()> {
    uml::test("hosts_of_each_vlan_and_frames_with_two_tags_reach_the_host_where_they_may", || {
        let trunk = Trunk::take()?;
        let text =
            trunk.configuration("qinq = \"pass\"", "")? + &service(Family::V4, 80, &rips(Family::V4), "");
        let director = trunk.start(&text, 2)?;
        let on_host = RealServer::without_vip(trunk.director.clone(), Ipv4Addr::UNSPECIFIED);
        for family in Family::ALL {
            // Of the clients' VLAN, of the servers', and of none.
            for (asking, segment, number) in [
                (&trunk.client, CLIENTS, 100),
                (&trunk.real_servers[0].host, SERVERS, 11),
                (&trunk.real_servers[1].host, UNTAGGED, 11),
            ] {
                let dip: IpAddr = segment.address(family, 1).parse()?;
                // The director's host interfaces get their addresses after its start.
                let server =
                    wait::until(&format!("{dip} on the host"), || Ok(on_host.start_udp(dip, 7).ok()))?;
                let socket = asking.udp_socket(segment.address(family, number).parse::<IpAddr>()?, 0)?;
                ensure!(client::ask(&socket, dip, 7, "who?")? == "director", "{dip}");
                let asked = server.clients();
                ensure!(asked.len() == 1 && asked[0].ip() == socket.local_addr()?.ip(), "{asked:?}");
            }
        }
        let capture = Capture::start(&trunk.director, HOST_INTERFACE)?;
        let socket = PacketSocket::open(&trunk.client, "eth0")?;
        socket.send(&syn(20_021, &[(SERVICE_TPID, CLIENTS_VLAN), (TPID, SERVERS_VLAN)]))?;
        socket.send(&syn(20_022, &[(TPID, CLIENTS_VLAN), (TPID, SERVERS_VLAN)]))?;
        wait::until("frames with two tags on the host's interface", || {
            let tagged = capture.so_far().count(&format!("vlan {CLIENTS_VLAN} and vlan {SERVERS_VLAN}"))?;
            Ok((tagged >= 2).then_some(()))
        })?;
        drop(capture);
        ensure!(director.stats()?.totals.drops["qinq"] == 0);
        trunk.finish(director)
    })
}

#[test]
fn narrow_vlan_tells_the_client_its_mtu() -> Result<()> {
    uml::test("narrow_vlan_tells_the_client_its_mtu", || {
        let trunk = Trunk::take()?;
        let mut text = trunk.configuration("host_interface = \"off\"", &format!("mtu = {MTU}"))?;
        for family in Family::ALL {
            text += &service(family, 80, &rips(family)[..1], "");
        }
        let director = trunk.start(&text, 2)?;
        let file = RandomFile::create(trunk.network.directory(), FILE_BYTES)?;
        for (family, filter) in [
            (
                Family::V4,
                format!("icmp[icmptype] == icmp-unreach and icmp[icmpcode] == 4 and icmp[6:2] == {MTU}"),
            ),
            (Family::V6, format!("icmp6 and ip6[40] == 2 and ip6[44:4] == {MTU}")),
        ] {
            let told =
                Capture::start_whole(&trunk.client, &format!("eth0.{CLIENTS_VLAN}"), "too-big", &filter)?;
            file.upload(&trunk.client, SocketAddr::new(family.vip(), 80), &trunk.real_servers[0])?;
            let told = told.stop()?.count("")?;
            ensure!(told >= 1, "{family:?}: the client was not told of an MTU of {MTU}");
        }
        trunk.finish(director)
    })
}
