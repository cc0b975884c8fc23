//! What a search of a lane need not look through again.
//!
//! A search that looks at a thousand runs a turn and starts anew each time would never get past the first thousand that
//! it has no use for. So it notes how far it came; whatever comes to rest in between opens that part again.

use crate::message::place::Seq;

/// Numbers that were looked through: in `low..high` nothing that is sought rests.
#[derive(Debug, Default)]
pub(super) struct Searched {
    low: Seq,
    high: Seq,
}

impl Searched {
    /// Whether a number lies in what was looked through.
    pub(super) fn has(&self, seq: Seq) -> bool {
        self.low <= seq && seq < self.high
    }

    /// Its first number: a search towards the head goes on before it.
    pub(super) fn low(&self) -> Seq {
        self.low
    }

    /// What is looked through when a search that began above it has come down to it: `above`, if there was anything, and
    /// this. Numbers in between are nobody's here.
    pub(super) fn below(&self, above: Option<(Seq, Seq)>) -> (Seq, Seq) {
        (self.low, above.map_or(self.high, |(_, high)| high))
    }

    /// Something that is sought comes to rest at `first..end`.
    pub(super) fn reopen(&mut self, first: Seq, end: Seq) {
        if first < self.high {
            self.low = self.low.max(end);
        }
    }

    /// `low..high` was looked through. What was known before is forgotten, unless it is a part of this.
    pub(super) fn note(&mut self, (low, high): (Seq, Seq)) {
        *self = Self { low, high };
    }
}
