//! The first rows of a listing in its order, out of any number, in memory for twice as many.
//!
//! Rows are taken in as they come. When twice as many are held as are wanted, the later half is thrown away (a selection,
//! linear in what is held), and from then on a row behind all that are kept is not taken in at all. So millions of rows
//! cost about as many comparisons.

use std::cmp::Ordering;

/// See the module.
#[derive(Debug)]
pub struct Selection<T, F> {
    wanted: usize,
    kept: Vec<T>,
    compare: F,
    /// The first so many rows are before every other that was ever taken in, and the last of them is at this place.
    has_bound: bool,
}

impl<T, F: Fn(&T, &T) -> Ordering> Selection<T, F> {
    /// Selects the first `wanted` rows by `compare`.
    pub fn new(wanted: usize, compare: F) -> Self {
        Selection { wanted, kept: Vec::new(), compare, has_bound: false }
    }

    /// Takes in a row.
    pub fn add(&mut self, row: T) {
        let Some(last) = self.wanted.checked_sub(1) else { return };
        if self.has_bound && (self.compare)(&row, &self.kept[last]).is_ge() {
            return;
        }
        self.kept.push(row);
        if self.kept.len() >= self.wanted.saturating_mul(2) {
            self.halve(last);
        }
    }

    /// After it the bound is at `last`, behind all that come before it.
    fn halve(&mut self, last: usize) {
        self.kept.select_nth_unstable_by(last, &self.compare);
        self.kept.truncate(self.wanted);
        self.has_bound = true;
    }

    /// The rows in their order, but for the first `offset`.
    pub fn finish(mut self, offset: usize) -> Vec<T> {
        self.kept.sort_unstable_by(&self.compare);
        self.kept.truncate(self.wanted);
        self.kept.drain(..offset.min(self.kept.len()));
        self.kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reproducible order of the numbers below `count` (a prime).
    fn shuffled(count: u64) -> impl Iterator<Item = u64> {
        (0..count).map(move |number| number * 7_919 % count)
    }

    fn selected(wanted: usize, offset: usize, rows: impl Iterator<Item = u64>) -> Vec<u64> {
        let mut selection = Selection::new(wanted, u64::cmp);
        rows.for_each(|row| selection.add(row));
        assert!(selection.kept.capacity() <= wanted * 4 + 8, "memory for what is wanted");
        selection.finish(offset)
    }

    #[test]
    fn selection_is_the_first_rows_whatever_order_they_come_in() {
        for (wanted, offset) in [(1, 0), (10, 3), (100, 0), (1000, 990), (10_006, 0), (20_000, 5)] {
            let expected: Vec<u64> = (0..10_007).take(wanted).skip(offset).collect();
            assert_eq!(selected(wanted, offset, shuffled(10_007)), expected, "{wanted} from {offset}");
            assert_eq!(selected(wanted, offset, 0..10_007), expected);
            assert_eq!(selected(wanted, offset, (0..10_007).rev()), expected);
        }
    }

    #[test]
    fn selection_of_nothing_and_of_equal_rows() {
        assert_eq!(selected(0, 0, 0..100), Vec::<u64>::new());
        assert_eq!(selected(5, 9, 0..100), Vec::<u64>::new());
        assert_eq!(selected(3, 0, std::iter::repeat_n(7, 100)), [7, 7, 7]);
    }
}
