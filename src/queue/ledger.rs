//! Which persistent messages of a queue live, ready and unacked alike, and where each lies on disk.
//!
//! Delivery never looks here. A checkpoint reads and moves it, settles cut it, and a message that is not in
//! memory is found through it by its number.

use std::collections::BTreeMap;

use crate::message::place::{Place, Seq};

/// Live ranges of sequence numbers, each with its place.
#[derive(Debug, Default)]
pub struct Ledger {
    /// By the first number: the number after the last one, and the place of the whole range.
    ranges: BTreeMap<Seq, (Seq, Place)>,
}

impl Ledger {
    /// The numbers `first..end` are live and lie at `place`. They were not known before.
    pub fn insert(&mut self, first: Seq, end: Seq, place: Place) {
        debug_assert!(first < end && self.place(first).is_none());
        self.ranges.insert(first, (end, place));
    }

    /// The numbers `first..end` are done with; those not known are ignored.
    pub fn cut(&mut self, first: Seq, end: Seq) {
        if let Some((&start, &(stop, place))) = self.ranges.range(..first).next_back()
            && stop > first
        {
            self.ranges.insert(start, (first, place));
            if stop > end {
                self.ranges.insert(end, (stop, place));
                return;
            }
        }
        while let Some((&start, &(stop, place))) = self.ranges.range(first..end).next() {
            self.ranges.remove(&start);
            if stop > end {
                self.ranges.insert(end, (stop, place));
            }
        }
    }

    /// Where a live message lies; `None` when it is not live.
    pub fn place(&self, seq: Seq) -> Option<Place> {
        let (_, &(end, place)) = self.ranges.range(..=seq).next_back()?;
        (seq < end).then_some(place)
    }

    /// How many messages live.
    pub fn messages(&self) -> u64 {
        self.ranges.iter().map(|(first, (end, _))| end.0 - first.0).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::{prop_assert_eq, proptest};

    use super::Ledger;
    use crate::message::place::{Lsn, Place, Seq};

    proptest! {
        #[test]
        fn cuts_leave_what_a_set_of_numbers_would(cuts in proptest::collection::vec((0u64..100, 1u64..30), 0..20)) {
            let mut ledger = Ledger::default();
            let mut live: BTreeSet<u64> = (0..100).collect();
            for first in (0..100).step_by(10) {
                ledger.insert(Seq(first), Seq(first + 10), Place::Log(Lsn(first)));
            }
            for (first, count) in cuts {
                ledger.cut(Seq(first), Seq(first + count));
                live.retain(|seq| !(first..first + count).contains(seq));
            }
            prop_assert_eq!(ledger.messages(), live.len() as u64);
            for seq in 0..100 {
                let place = live.contains(&seq).then_some(Place::Log(Lsn(seq / 10 * 10)));
                prop_assert_eq!(ledger.place(Seq(seq)), place);
            }
        }
    }
}
