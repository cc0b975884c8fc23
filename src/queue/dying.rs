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
/// So many pieces are looked at to find those that must be read back: no fewer than one read may bring.
const LOOKED_AT_MAX: usize = 1000 + KEPT_MAX;

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
    /// So many were taken for good, and of these so many are somewhere else, or nowhere, as the log knows.
    taken: u64,
    buried: u64,
}

impl Dying {
    /// One more. What is away and follows what is away is one with it: it is read back with it. But not over the end of a
    /// rank, for what is published later has a number there.
    pub fn insert(&mut self, reason: Reason, piece: Piece, ledger: &Ledger) {
        self.count_in(&piece);
        let Piece::Away(mut away) = piece else {
            return self.list.push_back((reason, piece));
        };
        while let Some(rank_end) = away.first.next_rank().filter(|rank_end| *rank_end < away.end) {
            let of_rank = away.split_front(rank_end, ledger);
            self.insert_away(reason, of_rank, ledger);
        }
        self.insert_away(reason, away, ledger);
    }

    fn insert_away(&mut self, reason: Reason, mut away: Away, ledger: &Ledger) {
        if away.count == 0 {
            return;
        }
        away.end_at_last(ledger);
        if let Some((last_reason, Piece::Away(last))) = self.list.back_mut()
            && *last_reason == reason
            && last.end <= away.first
            && last.first.next_rank() == away.first.next_rank()
            && last.merge(&away, ledger)
        {
            return;
        }
        self.list.push_back((reason, Piece::Away(away)));
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
        self.taken += taken.1.count();
        Some(taken)
    }

    /// So many of those that were taken are somewhere else now, or nowhere.
    pub fn bury(&mut self, count: u64) {
        self.buried += count;
    }

    /// How many have been buried since there are any, and how many will have been when all that are here are.
    pub fn progress(&self) -> (u64, u64) {
        (self.buried, self.taken + self.messages)
    }

    /// These are the next ones again.
    pub fn put_back(&mut self, reason: Reason, run: Run) {
        let piece = Piece::Here(run);
        self.count_in(&piece);
        self.taken = self.taken.saturating_sub(piece.count());
        self.list.push_front((reason, piece));
    }

