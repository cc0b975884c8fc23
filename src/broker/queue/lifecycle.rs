//! Consumers come and go, a purge, the end of a queue.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::broker::consumer::{Consumer, Source};
use crate::broker::error::BrokerError;
use crate::broker::outbox::Outbox;
use crate::broker::queue::handle::Queue;
use crate::broker::wakes::Wakes;
use crate::message::fact::Fact;
use crate::queue::classic::Classic;
use crate::queue::consumers::{ConsumerKey, Terms};

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
    /// Priority, prefetch, exclusivity.
    pub terms: Terms,
    /// Where deliveries go.
    pub outbox: Arc<Outbox>,
}

/// What deleting a queue removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removed {
    /// Ready messages that went with it.
    pub messages: u64,
}

impl Queue {
    /// Adds a consumer. It gets nothing before [`Queue::resume`] is called, so that its consume-ok can go first.
    ///
    /// # Errors
    /// [`BrokerError::InExclusiveUse`], or [`BrokerError::NotFound`] when the queue was deleted meanwhile.
    pub fn subscribe(self: &Arc<Self>, subscription: Subscription) -> Result<Arc<Consumer>, BrokerError> {
        let mut state = self.lock();
        if self.is_deleted() {
            return Err(BrokerError::NotFound(self.resource()));
        }
        let make = |key| {
            let Subscription { tag, channel, no_ack, outbox, .. } = subscription;
            let source = Some(Source { queue: Arc::clone(self), key });
            Arc::new(Consumer { tag, channel, no_ack, outbox, source })
        };
        match state.consumers.add(subscription.terms, make) {
            Ok(consumer) => Ok(Arc::clone(consumer)),
            Err(_) => Err(BrokerError::InExclusiveUse(self.resource())),
        }
    }

    /// Removes a consumer. `true` when it was the last one of a queue that goes with its consumers.
    pub fn unsubscribe(&self, key: ConsumerKey) -> bool {
        let mut state = self.lock();
        state.consumers.remove(key).is_some() && self.properties.auto_delete && state.consumers.is_empty()
    }

    /// Removes the ready messages; how many there were.
    pub fn purge(&self) -> u64 {
        let mut purged = 0;
        let mut left = self.lock().ready_messages();
        while left > 0 {
            let step = left.min(PURGE_STEP_MESSAGES);
            let mut state = self.lock();
            let removed = self.purge_step(&mut state, step);
            if removed == 0 {
                break;
            }
            purged += removed;
            left = left.saturating_sub(removed);
        }
        purged
    }

    fn purge_step(&self, state: &mut Classic<Arc<Consumer>>, count: u64) -> u64 {
        // The log hears of it under the queue's lock: a run cannot be purged twice.
        let gone = state.purge(count);
        let ranges: Vec<_> = (gone.iter())
            .filter(|gone| self.logs(gone.persistent))
            .map(|gone| (gone.first, gone.end))
            .collect();
        if !ranges.is_empty() {
            let _logged = self.node.log.append_one(&Fact::Settled { queue: self.id, ranges: &ranges });
        }
        self.index_bytes.set(state.index_bytes());
        gone.iter().map(|gone| gone.end.0 - gone.first.0).sum()
    }

    /// Ends the queue: publishers find it deleted, consumers are told, messages go.
    ///
    /// # Errors
    /// [`BrokerError::InUse`] and [`BrokerError::NotEmpty`] when asked to care.
    pub(in crate::broker) fn remove(
        &self,
        if_unused: bool,
        if_empty: bool,
        wakes: &mut Wakes,
    ) -> Result<Removed, BrokerError> {
        let mut state = self.lock();
        if if_unused && !state.consumers.is_empty() {
            return Err(BrokerError::InUse(self.resource()));
        }
        if if_empty && state.ready_messages() > 0 {
            return Err(BrokerError::NotEmpty(self.resource()));
        }
        self.deleted.store(true, Ordering::Release);
        for consumer in state.consumers.remove_all() {
            consumer.outbox.lock().push_cancelled(&consumer, wakes);
        }
        let messages = state.ready_messages();
        *state = Classic::default();
        self.index_bytes.set(0);
        Ok(Removed { messages })
    }
}
