//! Publisher confirms: which publishes of a channel are safe, and the acks that say so.

use std::collections::VecDeque;

use crate::message::place::Lsn;

/// A channel in confirm mode. Publishes are numbered from one.
#[derive(Debug, Default)]
pub(super) struct Confirms {
    published: u64,
    /// Publishes up to this one are handed over.
    handed_over: u64,
    acked: u64,
    /// Up to which publish, safe when the log is durable up to where.
    pending: VecDeque<(u64, Lsn)>,
}

/// An ack for the publisher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Confirmation {
    /// The last publish it covers.
    pub(super) tag: u64,
    /// It covers earlier ones too.
    pub(super) multiple: bool,
}

impl Confirms {
    /// So many more publishes.
    pub(super) fn publish(&mut self, count: u64) {
        self.published += count;
    }

    /// All publishes so far were handed over, the last fact of them at `lsn`.
    pub(super) fn hand_over(&mut self, lsn: Lsn) {
        if self.handed_over < self.published {
            self.handed_over = self.published;
            self.pending.push_back((self.published, lsn));
        }
    }

    /// The first position of the log that an ack waits for.
    pub(super) fn awaited(&self) -> Option<Lsn> {
        self.pending.front().map(|&(_, lsn)| lsn)
    }

    /// What can be acked now: the contiguous prefix whose facts are durable.
    pub(super) fn take_confirmed(&mut self, durable: Lsn) -> Option<Confirmation> {
        let before = self.acked;
        while let Some((tag, _)) = self.pending.pop_front_if(|(_, lsn)| *lsn <= durable) {
            self.acked = tag;
        }
        (self.acked > before).then_some(Confirmation { tag: self.acked, multiple: self.acked - before > 1 })
    }
}

#[cfg(test)]
mod tests {
    use super::{Confirmation, Confirms};
    use crate::message::place::Lsn;

    #[test]
    fn acks_cover_the_durable_prefix_and_nothing_twice() {
        let mut confirms = Confirms::default();
        confirms.publish(1);
        confirms.publish(1);
        confirms.hand_over(Lsn(10));
        confirms.publish(1);
        confirms.hand_over(Lsn(20));
        confirms.publish(1);
        assert_eq!(confirms.take_confirmed(Lsn(9)), None);
        assert_eq!(confirms.take_confirmed(Lsn(19)), Some(Confirmation { tag: 2, multiple: true }));
        assert_eq!(confirms.take_confirmed(Lsn(30)), Some(Confirmation { tag: 3, multiple: false }));
        assert_eq!(confirms.take_confirmed(Lsn(30)), None, "the fourth was not handed over");
        assert_eq!(confirms.awaited(), None);
    }
}
