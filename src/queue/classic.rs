//! The classic queue: messages in order of publishing, each to one consumer.
//!
//! A persistent message of a durable queue waits until its log position is durable, and what is behind it
//! waits too: nothing is ever seen that a crash could take back, and order holds. Messages whose bytes are on the
//! disk only keep their place; whoever meets them at the head has them read back and filled in.

use std::collections::VecDeque;

use crate::message::place::{Logged, Lsn, Place, Seq};
use crate::message::run::Run;
use crate::queue::consumers::Consumers;
use crate::queue::dying::{Dying, Reason};
use crate::queue::expiry::Expiries;
use crate::queue::lane::{Away, Evicted, Front, Gone, Lane, Piece, ToSpill};
use crate::queue::ledger::Ledger;

/// So many runs become durable in one step at most.
const DURABLE_RUNS_MAX: u32 = 1000;

/// After so many messages without an `expiration` the rest is not looked through for one.
const SEEN_IN_VAIN_MAX: u64 = 10_000;

/// One classic queue. `C` is what its owner needs to reach a consumer.
#[derive(Debug)]
pub struct Classic<C> {
    /// Who is next.
    pub consumers: Consumers<C>,
    /// What the disk holds of the queue.
    pub ledger: Ledger,
    ready: Lane,
    /// From which number on messages wait for which log position, in order of the numbers.
    undurable: VecDeque<(Seq, Lsn)>,
    unacked: u64,
    delivered_hi: Seq,
    /// Whether the ledger may know transient messages.
    has_spilled: bool,
    /// Of the ready messages those with an `expiration` whose properties were seen; `None` when there was none.
    expiries: Option<Box<Expiries>>,
    /// Messages that are to be dead-lettered; `None` when there was none.
    dying: Option<Box<Dying>>,
    /// From here on nobody has seen whether messages that a start found away have an `expiration`; `None` when all were
    /// seen, or nobody asks.
    unseen: Option<Seq>,
    /// Something came back that is to be looked at before what is being read.
    is_unseen_behind: bool,
    /// How many were seen and had none.
    seen_in_vain: u64,
    /// It is not an `expiration` that counts, but a delay.
    delays: bool,
}

/// Where messages of a queue wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// To be delivered.
    Ready,
    /// To be dead-lettered, for this reason.
    Dying(Reason),
    /// To be delivered, and looked at for their `expiration` only: they stay away.
    Unseen,
}

/// What is at the head of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// Nothing.
    Empty,
    /// A message that the log does not have durable yet.
    NotDurable,
    /// Messages that must be read back first.
    Away(Away),
    /// So many messages of one run that may be delivered.
    Ready(u32),
}

impl<C> Default for Classic<C> {
    fn default() -> Self {
        Self::restore(Vec::new(), Ledger::default(), Seq(0))
    }
}

impl<C> Classic<C> {
    /// A queue as it was found on the disk: all its messages are ready and away, in these ranges, which the ledger
    /// knows. Up to before `delivered_hi` they were handed out once.
    pub fn restore(away: Vec<Away>, ledger: Ledger, delivered_hi: Seq) -> Self {
        let mut ready = Lane::default();
        away.into_iter().for_each(|away| ready.push_away(away));
        Self {
            consumers: Consumers::default(),
            ledger,
            ready,
            undurable: VecDeque::new(),
            unacked: 0,
            delivered_hi,
            has_spilled: false,
            expiries: None,
            dying: None,
            unseen: None,
            is_unseen_behind: false,
            seen_in_vain: 0,
            delays: false,
        }
    }

    /// Takes in new messages. `logged` is their position in the log, when they are in it.
    pub fn enqueue(&mut self, run: Run, logged: Option<Logged>) {
        let is_kept = logged.is_some();
        if let Some(Logged { start, end }) = logged {
            self.ledger.insert(run.first_seq(), run.end_seq(), Place::Log(start));
            let at = self.undurable.partition_point(|&(seq, _)| seq < run.first_seq());
            self.undurable.insert(at, (run.first_seq(), end));
        }
        self.note_expiry(&run);
        self.ready.insert(run, is_kept, &self.ledger);
    }

