//! What tables and log tell together: one fold of the facts, for a start, a check, and whoever else follows a log.
//!
//! ```text
//! tables -> definitions, queues' rows, extents with what is settled in them
//! log    -> every fact since the tables' replay position, over that
//! ```
//!
//! Applying a fact to a state that reflects it already changes nothing: numbers are absolute, and what is unknown is
//! ignored, part by part. How a queue remembers its messages is its own affair ([`Messages`]): a broker needs their places,
//! a check only which ones live.

use std::collections::BTreeMap;

use roaring::RoaringBitmap;

use crate::message::definitions::Definitions;
use crate::message::fact::Definition;
use crate::message::fact_codec::{DecodedFact, Published, Target};
use crate::message::place::{Extent, Lsn, QueueId, Returned, Seq};
use crate::storage::meta::{Loaded, QueueRow};

/// What one queue remembers.
pub trait Messages: Default {
    /// What all queues share.
    type Shared: Default;

    /// The queue has its name.
    fn declare(&mut self, vhost: &str, name: &str);
    /// Its row in the tables.
    fn restore(&mut self, row: &QueueRow);
    /// A part of a pack, and which of its numbers are not messages any more, or never were.
    fn add_extent(&mut self, shared: &mut Self::Shared, lane: u32, at: Extent, settled: RoaringBitmap);
    /// Messages came, in the record that starts here; their bodies have so many bytes.
    fn publish(&mut self, target: &Target, record: Lsn, body_bytes: u64);
    /// Messages went.
    fn settle(&mut self, first: Seq, end: Seq);
    /// Messages have come back so often, as the tables say.
    fn restore_returns(&mut self, returned: Returned);
    /// Messages came back, so often by now.
    fn note_returns(&mut self, returned: Returned);
}

/// The state that facts tell.
#[derive(Debug, Default)]
pub struct Fold<M: Messages> {
    /// What is defined.
    pub definitions: Definitions,
    /// The queues that are defined, and those that the tables have a row of, which the log may be about to define.
    pub queues: BTreeMap<QueueId, M>,
    /// What all queues share.
    pub shared: M::Shared,
    /// Queues below this have been, and may be gone.
    pub next_queue: u64,
}

impl<M: Messages> Fold<M> {
    /// Takes in what the tables hold.
    pub fn load(&mut self, loaded: Loaded<'_>) {
        match loaded {
            Loaded::Defined(definition) => self.define(&definition),
            Loaded::Queue(row) => self.queues.entry(row.queue).or_default().restore(&row),
            Loaded::Extent { queue, lane, at, settled } => {
                if let Some(queue) = self.queues.get_mut(&queue) {
                    queue.add_extent(&mut self.shared, lane, at, settled);
                }
            }
            Loaded::Returned { queue, returned } => {
                if let Some(queue) = self.queues.get_mut(&queue) {
                    queue.restore_returns(returned);
                }
            }
        }
    }

    /// Applies the fact of the record that starts here.
    pub fn apply(&mut self, record: Lsn, fact: &DecodedFact<'_>) {
        match fact {
            DecodedFact::Published(published) => self.publish(record, published),
            DecodedFact::Settled(settled) => {
                if let Some(queue) = self.queues.get_mut(&settled.queue) {
                    settled.ranges().for_each(|(first, end)| queue.settle(first, end));
                }
            }
            DecodedFact::Returned(returned) => {
                if let Some(queue) = self.queues.get_mut(&returned.queue) {
                    returned.ranges().for_each(|range| queue.note_returns(range));
                }
            }
            DecodedFact::Defined(definition) => self.define(definition),
        }
    }

    fn define(&mut self, definition: &Definition<'_>) {
        match *definition {
            Definition::QueueDeclared { queue, vhost, name, .. } => {
                self.next_queue = self.next_queue.max(queue.0.saturating_add(1));
                self.queues.entry(queue).or_default().declare(vhost, name);
            }
            Definition::QueueDeleted { queue } => drop(self.queues.remove(&queue)),
            _ => {}
        }
        self.definitions.apply(definition);
    }

    fn publish(&mut self, record: Lsn, published: &Published<'_>) {
        for target in published.targets() {
            if let Some(queue) = self.queues.get_mut(&target.queue) {
                queue.publish(&target, record, published.body_bytes);
            }
        }
    }
}
