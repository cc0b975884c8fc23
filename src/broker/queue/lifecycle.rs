//! Consumers come and go, a purge, the end of a queue.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::broker::consumer::{Consumer, Source, Timeout};
use crate::broker::error::BrokerError;
use crate::broker::outbox::Outbox;
use crate::broker::queue::handle::{Queue, State};
use crate::broker::wakes::Wakes;
use crate::message::fact::{Definition, Fact};
use crate::message::place::Logged;
use crate::protocol::field::Field;
use crate::protocol::table::Table;
use crate::queue::classic::Classic;
use crate::queue::consumers::{ConsumerKey, Terms};
use crate::queue::settings::{OverdueAction, QueueKind};
use crate::storage::log::Applying;

/// A purge lets others in after this many messages.
const PURGE_STEP_MESSAGES: u64 = 1000;

/// What basic.consume asks for.
#[derive(Debug)]
pub struct Subscription {
    /// The consumer's tag.
    pub tag: Box<str>,
    /// Its channel.
    pub channel: u16,
    /// No acknowledgements.
    pub no_ack: bool,
    /// How long it may hold a message, in milliseconds; `None` is as long as the queue says.
    pub timeout_ms: Option<u64>,
    /// What happens when it holds one for longer; `None` is what the queue says.
    pub overdue_action: Option<OverdueAction>,
    /// Priority, prefetch, exclusivity.
    pub terms: Terms,
    /// Where deliveries go.
    pub outbox: Arc<Outbox>,
}

/// What a deleted queue leaves: much of it, perhaps, and nobody's any more.
#[derive(Debug, Default)]
pub(in crate::broker) struct Remnant {
    /// Messages, and consumers that are to be told.
    pub(in crate::broker) classic: Classic<Arc<Consumer>>,
    /// Connections that wait for something to change here, and are to be signalled.
    pub(in crate::broker) waiting: Vec<Arc<Outbox>>,
}

/// The end of a queue.
#[derive(Debug)]
pub(in crate::broker) struct Ended {
    pub(in crate::broker) removed: Removed,
    pub(in crate::broker) remnant: Remnant,
    /// Where the log has it, when it was durable; the guard is kept until the queue is gone everywhere.
    pub(in crate::broker) logged: Option<(Logged, Applying)>,
}

/// What deleting a queue removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removed {
    /// Ready messages that went with it.
    pub messages: u64,
}

impl Queue {
    /// Adds a consumer. It gets nothing before [`Queue::go_on`] is called, so that its consume-ok can go first.
    ///
    /// # Errors
    /// [`BrokerError::InExclusiveUse`], or [`BrokerError::NotFound`] when the queue was deleted meanwhile.
    pub fn subscribe(self: &Arc<Self>, mut subscription: Subscription) -> Result<Arc<Consumer>, BrokerError> {
        let mut state = self.lock();
        if self.is_deleted() {
            return Err(BrokerError::NotFound(self.resource()));
        }
        // Quorum queues have no exclusive consumers, and say nothing of it, as in RabbitMQ.
        subscription.terms.exclusive &= self.kind == QueueKind::Classic;
        let make = |key| {
            let Subscription { tag, channel, no_ack, outbox, terms, timeout_ms, overdue_action } =
                subscription;
            let usual = self.consumer_timeout();
            let timeout = Timeout {
                ms: timeout_ms.unwrap_or(usual.ms),
                action: overdue_action.unwrap_or(usual.action),
            };
            let source = Some(Source { queue: Arc::clone(self), key, priority: terms.priority });
            Arc::new(Consumer::new(tag, channel, no_ack, outbox, source, timeout, &self.node.memory))
        };
        match state.classic.consumers.add(subscription.terms, make) {
            Ok(consumer) => {
                let consumer = Arc::clone(consumer);
                self.note_consumers(&state.classic, 0);
                Ok(consumer)
            }
            Err(_) => Err(BrokerError::InExclusiveUse(self.resource())),
        }
    }

