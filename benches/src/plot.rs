//! The plot: for every number of flows two bars, Mpps of testpmd and of the director, with the ratio below. By hand,
//! as SVG; readable on light and on dark.

use std::fmt::Write;

use crate::report::grouped;
use crate::results::{Results, Spread};

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 436.0;
/// The axes' corner and ends.
const LEFT: f64 = 56.0;
const RIGHT: f64 = 744.0;
const TOP: f64 = 84.0;
const BOTTOM: f64 = 336.0;
const BAR_WIDTH_MAX: f64 = 56.0;
const GAP: f64 = 6.0;
/// Lines across at most.
const TICKS_MAX: f64 = 6.0;

/// Colours that both grounds bear, and ink for each ground.
const STYLE: &str = "text{font:13px system-ui,sans-serif;fill:#1f2328}.small{font-size:11px;fill:#59636e}\
.title{font-size:16px;font-weight:600}.ratio{font-weight:600}.grid{stroke:#d1d9e0}.axis,.whisker{stroke:#59636e}\
.bar{stroke:#1f2328;stroke-width:2;stroke-dasharray:4 3}.testpmd{fill:#9aa4b0}.director{fill:#2f81f7}\
@media(prefers-color-scheme:dark){text{fill:#f0f6fc}.small{fill:#9198a1}.grid{stroke:#3d444d}\
.axis,.whisker{stroke:#9198a1}.bar{stroke:#f0f6fc}.testpmd{fill:#6e7781}}";

/// The drawing.
pub(crate) fn svg(results: &Results) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
         aria-label=\"Packet rates of testpmd and dr-director by number of flows\">\n<style>{STYLE}</style>\n"
    );
    header(&mut svg, results);
    let step = tick_step(highest(results) / TICKS_MAX);
    let top_value = (highest(results) / step).ceil() * step;
    grid(&mut svg, top_value, step);
    let group = (RIGHT - LEFT) / results.cases.len() as f64;
    for (place, case) in results.cases.iter().enumerate() {
        let middle = LEFT + group * (place as f64 + 0.5);
        let width = BAR_WIDTH_MAX.min(group / 2.0 - GAP);
        let summary = &case.summary;
        let (left, right) = (middle - GAP / 2.0 - width, middle + GAP / 2.0);
        let goal = case.bar.map_or(0.0, |bar| bar * summary.testpmd_mpps.median);
        rate(&mut svg, "testpmd", (left, width), top_value, &summary.testpmd_mpps, 0.0);
        rate(&mut svg, "director", (right, width), top_value, &summary.director_mpps, goal);
        if case.bar.is_some() {
            let y = height_of(goal, top_value);
            line(&mut svg, "bar", (right - 3.0, y), (right + width + 3.0, y));
        }
        let Spread { median, min, max, .. } = summary.ratio;
        text(
            &mut svg,
            "",
            "middle",
            (middle, BOTTOM + 20.0),
            &format!("{} {}", grouped(case.flows), plural(case.flows)),
        );
        text(&mut svg, "ratio", "middle", (middle, BOTTOM + 40.0), &format!("ratio {median:.2}"));
        text(&mut svg, "small", "middle", (middle, BOTTOM + 56.0), &format!("{min:.2} to {max:.2}"));
    }
    line(&mut svg, "axis", (LEFT, BOTTOM), (RIGHT, BOTTOM));
    svg.push_str("</svg>\n");
    svg
}

