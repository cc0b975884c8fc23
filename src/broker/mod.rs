//! The broker: virtual hosts, exchanges, queues, and what moves between them. It knows no socket, no frame and
//! no task; sessions call it, and it answers with values, refusals and wakes.
//!
//! In reading order: [`node`] (what all share), [`vhost`] and [`exchange`] (what is declared), [`route`] and
//! [`publish`] (a message's way in), [`history`] (what exchanges remember of it), [`queue`] (the lock around a queue),
//! [`outbox`], [mod@line] and [`consumer`] (the way out), [`wakes`], [`deadlines`] (what time brings), [`dead_letters`]
//! (where messages go that nobody took), [`release`] (for publishers that are gone), [`remains`] (of what was deleted),
//! [`memory`], [`alarms`] (when publishers must wait), [`room`] (what else a disk that fills means) and [`uploads`] (when
//! large messages must wait), [`reply_to`], [`policy`] and [`admin`] (what administrators say), [`arguments`], [`error`],
//! [`names`], [`complaints`] and [`audit`] (lines of the log about clients), [`presence`] (what others see of a connection).
//!
//! Locks, in this order and never more than one of a kind: definitions of a virtual host, a queue, then one leaf
//! (an outbox, an exchange's history or the log). No lock is held while a wake is paid.

pub mod admin;
pub mod alarms;
pub mod arguments;
pub mod audit;
pub mod checkpoint;
pub mod complaints;
pub mod consumer;
pub mod copies;
pub mod dead_counts;
pub mod dead_letters;
pub mod deadlines;
mod death;
pub mod error;
pub mod evict;
pub mod exchange;
pub mod history;
mod holders;
pub mod line;
pub mod login;
pub mod memory;
pub mod names;
pub mod node;
pub mod outbox;
pub mod policy;
pub mod presence;
pub mod publish;
pub mod queue;
pub mod read_ahead;
mod record;
pub mod recover;
pub mod release;
pub mod remains;
pub mod reply_to;
pub mod room;
pub mod route;
pub mod uploads;
pub mod vhost;
pub mod wakes;

use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use dashmap::DashMap;
use parking_lot::Mutex;

use crate::auth::backoff::Backoff;
use crate::auth::users::Users;
use crate::broker::admin::{Parameters, SeedError};
use crate::broker::alarms::{Change, Shortage};
use crate::broker::audit::Audit;
use crate::broker::complaints::{Complaints, VISITS_MAX};
use crate::broker::memory::Memory;
use crate::broker::node::{ConnectionId, Node};
use crate::broker::outbox::Outbox;
use crate::broker::release::Releases;
use crate::broker::reply_to::ReplyConsumers;
use crate::broker::vhost::Vhost;
use crate::clock::Now;
use crate::config::{Config, Watermark, size};
use crate::stats::Gauge;
use crate::storage::disk::Disk;
use crate::storage::disk::simulated::SimulatedDisk;
use crate::storage::error::StoreError;
use crate::storage::log::{Committed, Log};
use crate::storage::pack::shelf::Shelf;

/// One broker.
#[derive(Debug)]
pub struct Broker {
    /// What every object shares.
    pub node: Arc<Node>,
    /// Who may log in.
    pub users: Users,
    /// What administrators said.
    pub parameters: Parameters,
    /// Who waits for direct replies.
    pub replies: ReplyConsumers,
    /// What ended connections left to be delivered.
    pub releases: Releases,
    /// The ration of log lines about clients that misbehave.
    pub complaints: Complaints,
    /// The ration of those about clients that come and go.
    pub visits: Complaints,
    /// Who did what, and who was not let in.
    pub audit: Audit,
    /// The configuration it was started with.
    pub config: Arc<Config>,
    /// The one in effect: the same, with what a reload has changed since.
    pub in_effect: ArcSwap<Config>,
    /// What this node is called.
    pub node_name: String,
    /// When it was made.
    pub started: Now,
    /// What was free on the disk when that was last looked at, in bytes; 0 is not known.
    pub disk_free_bytes: Gauge,
    /// With less free on the disk publishers wait, in bytes: as configured, or as it was moved since.
    pub disk_free_limit_bytes: Gauge,
    backoff: Mutex<Backoff>,
    vhosts: DashMap<Box<str>, Arc<Vhost>>,
    connections: DashMap<ConnectionId, Arc<Outbox>>,
}

