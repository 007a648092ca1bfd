//! FTP behind NAT: control and data connections, active and passive, in both families, byte for byte.

mod rig;

use std::net::{IpAddr, Ipv6Addr};

use dataplane::snapshot::{ClientAddress, Protocol};
use dataplane::verdict::DropReason;
use rig::nat::*;
use rig::packet::*;
use rig::*;
use scheduler::Algorithm;

const FTP: u16 = 21;
const CLIENT_ISN: u32 = 10_000;
const RS_ISN: u32 = 0xffff_ff00;

/// A control connection, established.
struct Session {
    rig: Rig,
    rs: Rs,
    client: End,
    vip: End,
    local: End,
    /// The worker that has the connection.
    owner: usize,
}

fn rig_of(workers: usize, rs: Rs) -> Rig {
    Rig::with(workers, 1, 1 << 16, |counts| {
        let mut snapshot = snapshot(counts, 1, Algorithm::Rr, &[rs]);
        let vip = if rs.is_ipv6 { VIP_6.into() } else { VIP.into() };
        add_service_at(vip, &mut snapshot, counts, Algorithm::Rr, &[rs], &[(Protocol::TCP, FTP)], |_| {});
        snapshot
    })
}

impl Session {
    fn new(workers: usize, rs: Rs) -> Session {
        Session::over(rig_of(workers, rs), rs, 40_000)
    }

    fn over(rig: Rig, rs: Rs, client_port: u16) -> Session {
        let (client, vip): (IpAddr, IpAddr) = match rs.is_ipv6 {
            false => (CLIENT.into(), VIP.into()),
            true => (CLIENT_6.into(), VIP_6.into()),
        };
        let (client, vip, owner) = ((client, client_port), (vip, FTP), rig.workers.len() - 1);
        let mut session = Session { rig, rs, client, vip, local: client, owner };
        let syn = FrameOf::tcp(client, vip, SYN).with_numbers(CLIENT_ISN, 0);
        session.local = source_of(&session.send(&syn));
        let syn_ack = FrameOf::tcp(session.rip(), session.local, SYN | ACK)
            .with_numbers(RS_ISN, CLIENT_ISN + 1)
            .sent_by(rs.slot);
        session.send(&syn_ack);
        let ack = session.request(0, 0, b"");
        let expected = session.at_rs(&ack);
        session.expect(&ack, &expected);
        session
    }

    fn rip(&self) -> End {
        (self.rs.address(), self.rs.translated_port)
    }

    /// A line of the client's, so many bytes into its stream and with so much of the real server's.
    fn request(&self, sent: u32, received: u32, line: &[u8]) -> FrameOf {
        FrameOf::tcp(self.client, self.vip, ACK | PSH)
            .with_numbers(CLIENT_ISN + 1 + sent, RS_ISN.wrapping_add(1 + received))
            .with_payload(line)
    }

    fn answer(&self, sent: u32, received: u32, line: &[u8]) -> FrameOf {
        FrameOf::tcp(self.rip(), self.local, ACK | PSH)
            .with_numbers(RS_ISN.wrapping_add(1 + sent), CLIENT_ISN + 1 + received)
            .with_payload(line)
            .sent_by(self.rs.slot)
    }

    fn at_rs(&self, request: &FrameOf) -> FrameOf {
        request.clone().between(self.local, self.rip()).at_rs(self.rs.slot)
    }

    fn at_client(&self, answer: &FrameOf) -> FrameOf {
        answer.clone().between(self.vip, self.client).macs(own_mac(0), CLIENT_MAC).ttl(63)
    }

    fn send(&mut self, frame: &FrameOf) -> Vec<u8> {
        self.send_on(self.owner, frame)
    }

    fn send_on(&mut self, queue: usize, frame: &FrameOf) -> Vec<u8> {
        let sent = self.rig.pass_on(queue, &frame.padded());
        assert_eq!(sent.len(), 1, "{frame:?}: {:?}", self.rig.counters);
        sent.into_iter().next().unwrap().1
    }

    fn expect(&mut self, frame: &FrameOf, expected: &FrameOf) {
        assert_eq!(self.send(frame), expected.padded(), "{frame:?}");
    }

    /// A request that goes on as it is but for its addresses.
    fn expect_as_it_is(&mut self, request: &FrameOf) {
        let expected = self.at_rs(request);
        self.expect(request, &expected);
    }

