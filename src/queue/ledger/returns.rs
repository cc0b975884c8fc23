//! How often messages of a queue came back, as its log knows it: where that is counted it survives a restart.
//!
//! Ranges of numbers that came back equally often, and never overlap. The checkpoint keeps them as rows, by their first
//! numbers: it is told of those that changed, and of those that are no more.

use std::collections::{BTreeMap, BTreeSet};

use crate::message::place::{Returned, Seq};

/// What one range costs in memory, with its share of the tree's nodes.
const RANGE_BYTES: u64 = 64;

/// Counts of returns that the checkpoint has not as they are.
#[derive(Debug, Default)]
pub struct UnsavedReturns {
    /// Those that came or changed, each with its version.
    pub changed: Vec<(Returned, u64)>,
    /// First numbers of those that are gone.
    pub gone: Vec<Seq>,
    /// Where to go on; `None` when there are no more.
    pub next: Option<Seq>,
}

#[derive(Clone, Copy, Debug)]
struct Row {
    end: Seq,
    returns: u16,
    /// As of which change it is so.
    version: u64,
    /// The checkpoint has it so, or is about to.
    is_told: bool,
    is_saved: bool,
}

/// The counts of one queue.
#[derive(Debug, Default)]
pub(super) struct Returns {
    /// By the first number.
    rows: BTreeMap<Seq, Row>,
    /// Rows that the checkpoint may have and that are gone.
    gone: BTreeSet<Seq>,
    versions: u64,
}

impl Returns {
    /// The checkpoint has this row.
    pub(super) fn restore(&mut self, range: Returned) {
        let row = Row { end: range.end, returns: range.returns, version: 0, is_told: true, is_saved: true };
        self.rows.insert(range.first, row);
    }

    /// So often these have come back by now.
    pub(super) fn note(&mut self, Returned { first, end, returns }: Returned) {
        self.forget(first, end);
        match self.rows.range(..first).next_back() {
            Some((&start, row)) if row.end == first && row.returns == returns => {
                let is_told = row.is_told;
                self.put(start, end, returns, is_told);
            }
            _ => self.put(first, end, returns, false),
        }
    }

    /// These are done with.
    pub(super) fn forget(&mut self, first: Seq, end: Seq) {
        if let Some((&start, row)) = self.rows.range_mut(..first).next_back()
            && row.end > first
        {
            let (stop, returns) = (row.end, row.returns);
            let is_told = row.is_told;
            self.put(start, first, returns, is_told);
            if stop > end {
                self.put(end, stop, returns, false);
                return;
            }
        }
        while let Some((&start, &row)) = self.rows.range(first..end).next() {
            self.rows.remove(&start);
            if row.is_told {
                self.gone.insert(start);
            }
            if row.end > end {
                self.put(end, row.end, row.returns, false);
            }
        }
    }

    fn put(&mut self, first: Seq, end: Seq, returns: u16, is_told: bool) {
        self.versions += 1;
        let is_told = self.gone.remove(&first) || is_told;
        let row = Row { end, returns, version: self.versions, is_told, is_saved: false };
        self.rows.insert(first, row);
    }

    /// The counts of `first..end`, ascending.
    pub(super) fn within(&self, first: Seq, end: Seq) -> impl Iterator<Item = Returned> {
        let around = self.rows.range(..first).next_back().filter(move |(_, row)| row.end > first);
        let rows = around.into_iter().chain(self.rows.range(first..end.max(first)));
        rows.map(move |(&start, row)| Returned {
            first: start.max(first),
            end: row.end.min(end),
            returns: row.returns,
        })
    }

    /// What the checkpoint has not, from `from` on, after looking at no more than `max` rows.
    pub(super) fn unsaved(&mut self, from: Seq, max: usize) -> UnsavedReturns {
        let mut unsaved = UnsavedReturns::default();
        for (looked, (&first, row)) in self.rows.range_mut(from..).enumerate() {
            if looked == max {
                unsaved.next = Some(first);
                break;
            }
            if !row.is_saved {
                row.is_told = true;
                let range = Returned { first, end: row.end, returns: row.returns };
                unsaved.changed.push((range, row.version));
            }
        }
        let until = unsaved.next.unwrap_or(Seq(u64::MAX));
        unsaved.gone.extend(self.gone.range(from..until).take(max));
        if unsaved.gone.len() == max
            && let Some(last) = unsaved.gone.last()
        {
            // A row must not be among those that changed and, a step later, among those that are gone.
            let next = last.after(1);
            unsaved.changed.retain(|(range, _)| range.first < next);
            unsaved.next = Some(next);
        }
        unsaved
    }

