//! The scenario's text, line by line, and what came of each step.
//!
//! ```text
//! # comment
//! ipvsadm -A -t 192.0.2.10:80 -s wrr         a command, run as it stands
//! sysctl expire_nodest_conn=1                net.ipv4.vs.*, of the director's too
//! member 7 tcp 192.0.2.10:80                 frames to it carry firewall mark 7
//! tcp 198.51.100.7:40000 > 192.0.2.10:80 SYN a frame, see frame.rs
//! from 10.0.0.254: ip 198.51.100.7 > 192.0.2.10 / tcp 40000 > 80 SYN
//!                                            a packet of that neighbour, see packet/
//! wait 2s
//! settle 2.5s                                time passes where a setting takes effect late: in the kernel
//! list                                       services, real servers, connections
//! statistics                                 -L --stats
//! shares                                     what came before is compared as shares, not frame by frame
//! ```
//!
//! A transcript is the same with the answers: `= 10.0.0.11` (the RS that got it) or `= -` (nobody did) after a frame, `| ...`
//! lines after a listing, `> 10.0.0.11: ...` (who got what) for each packet that came out of a packet. Golden files are transcripts. `| ^ 198.51.100.8:40000` is the row above, of another source.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::frame::Frame;
use super::neighbours::Neighbour;
use super::packet::text::Text;
use super::packet::{self, Layer};

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Arguments of `ipvsadm`.
    Ipvsadm(String),
    /// A sysctl below `net.ipv4.vs` and its value.
    Sysctl(String, String),
    /// Frames of this protocol to this VIP and port carry this firewall mark; port 0 is every port.
    Member {
        /// Firewall mark.
        mark: u32,
        /// `tcp`, `udp` or `sctp`.
        protocol: String,
        /// VIP and port.
        destination: std::net::SocketAddr,
    },
    /// A frame of a client.
    Frame(Frame),
    /// A packet of a neighbour.
    Packet(Neighbour, Vec<Layer>),
    /// Time passes.
    Wait(Duration),
    /// Time passes in the kernel, which looks at some settings once a second only.
    Settle(Duration),
    /// Services, real servers and connections are listed.
    List,
    /// The counters of services and real servers are listed.
    Statistics,
    /// The frames up to here are compared as shares.
    Shares,
}

/// What came of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A step that has none.
    Silent,
    /// The RS that got the frame; none if it was not forwarded.
    Forwarded(Option<std::net::Ipv4Addr>),
    /// The packets that came out of one: who got them, and what they were.
    Sent(Vec<String>),
    /// Lines of a listing.
    Listed(Vec<String>),
}

/// A scenario with the answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transcript {
    /// Steps with their answers.
    pub lines: Vec<(Step, Answer)>,
}

/// What stands for all of the row above but its source.
const ANOTHER_SOURCE: &str = "^ ";

/// A connection's row with another source.
fn with_source(row: &str, source: &str) -> String {
    let words = row.split(' ').enumerate().map(|(place, word)| if place == 2 { source } else { word });
    words.collect::<Vec<_>>().join(" ")
}

/// Reads a scenario.
pub fn parse(text: &str) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        steps.extend(parse_line(line).with_context(|| format!("line {}", number + 1))?);
    }
    Ok(steps)
}

fn parse_line(line: &str) -> Result<Vec<Step>> {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    let step = match (word, rest) {
        ("ipvsadm", arguments) => Step::Ipvsadm(arguments.to_owned()),
        ("sysctl", setting) => {
            let (name, value) = setting.split_once('=').context("write `sysctl name=value`")?;
            Step::Sysctl(name.to_owned(), value.to_owned())
        }
        ("member", member) => {
            let words: Vec<&str> = member.split(' ').collect();
            let [mark, protocol, destination] = words[..] else {
                bail!("write `member MARK PROTOCOL ADDRESS:PORT`");
            };
            let (mark, destination) = (mark.parse()?, destination.parse()?);
            Step::Member { mark, protocol: protocol.to_owned(), destination }
        }
        ("from", packet) => {
            let (from, packet) = packet.split_once(": ").context("write `from ADDRESS: PACKET`")?;
            let from = Neighbour::of(from.parse()?).with_context(|| format!("no neighbour: {from}"))?;
            Step::Packet(from, packet::parse(packet)?)
        }
        ("wait", time) => Step::Wait(parse_seconds(time)?),
        ("settle", time) => Step::Settle(parse_seconds(time)?),
        ("list", "") => Step::List,
        ("statistics", "") => Step::Statistics,
        ("shares", "") => Step::Shares,
        ("tcp" | "udp" | "sip" | "sctp", _) => {
            return Ok(Frame::parse(line)?.into_iter().map(Step::Frame).collect());
        }
        _ => bail!("not a step: `{line}`"),
    };
    Ok(vec![step])
}

fn parse_seconds(text: &str) -> Result<Duration> {
    let seconds: f64 = text.strip_suffix('s').context("write SECONDSs")?.parse()?;
    Ok(Duration::from_secs_f64(seconds))
}

