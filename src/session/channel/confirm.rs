//! Publisher confirms: which publishes of a channel are safe, and the acks that say so, or the nacks that say otherwise.

use std::collections::VecDeque;

use crate::message::place::Lsn;

/// A channel in confirm mode. Publishes are numbered from one.
#[derive(Debug, Default)]
pub(super) struct Confirms {
    published: u64,
    /// Publishes up to this one are handed over.
    handed_over: u64,
    /// Publishes up to this one are confirmed, one way or the other.
    told: u64,
    /// Up to which publish, safe when the log is durable up to where.
    pending: VecDeque<(u64, Lsn)>,
    /// Publishes that a queue has refused, in order.
    refused: VecDeque<u64>,
}

/// An ack or a nack for the publisher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Confirmation {
    /// The last publish it covers.
    pub(super) tag: u64,
    /// It covers earlier ones too.
    pub(super) multiple: bool,
    /// A queue has refused them.
    pub(super) is_nack: bool,
    /// How many it covers.
    pub(super) count: u64,
}

impl Confirms {
    /// So many more publishes.
    pub(super) fn publish(&mut self, count: u64) {
        self.published += count;
    }

    /// The number of the last publish.
    pub(super) fn published(&self) -> u64 {
        self.published
    }

    /// A queue has refused a publish that is about to be handed over.
    pub(super) fn refuse(&mut self, publish: u64) {
        if self.refused.back() != Some(&publish) {
            self.refused.push_back(publish);
        }
    }

    /// All publishes so far were handed over, the last fact of them at `lsn`.
    pub(super) fn hand_over(&mut self, lsn: Lsn) {
        if self.handed_over < self.published {
            self.handed_over = self.published;
            self.pending.push_back((self.published, lsn));
        }
    }

    /// The first position of the log that a confirm waits for.
    pub(super) fn awaited(&self) -> Option<Lsn> {
        self.pending.front().map(|&(_, lsn)| lsn)
    }

    /// What can be told next, in order: of the publishes whose facts are durable, those up to the first one that was
    /// refused, or those that were refused in a row.
    pub(super) fn take_next(&mut self, durable: Lsn) -> Option<Confirmation> {
        let durable = self.pending.iter().take_while(|(_, lsn)| *lsn <= durable);
        let through = durable.last().map(|&(tag, _)| tag)?;
        let next = self.told + 1;
        let is_nack = self.refused.front() == Some(&next);
        let tag = match self.refused.front() {
            Some(_) if is_nack => {
                let mut last = self.told;
                while self
                    .refused
                    .pop_front_if(|refused| *refused == last + 1 && *refused <= through)
                    .is_some()
                {
                    last += 1;
                }
                last
            }
            Some(&refused) if refused <= through => refused - 1,
            _ => through,
        };
        while self.pending.pop_front_if(|(pending, _)| *pending <= tag).is_some() {}
        let (multiple, count) = (tag > next, tag - self.told);
        self.told = tag;
        Some(Confirmation { tag, multiple, is_nack, count })
    }
}

#[cfg(test)]
mod tests {
    use super::{Confirmation, Confirms};
    use crate::message::place::Lsn;

    fn ack(tag: u64, count: u64) -> Option<Confirmation> {
        Some(Confirmation { tag, multiple: count > 1, is_nack: false, count })
    }

    fn nack(tag: u64, count: u64) -> Option<Confirmation> {
        Some(Confirmation { tag, multiple: count > 1, is_nack: true, count })
    }

    #[test]
    fn acks_cover_the_durable_prefix_and_nothing_twice() {
        let mut confirms = Confirms::default();
        confirms.publish(1);
        confirms.publish(1);
        confirms.hand_over(Lsn(10));
        confirms.publish(1);
        confirms.hand_over(Lsn(20));
        confirms.publish(1);
        assert_eq!(confirms.take_next(Lsn(9)), None);
        assert_eq!(confirms.take_next(Lsn(19)), ack(2, 2));
        assert_eq!(confirms.take_next(Lsn(30)), ack(3, 1));
        assert_eq!(confirms.take_next(Lsn(30)), None, "the fourth was not handed over");
        assert_eq!(confirms.awaited(), None);
    }

    #[test]
    fn what_was_refused_is_told_in_its_place() {
        let mut confirms = Confirms::default();
        for publish in 1..=8 {
            confirms.publish(1);
            if [3, 4, 6, 8].contains(&publish) {
                confirms.refuse(publish);
                confirms.refuse(publish);
            }
        }
        confirms.hand_over(Lsn(10));
        assert_eq!(confirms.take_next(Lsn(9)), None);
        let mut told = Vec::new();
        while let Some(next) = confirms.take_next(Lsn(10)) {
            told.push(Some(next));
        }
        let expected = [ack(2, 2), nack(4, 2), ack(5, 1), nack(6, 1), ack(7, 1), nack(8, 1)];
        assert_eq!(told, expected);
    }
}
