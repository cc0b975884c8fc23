//! Ready messages in order of their numbers: in memory as runs, or away on the disk as ranges.
//!
//! ```text
//!   head                                                          tail
//!   [run 1..9] [run 9..12] [ away 12..80, 60 messages ] [run 80..83]
//! ```
//!
//! An away range may have gaps. The ledger says which of its numbers live, and all that live in it are ready: a gap
//! never holds a message that somebody else has in hand and that the ledger knows. The lane knows no consumer, no
//! durability, no disk and no clock.

use std::collections::VecDeque;

use crate::message::place::Seq;
use crate::message::run::Run;
use crate::queue::ledger::Ledger;

/// One eviction turns at most this many runs into away ranges.
const EVICT_RUNS_MAX: usize = 1000;

/// Ready messages whose bytes are not in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Away {
    /// The first number.
    pub first: Seq,
    /// The number after the last.
    pub end: Seq,
    /// How many of the numbers are messages.
    pub count: u64,
    /// The sum of their bodies, in bytes; shares of it are estimates until they are read back.
    pub body_bytes: u64,
    /// Whether they are to survive a restart if their queue does.
    pub persistent: bool,
    /// Whether they were delivered before.
    pub redelivered: bool,
}

#[derive(Debug)]
enum Resting {
    Here(Run),
    Away(Away),
}

/// What is at the head.
#[derive(Debug)]
pub enum Front<'a> {
    /// Messages in memory.
    Here(&'a Run),
    /// Messages that must be read back first.
    Away(&'a Away),
}

/// Numbers that left the lane for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone {
    /// The first number.
    pub first: Seq,
    /// The number after the last; all in between were messages.
    pub end: Seq,
    /// Whether they were persistent.
    pub persistent: bool,
}

/// What an eviction did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evicted {
    /// How many messages went away.
    pub messages: u64,
    /// The sum of their bodies, in bytes.
    pub body_bytes: u64,
}

/// A list of runs and away ranges, ascending by sequence number, that never overlap.
#[derive(Debug, Default)]
pub struct Lane {
    list: VecDeque<Resting>,
    messages: u64,
    body_bytes: u64,
    /// The bodies of the runs alone.
    here_bytes: u64,
}

impl Resting {
    fn first(&self) -> Seq {
        match self {
            Self::Here(run) => run.first_seq(),
            Self::Away(away) => away.first,
        }
    }

    fn end(&self) -> Seq {
        match self {
            Self::Here(run) => run.end_seq(),
            Self::Away(away) => away.end,
        }
    }
}

impl Away {
    fn of(run: &Run) -> Self {
        Self {
            first: run.first_seq(),
            end: run.end_seq(),
            count: u64::from(run.count()),
            body_bytes: run.body_bytes(),
            persistent: run.is_persistent(),
            redelivered: run.is_redelivered(),
        }
    }

    /// Takes in what follows, if it is of the same kind and nobody has a message in between in hand.
    fn merge(&mut self, next: &Self, ledger: &Ledger) -> bool {
        let alike = self.persistent == next.persistent && self.redelivered == next.redelivered;
        let merges = alike && ledger.live_in(self.end, next.first) == 0;
        if merges {
            self.end = next.end;
            self.count += next.count;
            self.body_bytes += next.body_bytes;
        }
        merges
    }

    /// Cuts the numbers before `at` off.
    fn split_front(&mut self, at: Seq, ledger: &Ledger) -> Self {
        let count = ledger.live_in(self.first, at).min(self.count);
        let share = u128::from(self.body_bytes) * u128::from(count) / u128::from(self.count.max(1));
        let front = Self { end: at, count, body_bytes: share as u64, ..*self };
        self.first = at;
        self.count -= count;
        self.body_bytes -= front.body_bytes;
        front
    }
}

impl Lane {
    /// Puts a run where its numbers belong: at the end, or, when another publisher was quicker or the
    /// messages come back from a consumer, in between. Gaps are not waited for.
    pub fn insert(&mut self, run: Run, ledger: &Ledger) {
        self.messages += u64::from(run.count());
        self.body_bytes += run.body_bytes();
        self.here_bytes += run.body_bytes();
        if self.list.back().is_none_or(|last| last.end() <= run.first_seq()) {
            self.list.push_back(Resting::Here(run));
            return;
        }
        let mut at = self.list.partition_point(|other| other.first() < run.first_seq());
        let before = at.checked_sub(1).and_then(|at| self.list.get_mut(at));
        if let Some(Resting::Away(away)) = before
            && away.end > run.first_seq()
        {
            let mut rest = *away;
            let front = rest.split_front(run.first_seq(), ledger);
            rest.first = rest.first.max(run.end_seq());
            *away = front;
            if front.count == 0 {
                at -= 1;
                self.list.remove(at);
            }
            if rest.count > 0 {
                self.list.insert(at, Resting::Away(rest));
            }
        }
        if let Some(Resting::Away(away)) = self.list.get_mut(at) {
            away.first = away.first.max(run.end_seq());
        }
        self.list.insert(at, Resting::Here(run));
    }

