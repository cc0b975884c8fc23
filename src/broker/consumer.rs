//! A consumer as its queue and its connection both see it.

use std::sync::Arc;

use crate::broker::outbox::Outbox;
use crate::broker::queue::handle::Queue;
use crate::queue::consumers::ConsumerKey;

/// One consumer. Immutable: credit and turns are the queue's, delivery tags the channel's.
#[derive(Debug)]
pub struct Consumer {
    /// Its tag, unique on its channel.
    pub tag: Box<str>,
    /// Its channel's number.
    pub channel: u16,
    /// Deliveries need no acknowledgement.
    pub no_ack: bool,
    /// Where its deliveries wait.
    pub outbox: Arc<Outbox>,
    /// What it consumes from; `None` for a direct reply-to consumer, which no queue stands behind.
    pub source: Option<Source>,
}

/// A consumer's place at its queue.
#[derive(Clone, Debug)]
pub struct Source {
    /// The queue.
    pub queue: Arc<Queue>,
    /// What the queue calls the consumer.
    pub key: ConsumerKey,
}