    fn settle(&self) {
        self.rig.assert_conservation();
        self.rig.assert_no_leak();
    }
}

fn numbers(address: [u8; 4], port: u16) -> String {
    let ([a, b, c, d], [high, low]) = (address, port.to_be_bytes());
    format!("{a},{b},{c},{d},{high},{low}")
}

fn octets(address: IpAddr) -> [u8; 4] {
    match address {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(_) => panic!(),
    }
}

fn passive(address: [u8; 4], port: u16) -> Vec<u8> {
    format!("227 Entering Passive Mode ({}).\r\n", numbers(address, port)).into_bytes()
}

fn extended_passive(port: u16) -> Vec<u8> {
    format!("229 Entering Extended Passive Mode (|||{port}|)\r\n").into_bytes()
}

#[test]
fn passive_mode_names_the_vip_and_leads_to_the_real_server() {
    for rs in [Rs::nat(3, 21), Rs::nat(3, 2121), Rs::full_nat(3, 2121)] {
        let mut session = Session::new(1, rs);
        session.expect_as_it_is(&session.request(0, 0, b"PASV\r\n"));
        let (said, seen) = (passive(octets(rs.address()), 50_000), passive(VIP, 50_000));
        let longer = seen.len() as u32 - said.len() as u32;
        assert_eq!(longer, 1);
        // Also where it is sent again.
        for _ in 0..2 {
            let answer = session.answer(0, 6, &said);
            let expected = session.at_client(&answer).with_payload(&seen);
            session.expect(&answer, &expected);
        }
        let (said, seen) = (said.len() as u32, seen.len() as u32);
        // What is behind the line is shifted, what acknowledges it set back.
        let more = session.answer(said, 6, b"150 Here it comes\r\n");
        let expected = session.at_client(&session.answer(seen, 6, b"150 Here it comes\r\n"));
        session.expect(&more, &expected);
        let before = session.request(6, 0, b"");
        let expected = session.at_rs(&before);
        session.expect(&before, &expected);
        let behind = session.request(6, seen, b"RETR file\r\n");
        let expected = session.at_rs(&session.request(6, said, b"RETR file\r\n"));
        session.expect(&behind, &expected);
        // The data connection.
        let client = (session.client.0, 45_000);
        let syn = FrameOf::tcp(client, (session.vip.0, 50_000), SYN);
        let sent = session.send(&syn);
        let local = source_of(&sent);
        let real_server = (rs.address(), 50_000);
        assert_eq!(sent, syn.clone().between(local, real_server).at_rs(3).padded());
        if rs.method == dataplane::snapshot::ForwardingMethod::FullNat {
            assert_eq!(local.0, session.local.0, "servers want the control connection's peer");
        } else {
            assert_eq!(local, client);
        }
        let syn_ack = FrameOf::tcp(real_server, local, SYN | ACK).sent_by(3);
        let expected =
            syn_ack.clone().between((session.vip.0, 50_000), client).macs(own_mac(0), CLIENT_MAC).ttl(63);
        session.expect(&syn_ack, &expected);
        let data = FrameOf::tcp(client, (session.vip.0, 50_000), ACK).with_payload(b"PORT 1,2,3,4,5,6\r\n");
        let expected = data.clone().between(local, real_server).at_rs(3);
        session.expect(&data, &expected);
        assert_eq!(session.rig.state(45_000), "ESTABLISHED");
        assert_eq!(session.rig.counts(3), (2, 0));
        // Nobody else was awaited there.
        let other = FrameOf::tcp((session.client.0, 45_001), (session.vip.0, 50_000), SYN);
        assert!(session.rig.pass_on(0, &other.padded()).is_empty());
        session.settle();
    }
}

#[test]
fn data_connections_of_a_group_reach_their_real_server() {
    let rs = Rs::nat(3, 21);
    let rig = Rig::with(1, 1, 1 << 16, |counts| {
        let mut snapshot = snapshot(counts, 1, Algorithm::Rr, &[rs]);
        add_service(&mut snapshot, counts, Algorithm::Rr, &[rs], &[(Protocol::TCP, FTP)], |_| {});
        // As the control thread has it of a group.
        snapshot.ftp_services.clear();
        snapshot
    });
    let mut session = Session::over(rig, rs, 40_000);
    let answer = session.answer(0, 0, &extended_passive(50_000));
    session.send(&answer);
    let client = (session.client.0, 45_000);
    let syn = FrameOf::tcp(client, (session.vip.0, 50_000), SYN);
    let expected = syn.clone().between(client, (rs.address(), 50_000)).at_rs(3);
    session.expect(&syn, &expected);
    session.settle();
}

