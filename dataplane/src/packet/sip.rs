//! SIP (RFC 3261) over UDP: the Call-ID, by which IPVS's persistence engine `sip` knows a client.
//!
//! As `ip_vs_pe_sip.c` and `nf_conntrack_sip.c` find it: the first header `Call-ID` or `i`, in any case, spaces and tabs
//! allowed around its colon; the value is `word [@ word]`, at most 255 bytes, and a line's end follows it. Unlike there,
//! the header must stand before the first empty line: what stands in a message's body is no header.

/// Longest Call-ID that keeps a client (`IP_VS_PEDATA_MAXLEN`).
pub const CALL_ID_BYTES_MAX: usize = 255;

/// Bytes of a message that are searched: all that a frame without fragments has at the usual MTU. Where frames are larger,
/// a Call-ID that begins beyond is none.
pub const SEARCHED_BYTES: usize = 1500;

/// Header lines that are searched: several times what clients and proxies write before it. A flood of the shortest lines
/// costs no more than that.
pub const SEARCHED_LINES: usize = 64;

/// Spaces, tabs and folded line ends that may stand before or behind the colon.
const WHITESPACE_BYTES_MAX: usize = 255;

/// The Call-ID of a SIP message, as it is written there; none where there is none or it is no proper one.
pub fn call_id(message: &[u8]) -> Option<&[u8]> {
    let searched = message.get(..SEARCHED_BYTES).unwrap_or(message);
    let mut rest = after_line(searched)?;
    for _ in 0..SEARCHED_LINES {
        match rest.first()? {
            b'\r' | b'\n' => return None,
            b'c' | b'C' | b'i' | b'I' => {
                if let Some(value) = value_of_call_id(rest) {
                    return checked(value);
                }
            }
            _ => {}
        }
        rest = after_line(rest)?;
    }
    None
}

/// What follows the first line's end: CR, LF or both (RFC 2543 allows each).
fn after_line(text: &[u8]) -> Option<&[u8]> {
    let end = memchr::memchr2(b'\r', b'\n', text)?;
    match text.get(end..)? {
        [b'\r', b'\n', rest @ ..] | [_, rest @ ..] => Some(rest),
        [] => None,
    }
}

/// What stands behind the colon, where this line begins the header that is sought.
fn value_of_call_id(line: &[u8]) -> Option<&[u8]> {
    let named = [&b"call-id"[..], b"i"].into_iter().find_map(|name| {
        let (start, rest) = line.split_at_checked(name.len())?;
        start.eq_ignore_ascii_case(name).then_some(rest)
    })?;
    let value = skip_whitespace(named).strip_prefix(b":")?;
    Some(skip_whitespace(value))
}

/// Skips spaces and tabs, and line's ends that are followed by one of them (a folded header), but no more than there may be.
fn skip_whitespace(mut text: &[u8]) -> &[u8] {
    for _ in 0..WHITESPACE_BYTES_MAX {
        text = match text {
            [b' ' | b'\t', rest @ ..]
            | [b'\r', b'\n', b' ' | b'\t', rest @ ..]
            | [b'\r' | b'\n', b' ' | b'\t', rest @ ..] => rest,
            _ => return text,
        }
    }
    text
}

/// The Call-ID that `value` begins with, where it is a proper one.
fn checked(value: &[u8]) -> Option<&[u8]> {
    let mut length = word(value);
    if length > 0 && value.get(length) == Some(&b'@') {
        let host = word(value.get(length + 1..)?);
        length = if host > 0 { length + 1 + host } else { 0 };
    }
    let is_ended = matches!(value.get(length), Some(b'\r' | b'\n'));
    (is_ended && (1..=CALL_ID_BYTES_MAX).contains(&length)).then(|| value.get(..length)).flatten()
}

