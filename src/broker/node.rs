//! What every object of the broker shares: the log, memory, alarms, the numbers to give out, the limits.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::broker::alarms::Alarms;
use crate::broker::memory::Memory;
use crate::config::Limits;
use crate::message::place::QueueId;
use crate::storage::log::Log;

/// Names a connection for as long as the process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// The shared parts of one broker.
#[derive(Debug)]
pub struct Node {
    /// The log of facts.
    pub log: Log,
    /// Bytes held.
    pub memory: Arc<Memory>,
    /// Why publishers must wait.
    pub alarms: Alarms,
    /// Bounds from the configuration.
    pub limits: Limits,
    queue_ids: AtomicU64,
    connection_ids: AtomicU64,
}

impl Node {
    /// A node with this log.
    pub fn new(limits: Limits, memory: Memory, log: Log) -> Self {
        Self {
            log,
            memory: Arc::new(memory),
            alarms: Alarms::default(),
            limits,
            queue_ids: AtomicU64::new(1),
            connection_ids: AtomicU64::new(1),
        }
    }

    /// A queue number that was never given before.
    pub fn next_queue_id(&self) -> QueueId {
        QueueId(self.queue_ids.fetch_add(1, Ordering::Relaxed))
    }

    /// A connection number that was never given before.
    pub fn next_connection_id(&self) -> ConnectionId {
        ConnectionId(self.connection_ids.fetch_add(1, Ordering::Relaxed))
    }
}
