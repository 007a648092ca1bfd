//! Real servers behind tunnels, nginx on a real kernel at their other ends: IPIP, GRE and GUE, each with its checksum
//! options, IPv4 and IPv6 in any mix inside and out. In a VM, whose kernel has those devices.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use lab::selftest::{self, Case};
use lab::transfer::RandomFile;
use lab::tunnel::{self, Kind};
use lab::{Capture, DirectorProcess, Family, Method, Site, client, vm};

/// More than the director's rings hold, in both directions.
const FILE_BYTES: usize = 4 << 20;

/// What takes in the VM as long as a file of gibibytes elsewhere.
const LARGE_FILE_BYTES: usize = 20 << 20;

const REQUESTS: u32 = 3;

/// Port of the first kind of tunnel's service.
const PORT: u16 = 8000;

const MTU: u16 = 1400;

/// The site of the last test, for the next: to make one takes a while in the VM.
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
            file.upload(&site.client, service, server)
        };
        transfer().with_context(|| format!("{kind:?}"))?;
    }
    // The client's MSS was lowered to what fits: nothing was too big for a tunnel.
    ensure!(director.stats()?.totals.drops["too_big"] == 0);
    finish(site, director)
}

/// Large files through the kinds that differ in their headers, and requests of the real server behind the gateway.
fn narrow_hop(inner: Family, outer: Family) -> Result<()> {
    let site = site()?;
    site.narrow_hop_to_far(MTU)?;
    let director = start_director(&site, inner, outer, true)?;
    let file = RandomFile::create(site.network().directory(), FILE_BYTES)?;
    file.offer(site.far())?;
    for (kind, port, _) in services().filter(|(kind, ..)| [Kind::Ipip, Kind::Gre, Kind::Gue].contains(kind)) {
        let filter = match inner {
            Family::V4 => "icmp[icmptype] == icmp-unreach and icmp[icmpcode] == 4",
            Family::V6 => "icmp6 and ip6[40] == 2",
        };
        let capture = Capture::start_whole(&site.client, "eth0", &format!("too-big-{port}"), filter)?;
        let service = SocketAddr::new(inner.vip(), port);
        let transfer = || -> Result<()> {
            file.download(&site.client, service)?;
            file.upload(&site.client, service, site.far())
        };
        transfer().with_context(|| format!("{kind:?}"))?;
        let told = capture.stop()?.count("")?;
        // The path's MTU is remembered for the VIP: the kinds after the first may know it already.
        ensure!(told >= 1 || kind != Kind::Ipip, "the client was told {told} times of the narrow hop");
    }
    site.widen_hop_to_far()?;
    finish(site, director)
}

#[test]
fn ipv4_in_ipv4() -> Result<()> {
    vm::test("ipv4_in_ipv4", || every_kind(Family::V4, Family::V4))
}

#[test]
fn ipv6_in_ipv6() -> Result<()> {
    vm::test("ipv6_in_ipv6", || every_kind(Family::V6, Family::V6))
}

#[test]
fn ipv6_in_ipv4() -> Result<()> {
    vm::test("ipv6_in_ipv4", || every_kind(Family::V6, Family::V4))
}

#[test]
fn ipv4_in_ipv6() -> Result<()> {
    vm::test("ipv4_in_ipv6", || every_kind(Family::V4, Family::V6))
}

#[test]
fn narrow_hop_behind_a_gateway_over_ipv4() -> Result<()> {
    vm::test("narrow_hop_behind_a_gateway_over_ipv4", || narrow_hop(Family::V4, Family::V4))
}

#[test]
fn narrow_hop_behind_a_gateway_over_ipv6() -> Result<()> {
    vm::test("narrow_hop_behind_a_gateway_over_ipv6", || narrow_hop(Family::V6, Family::V6))
}

#[test]
fn large_files_through_ipip() -> Result<()> {
    vm::test("large_files_through_ipip", || {
        let site = site()?;
        let director = start_director(&site, Family::V4, Family::V4, false)?;
        let file = RandomFile::create(site.network().directory(), LARGE_FILE_BYTES)?;
        file.offer(&site.real_servers[0])?;
        let service = SocketAddr::new(Family::V4.vip(), PORT);
        file.download(&site.client, service)?;
        file.upload(&site.client, service, &site.real_servers[0])?;
        finish(site, director)
    })
}

/// The selftest, on a network of its own.
fn selftest(family: Family) -> Result<()> {
    drop(SITE.lock().unwrap_or_else(PoisonError::into_inner).take());
    selftest::run(Case { method: Method::Tunnel, family, bytes: 32 })
}

#[test]
fn selftest_of_the_kernel_over_ipv4() -> Result<()> {
    vm::test("selftest_of_the_kernel_over_ipv4", || selftest(Family::V4))
}

#[test]
fn selftest_of_the_kernel_over_ipv6() -> Result<()> {
    vm::test("selftest_of_the_kernel_over_ipv6", || selftest(Family::V6))
}
