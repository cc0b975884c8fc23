//! Turns: what frames have caused is worked off here, so many steps at a time, and then others go first.
//!
//! ```text
//!  frames --> publishes and settlements --> hand over --> consumers that waited go on --> chores --> closing --> ending
//!    ^                                          '-------------------<-------------------------------------'
//!    '---- taken only when nothing is left
//! ```
//!
//! The step counter is [`Wakes`](crate::broker::wakes::Wakes)'s. A session that is behind says that it has work, and its
//! task comes back in its next turn.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::BytesMut;

use crate::broker::consumer::Consumer;
use crate::broker::outbox::Item;
use crate::broker::publish::Receipt;
use crate::broker::queue::handle::Queue;
use crate::broker::vhost::Recalled;
use crate::broker::vhost::removal::Removal;
use crate::broker::wakes::HOLD_STEPS;
use crate::message::place::Lsn;
use crate::protocol::frame;
use crate::protocol::methods::{BasicRecoverOk, Method, QueuePurgeOk, TxCommit, TxCommitOk, TxRollbackOk};
use crate::session::channel::Channel;
use crate::session::channel::recall::recall_some;
use crate::session::channel::returns::return_some;
use crate::session::chore::{Answer, Chore, Purge, Verdict};
use crate::session::link::Link;
use crate::session::refuse::Refusal;
use crate::session::running::{Running, Slot};
use crate::session::unroutable::Returns;

/// A channel that ends: its consumers stop, then what it held goes back.
#[derive(Debug)]
pub(super) struct Closing {
    channel: Box<Channel>,
    stage: Stage,
    /// What was on its way to it and will not be sent, once `is_withdrawn`.
    withdrawn: VecDeque<Item>,
    is_withdrawn: bool,
    /// Queues that lost their last consumer by it and go with that.
    unused: Vec<Arc<Queue>>,
    /// Queues where another consumer may be served.
    handed_on: Vec<Arc<Queue>>,
    /// The frame that says that it has ended; none when nobody listens.
    last: BytesMut,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Consumers,
    Unacked,
    Withdrawn,
    Window,
    Unused,
}

/// A connection that ends: its channels do, each with what was on its way to it, then what is exclusive to it goes.
#[derive(Debug, Default)]
pub(super) struct Ending {
    channels: VecDeque<(u16, Slot)>,
    /// What was on its way, by channel.
    withdrawn: BTreeMap<u16, VecDeque<Item>>,
    is_over: bool,
}

impl Running {
    /// Works off what the frames so far have caused, as far as this turn goes. `true` when nothing is left.
    pub(super) fn work(&mut self) -> bool {
        if !self.is_behind && !self.link.has_work() && !self.has_begun() {
            return true;
        }
        self.is_behind = !self.work_off();
        !self.is_behind
    }

    /// A method may have begun what must be done before the next frame is taken.
    pub(super) fn work_if_begun(&mut self) {
        if self.has_begun() {
            self.work();
        }
    }

    fn work_off(&mut self) -> bool {
        loop {
            // A transaction is handed over as a whole.
            let is_collecting = matches!(self.link.chores.front(), Some(Chore::Commit { .. }));
            if !is_collecting && (!self.hand_over() || !self.link.resume_waiting()) {
                return false;
            }
            if !self.has_begun() {
                return true;
            }
            if self.link.wakes.is_turn_over() {
                return false;
            }
            self.step();
        }
    }

    /// Whether something is begun and not finished, beside what is to be handed over.
    fn has_begun(&self) -> bool {
        let is_ending = self.ending.as_ref().is_some_and(|ending| !ending.is_over);
        !self.link.chores.is_empty() || self.closing.is_some() || is_ending
    }