    /// The log is durable up to `durable`. Whether more is than one step takes in: it is to be told again.
    pub fn on_durable(&mut self, durable: Lsn) -> bool {
        for _ in 0..DURABLE_RUNS_MAX {
            if self.undurable.pop_front_if(|&mut (_, lsn)| lsn <= durable).is_none() {
                return false;
            }
        }
        true
    }

    /// What is next, and whether it may be delivered.
    #[inline]
    pub fn head(&self) -> Head {
        let front = match self.ready.front() {
            None => return Head::Empty,
            Some(Front::Away(away)) => return Head::Away(*away),
            Some(Front::Here(run)) => run,
        };
        let Some(barrier) = self.barrier() else { return Head::Ready(front.count()) };
        let before = barrier.0.saturating_sub(front.first_seq().0);
        match u32::try_from(before).unwrap_or(u32::MAX).min(front.count()) {
            0 => Head::NotDurable,
            count => Head::Ready(count),
        }
    }

    /// The first number that waits for the log.
    fn barrier(&self) -> Option<Seq> {
        self.undurable.front().map(|&(barrier, _)| barrier)
    }

    /// Messages to be read next: those that are to be dead-lettered, those at the head if somebody wants them, those that
    /// nobody has seen, and then those at the head all the same.
    pub fn away_first(&self, is_head_wanted: bool) -> Option<(Part, Away)> {
        if let Some((reason, away)) = self.dying.as_ref().and_then(|dying| dying.away_first()) {
            return Some((Part::Dying(reason), away));
        }
        let at_head = match self.head() {
            Head::Away(away) => Some((Part::Ready, away)),
            _ => None,
        };
        let unseen = self.unseen.filter(|_| !is_head_wanted || at_head.is_none());
        let unseen = unseen.and_then(|from| self.ready.away_from(from, &self.ledger));
        unseen.map(|away| (Part::Unseen, away)).or(at_head)
    }

    /// What a start found away is to be looked at: some may have had their time.
    pub fn look_through(&mut self) {
        self.unseen = (self.ready.messages() > 0).then_some(Seq(0));
    }

    /// Nothing is left to be looked at.
    pub fn look_no_further(&mut self) {
        self.unseen = None;
    }

    /// Whether there may be messages that are to be looked at.
    #[inline]
    pub fn has_unseen(&self) -> bool {
        self.unseen.is_some()
    }

    /// How many messages of the front run may be delivered.
    #[inline]
    pub fn deliverable(&self) -> u32 {
        if let Head::Ready(count) = self.head() { count } else { 0 }
    }

    /// The run at the head, when it is in memory.
    #[inline]
    pub fn front(&self) -> Option<&Run> {
        match self.ready.front()? {
            Front::Here(run) => Some(run),
            Front::Away(_) => None,
        }
    }

    /// The first run of each priority that is in memory, the highest first.
    pub fn fronts(&self) -> impl Iterator<Item = &Run> {
        let mut from = Some(Seq(0));
        std::iter::from_fn(move || {
            let run = self.ready.run_from(from?)?;
            from = run.first_seq().next_rank();
            Some(run)
        })
    }

    /// Takes a ready message that nobody is to have, wherever it is.
    pub fn take_out(&mut self, seq: Seq) -> Option<Piece> {
        let piece = self.ready.take_out(seq, &self.ledger)?;
        if let Piece::Here(run) = &piece {
            self.forget_expiry(run);
        }
        Some(piece)
    }

    /// Takes up to `count` messages of the front run; they are unacked until settled or given back.
    pub fn take(&mut self, count: u32) -> Option<Run> {
        let run = self.ready.take_front(count)?;
        self.forget_expiry(&run);
        self.unacked += u64::from(run.count());
        self.delivered_hi = self.delivered_hi.max(run.end_seq());
        Some(run)
    }

    /// Messages taken before are done with.
    pub fn settle(&mut self, first: Seq, end: Seq, persistent: bool) {
        self.unacked = self.unacked.saturating_sub(end.0 - first.0);
        if persistent || self.has_spilled {
            self.ledger.cut(first, end);
        }
    }

    /// Messages taken before return to the place they had.
    pub fn give_back(&mut self, run: Run) {
        self.unacked = self.unacked.saturating_sub(u64::from(run.count()));
        let is_kept =
            (run.is_persistent() || self.has_spilled) && self.ledger.place(run.first_seq()).is_some();
        self.note_expiry(&run);
        self.ready.insert(run, is_kept, &self.ledger);
    }

