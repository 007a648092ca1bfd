//! The tables, and what --publish writes: docs/SCHEDULERS.md between its two markers, and docs/balance.svg.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{fs, io};

use scheduler::Algorithm;

use crate::measure::{CONNECTIONS, DESTINATIONS, OPEN, REAL_SERVERS, Spread};
use crate::plot;
use crate::removal::{CLIENTS, COUNTS, Kind, Moved, REMOVALS};

const BEGIN: &str = "<!-- balance:begin -->";
const END: &str = "<!-- balance:end -->";

/// All that was measured.
pub(crate) struct Page {
    spreads: Vec<Spread>,
    /// Of the hundred RSs.
    moved: [(&'static str, Moved); 3],
    kinds: Vec<Kind>,
}

impl Page {
    pub(crate) fn measured() -> Self {
        let spreads = Algorithm::ALL.into_iter().map(Spread::measured).collect();
        let moved = [
            ("`sh`", Moved::under(Algorithm::Sh)),
            ("`mh`", Moved::under(Algorithm::Mh)),
            ("the ring", Moved::on_the_ring()),
        ];
        Page { spreads, moved, kinds: Kind::all() }
    }

    /// The tables, as Markdown.
    pub(crate) fn tables(&self) -> String {
        let mut tables = format!(
            "{CONNECTIONS} connections from random clients and ports to {DESTINATIONS} destination addresses, {OPEN} \
             open at once, all active,\none at random closing for each that opens. {REAL_SERVERS} RSs of the weights 1 \
             to 5 in turn (`ovf`: 200 to 1000, for there a weight is a capacity);\n`sh` and `mh` hash the port too. \
             Deviations are of an RS's connections from its ideal.\n\n\
             | scheduler | ideal | mean deviation | lowest | highest | RSs without any |\n|---|---|---|---|---|---|\n"
        );
        for spread in &self.spreads {
            let (low, high) = spread.extremes();
            let _ = writeln!(
                tables,
                "| `{}` | {} | {:.1} % | {} | {} | {} |",
                spread.algorithm,
                spread.ideal,
                spread.mean_deviation(),
                signed(low),
                signed(high),
                spread.starved()
            );
        }
        let refused: Vec<String> = (self.spreads.iter().filter(|spread| spread.refused > 0))
            .map(|spread| format!("`{}` {}", spread.algorithm, spread.refused))
            .collect();
        if !refused.is_empty() {
            let _ = writeln!(tables, "\nConnections that no RS took: {}.", refused.join(", "));
        }
        let _ = write!(
            tables,
            "\nOne of these RSs goes, each by itself: of {CLIENTS} clients, those of the other RSs that move too. (The \
             ring is what forwards without state.)\n\n| | mean | most |\n|---|---|---|\n"
        );
        for (name, moved) in &self.moved {
            let _ = writeln!(tables, "| {name} | {:.1} % | {:.1} % |", moved.mean, moved.most);
        }
        let counts: Vec<String> = COUNTS.iter().map(usize::to_string).collect();
        let _ = write!(
            tables,
            "\n`mh` with other numbers of RSs and other weights, mean and most; of more than {REMOVALS} RSs, {REMOVALS} \
             spread over the list and the odd one.\n\n| weights | {} RSs |\n|---|{}\n",
            counts.join(" | "),
            "---|".repeat(COUNTS.len())
        );
        for kind in &self.kinds {
            let cell = |moved: &Moved| format!("{:.1}, {:.1} %", moved.mean, moved.most);
            let cells: Vec<String> = kind.moved.iter().map(cell).collect();
            let _ = writeln!(tables, "| {} | {} |", kind.name, cells.join(" | "));
        }
        tables
    }

    /// Writes both files.
    pub(crate) fn write(&self) -> io::Result<()> {
        let page = docs().join("SCHEDULERS.md");
        let text = self.replaced(&fs::read_to_string(&page)?);
        let text =
            text.ok_or_else(|| io::Error::other(format!("{}: no {BEGIN} before {END}", page.display())))?;
        let drawing = docs().join("balance.svg");
        for (file, content) in [(drawing, plot::svg(&self.spreads)), (page, text)] {
            fs::write(&file, content)?;
            println!("{} is up to date.", file.display());
        }
        Ok(())
    }

    /// The text with the tables between the markers.
    fn replaced(&self, text: &str) -> Option<String> {
        let (before, rest) = text.split_once(BEGIN)?;
        let (_, after) = rest.split_once(END)?;
        Some(format!("{before}{BEGIN}\n{}{END}{after}", self.tables()))
    }
}

fn signed(per_cent: f64) -> String {
    // A deviation that rounds to nothing has no sign.
    if per_cent.abs() < 0.05 { "0.0 %".to_owned() } else { format!("{per_cent:+.1} %") }
}

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The measurement has no chance in it: the page and the drawing are what it gives today.
    #[test]
    fn published_page_is_what_is_measured() {
        let page = Page::measured();
        let text = fs::read_to_string(docs().join("SCHEDULERS.md")).unwrap();
        assert_eq!(page.replaced(&text).unwrap(), text, "publish again");
        assert_eq!(plot::svg(&page.spreads), fs::read_to_string(docs().join("balance.svg")).unwrap());
    }

    #[test]
    fn page_names_every_scheduler_and_every_flag() {
        let text = fs::read_to_string(docs().join("SCHEDULERS.md")).unwrap();
        for algorithm in Algorithm::ALL {
            assert!(text.contains(&format!("\n| `{algorithm}` | ")), "{algorithm}");
        }
        for flag in ["sh-port", "sh-fallback", "mh-port", "mh-fallback"] {
            assert!(text.contains(&format!("`{flag}`")), "{flag}");
        }
    }
}