    /// Hands over what was collected so far, and confirms what is safe already. `false` until all of it is.
    fn hand_over(&mut self) -> bool {
        let Some(lsn) = self.link.hand_over() else { return false };
        for Receipt { channel: number, publish } in std::mem::take(&mut self.link.refused) {
            if self.with_channel(number, |channel, _| channel.on_refused(publish)).is_none()
                && let Some(closing) = &mut self.closing
                && closing.channel.number() == number
            {
                closing.channel.on_refused(publish);
            }
        }
        for number in std::mem::take(&mut self.link.confirming) {
            if let Ok(at) = self.find(number)
                && let Some((_, Slot::Open(channel))) = self.channels.get_mut(at)
            {
                channel.on_handed_over(&mut self.link, lsn);
            } else if let Some(closing) = &mut self.closing
                && closing.channel.number() == number
            {
                closing.channel.on_handed_over(&mut self.link, lsn);
            }
        }
        true
    }

    /// Goes on with what was begun first, a part of it.
    fn step(&mut self) {
        if let Some(chore) = self.link.chores.pop_front() {
            if let Some(rest) = self.do_chore(chore) {
                self.link.chores.push_front(rest);
            }
        } else if let Some(mut closing) = self.closing.take() {
            if !closing.step(self) {
                self.closing = Some(closing);
            }
        } else if let Some(mut ending) = self.ending.take() {
            ending.step(self);
            self.ending = Some(ending);
        }
    }

    /// Does a part of a chore; what is left of it.
    fn do_chore(&mut self, chore: Chore) -> Option<Chore> {
        match chore {
            Chore::Settle { channel, through, verdict } => self.settle(channel, through, verdict),
            Chore::Recover { channel, reply } => self.recover(channel, reply),
            Chore::TakeBack { channel, consumer, from } => self.take_back(channel, consumer, from),
            Chore::Purge(purge) => self.purge(purge),
            Chore::Remove { removal, answer } => self.remove(removal, answer),
            Chore::Recall { recalled, after, answer } => self.recall(recalled, after, answer),
            Chore::Commit { channel } => self.commit(channel),
            Chore::RollBack { channel } => self.roll_back(channel),
            Chore::Committed { channel, after, returns } => self.answer_commit(channel, after, returns),
        }
    }

    fn settle(&mut self, channel: u16, through: u64, verdict: Verdict) -> Option<Chore> {
        let settle = |channel: &mut Channel, link: &mut Link| channel.settle_through(link, through, verdict);
        let is_done = match self.with_channel(channel, settle) {
            Some(Ok(is_done)) => is_done,
            Some(Err(refusal)) => {
                self.close_refused(channel, &refusal, verdict.method_id());
                true
            }
            None => true,
        };
        self.link.hold_back(!is_done);
        (!is_done).then_some(Chore::Settle { channel, through, verdict })
    }

    fn recover(&mut self, channel: u16, reply: bool) -> Option<Chore> {
        let is_done = self.with_channel(channel, Channel::return_unacked).unwrap_or(true);
        self.link.hold_back(!is_done);
        if !is_done || self.link.has_collected() {
            return Some(Chore::Recover { channel, reply });
        }
        if reply {
            self.link.send(channel, &Method::BasicRecoverOk(BasicRecoverOk {}));
        }
        None
    }

    /// Another consumer of a queue that serves one at a time is served when all is back.
    fn take_back(&mut self, channel: u16, consumer: Arc<Consumer>, from: u64) -> Option<Chore> {
        let take = |channel: &mut Channel, link: &mut Link| channel.take_back_of(link, &consumer, from);
        let next = self.with_channel(channel, take).flatten();
        self.link.hold_back(next.is_some());
        if next.is_some() || self.link.has_collected() {
            return Some(Chore::TakeBack { channel, consumer, from: next.unwrap_or(u64::MAX) });
        }
        let source = consumer.source.as_ref().filter(|source| source.queue.is_single_active());
        source.into_iter().for_each(|source| source.queue.go_on(&mut self.link.wakes));
        None
    }

