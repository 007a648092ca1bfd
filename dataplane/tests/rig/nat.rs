//! One worker before real servers behind NAT: what a frame becomes.

use std::net::IpAddr;

use dataplane::verdict::DropReason;
use scheduler::Algorithm;

use super::packet::{End, FrameOf};
use super::{CLIENT_6, Rig, Rs, VIP, VIP_6};

pub const CIP: End = (IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 7)), 40_000);

pub fn vip(port: u16) -> End {
    (VIP.into(), port)
}

pub fn vip_6(port: u16) -> End {
    (VIP_6.into(), port)
}

pub fn client_6(port: u16) -> End {
    (CLIENT_6.into(), port)
}

pub fn rip(rs: &Rs, port: u16) -> End {
    (rs.address(), port)
}

pub fn rig(real_servers: &[Rs]) -> Rig {
    Rig::new(1, 1, 4096, Algorithm::Rr, real_servers)
}

/// What one frame becomes; exactly one comes out, by port 0.
pub fn become_of(rig: &mut Rig, frame: &FrameOf) -> Vec<u8> {
    let sent = rig.pass_on(0, &frame.padded());
    assert_eq!(sent.len(), 1, "{frame:?}: {:?}", rig.counters[0]);
    assert_eq!(sent[0].0, 0);
    sent.into_iter().next().unwrap().1
}

pub fn assert_becomes(rig: &mut Rig, frame: &FrameOf, expected: &FrameOf) {
    assert_eq!(become_of(rig, frame), expected.padded(), "{frame:?}");
}

pub fn assert_dropped(rig: &mut Rig, frame: &FrameOf, reason: DropReason) {
    let before = rig.dropped(reason);
    assert_eq!(rig.pass_on(0, &frame.padded()), [], "{frame:?}");
    assert_eq!(rig.dropped(reason), before + 1, "{frame:?}: {:?}", rig.counters[0]);
}

pub fn assert_settled(rig: &Rig) {
    rig.assert_conservation();
    rig.assert_no_leak();
}

/// Source of an untagged frame with ports.
pub fn source_of(frame: &[u8]) -> End {
    let at = |range: std::ops::Range<usize>| &frame[range];
    match frame[12..14] == [0x08, 0] {
        true => (<[u8; 4]>::try_from(at(26..30)).unwrap().into(), u16::from_be_bytes([frame[34], frame[35]])),
        false => {
            (<[u8; 16]>::try_from(at(22..38)).unwrap().into(), u16::from_be_bytes([frame[54], frame[55]]))
        }
    }
}
