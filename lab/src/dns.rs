//! DNS over UDP: a real server (NSD) with an answer of almost 4,000 bytes, and questions as long.

use std::fs;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};

use crate::host::Host;
use crate::process::Process;
use crate::site::Family;
use crate::wait;

/// DNS's port.
pub const PORT: u16 = 53;

/// Texts of 255 bytes in the answer to `big.lab`, and the one after them: with its headers the answer is as long as most
/// clients say that they take, 4,096 bytes, less about a hundred.
const BIG_TEXTS: usize = 15;
const BIG_TEXT_BYTES: usize = 255;
const LAST_TEXT_BYTES: usize = 100;

const TYPE_TXT: u16 = 16;
const TYPE_OPT: u16 = 41;
const CLASS_IN: u16 = 1;

/// RFC 7830.
const OPTION_PADDING: u16 = 12;

/// What we take (RFC 6891 section 6.2.3).
const UDP_PAYLOAD_BYTES_MAX: u16 = 4096;

const HEADER_BYTES: usize = 12;

/// A name server that runs. `who.lab` is its host's name.
pub struct NameServer {
    _process: Process,
}

impl NameServer {
    /// Starts it on these addresses.
    pub fn start(host: &Host, addresses: &[IpAddr]) -> Result<NameServer> {
        let directory = host.directory().join("nsd");
        fs::create_dir_all(&directory)?;
        let big: Vec<String> = (0..BIG_TEXTS).map(|number| big_text(number, BIG_TEXT_BYTES)).collect();
        let zone = format!(
            "$ORIGIN lab.\n$TTL 60\n@ SOA ns hostmaster 1 60 60 60 60\n@ NS ns\nns A 192.0.2.10\n\
             who TXT \"{}\"\nbig TXT \"{}\" \"{}\"\n",
            host.name(),
            big.join("\" \""),
            big_text(BIG_TEXTS, LAST_TEXT_BYTES)
        );
        fs::write(directory.join("lab.zone"), zone)?;
        let mut listen = String::new();
        for address in addresses {
            listen.push_str(&format!("  ip-address: {address}@{PORT}\n"));
        }
        let place = directory.display();
        let configuration = format!(
            "server:\n{listen}  server-count: 1\n  username: \"\"\n  zonesdir: \"{place}\"\n  database: \"\"\n\
             \x20 pidfile: \"{place}/pid\"\n  xfrdfile: \"{place}/xfrd\"\n  xfrdir: \"{place}\"\n\
             \x20 zonelistfile: \"{place}/zones\"\n  ipv4-edns-size: {UDP_PAYLOAD_BYTES_MAX}\n\
             \x20 ipv6-edns-size: {UDP_PAYLOAD_BYTES_MAX}\nremote-control:\n  control-enable: no\n\
             zone:\n  name: lab.\n  zonefile: lab.zone\n"
        );
        let file = directory.join("nsd.conf");
        fs::write(&file, configuration)?;
        let mut command = host.command("nsd");
        command.arg("-d").arg("-c").arg(&file);
        let mut process = Process::spawn(command, "nsd", host.directory())?;
        process.wait_for_output("nsd started")?;
        // It has its sockets then. That it answers, too:
        for &address in addresses {
            wait::until(&format!("an answer of nsd on {}", host.name()), || {
                Ok(ask(host, SocketAddr::new(address, PORT), "who", 0).ok())
            })?;
        }
        Ok(NameServer { _process: process })
    }
}

fn big_text(number: usize, length: usize) -> String {
    format!("{number:0>length$}")
}

/// An answer.
pub struct Answer {
    /// The texts, one after the other.
    pub text: String,
    /// Bytes of the whole DNS message.
    pub length: usize,
}

/// The text that `big.lab` has.
pub fn big() -> String {
    let texts = (0..BIG_TEXTS).map(|number| big_text(number, BIG_TEXT_BYTES));
    texts.chain([big_text(BIG_TEXTS, LAST_TEXT_BYTES)]).collect()
}

/// Asks for the texts of a name below `lab`, in a question that is padded with so many bytes. From a port of its own.
pub fn ask(client: &Host, server: SocketAddr, name: &str, padding: u16) -> Result<Answer> {
    let family = if server.is_ipv4() { Family::V4 } else { Family::V6 };
    let socket = client.udp_socket(family.unspecified(), 0)?;
    socket.connect(server)?;
    let question = question(socket.local_addr()?.port(), name, padding);
    socket.send(&question)?;
    let mut buffer = [0; UDP_PAYLOAD_BYTES_MAX as usize];
    let length = socket.recv(&mut buffer).with_context(|| format!("no answer to {name} from {server}"))?;
    let text = texts_of(&buffer[..length], &question).with_context(|| format!("not an answer to {name}"))?;
    Ok(Answer { text, length })
}

/// A question for texts, with EDNS (RFC 6891).
fn question(id: u16, name: &str, padding: u16) -> Vec<u8> {
    let numbers =
        |numbers: &[u16]| -> Vec<u8> { numbers.iter().flat_map(|number| number.to_be_bytes()).collect() };
    let mut message = numbers(&[id, 0, 1, 0, 0, 1]);
    for label in [name, "lab"] {
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.push(0);
    message.extend(numbers(&[TYPE_TXT, CLASS_IN]));
    message.push(0);
    message.extend(numbers(&[TYPE_OPT, UDP_PAYLOAD_BYTES_MAX, 0, 0]));
    match padding {
        0 => message.extend(numbers(&[0])),
        bytes => {
            message.extend(numbers(&[bytes + 4, OPTION_PADDING, bytes]));
            message.extend(vec![0; bytes.into()]);
        }
    }
    message
}

/// The texts of the one record in an answer to a question.
fn texts_of(answer: &[u8], question: &[u8]) -> Result<String> {
    let number = |offset: usize| -> Result<usize> {
        let bytes = answer.get(offset..offset + 2).context("cut")?;
        Ok(usize::from(bytes[0]) << 8 | usize::from(bytes[1]))
    };
    ensure!(answer.get(..2) == question.get(..2), "another question's");
    let flags = number(2)?;
    // An answer, whole (no TC), without an error.
    ensure!(flags & 0x820f == 0x8000, "flags {flags:#x}");
    ensure!(number(4)? == 1 && number(6)? == 1, "{} answers", number(6)?);
    let name_bytes = question[HEADER_BYTES..].iter().position(|&byte| byte == 0).context("no name")? + 1;
    // Question: name, type, class. Record: a pointer to that name, type, class, TTL, length.
    let record = HEADER_BYTES + name_bytes + 4;
    ensure!(number(record + 2)? == usize::from(TYPE_TXT), "another type");
    let (start, length) = (record + 12, number(record + 10)?);
    let mut rest = answer.get(start..start + length).context("cut")?;
    let mut text = String::new();
    while let Some((&bytes, after)) = rest.split_first() {
        let (one, next) = after.split_at_checked(bytes.into()).context("cut")?;
        text.push_str(std::str::from_utf8(one)?);
        rest = next;
    }
    Ok(text)
}
