//! A producer's outstanding confirms: which publishes the broker has taken charge of, and how long it took.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::bench::meter::latency_histogram;

/// Shared by the task that publishes and the one that reads confirms.
#[derive(Debug)]
pub(super) struct Confirms {
    state: Mutex<State>,
    /// Told after each burst of confirms.
    pub(super) changed: Notify,
}

/// What confirms came to.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Confirmed {
    pub(super) acked: u64,
    pub(super) nacked: u64,
    /// How many publishes took so many nanoseconds, as exactly as a histogram tells them apart.
    pub(super) latency: BTreeMap<u64, u64>,
}

#[derive(Debug)]
struct State {
    /// Every publish up to this one is answered.
    answered_to: u64,
    /// Those answered beyond it.
    answered: BTreeSet<u64>,
    nacked: u64,
    /// The last publish of each burst, and when it was sent.
    bursts: VecDeque<(u64, u64)>,
    latency: Histogram<u64>,
}

impl Confirms {
    pub(super) fn new() -> Self {
        let state = State {
            answered_to: 0,
            answered: BTreeSet::new(),
            nacked: 0,
            bursts: VecDeque::new(),
            latency: latency_histogram(),
        };
        Self { state: Mutex::new(state), changed: Notify::new() }
    }

    /// A burst up to this publish is about to be sent.
    pub(super) fn on_burst(&self, last: u64, now_ns: u64) {
        self.state.lock().bursts.push_back((last, now_ns));
    }

    /// How many of so many publishes are not answered yet.
    pub(super) fn outstanding(&self, published: u64) -> u64 {
        let state = self.state.lock();
        published.saturating_sub(state.answered_to + state.answered.len() as u64)
    }

    /// The broker answered a publish, or all up to it; returns how many that were.
    pub(super) fn on_answer(&self, tag: u64, multiple: bool, acked: bool, now_ns: u64) -> u64 {
        let mut state = self.state.lock();
        let before = state.answered_to + state.answered.len() as u64;
        let from = state.answered_to;
        if multiple {
            state.answered_to = from.max(tag);
            state.answered = state.answered.split_off(&tag.saturating_add(1));
        } else if tag > from {
            state.answered.insert(tag);
        }
        while state.answered.first() == Some(&(state.answered_to + 1)) {
            state.answered.pop_first();
            state.answered_to += 1;
        }
        state.record(from, now_ns);
        let count = state.answered_to + state.answered.len() as u64 - before;
        if !acked {
            state.nacked += count;
        }
        count
    }

    /// What it all came to.
    pub(super) fn take_result(&self) -> Confirmed {
        let state = self.state.lock();
        let answered = state.answered_to + state.answered.len() as u64;
        let recorded = state.latency.iter_recorded();
        Confirmed {
            acked: answered - state.nacked,
            nacked: state.nacked,
            latency: recorded.map(|ns| (ns.value_iterated_to(), ns.count_at_value())).collect(),
        }
    }
}

impl Confirmed {
    /// Adds what another producer's came to.
    pub(super) fn add(&mut self, other: Self) {
        self.acked += other.acked;
        self.nacked += other.nacked;
        for (ns, count) in other.latency {
            *self.latency.entry(ns).or_default() += count;
        }
    }

    /// The latencies of all publishes.
    pub(super) fn histogram(&self) -> Histogram<u64> {
        let mut histogram = latency_histogram();
        self.latency.iter().for_each(|(&ns, &count)| histogram.saturating_record_n(ns, count));
        histogram
    }
}

impl State {
    /// Counts the latency of the publishes after `from` that are answered now without a gap.
    fn record(&mut self, mut from: u64, now_ns: u64) {
        while let Some(&(last, sent_ns)) = self.bursts.front()
            && from < self.answered_to
        {
            let to = last.min(self.answered_to);
            self.latency.saturating_record_n(now_ns.saturating_sub(sent_ns).max(1), to.saturating_sub(from));
            from = from.max(to);
            if last > self.answered_to {
                return;
            }
            self.bursts.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Confirmed, Confirms};
    use crate::bench::meter::latency_histogram;

    #[test]
    fn single_and_multiple_answers_add_up() {
        let confirms = Confirms::new();
        confirms.on_burst(4, 0);
        confirms.on_burst(10, 5);
        assert_eq!(confirms.outstanding(10), 10);
        assert_eq!(confirms.on_answer(2, false, true, 10), 1);
        assert_eq!(confirms.on_answer(3, false, true, 10), 1);
        assert_eq!(confirms.outstanding(10), 8);
        assert_eq!(confirms.on_answer(2, true, true, 20), 1, "1 is new, 2 is not, 3 follows");
        assert_eq!(confirms.outstanding(10), 7);
        assert_eq!(confirms.on_answer(10, true, false, 30), 7);
        assert_eq!(confirms.on_answer(10, true, true, 30), 0);
        let result = confirms.take_result();
        assert_eq!((result.acked, result.nacked, result.histogram().len()), (3, 7, 10));
        assert_eq!(result.histogram().max(), 30);
    }

    #[test]
    fn latencies_are_the_same_once_they_were_told() {
        let (mut all, mut histogram) = (Confirmed::default(), latency_histogram());
        for scale in [1, 1_000, 1_000_000, 1_000_000_000] {
            let confirms = Confirms::new();
            for number in 1..=1000 {
                confirms.on_burst(number, 0);
                confirms.on_answer(number, false, true, number * scale);
                histogram.saturating_record(number * scale);
            }
            let told = serde_json::to_string(&confirms.take_result()).unwrap();
            all.add(serde_json::from_str(&told).unwrap());
        }
        assert_eq!((all.acked, all.nacked), (4000, 0));
        assert_eq!(all.histogram(), histogram);
    }
}