/// Whether there are whole packets among these steps: then all links and both families are needed.
pub fn has_packets(steps: &[Step]) -> bool {
    steps.iter().any(|step| matches!(step, Step::Packet(..)))
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Ipvsadm(arguments) => write!(f, "ipvsadm {arguments}"),
            Step::Sysctl(name, value) => write!(f, "sysctl {name}={value}"),
            Step::Member { mark, protocol, destination } => {
                write!(f, "member {mark} {protocol} {destination}")
            }
            Step::Frame(frame) => write!(f, "{frame}"),
            Step::Packet(from, layers) => write!(f, "from {}: {}", from.address(), Text(layers)),
            Step::Wait(time) => write!(f, "wait {}s", time.as_secs_f64()),
            Step::Settle(time) => write!(f, "settle {}s", time.as_secs_f64()),
            Step::List => write!(f, "list"),
            Step::Statistics => write!(f, "statistics"),
            Step::Shares => write!(f, "shares"),
        }
    }
}

impl Transcript {
    /// Reads a golden file.
    pub fn parse(text: &str) -> Result<Transcript> {
        let mut transcript = Transcript::default();
        for (number, line) in text.lines().enumerate() {
            transcript.parse_line(line).with_context(|| format!("line {}", number + 1))?;
        }
        Ok(transcript)
    }

    fn parse_line(&mut self, line: &str) -> Result<()> {
        if let Some(listed) = line.strip_prefix("| ") {
            let Some((_, Answer::Listed(lines))) = self.lines.last_mut() else {
                bail!("`{line}` is not below a listing");
            };
            let row = match listed.strip_prefix(ANOTHER_SOURCE) {
                Some(source) => with_source(lines.last().context("no row above")?, source),
                None => listed.to_owned(),
            };
            lines.push(row);
            return Ok(());
        }
        if let Some(sent) = line.strip_prefix("> ") {
            let Some((_, Answer::Sent(lines))) = self.lines.last_mut() else {
                bail!("`{line}` is not below a packet");
            };
            lines.push(sent.to_owned());
            return Ok(());
        }
        let (text, answer) = match line.rsplit_once(" = ") {
            Some((text, "-")) => (text, Answer::Forwarded(None)),
            Some((text, address)) => (text, Answer::Forwarded(Some(address.parse()?))),
            None => (line, Answer::Silent),
        };
        let steps = parse_line(text)?;
        ensure!(steps.len() == 1, "a transcript has no `+`");
        for step in steps {
            let answer = match step {
                Step::List | Step::Statistics => Answer::Listed(Vec::new()),
                Step::Packet(..) => Answer::Sent(Vec::new()),
                _ => answer.clone(),
            };
            ensure!(matches!(step, Step::Frame(_)) == matches!(answer, Answer::Forwarded(_)), "no answer");
            self.lines.push((step, answer));
        }
        Ok(())
    }

    /// The scenario it is of.
    pub fn steps(&self) -> Vec<Step> {
        self.lines.iter().map(|(step, _)| step.clone()).collect()
    }
}

impl fmt::Display for Transcript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (step, answer) in &self.lines {
            match answer {
                Answer::Silent => writeln!(f, "{step}")?,
                Answer::Forwarded(Some(address)) => writeln!(f, "{step} = {address}")?,
                Answer::Forwarded(None) => writeln!(f, "{step} = -")?,
                Answer::Sent(lines) => {
                    writeln!(f, "{step}")?;
                    lines.iter().try_for_each(|line| writeln!(f, "> {line}"))?;
                }
                Answer::Listed(lines) => {
                    writeln!(f, "{step}")?;
                    let mut above = "";
                    for line in lines {
                        // Rows of real servers have their count there, not a source.
                        let source = line.split(' ').nth(2).filter(|source| source.contains(':'));
                        match source.filter(|source| with_source(above, source) == *line) {
                            Some(source) => writeln!(f, "| {ANOTHER_SOURCE}{source}")?,
                            None => writeln!(f, "| {line}")?,
                        }
                        above = line;
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transcript_is_read_as_it_was_written() {
        let text = "ipvsadm -A -t 192.0.2.10:80 -s rr\nsysctl expire_nodest_conn=1\nmember 7 tcp 192.0.2.10:0\n\
                    tcp 198.51.100.7:40000 > 192.0.2.10:80 SYN = 10.0.0.11\n\
                    tcp 198.51.100.7:40000 > 192.0.2.11:80 SYN = -\nwait 2.5s\nsettle 1s\nlist\n| TCP 192.0.2.10:80 rr\n\
                    | -> 10.0.0.11:80 Route 1 1 0 0\n| UDP UDP 198.51.100.7:40000 192.0.2.10:80 10.0.0.11:80\n\
                    | ^ 198.51.100.7:40001\n| UDP UDP 198.51.100.7:40000 192.0.2.10:80 10.0.0.12:80\nstatistics\nshares\n\
                    from 10.1.0.11: ip 10.1.0.11 > 198.51.100.7 / udp 53 > 40000\n\
                    > 10.0.0.254: ip 192.0.2.10 > 198.51.100.7 ttl=63 / udp 53 > 40000\n";
        let transcript = Transcript::parse(text).unwrap();
        assert_eq!(transcript.to_string(), text);
        assert_eq!(transcript.steps().len(), 11);
        let Answer::Listed(rows) = &transcript.lines[7].1 else { panic!("no listing") };
        assert_eq!(rows[3], "UDP UDP 198.51.100.7:40001 192.0.2.10:80 10.0.0.11:80");
    }

    #[test]
    fn what_is_no_step_says_where() {
        let error = parse("# comment\n\nipvsadm -C\nnonsense").unwrap_err();
        assert_eq!(format!("{error:#}"), "line 4: not a step: `nonsense`");
        assert!(Transcript::parse("tcp 198.51.100.7:1 > 192.0.2.10:80 SYN\n").is_err());
        assert!(Transcript::parse("| TCP 192.0.2.10:80 rr\n").is_err());
    }
}