#[test]
fn later_lines_add_to_the_shift_of_those_before() {
    let rs = Rs::nat(3, 21);
    let mut session = Session::new(1, rs);
    let (mut said, mut seen) = (0_u32, 0_u32);
    for port in [50_000, 1124, 65_535, 2000] {
        let (line, shown) = (passive(octets(rs.address()), port), passive(VIP, port));
        let answer = session.answer(said, 0, &line);
        let expected = session.at_client(&session.answer(seen, 0, &line)).with_payload(&shown);
        session.expect(&answer, &expected);
        session.expect(&answer, &expected);
        (said, seen) = (said + line.len() as u32, seen + shown.len() as u32);
        let ack = session.request(0, seen, b"");
        let expected = session.at_rs(&session.request(0, said, b""));
        session.expect(&ack, &expected);
        let text = session.answer(said, 0, b"226 Done\r\n");
        let expected = session.at_client(&session.answer(seen, 0, b"226 Done\r\n"));
        session.expect(&text, &expected);
        (said, seen) = (said + 10, seen + 10);
    }
    session.settle();
}

#[test]
fn extended_passive_mode_needs_no_other_text_in_either_family() {
    for is_ipv6 in [false, true] {
        for rs in [Rs { is_ipv6, ..Rs::nat(3, 21) }, Rs { is_ipv6, ..Rs::full_nat(3, 21) }] {
            let mut session = Session::new(1, rs);
            session.expect_as_it_is(&session.request(0, 0, b"EPSV\r\n"));
            let answer = session.answer(0, 6, &extended_passive(50_000));
            let expected = session.at_client(&answer);
            session.expect(&answer, &expected);
            let syn = FrameOf::tcp((session.client.0, 45_000), (session.vip.0, 50_000), SYN);
            let sent = session.send(&syn);
            let expected = syn.between(source_of(&sent), (rs.address(), 50_000)).at_rs(3);
            assert_eq!(sent, expected.padded());
            session.settle();
        }
    }
}

#[test]
fn active_mode_lets_the_real_server_connect_from_the_data_port_of_the_vip() {
    let client_6: Ipv6Addr = CLIENT_6.into();
    for (is_ipv6, line) in [
        (false, format!("PORT {}\r\n", numbers(CLIENT, 45_000))),
        (false, "EPRT |1|198.51.100.7|45000|\r\n".to_owned()),
        (true, format!("EPRT |2|{client_6}|45000|\r\n")),
    ] {
        let rs = Rs { is_ipv6, ..Rs::nat(3, 2121) };
        let mut session = Session::new(1, rs);
        session.expect_as_it_is(&session.request(0, 0, line.as_bytes()));
        let (client, real_server) = ((session.client.0, 45_000), (rs.address(), 2120));
        let syn = FrameOf::tcp(real_server, client, SYN).sent_by(3);
        let expected = syn.clone().between((session.vip.0, 20), client).macs(own_mac(0), CLIENT_MAC).ttl(63);
        session.expect(&syn, &expected);
        let syn_ack = FrameOf::tcp(client, (session.vip.0, 20), SYN | ACK);
        let expected = syn_ack.clone().between(client, real_server).at_rs(3);
        session.expect(&syn_ack, &expected);
        session.send(&FrameOf::tcp(real_server, client, ACK).sent_by(3));
        assert_eq!(session.rig.state(45_000), "ESTABLISHED");
        assert_eq!(session.rig.counts(3), (2, 0));
        // The same again, once that is over.
        session.send(&FrameOf::tcp(real_server, client, FIN | ACK).sent_by(3));
        session.expect_as_it_is(&session.request(line.len() as u32, 0, line.as_bytes()));
        assert_eq!(session.rig.state(45_000), "LISTEN");
        assert_eq!((session.rig.counts(3), session.rig.connections().len()), ((1, 1), 2));
        session.settle();
    }
}

