//! Real servers behind tunnels, nginx on a real kernel at their other ends: IPIP, GRE and GUE, each with its checksum
//! options, IPv4 and IPv6 in any mix inside and out. In User-mode Linux, whose kernel has those devices.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use lab::selftest::{self, Case};
use lab::transfer::RandomFile;
use lab::tunnel::{self, Kind};
use lab::{Capture, DirectorProcess, Family, Host, Method, Site, client, uml};

/// More than the director's rings hold, in both directions.
const FILE_BYTES: usize = 4 << 20;

/// Files through narrow hops, and those that show that nothing is lost on the way.
const NARROW_FILE_BYTES: usize = 32 << 20;
const LARGE_FILE_BYTES: usize = 100 << 20;

/// The kinds that differ in their headers.
const PLAIN_KINDS: [Kind; 3] = [Kind::Ipip, Kind::Gre, Kind::Gue];

const REQUESTS: u32 = 3;

/// Port of the first kind of tunnel's service.
const PORT: u16 = 8000;

const MTU: u16 = 1400;

/// Full-size packets that a sender has on its way before the first error reaches it, and more than that: so many of a file's
/// are too big at most where the error arrives. The smallest file has 2,900.
const TOO_BIG_MAX: u64 = 100;

/// The site of the last test, for the next: to make one takes a while.
static SITE: Mutex<Option<Site>> = Mutex::new(None);

/// A site with ends of every tunnel: rs1's GRE is without checksums, rs2's with, `far`'s without.
fn site() -> Result<Site> {
    if let Some(site) = SITE.lock().unwrap_or_else(PoisonError::into_inner).take() {
        return Ok(site);
    }
    tunnel::load_modules()?;
    let mut site = Site::build(Method::Tunnel, 2, 1)?;
    let ports: Vec<u16> = (0..Kind::ALL.len() as u16).map(|number| PORT + number).collect();
    let rips = |family: Family| [family.rip(1), family.rip(2), family.far_rip()];
    for (number, server) in site.real_servers.iter_mut().enumerate() {
        tunnel::add_ends(server, rips(Family::V4)[number], rips(Family::V6)[number], number == 1)?;
        server.start_nginx(&ports)?;
    }
    Ok(site)
}

/// The end of a test: everything is quiet, the director ends as it must, and the site is as it was.
fn finish(site: Site, director: DirectorProcess) -> Result<()> {
    site.wait_until_quiet()?;
    director.finish()?;
    *SITE.lock().unwrap_or_else(PoisonError::into_inner) = Some(site);
    Ok(())
}

/// Each kind's port, and the number of the real server that has its end.
fn services() -> impl Iterator<Item = (Kind, u16, u8)> {
    Kind::ALL
        .into_iter()
        .zip(PORT..)
        .map(|(kind, port)| (kind, port, 1 + u8::from(kind == Kind::GreChecksum)))
}

/// A director with a service for each kind of tunnel, IPv4 or IPv6 inside and out; `far` sends all but GRE with checksums to
/// the real server behind the gateway.
fn start_director(site: &Site, inner: Family, outer: Family, far: bool) -> Result<DirectorProcess> {
    let mut text = site.configuration()?;
    let mut count = 0;
    for (kind, port, number) in services().filter(|(kind, ..)| !far || *kind != Kind::GreChecksum) {
        let rip = if far { outer.far_rip() } else { outer.rip(number) };
        text += &site.service(inner, "tcp", port, &[rip], &kind.configuration());
        count += 1;
    }
    site.start_director(&text, count)
}

/// Requests, a download and an upload through each kind of tunnel.
fn every_kind(inner: Family, outer: Family) -> Result<()> {
    let site = site()?;
    let director = start_director(&site, inner, outer, false)?;
    let file = RandomFile::create(site.network().directory(), FILE_BYTES)?;
    for (kind, port, number) in services() {
        let server = &site.real_servers[usize::from(number) - 1];
        file.offer(server)?;
        let service = SocketAddr::new(inner.vip(), port);
        let transfer = || -> Result<()> {
            let answers = client::get_many(&site.client, inner.vip(), port, REQUESTS)?;
            ensure!(answers.iter().all(|answer| answer.server == server.name()), "{answers:?}");
            file.download(&site.client, service)?;
            let before = too_big(&director)?;
            file.upload(&site.client, service, server)?;
            // The client's packets fill its cable, and only the director tells it that they do not fit the tunnel.
            let told = too_big(&director)? - before;
            ensure!(told <= TOO_BIG_MAX, "{told} packets were too big");
            Ok(())
        };
        transfer().with_context(|| format!("{kind:?}"))?;
    }
    let told = too_big(&director)?;
    ensure!(told > 0, "nothing was too big for any tunnel");
    finish(site, director)
}

/// Packets that the director dropped with an error because they did not fit.
fn too_big(director: &DirectorProcess) -> Result<u64> {
    Ok(director.stats()?.totals.drops["too_big"])
}

/// What `transfer` does; on the way to `host` an error must have told of `mtu`, no more often than it has to.
fn told(
    site: &Site,
    (host, device): (&Host, &str),
    family: Family,
    mtu: u16,
    transfer: impl FnOnce() -> Result<()>,
) -> Result<()> {
    site.forget_path_mtus()?;
    // RFC 1191 section 4; RFC 8201 and RFC 4443 section 3.2.
    let filter = match family {
        Family::V4 => {
            format!("icmp[icmptype] == icmp-unreach and icmp[icmpcode] == 4 and icmp[6:2] == {mtu}")
        }
        Family::V6 => format!("icmp6 and ip6[40] == 2 and ip6[44:4] == {mtu}"),
    };
    let capture = Capture::start_whole(host, device, "too-big", &filter)?;
    transfer()?;
    let told = capture.stop()?.count("")?;
    ensure!((1..=TOO_BIG_MAX).contains(&told), "{} was told {told} times of {mtu} bytes", host.name());
    Ok(())
}

