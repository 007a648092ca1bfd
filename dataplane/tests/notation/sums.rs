//! Checksums, the slow and plain way of their RFCs.

use std::net::IpAddr;

/// The ones' complement sum of RFC 1071, not complemented.
pub fn sum(bytes: &[u8]) -> u16 {
    let mut total: u64 = 0;
    for pair in bytes.chunks(2) {
        total += u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
    }
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

/// The Internet checksum.
pub fn internet(bytes: &[u8]) -> u16 {
    !sum(bytes)
}

/// With the pseudo header of RFC 793, 768 and 8200 section 8.1 in front.
pub fn transport(source: IpAddr, destination: IpAddr, protocol: u8, bytes: &[u8]) -> u16 {
    internet(&[&pseudo_header(source, destination, protocol, bytes.len())[..], bytes].concat())
}

fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> Vec<u8> {
    let mut header = Vec::new();
    for address in [source, destination] {
        match address {
            IpAddr::V4(address) => header.extend(address.octets()),
            IpAddr::V6(address) => header.extend(address.octets()),
        }
    }
    header.extend((length as u32).to_be_bytes());
    header.extend([0, 0, 0, protocol]);
    header
}

/// CRC32c as SCTP has it (RFC 9260 appendix A), bit by bit; in the order of its bytes on the wire.
pub fn crc32c(bytes: &[u8]) -> [u8; 4] {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let mut crc = !0_u32;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { POLYNOMIAL } else { 0 };
        }
    }
    (!crc).to_le_bytes()
}

/// What a checksum becomes when `old` bytes (an even number) turn to `new` ones (RFC 1624, equation 3).
pub fn patched(checksum: u16, old: &[u8], new: &[u8]) -> u16 {
    let mut total = u32::from(!checksum);
    for (old, new) in old.chunks(2).zip(new.chunks(2)) {
        total += u32::from(!u16::from_be_bytes([old[0], old[1]]));
        total += u32::from(u16::from_be_bytes([new[0], new[1]]));
    }
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    !(total as u16)
}
