//! Messages that left the ready ones for good and are to be dead-lettered: they wait here, in order and by the reason,
//! for whoever takes them elsewhere.
//!
//! The ledger still knows the persistent ones: until they are somewhere else in the same hold of the log, a start finds
//! them where they were. Those that could not go, and must not be lost, are kept to be tried again: a few, and then no
//! more are tried.

use crate::message::place::Seq;
use crate::message::run::Run;
use crate::queue::lane::{Away, Front, Lane, Piece};
use crate::queue::ledger::Ledger;

/// When so many could not go, the others wait as well.
const KEPT_MAX: usize = 32;

/// Why a message is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
    const ALL: [Self; 5] = [Self::Rejected, Self::Expired, Self::MaxLen, Self::DeliveryLimit, Self::Delayed];

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

/// The dying messages of one queue.
#[derive(Debug, Default)]
pub struct Dying {
    lanes: [Lane; Reason::ALL.len()],
    /// Could not go.
    kept: Vec<(Reason, Run)>,
}

impl Dying {
    /// One more.
    pub fn insert(&mut self, reason: Reason, piece: Piece, ledger: &Ledger) {
        self.lane(reason).insert_piece(piece, ledger);
    }

    fn lane(&mut self, reason: Reason) -> &mut Lane {
        #[expect(clippy::indexing_slicing, reason = "there is a lane for each reason")]
        &mut self.lanes[reason as usize]
    }

    /// The next ones, at most `count`, and why; of those whose bytes must be read back, where they are.
    pub fn take(&mut self, count: u32) -> Option<(Reason, Piece)> {
        let reason = self.next().filter(|_| self.kept.len() < KEPT_MAX)?;
        let lane = self.lane(reason);
        let piece = match lane.front()? {
            Front::Away(away) => Piece::Away(*away),
            Front::Here(_) => Piece::Here(lane.take_front(count)?),
        };
        Some((reason, piece))
    }

    /// These could not go.
    pub fn keep(&mut self, reason: Reason, run: Run) {
        self.kept.push((reason, run));
    }

    /// Those that could not go are tried again.
    pub fn retry_kept(&mut self, ledger: &Ledger) {
        for (reason, run) in std::mem::take(&mut self.kept) {
            self.insert(reason, Piece::Here(run), ledger);
        }
    }

    /// The next ones, when they must be read back.
    pub fn away_first(&self) -> Option<(Reason, Away)> {
        let reason = self.next()?;
        match self.lanes.get(reason as usize)?.front()? {
            Front::Away(away) => Some((reason, *away)),
            Front::Here(_) => None,
        }
    }

    /// The reason of the next ones.
    pub fn next(&self) -> Option<Reason> {
        Reason::ALL
            .into_iter()
            .zip(&self.lanes)
            .find(|(_, lane)| lane.messages() > 0)
            .map(|(reason, _)| reason)
    }

    /// Puts messages that were read back into their place: see [`Lane::fill`].
    pub fn fill(
        &mut self,
        reason: Reason,
        (first, end): (Seq, Seq),
        runs: Vec<Run>,
        ledger: &Ledger,
    ) -> Vec<(Seq, Seq)> {
        self.lane(reason).fill(first, end, runs, ledger)
    }

    /// Drops about so many; `true` when none is left.
    pub fn shed(&mut self, count: u64, ledger: &Ledger) -> bool {
        if let Some(reason) = self.next() {
            self.lane(reason).purge(count, ledger);
        }
        self.kept.clear();
        self.next().is_none()
    }

    /// How many there are.
    pub fn messages(&self) -> u64 {
        let kept: u64 = self.kept.iter().map(|(_, run)| u64::from(run.count())).sum();
        kept + self.lanes.iter().map(Lane::messages).sum::<u64>()
    }

    /// The bodies of those that are in memory, in bytes.
    pub fn here_bytes(&self) -> u64 {
        let kept: u64 = self.kept.iter().map(|(_, run)| run.body_bytes()).sum();
        kept + self.lanes.iter().map(Lane::here_bytes).sum::<u64>()
    }

    /// What the lists cost beside the messages, in bytes.
    pub fn index_bytes(&self) -> u64 {
        self.lanes.iter().map(Lane::index_bytes).sum()
    }
}
