//! The differences that are stated, in `lab/differential/deviations`: each a line, the name of its reason, which
//! docs/DEVIATIONS.md argues, and the difference ([`super::comparison`]) to the letter. What concerns every packet of a kind is a
//! rule ([`super::rules`]).

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result};

use super::collection;
use super::rules::{self, Rules};

/// The stated deviations: name of the reason, and the difference.
pub struct Deviations {
    stated: Vec<(String, String)>,
    rules: Rules,
}

impl Deviations {
    /// Reads `lab/differential/deviations`.
    pub fn read() -> Result<Deviations> {
        Self::parse(&fs::read_to_string(collection::directory().join("deviations"))?)
    }

    fn parse(text: &str) -> Result<Deviations> {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let entry = |line: &str| {
            let (reason, difference) =
                line.split_once(' ').with_context(|| format!("no difference: `{line}`"))?;
            Ok((reason.to_owned(), difference.to_owned()))
        };
        let stated: Vec<(String, String)> = lines.map(entry).collect::<Result<_>>()?;
        let rules = stated.iter().map(|(_, difference)| difference.as_str());
        let rules = Rules::read(rules.filter(|difference| difference.starts_with(rules::MARK)))?;
        Ok(Deviations { stated, rules })
    }

    /// Names of the reasons.
    pub fn reasons(&self) -> BTreeSet<&str> {
        self.stated.iter().map(|(reason, _)| reason.as_str()).collect()
    }

    /// Those that are rules.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Those of `differences` that are not stated, and those that are stated and are none.
    pub fn check<'a>(&'a self, differences: &'a [String]) -> (Vec<&'a str>, Vec<&'a str>) {
        let stated: BTreeSet<&str> = self.stated.iter().map(|(_, difference)| difference.as_str()).collect();
        let shown: BTreeSet<&str> = differences.iter().map(String::as_str).collect();
        (shown.difference(&stated).copied().collect(), stated.difference(&shown).copied().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stated_deviations_are_found_and_stale_ones_told() {
        let text = "# comment\nno-op x:4 = -\nno-op x:1 - a b\nstale x:9 = -\nruled ~ ip id=0 => ip id=1\n";
        let deviations = Deviations::parse(text).unwrap();
        let differences = ["x:4 = -", "x:1 - a b", "x:1 + e", "x:11 = -"].map(str::to_owned);
        let (unstated, stale) = deviations.check(&differences);
        assert_eq!(unstated, ["x:1 + e", "x:11 = -"]);
        assert_eq!(stale, ["x:9 = -", "~ ip id=0 => ip id=1"]);
        assert_eq!(deviations.reasons(), BTreeSet::from(["no-op", "ruled", "stale"]));
        assert!(Deviations::parse("ruled ~ ip id=0").is_err());
    }
}