fn header(svg: &mut String, results: &Results) {
    text(svg, "title", "start", (LEFT, 26.0), "Million packets a second on one core");
    for (class, x, name) in [("testpmd", LEFT, "testpmd macswap"), ("director", LEFT + 160.0, "dr-director")]
    {
        let _ =
            writeln!(svg, "<rect class=\"{class}\" x=\"{x}\" y=\"42\" width=\"12\" height=\"12\" rx=\"2\"/>");
        text(svg, "", "start", (x + 18.0, 53.0), name);
    }
    line(svg, "bar", (LEFT + 278.0, 48.0), (LEFT + 302.0, 48.0));
    text(svg, "", "start", (LEFT + 308.0, 53.0), "goal");
    let (machine, method) = (&results.machine, &results.method);
    let how = format!(
        "64-byte frames, {} real servers. Median of {} pairs of {} s, whiskers from least to most.",
        method.real_servers, method.rounds, method.interval_seconds
    );
    let place = format!(
        "{} × {}, Linux {}, DPDK {}, {} UTC",
        machine.cpus, machine.cpu, machine.kernel, machine.dpdk, machine.date
    );
    for (line, words) in [how, place].iter().enumerate() {
        text(svg, "small", "start", (LEFT, HEIGHT - 24.0 + 16.0 * line as f64), words);
    }
}

fn grid(svg: &mut String, top_value: f64, step: f64) {
    let ticks = (top_value / step).round() as u32;
    for tick in 0..=ticks {
        let value = f64::from(tick) * step;
        let y = height_of(value, top_value);
        line(svg, "grid", (LEFT, y), (RIGHT, y));
        text(svg, "small", "end", (LEFT - 8.0, y + 4.0), &format!("{value}"));
    }
}

/// A bar to the median, a whisker from the least to the most, and the value above both and above `beneath`.
fn rate(svg: &mut String, class: &str, (x, width): (f64, f64), top_value: f64, rate: &Spread, beneath: f64) {
    let y = height_of(rate.median, top_value);
    let height = BOTTOM - y;
    let _ = writeln!(
        svg,
        "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"2\"/>"
    );
    let middle = x + width / 2.0;
    line(svg, "whisker", (middle, height_of(rate.min, top_value)), (middle, height_of(rate.max, top_value)));
    let label = height_of(rate.max.max(beneath), top_value) - 6.0;
    text(svg, "", "middle", (middle, label), &format!("{:.1}", rate.median));
}

fn line(svg: &mut String, class: &str, from: (f64, f64), to: (f64, f64)) {
    let ((x1, y1), (x2, y2)) = (from, to);
    let _ = writeln!(
        svg,
        "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
    );
}

fn text(svg: &mut String, class: &str, anchor: &str, at: (f64, f64), words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    let (x, y) = at;
    let _ = writeln!(
        svg,
        "<text class=\"{class}\" text-anchor=\"{anchor}\" x=\"{x:.1}\" y=\"{y:.1}\">{words}</text>"
    );
}

fn plural(flows: u32) -> &'static str {
    if flows == 1 { "flow" } else { "flows" }
}

fn height_of(value: f64, top_value: f64) -> f64 {
    BOTTOM - value / top_value * (BOTTOM - TOP)
}

fn highest(results: &Results) -> f64 {
    let tops =
        results.cases.iter().map(|case| case.summary.testpmd_mpps.max.max(case.summary.director_mpps.max));
    tops.fold(f64::MIN_POSITIVE, f64::max)
}

/// The least of 1, 2, 5 times a power of ten that is not below `least`.
fn tick_step(least: f64) -> f64 {
    let power = 10_f64.powf(least.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= least).unwrap_or(10.0);
    factor * power
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::made_up;

    #[test]
    fn steps_are_round_numbers() {
        let steps = [0.9, 1.0, 1.1, 2.5, 6.0, 70.0].map(tick_step);
        assert_eq!(steps, [1.0, 1.0, 2.0, 5.0, 10.0, 100.0]);
    }

    #[test]
    fn drawing_has_two_rates_for_every_case_and_escapes_text() {
        let mut results = made_up();
        results.machine.cpu = "A<B & C".to_owned();
        let svg = svg(&results);
        assert_eq!(svg.matches("class=\"director\"").count(), 1 + results.cases.len());
        assert!(
            svg.contains("A&lt;B &amp; C") && svg.contains("1,000,000 flows") && svg.contains("1 flow<"),
            "{svg}"
        );
    }

    #[test]
    fn bars_end_within_the_axes() {
        assert_eq!((height_of(0.0, 60.0), height_of(60.0, 60.0)), (BOTTOM, TOP));
        let results = made_up();
        assert!(highest(&results) >= 52.0);
    }
}
