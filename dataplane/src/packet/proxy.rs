//! The header of the PROXY protocol, version 2: what a real server of full NAT reads first in a TCP stream, so that it knows
//! the client.
//!
//! Twelve bytes of signature; 0x21, version 2 and command PROXY; 0x11 or 0x21, TCP over IPv4 or IPv6; the length of what
//! follows; the client's address, the VIP, the client's port, the service's port.

use std::net::IpAddr;

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const VERSION_2_PROXY: u8 = 0x21;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;
const ADDRESSES_AT: usize = 16;

/// Bytes of the header with IPv4 addresses.
pub const V4_BYTES: usize = ADDRESSES_AT + 12;
/// Bytes of the header with IPv6 addresses.
pub const V6_BYTES: usize = ADDRESSES_AT + 36;

/// The header of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyHeader {
    bytes: [u8; V6_BYTES],
    length: u8,
}

impl ProxyHeader {
    /// `source`: the client's address and port; `destination`: the VIP's. None where they are of two families.
    pub fn new(source: (IpAddr, u16), destination: (IpAddr, u16)) -> Option<ProxyHeader> {
        let mut bytes = [0; V6_BYTES];
        let (family, length) = match (source.0, destination.0) {
            (IpAddr::V4(client), IpAddr::V4(vip)) => {
                bytes[ADDRESSES_AT..][..4].copy_from_slice(&client.octets());
                bytes[ADDRESSES_AT + 4..][..4].copy_from_slice(&vip.octets());
                (TCP_OVER_IPV4, V4_BYTES)
            }
            (IpAddr::V6(client), IpAddr::V6(vip)) => {
                bytes[ADDRESSES_AT..][..16].copy_from_slice(&client.octets());
                bytes[ADDRESSES_AT + 16..][..16].copy_from_slice(&vip.octets());
                (TCP_OVER_IPV6, V6_BYTES)
            }
            _ => return None,
        };
        bytes[..12].copy_from_slice(&SIGNATURE);
        bytes[12] = VERSION_2_PROXY;
        bytes[13] = family;
        bytes[14..16].copy_from_slice(&((length - ADDRESSES_AT) as u16).to_be_bytes());
        bytes[length - 4..length - 2].copy_from_slice(&source.1.to_be_bytes());
        bytes[length - 2..length].copy_from_slice(&destination.1.to_be_bytes());
        Some(ProxyHeader { bytes, length: length as u8 })
    }

    /// The bytes to put in front of the stream: [`V4_BYTES`] or [`V6_BYTES`] of them.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or(&self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_as_the_specification_has_them() {
        let v4 = ProxyHeader::new(([198, 51, 100, 7].into(), 40000), ([192, 0, 2, 10].into(), 80)).unwrap();
        let expected = *b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a\x21\x11\x00\x0c\xc6\x33\x64\x07\xc0\x00\x02\x0a\x9c\x40\x00\x50";
        assert_eq!(v4.as_bytes(), expected);
        let client: IpAddr = "2001:db8::7".parse().unwrap();
        let vip: IpAddr = "2001:db8::10".parse().unwrap();
        let v6 = ProxyHeader::new((client, 40000), (vip, 443)).unwrap();
        let expected = [
            &b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a\x21\x21\x00\x24"[..],
            b"\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x07\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x10",
            b"\x9c\x40\x01\xbb",
        ];
        assert_eq!(v6.as_bytes(), expected.concat());
        assert_eq!((v4.as_bytes().len(), v6.as_bytes().len()), (V4_BYTES, V6_BYTES));
    }

    #[test]
    fn two_families_have_no_header() {
        let v6: IpAddr = "2001:db8::10".parse().unwrap();
        assert_eq!(ProxyHeader::new(([198, 51, 100, 7].into(), 1), (v6, 2)), None);
        assert_eq!(ProxyHeader::new((v6, 1), ([198, 51, 100, 7].into(), 2)), None);
    }
}
