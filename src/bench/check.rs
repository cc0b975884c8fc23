//! Whether what came back is what was sent: each message once, and in order per producer, queue and consumer.
//!
//! A bit per message and consumer. When the run is over the bits of all consumers are laid over each other:
//! one set twice is a duplicate, one never set is a loss.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

/// A number beyond this is no message of ours, and no bit is spent on it.
const NUMBER_MAX: u64 = 1 << 36;

/// One producer's messages in one queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Flow {
    pub(super) producer: u16,
    pub(super) queue: u16,
}

/// What one consumer received.
#[derive(Debug, Default)]
pub(super) struct Received {
    flows: Vec<(Flow, Track)>,
    places: HashMap<Flow, usize>,
    /// Where the last message belonged: the next one mostly does too.
    last: usize,
    foreign: u64,
}

#[derive(Debug, Default)]
struct Track {
    seen: Bits,
    next: u64,
    out_of_order: u64,
    duplicates: u64,
}

/// What was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) lost: u64,
    pub(super) duplicates: u64,
    pub(super) out_of_order: u64,
    pub(super) foreign: u64,
}

impl Verdict {
    /// Whether all is as it should be.
    pub(super) fn is_clean(self) -> bool {
        self == Self::default()
    }
}

impl Received {
    /// A message arrived.
    #[inline]
    pub(super) fn on_message(&mut self, flow: Flow, number: u64) {
        if number > NUMBER_MAX {
            self.foreign += 1;
            return;
        }
        if self.flows.get(self.last).is_none_or(|(last, _)| *last != flow) {
            self.last = *self.places.entry(flow).or_insert(self.flows.len());
            if self.last == self.flows.len() {
                self.flows.push((flow, Track::default()));
            }
        }
        if let Some((_, track)) = self.flows.get_mut(self.last) {
            track.on_message(number);
        }
    }
}

impl Track {
    fn on_message(&mut self, number: u64) {
        if !self.seen.insert(number) {
            self.duplicates += 1;
        } else if number < self.next {
            self.out_of_order += 1;
        }
        self.next = self.next.max(number + 1);
    }
}

/// Lays all consumers' messages over what was sent, per flow the numbers from 0 up to the count.
pub(super) fn judge(sent: &HashMap<Flow, u64>, consumers: Vec<Received>) -> Verdict {
    let mut verdict = Verdict::default();
    let mut all: HashMap<Flow, Bits> = HashMap::new();
    for received in consumers {
        verdict.foreign += received.foreign;
        for (flow, track) in received.flows {
            verdict.duplicates += track.duplicates;
            verdict.out_of_order += track.out_of_order;
            verdict.duplicates += all.entry(flow).or_default().merge(&track.seen);
        }
    }
    for (&flow, &count) in sent {
        let arrived = all.get(&flow).map_or(0, |bits| bits.count_below(count));
        verdict.lost += count - arrived;
    }
    for (flow, bits) in all {
        let count = sent.get(&flow).copied().unwrap_or_default();
        verdict.foreign += bits.count() - bits.count_below(count);
    }
    verdict
}

#[derive(Debug, Default)]
struct Bits(Vec<u64>);

impl Bits {
    /// Sets a bit; `false` when it was set.
    #[inline]
    fn insert(&mut self, number: u64) -> bool {
        let (word, bit) = place(number);
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        let Some(word) = self.0.get_mut(word) else { return false };
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    /// Takes over the bits of another; returns how many were set already.
    fn merge(&mut self, other: &Self) -> u64 {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        let mut twice = 0;
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            twice += u64::from((*mine & theirs).count_ones());
            *mine |= theirs;
        }
        twice
    }

    fn count(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    fn count_below(&self, number: u64) -> u64 {
        let (whole, bit) = place(number);
        let ones = |word: &u64| u64::from(word.count_ones());
        let full: u64 = self.0.iter().take(whole).map(ones).sum();
        full + self.0.get(whole).map_or(0, |word| ones(&(word & (bit - 1))))
    }
}

fn place(number: u64) -> (usize, u64) {
    ((number / 64) as usize, 1 << (number % 64))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::{Flow, Received, Verdict, judge};

    const FLOW: Flow = Flow { producer: 3, queue: 1 };

    fn check(sent: u64, consumers: &[&[u64]], expected: Verdict) {
        let received = consumers.iter().map(|numbers| {
            let mut received = Received::default();
            numbers.iter().for_each(|number| received.on_message(FLOW, *number));
            received
        });
        assert_eq!(judge(&HashMap::from([(FLOW, sent)]), received.collect()), expected);
    }

    #[test]
    fn each_message_once_and_in_order_is_clean() {
        let all: Vec<u64> = (0..200).collect();
        check(200, &[&all], Verdict::default());
        check(5, &[&[0, 3], &[1, 2, 4]], Verdict::default());
        assert!(Verdict::default().is_clean());
    }

    #[test]
    fn losses_duplicates_and_disorder_are_told_apart() {
        check(4, &[&[0, 1, 3]], Verdict { lost: 1, ..Verdict::default() });
        check(3, &[&[0, 1, 1, 2]], Verdict { duplicates: 1, ..Verdict::default() });
        check(3, &[&[0, 1], &[1, 2]], Verdict { duplicates: 1, ..Verdict::default() });
        check(3, &[&[0, 2, 1]], Verdict { out_of_order: 1, ..Verdict::default() });
        check(3, &[], Verdict { lost: 3, ..Verdict::default() });
    }

    #[test]
    fn what_nobody_sent_is_foreign() {
        check(2, &[&[0, 1, 2, u64::MAX]], Verdict { foreign: 2, ..Verdict::default() });
    }
}
