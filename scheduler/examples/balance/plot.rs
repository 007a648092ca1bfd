//! docs/balance.svg: a field for each scheduler, in it a dot for each RS at the connections that it got, over a line
//! at its ideal. By hand, as SVG; readable on light and on dark.

use std::fmt::Write;

use crate::measure::{CONNECTIONS, OPEN, REAL_SERVERS, Share, Spread};

const COLUMNS: usize = 4;
const FIELD: (f64, f64) = (180.0, 96.0);
const STEP: (f64, f64) = (196.0, 146.0);
const ORIGIN: (f64, f64) = (16.0, 96.0);
const WIDTH: f64 = 800.0;

/// Colours that both grounds bear, and ink for each ground.
const STYLE: &str = "text{font:13px system-ui,sans-serif;fill:#1f2328}.small{font-size:11px;fill:#59636e}\
.title{font-size:16px;font-weight:600}.name{font-weight:600}.axis{stroke:#59636e}\
.ideal{stroke:#d29922;stroke-width:2;fill:none}.got{stroke:#2f81f7;stroke-width:3;stroke-linecap:round}\
@media(prefers-color-scheme:dark){text{fill:#f0f6fc}.small{fill:#9198a1}.axis{stroke:#9198a1}}";

/// The drawing.
pub(crate) fn svg(spreads: &[Spread]) -> String {
    let rows = spreads.len().div_ceil(COLUMNS);
    let height = ORIGIN.1 + STEP.1 * rows as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         aria-label=\"Connections of each real server under each scheduler, and its ideal\">\n\
         <style>{STYLE}</style>\n"
    );
    text(
        &mut svg,
        "title",
        (ORIGIN.0, 26.0),
        "A million connections over a hundred real servers of weights 1 to 5",
    );
    let how = format!(
        "{CONNECTIONS} opened, {OPEN} open at once; {REAL_SERVERS} real servers from left to right by their ideal. \
         Each field from 0 to its most."
    );
    text(&mut svg, "small", (ORIGIN.0, 44.0), &how);
    let _ = writeln!(svg, "<path class=\"got\" d=\"M20 62h0\"/><path class=\"ideal\" d=\"M116 62h20\"/>");
    text(&mut svg, "", (30.0, 66.0), "measured");
    text(&mut svg, "", (142.0, 66.0), "ideal");
    for (number, spread) in spreads.iter().enumerate() {
        let x = ORIGIN.0 + STEP.0 * (number % COLUMNS) as f64;
        let y = ORIGIN.1 + STEP.1 * (number / COLUMNS) as f64;
        field(&mut svg, (x, y), spread);
    }
    svg.push_str("</svg>\n");
    svg
}

fn field(svg: &mut String, (left, top): (f64, f64), spread: &Spread) {
    let mut shares = spread.shares.clone();
    shares.sort_by(|a, b| (a.ideal, a.measured).partial_cmp(&(b.ideal, b.measured)).expect("no NaN"));
    let most = shares.iter().fold(1.0, |most: f64, share| most.max(share.ideal).max(share.measured));
    let bottom = top + FIELD.1;
    let x = |number: usize| left + FIELD.0 * (number as f64 + 0.5) / shares.len() as f64;
    let y = |connections: f64| bottom - FIELD.1 * connections / most;
    text(svg, "name", (left, top - 6.0), spread.algorithm.name());
    let deviation = format!("mean deviation {:.1} %", spread.mean_deviation());
    text(svg, "small", (left + 46.0, top - 6.0), &deviation);
    let _ = writeln!(svg, "<path class=\"axis\" d=\"M{left:.0} {bottom:.0}h{:.0}\"/>", FIELD.0);
    path(svg, "ideal", &shares, |number, share| {
        let command = if number == 0 { 'M' } else { 'L' };
        format!("{command}{:.1} {:.1}", x(number), y(share.ideal))
    });
    path(svg, "got", &shares, |number, share| format!("M{:.1} {:.1}h0", x(number), y(share.measured)));
}

fn path(svg: &mut String, class: &str, shares: &[Share], step: impl Fn(usize, &Share) -> String) {
    let steps: String = shares.iter().enumerate().map(|(number, share)| step(number, share)).collect();
    let _ = writeln!(svg, "<path class=\"{class}\" d=\"{steps}\"/>");
}

fn text(svg: &mut String, class: &str, (x, y): (f64, f64), words: &str) {
    let _ = writeln!(svg, "<text class=\"{class}\" x=\"{x:.0}\" y=\"{y:.0}\">{words}</text>");
}
