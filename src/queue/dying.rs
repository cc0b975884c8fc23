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
    bytes: u64,
    here_bytes: u64,
}

impl Dying {
    /// One more. What is away and follows what is away is one with it: it is read back with it.
    pub fn insert(&mut self, reason: Reason, piece: Piece, ledger: &Ledger) {
        self.count_in(&piece);
        if let Piece::Away(away) = &piece
            && let Some((last_reason, Piece::Away(last))) = self.list.back_mut()
            && *last_reason == reason
            && last.end <= away.first
            && last.merge(away, ledger)
        {
            return;
        }
        self.list.push_back((reason, piece));
    }

    fn count_in(&mut self, piece: &Piece) {
        self.messages += piece.count();
        self.bytes += piece.body_bytes();
        self.here_bytes += here_bytes(piece);
    }

    fn count_out(&mut self, piece: &Piece) {
        self.messages -= piece.count();
        self.bytes -= piece.body_bytes();
        self.here_bytes -= here_bytes(piece);
    }

    /// The next ones, at most `count`, and why; of those whose bytes must be read back, where they are. None while too many
    /// are kept.
    pub fn take(&mut self, count: u32) -> Option<(Reason, Piece)> {
        if self.is_blocked() {
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

    /// Those that could not go are gone.
    pub fn drop_kept(&mut self) {
        for (_, run) in std::mem::take(&mut self.kept) {
            self.count_out(&Piece::Here(run));
        }
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

    /// Puts messages that were read back into their place, if that is the first one still: they may be several pieces, in
    /// whatever order those died. What could not be read is returned: see [`Lane::fill`].
    pub fn fill(&mut self, (first, end): (Seq, Seq), runs: &[Run], ledger: &Ledger) -> Vec<(Seq, Seq)> {
        let mut filled = VecDeque::new();
        let mut missing = Vec::new();
        while let Some((reason, away)) = self.away_first()
            && first <= away.first
            && (away.end <= end || (filled.is_empty() && away.first == first))
        {
            self.list.pop_front();
            self.count_out(&Piece::Away(away));
            let mut lane = Lane::default();
            lane.push_away(away);
            let from = runs.partition_point(|run| run.end_seq() <= away.first);
            let runs = runs.get(from..).unwrap_or_default().iter();
            let runs = runs.take_while(|run| run.first_seq() < away.end).cloned().collect();
            missing.extend(lane.fill(away.first, end.min(away.end), runs, ledger));
            filled.extend(lane.into_pieces().map(|piece| (reason, piece)));
        }
        for (reason, piece) in filled.into_iter().rev() {
            self.count_in(&piece);
            self.list.push_front((reason, piece));
        }
        missing
    }

    /// Drops the first ones if they are away; whether they were.
    pub fn drop_away(&mut self) -> bool {
        let is_away = self.away_first().is_some();
        if is_away && let Some((_, piece)) = self.list.pop_front() {
            self.count_out(&piece);
        }
        is_away
    }

    /// Whether so many could not go that the others wait as well.
    pub fn is_blocked(&self) -> bool {
        self.kept.len() >= KEPT_MAX
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

    /// Their bodies, in bytes, wherever they are.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The bodies of those that are in memory, in bytes.
    pub fn here_bytes(&self) -> u64 {
        self.here_bytes
    }

    /// What the list costs beside the messages, in bytes.
    pub fn index_bytes(&self) -> u64 {
        ((self.list.len() + self.kept.len()) * size_of::<(Reason, Piece)>()) as u64
    }
}

fn here_bytes(piece: &Piece) -> u64 {
    match piece {
        Piece::Here(run) => run.body_bytes(),
        Piece::Away(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Dying, Reason};
    use crate::message::block::BlockBuilder;
    use crate::message::block_header::{Marks, Stamp};
    use crate::message::names::Names;
    use crate::message::place::{Lsn, Place, Seq};
    use crate::message::record::Content;
    use crate::message::run::Run;
    use crate::queue::lane::{Away, Piece};
    use crate::queue::ledger::Ledger;

    fn run(seq: u64) -> Run {
        let mut builder = BlockBuilder::default();
        builder.push(&Content { names: Names::EMPTY, properties: &[0, 0], body: b"m" });
        let (block, count, bytes) =
            builder.seal(Stamp { marks: Marks::of(true), received_ms: 0 }, &Arc::default());
        Run::of_block(block, count, bytes).numbered_from(Seq(seq))
    }

    /// Takes all, and reads a hundred numbers at once where they are away: their order, and how many reads that took.
    fn take_all(dying: &mut Dying, ledger: &Ledger) -> (Vec<u64>, u32) {
        let (mut order, mut reads) = (Vec::new(), 0);
        while let Some((_, piece)) = dying.take(1) {
            match piece {
                Piece::Here(run) => order.push(run.first_seq().0),
                Piece::Away(away) => {
                    reads += 1;
                    let runs: Vec<Run> = (away.first.0..away.first.0 + 100).map(run).collect();
                    assert_eq!(dying.fill((away.first, away.first.after(100)), &runs, ledger), []);
                }
            }
        }
        assert_eq!((dying.messages(), dying.bytes(), dying.here_bytes()), (0, 0, 0));
        (order, reads)
    }

    #[test]
    fn what_died_one_by_one_is_read_back_together_and_stays_in_order() {
        let mut ledger = Ledger::default();
        (0..1000).for_each(|seq| ledger.insert(Seq(seq), Seq(seq + 1), Place::Log(Lsn(seq))));
        let away = |seq: u64| Piece::Away(Away::of(&run(seq)));
        let mut dying = Dying::default();
        let every_third: Vec<u64> = (0..1000).step_by(3).collect();
        every_third.iter().for_each(|seq| dying.insert(Reason::Expired, away(*seq), &ledger));
        let (order, reads) = take_all(&mut dying, &ledger);
        assert_eq!(order, every_third);
        assert!(reads <= 11, "{reads} reads");
        let others = [900, 500, 501, 502, 100];
        others.iter().for_each(|seq| dying.insert(Reason::Rejected, away(*seq), &ledger));
        assert_eq!(take_all(&mut dying, &ledger).0, others);
    }
}
