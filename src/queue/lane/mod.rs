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
//!
//! No call does more than about a thousand steps beyond what its arguments ask for: an eviction that was cut short is
//! asked for again, and remembers what it need not look at another time.

mod leaving;
mod pieces;
mod searched;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

pub use self::leaving::{Allowance, Evicted, ToSpill};
use self::pieces::Resting;
pub use self::pieces::{Away, Gone, Piece};
use self::searched::Searched;
use crate::message::place::Seq;
use crate::message::run::Run;
use crate::queue::chunks::{Chunks, Spot};
use crate::queue::ledger::Ledger;

/// An away range holds the messages of so many runs at most, when it was made of them: what it takes to count the
/// messages on one side of a number in it. Two reads' worth.
const AWAY_RUNS_MAX: u32 = 2000;

/// What is at the head.
#[derive(Debug)]
pub enum Front<'a> {
    /// Messages in memory.
    Here(&'a Run),
    /// Messages that must be read back first.
    Away(&'a Away),
}

/// A list of runs and away ranges, ascending by sequence number, that never overlap.
#[derive(Debug, Default)]
pub struct Lane {
    list: Chunks<Resting>,
    messages: u64,
    body_bytes: u64,
    /// The bodies of the runs that the disk has, and of those that it does not have.
    kept_bytes: u64,
    unkept_bytes: u64,
    /// Where no run is that the disk has.
    without_kept: Searched,
    /// Where no run is that the disk does not have.
    without_here: Searched,
}

impl Lane {
    /// Puts a run where its numbers belong: at the end, or, when another publisher was quicker or the
    /// messages come back from a consumer, in between. Gaps are not waited for. `is_kept` says whether the ledger
    /// knows its messages.
    pub fn insert(&mut self, run: Run, is_kept: bool, ledger: &Ledger) {
        let (first, end) = (run.first_seq(), run.end_seq());
        self.count_in(&run, is_kept);
        let searched = if is_kept { &mut self.without_kept } else { &mut self.without_here };
        searched.reopen(first, end);
        let resting = if is_kept { Resting::Kept(run) } else { Resting::Here(run) };
        if self.list.back().is_none_or(|last| last.end() <= first) {
            self.list.push_back(resting);
        } else {
            self.insert_between(resting, ledger);
        }
    }

    #[cold]
    fn insert_between(&mut self, resting: Resting, ledger: &Ledger) {
        let at = self.make_room(resting.first(), resting.end(), ledger);
        self.list.insert(at, resting);
    }

    /// Puts messages that come back from a consumer, and whose bytes are on the disk only, where their numbers belong.
    /// All numbers of `away` are messages, and the ledger knows them.
    pub fn insert_away(&mut self, away: Away, ledger: &Ledger) {
        debug_assert!(away.count == away.end.0 - away.first.0, "nobody else's numbers lie in between");
        self.messages += away.count;
        self.body_bytes += away.body_bytes;
        let at = self.make_room(away.first, away.end, ledger);
        let behind = self.list.insert(at, Resting::Away(away, 1));
        let Some(at) = self.list.before(behind) else { return };
        let at = self.merge_next(at, ledger).unwrap_or(at);
        if let Some(before) = self.list.before(at) {
            self.merge_next(before, ledger);
        }
    }

    /// The place for `first..end`, after an away range around it was parted.
    fn make_room(&mut self, first: Seq, end: Seq, ledger: &Ledger) -> Spot {
        let mut at = self.list.partition_point(|other| other.first() < first);
        if let Some(before) = self.list.before(at)
            && let Some(Resting::Away(away, runs)) = self.list.get_mut(before)
            && away.end > first
        {
            let (mut rest, runs) = (*away, *runs);
            let front = rest.part(first, end, ledger);
            *away = front;
            if front.count == 0 {
                at = self.list.remove(before);
            }
            if rest.count > 0 {
                let behind = self.list.insert(at, Resting::Away(rest, runs));
                at = self.list.before(behind).unwrap_or(behind);
            }
        }
        if let Some(Resting::Away(away, _)) = self.list.get_mut(at) {
            away.first = away.first.max(end);
        }
        at
    }

    /// Makes the away range at a place one with what follows it; where it is now, or `None` when they may not be one.
    fn merge_next(&mut self, at: Spot, ledger: &Ledger) -> Option<Spot> {
        let next = self.list.after(at);
        let &Resting::Away(behind, runs_behind) = self.list.get(next)? else { return None };
        if let Some(Resting::Away(away, runs)) = self.list.get_mut(at)
            && runs.saturating_add(runs_behind) <= AWAY_RUNS_MAX
            && away.merge(&behind, ledger)
        {
            *runs += runs_behind;
            let behind = self.list.remove(next);
            return Some(self.list.before(behind).unwrap_or(behind));
        }
        None
    }

    /// Adds messages behind all others that are on the disk.
    pub fn push_away(&mut self, away: Away) {
        debug_assert!(self.list.back().is_none_or(|last| last.end() <= away.first), "ranges come in order");
        self.messages += away.count;
        self.body_bytes += away.body_bytes;
        self.list.push_back(Resting::Away(away, AWAY_RUNS_MAX));
    }

    /// What is next.
    pub fn front(&self) -> Option<Front<'_>> {
        self.list.front().map(|front| match front {
            Resting::Here(run) | Resting::Kept(run) => Front::Here(run),
            Resting::Away(away, _) => Front::Away(away),
        })
    }

    /// The number of the first message, or one before it.
    #[inline]
    pub fn first_seq(&self) -> Option<Seq> {
        self.list.front().map(Resting::first)
    }

    /// The first messages on the disk only whose numbers are `from` or higher.
    pub fn away_from(&self, from: Seq, ledger: &Ledger) -> Option<Away> {
        let mut at = self.list.partition_point(|other| other.end() <= from);
        loop {
            if let Resting::Away(mut away, _) = *self.list.get(at)? {
                if away.first < from {
                    away.split_front(from, ledger);
                }
                if away.count > 0 {
                    return Some(away);
                }
            }
            at = self.list.after(at);
        }
    }

    /// The first run whose messages have numbers of `from` or higher, if that is in memory, and where the next one begins
    /// to look.
    pub fn run_from(&self, from: Seq) -> Option<&Run> {
        let at = self.list.partition_point(|other| other.end() <= from);
        match self.list.get(at)? {
            Resting::Here(run) | Resting::Kept(run) => Some(run),
            Resting::Away(..) => None,
        }
    }

    /// The first messages whose numbers are `from` or higher, wherever they are, as far as they lie together.
    pub fn piece_from(&self, from: Seq, ledger: &Ledger) -> Option<Piece> {
        let mut at = self.list.partition_point(|other| other.end() <= from);
        loop {
            match self.list.get(at)? {
                Resting::Here(run) | Resting::Kept(run) => {
                    return run.part(from, run.end_seq()).map(Piece::Here);
                }
                Resting::Away(away, _) => {
                    let mut away = *away;
                    if away.first < from {
                        away.split_front(from, ledger);
                    }
                    if away.count > 0 {
                        return Some(Piece::Away(away));
                    }
                }
            }
            at = self.list.after(at);
        }
    }

    /// All that is in it, in order.
    pub fn into_pieces(mut self) -> impl Iterator<Item = Piece> {
        std::iter::from_fn(move || {
            Some(match self.list.pop_front()? {
                Resting::Here(run) | Resting::Kept(run) => Piece::Here(run),
                Resting::Away(away, _) => Piece::Away(away),
            })
        })
    }

    /// Takes up to `count` messages from the head, wherever they are, as far as they lie together.
    pub fn take_piece(&mut self, count: u32, ledger: &Ledger) -> Option<Piece> {
        let Some(Resting::Away(away, _)) = self.list.front_mut() else {
            return self.take_front(count).map(Piece::Here);
        };
        let mut left = u64::from(count);
        let mut end = away.end;
        for (first, stop) in ledger.live_ranges(away.first, away.end) {
            if left <= stop.0 - first.0 {
                end = Seq(first.0 + left);
                break;
            }
            left -= stop.0 - first.0;
        }
        let taken = if end < away.end { away.split_front(end, ledger) } else { *away };
        if end == away.end || away.count == 0 {
            self.list.pop_front();
        }
        self.messages -= taken.count;
        self.body_bytes -= taken.body_bytes;
        Some(Piece::Away(taken))
    }

    /// Takes one message out from between others, if it is here.
    pub fn take_out(&mut self, seq: Seq, ledger: &Ledger) -> Option<Piece> {
        let at = self.list.partition_point(|other| other.end() <= seq);
        let resting = self.list.get(at)?;
        let is_kept = matches!(resting, Resting::Kept(_));
        let (piece, before, behind) = resting.without(seq, ledger)?;
        let (messages, body_bytes) = match &piece {
            Piece::Here(run) => {
                *self.bytes_of(is_kept) -= run.body_bytes();
                (u64::from(run.count()), run.body_bytes())
            }
            Piece::Away(away) => (away.count, away.body_bytes),
        };
        self.messages -= messages;
        self.body_bytes -= body_bytes;
        let mut at = self.list.remove(at);
        for rest in [before, behind].into_iter().flatten() {
            at = self.list.insert(at, rest);
        }
        Some(piece)
    }

    /// Takes the first `count` messages of the front run, or all of it when it has no more. `None` when what is next is
    /// not in memory.
    pub fn take_front(&mut self, count: u32) -> Option<Run> {
        let (front, is_kept) = match self.list.front_mut()? {
            Resting::Here(front) => (front, false),
            Resting::Kept(front) => (front, true),
            Resting::Away(..) => return None,
        };
        let taken = if count < front.count() {
            front.split_front(count)
        } else {
            let Some(Resting::Here(run) | Resting::Kept(run)) = self.list.pop_front() else { return None };
            run
        };
        self.messages -= u64::from(taken.count());
        self.body_bytes -= taken.body_bytes();
        *self.bytes_of(is_kept) -= taken.body_bytes();
        Some(taken)
    }

    fn count_in(&mut self, run: &Run, is_kept: bool) {
        self.messages += u64::from(run.count());
        self.body_bytes += run.body_bytes();
        *self.bytes_of(is_kept) += run.body_bytes();
    }

    fn bytes_of(&mut self, is_kept: bool) -> &mut u64 {
        if is_kept { &mut self.kept_bytes } else { &mut self.unkept_bytes }
    }

    /// Removes up to about `count` messages from the head, wherever they are: so many steps. The ledger, which still
    /// knows those away, must be told.
    pub fn purge(&mut self, count: u64, ledger: &Ledger) -> Vec<Gone> {
        let mut gone = Vec::new();
        let mut left = count;
        while left > 0 {
            if let Some(run) = self.take_front(u32::MAX) {
                left = left.saturating_sub(u64::from(run.count()));
                gone.push(Gone::of(&run));
                continue;
            }
            let Some(Resting::Away(away, _)) = self.list.front_mut() else { break };
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

    /// Puts messages that were read back where they were away. `runs`, ascending, are all that the disk has of
    /// `first..end`; what is no longer away, or no longer lives, is let go. Live numbers that are in none of the runs
    /// leave the lane and are returned: they could not be read. As many steps as runs and live ranges lie there.
    pub fn fill(&mut self, first: Seq, end: Seq, runs: Vec<Run>, ledger: &Ledger) -> Vec<(Seq, Seq)> {
        let mut runs = VecDeque::from(runs);
        let mut missing = Vec::new();
        let mut at = self.list.partition_point(|other| other.end() <= first);
        while let Some(resting) = self.list.get(at)
            && resting.first() < end
        {
            let &Resting::Away(away, made_of) = resting else {
                at = self.list.after(at);
                continue;
            };
            let mut rest = away;
            let (low, high) = (away.first.max(first), away.end.min(end));
            at = self.list.remove(at);
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
                at = self.list.insert(at, Resting::Away(before, made_of));
            }
            self.without_kept.reopen(low, high);
            let (kept_bytes, unread) = (self.kept_bytes, missing.len());
            for range in ledger.live_ranges(low, high) {
                at = self.place_pieces(range, at, &filled, &mut runs, &mut missing);
            }
            if let Some(mut behind) = behind {
                if missing.len() == unread {
                    // The range's sum is known better than its shares: what was read shows what the rest has.
                    let read_bytes = self.kept_bytes - kept_bytes;
                    let rest_bytes = (behind.body_bytes + filled.body_bytes).saturating_sub(read_bytes);
                    self.body_bytes = self.body_bytes - behind.body_bytes + rest_bytes;
                    behind.body_bytes = rest_bytes;
                }
                at = self.list.insert(at, Resting::Away(behind, made_of));
            }
        }
        missing
    }

    /// Inserts the parts of `runs` that lie in the range at `at`; where to go on.
    fn place_pieces(
        &mut self,
        (first, end): (Seq, Seq),
        mut at: Spot,
        was: &Away,
        runs: &mut VecDeque<Run>,
        missing: &mut Vec<(Seq, Seq)>,
    ) -> Spot {
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
            if was.redelivered {
                run.mark_redelivered();
            }
            run.set_returns(was.returns);
            self.count_in(&run, true);
            at = self.list.insert(at, Resting::Kept(run));
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
        self.kept_bytes + self.unkept_bytes
    }

    /// What the list costs beside the bytes of the messages, in bytes.
    pub fn index_bytes(&self) -> u64 {
        self.list.bytes()
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