    fn purge(&mut self, mut purge: Purge) -> Option<Chore> {
        let removed = purge.queue.purge_some(purge.left, &mut self.link.wakes);
        self.link.wakes.count(u32::try_from(removed).unwrap_or(u32::MAX));
        purge.left = purge.left.saturating_sub(removed);
        purge.purged += removed;
        if removed > 0 && purge.left > 0 {
            return Some(Chore::Purge(purge));
        }
        let message_count = u32::try_from(purge.purged).unwrap_or(u32::MAX);
        if !purge.nowait {
            self.link.send(purge.channel, &Method::QueuePurgeOk(QueuePurgeOk { message_count }));
        }
        None
    }

    fn remove(&mut self, mut removal: Removal, (channel, frame): Answer) -> Option<Chore> {
        let link = &mut self.link;
        let mut steps = link.wakes.turn_steps().saturating_sub(link.wakes.steps()).max(1);
        let before = steps;
        let is_done = removal.step(&link.vhost, &mut link.wakes, &mut steps);
        link.wakes.count(before - steps);
        if !is_done {
            return Some(Chore::Remove { removal, answer: (channel, frame) });
        }
        if !frame.is_empty() {
            link.send_frame_after(channel, removal.after(), &frame);
        }
        None
    }

    fn recall(&mut self, mut recalled: Recalled, after: Lsn, (channel, frame): Answer) -> Option<Chore> {
        recall_some(&mut self.link, &mut recalled);
        if !recalled.past.is_empty() || self.link.has_collected() {
            return Some(Chore::Recall { recalled, after, answer: (channel, frame) });
        }
        if !frame.is_empty() {
            self.link.send_frame_after(channel, after, &frame);
        }
        None
    }

    fn commit(&mut self, channel: u16) -> Option<Chore> {
        Some(match self.with_channel(channel, Channel::collect_commit)? {
            Some(returns) => Chore::Committed { channel, after: None, returns },
            None => Chore::Commit { channel },
        })
    }

    fn roll_back(&mut self, channel: u16) -> Option<Chore> {
        if !self.with_channel(channel, Channel::take_back)? {
            return Some(Chore::RollBack { channel });
        }
        self.link.send(channel, &Method::TxRollbackOk(TxRollbackOk {}));
        None
    }

    /// What comes back does before the publisher hears how it went, also when a queue has refused a part.
    fn answer_commit(&mut self, channel: u16, after: Option<Lsn>, mut returns: Returns) -> Option<Chore> {
        let after = after.unwrap_or(self.link.handed_over);
        if !return_some(&mut self.link, channel, &mut returns) {
            return Some(Chore::Committed { channel, after: Some(after), returns });
        }
        if self.with_channel(channel, |channel, _| channel.take_partial()) == Some(true) {
            let partial = Refusal::precondition("partial tx completion");
            self.close_refused(channel, &partial, Method::TxCommit(TxCommit {}).id());
            return None;
        }
        self.link.send_after(channel, after, &Method::TxCommitOk(TxCommitOk {}));
        None
    }

    /// `None` when the channel is not open.
    fn with_channel<T>(&mut self, number: u16, work: impl FnOnce(&mut Channel, &mut Link) -> T) -> Option<T> {
        let at = self.find(number).ok()?;
        match self.channels.get_mut(at) {
            Some((_, Slot::Open(channel))) => Some(work(channel, &mut self.link)),
            _ => None,
        }
    }

    /// A channel ends; `last` is said when it has.
    pub(super) fn close_channel(&mut self, channel: Box<Channel>, last: &Method<'_>) {
        let mut frame = BytesMut::new();
        frame::put_method(&mut frame, channel.number(), last);
        debug_assert!(self.closing.is_none(), "no frame is taken before a channel has ended");
        self.end_upload_of(channel.number());
        if let Some(tally) = self.link.outbox.presence.close_channel(channel.number()) {
            self.link.node().churn.channels_closed.add(1);
            self.link.node().channels.absorb(&tally);
        }
        self.closing = Some(Closing::new(channel, frame));
    }

