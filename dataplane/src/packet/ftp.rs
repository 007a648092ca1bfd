//! FTP's control connection (RFC 959, RFC 2428): where a command or reply names the address of a data connection, and what to
//! put there instead. What IPVS's `ip_vs_ftp` does.
//!
//! Looked for at the start of a segment only, as there: a line within other text may be what anybody put into a file's name.
//! The line must be whole.

use std::fmt::{self, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;

/// Bytes of a line that are looked at.
const LINE_BYTES_MAX: usize = 512;

/// How an address is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FtpForm {
    /// `PORT 198,51,100,7,156,64`: the client listens there.
    Port,
    /// `EPRT |2|2001:db8::7|40000|`: the same, either family.
    ExtendedPort,
    /// `227 Entering Passive Mode (10,0,0,11,156,64).`: the real server listens there.
    Passive,
    /// `229 Entering Extended Passive Mode (|||40000|)`: the same, at the control connection's address.
    ExtendedPassive,
}

/// Where somebody waits for a data connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FtpAddress {
    /// How it is written.
    pub form: FtpForm,
    /// The bytes of the segment that say it; [`FtpText::new`] makes those to put there.
    pub range: Range<usize>,
    /// The address; none in [`FtpForm::ExtendedPassive`].
    pub address: Option<IpAddr>,
    /// The port, never 0.
    pub port: u16,
}

/// A client's PORT or EPRT. `payload`: of the TCP segment.
pub fn read_command(payload: &[u8]) -> Option<FtpAddress> {
    let line = first_line(payload)?;
    let (name, _) = line.split_at_checked(5)?;
    if name.eq_ignore_ascii_case(b"PORT ") {
        read_six_numbers(line, first_not_blank(line, 5)?, FtpForm::Port)
    } else if name.eq_ignore_ascii_case(b"EPRT ") {
        read_extended(line, first_not_blank(line, 5)?, FtpForm::ExtendedPort)
    } else {
        None
    }
}

/// A server's reply 227 or 229. `payload`: of the TCP segment.
pub fn read_reply(payload: &[u8]) -> Option<FtpAddress> {
    let line = first_line(payload)?;
    let text = line.get(4..)?;
    let bracket = text.iter().position(|&byte| byte == b'(').map(|place| 4 + place + 1);
    match line.get(..4)? {
        // Not all servers put brackets (RFC 1123 section 4.1.2.6).
        b"227 " => {
            let digit = || text.iter().position(u8::is_ascii_digit).map(|place| 4 + place);
            read_six_numbers(line, bracket.or_else(digit)?, FtpForm::Passive)
        }
        b"229 " => read_extended(line, bracket?, FtpForm::ExtendedPassive),
        _ => None,
    }
}

/// Without its end.
fn first_line(payload: &[u8]) -> Option<&[u8]> {
    let seen = payload.get(..LINE_BYTES_MAX).unwrap_or(payload);
    let line = seen.get(..memchr::memchr(b'\n', seen)?)?;
    Some(line.strip_suffix(b"\r").unwrap_or(line))
}

fn first_not_blank(line: &[u8], from: usize) -> Option<usize> {
    line.get(from..)?.iter().position(|&byte| byte != b' ').map(|place| from + place)
}

/// A decimal number of at most five digits at `at`, and where it ends.
fn read_number(line: &[u8], at: usize, most: u32) -> Option<(u16, usize)> {
    let digits = line.get(at..)?.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let text = line.get(at..at + digits).filter(|_| (1..=5).contains(&digits))?;
    let number = text.iter().fold(0, |number: u32, digit| number * 10 + u32::from(digit - b'0'));
    (number <= most).then_some((number as u16, at + digits))
}

/// `h1,h2,h3,h4,p1,p2`.
fn read_six_numbers(line: &[u8], start: usize, form: FtpForm) -> Option<FtpAddress> {
    let mut numbers = [0; 6];
    let mut at = start;
    for (index, number) in numbers.iter_mut().enumerate() {
        if index > 0 {
            line.get(at).filter(|byte| **byte == b',')?;
            at += 1;
        }
        let (value, end) = read_number(line, at, 255)?;
        (*number, at) = (value as u8, end);
    }
    let [a, b, c, d, high, low] = numbers;
    let port = u16::from_be_bytes([high, low]);
    let address = Some(IpAddr::V4(Ipv4Addr::new(a, b, c, d)));
    (port != 0).then_some(FtpAddress { form, range: start..at, address, port })
}

