//! What comes back from consumers: acknowledgements, and messages to deliver again.
//!
//! A session collects the settlements of one read chunk per queue, so that a thousand acks cost one lock; a hundred
//! thousand are cut into a hundred, so that the queue's other clients get there between.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use foldhash::fast::RandomState;
use smallvec::SmallVec;

use crate::broker::queue::handle::{Queue, State};
use crate::broker::wakes::{HOLD_STEPS, Wakes};
use crate::message::fact::Fact;
use crate::message::place::{Lsn, QueueId, Returned, Seq};
use crate::message::run::Run;
use crate::queue::consumers::ConsumerKey;
use crate::queue::dying::Reason;
use crate::queue::lane::{Away, Piece};
use crate::storage::log::Append;

/// What one burst of acknowledgements changes, queue by queue.
#[derive(Debug, Default)]
pub struct Settlements {
    list: Vec<Settlement>,
    /// How many of the list are applied.
    applied: usize,
    /// Where in the list each queue's is.
    by_queue: HashMap<QueueId, usize, RandomState>,
    /// More is to come back before anybody is served: what comes first must not be overtaken by what is ready.
    more_comes: bool,
    /// Queues that are to deliver when all has come.
    waiting: Vec<Arc<Queue>>,
}

impl Settlements {
    /// What changes at this queue.
    pub fn of(&mut self, queue: &Arc<Queue>) -> &mut Settlement {
        let at = match self.list.last() {
            Some(settlement) if settlement.queue.id == queue.id => self.list.len() - 1,
            _ => *self.by_queue.entry(queue.id).or_insert(self.list.len()),
        };
        if at == self.list.len() {
            self.list.push(Settlement::new(Arc::clone(queue)));
        }
        #[expect(clippy::indexing_slicing, reason = "the position was just found or made")]
        &mut self.list[at]
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Each, in the order in which the queues were first touched.
    pub fn iter(&self) -> impl Iterator<Item = &Settlement> {
        self.list.iter()
    }

    /// Makes the changes, in the order in which the queues were first touched, as far as this turn goes. `true` when all
    /// are made; until then nothing more may be collected.
    pub fn apply(&mut self, wakes: &mut Wakes) -> bool {
        self.by_queue.clear();
        while let Some(settlement) = self.list.get_mut(self.applied) {
            if wakes.is_turn_over() {
                return false;
            }
            if settlement.apply(self.more_comes, wakes) {
                if self.more_comes && self.waiting.last().is_none_or(|last| last.id != settlement.queue.id) {
                    self.waiting.push(Arc::clone(&settlement.queue));
                }
                self.applied += 1;
            }
        }
        self.list.clear();
        self.applied = 0;
        true
    }

    /// Whether what is settled from now on is a part of more, so that its queues are not to deliver yet; they are once it
    /// is not.
    pub fn hold_back(&mut self, more_comes: bool, wakes: &mut Wakes) {
        self.more_comes = more_comes;
        if !more_comes {
            self.waiting.drain(..).for_each(|queue| wakes.owe_deliveries(&queue));
        }
    }
}

/// So many of the last credits are looked at for one of the same consumer.
const CREDITS_SEARCHED: usize = 8;

/// What one burst of acknowledgements changes at one queue.
#[derive(Debug)]
pub struct Settlement {
    /// The queue.
    pub queue: Arc<Queue>,
    changes: Changes,
}

/// What is still to be changed.
#[derive(Debug, Default)]
struct Changes {
    logged: SmallVec<[(Seq, Seq); 1]>,
    transient: SmallVec<[(Seq, Seq); 1]>,
    returned: VecDeque<(Piece, Back)>,
    /// Rarely anything: settlements of many queues are many.
    dead: Option<Box<Dead>>,
    credits: SmallVec<[(ConsumerKey, u32); 2]>,
    /// How many of the messages were acknowledged by who had them.
    acked: u64,
}

/// Why a message comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Back {
    /// Whoever had it does not want it now.
    Refused,
    /// Whoever had it is gone.
    Left,
    /// Nobody has had it.
    Untouched,
}