#[test]
fn active_mode_of_full_nat_names_a_local_address_and_its_port() {
    let client_6: Ipv6Addr = CLIENT_6.into();
    for (is_ipv6, line) in [
        (false, format!("PORT {}\r\n", numbers(CLIENT, 45_000))),
        (false, "EPRT |1|198.51.100.7|45000|\r\n".to_owned()),
        (true, format!("eprt |2|{client_6}|45000|\r\n")),
    ] {
        let rs = Rs { is_ipv6, ..Rs::full_nat(3, 21) };
        let mut session = Session::new(1, rs);
        let request = session.request(0, 0, line.as_bytes());
        let sent = session.send(&request);
        assert_eq!(session.send(&request), sent, "the same where it is sent again");
        let at = if is_ipv6 { 74 } else { 54 };
        let total = if is_ipv6 {
            54 + usize::from(u16::from_be_bytes([sent[18], sent[19]]))
        } else {
            14 + usize::from(u16::from_be_bytes([sent[16], sent[17]]))
        };
        let text = String::from_utf8(sent[at..total].to_vec()).unwrap();
        let said = dataplane::packet::ftp::read_command(text.as_bytes()).unwrap();
        assert_eq!(said.address, Some(session.local.0));
        assert_eq!(sent, session.at_rs(&request).with_payload(text.as_bytes()).padded());
        // The client hears of what it sent only.
        let longer = (text.len() as u32).wrapping_sub(line.len() as u32);
        let answer = session.answer(0, text.len() as u32, b"200 Fine\r\n");
        let expected = session.at_client(&session.answer(0, line.len() as u32, b"200 Fine\r\n"));
        session.expect(&answer, &expected);
        let next = session.request(line.len() as u32, 10, b"LIST\r\n");
        let expected =
            session.at_rs(&session.request((line.len() as u32).wrapping_add(longer), 10, b"LIST\r\n"));
        session.expect(&next, &expected);
        let (client, real_server) = ((session.client.0, 45_000), (rs.address(), 20));
        let syn = FrameOf::tcp(real_server, (session.local.0, said.port), SYN).sent_by(3);
        let expected = syn.clone().between((session.vip.0, 20), client).macs(own_mac(0), CLIENT_MAC).ttl(63);
        session.expect(&syn, &expected);
        let syn_ack = FrameOf::tcp(client, (session.vip.0, 20), SYN | ACK);
        let expected = syn_ack.clone().between((session.local.0, said.port), real_server).at_rs(3);
        session.expect(&syn_ack, &expected);
        session.settle();
    }
}

#[test]
fn data_connections_reach_the_control_connections_worker_from_any_other() {
    for rs in [Rs::nat(3, 21), Rs::full_nat(3, 21)] {
        let mut session = Session::new(3, rs);
        assert_eq!(session.owner, 2);
        session.send(&session.answer(0, 0, &passive(octets(rs.address()), 50_000)));
        session.send(&session.request(0, 0, format!("PORT {}\r\n", numbers(CLIENT, 45_000)).as_bytes()));
        let client = (session.client.0, 46_000);
        let syn = FrameOf::tcp(client, (session.vip.0, 50_000), SYN);
        let sent = session.send_on(0, &syn);
        let local = source_of(&sent);
        for queue in 0..3 {
            let data = FrameOf::tcp(client, (session.vip.0, 50_000), ACK).with_payload(b"data");
            let expected = data.clone().between(local, (rs.address(), 50_000)).at_rs(3).padded();
            assert_eq!(session.send_on(queue, &data), expected);
            let answer = FrameOf::tcp((rs.address(), 50_000), local, ACK).sent_by(3);
            assert_eq!(source_of(&session.send_on(queue, &answer)), (session.vip.0, 50_000));
        }
        if rs.method == dataplane::snapshot::ForwardingMethod::Nat {
            for queue in 0..3 {
                let syn = FrameOf::tcp((rs.address(), 20), (session.client.0, 45_000), SYN).sent_by(3);
                assert_eq!(source_of(&session.send_on(queue, &syn)), (session.vip.0, 20));
                let syn_ack = FrameOf::tcp((session.client.0, 45_000), (session.vip.0, 20), SYN | ACK);
                assert_eq!(source_of(&session.send_on(queue, &syn_ack)), (session.client.0, 45_000));
            }
        }
        assert_eq!(session.rig.counters[2].connections_opened.load(), 3);
        session.settle();
    }
}

