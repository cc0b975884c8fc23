//! From the ready list into outboxes: a pull that stops when credit does.
//!
//! Reserve, take and push happen under the consumer's outbox lock, inside the queue's: two dispatchers cannot
//! swap runs, and a consumer that finds no room or window waits in line where that will come back. One hold of the lock
//! serves so many consumers and no more: what is left is owed to the queue ([`Wakes`]).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::broker::consumer::Consumer;
use crate::broker::line::Share;
use crate::broker::outbox::Outbox;
use crate::broker::queue::handle::{Queue, State};
use crate::broker::wakes::{HOLD_STEPS, Wakes};
use crate::message::run::Run;
use crate::queue::classic::Head;
use crate::queue::consumers::ConsumerKey;
use crate::queue::expiry;

/// What basic.get finds.
#[derive(Debug)]
pub enum Taken {
    /// The head, and how many messages remain ready.
    Message(Run, u64),
    /// No message.
    Empty,
    /// Messages that cannot be had yet, because the head is not durable. The outbox is signalled when that has
    /// changed.
    NotYet,
}

impl Queue {
    /// Delivers what may be delivered to whoever may have it: as much as one hold of the lock allows. What is left then
    /// is owed to the queue.
    pub(in crate::broker) fn dispatch(self: &Arc<Self>, state: &mut State, wakes: &mut Wakes) {
        self.dispatch_to(state, None, wakes);
    }

    fn dispatch_to(
        self: &Arc<Self>,
        state: &mut State,
        mut resumed: Option<(&Arc<Consumer>, Share)>,
        wakes: &mut Wakes,
    ) {
        let mut is_unfinished = state.classic.on_durable(self.node.log.durable());
        let mut serves = 0;
        while self.serve_next(state, &mut resumed, wakes) {
            serves += 1;
            if serves >= wakes.turn_steps().min(HOLD_STEPS) {
                is_unfinished = true;
                break;
            }
        }
        wakes.count(serves);
        let may_expire = state.has_rules || state.classic.next_expiry().is_some();
        state.keep_promise(may_expire, wakes.now_ms());
        if may_expire {
            is_unfinished |= self.keep_rules(state, is_unfinished, wakes);
        }
        if is_unfinished && !std::mem::replace(&mut state.is_unfinished, true) {
            wakes.owe_deliveries(self);
        }
        self.let_go(state, wakes);
        self.note_index(state.classic.index_bytes());
        self.note_depth(&state.classic);
        self.here_bytes.set(state.classic.here_bytes());
        if !state.is_reading && self.wants_reading(state, wakes.now_ms()) {
            state.is_reading = true;
            self.node.reads.ask(self, wakes);
        }
        self.ease_crowd(state, wakes);
        self.flows.store(state.flows(), Ordering::Relaxed);
        let classic = &state.classic;
        if !state.getters.is_empty() && (classic.deliverable() > 0 || classic.ready_messages() == 0) {
            state.wake_getters(wakes);
        }
        if !state.leavers.is_empty() && !state.has_letters(wakes.now_ms()) {
            state.wake_leavers(wakes);
        }
    }

    /// Whether somebody waits for messages that must be read back first.
    pub(in crate::broker) fn wants_reading(&self, state: &State, now_ms: u64) -> bool {
        let is_head_wanted = matches!(state.classic.head(), Head::Away(_)) && state.wants_head(now_ms);
        is_head_wanted || state.classic.has_unseen()
    }

