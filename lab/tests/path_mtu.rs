//! Path MTU discovery through a VIP: a hop of 1,400 bytes that neither end knows of, or a port of the director's own, and
//! large files in both directions that never stall. And jumbo frames, where everybody carries them. The same through tunnels
//! is in `tunnels.rs`.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use lab::transfer::RandomFile;
use lab::{Capture, DirectorProcess, Family, Host, Method, Site};

/// A large file, and a larger one.
const FILE_BYTES: usize = 32 << 20;
const LARGE_FILE_BYTES: usize = 100 << 20;

const MTU: u16 = 1400;

const JUMBO_MTU: u16 = 9000;

/// Full-size packets that a sender has on its way before the first error reaches it, and more than that: so many arrive
/// at the narrow hop at most where the error arrives at the sender, of 70,000 of the file.
const TOO_BIG_MAX: u64 = 1000;

/// A site with one service of one real server, a file, and a director.
struct Transfers {
    site: Site,
    file: RandomFile,
    director: DirectorProcess,
    service: SocketAddr,
}

impl Transfers {
    /// The first real server on the switch, or the one behind the gateway.
    fn start(site: Site, family: Family, bytes: usize, far: bool, ports: &str) -> Result<Transfers> {
        let file = RandomFile::create(site.network().directory(), bytes)?;
        let rip = if far { family.far_rip() } else { family.rip(1) };
        let ports = format!("host_interface = \"off\"\n{ports}");
        let text = site.configuration_with("", &ports)? + &site.service(family, "tcp", 80, &[rip], "");
        let director = site.start_director(&text, 1)?;
        file.offer(if far { site.far() } else { &site.real_servers[0] })?;
        Ok(Transfers { site, file, director, service: SocketAddr::new(family.vip(), 80) })
    }

    /// A download; `sender` must have been told of the narrow hop.
    fn download(&self, family: Family) -> Result<()> {
        self.told(family, &self.site.real_servers[0].host, || {
            self.file.download(&self.site.client, self.service)
        })
    }

    /// An upload; the client must have been told.
    fn upload(&self, family: Family, far: bool) -> Result<()> {
        let server = if far { self.site.far() } else { &self.site.real_servers[0] };
        self.told(family, &self.site.client, || self.file.upload(&self.site.client, self.service, server))
    }

    fn told(&self, family: Family, sender: &Host, transfer: impl FnOnce() -> Result<()>) -> Result<()> {
        self.site.forget_path_mtus()?;
        let capture = Capture::start_whole(sender, "eth0", "too-big", too_big(family))?;
        transfer()?;
        let told = capture.stop()?.count("")?;
        ensure!((1..=TOO_BIG_MAX).contains(&told), "{} was told {told} times", sender.name());
        Ok(())
    }

    fn finish(self) -> Result<()> {
        self.site.wait_until_quiet()?;
        self.director.finish()
    }
}

/// A tcpdump filter for the errors that tell of a narrow hop (RFC 1191, RFC 8201).
fn too_big(family: Family) -> &'static str {
    match family {
        Family::V4 => "icmp[icmptype] == icmp-unreach and icmp[icmpcode] == 4",
        Family::V6 => "icmp6 and ip6[40] == 2",
    }
}

/// The client's side of the site is narrow: routers send the errors, to the VIP where the real server is the sender.
fn hops_of_clients(method: Method, family: Family) -> Result<()> {
    let site = Site::build(method, 1, 1)?;
    site.narrow_hop_to_client(MTU)?;
    site.narrow_hop_to_vip(MTU)?;
    let transfers = Transfers::start(site, family, LARGE_FILE_BYTES, false, "")?;
    transfers.download(family)?;
    transfers.upload(family, false)?;
    transfers.finish()
}

/// The hop behind the gateway is narrow: its errors name a packet that the director has translated.
fn hop_to_real_server(method: Method, family: Family) -> Result<()> {
    let site = Site::build(method, 0, 1)?;
    site.narrow_hop_to_far(MTU)?;
    let transfers = Transfers::start(site, family, FILE_BYTES, true, "")?;
    transfers.upload(family, true)?;
    transfers.finish()
}

