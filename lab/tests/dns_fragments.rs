//! DNS over UDP through a VIP: answers of almost 4,000 bytes and questions of 3,000, both in fragments.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};
use lab::{Capture, Family, Method, PortDriver, Site, dns};

const QUESTIONS: u32 = 30;

/// Long enough for three fragments over Ethernet, and over IPv6's least MTU.
const PADDING: u16 = 3000;

/// Questions to two name servers, every one of them with all its fragments to one.
fn answers_and_questions_in_fragments(method: Method, family: Family, workers: u16) -> Result<()> {
    let mut site = Site::build(method, 2, workers)?;
    // af_packet knows no fragments of IPv4.
    site.driver = PortDriver::AfXdp;
    let vip = SocketAddr::new(family.vip(), dns::PORT);
    let rips = [family.rip(1), family.rip(2)];
    let asked = |rip: IpAddr| if method.replies_pass() { rip } else { family.vip() };
    let _servers = site
        .real_servers
        .iter()
        .zip(rips)
        .map(|(server, rip)| dns::NameServer::start(&server.host, &[asked(rip)]))
        .collect::<Result<Vec<_>>>()?;
    let director = site.start_director(
        &(site.configuration()? + &site.service(family, "udp", dns::PORT, &rips, "")),
        rips.len(),
    )?;
    let front = Capture::start(&site.router, "front")?;

    let mut shares = BTreeMap::new();
    for _ in 0..QUESTIONS {
        let answer = dns::ask(&site.client, vip, "who", PADDING)?;
        *shares.entry(answer.text).or_insert(0) += 1;
    }
    let half = QUESTIONS / 2;
    ensure!(shares == [("rs1".to_owned(), half), ("rs2".to_owned(), half)].into(), "{shares:?}");
    for padding in [0, PADDING] {
        for _ in 0..QUESTIONS {
            let answer = dns::ask(&site.client, vip, "big", padding)?;
            ensure!(answer.text == dns::big(), "another answer: {}", answer.text);
            ensure!(answer.length > 3900, "only {} bytes", answer.length);
        }
    }

    let front = front.stop()?;
    let fragments = |direction: &str| match family {
        Family::V4 => front.count(&format!("{direction} host {} and ip[6:2] & 0x3fff != 0", vip.ip())),
        Family::V6 => front.count(&format!("{direction} host {} and ip6[6] == 44", vip.ip())),
    };
    let questions = fragments("dst")?;
    ensure!(questions >= u64::from(2 * QUESTIONS * 3), "questions in {questions} fragments");
    let answers = fragments("src")?;
    let expected = if method.replies_pass() { u64::from(2 * QUESTIONS * 3) } else { 0 };
    ensure!(answers >= expected && (answers == 0) == (expected == 0), "answers in {answers} fragments");
    // A port that the client's kernel takes once more is of a connection that is known.
    let totals = director.stats()?.services[0].totals;
    ensure!((u64::from(QUESTIONS)..=u64::from(3 * QUESTIONS)).contains(&totals.connections), "{totals:?}");
    director.finish()
}

#[test]
fn direct_routing_over_ipv4() -> Result<()> {
    answers_and_questions_in_fragments(Method::Direct, Family::V4, 1)
}

#[test]
fn direct_routing_over_ipv6() -> Result<()> {
    answers_and_questions_in_fragments(Method::Direct, Family::V6, 1)
}

#[test]
fn nat_over_ipv4() -> Result<()> {
    answers_and_questions_in_fragments(Method::Nat, Family::V4, 1)
}

#[test]
fn nat_over_ipv6() -> Result<()> {
    answers_and_questions_in_fragments(Method::Nat, Family::V6, 1)
}
