//! The kernel's own IPVS selftest (`tools/testing/selftests/net/netfilter/ipvs.sh`), with dr-director as the director.

use std::fs;

use anyhow::{Result, ensure};

use crate::capture::Capture;
use crate::director::{self, DirectorProcess};
use crate::dissection::Dissection;
use crate::host::Host;
use crate::network::{self, Network};
use crate::site::{Family, Method};
use crate::topology::PortDriver;
use crate::transfer::random_bytes;

const PORT: u16 = 8080;

/// One of its cases.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// How the director forwards.
    pub method: Method,
    /// Of everything.
    pub family: Family,
    /// Random bytes that are sent. The selftest's own are 32.
    pub bytes: usize,
}

/// The addresses of a family.
struct Addresses {
    vip: &'static str,
    prefix_length: u8,
    client: &'static str,
    director_front: &'static str,
    director_back: &'static str,
    real_server: &'static str,
    real_server_front: &'static str,
}

const V4: Addresses = Addresses {
    vip: "207.175.44.110",
    prefix_length: 24,
    client: "10.0.0.2",
    director_front: "10.0.0.1",
    director_back: "172.16.0.1",
    real_server: "172.16.0.2",
    real_server_front: "10.0.0.3",
};

const V6: Addresses = Addresses {
    vip: "2001:db8:44::110",
    prefix_length: 64,
    client: "2001:db8::2",
    director_front: "2001:db8::1",
    director_back: "2001:db8:16::1",
    real_server: "2001:db8:16::2",
    real_server_front: "2001:db8::3",
};

struct Topology {
    client: Host,
    director: Host,
    real_server: Host,
    _network: Network,
}

impl Case {
    fn addresses(self) -> &'static Addresses {
        match self.family {
            Family::V4 => &V4,
            Family::V6 => &V6,
        }
    }

    fn topology(self) -> Result<Topology> {
        let network = Network::new()?;
        let [ns0, ns1, ns2] = [network.add_host("ns0")?, network.add_host("ns1")?, network.add_host("ns2")?];
        ns0.enable_ipv6()?;
        ns2.enable_ipv6()?;
        network.add_cable((&ns0, "veth01"), (&ns1, "veth10"))?;
        network.add_cable((&ns0, "veth02"), (&ns2, "veth20"))?;
        network.add_cable((&ns1, "veth12"), (&ns2, "veth21"))?;
        network::add_bridge(&ns0)?;
        ns0.ip("link set veth01 master br0")?;
        ns0.ip("link set veth02 master br0")?;
        let Addresses { vip, prefix_length, client, director_front, director_back, real_server, .. } =
            self.addresses();
        let option = self.family.option();
        ns0.add_address("br0", &format!("{client}/{prefix_length}"))?;
        ns0.ip(&format!("{option} route add {vip} via {director_front} dev br0"))?;
        ns2.add_address("veth21", &format!("{real_server}/{prefix_length}"))?;
        if self.method == Method::Nat {
            // The reply must come back through the director.
            ns2.ip("link delete veth20")?;
            ns2.ip(&format!("{option} route add default via {director_back}"))?;
        } else {
            let front = self.addresses().real_server_front;
            ns2.add_address("veth20", &format!("{front}/{prefix_length}"))?;
            for interface in ["all", "lo"] {
                ns2.set(&format!("net/ipv4/conf/{interface}/arp_ignore"), "1")?;
                ns2.set(&format!("net/ipv4/conf/{interface}/arp_announce"), "2")?;
            }
            ns2.add_address("lo", &format!("{vip}/{}", self.family.bits()))?;
        }
        if self.method == Method::Tunnel {
            let tunnel = if self.family == Family::V4 { "tunl0" } else { "ip6tnl0" };
            let module = if self.family == Family::V4 { "ipip" } else { "ip6_tunnel" };
            ns2.run(&["modprobe", module])?;
            ns2.ip(&format!("link set {tunnel} up"))?;
        }
        Ok(Topology { client: ns0, director: ns1, real_server: ns2, _network: network })
    }

    fn configuration(self, director: &Host) -> Result<String> {
        let Addresses { vip, prefix_length, director_front, director_back, real_server, .. } =
            self.addresses();
        let device = |number, interface| PortDriver::AfPacket.device(number, interface, 1);
        let (clients, servers) = (device(0, "veth10"), device(1, "veth12"));
        Ok(format!(
            r#"{}
            [[ports]]
            name = "clients"
            device = "{clients}"
            addresses = ["{director_front}/{prefix_length}"]
            host_interface = "off"
            [[ports]]
            name = "servers"
            device = "{servers}"
            addresses = ["{director_back}/{prefix_length}"]
            host_interface = "off"
            [[services]]
            protocol = "tcp"
            address = "{vip}"
            port = {PORT}
            scheduler = "rr"
            real_servers = [{{ address = "{real_server}", forwarding = "{}" }}]
            "#,
            director::text(director, 1)?,
            self.method.name(),
        ))
    }
}

