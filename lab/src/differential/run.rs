//! A scenario through either of the two directors, into a transcript.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};

use super::frame::Frame;
use super::scenario::{Answer, Step, Transcript};
use super::wire::Wire;

/// What a scenario runs through.
pub trait Subject {
    /// Runs `ipvsadm` with each of these arguments, one after the other; a refusal is an error.
    fn ipvsadm(&mut self, commands: &[&str]) -> Result<()>;
    /// Sets one of net.ipv4.vs.
    fn set(&mut self, name: &str, value: &str) -> Result<()>;
    /// Gives frames a firewall mark.
    fn add_member(&mut self, mark: u32, protocol: &str, vip: Ipv4Addr, port: u16) -> Result<()>;
    /// The listing, its rows as [`super::listing`] makes them.
    fn list(&mut self) -> Result<Vec<String>>;
    /// The counters.
    fn statistics(&mut self) -> Result<Vec<String>>;
    /// The far end of its cable.
    fn wire(&mut self) -> &mut Wire;
}

/// Runs a scenario.
pub fn run(steps: &[Step], subject: &mut impl Subject) -> Result<Transcript> {
    let mut transcript = Transcript::default();
    let mut rest = steps;
    while let Some(first) = rest.first() {
        // Frames go in together, and so do commands, until something else comes.
        let together = rest.iter().take_while(|step| are_together(first, step)).count().max(1);
        let (now, later) = rest.split_at(together);
        let answers = answer(now, subject).with_context(|| format!("at `{first}`"))?;
        transcript.lines.extend(now.iter().cloned().zip(answers));
        rest = later;
    }
    Ok(transcript)
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
            subject.add_member(*mark, protocol, *destination.ip(), destination.port())?;
        }
        Step::Wait(time) => std::thread::sleep(*time),
        Step::List => return Ok(vec![Answer::Listed(subject.list()?)]),
        Step::Statistics => return Ok(vec![Answer::Listed(subject.statistics()?)]),
        Step::Shares => {}
    }
    Ok(vec![Answer::Silent; steps.len()])
}

fn frame(step: &Step) -> Option<&Frame> {
    if let Step::Frame(frame) = step { Some(frame) } else { None }
}

fn command(step: &Step) -> Option<&str> {
    if let Step::Ipvsadm(arguments) = step { Some(arguments) } else { None }
}