    /// These, which were taken, could not go.
    pub fn keep(&mut self, reason: Reason, run: Run) {
        self.taken = self.taken.saturating_sub(u64::from(run.count()));
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

    fn is_first_away(&self) -> bool {
        matches!(self.list.front(), Some((_, Piece::Away(_))))
    }

    /// The reason of the next ones.
    pub fn next(&self) -> Option<Reason> {
        self.list.front().map(|(reason, _)| *reason)
    }

    /// Where those are that must be read back before the next one can go, and those that will have to be soon; none when
    /// the next one is here.
    pub fn away(&self) -> impl Iterator<Item = &Away> {
        let looked_at = if self.is_first_away() { LOOKED_AT_MAX } else { 0 };
        self.list.iter().take(looked_at).filter_map(|(_, piece)| match piece {
            Piece::Away(away) => Some(away),
            Piece::Here(_) => None,
        })
    }

    /// Puts messages that were read back into their places, if those are among the first ones still. `letters`, ascending,
    /// tell of pieces from which number on they were read and up to before which; `runs`, ascending, are all that the disk
    /// has of them. What could not be read is returned: see [`Lane::fill`].
    pub fn fill(&mut self, letters: &[(Seq, Seq)], runs: &[Run], ledger: &Ledger) -> Vec<(Seq, Seq)> {
        let before = self.messages;
        let mut looked_at = Vec::new();
        let mut missing = Vec::new();
        let mut left = letters.len();
        for _ in 0..LOOKED_AT_MAX {
            if left == 0 {
                break;
            }
            let Some((reason, piece)) = self.list.pop_front() else { break };
            let read_to = match &piece {
                Piece::Away(away) => letters.binary_search_by_key(&away.first, |(first, _)| *first).ok(),
                Piece::Here(_) => None,
            };
            match (piece, read_to.and_then(|at| letters.get(at))) {
                (Piece::Away(away), Some(&(_, end))) => {
                    left -= 1;
                    self.count_out(&Piece::Away(away));
                    let filled = fill_one(away, end, runs, ledger, &mut missing).into_pieces();
                    looked_at
                        .extend(filled.inspect(|piece| self.count_in(piece)).map(|piece| (reason, piece)));
                }
                (piece, _) => looked_at.push((reason, piece)),
            }
        }
        for entry in looked_at.into_iter().rev() {
            self.list.push_front(entry);
        }
        let lost = before.saturating_sub(self.messages);
        (self.taken, self.buried) = (self.taken + lost, self.buried + lost);
        missing
    }

    /// Drops the first ones if they are away; whether they were.
    pub fn drop_away(&mut self) -> bool {
        let is_away = self.is_first_away();
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

/// What is known of a piece that was away, when it was read up to before `end`.
fn fill_one(away: Away, end: Seq, runs: &[Run], ledger: &Ledger, missing: &mut Vec<(Seq, Seq)>) -> Lane {
    let mut lane = Lane::default();
    lane.push_away(away);
    let from = runs.partition_point(|run| run.end_seq() <= away.first);
    let runs = runs.get(from..).unwrap_or_default().iter();
    let runs = runs.take_while(|run| run.first_seq() < end).cloned().collect();
    missing.extend(lane.fill(away.first, end.min(away.end), runs, ledger));
    lane
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

    /// Takes all, and reads what is away of the next ones: their order, and how many reads that took.
    fn take_all(dying: &mut Dying, ledger: &Ledger) -> (Vec<u64>, u32) {
        let (mut order, mut reads) = (Vec::new(), 0);
        while let Some((_, piece)) = dying.take(1) {
            match piece {
                Piece::Here(run) => order.push(run.first_seq().0),
                Piece::Away(_) => {
                    reads += 1;
                    let mut letters: Vec<_> = dying.away().map(|away| (away.first, away.end)).collect();
                    letters.sort_unstable();
                    let seqs = letters.iter().flat_map(|(first, end)| ledger.live_ranges(*first, *end));
                    let runs: Vec<Run> = seqs.flat_map(|(first, end)| (first.0..end.0).map(run)).collect();
                    assert_eq!(dying.fill(&letters, &runs, ledger), []);
                }
            }
        }
        assert_eq!((dying.messages(), dying.bytes(), dying.here_bytes()), (0, 0, 0));
        (order, reads)
    }

    /// A ledger of so many messages.
    fn ledger(messages: u64) -> Ledger {
        let mut ledger = Ledger::default();
        (0..messages).for_each(|seq| ledger.insert(Seq(seq), Seq(seq + 1), Place::Log(Lsn(seq))));
        ledger
    }

    fn away(seq: u64) -> Piece {
        Piece::Away(Away::of(&run(seq)))
    }

    #[test]
    fn what_is_published_after_others_have_died_is_not_read_back_with_them() {
        let (mut ledger, mut dying) = (Ledger::default(), Dying::default());
        let of = |rank: u8, count: u64| Seq(count).of_rank(rank);
        let mut dead = Vec::new();
        for seq in (0..5).map(|count| of(0, count)).chain((5..9).map(|count| of(2, count))) {
            ledger.insert(seq, seq.after(1), Place::Log(Lsn(seq.counted().0)));
            dead.push(seq.0);
        }
        // As a lane gives them away, up to where others begin.
        let all = Away { first: of(0, 0), end: of(3, 0), count: 9, body_bytes: 9, ..Away::of(&run(0)) };
        dying.insert(Reason::MaxLen, Piece::Away(all), &ledger);
        for rank in 0..3 {
            let later = of(rank, 20);
            ledger.insert(later, later.after(1), Place::Log(Lsn(20)));
        }
        assert_eq!(take_all(&mut dying, &ledger).0, dead);
        assert_eq!(dying.progress(), (0, 9));
    }

    #[test]
    fn what_died_one_by_one_is_read_back_together_and_stays_in_order() {
        let ledger = ledger(2000);
        let mut dying = Dying::default();
        let every_third: Vec<u64> = (0..1000).step_by(3).collect();
        every_third.iter().for_each(|seq| dying.insert(Reason::Expired, away(*seq), &ledger));
        assert_eq!(take_all(&mut dying, &ledger), (every_third, 1));
        // In the order of their times, which is none of their numbers.
        let all_over: Vec<u64> = (0..2000).map(|place| place * 777 % 2000).collect();
        all_over.iter().for_each(|seq| dying.insert(Reason::Expired, away(*seq), &ledger));
        let (order, reads) = take_all(&mut dying, &ledger);
        assert_eq!(order, all_over);
        assert!(reads <= 2, "{reads} reads");
        let others = [900, 500, 501, 502, 100];
        others.iter().for_each(|seq| dying.insert(Reason::Rejected, away(*seq), &ledger));
        assert_eq!(take_all(&mut dying, &ledger), (others.to_vec(), 1));
    }

    #[test]
    fn what_was_read_finds_its_place_between_those_that_came_meanwhile() {
        let ledger = ledger(100);
        let mut dying = Dying::default();
        [30, 10, 20].iter().for_each(|seq| dying.insert(Reason::Expired, away(*seq), &ledger));
        let mut letters: Vec<_> = dying.away().map(|away| (away.first, away.end)).collect();
        letters.sort_unstable();
        // One comes back in front, one is dropped, the last grows, and of one no disk has anything.
        assert!(dying.drop_away());
        dying.put_back(Reason::Expired, run(5));
        dying.insert(Reason::Expired, away(21), &ledger);
        assert_eq!(dying.fill(&letters, &[run(20), run(30)], &ledger), [(Seq(10), Seq(11))]);
        assert_eq!(take_all(&mut dying, &ledger), (vec![5, 20, 21], 1));
    }
}