/// `|1|198.51.100.7|40000|`, or `|||40000|` in a reply; any delimiter.
fn read_extended(line: &[u8], start: usize, form: FtpForm) -> Option<FtpAddress> {
    let delimiter = *line.get(start).filter(|byte| (33..=126).contains(*byte) && !byte.is_ascii_digit())?;
    let field = |from: usize| {
        let rest = line.get(from..)?;
        let length = rest.iter().position(|&byte| byte == delimiter)?;
        Some((rest.get(..length)?, from + length + 1))
    };
    let (family, at) = field(start + 1)?;
    let (text, at) = field(at)?;
    let address = match (form, family) {
        (FtpForm::ExtendedPassive, b"") if text.is_empty() => None,
        (FtpForm::ExtendedPort, b"1") => Some(IpAddr::V4(parse(text)?)),
        (FtpForm::ExtendedPort, b"2") => Some(IpAddr::V6(parse(text)?)),
        _ => return None,
    };
    let (port, end) = read_number(line, at, 65_535)?;
    let is_ended = line.get(end) == Some(&delimiter);
    (is_ended && port != 0).then_some(FtpAddress { form, range: start..end + 1, address, port })
}

fn parse<A: std::str::FromStr>(text: &[u8]) -> Option<A> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Bytes to put in place of an address.
#[derive(Clone, Copy, Debug)]
pub struct FtpText {
    bytes: [u8; Self::BYTES_MAX],
    length: usize,
}

impl FtpText {
    /// Bytes of the longest: `|2|`, eight groups, `|65535|`.
    pub const BYTES_MAX: usize = 3 + 39 + 7;

    /// `address` and `port` in the form in which they were found. None where the form cannot say them: PORT and 227 no IPv6.
    pub fn new(form: FtpForm, address: IpAddr, port: u16) -> Option<FtpText> {
        let mut text = FtpText { bytes: [0; Self::BYTES_MAX], length: 0 };
        let [high, low] = port.to_be_bytes();
        match (form, address) {
            (FtpForm::Port | FtpForm::Passive, IpAddr::V4(address)) => {
                let [a, b, c, d] = address.octets();
                write!(text, "{a},{b},{c},{d},{high},{low}")
            }
            (FtpForm::Port | FtpForm::Passive, IpAddr::V6(_)) => return None,
            (FtpForm::ExtendedPort, IpAddr::V4(address)) => write!(text, "|1|{address}|{port}|"),
            (FtpForm::ExtendedPort, IpAddr::V6(address)) => write!(text, "|2|{address}|{port}|"),
            (FtpForm::ExtendedPassive, _) => write!(text, "|||{port}|"),
        }
        .ok()?;
        Some(text)
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or(&self.bytes)
    }
}

impl Write for FtpText {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        let end = self.length + piece.len();
        self.bytes.get_mut(self.length..end).ok_or(fmt::Error)?.copy_from_slice(piece.as_bytes());
        self.length = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn command(line: &str) -> Option<(&str, Option<IpAddr>, u16)> {
        read_command(line.as_bytes()).map(|found| (&line[found.range], found.address, found.port))
    }

    fn reply(line: &str) -> Option<(&str, Option<IpAddr>, u16)> {
        read_reply(line.as_bytes()).map(|found| (&line[found.range], found.address, found.port))
    }

    fn at(address: &str) -> Option<IpAddr> {
        Some(address.parse().unwrap())
    }

    #[test]
    fn commands_are_found() {
        let client = ("198,51,100,7,156,64", at("198.51.100.7"), 40000);
        assert_eq!(command("PORT 198,51,100,7,156,64\r\n"), Some(client));
        assert_eq!(command("port   198,51,100,7,156,64\nLIST\r\n"), Some(client));
        let extended = ("|1|198.51.100.7|40000|", at("198.51.100.7"), 40000);
        assert_eq!(command("EPRT |1|198.51.100.7|40000|\r\n"), Some(extended));
        let extended = ("!2!2001:db8::7!40000!", at("2001:db8::7"), 40000);
        assert_eq!(command("eprt !2!2001:db8::7!40000!\r\n"), Some(extended));
    }

    #[test]
    fn replies_are_found() {
        let server = ("10,0,0,11,4,1", at("10.0.0.11"), 1025);
        assert_eq!(reply("227 Entering Passive Mode (10,0,0,11,4,1).\r\n"), Some(server));
        assert_eq!(reply("227 =10,0,0,11,4,1\r\n"), Some(server));
        let extended = ("|||1025|", None, 1025);
        assert_eq!(reply("229 Entering Extended Passive Mode (|||1025|)\r\n"), Some(extended));
    }