    /// Serves the consumer whose turn it is, until it is another's. `false` when nothing more can be done.
    fn serve_next(
        self: &Arc<Self>,
        state: &mut State,
        resumed: &mut Option<(&Arc<Consumer>, Share)>,
        wakes: &mut Wakes,
    ) -> bool {
        let classic = &mut state.classic;
        let deliverable = classic.deliverable();
        let (1.., Some(front)) = (deliverable, classic.front()) else { return false };
        let Some(turn) = classic.consumers.next() else { return false };
        let mut wanted = deliverable.min(if turn.is_alone { turn.credit } else { 1 });
        if state.has_rules || front.expires() {
            let most = wanted.min(HOLD_STEPS);
            let judged_ms = state.promised_ms.unwrap_or(wakes.now_ms());
            wanted = expiry::fresh(front, most, state.settings.message_ttl_ms, judged_ms);
            if wanted == 0 {
                return self.drop_overdue(state, wakes);
            }
        }
        let consumer = Arc::clone(turn.handle);
        let own_share = resumed.as_mut().filter(|(other, _)| Arc::ptr_eq(other, &consumer));
        let own_share = own_share.map(|(_, share)| share);
        let mut slot = consumer.outbox.lock();
        match slot.admit(&consumer, front, wanted, own_share.as_deref().copied()) {
            Ok(count) => {
                if let Some(run) = classic.take(count) {
                    // Also what nobody acknowledges ends a turn.
                    let (delivered, held) = match consumer.no_ack {
                        true => (&self.tally.delivered_no_ack, 0),
                        false => (&self.tally.delivered, run.count()),
                    };
                    classic.consumers.took(held);
                    delivered.bump(u64::from(run.count()));
                    if run.is_redelivered() {
                        self.tally.redelivered.bump(u64::from(run.count()));
                    }
                    if let Some(share) = own_share {
                        *share = share.without(run.count(), run.delivery_bytes());
                    }
                    slot.push(&consumer, run, wakes);
                }
            }
            Err(refused) => classic.consumers.stall(slot.wait(&consumer, refused)),
        }
        true
    }

    /// Tries again to deliver: more is durable, or one hold of the lock was not enough.
    pub fn go_on(self: &Arc<Self>, wakes: &mut Wakes) {
        let mut state = self.lock();
        state.is_unfinished = false;
        self.dispatch(&mut state, wakes);
    }

    /// A consumer has waited in line for room or a window, and may take its share.
    pub(in crate::broker) fn resume(
        self: &Arc<Self>,
        consumer: &Arc<Consumer>,
        key: ConsumerKey,
        share: Share,
        wakes: &mut Wakes,
    ) {
        let mut state = self.lock();
        wakes.count(1);
        if state.classic.consumers.resume(key) {
            self.dispatch_to(&mut state, Some((consumer, share)), wakes);
        }
    }

    /// Takes the head for basic.get, which needs no credit.
    pub fn take_one(self: &Arc<Self>, getter: &Arc<Outbox>, no_ack: bool, wakes: &mut Wakes) -> Taken {
        let state = &mut *self.lock();
        state.used_ms = wakes.now_ms();
        state.called.remove(&getter.connection());
        state.classic.on_durable(self.node.log.durable());
        let mut dropped = 0;
        while dropped < HOLD_STEPS && self.is_front_overdue(state, wakes) {
            self.drop_overdue(state, wakes);
            dropped += 1;
        }
        wakes.count(dropped);
        let is_fresh = dropped < HOLD_STEPS;
        let State { classic, getters, .. } = state;
        if is_fresh
            && classic.deliverable() > 0
            && let Some(run) = classic.take(1)
        {
            self.note_index(classic.index_bytes());
            self.note_depth(classic);
            self.here_bytes.set(classic.here_bytes());
            let got = if no_ack { &self.tally.got_no_ack } else { &self.tally.got };
            got.bump(1);
            self.tally.redelivered.bump(u64::from(run.is_redelivered()));
            return Taken::Message(run, classic.ready_messages());
        }
        if classic.ready_messages() == 0 {
            self.tally.got_empty.bump(1);
            return Taken::Empty;
        }
        getters.insert(getter.connection(), Arc::clone(getter));
        self.dispatch(state, wakes);
        Taken::NotYet
    }

    /// The connection no longer waits for the head, or for dead letters to go.
    pub fn forget_waiter(&self, waiter: &Arc<Outbox>) {
        let mut state = self.lock();
        state.getters.remove(&waiter.connection());
        state.called.remove(&waiter.connection());
        state.leavers.remove(&waiter.connection());
    }
}