#[test]
fn addresses_of_others_are_left_alone() {
    let rs = Rs::nat(3, 21);
    let mut session = Session::new(1, rs);
    let mut sent = 0;
    for line in [
        format!("PORT {}\r\n", numbers([198, 51, 100, 99], 45_000)),
        "EPRT |1|198.51.100.99|45000|\r\n".to_owned(),
        "EPRT |2|2001:db8::7|45000|\r\n".to_owned(),
        "PORT 1,2,3\r\n".to_owned(),
        "NOOP\r\n".to_owned(),
        format!("XPORT {}\r\n", numbers(CLIENT, 45_000)),
    ] {
        session.expect_as_it_is(&session.request(sent, 0, line.as_bytes()));
        sent += line.len() as u32;
    }
    let mut received = 0;
    for line in [
        passive([10, 0, 0, 99], 50_000),
        b"227 what?\r\n".to_vec(),
        b"229 (|||x|)\r\n".to_vec(),
        // Nobody waits for data on a port of other services.
        passive(octets(rs.address()), 1023),
        b"229 (|||22|)\r\n".to_vec(),
    ] {
        let answer = session.answer(received, sent, &line);
        let expected = session.at_client(&answer);
        session.expect(&answer, &expected);
        received += line.len() as u32;
    }
    assert_eq!(session.rig.connections().len(), 1);
    session.settle();
}

#[test]
fn vip_in_the_real_servers_own_words_stays_and_is_awaited() {
    let rs = Rs::nat(3, 21);
    let mut session = Session::new(1, rs);
    let answer = session.answer(0, 0, &passive(VIP, 50_000));
    let expected = session.at_client(&answer);
    session.expect(&answer, &expected);
    let syn = FrameOf::tcp((session.client.0, 45_000), (session.vip.0, 50_000), SYN);
    session.send(&syn);
    session.settle();
}

#[test]
fn line_in_two_segments_or_damaged_passes_as_it_is() {
    let rs = Rs::nat(3, 21);
    let mut session = Session::new(1, rs);
    let line = passive(octets(rs.address()), 50_000);
    for (from, to) in [(0, 20), (20, line.len())] {
        let answer = session.answer(from as u32, 0, &line[from..to]);
        let expected = session.at_client(&answer);
        session.expect(&answer, &expected);
    }
    let answer = session.answer(line.len() as u32, 0, &line);
    let (mut damaged, mut expected) = (answer.padded(), session.at_client(&answer).padded());
    damaged[60] ^= 1;
    expected[60] ^= 1;
    assert_eq!(session.rig.pass_on(0, &damaged)[0].1, expected);
    assert_eq!(session.rig.connections().len(), 1);
    session.settle();
}

#[test]
fn port_of_the_vip_that_is_taken_makes_way_for_the_next() {
    let rs = Rs::nat(3, 21);
    let mut rig = rig_of(1, rs);
    let mut snapshot = snapshot(&rig.counts, 1, Algorithm::Rr, &[rs]);
    for port in [FTP, 50_000] {
        add_service(&mut snapshot, &rig.counts, Algorithm::Rr, &[rs], &[(Protocol::TCP, port)], |_| {});
    }
    rig.publish_snapshot(snapshot);
    let mut session = Session::over(rig, rs, 40_000);
    for _ in 0..2 {
        let answer = session.answer(0, 0, &passive(octets(rs.address()), 50_000));
        let expected = session.at_client(&answer).with_payload(&passive(VIP, 50_001));
        session.expect(&answer, &expected);
    }
    let syn = FrameOf::tcp((session.client.0, 45_000), (session.vip.0, 50_001), SYN);
    let expected = syn.clone().between(syn.source, (rs.address(), 50_000)).at_rs(3);
    session.expect(&syn, &expected);
    session.settle();
}

#[test]
fn data_connection_that_nobody_opens_ends_and_a_busy_one_keeps_its_control_connection() {
    let rs = Rs::nat(3, 21);
    let mut session = Session::new(1, rs);
    session.send(&session.answer(0, 0, &extended_passive(50_000)));
    session.send(&session.answer(49, 0, &extended_passive(50_001)));
    let data = |flags| FrameOf::tcp((CLIENT.into(), 45_000), (VIP.into(), 50_001), flags);
    session.send(&data(SYN));
    session.send(&data(ACK));
    assert_eq!((session.rig.connections().len(), session.rig.counts(3)), (3, (2, 1)));
    session.rig.advance_and_sweep(125);
    assert_eq!((session.rig.connections().len(), session.rig.counts(3)), (2, (2, 0)));
    // The control connection is silent for an hour.
    for _ in 0..36 {
        session.rig.advance_and_sweep(100);
        session.send(&data(ACK));
    }
    session.expect_as_it_is(&session.request(0, 0, b"NOOP\r\n"));
    session.rig.advance_and_sweep(1000);
    assert!(session.rig.connections().is_empty());
    assert_eq!(session.rig.counts(3), (0, 0));
    session.settle();
}