/// What of the changes has to do with dead letters.
#[derive(Debug, Default)]
struct Dead {
    /// To be dead-lettered: the log need not know before they are somewhere else.
    rejected: Vec<Piece>,
    /// Dead-lettered, or not to be after all: neither ready nor in anybody's hands. Those that the log knows, and others.
    buried_logged: Vec<(Seq, Seq)>,
    buried: Vec<(Seq, Seq)>,
}

impl Settlement {
    /// Nothing yet.
    pub fn new(queue: Arc<Queue>) -> Self {
        Self { queue, changes: Changes::default() }
    }

    /// The run's messages are done with.
    #[inline]
    pub fn settled(&mut self, run: &Run) {
        self.settled_range(run.first_seq(), run.end_seq(), run.is_persistent());
    }

    /// So many of the messages were acknowledged by who had them.
    #[inline]
    pub fn acked(&mut self, count: u32) {
        self.changes.acked += u64::from(count);
    }

    /// Messages whose bytes are on the disk only are done with.
    pub fn settled_away(&mut self, away: &Away) {
        self.settled_range(away.first, away.end, away.persistent);
    }

    #[inline]
    fn settled_range(&mut self, first: Seq, end: Seq, persistent: bool) {
        let Changes { logged, transient, .. } = &mut self.changes;
        let ranges = if self.queue.logs(persistent) { logged } else { transient };
        match ranges.last_mut() {
            Some((_, last)) if *last == first => *last = end,
            _ => ranges.push((first, end)),
        }
    }

    /// The run's messages are not wanted: they are dead-lettered if their queue does that, and done with otherwise.
    pub fn rejected(&mut self, run: Run) {
        match self.queue.buries() {
            true => self.changes.dead().rejected.push(Piece::Here(run)),
            false => {
                self.queue.node.dead.count_rejected(self.queue.kind, run.count().into());
                self.settled(&run);
            }
        }
    }

    /// As [`Settlement::rejected`], of messages whose bytes are on the disk only.
    pub fn rejected_away(&mut self, away: Away) {
        match self.queue.buries() {
            true => self.changes.dead().rejected.push(Piece::Away(away)),
            false => {
                self.queue.node.dead.count_rejected(self.queue.kind, away.count);
                self.settled_away(&away);
            }
        }
    }

    /// Dead letters of the queue were handed over with this, to where they go.
    pub(in crate::broker) fn buried(&mut self, run: &Run) {
        let is_logged = self.queue.logs(run.is_persistent());
        let dead = self.changes.dead();
        let buried = if is_logged { &mut dead.buried_logged } else { &mut dead.buried };
        buried.push((run.first_seq(), run.end_seq()));
    }

    /// Messages go back to the queue: as redelivered ones, unless nobody has had them.
    pub fn returned(&mut self, mut piece: Piece, back: Back) {
        if back != Back::Untouched {
            piece.mark_redelivered();
            if self.queue.counts_returns() {
                piece.count_return();
            }
        }
        self.changes.returned.push_back((piece, back));
    }

    /// What comes back, where the log is to know how often it did.
    fn counted(&self) -> impl Iterator<Item = Returned> {
        let returned = self.queue.counts_returns().then_some(&self.changes.returned);
        let counted = returned.into_iter().flatten().filter(|(_, back)| *back != Back::Untouched);
        counted.map(|(piece, _)| piece.counted())
    }

    /// A consumer holds `count` messages less.
    pub fn credit(&mut self, consumer: ConsumerKey, count: u32) {
        // Most are for the one before, and a long list is not searched: the queue adds up.
        let credits = &mut self.changes.credits;
        match credits.iter_mut().rev().take(CREDITS_SEARCHED).find(|(key, _)| *key == consumer) {
            Some((_, credit)) => *credit += count,
            None => credits.push((consumer, count)),
        }
    }

