//! The packet catalogue: description, frame in, verdict, frame out, counter; one line a case, in `catalogue/*.txt`.
//!
//! Every case goes through a fresh director for each of its forwarding methods and families, as it stands; tagged with a VLAN of
//! the port; with that tag taken out by the NIC; and cut into segments at each place where a header begins. After each, every
//! frame is accounted for and every buffer is back.

mod network;
mod notation;
mod table;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use dataplane::host::HOST_QUEUE_CAPACITY;
use dataplane::memory::MemoryFrame;
use dataplane::port::{ChecksumStatus, FramePool};
use dataplane::snapshot::Options;
use dataplane::verdict::DropReason;
use network::View;
use network::forwarding::without_tag;
use network::stage::{Counts, Scenery, Stage};
use notation::{Built, Names, Way};
use table::{Case, Out, Step};

/// At least so many lines there must be.
const CASES_MIN: usize = 600;
/// VLAN of the clients where frames are tagged.
const VLAN: u16 = 100;

/// How the judged frames arrive.
#[derive(Clone, Debug, PartialEq)]
enum Variant {
    Whole,
    Tagged,
    Stripped,
    /// Cut at these offsets.
    Split(Vec<usize>),
}

fn files() -> Vec<(String, String)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/catalogue");
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, std::fs::read_to_string(path).unwrap())
        })
        .collect();
    files.sort();
    files
}

