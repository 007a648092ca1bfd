//! Tables: for the terminal while it runs and at its end, and the one of README.md.

use std::fmt::Write;

use crate::results::{Case, Pair, Results};

/// A number with commas.
pub(crate) fn grouped(number: u32) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// What a round came to, when it is over.
pub(crate) fn pair_line(flows: u32, round: u32, rounds: u32, pair: &Pair) -> String {
    let mut line = format!(
        "{:>9} flows, round {round}/{rounds}: testpmd {:6.2} Mpps, director {:6.2} Mpps, ratio {:.3}",
        grouped(flows),
        pair.testpmd.mpps,
        pair.director.mpps,
        pair.ratio
    );
    if !pair.disturbances.is_empty() {
        let _ = write!(line, "  [disturbed: {}]", pair.disturbances.join(", "));
    }
    line
}

/// The table at the end.
pub(crate) fn for_terminal(results: &Results) -> String {
    let mut text = String::from(
        "\n           testpmd macswap      dr-director      ratio                                   pairs\n    \
         flows    Mpps  ns/packet    Mpps  ns/packet    median  min..max      IQR    bar          counted\n",
    );
    for case in &results.cases {
        let summary = &case.summary;
        let ratio = summary.ratio;
        let counted = format!("{} of {}", summary.pairs_counted, case.pairs.len());
        let noisy = if summary.is_noisy { ", NOISY" } else { "" };
        let _ = writeln!(
            text,
            "{:>9}  {:>6.2}  {:>9.1}  {:>6.2}  {:>9.1}    {:.3}   {:.3}..{:.3}  {:.3}  {:<11}  {counted}{noisy}",
            grouped(case.flows),
            summary.testpmd_mpps.median,
            summary.testpmd_ns.median,
            summary.director_mpps.median,
            summary.director_ns.median,
            ratio.median,
            ratio.min,
            ratio.max,
            ratio.upper_quartile - ratio.lower_quartile,
            bar(case)
        );
    }
    let _ = writeln!(text, "\n{}", conditions(results));
    text
}

fn bar(case: &Case) -> String {
    match (case.bar, case.meets_bar()) {
        (Some(bar), Some(true)) => format!("{bar:.2} pass"),
        (Some(bar), _) => format!("{bar:.2} MISSED"),
        (None, _) => "-".to_owned(),
    }
}

/// The table of README.md, with the plot.
pub(crate) fn for_readme(results: &Results) -> String {
    let mut text = String::from(
        "| TCP flows | testpmd macswap | dr-director | ratio, median | min to max |\n|--:|--:|--:|--:|--:|\n",
    );
    for case in &results.cases {
        let summary = &case.summary;
        let _ = writeln!(
            text,
            "| {} | {:.1} Mpps, {:.1} ns | {:.1} Mpps, {:.1} ns | **{:.2}** | {:.2} to {:.2} |",
            grouped(case.flows),
            summary.testpmd_mpps.median,
            summary.testpmd_ns.median,
            summary.director_mpps.median,
            summary.director_ns.median,
            summary.ratio.median,
            summary.ratio.min,
            summary.ratio.max
        );
    }
    let plot = "![Packet rates of testpmd and dr-director by number of flows](docs/bench.svg)";
    let _ = writeln!(text, "\n{plot}\n\n{}", conditions(results));
    text
}

/// Under which conditions, in a sentence or two.
fn conditions(results: &Results) -> String {
    let (machine, method) = (&results.machine, &results.method);
    let memory = if method.hugepages > 0 { "2 MiB hugepages" } else { "small pages" };
    let build = if machine.is_release { "" } else { " NOT A RELEASE BUILD." };
    format!(
        "One core, 64-byte frames, {} real servers, mbufs of {} bytes in {memory} on both sides; {} pairs of {} s. {} \
         UTC: {}.{build}",
        method.real_servers,
        method.mbuf_data_room,
        method.rounds,
        method.interval_seconds,
        machine.date,
        machine.in_words()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::made_up;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        assert_eq!(
            [0, 999, 1024, 65_536, 1_000_000].map(grouped),
            ["0", "999", "1,024", "65,536", "1,000,000"]
        );
    }

    #[test]
    fn terminal_table_shows_bars_and_noise() {
        let text = for_terminal(&made_up());
        let lines: Vec<&str> =
            text.lines().filter(|line| line.contains("..") && line.contains(" of ")).collect();
        assert!(lines[0].contains(" -  ") && lines[1].contains("0.45 pass"), "{text}");
        assert!(lines[1].contains("2 of 3") && !lines[1].contains("NOISY"), "{text}");
        assert!(lines[2].contains("0.38 MISSED") && lines[2].contains("NOISY"), "{text}");
    }

    #[test]
    fn readme_table_has_a_row_for_every_case_and_its_conditions() {
        let text = for_readme(&made_up());
        assert!(
            text.contains("| 1,024 | 41.0 Mpps, 24.4 ns | 20.0 Mpps, 50.0 ns | **0.49** | 0.48 to 0.50 |"),
            "{text}"
        );
        assert!(text.contains("16 real servers") && text.contains("DPDK 22.11.0"), "{text}");
    }

    #[test]
    fn line_of_a_disturbed_pair_says_by_what() {
        let results = made_up();
        let pairs = &results.cases[1].pairs;
        assert!(!pair_line(1024, 1, 3, &pairs[0]).contains("disturbed"));
        assert!(
            pair_line(1024, 3, 3, &pairs[2]).contains("[disturbed: director: worker had 60 % of its CPU]")
        );
    }
}
