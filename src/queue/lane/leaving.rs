//! What leaves memory: for the disk that has it already, or to be written there first.

use crate::message::place::Seq;
use crate::message::run::Run;
use crate::queue::lane::{Lane, Resting};
use crate::queue::ledger::Ledger;

/// One eviction looks at no more runs and away ranges than this.
pub(super) const EVICT_RUNS_MAX: u32 = 1000;

/// What may leave memory, and what stays: whoever owns the messages says so.
#[derive(Clone, Copy, Debug)]
pub struct Allowance {
    /// So much of bodies is to go, in bytes, and what is left of a run then.
    pub wanted_bytes: u64,
    /// So much stays that could go, at the head.
    pub head_bytes: u64,
    /// The very first run stays, however large it is: somebody waits for it.
    pub spares_head: bool,
}

/// What an eviction did.
#[derive(Debug, Default)]
pub struct Evicted {
    /// The runs, whose bytes are freed when the last of them is dropped: better not under a lock.
    pub runs: Vec<Run>,
    /// How many messages went away.
    pub messages: u64,
    /// The sum of their bodies, in bytes.
    pub body_bytes: u64,
    /// How many runs and away ranges it has looked at.
    pub steps: u32,
    /// It has looked at as much as it may at once: there may be more to take.
    pub is_cut_short: bool,
}

/// What is to be written to a spill pack.
#[derive(Debug, Default)]
pub struct ToSpill {
    /// The runs, newest first.
    pub runs: Vec<Run>,
    /// As many were looked at as may be at once: there may be more.
    pub is_cut_short: bool,
}

impl Lane {
    /// The sum of the waiting bodies in memory that the disk has, or will have when the log is durable, in bytes.
    pub fn kept_bytes(&self) -> u64 {
        self.kept_bytes
    }

    /// Turns runs at the far tail that the disk has into away ranges, as many as may go, until enough was looked at. What
    /// reaches over `barrier` stays.
    pub fn evict_tail(&mut self, allowance: Allowance, barrier: Option<Seq>, ledger: &Ledger) -> Evicted {
        let mut evicted = Evicted::default();
        let mut at = match barrier {
            Some(barrier) => self.list.partition_point(|resting| resting.end() <= barrier),
            None => self.list.end(),
        };
        let mut searched = None;
        while evicted.body_bytes < allowance.wanted_bytes
            && self.kept_bytes > allowance.head_bytes
            && let Some(before) = self.list.before(at)
            && !(allowance.spares_head && self.list.before(before).is_none())
            && let Some(resting) = self.list.get_mut(before)
        {
            if self.without_kept.has(resting.first()) {
                at = self.list.partition_point(|resting| resting.end() <= self.without_kept.low());
                searched = Some(self.without_kept.below(searched));
                continue;
            }
            if evicted.steps == EVICT_RUNS_MAX {
                evicted.is_cut_short = true;
                break;
            }
            evicted.steps += 1;
            let (_, high) = searched.unwrap_or((resting.first(), resting.end()));
            searched = Some((resting.first(), high));
            at = before;
            if let Resting::Kept(run) = resting {
                evicted.body_bytes += run.body_bytes();
                evicted.messages += u64::from(run.count());
                self.kept_bytes -= run.body_bytes();
                evicted.runs.extend(resting.let_go());
                at = self.merge_next(before, ledger).unwrap_or(before);
            }
        }
        if let Some(searched) = searched {
            self.without_kept.note(searched);
        }
        evicted
    }

    /// Runs at the far tail that the disk does not have, as many as may go, newest first: what must be written before.
    pub fn tail_to_spill(&mut self, allowance: Allowance) -> ToSpill {
        let spare_bytes = self.here_bytes().saturating_sub(allowance.head_bytes);
        let bytes_wanted = allowance.wanted_bytes.min(spare_bytes);
        let mut found = ToSpill::default();
        let mut bytes = 0;
        let mut at = self.list.end();
        let mut searched = None;
        let mut looked_at = 0;
        while bytes < bytes_wanted
            && let Some(before) = self.list.before(at)
            && !(allowance.spares_head && self.list.before(before).is_none())
            && let Some(resting) = self.list.get(before)
        {
            if self.without_here.has(resting.first()) {
                at = self.list.partition_point(|resting| resting.end() <= self.without_here.low());
                searched = found.runs.is_empty().then(|| self.without_here.below(searched));
                continue;
            }
            if looked_at == EVICT_RUNS_MAX {
                found.is_cut_short = true;
                break;
            }
            looked_at += 1;
            at = before;
            if let Resting::Here(run) = resting {
                bytes += run.body_bytes();
                found.runs.push(run.clone());
            } else if found.runs.is_empty() {
                let (_, high) = searched.unwrap_or((resting.first(), resting.end()));
                searched = Some((resting.first(), high));
            }
        }
        if let Some(searched) = searched {
            self.without_here.note(searched);
        }
        found
    }

    /// Turns runs that lie wholly within `first..end` and that only memory had into away ranges, and says which.
    /// Whoever took some of them meanwhile has their bytes in hand. The very first run stays if it `spares_head`. As many
    /// steps as runs lie there.
    pub fn evict_within(
        &mut self,
        first: Seq,
        end: Seq,
        spares_head: bool,
        ledger: &Ledger,
    ) -> (Evicted, Vec<(Seq, Seq)>) {
        let mut evicted = Evicted::default();
        let mut ranges = Vec::new();
        let mut at = self.list.partition_point(|other| other.end() <= first);
        if spares_head && self.list.before(at).is_none() {
            at = self.list.after(at);
        }
        while let Some(resting) = self.list.get_mut(at)
            && resting.end() <= end
        {
            if let Resting::Here(run) = resting
                && run.first_seq() >= first
            {
                evicted.messages += u64::from(run.count());
                evicted.body_bytes += run.body_bytes();
                ranges.push((run.first_seq(), run.end_seq()));
                evicted.runs.extend(resting.let_go());
                let before = self.list.before(at);
                at = before.and_then(|before| self.merge_next(before, ledger)).unwrap_or(at);
            }
            at = self.list.after(at);
        }
        if let Some(before) = self.list.before(at) {
            self.merge_next(before, ledger);
        }
        self.unkept_bytes -= evicted.body_bytes;
        (evicted, ranges)
    }
}
