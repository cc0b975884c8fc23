//! Messages that left the ready ones for good and are to be dead-lettered: they wait here, in the order in which they
//! died, for whoever takes them elsewhere.
//!
//! The ledger still knows the persistent ones: until they are somewhere else in the same hold of the log, a start finds
//! them where they were. Those that could not go, and must not be lost, are kept to be tried again: a few, and then no
//! more are tried.

use std::collections::VecDeque;

use crate::message::place::Seq;
use crate::message::run::Run;
use crate::queue::lane::{Away, Lane, Piece};
use crate::queue::ledger::Ledger;

/// When so many could not go, the others wait as well.
const KEPT_MAX: usize = 32;

/// Why a message is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A consumer did not want it.
    Rejected,
    /// It waited too long.
    Expired,
    /// There were too many.
    MaxLen,
    /// It came back too often.
    DeliveryLimit,
    /// It is not: its delay is over, and it goes on.
    Delayed,
}

impl Reason {
    /// As headers say it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::MaxLen => "maxlen",
            Self::DeliveryLimit => "delivery_limit",
            Self::Delayed => "delayed",
        }
    }
}

/// The dying messages of one queue, in the order in which they died.
#[derive(Debug, Default)]
pub struct Dying {
    list: VecDeque<(Reason, Piece)>,
    /// Could not go.
    kept: Vec<(Reason, Run)>,
    messages: u64,
    here_bytes: u64,
}

impl Dying {
    /// One more.
    pub fn insert(&mut self, reason: Reason, piece: Piece) {
        self.count_in(&piece);
        self.list.push_back((reason, piece));
    }

    fn count_in(&mut self, piece: &Piece) {
        self.messages += piece.count();
        self.here_bytes += here_bytes(piece);
    }

    fn count_out(&mut self, piece: &Piece) {
        self.messages -= piece.count();
        self.here_bytes -= here_bytes(piece);
    }

    /// The next ones, at most `count`, and why; of those whose bytes must be read back, where they are. None while too many
    /// are kept.
    pub fn take(&mut self, count: u32) -> Option<(Reason, Piece)> {
        if self.kept.len() >= KEPT_MAX {
            return None;
        }
        let taken = match self.list.front_mut()? {
            (reason, Piece::Away(away)) => return Some((*reason, Piece::Away(*away))),
            (reason, Piece::Here(run)) if count < run.count() => {
                (*reason, Piece::Here(run.split_front(count)))
            }
            _ => self.list.pop_front()?,
        };
        self.count_out(&taken.1);
        Some(taken)
    }

    /// These are the next ones again.
    pub fn put_back(&mut self, reason: Reason, run: Run) {
        let piece = Piece::Here(run);
        self.count_in(&piece);
        self.list.push_front((reason, piece));
    }

    /// These could not go.
    pub fn keep(&mut self, reason: Reason, run: Run) {
        self.count_in(&Piece::Here(run.clone()));
        self.kept.push((reason, run));
    }

    /// Those that could not go are tried again, before all others.
    pub fn retry_kept(&mut self) {
        for (reason, run) in self.kept.drain(..).rev() {
            self.list.push_front((reason, Piece::Here(run)));
        }
    }

    /// The next ones, when they must be read back.
    pub fn away_first(&self) -> Option<(Reason, Away)> {
        match self.list.front()? {
            (reason, Piece::Away(away)) => Some((*reason, *away)),
            (_, Piece::Here(_)) => None,
        }
    }

    /// The reason of the next ones.
    pub fn next(&self) -> Option<Reason> {
        self.list.front().map(|(reason, _)| *reason)
    }

    /// Puts messages that were read back into their place, if that is the first one still. What could not be read is
    /// returned: see [`Lane::fill`].
    pub fn fill(&mut self, (first, end): (Seq, Seq), runs: Vec<Run>, ledger: &Ledger) -> Vec<(Seq, Seq)> {
        let Some(away) = self.away_first().map(|(_, away)| away).filter(|away| away.first == first) else {
            return Vec::new();
        };
        let Some((reason, piece)) = self.list.pop_front() else { return Vec::new() };
        self.count_out(&piece);
        let mut lane = Lane::default();
        lane.push_away(away);
        let missing = lane.fill(first, end, runs, ledger);
        let mut pieces = Vec::new();
        while let Some(piece) = lane.take_piece(u32::MAX, ledger) {
            pieces.push(piece);
        }
        for piece in pieces.into_iter().rev() {
            self.count_in(&piece);
            self.list.push_front((reason, piece));
        }
        missing
    }

    /// Drops about so many; `true` when none is left.
    pub fn shed(&mut self, mut count: u64) -> bool {
        self.retry_kept();
        while count > 0
            && let Some((_, piece)) = self.list.pop_front()
        {
            self.count_out(&piece);
            count = count.saturating_sub(piece.count());
        }
        self.list.is_empty()
    }

    /// How many there are.
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// The bodies of those that are in memory, in bytes.
    pub fn here_bytes(&self) -> u64 {
        self.here_bytes
    }

    /// What the list costs beside the messages, in bytes.
    pub fn index_bytes(&self) -> u64 {
        (self.list.len() * size_of::<(Reason, Piece)>()) as u64
    }
}

fn here_bytes(piece: &Piece) -> u64 {
    match piece {
        Piece::Here(run) => run.body_bytes(),
        Piece::Away(_) => 0,
    }
}