    /// Notes which of the messages before `end` expire. A queue whose first ones do not is not looked through: what
    /// expires in it all the same does so when it comes to the head.
    fn see(&mut self, end: Seq, runs: &[Run]) {
        for run in runs {
            self.note_expiry(run);
            if !run.expires() {
                self.seen_in_vain += u64::from(run.count());
            }
        }
        if std::mem::take(&mut self.is_unseen_behind) {
            // Something came back before what was being read, meanwhile or just before.
            return;
        }
        let is_in_vain = self.expiries.is_none() && self.seen_in_vain >= SEEN_IN_VAIN_MAX;
        self.unseen =
            (!is_in_vain).then_some(end).filter(|end| self.ready.away_from(*end, &self.ledger).is_some());
    }

    /// All messages wait until their delay is over.
    pub fn delay_all(&mut self) {
        self.delays = true;
        self.expiries.get_or_insert_with(|| Box::new(Expiries::of_delays()));
    }

    #[inline]
    fn note_expiry(&mut self, run: &Run) {
        if run.expires() || self.delays {
            self.expiries.get_or_insert_default().insert(run);
        }
    }

    #[inline]
    fn forget_expiry(&mut self, run: &Run) {
        if let Some(expiries) = &mut self.expiries
            && (run.expires() || self.delays)
        {
            expiries.remove(run);
        }
    }

    /// Messages taken before, whose bytes are on the disk only, return to the place they had. All numbers of the range
    /// were taken, and the ledger knows them.
    pub fn give_back_away(&mut self, away: Away) {
        self.unacked = self.unacked.saturating_sub(away.count);
        if self.expiries.is_some() {
            // Perhaps they are to expire: when, nobody knows any more.
            self.unseen = Some(self.unseen.map_or(away.first, |unseen| unseen.min(away.first)));
            self.is_unseen_behind = true;
        }
        self.ready.insert_away(away, &self.ledger);
    }

    /// Removes up to about `count` ready messages from the head; which, for the log and the count.
    pub fn purge(&mut self, count: u64) -> Vec<Gone> {
        let gone = self.ready.purge(count, &self.ledger);
        for &Gone { first, end, .. } in &gone {
            self.ledger.cut(first, end);
        }
        if self.ready.messages() == 0
            && let Some(expiries) = &mut self.expiries
        {
            expiries.clear();
        }
        gone
    }

    /// Takes up to `count` ready messages from the head that nobody is to have: they are for [`Classic::doom`] or
    /// [`Classic::drop_piece`].
    pub fn take_head(&mut self, count: u32) -> Option<Piece> {
        let piece = self.ready.take_piece(count, &self.ledger)?;
        if let Piece::Here(run) = &piece {
            self.forget_expiry(run);
        }
        Some(piece)
    }

    /// Takes a ready message that has had its time by `now_ms`, wherever it is; `None` when there is none. One of those
    /// that are noted may be gone: so many are looked at.
    pub fn take_expired(&mut self, now_ms: u64, steps: &mut u32) -> Option<Piece> {
        let expiries = self.expiries.as_mut()?;
        while *steps > 0
            && let Some(seq) = expiries.take_due(now_ms)
        {
            *steps -= 1;
            if let Some(piece) = self.ready.take_out(seq, &self.ledger) {
                return Some(piece);
            }
        }
        None
    }

    /// When to look for ready messages that have had their time, by their own `expiration`.
    #[inline]
    pub fn next_expiry(&self) -> Option<u64> {
        self.expiries.as_ref()?.first_time()
    }

    /// Messages that nobody has in hand are to be dead-lettered. The ledger knows the persistent ones until they are
    /// somewhere else.
    pub fn doom(&mut self, reason: Reason, piece: Piece) {
        self.dying.get_or_insert_default().insert(reason, piece, &self.ledger);
    }

    /// Messages taken before are to be dead-lettered.
    pub fn doom_taken(&mut self, reason: Reason, piece: Piece) {
        self.unacked = self.unacked.saturating_sub(piece.count());
        self.doom(reason, piece);
    }

