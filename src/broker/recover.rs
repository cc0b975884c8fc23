//! From what the disk holds to a broker that goes on: the fold of facts.
//!
//! ```text
//! tables -> definitions, extents, what is settled in them
//! log    -> every fact since the tables' replay position, applied over that
//!        => queues whose messages are all ready and away: only places are in memory, no bodies
//! ```
//!
//! Applying a fact to a state that reflects it already changes nothing: numbers are absolute, what is unknown is
//! ignored. After a crash every message is marked as redelivered; after a clean stop those that had been handed out.

use std::collections::BTreeMap;
use std::sync::Arc;

use roaring::RoaringBitmap;

use crate::broker::Broker;
use crate::broker::checkpoint::{Checkpoint, PackUse};
use crate::broker::memory::Memory;
use crate::broker::node::Node;
use crate::config::Config;
use crate::message::definitions::Definitions;
use crate::message::fact_codec::{self, DecodedFact, Published};
use crate::message::place::{Extent, Lsn, Place, QueueId, Seq};
use crate::queue::classic::Classic;
use crate::queue::lane::Away;
use crate::queue::ledger::{Ledger, NewExtent};
use crate::storage::disk::Disk;
use crate::storage::error::StoreError;
use crate::storage::log::{Log, LogOptions, Replayed};
use crate::storage::meta::{Meta, MetaState};
use crate::storage::pack::shelf::Shelf;

/// The state that facts tell, before it is a broker.
#[derive(Debug, Default)]
pub(super) struct Recovered {
    pub(super) definitions: Definitions,
    pub(super) queues: BTreeMap<QueueId, RecoveredQueue>,
    packs: BTreeMap<u64, PackUse>,
    next_queue: u64,
}

/// What is known of a queue's messages.
#[derive(Debug, Default)]
pub(super) struct RecoveredQueue {
    ledger: Ledger,
    next_seq: Seq,
    delivered_hi: Seq,
    /// Of all that were ever told of, live or not: how large a message is, by and large.
    body_bytes: u64,
    messages: u64,
}