    /// The checkpoint has the row as it was at this version.
    pub(super) fn mark_saved(&mut self, first: Seq, version: u64) {
        if let Some(row) = self.rows.get_mut(&first) {
            row.is_saved |= row.version == version;
        }
    }

    /// The checkpoint has no such row any more.
    pub(super) fn mark_gone(&mut self, first: Seq) {
        self.gone.remove(&first);
    }

    /// Forgets a row of a queue that is gone. `false` when there is none.
    pub(super) fn shed_one(&mut self) -> bool {
        self.rows.pop_first().is_some() || self.gone.pop_first().is_some()
    }

    /// How many rows there are, and were.
    pub(super) fn len(&self) -> usize {
        self.rows.len() + self.gone.len()
    }

    /// What it costs in memory, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.len() as u64 * RANGE_BYTES
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::{Just, Strategy, any, prop_assert_eq, prop_oneof, proptest};

    use super::Returns;
    use crate::message::place::{Returned, Seq};

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Note(u64, u64, u16),
        Forget(u64, u64),
        /// The checkpoint asks for what it has not, at most so many rows at a time; something happens in between.
        Capture(usize, (u64, u64)),
        /// What was captured is committed, or not: the disk was full.
        Commit(bool),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let range = (0u64..40, 1u64..9);
        let step = prop_oneof![
            4 => (range.clone(), 1u16..4).prop_map(|((at, count), returns)| Step::Note(at, at + count, returns)),
            3 => range.clone().prop_map(|(at, count)| Step::Forget(at, at + count)),
            2 => (1usize..4, range).prop_map(|(max, (at, count))| Step::Capture(max, (at, at + count))),
            2 => any::<bool>().prop_map(Step::Commit),
            1 => Just(Step::Commit(true)),
        ];
        proptest::collection::vec(step, 0..60)
    }

    /// Counts by number, those of rows as the checkpoint has them, and what it is about to have.
    #[derive(Default)]
    struct World {
        returns: Returns,
        counts: BTreeMap<u64, u16>,
        saved: BTreeMap<Seq, Returned>,
        changed: Vec<(Returned, u64)>,
        gone: Vec<Seq>,
    }

    impl World {
        fn forget(&mut self, first: u64, end: u64) {
            self.returns.forget(Seq(first), Seq(end));
            self.counts.retain(|seq, _| !(first..end).contains(seq));
        }

        fn capture(&mut self, max: usize, (first, end): (u64, u64)) {
            (self.changed, self.gone) = (Vec::new(), Vec::new());
            let mut from = Some(Seq(0));
            while let Some(seq) = from {
                let unsaved = self.returns.unsaved(seq, max);
                self.changed.extend(unsaved.changed);
                self.gone.extend(unsaved.gone);
                from = unsaved.next;
                self.forget(first, end);
            }
        }

        fn commit(&mut self, is_committed: bool) {
            let (changed, gone) = (std::mem::take(&mut self.changed), std::mem::take(&mut self.gone));
            if !is_committed {
                return;
            }
            for first in gone {
                self.saved.remove(&first);
                self.returns.mark_gone(first);
            }
            for (range, version) in changed {
                self.saved.insert(range.first, range);
                self.returns.mark_saved(range.first, version);
            }
        }
    }

    proptest! {
        #[test]
        fn the_checkpoint_has_what_the_queue_counts(steps in steps()) {
            let mut world = World::default();
            for step in steps {
                match step {
                    Step::Note(first, end, returns) => {
                        world.returns.note(Returned { first: Seq(first), end: Seq(end), returns });
                        world.counts.extend((first..end).map(|seq| (seq, returns)));
                    }
                    Step::Forget(first, end) => world.forget(first, end),
                    Step::Capture(max, between) => world.capture(max, between),
                    Step::Commit(is_committed) => world.commit(is_committed),
                }
                let of = |range: &Returned| (range.first.0..range.end.0).map(|seq| (seq, range.returns)).collect::<Vec<_>>();
                let told: Vec<_> = world.returns.within(Seq(0), Seq(100)).flat_map(|range| of(&range)).collect();
                prop_assert_eq!(&told, &world.counts.iter().map(|(seq, returns)| (*seq, *returns)).collect::<Vec<_>>());
            }
            world.capture(3, (99, 100));
            world.commit(true);
            let mut restored = Returns::default();
            let rows = world.saved.len();
            world.saved.into_values().for_each(|range| restored.restore(range));
            let all = |returns: &Returns| returns.within(Seq(0), Seq(100)).collect::<Vec<_>>();
            prop_assert_eq!(all(&restored), all(&world.returns));
            prop_assert_eq!(rows, world.returns.len(), "no row is left behind");
        }
    }
}
