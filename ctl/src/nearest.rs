//! The known word that somebody who wrote an unknown one meant.

/// Words longer than this are no slip of anybody's finger.
const WORD_BYTES_MAX: usize = 64;

/// The known word nearest by edit distance, if it is near: at most one edit in three characters.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > WORD_BYTES_MAX {
        return None;
    }
    let near = |candidate: &&str| {
        let longest = word.chars().count().max(candidate.chars().count());
        let edits = distance(word, candidate);
        (edits <= (longest / 3).max(1)).then_some(edits)
    };
    known
        .into_iter()
        .filter_map(|candidate| near(&candidate).map(|edits| (edits, candidate)))
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, substitutions and swaps of neighbours (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().flat_map(char::to_lowercase).collect();
    let b: Vec<char> = b.chars().flat_map(char::to_lowercase).collect();
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    rows[0] = (0..=b.len()).collect();
    for i in 1..=a.len() {
        rows[i][0] = i;
        for j in 1..=b.len() {
            let substituted = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = substituted.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = least;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_names_the_word_that_was_meant() {
        let known = ["address", "weight", "mac", "drain"];
        for (written, meant) in [
            ("wieght", Some("weight")),
            ("Weight", Some("weight")),
            ("adress", Some("address")),
            ("drian", Some("drain")),
            ("mac_", Some("mac")),
            ("priority", None),
            ("", None),
        ] {
            assert_eq!(nearest(written, known), meant, "{written}");
        }
    }

    #[test]
    fn a_word_of_a_megabyte_is_near_to_nothing() {
        assert_eq!(nearest(&"w".repeat(1 << 20), ["weight"]), None);
    }
}