#[test]
fn sessions_whose_lines_change_their_length_are_bounded_and_their_places_come_again() {
    let rs = Rs::nat(3, 21);
    let mut rig = rig_of(1, rs);
    let mut opened = 0;
    let mut line_of = |rig: Rig, port: u16| {
        let mut session = Session::over(rig, rs, port);
        let answer = session.answer(0, 0, &passive(octets(rs.address()), 2000 + port % 30_000));
        let sent = session.rig.pass_on(0, &answer.padded()).len();
        opened += sent;
        (session.rig, sent)
    };
    for port in 1024..1024 + 4096 {
        let sent;
        (rig, sent) = line_of(rig, port);
        assert_eq!(sent, 1);
    }
    for port in 6000..6010 {
        let sent;
        (rig, sent) = line_of(rig, port);
        assert_eq!(sent, 0);
    }
    assert_eq!(rig.dropped(DropReason::TooManyStreams), 10);
    rig.hand.advance_seconds(1000);
    for _ in 0..2000 {
        rig.poll();
    }
    for port in 7000..7100 {
        let sent;
        (rig, sent) = line_of(rig, port);
        assert_eq!(sent, 1);
    }
    rig.assert_conservation();
    rig.assert_no_leak();
}

#[test]
fn introduced_control_connection_counts_both_changes() {
    let rs = Rs { client_address: ClientAddress::ProxyV2, ..Rs::full_nat(3, 21) };
    let mut rig = rig_of(1, rs);
    let client = (CLIENT.into(), 40_000);
    let syn = FrameOf::tcp(client, (VIP.into(), FTP), SYN).with_numbers(CLIENT_ISN, 0);
    let local = source_of(&rig.pass_on(0, &syn.padded())[0].1);
    let real_server = (rs.address(), 21);
    let server = |sent: u32, received: u32, line: &[u8]| {
        FrameOf::tcp(real_server, local, ACK)
            .with_numbers(RS_ISN.wrapping_add(1 + sent), CLIENT_ISN + 1 + received)
            .with_payload(line)
            .sent_by(3)
    };
    let request = |sent: u32, line: &[u8]| {
        FrameOf::tcp(client, (VIP.into(), FTP), ACK)
            .with_numbers(CLIENT_ISN + 1 + sent, RS_ISN.wrapping_add(1))
            .with_payload(line)
    };
    let syn_ack = FrameOf::tcp(real_server, local, SYN | ACK).with_numbers(RS_ISN, CLIENT_ISN + 1).sent_by(3);
    assert_eq!(rig.pass_on(0, &syn_ack.padded()).len(), 1);
    assert_eq!(rig.pass_on(0, &request(0, b"").padded()).len(), 1);
    let sequence = |frame: &[u8]| u32::from_be_bytes(frame[38..42].try_into().unwrap());
    let acknowledged = |frame: &[u8]| u32::from_be_bytes(frame[42..46].try_into().unwrap());
    rig.pass_on(0, &server(0, 28, b"").padded());
    let line = format!("PORT {}\r\n", numbers(CLIENT, 45_000));
    let sent = &rig.pass_on(0, &request(0, line.as_bytes()).padded())[0].1;
    assert_eq!(sequence(sent), CLIENT_ISN + 1 + 28);
    let text = usize::from(u16::from_be_bytes([sent[16], sent[17]])) - 40;
    let next = &rig.pass_on(0, &request(line.len() as u32, b"LIST\r\n").padded())[0].1;
    assert_eq!(sequence(next), CLIENT_ISN + 1 + 28 + text as u32);
    let heard = &rig.pass_on(0, &server(0, 28 + text as u32, b"200 Fine\r\n").padded())[0].1;
    assert_eq!(acknowledged(heard), CLIENT_ISN + 1 + line.len() as u32);
    let heard = &rig.pass_on(0, &server(0, 28, b"200 Fine\r\n").padded())[0].1;
    assert_eq!(acknowledged(heard), CLIENT_ISN + 1);
    rig.assert_conservation();
}

