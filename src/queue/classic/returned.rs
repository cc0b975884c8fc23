//! Messages that came back to a quorum queue, in the order in which they came. Where the queue limits how often, or whoever
//! had them is gone, they are given out again before all others; otherwise behind those that were there when they came
//! back, so that one that nobody takes does not hold up the rest.
//!
//! They are few, and stay in memory. What finds no room here returns to its old place among the ready ones, which is near
//! the head as well.

use std::collections::VecDeque;

use crate::message::place::Seq;
use crate::message::run::Run;

/// So many runs, which are looked through for one that has had its time.
const RUNS_MAX: usize = 1000;
/// So much of their bodies, in bytes: no eviction takes it.
const BYTES_MAX: u64 = 4 * 1024 * 1024;

#[derive(Debug, Default)]
pub(super) struct Returned {
    /// Each with the number of the first message that it goes before: they ascend.
    runs: VecDeque<(Seq, Run)>,
    messages: u64,
    body_bytes: u64,
}

impl Returned {
    /// Takes in what came back last, to go before the message `before`; gives it back when there is no room.
    pub(super) fn push(&mut self, before: Seq, run: Run) -> Option<Run> {
        if self.runs.len() >= RUNS_MAX || self.body_bytes + run.body_bytes() > BYTES_MAX {
            return Some(run);
        }
        self.messages += u64::from(run.count());
        self.body_bytes += run.body_bytes();
        let at = self.runs.partition_point(|(other, _)| *other <= before);
        self.runs.insert(at, (before, run));
        None
    }

    /// The first run, and what it goes before.
    pub(super) fn front(&self) -> Option<(Seq, &Run)> {
        self.runs.front().map(|(before, run)| (*before, run))
    }

    /// Takes up to `count` messages of the first run.
    pub(super) fn take_front(&mut self, count: u32) -> Option<Run> {
        let (_, front) = self.runs.front_mut()?;
        let taken = if count < front.count() { front.split_front(count) } else { self.runs.pop_front()?.1 };
        self.count_out(&taken);
        Some(taken)
    }

    /// Takes one message out from between others, if it is here, and counts the runs it has looked at.
    pub(super) fn take_out(&mut self, seq: Seq, steps: &mut u32) -> Option<Run> {
        let at = self.runs.iter().position(|(_, run)| run.first_seq() <= seq && seq < run.end_seq());
        *steps = steps.saturating_sub(at.map_or(self.runs.len(), |at| at + 1) as u32);
        let (before, run) = self.runs.remove(at?)?;
        let parts = [(seq.after(1), run.end_seq()), (run.first_seq(), seq)];
        for part in parts.into_iter().filter_map(|(first, end)| run.part(first, end)) {
            self.runs.insert(at?, (before, part));
        }
        let taken = run.part(seq, seq.after(1))?;
        self.count_out(&taken);
        Some(taken)
    }

    /// The messages of the first run with numbers of `from` or higher that have such numbers.
    pub(super) fn run_from(&self, from: Seq) -> Option<Run> {
        let runs = self.runs.iter().map(|(_, run)| run).filter(|run| run.end_seq() > from);
        let first = runs.min_by_key(|run| run.first_seq())?;
        first.part(from, first.end_seq())
    }

    /// How many runs.
    pub(super) fn len(&self) -> u32 {
        self.runs.len() as u32
    }

    fn count_out(&mut self, run: &Run) {
        self.messages -= u64::from(run.count());
        self.body_bytes -= run.body_bytes();
    }

    pub(super) fn messages(&self) -> u64 {
        self.messages
    }

    /// The bodies, in bytes.
    pub(super) fn body_bytes(&self) -> u64 {
        self.body_bytes
    }

    /// What the list costs in memory, in bytes.
    pub(super) fn index_bytes(&self) -> u64 {
        (self.runs.len() * size_of::<(Seq, Run)>()) as u64
    }
}