/// The director's own ports are narrow: it sends the errors.
fn ports_of_director(method: Method, family: Family) -> Result<()> {
    let site = Site::build(method, 1, 1)?;
    let transfers = Transfers::start(site, family, FILE_BYTES, false, &format!("mtu = {MTU}"))?;
    // The device's own MTU is not what is tested: the cables carry what the director has to refuse.
    for interface in ["front", "back"] {
        transfers.site.director.ip(&format!("link set {interface} mtu 1500"))?;
    }
    transfers.upload(family, false)?;
    if method.replies_pass() {
        transfers.download(family)?;
    }
    transfers.finish()
}

/// Cables, hosts and the director's ports carry jumbo frames, and both ends send them.
fn jumbo_frames(method: Method, family: Family) -> Result<()> {
    let site = Site::build(method, 1, 1)?;
    site.widen_all(JUMBO_MTU)?;
    let file = RandomFile::create(site.network().directory(), FILE_BYTES)?;
    let ports = format!("mtu = {JUMBO_MTU}\nhost_interface = \"off\"");
    let text = site.configuration_with("mbuf_data_room = 16512\nmbuf_count = 8191\n", &ports)?
        + &site.service(family, "tcp", 80, &[family.rip(1)], "");
    // A frame of the driver's ring holds one of the cable's.
    let ring = |interface: &str| format!("iface={interface},framesz=16384,blocksz=16384,framecnt=256");
    let text = text.replace("iface=front", &ring("front")).replace("iface=back", &ring("back"));
    let director = site.start_director(&text, 1)?;
    file.offer(&site.real_servers[0])?;
    let service = SocketAddr::new(family.vip(), 80);
    let back = Capture::start(&site.switch, "to-director")?;
    file.download(&site.client, service)?;
    file.upload(&site.client, service, &site.real_servers[0])?;
    site.wait_until_quiet()?;
    let back = back.stop()?;
    let large =
        |direction: &str| back.count(&format!("{direction} host {} and greater 8000", family.client()));
    let (up, down) = (large("src")?, large("dst")?);
    ensure!(up > 1000, "{up} jumbo frames went to the real server");
    ensure!(!method.replies_pass() || down > 1000, "{down} jumbo frames came from the real server");
    director.finish()
}

#[test]
fn jumbo_frames_by_direct_routing() -> Result<()> {
    jumbo_frames(Method::Direct, Family::V4)?;
    jumbo_frames(Method::Direct, Family::V6)
}

#[test]
fn jumbo_frames_by_nat() -> Result<()> {
    jumbo_frames(Method::Nat, Family::V4)?;
    jumbo_frames(Method::Nat, Family::V6)
}

#[test]
fn direct_routing_through_a_narrow_hop_over_ipv4() -> Result<()> {
    hops_of_clients(Method::Direct, Family::V4)
}

#[test]
fn direct_routing_through_a_narrow_hop_over_ipv6() -> Result<()> {
    hops_of_clients(Method::Direct, Family::V6)
}

#[test]
fn nat_through_a_narrow_hop_of_the_client_over_ipv4() -> Result<()> {
    hops_of_clients(Method::Nat, Family::V4)
}

#[test]
fn nat_through_a_narrow_hop_of_the_client_over_ipv6() -> Result<()> {
    hops_of_clients(Method::Nat, Family::V6)
}

#[test]
fn nat_through_a_narrow_hop_of_the_real_server_over_ipv4() -> Result<()> {
    hop_to_real_server(Method::Nat, Family::V4)
}

#[test]
fn nat_through_a_narrow_hop_of_the_real_server_over_ipv6() -> Result<()> {
    hop_to_real_server(Method::Nat, Family::V6)
}

#[test]
fn direct_routing_through_narrow_ports() -> Result<()> {
    ports_of_director(Method::Direct, Family::V4)?;
    ports_of_director(Method::Direct, Family::V6)
}

#[test]
fn nat_through_narrow_ports() -> Result<()> {
    ports_of_director(Method::Nat, Family::V4)?;
    ports_of_director(Method::Nat, Family::V6)
}