/// PORT with this port of the client.
fn port(client: &End, port: u16) -> Vec<u8> {
    format!("PORT {}\r\n", numbers(octets(client.0), port)).into_bytes()
}

#[test]
fn control_connection_announces_no_more_than_15_data_connections_that_nobody_opens() {
    let mut session = Session::new(1, Rs::nat(3, 21));
    let announce = |session: &mut Session, number: u16| {
        let request = session.request(0, 0, &port(&session.client, 45_000 + number));
        !session.rig.pass_on(0, &request.padded()).is_empty()
    };
    let passed = (0..100).filter(|number| announce(&mut session, *number)).count();
    assert_eq!((passed, session.rig.dropped(DropReason::CreationLimit)), (15, 85));
    assert_eq!(session.rig.connections().len(), 16);
    assert!(announce(&mut session, 0), "awaited already");
    // One that comes makes room; a lone ACK of anybody does not.
    let (client, server) = ((session.client.0, 45_000), (session.vip.0, 20));
    session.send(&FrameOf::tcp(client, server, ACK));
    assert!(!announce(&mut session, 15));
    let from_rs = |flags| FrameOf::tcp((session.rs.address(), 20), client, flags).sent_by(3);
    let (syn, ack) = (from_rs(SYN), from_rs(ACK));
    session.send(&syn);
    session.send(&FrameOf::tcp(client, server, SYN | ACK));
    session.send(&ack);
    assert_eq!(session.rig.state(45_000), "ESTABLISHED");
    assert!(announce(&mut session, 15));
    assert!(!announce(&mut session, 16));
    // So does time.
    session.rig.hand.advance_seconds(8);
    assert!(announce(&mut session, 16));
    assert!(!announce(&mut session, 17));
    session.settle();
}

#[test]
fn data_connections_that_come_are_announced_without_bound() {
    let mut session = Session::new(1, Rs::nat(3, 21));
    for number in 0..200_u16 {
        let line = passive(octets(session.rs.address()), 2000 + number);
        let answer = session.answer(u32::from(number) * 100, 0, &line);
        session.send(&answer);
        let client = (session.client.0, 45_000 + number);
        session.send(&FrameOf::tcp(client, (session.vip.0, 2000 + number), SYN));
    }
    assert_eq!(session.rig.connections().len(), 201);
    session.settle();
}

#[test]
fn announced_data_connections_take_from_the_allowance_for_new_ones() {
    let rs = Rs::nat(3, 21);
    let rig = Rig::with(1, 1, 1 << 16, |counts| {
        let mut snapshot = snapshot(counts, 1, Algorithm::Rr, &[rs]);
        snapshot.options.creation_rate_per_worker = 1;
        add_service(&mut snapshot, counts, Algorithm::Rr, &[rs], &[(Protocol::TCP, FTP)], |_| {});
        snapshot
    });
    let mut session = Session::over(rig, rs, 40_000);
    // The burst is 32, of which the control connection has one.
    for client_port in 1000..1031 - 3 {
        session.send(&FrameOf::tcp((session.client.0, client_port), session.vip, SYN));
    }
    let passed = (0..10_u16).filter(|number| {
        let request = session.request(0, 0, &port(&session.client, 45_000 + number));
        !session.rig.pass_on(0, &request.padded()).is_empty()
    });
    assert_eq!(passed.count(), 3);
    assert_eq!(session.rig.dropped(DropReason::CreationLimit), 7);
    session.settle();
}

#[test]
fn line_that_grows_beyond_what_its_way_carries_is_refused() {
    let rs = Rs::nat(3, 21);
    let mut session = Session::new(1, rs);
    let (line, shown) = (passive(octets(rs.address()), 50_000), passive(VIP, 50_000));
    let growth = shown.len() - line.len();
    let full = |more: usize| [&line[..], &vec![b'x'; 1460 - more - line.len()]].concat();
    let fits = session.answer(0, 0, &full(growth));
    assert_eq!(session.send(&fits).len(), 14 + 1500);
    let mut session = Session::new(1, rs);
    let exceeds = session.answer(0, 0, &full(growth - 1));
    assert!(session.rig.pass_on(0, &exceeds.padded()).is_empty());
    assert_eq!(session.rig.dropped(DropReason::TooBig), 1);
    session.settle();
}