/// Bytes that `text` begins with of those that RFC 3261 allows in a `word`. Longer than what may be is long enough.
fn word(text: &[u8]) -> usize {
    let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || b"-.!%*_+`'~()<>:\\\"/[]?{}".contains(byte);
    text.iter().take(CALL_ID_BYTES_MAX + 1).take_while(|byte| is_word(byte)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    const INVITE: &[u8] =
        b"INVITE sip:bob@example.com SIP/2.0\r\nVia: SIP/2.0/UDP pc33;branch=z9hG4bK776\r\n\
        Max-Forwards: 70\r\nTo: Bob <sip:bob@example.com>\r\nCall-ID: a84b4c76e66710@pc33.example.com\r\n\
        CSeq: 314159 INVITE\r\nContent-Length: 0\r\n\r\n";

    fn with(header: &str) -> Option<Vec<u8>> {
        let message = format!("SIP/2.0 200 OK\r\nVia: x\r\n{header}\r\nCSeq: 1 INVITE\r\n\r\nbody");
        call_id(message.as_bytes()).map(<[u8]>::to_vec)
    }

    #[test]
    fn call_id_of_an_invite_is_found() {
        assert_eq!(call_id(INVITE), Some(&b"a84b4c76e66710@pc33.example.com"[..]));
    }

    #[test]
    fn every_way_to_write_it_is_understood() {
        for header in [
            "Call-ID: a@b",
            "call-id:a@b",
            "CALL-ID\t : \t a@b",
            "i: a@b",
            "I:a@b",
            "Call-ID:\r\n a@b",
            "Call-ID:\r\n\t \r\n a@b",
            "Call-ID\r\n : a@b",
            "Call-ID: a@b\r\nCall-ID: other",
        ] {
            assert_eq!(with(header), Some(b"a@b".to_vec()), "{header:?}");
        }
        assert_eq!(with("Call-ID: a"), Some(b"a".to_vec()), "without a host");
        assert_eq!(with("i: -.!%*_+`'~()<>:\\\"/[]?{}"), Some(b"-.!%*_+`'~()<>:\\\"/[]?{}".to_vec()));
        assert_eq!(call_id(b"x\ni:a\n"), Some(&b"a"[..]), "lines that end in LF alone");
        assert_eq!(call_id(b"x\ri:a\r"), Some(&b"a"[..]), "lines that end in CR alone");
    }

    #[test]
    fn what_is_no_proper_call_id_is_none() {
        for header in [
            "Via: y",
            "Call-ID:",
            "Call-ID: ",
            "Call-ID:\r\n",
            "Call-ID: @b",
            "Call-ID: a@",
            "Call-ID: a b",
            "Call-ID: a@b@c",
            "Call-ID: a;x",
            "Call-ID a@b",
            "Call-IDs: a@b",
            " Call-ID: a@b",
            "X-Call-ID: a@b",
            "in: a@b",
            "Call-ID: \u{e4}",
            "Call-ID: a\0b",
        ] {
            assert_eq!(with(header), None, "{header:?}");
        }
    }

    #[test]
    fn call_id_up_to_255_bytes_is_taken_and_a_longer_one_is_none() {
        for (length, is_taken) in [(254, true), (255, true), (256, false), (1000, false)] {
            assert_eq!(with(&format!("i: {}", "a".repeat(length))).is_some(), is_taken, "{length}");
            let with_host = format!("i: {}@b", "a".repeat(length - 2));
            assert_eq!(with(&with_host).is_some(), is_taken, "{length}");
        }
        assert_eq!(with(&format!("i: {}", "a".repeat(60 * 1024))), None);
    }

    #[test]
    fn only_headers_count_and_only_so_far_into_the_message() {
        assert_eq!(call_id(b"Call-ID: a\r\nVia: x\r\n\r\n"), None, "the first line is no header");
        assert_eq!(call_id(b"SIP/2.0 200 OK\r\nVia: x\r\n\r\nCall-ID: a\r\n"), None, "in the body");
        assert_eq!(call_id(b"INVITE x\r\n\r\nCall-ID: a\r\n"), None, "no header at all");
        assert_eq!(call_id(b"SIP/2.0 200 OK\r\nCall-ID: a"), None, "its line must end");
        for (padding, is_found) in [(1000, true), (1480, true), (1500, false)] {
            let message = format!("X\r\nVia: {}\r\ni: a\r\n\r\n", "x".repeat(padding));
            assert_eq!(call_id(message.as_bytes()).is_some(), is_found, "{padding}");
        }
    }

    #[test]
    fn only_so_many_lines_and_so_much_whitespace_are_searched() {
        for (lines, is_found) in [(0, true), (SEARCHED_LINES - 1, true), (SEARCHED_LINES, false)] {
            let message = format!("X\r\n{}i: a\r\n\r\n", "i\r\n".repeat(lines));
            assert_eq!(call_id(message.as_bytes()).is_some(), is_found, "{lines}");
        }
        for (spaces, is_found) in [(WHITESPACE_BYTES_MAX, true), (WHITESPACE_BYTES_MAX + 1, false)] {
            let blank = " ".repeat(spaces);
            assert_eq!(with(&format!("i:{blank}a")).is_some(), is_found, "{spaces}");
            assert_eq!(with(&format!("i{blank}:a")).is_some(), is_found, "{spaces}");
        }
    }

    #[test]
    fn any_bytes_and_any_cut_end_in_an_answer() {
        let line_end = INVITE.windows(7).position(|text| text == b"Call-ID").unwrap() - 1;
        for length in 0..INVITE.len() {
            let found = call_id(&INVITE[..length]);
            assert!(matches!(found, None | Some(b"a84b4c76e66710@pc33.example.com")));
            assert_eq!(call_id(&INVITE[length..]).is_some(), length <= line_end, "{length}");
        }
        for message in [&b""[..], b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"i", b"\ni", b"\ni:", b"\ni:\r", b"\0"]
        {
            assert_eq!(call_id(message), None);
        }
    }
}