    /// Messages that nobody has in hand are gone for good: their numbers, for the log, are added to `gone`.
    pub fn drop_piece(&mut self, piece: &Piece, gone: &mut Vec<Gone>) {
        let (first, end, persistent) = match piece {
            Piece::Here(run) => (run.first_seq(), run.end_seq(), run.is_persistent()),
            Piece::Away(away) => (away.first, away.end, away.persistent),
        };
        let before = gone.len();
        match piece {
            Piece::Here(_) => gone.push(Gone { first, end, persistent }),
            Piece::Away(_) => {
                let ranges = self.ledger.live_ranges(first, end);
                gone.extend(ranges.map(|(first, end)| Gone { first, end, persistent }));
            }
        }
        for Gone { first, end, .. } in gone.get(before..).unwrap_or_default() {
            self.ledger.cut(*first, *end);
        }
    }

    /// Messages taken before are gone for good: see [`Classic::drop_piece`].
    pub fn drop_taken(&mut self, piece: &Piece, gone: &mut Vec<Gone>) {
        self.unacked = self.unacked.saturating_sub(piece.count());
        self.drop_piece(piece, gone);
    }

    /// The ledger knows messages that their properties call transient: the queue keeps all.
    pub fn keep_all(&mut self) {
        self.has_spilled = true;
    }

    /// The next ones to be dead-lettered, at most `count`, and why. Of those whose bytes must be read back first only
    /// where they are, and they stay.
    pub fn take_dying(&mut self, count: u32) -> Option<(Reason, Piece)> {
        self.dying.as_mut()?.take(count)
    }

    /// Whether messages are to be dead-lettered.
    #[inline]
    pub fn has_dying(&self) -> bool {
        self.dying.as_ref().is_some_and(|dying| dying.next().is_some())
    }

    /// Takes over what is to be dead-lettered of a queue that is gone.
    pub fn adopt_dying(&mut self, gone: &mut Self) {
        self.dying = gone.dying.take();
    }

    /// The bodies of messages in memory that are to be dead-lettered, in bytes.
    pub fn dying_here_bytes(&self) -> u64 {
        self.dying.as_ref().map_or(0, |dying| dying.here_bytes())
    }

    /// How many messages are to be dead-lettered.
    pub fn dying_messages(&self) -> u64 {
        self.dying.as_ref().map_or(0, |dying| dying.messages())
    }

    /// Messages that were taken to be dead-lettered are somewhere else now, or nowhere.
    pub fn bury(&mut self, first: Seq, end: Seq) {
        self.ledger.cut(first, end);
    }

    /// Drops about so many of the messages that were to be dead-lettered; `true` when none is left.
    pub fn shed_dying(&mut self, count: u64) -> bool {
        self.dying.as_mut().is_none_or(|dying| dying.shed(count, &self.ledger))
    }

    /// Lets go of the bytes of ready messages that are durable on the disk, from the far tail on, until
    /// `bytes_wanted` of bodies went or only `keep_head_bytes` are left in memory; the very first stays if it
    /// `spares_head`, for somebody may wait for it. Bounded work: ask again.
    pub fn evict_tail(&mut self, bytes_wanted: u64, keep_head_bytes: u64, spares_head: bool) -> Evicted {
        self.ready.evict_tail(bytes_wanted, keep_head_bytes, spares_head, self.barrier(), &self.ledger)
    }

    /// Runs at the far tail that must be written to a spill pack before they can go, newest first. Bounded work: ask
    /// again.
    pub fn tail_to_spill(&mut self, bytes_wanted: u64) -> ToSpill {
        self.ready.tail_to_spill(bytes_wanted)
    }

    /// The numbers `first..end` of [`Classic::tail_to_spill`] were written to `place`: what is still ready of them
    /// needs its bytes no longer.
    pub fn on_spilled(&mut self, first: Seq, end: Seq, place: Place) -> Evicted {
        let (evicted, ranges) = self.ready.evict_within(first, end, &self.ledger);
        for (first, end) in ranges {
            self.has_spilled = true;
            self.ledger.insert(first, end, place);
        }
        evicted
    }