    #[test]
    fn anything_else_is_not() {
        for line in [
            "PORT 198,51,100,7,156,64",
            "PORT 198,51,100,7,156\r\n",
            "PORT 198,51,100,7,156,256\r\n",
            "PORT 198,51,100,7,0,0\r\n",
            "PORT 198,,51,100,7,0,1\r\n",
            "PORT 19851100,7,0,1\r\n",
            "PORT 198 51 100 7 1 1\r\n",
            "PORT198,51,100,7,156,64\r\n",
            "PORT \r\n",
            "EPRT |3|198.51.100.7|40000|\r\n",
            "EPRT |2|198.51.100.7|40000|\r\n",
            "EPRT |1|198.51.100.7|65536|\r\n",
            "EPRT |1|198.51.100.7|0|\r\n",
            "EPRT |1|198.51.100.7|40000\r\n",
            "EPRT |1|198.51.100.07x|40000|\r\n",
            "EPRT |||40000|\r\n",
            "EPRT \r\n",
            " PORT 198,51,100,7,156,64\r\n",
            "LIST\r\nPORT 198,51,100,7,156,64\r\n",
            "",
        ] {
            assert_eq!(command(line), None, "{line:?}");
        }
        for line in [
            "227-Entering Passive Mode (10,0,0,11,4,1).\r\n",
            "227 Entering Passive Mode\r\n",
            "227 Entering Passive Mode ().\r\n",
            "229 Entering Extended Passive Mode |||1025|\r\n",
            "229 Entering Extended Passive Mode (|||1025)\r\n",
            "229 Entering Extended Passive Mode (|1|10.0.0.11|1025|)\r\n",
            "229 Entering Extended Passive Mode (000010250)\r\n",
            "213-\r\n227 x (10,0,0,11,4,1).\r\n",
            "227",
        ] {
            assert_eq!(reply(line), None, "{line:?}");
        }
        let long = format!("227 {} (10,0,0,11,4,1)\r\n", "x".repeat(LINE_BYTES_MAX));
        assert_eq!(reply(&long), None);
    }

    #[test]
    fn replacements_read_back() {
        let v4 = at("192.0.2.10").unwrap();
        let text = |form, address| {
            FtpText::new(form, address, 40000)
                .map(|text| String::from_utf8(text.as_bytes().to_vec()).unwrap())
        };
        assert_eq!(text(FtpForm::Passive, v4).unwrap(), "192,0,2,10,156,64");
        assert_eq!(text(FtpForm::Port, v4).unwrap(), "192,0,2,10,156,64");
        assert_eq!(text(FtpForm::ExtendedPassive, v4).unwrap(), "|||40000|");
        assert_eq!(text(FtpForm::ExtendedPort, v4).unwrap(), "|1|192.0.2.10|40000|");
        for address in ["2001:db8::7", "::ffff:192.0.2.10", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "::"] {
            let address = at(address).unwrap();
            let line = format!("EPRT {}\r\n", text(FtpForm::ExtendedPort, address).unwrap());
            assert_eq!(command(&line), Some((line[5..].trim_end(), Some(address), 40000)));
            assert_eq!(text(FtpForm::Passive, address), None);
        }
    }

    proptest! {
        #[test]
        fn anything_at_all_is_read_within_bounds(
            head in prop_oneof![Just("PORT "), Just("EPRT "), Just("227 ("), Just("229 (")],
            tail in "[0-9,|.:() a]{0,40}(\r\n)?",
        ) {
            let line = format!("{head}{tail}");
            for found in [read_command(line.as_bytes()), read_reply(line.as_bytes())].into_iter().flatten() {
                prop_assert!(found.range.start < found.range.end && found.range.end < line.len());
            }
        }

        #[test]
        fn every_address_and_port_reads_back(address: [u8; 16], port in 1..=u16::MAX) {
            let v6 = IpAddr::from(address);
            let v4 = IpAddr::from([address[0], address[1], address[2], address[3]]);
            for (form, address) in [(FtpForm::Port, v4), (FtpForm::ExtendedPort, v4), (FtpForm::ExtendedPort, v6)] {
                let text = FtpText::new(form, address, port).unwrap();
                let name = if form == FtpForm::Port { "PORT " } else { "EPRT " };
                let line = [name.as_bytes(), text.as_bytes(), b"\r\n"].concat();
                let found = read_command(&line).unwrap();
                prop_assert_eq!((found.form, found.address, found.port), (form, Some(address), port));
            }
        }
    }
}
