//! --publish: docs/bench.svg, and the table of README.md between its two markers.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::machine::sources;
use crate::results::Results;
use crate::{plot, report};

const BEGIN: &str = "<!-- bench:begin -->";
const END: &str = "<!-- bench:end -->";

/// Writes both. Refuses what would mislead: a build that is not a release, a run that was mostly disturbed.
pub(crate) fn publish(results: &Results) -> Result<()> {
    publish_into(sources(), results)
}

fn publish_into(root: &Path, results: &Results) -> Result<()> {
    ensure!(results.machine.is_release, "not published: this is not a release build");
    let noisy = results.cases.iter().find(|case| case.summary.is_noisy);
    ensure!(
        noisy.is_none(),
        "not published: most pairs were disturbed; measure again when nothing else runs on this machine"
    );
    let readme = root.join("README.md");
    let text = fs::read_to_string(&readme).with_context(|| format!("{} cannot be read", readme.display()))?;
    let text = replace(&text, &report::for_readme(results))
        .with_context(|| format!("{}: no line {BEGIN} with a line {END} behind it", readme.display()))?;
    let svg = root.join("docs/bench.svg");
    for (file, content) in [(&svg, plot::svg(results)), (&readme, text)] {
        fs::write(file, content).with_context(|| format!("{} cannot be written", file.display()))?;
        println!("{} is up to date.", file.display());
    }
    Ok(())
}

/// `text` with `table` between the markers.
fn replace(text: &str, table: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{}\n{END}{after}", table.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::made_up;

    #[test]
    fn table_is_replaced_between_the_markers_and_nothing_else() {
        let text = format!("a\n{BEGIN}\nold\n{END}\nb\n");
        let once = replace(&text, "new\n").unwrap();
        assert_eq!(once, format!("a\n{BEGIN}\nnew\n{END}\nb\n"));
        assert_eq!(replace(&once, "new\n").unwrap(), once);
    }

    #[test]
    fn text_without_both_markers_in_order_is_refused() {
        for text in ["", BEGIN, END, "<!-- bench:end --> <!-- bench:begin -->"] {
            assert_eq!(replace(text, "new"), None, "{text}");
        }
    }

    #[test]
    fn noisy_results_are_not_published_and_others_are() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("docs")).unwrap();
        fs::write(root.path().join("README.md"), format!("{BEGIN}\n{END}\n")).unwrap();
        let mut results = made_up();
        results.machine.is_release = true;
        let error = publish_into(root.path(), &results).unwrap_err();
        assert!(error.to_string().contains("disturbed"), "{error}");
        results.cases.pop();
        publish_into(root.path(), &results).unwrap();
        assert!(fs::read_to_string(root.path().join("README.md")).unwrap().contains("| 1,024 |"));
        assert!(fs::read_to_string(root.path().join("docs/bench.svg")).unwrap().starts_with("<svg"));
        results.machine.is_release = false;
        assert!(publish_into(root.path(), &results).is_err());
    }
}
