//! What a lane holds and gives away: runs, and ranges of numbers whose bytes are away.

use crate::message::place::{Returned, Seq};
use crate::message::run::Run;
use crate::queue::ledger::Ledger;

/// Ready messages whose bytes are not in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Away {
    /// The first number.
    pub first: Seq,
    /// The number after the last.
    pub end: Seq,
    /// How many of the numbers are messages.
    pub count: u64,
    /// The sum of their bodies, in bytes. A share of it is an average; what is read back leaves the others their true sum.
    pub body_bytes: u64,
    /// Whether they are to survive a restart if their queue does.
    pub persistent: bool,
    /// Whether they were delivered before.
    pub redelivered: bool,
    /// How often they came back, where their queue counts that.
    pub returns: u16,
}

#[derive(Debug)]
pub(super) enum Resting {
    /// In memory only.
    Here(Run),
    /// In memory, and the ledger knows where on the disk.
    Kept(Run),
    /// On the disk only. It was made of so many runs.
    Away(Away, u32),
}

/// Messages on their way from one lane to another.
#[derive(Debug)]
pub enum Piece {
    /// In memory.
    Here(Run),
    /// On the disk only.
    Away(Away),
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

impl Piece {
    /// Somebody has had them.
    pub fn mark_redelivered(&mut self) {
        match self {
            Self::Here(run) => run.mark_redelivered(),
            Self::Away(away) => away.redelivered = true,
        }
    }

    /// Once more they have come back.
    pub fn count_return(&mut self) {
        match self {
            Self::Here(run) => run.set_returns(run.returns().saturating_add(1)),
            Self::Away(away) => away.returns = away.returns.saturating_add(1),
        }
    }

    /// How often they came back.
    pub fn counted(&self) -> Returned {
        match self {
            Self::Here(run) => {
                Returned { first: run.first_seq(), end: run.end_seq(), returns: run.returns() }
            }
            Self::Away(away) => Returned { first: away.first, end: away.end, returns: away.returns },
        }
    }

    /// The number of the first message, or one before it.
    pub fn first_seq(&self) -> Seq {
        match self {
            Self::Here(run) => run.first_seq(),
            Self::Away(away) => away.first,
        }
    }

    /// Those of its messages whose numbers are below `end`; all where that would be none.
    #[must_use]
    pub fn before(self, end: Seq, ledger: &Ledger) -> Self {
        match self {
            Self::Here(run) => Self::Here(run.part(run.first_seq(), end).unwrap_or(run)),
            Self::Away(mut away) if end < away.end => Self::Away(away.split_front(end, ledger)),
            away @ Self::Away(_) => away,
        }
    }

    /// Their bodies, in bytes.
    pub fn body_bytes(&self) -> u64 {
        match self {
            Self::Here(run) => run.body_bytes(),
            Self::Away(away) => away.body_bytes,
        }
    }

    /// How many messages.
    pub fn count(&self) -> u64 {
        match self {
            Self::Here(run) => u64::from(run.count()),
            Self::Away(away) => away.count,
        }
    }
}

impl Gone {
    /// All messages of a run.
    pub fn of(run: &Run) -> Self {
        Self { first: run.first_seq(), end: run.end_seq(), persistent: run.is_persistent() }
    }
}

impl Resting {
    pub(super) fn first(&self) -> Seq {
        match self {
            Self::Here(run) | Self::Kept(run) => run.first_seq(),
            Self::Away(away, _) => away.first,
        }
    }

    pub(super) fn end(&self) -> Seq {
        match self {
            Self::Here(run) | Self::Kept(run) => run.end_seq(),
            Self::Away(away, _) => away.end,
        }
    }

    /// One message of it, and what lies before it and behind it. `None` when it is none of its messages.
    pub(super) fn without(&self, seq: Seq, ledger: &Ledger) -> Option<(Piece, Option<Self>, Option<Self>)> {
        let next = seq.after(1);
        match self {
            Self::Here(run) | Self::Kept(run) => {
                let again = |run| if let Self::Here(_) = self { Self::Here(run) } else { Self::Kept(run) };
                let before = run.part(run.first_seq(), seq).map(again);
                let behind = run.part(next, run.end_seq()).map(again);
                Some((Piece::Here(run.part(seq, next)?), before, behind))
            }
            Self::Away(away, made_of) => {
                if away.first > seq || ledger.live_in(seq, next) == 0 {
                    return None;
                }
                let mut rest = *away;
                let before = rest.split_front(seq, ledger);
                let taken = if next < rest.end { rest.split_front(next, ledger) } else { rest };
                let behind = Some(rest).filter(|rest| rest.first >= next && rest.count > 0);
                let again = |away| Self::Away(away, *made_of);
                let before = Some(before).filter(|before| before.count > 0).map(again);
                Some((Piece::Away(taken), before, behind.map(again)))
            }
        }
    }

    /// Makes a run an away range; the run.
    pub(super) fn let_go(&mut self) -> Option<Run> {
        let (Self::Here(run) | Self::Kept(run)) = self else { return None };
        let away = Self::Away(Away::of(run), 1);
        let (Self::Here(run) | Self::Kept(run)) = std::mem::replace(self, away) else { return None };
        Some(run)
    }
}

impl Away {
    /// The messages of a run, without their bytes.
    pub fn of(run: &Run) -> Self {
        Self {
            first: run.first_seq(),
            end: run.end_seq(),
            count: u64::from(run.count()),
            body_bytes: run.body_bytes(),
            persistent: run.is_persistent(),
            redelivered: run.is_redelivered(),
            returns: run.returns(),
        }
    }

    /// Takes in what follows, if it is of the same kind and nobody has a message in between in hand.
    pub fn merge(&mut self, next: &Self, ledger: &Ledger) -> bool {
        let kind = |away: &Self| (away.persistent, away.redelivered, away.returns);
        let alike = kind(self) == kind(next);
        let merges = alike && ledger.live_ranges(self.end, next.first).next().is_none();
        if merges {
            self.end = next.end;
            self.count += next.count;
            self.body_bytes += next.body_bytes;
        }
        merges
    }

    /// No number behind its last message is one of its own.
    pub fn end_at_last(&mut self, ledger: &Ledger) {
        let is_tight = self.end.0.checked_sub(1).is_some_and(|last| ledger.place(Seq(last)).is_some());
        if !is_tight && let Some((_, end)) = ledger.live_ranges(self.first, self.end).last() {
            self.end = end;
        }
    }

    /// Cuts the numbers before `at` off and keeps those from `resume` on. None in between is among its messages. Counted
    /// are those on the side with fewer numbers.
    pub(super) fn part(&mut self, at: Seq, resume: Seq, ledger: &Ledger) -> Self {
        let (before, behind) = (at.0.saturating_sub(self.first.0), self.end.0.saturating_sub(resume.0));
        let count = if before <= behind {
            ledger.live_in(self.first, at).min(self.count)
        } else {
            self.count.saturating_sub(ledger.live_in(resume, self.end))
        };
        let share = u128::from(self.body_bytes) * u128::from(count) / u128::from(self.count.max(1));
        let front = Self { end: at, count, body_bytes: share as u64, ..*self };
        self.first = resume;
        self.count -= count;
        self.body_bytes -= front.body_bytes;
        front
    }

    /// Cuts the numbers before `at` off.
    pub fn split_front(&mut self, at: Seq, ledger: &Ledger) -> Self {
        self.part(at, at, ledger)
    }
}