    /// Removes a consumer. `true` when it was the last one of a queue that goes with its consumers. If that is a queue with a
    /// single active consumer, the next one may be served: to be followed by [`Queue::go_on`], once what this one held is
    /// back.
    pub fn unsubscribe(self: &Arc<Self>, key: ConsumerKey, wakes: &mut Wakes) -> bool {
        let mut state = self.lock();
        let is_removed = state.classic.consumers.remove(key).is_some();
        state.keep_promise(true, wakes.now_ms());
        self.note_consumers(&state.classic, wakes.now_ms());
        if state.classic.consumers.is_empty() {
            // It is unused from when that is seen: connections end at times that nobody tells.
            state.used_ms = 0;
            self.note_deadline(&mut state, wakes);
        }
        self.ease_crowd(&mut state, wakes);
        is_removed && self.properties.auto_delete && state.classic.consumers.is_empty()
    }

    /// Whether a consumer is served: all are, unless only one at a time is. Only then the lock is needed.
    pub fn is_served(&self, key: ConsumerKey) -> bool {
        let wanted = Table::unchecked(&self.properties.arguments).get("x-single-active-consumer");
        wanted != Some(Field::Bool(true)) || self.lock().classic.consumers.is_active(key)
    }

    /// Tells who watches it how many consumers it has.
    fn note_consumers(&self, classic: &Classic<Arc<Consumer>>, now_ms: u64) {
        let consumers = classic.consumers.len();
        self.tally.consumers.set(consumers as u64);
        self.tally.idle_since_ms.set(if consumers == 0 { now_ms } else { 0 });
    }

    /// Removes up to `count` ready messages from the head, and about a thousand at most; how many it
    /// removed. A purge is done when that was none, or as many as were there when it began.
    pub fn purge_some(&self, count: u64, wakes: &mut Wakes) -> u64 {
        let mut state = self.lock();
        let removed = self.purge_step(&mut state.classic, count.min(PURGE_STEP_MESSAGES));
        if state.classic.ready_messages() == 0 {
            state.wake_getters(wakes);
        }
        self.ease_crowd(&mut state, wakes);
        removed
    }

    fn purge_step(&self, classic: &mut Classic<Arc<Consumer>>, count: u64) -> u64 {
        let gone = classic.purge(count);
        self.log_gone(&gone);
        self.note_index(classic.index_bytes());
        self.note_depth(classic);
        gone.iter().map(|gone| gone.end.0 - gone.first.0).sum()
    }

    fn check_removal(&self, state: &State, if_unused: bool, if_empty: bool) -> Result<(), BrokerError> {
        if if_unused && !state.classic.consumers.is_empty() {
            return Err(BrokerError::InUse(self.resource()));
        }
        let kept = if state.settings.keeps_dead_letters { state.classic.dying_messages() } else { 0 };
        if if_empty && state.classic.ready_messages() + kept > 0 {
            return Err(BrokerError::NotEmpty(self.resource()));
        }
        Ok(())
    }

    /// Whether it may be deleted by who cares.
    pub(in crate::broker) fn is_removable(&self, if_unused: bool, if_empty: bool) -> bool {
        self.check_removal(&self.lock(), if_unused, if_empty).is_ok()
    }

    /// Ends the queue: publishers find it deleted, and all it held is the caller's, to be let go of in steps. Of a
    /// durable queue the log has heard first.
    ///
    /// # Errors
    /// [`BrokerError::InUse`] and [`BrokerError::NotEmpty`] when asked to care.
    pub(in crate::broker) fn remove(&self, if_unused: bool, if_empty: bool) -> Result<Ended, BrokerError> {
        let mut state = self.lock();
        self.check_removal(&state, if_unused, if_empty)?;
        let fact = Fact::Defined(Definition::QueueDeleted { queue: self.id });
        let logged = self.properties.durable.then(|| self.node.log.append_one(&fact));
        self.deleted.store(true, Ordering::Release);
        let mut classic = std::mem::take(&mut state.classic);
        // What is on its way elsewhere, and in memory, goes on: it left the queue before that ended.
        state.classic.adopt_dying(&mut classic);
        let mut waiting: Vec<_> = std::mem::take(&mut state.getters).into_values().collect();
        waiting.extend(std::mem::take(&mut state.leavers).into_values());
        waiting.append(&mut state.crowd.disband());
        self.note_index(0);
        self.here_bytes.set(0);
        self.node.tallies.of(self.kind).absorb(&self.tally);
        self.tally.empty();
        self.node.churn.queues_deleted.add(1);
        self.node.unregister(self.id);
        if let Some(noted) = state.deadline.take() {
            self.node.deadlines.forget(self.id, noted);
        }
        let removed = Removed { messages: classic.ready_messages() };
        Ok(Ended { removed, remnant: Remnant { classic, waiting }, logged })
    }
}
