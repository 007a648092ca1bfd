//! Ethernet II.

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Shortest frame without its checksum; shorter ones are padded with zeros.
pub const FRAME_BYTES_MIN: usize = 60;
/// The broadcast address.
pub const BROADCAST: [u8; 6] = [0xff; 6];
/// EtherType of IPv4.
pub const IPV4: U16 = U16::new(0x0800);
/// EtherType of ARP.
pub const ARP: U16 = U16::new(0x0806);
/// EtherType of IPv6.
pub const IPV6: U16 = U16::new(0x86dd);
/// EtherType of a VLAN tag (IEEE 802.1Q).
pub const VLAN: U16 = U16::new(0x8100);
/// EtherType of a service provider's VLAN tag (802.1ad).
pub const SERVICE_VLAN: U16 = U16::new(0x88a8);
/// EtherType of an outer VLAN tag before 802.1ad.
pub const OLD_SERVICE_VLAN: U16 = U16::new(0x9100);

/// The 14 bytes in front of every packet.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct EthernetHeader {
    /// Destination MAC.
    pub destination: [u8; 6],
    /// Source MAC.
    pub source: [u8; 6],
    /// What follows.
    pub ether_type: U16,
}

/// Bytes of the header.
pub const HEADER_BYTES: usize = size_of::<EthernetHeader>();

impl EthernetHeader {
    /// The header and what follows it; none where the frame is shorter than 14 bytes.
    #[inline(always)]
    pub fn read(frame: &[u8]) -> Option<(&EthernetHeader, &[u8])> {
        EthernetHeader::ref_from_prefix(frame).ok()
    }
}
