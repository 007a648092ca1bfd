//! Frames of both families, built by etherparse, byte for byte what is expected.

use std::net::IpAddr;

use dataplane::packet::crc32c;
use etherparse::{PacketBuilder, TcpHeader, VlanId};

use super::{ACK, CLIENT_MAC, FIN, RST, SYN, own_mac, rs_mac};

/// An address and a port.
pub type End = (IpAddr, u16);

pub const PSH: u8 = 0x08;

/// A frame to be built.
#[derive(Clone, Debug)]
pub struct FrameOf {
    pub source_mac: [u8; 6],
    pub destination_mac: [u8; 6],
    /// 0: no tag.
    pub vlan: u16,
    pub source: End,
    pub destination: End,
    pub ttl: u8,
    pub layer: Layer,
    pub payload: Vec<u8>,
}

/// Its transport header.
#[derive(Clone, Debug)]
pub enum Layer {
    Tcp { flags: u8, sequence: u32, acknowledgement: u32, options: Vec<u8> },
    Udp,
    Sctp,
}

impl FrameOf {
    fn new(source: End, destination: End, layer: Layer) -> FrameOf {
        FrameOf {
            source_mac: CLIENT_MAC,
            destination_mac: own_mac(0),
            vlan: 0,
            source,
            destination,
            ttl: 64,
            layer,
            payload: Vec::new(),
        }
    }

    pub fn tcp(source: End, destination: End, flags: u8) -> FrameOf {
        let layer = Layer::Tcp { flags, sequence: 1000, acknowledgement: 5000, options: Vec::new() };
        FrameOf::new(source, destination, layer)
    }

    pub fn udp(source: End, destination: End, payload: &[u8]) -> FrameOf {
        FrameOf::new(source, destination, Layer::Udp).with_payload(payload)
    }

    /// With these chunks.
    pub fn sctp(source: End, destination: End, chunks: &[u8]) -> FrameOf {
        FrameOf::new(source, destination, Layer::Sctp).with_payload(chunks)
    }

    pub fn with_payload(mut self, payload: &[u8]) -> FrameOf {
        self.payload = payload.to_vec();
        self
    }

    pub fn with_numbers(mut self, new_sequence: u32, new_acknowledgement: u32) -> FrameOf {
        if let Layer::Tcp { sequence, acknowledgement, .. } = &mut self.layer {
            (*sequence, *acknowledgement) = (new_sequence, new_acknowledgement);
        }
        self
    }

    pub fn with_options(mut self, new: &[u8]) -> FrameOf {
        if let Layer::Tcp { options, .. } = &mut self.layer {
            *options = new.to_vec();
        }
        self
    }

    pub fn macs(mut self, source: [u8; 6], destination: [u8; 6]) -> FrameOf {
        (self.source_mac, self.destination_mac) = (source, destination);
        self
    }

    pub fn ttl(mut self, ttl: u8) -> FrameOf {
        self.ttl = ttl;
        self
    }

    pub fn vlan(mut self, vlan: u16) -> FrameOf {
        self.vlan = vlan;
        self
    }

    /// As a real server on port 0 sends it.
    pub fn sent_by(self, slot: u32) -> FrameOf {
        self.macs(rs_mac(slot), own_mac(0))
    }

    /// As the director sends it to the real server on port 0, one hop later.
    pub fn at_rs(self, slot: u32) -> FrameOf {
        let ttl = self.ttl - 1;
        self.macs(own_mac(0), rs_mac(slot)).ttl(ttl)
    }

    /// As the director sends it to the client on port 0, one hop later.
    pub fn at_client(self) -> FrameOf {
        let ttl = self.ttl - 1;
        self.macs(own_mac(0), CLIENT_MAC).ttl(ttl)
    }

    /// The same between others.
    pub fn between(mut self, source: End, destination: End) -> FrameOf {
        (self.source, self.destination) = (source, destination);
        self
    }

    /// Its bytes, not padded.
    pub fn build(&self) -> Vec<u8> {
        let ethernet = PacketBuilder::ethernet2(self.source_mac, self.destination_mac);
        let mut frame = Vec::new();
        macro_rules! with_ip {
            ($below:expr) => {
                match (self.source.0, self.destination.0) {
                    (IpAddr::V4(source), IpAddr::V4(destination)) => {
                        $below.ipv4(source.octets(), destination.octets(), self.ttl)
                    }
                    (IpAddr::V6(source), IpAddr::V6(destination)) => {
                        $below.ipv6(source.octets(), destination.octets(), self.ttl)
                    }
                    _ => panic!("one family"),
                }
            };
        }
        let ip = match self.vlan {
            0 => with_ip!(ethernet),
            vlan => with_ip!(ethernet.single_vlan(VlanId::try_new(vlan).unwrap())),
        };
        match &self.layer {
            Layer::Tcp { flags, sequence, acknowledgement, options } => {
                let mut header = TcpHeader::new(self.source.1, self.destination.1, *sequence, 65_000);
                header.acknowledgment_number = *acknowledgement;
                header.syn = flags & SYN != 0;
                header.fin = flags & FIN != 0;
                header.rst = flags & RST != 0;
                header.ack = flags & ACK != 0;
                header.psh = flags & PSH != 0;
                header.set_options_raw(options).unwrap();
                ip.tcp_header(header).write(&mut frame, &self.payload).unwrap();
            }
            Layer::Udp => {
                ip.udp(self.source.1, self.destination.1).write(&mut frame, &self.payload).unwrap();
            }
            Layer::Sctp => {
                let (source, destination) = (self.source.1.to_be_bytes(), self.destination.1.to_be_bytes());
                let tag = [0, 0, 0, 1, 0, 0, 0, 0];
                let mut packet = [&source[..], &destination, &tag, &self.payload].concat();
                crc32c::set(&mut packet);
                ip.write(&mut frame, etherparse::IpNumber::SCTP, &packet).unwrap();
            }
        }
        frame
    }

    /// Padded to the least that Ethernet sends.
    pub fn padded(&self) -> Vec<u8> {
        let mut frame = self.build();
        frame.resize(frame.len().max(60), 0);
        frame
    }
}
