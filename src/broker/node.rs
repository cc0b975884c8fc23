//! What every object of the broker shares: the log, memory, alarms, the numbers to give out, the limits.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use arc_swap::{ArcSwap, Guard};
use dashmap::DashMap;

use crate::broker::alarms::Alarms;
use crate::broker::dead_counts::DeadCounts;
use crate::broker::dead_letters::DeadLetters;
use crate::broker::deadlines::Deadlines;
use crate::broker::evict::{Largest, Spills};
use crate::broker::exchange::ExchangeId;
use crate::broker::memory::Memory;
use crate::broker::presence::ChannelTally;
use crate::broker::queue::handle::Queue;
use crate::broker::queue::tally::Tallies;
use crate::broker::read_ahead::ReadRequests;
use crate::broker::remains::Remains;
use crate::broker::room::Room;
use crate::broker::uploads::Uploads;
use crate::config::Limits;
use crate::message::place::QueueId;
use crate::routing::Lots;
use crate::stats::{Counter, Gauge};
use crate::storage::disk::Disk;
use crate::storage::log::Log;
use crate::storage::pack::shelf::Shelf;

/// Names a connection for as long as the process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// The shared parts of one broker.
#[derive(Debug)]
pub struct Node {
    /// The log of facts.
    pub log: Log,
    /// Where everything lies that outlives the process.
    pub disk: Arc<dyn Disk>,
    /// What there is to do about a disk that fills.
    pub room: Room,
    /// Packs of messages that are not in memory.
    pub shelf: Shelf,
    /// Queues whose heads are to be read back.
    pub reads: ReadRequests,
    /// Packs of messages that no restart needs.
    pub spills: Spills,
    /// Queues that have much in memory.
    pub largest: Largest,
    /// What is left of deleted objects.
    pub remains: Remains,
    /// Queues with dead letters.
    pub dead_letters: DeadLetters,
    /// When queues are to be looked at.
    pub deadlines: Deadlines,
    /// What the store has done.
    pub counters: StoreCounters,
    /// What queues that are gone had done.
    pub tallies: Tallies,
    /// What died of what.
    pub dead: DeadCounts,
    /// What channels that are closed had done.
    pub channels: ChannelTally,
    /// What came and went.
    pub churn: Churn,
    /// Bytes held.
    pub memory: Arc<Memory>,
    /// Why publishers must wait.
    pub alarms: Alarms,
    /// Connections whose unfinished messages wait for room.
    pub uploads: Uploads,
    /// Bounds from the configuration: others after a reload. Who is let in by them shares them.
    pub limits: Arc<ArcSwap<Limits>>,
    /// One of them, for who asks at every message: how long it may be held.
    pub consumer_timeout_ms: Gauge,
    /// One that stays as it was at the start: what a connection's outbox holds.
    pub outbox_bytes: u64,
    /// What exchanges leave to chance. Nothing else that the broker does depends on the seed.
    pub lots: Arc<Lots>,
    queue_ids: AtomicU64,
    exchange_ids: AtomicU64,
    connection_ids: AtomicU64,
    /// Durable queues by the number by which the log knows them.
    durable: DashMap<QueueId, Weak<Queue>>,
}

/// What the store has done with messages, for those who watch it.
#[derive(Debug, Default)]
pub struct StoreCounters {
    /// Messages that outlived the log's window and were copied to a pack.
    pub packed_messages: Gauge,
    /// Messages whose bytes were let go of because the disk has them.
    pub evicted_messages: Gauge,
    /// Bodies that were written to the disk to leave memory, in bytes: no restart needs them.
    pub spilled_bytes: Counter,
    /// How long batches of the log took, from their write to the end of their sync, in microseconds.
    pub commit_micros: Counter,
    /// Messages that were damaged on the disk and set aside.
    pub damaged_messages: Gauge,
}

