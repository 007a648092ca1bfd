//! Where two transcripts of a scenario differ, and which differences are stated.
//!
//! A difference is one line: the scenario, the line of its golden file, and what the director did there.
//!
//! ```text
//! removal-syn:9 = 10.0.0.11                                  it forwarded the frame so
//! removal-syn:12 - TCP SYN_RECV 198.51.100.7:40000 ...       it does not list this row
//! removal-syn:12 + TCP SYN_RECV 198.51.100.7:40000 ...       it lists this row besides
//! persistent-removed:9 stale templates                       it lists none of the templates that the kernel has given up
//! nat-udp:7 - > 10.0.0.11: ip ...                            this packet did not come out
//! nat-udp:7 + > 10.0.0.11: ip ...                            this one did besides
//! twos-equal:605 shares 10.0.0.11: 10 where the kernel has 200 of 600
//! ~ ip6 flow=*1 / icmp6 => ip6 flow=0 / icmp6                wherever this rule applies: all packets are compared as it says
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use anyhow::{Result, ensure};

use super::packet::whole::Pieces;
use super::rules::Rules;
use super::scenario::{Answer, Step, Transcript};

/// How many standard deviations two shares may be apart: beyond it is no chance any more.
const SHARE_DEVIATIONS: f64 = 5.0;

/// Where `director` differs from `golden`, the transcripts of one scenario, and from what `rules` make of it.
pub fn differences(
    name: &str,
    golden: &Transcript,
    director: &Transcript,
    rules: &Rules,
) -> Result<Vec<String>> {
    ensure!(golden.steps() == director.steps(), "{name}: not the same scenario");
    let mut differences = Vec::new();
    let mut line = 1;
    let is_statistical = |at: usize| golden.lines[at..].iter().any(|(step, _)| *step == Step::Shares);
    let mut shares_from = 0;
    let (mut kernel_pieces, mut director_pieces) = (Pieces::default(), Pieces::default());
    let mut applied = BTreeSet::new();
    for (at, ((step, expected), (_, got))) in golden.lines.iter().zip(&director.lines).enumerate() {
        let place = format!("{name}:{line}");
        let mut differs = |what: String| differences.push(format!("{place} {what}"));
        match (expected, got) {
            (Answer::Listed(expected), Answer::Listed(got)) => {
                compare_rows(expected, got).into_iter().for_each(&mut differs);
                line += expected.len();
            }
            (Answer::Sent(expected), Answer::Sent(got)) => {
                let together = kernel_pieces.put_together(at, expected)?;
                let together = rules.apply(&together, &mut applied)?;
                let got = director_pieces.put_together(at, got)?;
                let got = Rules::none().apply(&got, &mut BTreeSet::new())?;
                compare_fresh_rows(&marked(&together), &marked(&got)).into_iter().for_each(&mut differs);
                line += expected.len();
            }
            (Answer::Forwarded(_), Answer::Forwarded(_)) if is_statistical(at) => {}
            (Answer::Forwarded(_), Answer::Forwarded(got_by)) if expected != got => {
                differs(format!("= {}", got_by.map_or("-".to_owned(), |address| address.to_string())));
            }
            _ => {}
        }
        if *step == Step::Shares {
            let (expected, got) = (&golden.lines[shares_from..at], &director.lines[shares_from..at]);
            compare_shares(&shares(expected), &shares(got)).into_iter().for_each(&mut differs);
            shares_from = at;
        }
        line += 1;
    }
    differences.extend(applied.into_iter().map(str::to_owned));
    Ok(differences)
}

/// Packets that came out, as their golden file has them.
fn marked(packets: &[String]) -> Vec<String> {
    packets.iter().map(|packet| format!("> {packet}")).collect()
}

/// Rows that are missing and rows that are too much; where only their order differs, that.
fn compare_rows(expected: &[String], got: &[String]) -> Vec<String> {
    let fresh = without_stale_templates(expected);
    if expected == got {
        Vec::new()
    } else if fresh == got {
        vec!["stale templates".to_owned()]
    } else {
        compare_fresh_rows(&fresh, got)
    }
}

/// The listing as if the kernel removed a template that it has given up: it gives it port 65535, which nobody looks for, and
/// lists and counts it until it times out (`ip_vs_check_template`).
fn without_stale_templates(rows: &[String]) -> Vec<String> {
    let is_stale = |row: &&String| row.split(' ').nth(4).is_some_and(|address| address.ends_with(":65535"));
    let mut fresh: Vec<String> = rows.iter().filter(|row| !is_stale(row)).cloned().collect();
    for stale in rows.iter().filter(is_stale) {
        let Some(address) = stale.split([' ', ':']).nth(6) else { continue };
        let start = format!("-> {address}:");
        if let Some(row) = fresh.iter_mut().find(|row| row.starts_with(&start)) {
            let (rest, count) = row.rsplit_once(' ').unwrap_or((row, ""));
            let count: u32 = count.parse().unwrap_or(0);
            *row = format!("{rest} {}", count.saturating_sub(1));
        }
    }
    fresh
}

