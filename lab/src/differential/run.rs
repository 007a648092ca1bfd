//! A scenario through either of the two directors, into a transcript, step by step: who runs several of them need not sleep
//! while one waits.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::frame::{Frame, Payload};
use super::neighbours::Neighbour;
use super::packet::mask::Seen;
use super::packet::text::Text;
use super::packet::{self, Known, Layer};
use super::scenario::{Answer, Step, Transcript};
use super::wire::{Received, Wire};

/// How long the kernel may have a connection that another one has replaced: it sets its timer to now, and timers are
/// looked at once a tick (at most 10 ms).
const REPLACED: Duration = Duration::from_millis(20);

/// What a scenario runs through.
pub trait Subject {
    /// Runs `ipvsadm` with each of these arguments, one after the other; a refusal is an error.
    fn ipvsadm(&mut self, commands: &[&str]) -> Result<()>;
    /// Sets one of net.ipv4.vs.
    fn set(&mut self, name: &str, value: &str) -> Result<()>;
    /// Gives frames a firewall mark; port 0 is every port.
    fn add_member(&mut self, mark: u32, protocol: &str, vip: IpAddr, port: u16) -> Result<()>;
    /// The listing, its rows as [`super::listing`] makes them.
    fn list(&mut self) -> Result<Vec<String>>;
    /// The counters.
    fn statistics(&mut self) -> Result<Vec<String>>;
    /// Waits until settings that it looks at late have taken effect.
    fn settle(&mut self, time: Duration);
    /// The far end of its cable.
    fn wire(&mut self) -> &mut Wire;
}

/// Where a scenario is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It goes on at once.
    Ready,
    /// It goes on then.
    WaitsUntil(Instant),
    /// It is over.
    Over,
}

/// A scenario that runs.
pub struct Run {
    steps: Vec<Step>,
    /// What came of the steps so far.
    pub transcript: Transcript,
    state: State,
    /// Tuples that frames came from and went to.
    tuples: BTreeSet<(SocketAddrV4, SocketAddrV4)>,
    output: Output,
}

/// What a scenario's packets have come to.
#[derive(Debug, Default)]
struct Output {
    /// What came out of the last packet of which anything came out, and what of it is not random.
    last: Vec<(Vec<u8>, Known)>,
    /// Random fields.
    random: Seen,
}

impl Run {
    /// A scenario before its first step.
    pub fn new(steps: Vec<Step>) -> Run {
        Run {
            steps,
            transcript: Transcript::default(),
            state: State::Ready,
            tuples: BTreeSet::new(),
            output: Output::default(),
        }
    }

    /// Where it is.
    pub fn state(&self) -> State {
        self.state
    }

    /// When it goes on, if it waits.
    pub fn due(&self) -> Option<Instant> {
        if let State::WaitsUntil(time) = self.state { Some(time) } else { None }
    }

    /// Sleeps as long as it waits.
    pub fn sleep(&mut self) {
        if let State::WaitsUntil(time) = self.state {
            std::thread::sleep(time.saturating_duration_since(Instant::now()));
            self.state = State::Ready;
        }
    }

    /// Takes the next steps: as many frames, or as many commands, as follow each other.
    pub fn advance(&mut self, subject: &mut impl Subject) -> Result<()> {
        let rest = &self.steps[self.transcript.lines.len()..];
        let Some(first) = rest.first() else {
            self.state = State::Over;
            return Ok(());
        };
        let mut together = rest.iter().take_while(|step| are_together(first, step)).count().max(1);
        // What comes after a frame that replaces a connection must find the old one gone.
        let tuples = &mut self.tuples;
        let replacing =
            rest[..together].iter().position(|step| frame(step).is_some_and(|frame| replaces(frame, tuples)));
        together = replacing.map_or(together, |place| place + 1);
        let now = &rest[..together];
        let answers = match first {
            Step::Packet(from, layers) => {
                exchange(*from, layers, &mut self.output, subject).map(|lines| vec![Answer::Sent(lines)])
            }
            _ => answer(now, subject),
        };
        let answers = answers.with_context(|| format!("at `{first}`"))?;
        if replacing.is_some() {
            subject.settle(REPLACED);
        }
        self.state = match first {
            Step::Wait(time) => State::WaitsUntil(Instant::now() + *time),
            _ => State::Ready,
        };
        self.transcript.lines.extend(now.iter().cloned().zip(answers));
        Ok(())
    }