#[test]
fn every_case_of_the_catalogue_ends_as_it_says() {
    let only = std::env::var("DR_CASES").unwrap_or_default();
    let mut sceneries: HashMap<String, Scenery> = HashMap::new();
    let (mut cases, mut runs, mut wrong) = (0, 0, Vec::new());
    for (name, text) in files() {
        let parsed = table::parse(&name, &text).unwrap_or_else(|error| panic!("{error}"));
        cases += parsed.len();
        for case in parsed.iter().filter(|case| case.place.starts_with(&only)) {
            let options = case.setting.options;
            let scenery = sceneries.entry(format!("{options:?}")).or_insert_with(|| Scenery::new(options));
            for (method, is_ipv6) in variations(case) {
                let view = View::new(method, is_ipv6);
                runs += 1;
                if let Err(error) = judge(case, &view, scenery) {
                    let family = if is_ipv6 { 6 } else { 4 };
                    wrong.push(format!(
                        "{} {}: {}, IPv{family}: {error}",
                        case.place, case.description, method.name
                    ));
                    break;
                }
            }
        }
    }
    println!("{cases} cases, {runs} with methods and families");
    assert!(wrong.is_empty(), "{} cases are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(cases >= CASES_MIN || !only.is_empty(), "{cases} cases");
}

fn variations(case: &Case) -> Vec<(&'static network::methods::Method, bool)> {
    let families = &case.setting.families;
    case.setting
        .methods
        .iter()
        .flat_map(|method| families.iter().map(move |family| (*method, *family)))
        .collect()
}

/// A case of one method and family, in all variants.
fn judge(case: &Case, view: &View, scenery: &Scenery) -> Result<(), String> {
    let whole = run(case, view, scenery, &Variant::Whole)?;
    check(case, &whole)?;
    if case.setting.is_tagged
        && !case.steps.iter().any(|step| step.frame.contains("vlan") || step.port.is_some())
    {
        for variant in [Variant::Tagged, Variant::Stripped] {
            let outcome = run(case, view, scenery, &variant)?;
            check(case, &outcome).map_err(|error| format!("{variant:?}: {error}"))?;
        }
    }
    if !case.setting.is_split {
        return Ok(());
    }
    let Some(last) = whole.judged.last() else { return Ok(()) };
    let single = last.boundaries.iter().map(|at| vec![*at]);
    for cuts in single.chain([last.boundaries.clone()]).filter(|cuts| !cuts.is_empty()) {
        let is_behind_headers = last.headers_end.is_some_and(|end| cuts.iter().all(|cut| *cut >= end));
        let outcome = run(case, view, scenery, &Variant::Split(cuts.clone()))?;
        let is_refused = outcome.changes.contains_key("not_contiguous");
        let is_dropped = case.verdicts.last().is_some_and(|verdict| verdict == "drop");
        if !is_refused || is_behind_headers && !is_dropped {
            check(case, &outcome).map_err(|error| format!("in segments, cut at {cuts:?}: {error}"))?;
        }
    }
    Ok(())
}

/// What became of the judged frames.
struct Outcome {
    verdicts: Vec<String>,
    /// What came out, and what should have.
    out: Vec<Vec<u8>>,
    expected: Vec<Vec<u8>>,
    changes: BTreeMap<String, i64>,
    judged: Vec<Built>,
}

fn check(case: &Case, outcome: &Outcome) -> Result<(), String> {
    let changed: Vec<(String, i64)> =
        outcome.changes.iter().map(|(name, count)| (name.clone(), *count)).collect();
    let mut counters = case.counters.clone();
    counters.sort();
    if outcome.verdicts != case.verdicts {
        return Err(format!(
            "{}, not {} ({changed:?})",
            outcome.verdicts.join(" ; "),
            case.verdicts.join(" ; ")
        ));
    }
    if outcome.out != outcome.expected {
        return Err(difference(&outcome.out, &outcome.expected));
    }
    if changed != counters {
        return Err(format!("counters {changed:?}, not {counters:?}"));
    }
    Ok(())
}

fn difference(out: &[Vec<u8>], expected: &[Vec<u8>]) -> String {
    let text = |frame: &[u8]| frame.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    if out.len() != expected.len() {
        let out: Vec<_> = out.iter().map(|frame| text(frame)).collect();
        return format!("{} frames came out, not {}: {out:#?}", out.len(), expected.len());
    }
    let mut pairs = out.iter().zip(expected).enumerate();
    let Some((number, (out, expected))) = pairs.find(|(_, (out, expected))| out != expected) else {
        return String::new();
    };
    let at = out.iter().zip(expected).position(|(out, expected)| out != expected);
    let at = at.unwrap_or(out.len().min(expected.len()));
    format!(
        "frame {number} differs from byte {at} on (lengths {} and {}):\n  out      {}\n  expected {}",
        out.len(),
        expected.len(),
        text(out),
        text(expected)
    )
}

fn run(case: &Case, view: &View, scenery: &Scenery, variant: &Variant) -> Result<Outcome, String> {
    let mut stage = Stage::new(scenery, 1);
    let first_judged = case.steps.len() - case.verdicts.len();
    let mut outcome = Outcome {
        verdicts: Vec::new(),
        out: Vec::new(),
        expected: Vec::new(),
        changes: BTreeMap::new(),
        judged: Vec::new(),
    };
    let mut before = Counts::new();
    let mut local_port = None;
    let is_tagged = matches!(variant, Variant::Tagged | Variant::Stripped);
    for (number, step) in case.steps.iter().enumerate() {
        let view = View { port: step.port.unwrap_or(0), local_port, ..*view };
        let built = notation::build(&notation::parse(&step.frame)?, &view, Way::In, None)?;
        if step.wait_seconds > 0 {
            stage.hand.advance_seconds(step.wait_seconds);
            stage.poll();
        }
        if number == first_judged {
            before = stage.counts();
        }
        let port = port_of(&built.bytes, step.port);
        let was = stage.counts();
        let is_last = number + 1 == case.steps.len();
        let frame = arriving(&stage, step, port, &built, variant, is_last)?;
        stage.ports[usize::from(port)].inject_frame(0, frame).map_err(|_| "no room")?;
        stage.poll();
        stage.check_conservation()?;
        let handed = stage.handed();
        let verdict = verdict(&was, &stage.counts(), &handed);
        let sent = stage.sent();
        check_ports(&sent)?;
        local_port = sent.first().and_then(|(_, frame)| source_port(frame)).or(local_port);
        let is_stacked = step.frame.matches("vlan ").count() > 1;
        let whole = if is_stacked { built.bytes.clone() } else { without_tag(&built.bytes) };
        for (_, _, bytes) in &handed {
            if *bytes != whole {
                return Err(format!("handed on as {bytes:02x?}"));
            }
        }
        if number < first_judged {
            if !["forward", "reply", "hold"].contains(&verdict.as_str()) {
                return Err(format!("frame {number}, which sets the scene: {verdict}"));
            }
            continue;
        }
        outcome.verdicts.push(verdict);
        for (_, frame) in sent {
            outcome.out.push(if is_tagged { untagged(frame)? } else { frame });
        }
        outcome.judged.push(built);
    }
    outcome.changes = changes(&before, &stage.counts());
    outcome.expected = expected(case, view, &outcome)
        .map_err(|error| format!("{error} ({:?}, {:?})", outcome.verdicts, outcome.changes))?;
    stage.check_pools()?;
    Ok(outcome)
}

/// The port by which a frame comes in: the one that it is addressed to, where it is one of the director's.
fn port_of(frame: &[u8], port: Option<u8>) -> u8 {
    let own = (0..network::PORTS as u8).find(|own| frame.get(..6) == Some(&network::port_mac(*own)[..]));
    port.or(own).unwrap_or(0)
}

/// The local port in a frame to a real server behind full NAT.
fn source_port(frame: &[u8]) -> Option<u16> {
    let packet = frame.get(14..).filter(|_| frame[4] == 2)?;
    let at = network::forwarding::transport(packet)?.at;
    packet.get(at..at + 2).map(|port| u16::from_be_bytes([port[0], port[1]]))
}

/// The frame as it lies in the port's buffers.
fn arriving(
    stage: &Stage,
    step: &Step,
    port: u8,
    built: &Built,
    variant: &Variant,
    is_last: bool,
) -> Result<MemoryFrame, String> {
    let pool = stage.ports[usize::from(port)].pool();
    let is_clients = port == 0 && !built.bytes.get(6..12).is_none_or(|mac| mac[4] == 2 || mac[4] == 3);
    let bytes = &built.bytes;
    let tagged = || [&bytes[..12], &[0x81, 0], &VLAN.to_be_bytes(), &bytes[12..]].concat();
    let frame = match variant {
        Variant::Tagged if is_clients => pool.frame_of_segments([&tagged()[..]]),
        Variant::Stripped if is_clients => pool.frame_without_tag(&tagged()),
        Variant::Split(cuts) if is_last => {
            let starts = [0].into_iter().chain(cuts.iter().copied());
            let ends = cuts.iter().copied().chain([bytes.len()]);
            pool.frame_of_segments(starts.zip(ends).map(|(start, end)| &bytes[start..end]))
        }
        _ if bytes.len() > 2048 => pool.frame(bytes),
        _ => pool.frame_of_segments([&bytes[..]]),
    };
    let mut frame = frame.ok_or("the pool has no such frame")?;
    frame.set_shared(step.is_shared);
    frame.set_ip_checksum(match step.nic {
        None => ChecksumStatus::Unknown,
        Some(true) => ChecksumStatus::Good,
        Some(false) => ChecksumStatus::Bad,
    });
    Ok(frame)
}

/// A frame leaves by the port whose address it has.
fn check_ports(sent: &[(u8, Vec<u8>)]) -> Result<(), String> {
    match sent.iter().find(|(port, frame)| frame.get(6..12) != Some(&network::port_mac(*port)[..])) {
        Some((port, frame)) => Err(format!("port {port} sent {frame:02x?}")),
        None => Ok(()),
    }
}

/// Without the clients' VLAN tag.
fn untagged(mut frame: Vec<u8>) -> Result<Vec<u8>, String> {
    let is_clients = frame[6..12] == network::port_mac(0) && (frame[4] != 2 && frame[4] != 3);
    if is_clients {
        if frame[12..16] != [0x81, 0, 0, VLAN as u8] {
            return Err(format!("an answer to the client without its tag: {frame:02x?}"));
        }
        frame.drain(12..16);
        // A short frame is padded behind its tag.
        frame.resize(frame.len().max(notation::FRAME_BYTES_MIN), 0);
    }
    Ok(frame)
}

fn verdict(before: &Counts, after: &Counts, handed: &[network::stage::Handed]) -> String {
    let change = changes(before, after);
    let is_more = |name: &str| change.get(name).is_some_and(|change| *change > 0);
    if let Some((queue, ..)) = handed.first() {
        return queue.to_string();
    }
    let verdict = if is_more("replies") {
        "reply"
    } else if is_more("forwarded") {
        "forward"
    } else if is_more("held") {
        "hold"
    } else {
        "drop"
    };
    verdict.to_string()
}

fn changes(before: &Counts, after: &Counts) -> BTreeMap<String, i64> {
    let names = before.keys().chain(after.keys());
    let of = |counts: &Counts, name: &String| counts.get(name).copied().unwrap_or(0) as i64;
    names
        .map(|name| (name.clone(), of(after, name) - of(before, name)))
        .filter(|(_, change)| *change != 0)
        .collect()
}

fn expected(case: &Case, view: &View, outcome: &Outcome) -> Result<Vec<Vec<u8>>, String> {
    let nothing = Vec::new();
    let actual = |number: usize| outcome.out.get(number).unwrap_or(&nothing);
    let options: &Options = &case.setting.options;
    match &case.out {
        Out::Nothing => Ok(Vec::new()),
        Out::ByMethod(order) => order
            .iter()
            .enumerate()
            .map(|(number, place)| {
                let built = outcome.judged.get(*place).ok_or("no such frame")?;
                network::forwarding::forwarded(view, &built.bytes, options, actual(number))
            })
            .collect(),
        Out::Frames(frames) => frames
            .iter()
            .enumerate()
            .map(|(number, text)| notation::frame(text, view, Way::Out, Some(actual(number))))
            .collect(),
    }
}

#[test]
fn notation_builds_what_etherparse_reads() {
    let view = View::new(&network::methods::METHODS[0], false);
    for text in [
        "ip4 client > vip ttl=9 / tcp 1 > 80 SA mss=1460 / data 11",
        "vlan 100 / ip4 client > vip df / udp 1 > 53 / data 100",
        "ip6 client > vip / hbh / frag / udp 1 > 53 / data 9",
        "ip4 client > vip / icmp 8/0 id=3 / data 8",
        "ip6 client > vip / icmp6 2/0 mtu=1400 / ip6 vip > client / tcp 80 > 1 A",
    ] {
        let bytes = notation::frame(text, &view, Way::In, None).unwrap();
        let packet = etherparse::PacketHeaders::from_ethernet_slice(&bytes).unwrap();
        let (ip, transport) = (packet.net.unwrap(), packet.transport.unwrap());
        let payload = packet.payload.slice();
        let sum = match (&ip, &transport) {
            (etherparse::NetHeaders::Ipv4(ip, _), etherparse::TransportHeader::Tcp(tcp)) => {
                assert_eq!(ip.header_checksum, ip.calc_header_checksum());
                (tcp.checksum, tcp.calc_checksum_ipv4(ip, payload).unwrap())
            }
            (etherparse::NetHeaders::Ipv4(ip, _), etherparse::TransportHeader::Udp(udp)) => {
                (udp.checksum, udp.calc_checksum_ipv4(ip, payload).unwrap())
            }
            (etherparse::NetHeaders::Ipv6(ip, _), etherparse::TransportHeader::Udp(udp)) => {
                (udp.checksum, udp.calc_checksum_ipv6(ip, payload).unwrap())
            }
            (_, etherparse::TransportHeader::Icmpv4(icmp)) => {
                (icmp.checksum, icmp.icmp_type.calc_checksum(payload))
            }
            (etherparse::NetHeaders::Ipv6(ip, _), etherparse::TransportHeader::Icmpv6(icmp)) => {
                (icmp.checksum, icmp.icmp_type.calc_checksum(ip.source, ip.destination, payload).unwrap())
            }
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(sum.0, sum.1, "{text}");
    }
    assert!(view.address("vip", true).is_some());
}

/// Reasons that take more than packets to bring about, and the test that does.
const ELSEWHERE: [(DropReason, &str); 13] = [
    (DropReason::ConnectionTableFull, "nat_connections.rs"),
    (DropReason::CreationLimit, "nat_connections.rs"),
    (DropReason::TupleInUse, "nat_connections.rs"),
    (DropReason::NoLocalPort, "nat_connections.rs"),
    (DropReason::TooManyStreams, "ftp.rs"),
    (DropReason::RealServerRemoved, "changes.rs"),
    (DropReason::NoHeadroom, "tunnels.rs"),
    (DropReason::NoBuffer, "mtu.rs"),
    (DropReason::NoRoute, "nat.rs"),
    (DropReason::HostQueueFull, "catalogue.rs"),
    (DropReason::HandOverFull, "handover.rs"),
    (DropReason::TxFull, "fixture_table.rs"),
    (DropReason::PuntQueueFull, "fixture_table.rs"),
];

#[test]
fn every_reason_is_in_the_catalogue_and_on_the_page_with_who_is_told() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/PACKETS.md");
    let page = std::fs::read_to_string(page).unwrap();
    let (_, by_reason) = page.split_once("## By reason").unwrap();
    let rows = by_reason.lines().filter_map(|line| line.strip_prefix("| `"));
    let rows: Vec<(&str, &str)> = rows
        .map(|row| {
            let cells: Vec<&str> = row.split(" | ").collect();
            (cells[0].trim_end_matches('`'), cells[2].trim_end_matches(" |"))
        })
        .collect();
    let names: Vec<&str> = rows.iter().map(|(name, _)| *name).collect();
    let reasons: Vec<&str> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
    assert_eq!(names, reasons, "docs/PACKETS.md");

    for (reason, file) in ELSEWHERE {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests").join(file);
        assert!(
            std::fs::read_to_string(path).unwrap().contains(&format!("{reason:?}")),
            "{reason:?}: {file}"
        );
    }
    let cases: Vec<Case> =
        files().iter().flat_map(|(name, text)| table::parse(name, text).unwrap()).collect();
    for (name, told) in rows {
        let of_reason = cases.iter().filter(|case| case.counters.iter().any(|(counter, _)| counter == name));
        let of_reason: Vec<&Case> = of_reason.collect();
        let is_elsewhere = ELSEWHERE.iter().any(|(reason, _)| reason.name() == name);
        assert!(!of_reason.is_empty() || is_elsewhere, "no case of {name}");
        let is_told = |case: &&&Case| case.counters.iter().any(|(counter, _)| counter == "originated");
        match of_reason.iter().find(is_told) {
            Some(case) => assert_ne!(told, "no", "{name}: {}", case.place),
            None => assert!(told == "no" || is_elsewhere, "{name}: no case in which somebody is told"),
        }
    }
}

#[test]
fn host_that_takes_nothing_gets_a_queue_full_and_the_rest_is_dropped() {
    const MORE: usize = 10;
    let scenery = Scenery::new(Options::default());
    let mut stage = Stage::with_frames(&scenery, 1, HOST_QUEUE_CAPACITY + MORE);
    let view = View::new(&network::methods::METHODS[0], false);
    let frame = notation::frame("ip4 client > dip / tcp 40000 > 22 S", &view, Way::In, None).unwrap();
    for _ in 0..HOST_QUEUE_CAPACITY + MORE {
        assert!(stage.ports[0].inject(0, &frame));
        stage.poll();
    }
    let counts = stage.counts();
    assert_eq!(counts["to_host"], HOST_QUEUE_CAPACITY as u64);
    assert_eq!(counts[DropReason::HostQueueFull.name()], MORE as u64);
    stage.check_pools().unwrap();
}
