//! Numbers and addresses as libc reads them: `strtol`, `atoi`, `inet_aton`.

use std::net::Ipv4Addr;

/// A number in base 10 that is the whole text, `min` to `max`: leading blanks and a sign are taken, nothing after it is.
pub(super) fn number(text: &str, min: i64, max: i64) -> Option<i64> {
    let (value, rest) = leading_number(text)?;
    (rest.is_empty() && (min..=max).contains(&value)).then_some(value)
}

/// The number that the text starts with, 0 where it starts with none.
pub(super) fn atoi(text: &str) -> i32 {
    let value = leading_number(text).map_or(0, |(value, _)| value);
    // glibc's atoi is strtol cut to an int.
    value as i32
}

/// What strtol reads and what it leaves; none where there is no number or it is out of range, for both are refused.
fn leading_number(text: &str) -> Option<(i64, &str)> {
    let text = text.trim_start_matches(is_space);
    let (negative, digits) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let end = digits.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, rest) = digits.split_at(end);
    let value: i64 = if negative { format!("-{digits}").parse() } else { digits.parse() }.ok()?;
    Some((value, rest))
}

/// isspace of the C locale.
fn is_space(letter: char) -> bool {
    matches!(letter, ' ' | '\t' | '\n' | '\x0b' | '\x0c' | '\r')
}

/// An IPv4 address of one to four parts in base 10, 8 or 16, the last one filling what is left: `192.0.2.10`, `10.1`,
/// `0x0a000001`. What follows a blank is ignored.
pub(super) fn inet_aton(text: &str) -> Option<Ipv4Addr> {
    let text = text.split(is_space).next().unwrap_or_default();
    let mut parts = Vec::with_capacity(4);
    for part in text.split('.') {
        if parts.len() == 4 {
            return None;
        }
        parts.push(aton_part(part)?);
    }
    let (last, leading) = parts.split_last()?;
    if leading.iter().any(|part| *part > 0xff) {
        return None;
    }
    let free_bits = 32 - 8 * leading.len() as u32;
    if u64::from(*last) >= 1 << free_bits {
        return None;
    }
    let high = leading.iter().enumerate().map(|(index, part)| part << (24 - 8 * index)).sum::<u32>();
    Some(Ipv4Addr::from(high | last))
}

fn aton_part(part: &str) -> Option<u32> {
    let (digits, radix) = match part.strip_prefix("0x").or_else(|| part.strip_prefix("0X")) {
        Some(hex) => (hex, 16),
        None if part.len() > 1 && part.starts_with('0') => (part, 8),
        None => (part, 10),
    };
    // from_str_radix takes a sign, inet_aton none.
    if digits.starts_with(['+', '-']) {
        return None;
    }
    u32::from_str_radix(digits, radix).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_read_as_strtol_reads_it() {
        for (text, read) in [
            ("7", Some(7)),
            ("007", Some(7)),
            ("+7", Some(7)),
            (" \t7", Some(7)),
            ("100", Some(100)),
            ("101", None),
            ("-1", None),
            ("7 ", None),
            ("7x", None),
            ("0x7", None),
            ("", None),
            (" ", None),
            ("+", None),
            ("- 1", None),
            ("99999999999999999999999", None),
            ("\u{661}", None),
        ] {
            assert_eq!(number(text, 0, 100), read, "{text:?}");
        }
    }

    #[test]
    fn atoi_takes_what_is_there() {
        for (text, read) in [("64", 64), ("64x", 64), ("ffff::", 0), ("", 0), ("-3", -3)] {
            assert_eq!(atoi(text), read, "{text:?}");
        }
    }

    #[test]
    fn an_address_is_read_as_inet_aton_reads_it() {
        for (text, read) in [
            ("192.0.2.10", Some([192, 0, 2, 10])),
            ("010.1.1.1", Some([8, 1, 1, 1])),
            ("0x0a000001", Some([10, 0, 0, 1])),
            ("1.2", Some([1, 0, 0, 2])),
            ("1.2.515", Some([1, 2, 2, 3])),
            ("24", Some([0, 0, 0, 24])),
            ("0", Some([0, 0, 0, 0])),
            ("4294967295", Some([255, 255, 255, 255])),
            ("1.2.3.4 x", Some([1, 2, 3, 4])),
            (" 1.2.3.4", None),
            ("1.2.3.256", None),
            ("1.2.65536", None),
            ("256.1", None),
            ("4294967296", None),
            ("1.2.3.4.5", None),
            ("1.2.3.", None),
            (".1", None),
            ("1..2", None),
            ("09", None),
            ("+1.2.3.4", None),
            ("0x", None),
            ("", None),
            ("host", None),
        ] {
            assert_eq!(inet_aton(text), read.map(Ipv4Addr::from), "{text:?}");
        }
    }
}