    /// Adds messages behind all others that are on the disk.
    pub fn push_away(&mut self, away: Away) {
        debug_assert!(self.list.back().is_none_or(|last| last.end() <= away.first), "ranges come in order");
        self.messages += away.count;
        self.body_bytes += away.body_bytes;
        self.list.push_back(Resting::Away(away));
    }

    /// What is next.
    pub fn front(&self) -> Option<Front<'_>> {
        self.list.front().map(|front| match front {
            Resting::Here(run) => Front::Here(run),
            Resting::Away(away) => Front::Away(away),
        })
    }

    /// Takes the first `count` messages of the front run, or all of it when it has no more. `None` when what is next is
    /// not in memory.
    pub fn take_front(&mut self, count: u32) -> Option<Run> {
        let Some(Resting::Here(front)) = self.list.front_mut() else { return None };
        let taken = if count < front.count() {
            front.split_front(count)
        } else {
            let Some(Resting::Here(run)) = self.list.pop_front() else { return None };
            run
        };
        self.messages -= u64::from(taken.count());
        self.body_bytes -= taken.body_bytes();
        self.here_bytes -= taken.body_bytes();
        Some(taken)
    }

    /// Removes up to about `count` messages from the head, wherever they are. The ledger, which still knows those
    /// away, must be told.
    pub fn purge(&mut self, count: u64, ledger: &Ledger) -> Vec<Gone> {
        let mut gone = Vec::new();
        let mut left = count;
        while left > 0 {
            if let Some(run) = self.take_front(u32::MAX) {
                left = left.saturating_sub(u64::from(run.count()));
                gone.push(Gone {
                    first: run.first_seq(),
                    end: run.end_seq(),
                    persistent: run.is_persistent(),
                });
                continue;
            }
            let Some(Resting::Away(away)) = self.list.front_mut() else { break };
            let mut end = away.end;
            for (first, stop) in ledger.live_ranges(away.first, away.end) {
                let stop = stop.min(Seq(first.0.saturating_add(left)));
                left -= stop.0 - first.0;
                gone.push(Gone { first, end: stop, persistent: away.persistent });
                if left == 0 {
                    end = stop;
                    break;
                }
            }
            let mut purged = *away;
            if end < away.end {
                purged = away.split_front(end, ledger);
            }
            if away.end == purged.end || away.count == 0 {
                self.list.pop_front();
            }
            self.messages -= purged.count;
            self.body_bytes -= purged.body_bytes;
        }
        gone
    }

    /// Turns runs at the far tail into away ranges until `bytes_wanted` of bodies are let go of or only
    /// `keep_head_bytes` are left in memory. A run goes when `is_kept` says that the disk has it.
    pub fn evict_tail(
        &mut self,
        bytes_wanted: u64,
        keep_head_bytes: u64,
        ledger: &Ledger,
        is_kept: impl Fn(&Run) -> bool,
    ) -> Evicted {
        let mut evicted = Evicted::default();
        let mut from = self.list.len();
        let mut runs = 0;
        for (at, resting) in self.list.iter().enumerate().rev() {
            let here = self.here_bytes - evicted.body_bytes;
            if evicted.body_bytes >= bytes_wanted || here <= keep_head_bytes || runs == EVICT_RUNS_MAX {
                break;
            }
            if let Resting::Here(run) = resting
                && is_kept(run)
            {
                evicted.body_bytes += run.body_bytes();
                evicted.messages += u64::from(run.count());
                runs += 1;
                from = at;
            }
        }
        for resting in self.list.split_off(from) {
            match resting {
                Resting::Here(run) if is_kept(&run) => self.push_merged(Away::of(&run), ledger),
                Resting::Away(away) => self.push_merged(away, ledger),
                here @ Resting::Here(_) => self.list.push_back(here),
            }
        }
        self.here_bytes -= evicted.body_bytes;
        evicted
    }

    fn push_merged(&mut self, away: Away, ledger: &Ledger) {
        if let Some(Resting::Away(last)) = self.list.back_mut()
            && last.merge(&away, ledger)
        {
            return;
        }
        self.list.push_back(Resting::Away(away));
    }

    /// Runs at the far tail that the disk does not have, at most `bytes_wanted` of bodies and a run more, newest
    /// first: what must be written before it can go.
    pub fn tail_to_spill(&self, bytes_wanted: u64, is_known: impl Fn(&Run) -> bool) -> Vec<Run> {
        let mut found = Vec::new();
        let mut bytes = 0;
        for resting in self.list.iter().rev() {
            if bytes >= bytes_wanted || found.len() == EVICT_RUNS_MAX {
                break;
            }
            if let Resting::Here(run) = resting
                && !is_known(run)
            {
                bytes += run.body_bytes();
                found.push(run.clone());
            }
        }
        found
    }

    /// Turns runs that lie wholly within `first..end` into away ranges, and says which. Whoever took some of them
    /// meanwhile has their bytes in hand.
    pub fn evict_within(&mut self, first: Seq, end: Seq) -> (Evicted, Vec<(Seq, Seq)>) {
        let mut evicted = Evicted::default();
        let mut ranges = Vec::new();
        let from = self.list.partition_point(|other| other.end() <= first);
        let within = self.list.iter_mut().skip(from).take_while(|resting| resting.end() <= end);
        for resting in within {
            if let Resting::Here(run) = resting
                && run.first_seq() >= first
            {
                evicted.messages += u64::from(run.count());
                evicted.body_bytes += run.body_bytes();
                ranges.push((run.first_seq(), run.end_seq()));
                *resting = Resting::Away(Away::of(run));
            }
        }
        self.here_bytes -= evicted.body_bytes;
        (evicted, ranges)
    }

    /// Puts messages that were read back where they were away. `runs`, ascending, are all that the disk has of
    /// `first..end`; what is no longer away, or no longer lives, is let go. Live numbers that are in none of the runs
    /// leave the lane and are returned: they could not be read.
    pub fn fill(&mut self, first: Seq, end: Seq, runs: Vec<Run>, ledger: &Ledger) -> Vec<(Seq, Seq)> {
        let mut runs = VecDeque::from(runs);
        let mut missing = Vec::new();
        let mut at = self.list.partition_point(|other| other.end() <= first);
        while let Some(resting) = self.list.get(at)
            && resting.first() < end
        {
            let Resting::Away(away) = resting else {
                at += 1;
                continue;
            };
            let mut rest = *away;
            let (low, high) = (away.first.max(first), away.end.min(end));
            self.list.remove(at);
            let before = rest.split_front(low, ledger);
            // All that is left of the range belongs to what is filled, unless the range goes on behind it.
            let (filled, behind) = if high < rest.end {
                (rest.split_front(high, ledger), Some(rest).filter(|behind| behind.count > 0))
            } else {
                (rest, None)
            };
            self.messages -= filled.count;
            self.body_bytes -= filled.body_bytes;
            if before.count > 0 {
                self.list.insert(at, Resting::Away(before));
                at += 1;
            }
            for range in ledger.live_ranges(low, high) {
                at = self.place_pieces(range, at, filled.redelivered, &mut runs, &mut missing);
            }
            if let Some(behind) = behind {
                self.list.insert(at, Resting::Away(behind));
                at += 1;
            }
        }
        missing
    }

    /// Inserts the parts of `runs` that lie in the range at `at`; where to go on.
    fn place_pieces(
        &mut self,
        (first, end): (Seq, Seq),
        mut at: usize,
        redelivered: bool,
        runs: &mut VecDeque<Run>,
        missing: &mut Vec<(Seq, Seq)>,
    ) -> usize {
        let mut next = first;
        while next < end
            && let Some(run) = runs.pop_front()
        {
            let Some(mut run) = cut_front(run, next) else { continue };
            if let Some(behind) = cut_back(&mut run, end) {
                runs.push_front(behind);
            }
            if run.first_seq() >= end {
                runs.push_front(run);
                break;
            }
            if run.first_seq() > next {
                missing.push((next, run.first_seq()));
            }
            next = run.end_seq();
            if redelivered {
                run.mark_redelivered();
            }
            self.messages += u64::from(run.count());
            self.body_bytes += run.body_bytes();
            self.here_bytes += run.body_bytes();
            self.list.insert(at, Resting::Here(run));
            at += 1;
        }
        if next < end {
            missing.push((next, end));
        }
        at
    }

    /// How many messages wait.
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// The sum of the waiting bodies, in bytes, wherever they are.
    pub fn body_bytes(&self) -> u64 {
        self.body_bytes
    }

    /// The sum of the waiting bodies that are in memory, in bytes.
    pub fn here_bytes(&self) -> u64 {
        self.here_bytes
    }

    /// What the list costs beside the bytes of the messages, in bytes.
    pub fn index_bytes(&self) -> u64 {
        (self.list.len() * size_of::<Resting>()) as u64
    }
}

/// What is left of a run without the numbers before `at`.
fn cut_front(mut run: Run, at: Seq) -> Option<Run> {
    if run.end_seq() <= at {
        return None;
    }
    if let Ok(before) = u32::try_from(at.0.saturating_sub(run.first_seq().0))
        && before > 0
    {
        run.split_front(before);
    }
    Some(run)
}

/// Cuts the numbers from `at` on off, if the run has some on both sides.
fn cut_back(run: &mut Run, at: Seq) -> Option<Run> {
    if run.first_seq() >= at || run.end_seq() <= at {
        return None;
    }
    let front = u32::try_from(at.0 - run.first_seq().0).ok()?;
    let front = run.split_front(front);
    Some(std::mem::replace(run, front))
}