/// What came and went since the process began.
#[derive(Debug, Default)]
pub struct Churn {
    /// Connections that opened their virtual host.
    pub connections_opened: Counter,
    /// Of these those that ended.
    pub connections_closed: Counter,
    /// Channels.
    pub channels_opened: Counter,
    /// Of these those that ended.
    pub channels_closed: Counter,
    /// Times that queue.declare succeeded.
    pub queues_declared: Counter,
    /// Queues that were made.
    pub queues_created: Counter,
    /// Queues that went.
    pub queues_deleted: Counter,
    /// Logins that succeeded.
    pub logins: Counter,
    /// Logins that were refused.
    pub logins_refused: Counter,
    /// Requests to the management API whose password was right.
    pub http_logins: Counter,
    /// Requests whose password was not.
    pub http_logins_refused: Counter,
}

impl Node {
    /// A node with this log and these packs.
    pub fn new(limits: Limits, memory: Memory, log: Log, disk: Arc<dyn Disk>, shelf: Shelf) -> Self {
        Self {
            room: Room::new(Arc::clone(&disk), log.slot_bytes()),
            log,
            disk,
            shelf,
            reads: ReadRequests::default(),
            spills: Spills::default(),
            largest: Largest::default(),
            remains: Remains::default(),
            dead_letters: DeadLetters::default(),
            deadlines: Deadlines::default(),
            counters: StoreCounters::default(),
            tallies: Tallies::default(),
            dead: DeadCounts::default(),
            channels: ChannelTally::default(),
            churn: Churn::default(),
            durable: DashMap::new(),
            memory: Arc::new(memory),
            alarms: Alarms::default(),
            uploads: Uploads::default(),
            consumer_timeout_ms: Gauge::of(limits.consumer_timeout_ms),
            outbox_bytes: limits.outbox_bytes as u64,
            limits: Arc::new(ArcSwap::from_pointee(limits)),
            lots: Arc::new(Lots::new(rand::random())),
            queue_ids: AtomicU64::new(1),
            exchange_ids: AtomicU64::new(1),
            connection_ids: AtomicU64::new(1),
        }
    }

    /// The bounds that count now.
    pub fn limits(&self) -> Guard<Arc<Limits>> {
        self.limits.load()
    }

    /// From now on these bounds count, but for connections that are there.
    pub fn set_limits(&self, limits: &Limits) {
        self.consumer_timeout_ms.set(limits.consumer_timeout_ms);
        self.limits.store(Arc::new(limits.clone()));
    }

    /// A queue number that was never given before.
    pub fn next_queue_id(&self) -> QueueId {
        self.churn.queues_created.add(1);
        QueueId(self.queue_ids.fetch_add(1, Ordering::Relaxed))
    }

    /// An exchange number that was never given before in this process.
    pub fn next_exchange_id(&self) -> ExchangeId {
        ExchangeId(self.exchange_ids.fetch_add(1, Ordering::Relaxed))
    }

    /// The next queue number; it is not taken.
    pub(super) fn peek_queue_id(&self) -> u64 {
        self.queue_ids.load(Ordering::Relaxed)
    }

    /// No number below this is given any more.
    pub(super) fn use_queue_ids_from(&self, next: u64) {
        self.queue_ids.fetch_max(next, Ordering::Relaxed);
    }

    /// A durable queue by its number, unless it is gone.
    pub(super) fn durable_queue(&self, id: QueueId) -> Option<Arc<Queue>> {
        self.durable.get(&id).and_then(|queue| queue.upgrade()).filter(|queue| !queue.is_deleted())
    }

    /// All durable queues, in no order.
    pub(super) fn durable_queues(&self) -> Vec<Arc<Queue>> {
        self.durable.iter().filter_map(|queue| queue.upgrade()).collect()
    }

    /// A durable queue came.
    pub(super) fn register(&self, queue: &Arc<Queue>) {
        self.durable.insert(queue.id, Arc::downgrade(queue));
    }

    /// A durable queue went.
    pub(super) fn unregister(&self, id: QueueId) {
        self.durable.remove(&id);
    }

    /// A connection number that was never given before.
    pub fn next_connection_id(&self) -> ConnectionId {
        ConnectionId(self.connection_ids.fetch_add(1, Ordering::Relaxed))
    }
}
