//! The packet catalogue's files: one line a case.
//!
//! `description | frames in | verdict | frames out | counters`
//!
//! * Frames stand in the notation of [`crate::notation`], several of them between ` ; `. In brackets in front of one: `[port 1]`
//!   it comes in by that port, `[wait 31]` so many seconds pass before, `[shared]` somebody else has its buffer, `[nic good]` and
//!   `[nic bad]` the NIC's word on its IP checksum.
//! * Verdicts: `forward`, `reply`, `drop`, `neighbour` and `echo` (the control thread's queues), `host`, `hold`. As many as there are
//!   frames, or fewer: then the first frames only set the scene and are forwarded.
//! * Frames out of the judged frames: `-` for none, `by method` for what the real server gets by the case's forwarding method
//!   (`by method 2 1`: the second judged frame before the first one).
//! * Counters: what changes by the judged frames, with how much where that is not 1.
//!
//! A line that begins with `@` holds from there on: `@ methods dr ipip`, `@ families 4 6`, `@ options pmtu_disc=false` (empty: the
//! defaults), `@ variants whole split tagged`.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]

use dataplane::snapshot::Options;

use crate::network::methods::{self, Method};

/// One line.
#[derive(Clone, Debug)]
pub struct Case {
    /// File and line.
    pub place: String,
    pub description: String,
    pub steps: Vec<Step>,
    pub verdicts: Vec<String>,
    pub out: Out,
    pub counters: Vec<(String, i64)>,
    pub setting: Setting,
}

/// What holds for the lines that follow.
#[derive(Clone, Debug)]
pub struct Setting {
    pub methods: Vec<&'static Method>,
    pub families: Vec<bool>,
    pub options: Options,
    pub is_split: bool,
    pub is_tagged: bool,
}

/// A frame that comes in.
#[derive(Clone, Debug, Default)]
pub struct Step {
    pub frame: String,
    /// None: the port that the frame is addressed to, or the first.
    pub port: Option<u8>,
    pub wait_seconds: u32,
    pub is_shared: bool,
    pub nic: Option<bool>,
}

#[derive(Clone, Debug)]
pub enum Out {
    Nothing,
    /// These of the judged frames, by their place from 0 on.
    ByMethod(Vec<usize>),
    Frames(Vec<String>),
}

impl Default for Setting {
    fn default() -> Self {
        Setting {
            methods: vec![&methods::METHODS[0]],
            families: vec![false],
            options: Options { tunnel_mss_clamp: false, ..Options::default() },
            is_split: true,
            is_tagged: true,
        }
    }
}

/// The cases of a file.
pub fn parse(name: &str, text: &str) -> Result<Vec<Case>, String> {
    let mut setting = Setting::default();
    let mut cases = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let place = format!("{name}:{}", number + 1);
        let parsed = match line.trim() {
            "" => Ok(()),
            line if line.starts_with('#') => Ok(()),
            line if line.starts_with('@') => setting.change(&line[1..]),
            line => case(&place, line, &setting).map(|case| cases.push(case)),
        };
        parsed.map_err(|error| format!("{place}: {error}"))?;
    }
    Ok(cases)
}

impl Setting {
    fn change(&mut self, text: &str) -> Result<(), String> {
        let mut words = text.split_whitespace();
        match words.next() {
            Some("methods") => {
                let named = words.map(|name| methods::named(name).ok_or(format!("no method {name}")));
                self.methods = named.collect::<Result<_, _>>()?;
            }
            Some("families") => self.families = words.map(|word| word == "6").collect(),
            Some("variants") => {
                let words: Vec<_> = words.collect();
                self.is_split = words.contains(&"split");
                self.is_tagged = words.contains(&"tagged");
            }
            Some("options") => {
                self.options = Setting::default().options;
                for word in words {
                    option(&mut self.options, word)?;
                }
            }
            _ => return Err(format!("{text} is no directive")),
        }
        Ok(())
    }
}

fn option(options: &mut Options, word: &str) -> Result<(), String> {
    let (name, value) = word.split_once('=').ok_or_else(|| format!("{word}: what of it?"))?;
    let is_on = value == "true";
    match name {
        "pmtu_disc" => options.pmtu_disc = is_on,
        "tunnel_mss_clamp" => options.tunnel_mss_clamp = is_on,
        "schedule_icmp" => options.schedule_icmp = is_on,
        "nat_icmp_send" => options.nat_icmp_send = is_on,
        "sloppy_tcp" => options.sloppy_tcp = is_on,
        "icmp_packets_per_second" => {
            options.icmp_packets_per_second = value.parse().map_err(|_| format!("{value} is no number"))?;
        }
        "host_packets_per_second" => {
            options.host_packets_per_second = value.parse().map_err(|_| format!("{value} is no number"))?;
        }
        _ => return Err(format!("no option {name}")),
    }
    Ok(())
}

fn case(place: &str, line: &str, setting: &Setting) -> Result<Case, String> {
    let cells: Vec<&str> = line.split(" | ").map(str::trim).collect();
    let [description, frames, verdicts, out, counters] = cells[..] else {
        return Err(format!("{} cells, not 5", cells.len()));
    };
    let steps = frames.split(" ; ").map(step).collect::<Result<Vec<_>, _>>()?;
    let verdicts: Vec<String> = verdicts.split(" ; ").map(str::to_string).collect();
    if verdicts.len() > steps.len() {
        return Err("more verdicts than frames".into());
    }
    let out = match out {
        "-" => Out::Nothing,
        text if text.starts_with("by method") => {
            let order = text.split_whitespace().skip(2).map(|place| place.parse::<usize>());
            let order: Vec<usize> = order.collect::<Result<_, _>>().map_err(|_| "no order")?;
            match order.is_empty() {
                true => Out::ByMethod((0..verdicts.len()).collect()),
                false => Out::ByMethod(order.iter().map(|place| place - 1).collect()),
            }
        }
        frames => Out::Frames(frames.split(" ; ").map(str::to_string).collect()),
    };
    let counters = counters.split(", ").map(counter).collect::<Result<_, _>>()?;
    let (place, description, setting) = (place.to_string(), description.to_string(), setting.clone());
    Ok(Case { place, description, steps, verdicts, out, counters, setting })
}

fn counter(text: &str) -> Result<(String, i64), String> {
    let (name, count) = text.split_once(' ').unwrap_or((text, "1"));
    Ok((name.to_string(), count.parse().map_err(|_| format!("{count} is no number"))?))
}

fn step(text: &str) -> Result<Step, String> {
    let mut step = Step::default();
    let mut rest = text.trim();
    while let Some(end) = rest.strip_prefix('[').and_then(|rest| rest.find(']')) {
        let words: Vec<&str> = rest[1..=end].split_whitespace().collect();
        match words[..] {
            ["port", port] => step.port = Some(port.parse().map_err(|_| "no port".to_string())?),
            ["wait", wait] => step.wait_seconds = wait.parse().map_err(|_| "no seconds".to_string())?,
            ["shared"] => step.is_shared = true,
            ["nic", word] => step.nic = Some(word == "good"),
            _ => return Err(format!("{text}: what is in brackets?")),
        }
        rest = rest[end + 2..].trim();
    }
    step.frame = rest.to_string();
    Ok(step)
}