    /// Begins to end all channels and what dies with the connection: [`Running::work`] says when that is done.
    pub(super) fn end(&mut self) {
        let (connection, alarms) = (self.link.outbox.connection(), &self.link.node().alarms);
        alarms.blocked.forget(connection);
        alarms.held_back.forget(connection);
        self.link.node().uploads.leave(connection);
        self.crowded = None;
        if let Some(waiting) = self.link.waiting.take() {
            waiting.noted_at.forget_waiter(&self.link.outbox);
        }
        let waiting = self.link.outbox.close();
        self.link.arriving.extend(waiting);
        self.ending = Some(Ending::default());
    }
}

impl Closing {
    fn new(channel: Box<Channel>, last: BytesMut) -> Self {
        let (withdrawn, unused, handed_on) = (VecDeque::new(), Vec::new(), Vec::new());
        Self { channel, stage: Stage::Consumers, withdrawn, is_withdrawn: false, unused, handed_on, last }
    }

    /// Goes on, a part at a time; `true` when the channel has ended.
    fn step(&mut self, running: &mut Running) -> bool {
        let link = &mut running.link;
        let number = self.channel.number();
        if self.stage == Stage::Consumers {
            if !self.channel.stop(link, &mut self.unused, &mut self.handed_on) {
                return false;
            }
            if !self.is_withdrawn {
                self.withdrawn = link.withdraw(number).into();
            }
            self.stage = Stage::Unacked;
        }
        if self.stage == Stage::Unacked {
            let is_done = self.channel.return_held(link);
            link.hold_back(!is_done);
            if !is_done {
                return false;
            }
            self.stage = Stage::Withdrawn;
        }
        if self.stage == Stage::Withdrawn {
            let is_done = link.give_back_all(&mut self.withdrawn);
            link.hold_back(!is_done);
            if is_done {
                self.stage = Stage::Window;
            }
            // All that came back is handed over first: it was counted in the window.
            return false;
        }
        if self.stage == Stage::Window {
            let is_awaited = link.outbox.close_window(number);
            link.resume_room(is_awaited);
            self.stage = Stage::Unused;
        }
        if let Some(queue) = self.handed_on.pop() {
            link.wakes.count(1);
            queue.go_on(&mut link.wakes);
            return false;
        }
        if let Some(queue) = self.unused.pop() {
            link.delete_unused(&queue);
            return false;
        }
        link.send_frame(number, &self.last);
        true
    }
}

impl Ending {
    fn step(&mut self, running: &mut Running) {
        // What channels have begun is done by now.
        self.channels.extend(std::mem::take(&mut running.channels));
        let link = &mut running.link;
        if !link.arriving.is_empty() {
            let some = link.arriving.len().min(HOLD_STEPS as usize);
            link.wakes.count(some as u32);
            for item in link.arriving.drain(..some) {
                self.withdrawn.entry(item.channel()).or_default().push_back(item);
            }
            return;
        }
        if let Some((number, slot)) = self.channels.pop_front() {
            if let Slot::Open(channel) = slot {
                let mut closing = Closing::new(channel, BytesMut::new());
                closing.withdrawn = self.withdrawn.remove(&number).unwrap_or_default();
                closing.is_withdrawn = true;
                running.closing = Some(closing);
            }
            return;
        }
        // Of channels that were closed before.
        if let Some((number, mut items)) = self.withdrawn.pop_first() {
            if !link.give_back_all(&mut items) {
                self.withdrawn.insert(number, items);
            }
            return;
        }
        link.leave_undelivered();
        let names = std::mem::take(&mut link.exclusive_queues).into_names();
        let removal = link.vhost.delete_exclusive_queues(link.actor.connection, names);
        link.chores.push_back(Chore::Remove { removal, answer: (0, BytesMut::new()) });
        self.is_over = true;
    }
}