/// The hops around the client are narrow: the router tells the client of it, and the real server, whose errors come to the
/// VIP and so through the tunnel.
fn narrow_hops_of_the_client(family: Family) -> Result<()> {
    let site = site()?;
    site.narrow_hop_to_client(MTU)?;
    site.narrow_hop_to_vip(MTU)?;
    let director = start_director(&site, family, family, false)?;
    let file = RandomFile::create(site.network().directory(), NARROW_FILE_BYTES)?;
    let server = &site.real_servers[0];
    file.offer(server)?;
    for (kind, port, _) in services().filter(|(kind, ..)| PLAIN_KINDS.contains(kind)) {
        let service = SocketAddr::new(family.vip(), port);
        let end = (&server.host, kind.device(family, family));
        told(&site, end, family, MTU, || file.download(&site.client, service))
            .with_context(|| format!("download by {kind:?}"))?;
        let end = (&site.client, "eth0");
        told(&site, end, family, MTU, || file.upload(&site.client, service, server))
            .with_context(|| format!("upload by {kind:?}"))?;
    }
    site.widen_hops()?;
    finish(site, director)
}

/// The hop behind the gateway is narrow: its error is about the tunnel's packet, and the director tells the client how much
/// fits into it.
fn narrow_hop_of_the_real_server(family: Family) -> Result<()> {
    let site = site()?;
    site.narrow_hop_to_far(MTU)?;
    let director = start_director(&site, family, family, true)?;
    let file = RandomFile::create(site.network().directory(), NARROW_FILE_BYTES)?;
    for (kind, port, _) in services().filter(|(kind, ..)| PLAIN_KINDS.contains(kind)) {
        let service = SocketAddr::new(family.vip(), port);
        let mtu = MTU - kind.overhead(family) as u16;
        told(&site, (&site.client, "eth0"), family, mtu, || file.upload(&site.client, service, site.far()))
            .with_context(|| format!("{kind:?}"))?;
    }
    site.widen_hops()?;
    finish(site, director)
}

/// A large file there and back through one kind of tunnel.
fn large_files(kind: Kind) -> Result<()> {
    let site = site()?;
    let family = Family::V4;
    let director = start_director(&site, family, family, false)?;
    let file = RandomFile::create(site.network().directory(), LARGE_FILE_BYTES)?;
    let (_, port, number) = services().find(|&(of, ..)| of == kind).context("no service of this kind")?;
    let server = &site.real_servers[usize::from(number) - 1];
    file.offer(server)?;
    let service = SocketAddr::new(family.vip(), port);
    file.download(&site.client, service)?;
    file.upload(&site.client, service, server)?;
    finish(site, director)
}

#[test]
fn ipv4_in_ipv4() -> Result<()> {
    uml::test("ipv4_in_ipv4", || every_kind(Family::V4, Family::V4))
}

#[test]
fn ipv6_in_ipv6() -> Result<()> {
    uml::test("ipv6_in_ipv6", || every_kind(Family::V6, Family::V6))
}

#[test]
fn ipv6_in_ipv4() -> Result<()> {
    uml::test("ipv6_in_ipv4", || every_kind(Family::V6, Family::V4))
}

#[test]
fn ipv4_in_ipv6() -> Result<()> {
    uml::test("ipv4_in_ipv6", || every_kind(Family::V4, Family::V6))
}

#[test]
fn narrow_hops_of_the_client_over_ipv4() -> Result<()> {
    uml::test("narrow_hops_of_the_client_over_ipv4", || narrow_hops_of_the_client(Family::V4))
}

#[test]
fn narrow_hops_of_the_client_over_ipv6() -> Result<()> {
    uml::test("narrow_hops_of_the_client_over_ipv6", || narrow_hops_of_the_client(Family::V6))
}

#[test]
fn narrow_hop_of_the_real_server_over_ipv4() -> Result<()> {
    uml::test("narrow_hop_of_the_real_server_over_ipv4", || narrow_hop_of_the_real_server(Family::V4))
}

#[test]
fn narrow_hop_of_the_real_server_over_ipv6() -> Result<()> {
    uml::test("narrow_hop_of_the_real_server_over_ipv6", || narrow_hop_of_the_real_server(Family::V6))
}

#[test]
fn large_files_through_ipip() -> Result<()> {
    uml::test("large_files_through_ipip", || large_files(Kind::Ipip))
}

#[test]
fn large_files_through_gre() -> Result<()> {
    uml::test("large_files_through_gre", || large_files(Kind::Gre))
}

#[test]
fn large_files_through_gue() -> Result<()> {
    uml::test("large_files_through_gue", || large_files(Kind::Gue))
}

/// The selftest, on a network of its own.
fn selftest(family: Family) -> Result<()> {
    drop(SITE.lock().unwrap_or_else(PoisonError::into_inner).take());
    selftest::run(Case { method: Method::Tunnel, family, bytes: 32 })
}

#[test]
fn selftest_of_the_kernel_over_ipv4() -> Result<()> {
    uml::test("selftest_of_the_kernel_over_ipv4", || selftest(Family::V4))
}

#[test]
fn selftest_of_the_kernel_over_ipv6() -> Result<()> {
    uml::test("selftest_of_the_kernel_over_ipv6", || selftest(Family::V6))
}
