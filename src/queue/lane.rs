//! Ready messages in order of their numbers. It knows no consumer, no durability and no clock.

use std::collections::VecDeque;

use crate::message::place::Seq;
use crate::message::run::Run;

/// A list of runs, ascending by sequence number, that never overlap.
#[derive(Debug, Default)]
pub struct Lane {
    runs: VecDeque<Run>,
    messages: u64,
    body_bytes: u64,
}

impl Lane {
    /// Puts a run where its numbers belong: at the end, or, when another publisher was quicker or the
    /// messages come back from a consumer, in between. Gaps are not waited for.
    pub fn insert(&mut self, run: Run) {
        self.messages += u64::from(run.count());
        self.body_bytes += run.body_bytes();
        match self.runs.back() {
            Some(last) if last.first_seq() > run.first_seq() => {
                let at = self.runs.partition_point(|other| other.first_seq() < run.first_seq());
                self.runs.insert(at, run);
            }
            _ => self.runs.push_back(run),
        }
    }

    /// The run whose first message is next.
    pub fn front(&self) -> Option<&Run> {
        self.runs.front()
    }

    /// Takes the first `count` messages of the front run, or all of it when it has no more.
    pub fn take_front(&mut self, count: u32) -> Option<Run> {
        let front = self.runs.front_mut()?;
        let taken = if count < front.count() { front.split_front(count) } else { self.runs.pop_front()? };
        self.messages -= u64::from(taken.count());
        self.body_bytes -= taken.body_bytes();
        Some(taken)
    }

    /// How many messages wait.
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// The sum of the waiting bodies, in bytes.
    pub fn body_bytes(&self) -> u64 {
        self.body_bytes
    }

    /// How many runs hold them: what the list itself costs in memory.
    pub fn runs(&self) -> usize {
        self.runs.len()
    }

    /// The number of the first message, if any waits.
    pub fn first_seq(&self) -> Option<Seq> {
        self.runs.front().map(Run::first_seq)
    }
}