fn start_director(case: Case, topology: &Topology) -> Result<DirectorProcess> {
    let (front, back) = (topology.director.mac("veth10")?, topology.director.mac("veth12")?);
    let dissection =
        Dissection::start(&[(&topology.client, "veth01", &front), (&topology.real_server, "veth21", &back)])?;
    let text = case.configuration(&topology.director)?;
    let director = DirectorProcess::start_with_text(&topology.director, &text)?.dissected_by(dissection);
    director.wait_until_up(1)?;
    Ok(director)
}

/// Sends random bytes from a client through the VIP to the real server, which must have the same ones; replies must have
/// gone the way of the method.
pub fn run(case: Case) -> Result<()> {
    let topology = case.topology()?;
    let director = start_director(case, &topology)?;
    // The other ends of the director's cables.
    let clients_side = Capture::start(&topology.client, "veth01")?;
    let servers_side = Capture::start(&topology.real_server, "veth21")?;
    let replies_past = match case.method {
        Method::Nat => None,
        _ => Some(Capture::start(&topology.client, "veth02")?),
    };

    let sent = random_bytes(case.bytes)?;
    let (infile, outfile) =
        (topology.client.directory().join("infile"), topology.director.directory().join("outfile"));
    fs::write(&infile, &sent)?;
    let listen = format!("TCP{}-LISTEN:{PORT},reuseaddr", &case.family.option()[1..]);
    let create = format!("CREATE:{}", outfile.display());
    let mut listener = topology.real_server.spawn(&["socat", "-d", "-d", "-u", &listen, &create])?;
    listener.wait_for_output("listening on")?;
    let open = format!("OPEN:{}", infile.display());
    let vip = case.addresses().vip;
    let target = match case.family {
        Family::V4 => format!("TCP4:{vip}:{PORT}"),
        Family::V6 => format!("TCP6:[{vip}]:{PORT}"),
    };
    topology.client.run(&["socat", "-u", &open, &target])?;
    ensure!(listener.wait()?.success(), "the listener failed:\n{}", listener.log());
    ensure!(fs::read(&outfile)? == sent, "other bytes arrived");

    // The director tells of the VIP itself, by ARP and neighbour discovery.
    let (from_vip, to_vip) = (format!("tcp and src host {vip}"), format!("tcp and dst host {vip}"));
    let (clients_side, servers_side) = (clients_side.stop()?, servers_side.stop()?);
    ensure!(clients_side.count(&to_vip)? >= 4, "the request did not come to the director");
    if case.method == Method::Nat {
        ensure!(clients_side.count(&from_vip)? >= 3, "no reply came from the VIP");
        ensure!(servers_side.count(&to_vip)? == 0, "the real server was sent a packet to the VIP");
        let rip = case.addresses().real_server;
        ensure!(servers_side.count(&format!("dst host {rip} and tcp dst port {PORT}"))? >= 4);
        ensure!(clients_side.count(&format!("host {rip}"))? == 0, "the client saw the RIP");
    } else {
        for side in [&clients_side, &servers_side] {
            let replies = side.lines(&from_vip)?;
            ensure!(replies.is_empty(), "replies passed the director: {replies:#?}");
        }
        let past = replies_past.map_or(Ok(0), |capture| capture.stop()?.count(&from_vip))?;
        ensure!(past >= 3, "the reply did not leave by veth20");
    }
    match case.method {
        Method::Direct => {
            ensure!(servers_side.count(&to_vip)? >= 4, "the request did not pass the director");
        }
        Method::Tunnel => {
            let protocol = if case.family == Family::V4 { "ip proto 4" } else { "ip6 proto 41" };
            let tunnelled =
                servers_side.count(&format!("{protocol} and dst host {}", case.addresses().real_server))?;
            ensure!(tunnelled >= 4, "the request did not pass the director in a tunnel");
        }
        Method::Nat | Method::FullNat => {}
    }
    director.finish()
}