    /// Tells the log, before anything is changed. `None` when the log need not know.
    pub fn append(&self, log: &mut Append<'_>) -> Option<Lsn> {
        let buried: &[_] = self.changes.dead.as_ref().map_or(&[], |dead| &dead.buried_logged);
        let mut end = None;
        for ranges in [&self.changes.logged, buried] {
            if !ranges.is_empty() {
                end = Some(log.push(&Fact::Settled { queue: self.queue.id, ranges }).end);
            }
        }
        let ranges: Vec<_> = self.counted().collect();
        if !ranges.is_empty() {
            end = Some(log.push(&Fact::Returned { queue: self.queue.id, ranges: &ranges }).end);
        }
        end
    }

    /// Whether the log must know.
    pub fn is_logged(&self) -> bool {
        let dead = self.changes.dead.as_ref();
        !self.changes.logged.is_empty()
            || dead.is_some_and(|dead| !dead.buried_logged.is_empty())
            || self.counted().next().is_some()
    }

    /// Changes the queue, a part at a time, and with the last delivers what the credit allows, unless
    /// `more_comes`. `true` when all is done.
    fn apply(&mut self, more_comes: bool, wakes: &mut Wakes) -> bool {
        let mut state = self.queue.lock();
        if self.queue.is_deleted() {
            return true;
        }
        self.queue.tally.acked.bump(std::mem::take(&mut self.changes.acked));
        let has_returns = !self.changes.returned.is_empty();
        let changed = self.changes.make_some(&self.queue, &mut state, HOLD_STEPS as usize);
        if state.classic.has_dying() {
            self.queue.ask_for_burial(&mut state, wakes);
        }
        wakes.count(changed);
        let is_done = self.changes.is_empty();
        if has_returns {
            self.queue.make_room(&mut state, wakes);
        }
        if is_done && !more_comes {
            self.queue.dispatch(&mut state, wakes);
        }
        is_done
    }
}

impl Dead {
    /// Makes as many of these changes as are allowed; how many more may be made.
    fn make_some(&mut self, queue: &Queue, state: &mut State, most: usize) -> usize {
        let rejected = self.rejected.len().min(most);
        let mut left = most - rejected;
        for piece in self.rejected.drain(..rejected) {
            queue.node.dead.count(&state.settings, Reason::Rejected, piece.count());
            state.classic.doom_taken(Reason::Rejected, piece);
        }
        for ranges in [&mut self.buried_logged, &mut self.buried] {
            let some = ranges.len().min(left);
            left -= some;
            ranges.drain(..some).for_each(|(first, end)| state.classic.bury(first, end));
        }
        left
    }

    fn is_empty(&self) -> bool {
        self.rejected.is_empty() && self.buried_logged.is_empty() && self.buried.is_empty()
    }
}

impl Changes {
    #[cold]
    fn dead(&mut self) -> &mut Dead {
        self.dead.get_or_insert_default()
    }

    /// Makes as many as one hold of the lock allows, ranges, runs and credits; how many.
    fn make_some(&mut self, queue: &Queue, state: &mut State, most: usize) -> u32 {
        let mut left = most;
        for (ranges, logged) in [(&mut self.logged, true), (&mut self.transient, false)] {
            if ranges.is_empty() {
                continue;
            }
            let kept = ranges.len().saturating_sub(left);
            left -= ranges.len() - kept;
            for (first, end) in ranges.drain(kept..) {
                state.classic.settle(first, end, logged);
            }
        }
        if !self.returned.is_empty() {
            // The first ones first: whoever publishes between two parts finds the head in its place.
            let returned = self.returned.len().min(left);
            left -= returned;
            for (piece, back) in self.returned.drain(..returned) {
                queue.take_back(state, piece, back);
            }
        }
        if let Some(dead) = &mut self.dead {
            left = dead.make_some(queue, state, left);
        }
        if !self.credits.is_empty() {
            let kept = self.credits.len().saturating_sub(left);
            left -= self.credits.len() - kept;
            for (consumer, count) in self.credits.drain(kept..) {
                state.classic.consumers.credited(consumer, count);
            }
        }
        (most - left) as u32
    }

    fn is_empty(&self) -> bool {
        self.logged.is_empty()
            && self.transient.is_empty()
            && self.returned.is_empty()
            && self.dead.as_ref().is_none_or(|dead| dead.is_empty())
            && self.credits.is_empty()
    }
}
