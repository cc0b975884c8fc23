//! The classic queue: messages in order of publishing, each to one consumer.
//!
//! A persistent message of a durable queue waits until its log position is durable, and what is behind it
//! waits too: nothing is ever seen that a crash could take back, and order holds. Messages whose bytes are on the
//! disk only keep their place; whoever meets them at the head has them read back and filled in.
//!
//! Here is the way through a queue. Ways out of it without a consumer are in `leaving`, the way to the disk and back
//! in `disk`; `looking` is for those who only want to know.

mod disk;
mod leaving;
mod looking;
mod returned;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use crate::message::place::{Logged, Lsn, Place, Seq};
use crate::message::run::Run;
use crate::queue::classic::returned::Returned;
use crate::queue::consumers::Consumers;
use crate::queue::dying::Dying;
use crate::queue::expiry::Expiries;
use crate::queue::lane::{Away, Front, Gone, Lane};
use crate::queue::ledger::Ledger;

/// So many runs become durable in one step at most.
const DURABLE_RUNS_MAX: u32 = 1000;

/// One classic queue. `C` is what its owner needs to reach a consumer.
#[derive(Debug)]
pub struct Classic<C> {
    /// Who is next.
    pub consumers: Consumers<C>,
    /// What the disk holds of the queue.
    pub ledger: Ledger,
    ready: Lane,
    /// What came back and does not go to its old place; `None` when nothing did.
    returned: Option<Box<Returned>>,
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
            returned: None,
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
        if let Some(returned) = self.first_returned() {
            return Head::Ready(returned.count());
        }
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

    #[inline]
    fn first_returned(&self) -> Option<&Run> {
        let (before, run) = self.returned.as_ref()?.front()?;
        self.ready.first_seq().is_none_or(|first| before <= first).then_some(run)
    }

    /// The first number that waits for the log.
    fn barrier(&self) -> Option<Seq> {
        self.undurable.front().map(|&(barrier, _)| barrier)
    }

    /// How many messages of the front run may be delivered.
    #[inline]
    pub fn deliverable(&self) -> u32 {
        if let Head::Ready(count) = self.head() { count } else { 0 }
    }

    /// The run at the head, when it is in memory.
    #[inline]
    pub fn front(&self) -> Option<&Run> {
        if let Some(returned) = self.first_returned() {
            return Some(returned);
        }
        match self.ready.front()? {
            Front::Here(run) => Some(run),
            Front::Away(_) => None,
        }
    }

    /// Takes up to `count` messages of the front run; they are unacked until settled or given back.
    pub fn take(&mut self, count: u32) -> Option<Run> {
        let run = self.take_front(count)?;
        self.forget_expiry(&run);
        self.unacked += u64::from(run.count());
        self.delivered_hi = self.delivered_hi.max(run.end_seq());
        Some(run)
    }

    #[inline]
    fn take_front(&mut self, count: u32) -> Option<Run> {
        if self.first_returned().is_some() {
            return self.returned.as_mut()?.take_front(count);
        }
        self.ready.take_front(count)
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
        self.give_back_before(None, run);
    }

    /// Messages taken before return: `before` the message of this number if there is room for them, and otherwise to the
    /// place they had.
    pub fn give_back_before(&mut self, before: Option<Seq>, run: Run) {
        self.unacked = self.unacked.saturating_sub(u64::from(run.count()));
        self.note_expiry(&run);
        let run = match before {
            Some(before) => self.returned.get_or_insert_default().push(before, run),
            None => Some(run),
        };
        let Some(run) = run else { return };
        let is_kept =
            (run.is_persistent() || self.has_spilled) && self.ledger.place(run.first_seq()).is_some();
        self.ready.insert(run, is_kept, &self.ledger);
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
        let mut gone = Vec::new();
        let mut left = count;
        // All that is ready goes, in whatever order.
        while left > 0
            && let Some(run) = self.returned.as_mut().and_then(|returned| returned.take_front(u32::MAX))
        {
            left = left.saturating_sub(u64::from(run.count()));
            gone.push(Gone::of(&run));
        }
        gone.append(&mut self.ready.purge(left, &self.ledger));
        for &Gone { first, end, .. } in &gone {
            self.ledger.cut(first, end);
        }
        if self.ready_messages() == 0
            && let Some(expiries) = &mut self.expiries
        {
            expiries.clear();
        }
        gone
    }

    /// The ledger knows messages that their properties call transient: the queue keeps all.
    pub fn keep_all(&mut self) {
        self.has_spilled = true;
    }

    /// The number after the highest that was ever handed out.
    pub fn delivered_hi(&self) -> Seq {
        self.delivered_hi
    }

    /// Messages waiting to be delivered.
    pub fn ready_messages(&self) -> u64 {
        self.ready.messages() + self.returned.as_ref().map_or(0, |returned| returned.messages())
    }

    /// Messages that wait, and their bodies in bytes.
    #[inline]
    pub fn ready_totals(&self) -> (u64, u64) {
        match &self.returned {
            None => (self.ready.messages(), self.ready.body_bytes()),
            Some(_) => (self.ready_messages(), self.ready_bytes()),
        }
    }

    /// The bodies of waiting messages, in bytes, wherever they are.
    pub fn ready_bytes(&self) -> u64 {
        self.ready.body_bytes() + self.returned.as_ref().map_or(0, |returned| returned.body_bytes())
    }

    /// The bodies of waiting messages that are in memory, in bytes: what an eviction could free.
    pub fn here_bytes(&self) -> u64 {
        self.ready.here_bytes()
    }

    /// Of these those that need not be written first.
    pub fn kept_bytes(&self) -> u64 {
        self.ready.kept_bytes()
    }

    /// Messages delivered and not yet settled.
    pub fn unacked_messages(&self) -> u64 {
        self.unacked
    }

    /// What the lists of messages cost beside their bytes, in bytes.
    #[inline]
    pub fn index_bytes(&self) -> u64 {
        let bytes = self.ready.index_bytes() + self.ledger.index_bytes();
        let is_plain = self.expiries.is_none() && self.dying.is_none() && self.returned.is_none();
        if is_plain { bytes } else { bytes + self.bytes_aside() }
    }
}