    /// Puts messages that were read back into their place: all that the disk has of `first..end`. Live numbers that
    /// could not be read are returned; they are no longer ready, and the ledger still knows them.
    pub fn fill(&mut self, part: Part, first: Seq, end: Seq, runs: Vec<Run>) -> Vec<(Seq, Seq)> {
        match part {
            Part::Ready => {
                // Those that are no longer away are noted for nothing: who looks for them finds them gone.
                runs.iter().for_each(|run| self.note_expiry(run));
                self.ready.fill(first, end, runs, &self.ledger)
            }
            Part::Unseen => {
                self.see(end, &runs);
                Vec::new()
            }
            Part::Dying(reason) => {
                self.dying.get_or_insert_default().fill(reason, (first, end), runs, &self.ledger)
            }
        }
    }

    /// The number after the highest that was ever handed out.
    pub fn delivered_hi(&self) -> Seq {
        self.delivered_hi
    }

    /// Messages waiting to be delivered.
    pub fn ready_messages(&self) -> u64 {
        self.ready.messages()
    }

    /// The bodies of waiting messages, in bytes, wherever they are.
    pub fn ready_bytes(&self) -> u64 {
        self.ready.body_bytes()
    }

    /// The bodies of waiting messages that are in memory, in bytes: what an eviction could free.
    pub fn here_bytes(&self) -> u64 {
        self.ready.here_bytes()
    }

    /// Messages delivered and not yet settled.
    pub fn unacked_messages(&self) -> u64 {
        self.unacked
    }

    /// What the lists of messages cost beside their bytes, in bytes.
    #[inline]
    pub fn index_bytes(&self) -> u64 {
        let bytes = self.ready.index_bytes() + self.ledger.index_bytes();
        if self.expiries.is_none() && self.dying.is_none() { bytes } else { bytes + self.bytes_aside() }
    }