    /// Runs it to its end, by itself.
    pub fn finish(mut self, subject: &mut impl Subject) -> Result<Transcript> {
        while self.state != State::Over {
            self.sleep();
            self.advance(subject)?;
        }
        Ok(self.transcript)
    }
}

/// Whether this frame may open a connection where one is, and so end it. Keeps its tuple.
fn replaces(frame: &Frame, tuples: &mut BTreeSet<(SocketAddrV4, SocketAddrV4)>) -> bool {
    const SYN: u8 = 2;
    const INIT: u8 = 1;
    let is_first = match &frame.payload {
        Payload::Tcp(flags) => flags & SYN != 0,
        Payload::Sctp(chunks) => chunks.first() == Some(&INIT),
        Payload::Udp | Payload::Sip(_) => false,
    };
    !tuples.insert((frame.source, frame.destination)) && is_first
}

fn are_together(first: &Step, other: &Step) -> bool {
    matches!((first, other), (Step::Frame(_), Step::Frame(_)) | (Step::Ipvsadm(_), Step::Ipvsadm(_)))
}

fn answer(steps: &[Step], subject: &mut impl Subject) -> Result<Vec<Answer>> {
    match &steps[0] {
        Step::Frame(_) => {
            let frames: Vec<&Frame> = steps.iter().filter_map(frame).collect();
            return Ok(subject.wire().send(&frames)?.into_iter().map(Answer::Forwarded).collect());
        }
        Step::Ipvsadm(_) => {
            let commands: Vec<&str> = steps.iter().filter_map(command).collect();
            subject.ipvsadm(&commands)?;
        }
        Step::Sysctl(name, value) => subject.set(name, value)?,
        Step::Member { mark, protocol, destination } => {
            subject.add_member(*mark, protocol, destination.ip(), destination.port())?;
        }
        Step::List => return Ok(vec![Answer::Listed(subject.list()?)]),
        Step::Statistics => return Ok(vec![Answer::Listed(subject.statistics()?)]),
        Step::Settle(time) => subject.settle(*time),
        Step::Wait(_) | Step::Shares | Step::Packet(..) => {}
    }
    Ok(vec![Answer::Silent; steps.len()])
}

/// Sends a packet and says what came of it.
fn exchange(
    from: Neighbour,
    layers: &[Layer],
    output: &mut Output,
    subject: &mut impl Subject,
) -> Result<Vec<String>> {
    let whole: Option<Vec<Layer>> = layers.iter().map(|layer| quote(layer, &output.last)).collect();
    // What did not come out cannot be quoted: that it did not is a difference by itself.
    let Some(whole) = whole else { return Ok(Vec::new()) };
    let received = subject.wire().exchange(from, &packet::build(&whole))?;
    if received.is_empty() {
        return Ok(Vec::new());
    }
    let mut known = packet::known_fields(layers);
    known.extend(
        layers.iter().filter_map(|layer| quoted(layer, &output.last)).flat_map(|(_, known)| known.clone()),
    );
    output.random.next_step();
    output.last.clear();
    let line = |Received { by, packet }: Received| {
        let mut layers = packet::read(&packet);
        packet::mask(&mut layers, &known, &mut output.random);
        output.last.push((packet, packet::known_fields(&layers)));
        format!("{}: {}", by.address(), Text(&layers))
    };
    Ok(received.into_iter().map(line).collect())
}

/// The packet that a layer quotes.
fn quoted<'a>(layer: &Layer, output: &'a [(Vec<u8>, Known)]) -> Option<&'a (Vec<u8>, Known)> {
    let Layer::Output(quoted) = layer else { return None };
    output.get(quoted.number.checked_sub(1)?)
}

/// The layer, with what came out before where it is quoted.
fn quote(layer: &Layer, output: &[(Vec<u8>, Known)]) -> Option<Layer> {
    let Layer::Output(packet::Output { length, .. }) = layer else { return Some(layer.clone()) };
    let (bytes, _) = quoted(layer, output)?;
    Some(Layer::Data(bytes[..bytes.len().min(*length)].to_vec()))
}

fn frame(step: &Step) -> Option<&Frame> {
    if let Step::Frame(frame) = step { Some(frame) } else { None }
}

fn command(step: &Step) -> Option<&str> {
    if let Step::Ipvsadm(arguments) = step { Some(arguments) } else { None }
}
