//! A consumer as its queue and its connection both see it.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crate::broker::line::Share;
use crate::broker::memory::Memory;
use crate::broker::outbox::Outbox;
use crate::broker::queue::handle::Queue;
use crate::broker::wakes::Wakes;
use crate::queue::consumers::ConsumerKey;
use crate::queue::settings::OverdueAction;
use crate::stats::Charge;

/// One consumer. Immutable but for its place: credit and turns are the queue's, delivery tags the channel's.
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
    /// How long it may hold a message.
    pub timeout: Timeout,
    /// Its number in a line of the outbox, or zero: written and read under the outbox's lock.
    pub(in crate::broker) place: AtomicU64,
    /// What it takes, on the node's gauge.
    _charge: Charge,
}

/// What a consumer takes in memory beside its tag, in bytes, at its queue and its channel.
const CONSUMER_BYTES: usize = 640;

impl Consumer {
    /// A consumer of a channel.
    pub fn new(
        tag: Box<str>,
        channel: u16,
        no_ack: bool,
        outbox: Arc<Outbox>,
        source: Option<Source>,
        timeout: Timeout,
        memory: &Memory,
    ) -> Self {
        let charge = Charge::new(&memory.consumers, (CONSUMER_BYTES + 2 * tag.len()) as u64);
        let place = AtomicU64::new(0);
        Self { tag, channel, no_ack, outbox, source, timeout, place, _charge: charge }
    }

    /// It has waited in line and may go on, with its share of what there is.
    pub fn resume(self: &Arc<Self>, share: Share, wakes: &mut Wakes) {
        if let Some(source) = &self.source {
            source.queue.resume(self, source.key, share, wakes);
        }
    }
}

/// How long a message may be held, and what happens then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeout {
    /// In milliseconds.
    pub ms: u64,
    /// What happens then.
    pub action: OverdueAction,
}

impl Timeout {
    /// For ever.
    pub const NEVER: Self = Self { ms: u64::MAX, action: OverdueAction::Close };
}

/// A consumer's place at its queue.
#[derive(Clone, Debug)]
pub struct Source {
    /// The queue.
    pub queue: Arc<Queue>,
    /// What the queue calls the consumer.
    pub key: ConsumerKey,
    /// Of the queue's consumers that wait in one line the highest goes first.
    pub priority: i64,
}