impl Broker {
    /// A broker on a disk in memory that forgets: nothing outlives it, and everything is durable at once. It holds at
    /// most `watermark_bytes` before publishers wait, and `partial_bodies_max` bytes of unfinished messages before those do.
    ///
    /// # Errors
    /// A user whose password cannot be hashed.
    pub fn new(
        config: Arc<Config>,
        watermark_bytes: u64,
        partial_bodies_max: u64,
    ) -> Result<Self, SeedError> {
        let memory = Memory::new(watermark_bytes, partial_bodies_max);
        let disk: Arc<dyn Disk> = Arc::new(SimulatedDisk::new());
        let shelf = Shelf::new(Arc::clone(&disk));
        let node = Node::new(config.limits.clone(), memory, Log::default(), disk, shelf);
        let broker = Self::with_node(config, Arc::new(node));
        broker.seed()?;
        Ok(broker)
    }

    /// A broker in which there is nothing.
    fn with_node(config: Arc<Config>, node: Arc<Node>) -> Self {
        Self {
            users: Users::default(),
            parameters: Parameters::new(&node.memory.definitions),
            replies: ReplyConsumers::default(),
            releases: Releases::default(),
            complaints: Complaints::default(),
            visits: Complaints::of(VISITS_MAX),
            audit: Audit::default(),
            node_name: config.identity.node_name(),
            started: Now::read(),
            disk_free_bytes: Gauge::default(),
            disk_free_limit_bytes: Gauge::of(config.storage.disk_free_limit_bytes()),
            backoff: Mutex::default(),
            connections: DashMap::new(),
            node,
            vhosts: DashMap::new(),
            in_effect: ArcSwap::new(Arc::clone(&config)),
            config,
        }
    }

    /// The virtual host of this name, made if it is not there.
    fn vhost_or_new(&self, name: &str) -> Arc<Vhost> {
        let make = || Arc::new(Vhost::new(name, Arc::clone(&self.node)));
        Arc::clone(&self.vhosts.entry(name.into()).or_insert_with(make))
    }

    /// The virtual host of this name.
    pub fn vhost(&self, name: &str) -> Option<Arc<Vhost>> {
        self.vhosts.get(name).map(|entry| Arc::clone(&entry))
    }

    /// A new connection's outbox; the broker reaches the connection through it until [`Broker::disconnect`].
    pub fn connect(&self) -> Arc<Outbox> {
        let id = self.node.next_connection_id();
        let outbox = Arc::new(Outbox::new(id, self.config.limits.outbox_bytes as u64));
        self.connections.insert(id, Arc::clone(&outbox));
        outbox
    }

    /// Forgets a connection.
    pub fn disconnect(&self, id: ConnectionId) {
        self.connections.remove(&id);
    }

    /// How many connections there are.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// The connections that have opened a virtual host, in no order.
    pub fn open_connections(&self) -> Vec<Arc<Outbox>> {
        let open = self.connections.iter().filter(|outbox| outbox.presence.opened().is_some());
        open.map(|outbox| Arc::clone(&outbox)).collect()
    }

    /// Asks a connection to end: its client is told the reason.
    pub fn close_connection(&self, outbox: &Outbox, reason: &str) {
        outbox.presence.bid_farewell(reason);
        outbox.signal();
    }

    /// Raises the alarm when memory is at the watermark. Publishers call it after each burst.
    pub fn check_memory(&self) {
        if self.node.memory.is_short() && self.node.alarms.raise(Shortage::Memory) {
            self.say_memory(Change::Raised);
        }
    }

    /// Compares memory with the watermark, every now and then: only here an alarm is cleared, and afterwards
    /// [`Alarms::wake_blocked`](alarms::Alarms::wake_blocked) is to be called.
    pub fn look_at_memory(&self, now: Instant) {
        self.node.uploads.look(self.node.memory.has_plenty_for_parts(), now);
        let level = self.node.memory.level();
        if let Some(change) = self.node.alarms.look(Shortage::Memory, level, now) {
            self.say_memory(change);
        }
    }

    fn say_memory(&self, change: Change) {
        let memory = &self.node.memory;
        let (held, watermark) = (size(memory.held_bytes()), size(memory.watermark_bytes()));
        match change {
            Change::Raised => {
                tracing::warn!(held, memory.watermark = watermark, "memory alarm: publishers wait");
            }
            Change::Cleared => tracing::info!(held, memory.watermark = watermark, "memory alarm cleared"),
        }
    }