    #[cold]
    fn bytes_aside(&self) -> u64 {
        let expiries = self.expiries.as_ref().map_or(0, |expiries| expiries.bytes());
        expiries + self.dying.as_ref().map_or(0, |dying| dying.index_bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};

    use super::{Away, Classic, Head, Part};
    use crate::message::block::BlockBuilder;
    use crate::message::block_header::{Marks, Stamp};
    use crate::message::names::Names;
    use crate::message::place::{Logged, Lsn, Place, Seq};
    use crate::message::record::Content;
    use crate::message::run::Run;

    fn run(first: u64, count: u32) -> Run {
        run_of(first, count, true)
    }

    fn run_of(first: u64, count: u32, persistent: bool) -> Run {
        let mut builder = BlockBuilder::default();
        for _ in 0..count {
            builder.push(&Content { names: Names::EMPTY, properties: &[0, 0], body: b"m" });
        }
        let (block, count, body_bytes) =
            builder.seal(Stamp { marks: Marks::of(persistent), received_ms: 0 }, &Arc::default());
        Run::of_block(block, count, body_bytes).numbered_from(Seq(first))
    }

    fn ends_at(end: u64) -> Option<Logged> {
        Some(Logged { start: Lsn(end - 1), end: Lsn(end) })
    }

    /// Takes everything that may be delivered, one message at a time.
    fn drain(queue: &mut Classic<()>, durable: Lsn) -> Vec<Run> {
        let mut taken = Vec::new();
        queue.on_durable(durable);
        while queue.deliverable() > 0 {
            taken.extend(queue.take(1));
        }
        taken
    }

    fn numbers(runs: &[Run]) -> Vec<u64> {
        runs.iter().map(|run| run.first_seq().0).collect()
    }

    #[test]
    fn messages_come_in_order_of_their_numbers_whoever_was_quicker() {
        let mut queue = Classic::default();
        queue.enqueue(run(3, 2), None);
        queue.enqueue(run(1, 2), None);
        queue.enqueue(run(5, 1), None);
        assert_eq!(numbers(&drain(&mut queue, Lsn(0))), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn nothing_passes_a_message_that_is_not_durable() {
        let mut queue = Classic::default();
        queue.enqueue(run(1, 1), None);
        queue.enqueue(run(2, 2), ends_at(10));
        queue.enqueue(run(4, 1), None);
        queue.enqueue(run(5, 1), ends_at(20));
        assert_eq!(numbers(&drain(&mut queue, Lsn(9))), [1]);
        assert_eq!(numbers(&drain(&mut queue, Lsn(10))), [2, 3, 4]);
        assert_eq!(numbers(&drain(&mut queue, Lsn(20))), [5]);
    }

    #[test]
    fn what_is_given_back_returns_to_its_place() {
        let mut queue = Classic::default();
        queue.enqueue(run(1, 5), None);
        let mut taken = drain(&mut queue, Lsn(0));
        queue.give_back(taken.remove(3));
        queue.give_back(taken.remove(1));
        assert_eq!((queue.ready_messages(), queue.unacked_messages()), (2, 3));
        assert_eq!(numbers(&drain(&mut queue, Lsn(0))), [2, 4]);
    }

    #[test]
    fn a_purge_takes_only_what_is_ready() {
        let mut queue = Classic::<()>::default();
        queue.enqueue(run(1, 4), ends_at(1));
        assert_eq!(queue.deliverable(), 0);
        queue.on_durable(Lsn(1));
        assert_eq!(queue.deliverable(), 4);
        let held = queue.take(1).unwrap();
        let purged: u64 = queue.purge(u64::MAX).iter().map(|gone| gone.end.0 - gone.first.0).sum();
        assert_eq!((purged, queue.ready_messages(), queue.unacked_messages()), (3, 0, 1));
        assert_eq!(queue.ledger.messages(), 1);
        queue.settle(held.first_seq(), held.end_seq(), true);
        assert_eq!((queue.ledger.messages(), queue.unacked_messages()), (0, 0));
    }

    #[test]
    fn a_head_that_is_awaited_stays_however_much_is_to_go() {
        let mut queue = Classic::<()>::default();
        for first in [1, 2, 3] {
            queue.enqueue(run_of(first, 1, true), ends_at(first));
        }
        queue.on_durable(Lsn(3));
        queue.evict_tail(u64::MAX, 0, true);
        assert_eq!(queue.head(), Head::Ready(1));
        assert_eq!(queue.take(1).unwrap().first_seq(), Seq(1));
        assert!(matches!(queue.head(), Head::Away(away) if (away.first, away.end) == (Seq(2), Seq(4))));
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Publish {
            skipped: u64,
            count: u32,
            persistent: bool,
        },
        Durable,
        Take(u32),
        GiveBack(usize),
        /// Gives back what the disk has without its bytes.
        GiveBackAway(usize),
        Settle(usize),
        Purge(u64),
        Evict {
            bytes: u64,
            keep: u64,
        },
        Spill,
        /// Reads the head back, so many numbers of it, after something else happened.
        Fill {
            count: u64,
        },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0u64..3, 1u32..9, any::<bool>())
                .prop_map(|(skipped, count, persistent)| Step::Publish { skipped, count, persistent }),
            2 => Just(Step::Durable),
            5 => (1u32..6).prop_map(Step::Take),
            2 => any::<usize>().prop_map(Step::GiveBack),
            1 => any::<usize>().prop_map(Step::GiveBackAway),
            2 => any::<usize>().prop_map(Step::Settle),
            1 => (1u64..10).prop_map(Step::Purge),
            3 => (1u64..30, 0u64..10).prop_map(|(bytes, keep)| Step::Evict { bytes, keep }),
            1 => Just(Step::Spill),
            4 => (1u64..15).prop_map(|count| Step::Fill { count }),
        ];
        proptest::collection::vec(step, 0..80)
    }

    /// A queue as a map of what is ready and a list of what is taken.
    #[derive(Default)]
    struct World {
        queue: Classic<()>,
        /// Number to: persistent, delivered before.
        ready: BTreeMap<u64, (bool, bool)>,
        taken: Vec<Run>,
        next: u64,
        logged: u64,
    }

    impl World {
        fn step(&mut self, step: Step) {
            match step {
                Step::Publish { skipped, count, persistent } => self.publish(skipped, count, persistent),
                Step::Durable => drop(self.queue.on_durable(Lsn(self.logged))),
                Step::Take(count) => self.take(count),
                Step::GiveBack(at) | Step::GiveBackAway(at) if !self.taken.is_empty() => {
                    let mut run = self.taken.swap_remove(at % self.taken.len());
                    run.mark_redelivered();
                    let (first, end) = (run.first_seq(), run.end_seq());
                    self.ready.extend((first.0..end.0).map(|seq| (seq, (run.is_persistent(), true))));
                    let is_known = self.queue.ledger.live_in(first, end) == end.0 - first.0;
                    if is_known && matches!(step, Step::GiveBackAway(_)) {
                        self.queue.give_back_away(Away::of(&run));
                    } else {
                        self.queue.give_back(run);
                    }
                }
                Step::Settle(at) if !self.taken.is_empty() => {
                    let run = self.taken.swap_remove(at % self.taken.len());
                    self.queue.settle(run.first_seq(), run.end_seq(), run.is_persistent());
                }
                Step::GiveBack(_) | Step::GiveBackAway(_) | Step::Settle(_) => {}
                Step::Purge(count) => {
                    for gone in self.queue.purge(count) {
                        for seq in gone.first.0..gone.end.0 {
                            let (first, (persistent, _)) = self.ready.pop_first().unwrap();
                            assert_eq!((first, persistent), (seq, gone.persistent));
                        }
                    }
                }
                Step::Evict { bytes, keep } => {
                    let before = self.queue.here_bytes();
                    let evicted = self.queue.evict_tail(bytes, keep, false);
                    assert_eq!(self.queue.here_bytes(), before - evicted.body_bytes);
                }
                Step::Spill => {
                    let runs = self.queue.tail_to_spill(20).runs;
                    self.take(2);
                    for run in runs {
                        let place = Place::Pack { number: 1, offset: 0 };
                        self.queue.on_spilled(run.first_seq(), run.end_seq(), place);
                    }
                }
                Step::Fill { count } => {
                    let Head::Away(away) = self.queue.head() else { return };
                    let end = Seq(away.end.0.min(away.first.0 + count));
                    let runs = self
                        .queue
                        .ledger
                        .live_ranges(away.first, end)
                        .map(|(first, end)| run_of(first.0, (end.0 - first.0) as u32, away.persistent));
                    let runs = runs.collect();
                    assert_eq!(self.queue.fill(Part::Ready, away.first, end, runs), []);
                    // A second reader comes too late.
                    let late = vec![run_of(away.first.0, (end.0 - away.first.0) as u32, true)];
                    self.queue.fill(Part::Ready, away.first, end, late);
                    assert!(!matches!(self.queue.head(), Head::Away(next) if next.first < end));
                }
            }
        }

        fn publish(&mut self, skipped: u64, count: u32, persistent: bool) {
            let first = self.next + skipped;
            self.next = first + u64::from(count);
            let logged = persistent.then(|| {
                self.logged += 1;
                Logged { start: Lsn(self.logged - 1), end: Lsn(self.logged) }
            });
            self.queue.enqueue(run_of(first, count, persistent), logged);
            self.ready.extend((first..self.next).map(|seq| (seq, (persistent, false))));
        }

        fn take(&mut self, count: u32) {
            let Head::Ready(most) = self.queue.head() else { return };
            let run = self.queue.take(count.min(most)).unwrap();
            for seq in run.first_seq().0..run.end_seq().0 {
                let expected = (seq, (run.is_persistent(), run.is_redelivered()));
                assert_eq!(self.ready.pop_first(), Some(expected));
            }
            assert_eq!(run.messages().count(), run.count() as usize);
            self.taken.push(run);
        }
    }

    proptest! {
        #[test]
        fn the_queue_agrees_with_a_map(steps in steps()) {
            let mut world = World { next: 1, ..World::default() };
            for step in steps {
                world.step(step);
                let unacked: u32 = world.taken.iter().map(Run::count).sum();
                prop_assert_eq!(world.queue.ready_messages(), world.ready.len() as u64);
                prop_assert_eq!(world.queue.unacked_messages(), u64::from(unacked));
            }
            world.step(Step::Durable);
            while world.queue.head() != Head::Empty {
                world.step(Step::Fill { count: 4 });
                world.step(Step::Take(3));
            }
            prop_assert!(world.ready.is_empty());
            prop_assert_eq!((world.queue.ready_bytes(), world.queue.here_bytes()), (0, 0));
            while !world.taken.is_empty() {
                world.step(Step::Settle(0));
            }
            prop_assert_eq!(world.queue.ledger.messages(), 0);
        }
    }
}
