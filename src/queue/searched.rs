//! What a search of a lane need not look through again.
//!
//! A search that looks at a thousand runs a turn and starts anew each time would never get past the first thousand that
//! it has no use for. So it notes how far it came; whatever comes to rest in between opens that part again.

use crate::message::place::Seq;

/// Numbers that were looked through: in `low..high` nothing that is sought rests.
#[derive(Debug, Default)]
pub struct Searched {
    low: Seq,
    high: Seq,
}

impl Searched {
    /// Whether a number lies in what was looked through.
    pub fn has(&self, seq: Seq) -> bool {
        self.low <= seq && seq < self.high
    }

    /// Its first number: a search towards the head goes on before it.
    pub fn low(&self) -> Seq {
        self.low
    }

    /// Something that is sought comes to rest at `first..end`.
    pub fn reopen(&mut self, first: Seq, end: Seq) {
        if first < self.high {
            self.low = self.low.max(end);
        }
    }

    /// `low..high` was looked through. What was known before is known still if nothing lies in between.
    pub fn note(&mut self, low: Seq, high: Seq) {
        let joins = low <= self.high && self.low <= high && self.low < self.high;
        *self = if joins {
            Self { low: self.low.min(low), high: self.high.max(high) }
        } else {
            Self { low, high }
        };
    }
}