    /// Makes the oldest pending batch durable, with the reserve if there is no other room for it: everything that gives
    /// room must be told to the log first.
    ///
    /// # Errors
    /// As [`Log::commit_once`].
    pub fn commit(&self) -> Result<Committed, StoreError> {
        let node = &self.node;
        match node.log.commit_once() {
            Err(error) if node.room.give_reserve_for(&error, "the log")? => {
                // Checkpoints are to give some back before it is used up.
                self.on_disk_full(&error);
                node.log.commit_once()
            }
            committed => committed,
        }
    }

    /// The disk has refused something for want of room, or the system for want of a descriptor.
    pub fn on_disk_full(&self, error: &StoreError) {
        let lacks_descriptors = error.lacks_descriptors();
        if lacks_descriptors {
            self.node.shelf.close_idle();
        } else {
            self.node.room.refused(self.node.log.pending_bytes());
        }
        if !self.node.alarms.raise(Shortage::Disk) {
            return;
        }
        if lacks_descriptors {
            return tracing::warn!(%error, "disk alarm: publishers wait until there are descriptors (ulimit -n)");
        }
        let limit = size(self.disk_free_limit_bytes.read());
        tracing::warn!(%error, storage.disk_free_limit = limit, "disk alarm: publishers wait");
    }

    /// Compares what is free on the disk with the configured limit. Called every now and then by who knows the disk, and
    /// more often when it fills; afterwards [`Alarms::wake_blocked`](alarms::Alarms::wake_blocked) is to be called.
    pub fn look_at_disk(&self, free_bytes: u64, now: Instant) {
        self.disk_free_bytes.set(free_bytes);
        self.judge_disk(free_bytes, now);
        let limit_bytes = self.disk_free_limit_bytes.read();
        let is_short = self.node.alarms.is_raised(Shortage::Disk);
        self.node.room.measured(free_bytes, limit_bytes, is_short, self.node.log.pending_bytes());
        self.node.dead_letters.allow(room::for_dead_letters(free_bytes, limit_bytes, is_short));
    }

    /// Makes of another configuration what can be changed while it serves ([`Config::with_live`]). What an administrator
    /// has moved meanwhile stays where it is, unless the configuration has something new to say of it.
    pub fn reconfigure(&self, other: &Config, now: Instant) {
        let before = self.in_effect.load_full();
        let next = before.with_live(other);
        self.node.set_limits(&next.limits);
        if next.memory.watermark != before.memory.watermark {
            self.set_memory_watermark(next.memory.watermark, now);
        }
        let limit_bytes = next.storage.disk_free_limit_bytes();
        if limit_bytes != before.storage.disk_free_limit_bytes() {
            self.set_disk_free_limit(limit_bytes, now);
        }
        self.in_effect.store(Arc::new(next));
    }

    /// Moves the memory watermark until the process ends, and looks what that means.
    pub fn set_memory_watermark(&self, watermark: Watermark, now: Instant) {
        let bytes = watermark.bytes_of(self.node.memory.usable_bytes.read());
        self.node.memory.set_watermark(bytes);
        tracing::info!(memory.watermark = size(bytes), "the watermark is moved");
        self.look_at_memory(now);
    }

    /// Moves the limit of what must be free on the disk until the process ends, and looks what that means.
    pub fn set_disk_free_limit(&self, bytes: u64, now: Instant) {
        self.disk_free_limit_bytes.set(bytes);
        tracing::info!(storage.disk_free_limit = size(bytes), "the limit is moved");
        match self.disk_free_bytes.read() {
            // It is not known yet, or there is no disk.
            0 => {}
            free_bytes => self.judge_disk(free_bytes, now),
        }
    }

    /// Raises the alarm of the disk, or ends it.
    fn judge_disk(&self, free_bytes: u64, now: Instant) {
        let level = self.node.room.level(free_bytes, self.disk_free_limit_bytes.read());
        if let Some(change) = self.node.alarms.look(Shortage::Disk, level, now) {
            self.say_disk(change, free_bytes);
        }
    }

    fn say_disk(&self, change: Change, free_bytes: u64) {
        let (free, limit) = (size(free_bytes), size(self.disk_free_limit_bytes.read()));
        match change {
            Change::Raised => {
                tracing::warn!(free, storage.disk_free_limit = limit, "disk alarm: publishers wait");
            }
            Change::Cleared => tracing::info!(free, storage.disk_free_limit = limit, "disk alarm cleared"),
        }
    }
}