fn compare_fresh_rows(expected: &[String], got: &[String]) -> Vec<String> {
    let missing = rest(expected, got).map(|row| format!("- {row}"));
    let unexpected = rest(got, expected).map(|row| format!("+ {row}"));
    let rows: Vec<String> = missing.chain(unexpected).collect();
    if rows.is_empty() && expected != got { vec!["order of rows".to_owned()] } else { rows }
}

/// Rows of `all` that `others` has not as often.
fn rest<'a>(all: &'a [String], others: &[String]) -> impl Iterator<Item = &'a String> {
    let mut others = others.to_vec();
    all.iter().filter(move |row| match others.iter().position(|other| other == *row) {
        Some(place) => {
            others.swap_remove(place);
            false
        }
        None => true,
    })
}

fn shares(lines: &[(Step, Answer)]) -> BTreeMap<Option<Ipv4Addr>, usize> {
    let mut shares = BTreeMap::new();
    for (_, answer) in lines {
        if let Answer::Forwarded(address) = answer {
            *shares.entry(*address).or_insert(0) += 1;
        }
    }
    shares
}

fn compare_shares(
    expected: &BTreeMap<Option<Ipv4Addr>, usize>,
    got: &BTreeMap<Option<Ipv4Addr>, usize>,
) -> Vec<String> {
    let total: usize = expected.values().sum();
    let who: BTreeSet<_> = expected.keys().chain(got.keys()).collect();
    let mut differences = Vec::new();
    for address in who {
        let count = |shares: &BTreeMap<_, usize>| shares.get(address).copied().unwrap_or(0);
        let (expected, got) = (count(expected), count(got));
        let share = expected as f64 / total as f64;
        // Two samples: twice the variance of one. Who got nothing there gets nothing here.
        let allowed = SHARE_DEVIATIONS * (2.0 * total as f64 * share * (1.0 - share)).sqrt();
        if (expected as f64 - got as f64).abs() > allowed {
            let name = address.map_or("-".to_owned(), |address| address.to_string());
            differences.push(format!("shares {name}: {got} where the kernel has {expected} of {total}"));
        }
    }
    differences
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transcript(text: &str) -> Transcript {
        Transcript::parse(text).unwrap()
    }

    #[test]
    fn differences_have_the_golden_files_line() {
        let golden =
            transcript("list\n| a\n| b\nudp 198.51.100.7:1 > 192.0.2.10:53 = 10.0.0.11\nlist\n| c\n| d\n");
        let director = transcript("list\n| b\n| e\nudp 198.51.100.7:1 > 192.0.2.10:53 = -\nlist\n| d\n| c\n");
        assert_eq!(
            differences("x", &golden, &director, &Rules::none()).unwrap(),
            ["x:1 - a", "x:1 + e", "x:4 = -", "x:5 order of rows"]
        );
        assert!(differences("x", &golden, &golden, &Rules::none()).unwrap().is_empty());
        assert!(differences("x", &golden, &transcript("list\n"), &Rules::none()).is_err());
    }

    #[test]
    fn templates_that_the_kernel_has_given_up_are_one_difference() {
        let row = "-> 10.0.0.12:80 Route 1 2 0";
        let stale = "TCP NONE 198.51.100.7:0 192.0.2.10:65535 10.0.0.12:65535";
        let golden = transcript(&format!("list\n| {row} 2\n| {stale}\n"));
        let director = transcript(&format!("list\n| {row} 1\n"));
        assert_eq!(differences("x", &golden, &director, &Rules::none()).unwrap(), ["x:1 stale templates"]);
        assert!(differences("x", &golden, &golden, &Rules::none()).unwrap().is_empty());
        let other = transcript(&format!("list\n| {row} 0\n"));
        assert_eq!(
            differences("x", &golden, &other, &Rules::none()).unwrap(),
            [format!("x:1 - {row} 1"), format!("x:1 + {row} 0")]
        );
    }

    #[test]
    fn shares_may_differ_by_chance_and_no_more() {
        let of = |first: usize, all: usize| {
            let line = |n: usize| {
                format!("udp 1.1.1.1:1 > 2.2.2.2:2 = 10.0.0.{}\n", if n < first { 11 } else { 12 })
            };
            transcript(&((0..all).map(line).collect::<String>() + "shares\n"))
        };
        assert!(differences("x", &of(300, 600), &of(330, 600), &Rules::none()).unwrap().is_empty());
        assert_eq!(differences("x", &of(300, 600), &of(500, 600), &Rules::none()).unwrap().len(), 2);
        assert_eq!(differences("x", &of(600, 600), &of(599, 600), &Rules::none()).unwrap().len(), 2);
    }
}
