//! A queue as everyone else holds it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard};

use crate::broker::consumer::Consumer;
use crate::broker::error::{Resource, ResourceKind};
use crate::broker::node::{ConnectionId, Node};
use crate::broker::outbox::Outbox;
use crate::broker::wakes::Wakes;
use crate::message::place::{Logged, QueueId, Seq};
use crate::message::run::Run;
use crate::queue::classic::Classic;
use crate::stats::{Charge, Gauge};

/// A queue's unchanging properties, as declared.
#[derive(Clone, Debug)]
pub struct QueueProperties {
    /// Its name.
    pub name: Box<str>,
    /// Its virtual host.
    pub vhost: Arc<str>,
    /// It survives a restart.
    pub durable: bool,
    /// It goes when its last consumer does.
    pub auto_delete: bool,
    /// The connection it belongs to and dies with.
    pub exclusive_to: Option<ConnectionId>,
    /// Its arguments: a valid field table without its length.
    pub arguments: Box<[u8]>,
}

/// A queue. Sessions cache it; the registry only finds it.
pub struct Queue {
    /// Its number, never used again.
    pub id: QueueId,
    /// What it was declared as.
    pub properties: QueueProperties,
    /// What its list of messages costs, in bytes: its share of the node's sum. Written under the lock, by
    /// [`Queue::note_index`] alone.
    index_bytes: Gauge,
    /// The waiting bodies that are in memory, in bytes: what an eviction could free. Written under the lock.
    pub here_bytes: Gauge,
    pub(in crate::broker) node: Arc<Node>,
    /// The only source of sequence numbers.
    pub(super) next_seq: AtomicU64,
    /// Written under the lock; read without it by publishers that still hold the queue.
    pub(super) deleted: AtomicBool,
    /// Written under the lock; read without it by publishers.
    pub(super) flows: AtomicBool,
    state: Mutex<State>,
    /// Its name and arguments, on the node's gauge.
    _charge: Charge,
}

/// What the queue's lock guards.
#[derive(Debug, Default)]
pub(in crate::broker) struct State {
    /// Messages and consumers.
    pub(in crate::broker) classic: Classic<Arc<Consumer>>,
    /// Connections with a basic.get that found messages and none to be had yet.
    pub(in crate::broker) getters: BTreeMap<ConnectionId, Arc<Outbox>>,
    /// The head is being read back, or will be.
    pub(in crate::broker) is_reading: bool,
    /// Publishers that wait for its consumers.
    pub(super) crowd: Crowd,
    /// Somebody has been asked to go on delivering.
    pub(super) is_unfinished: bool,
}

/// Whether a queue is crowded, and who waits for it: see [`super::crowd`].
#[derive(Debug, Default)]
pub(super) struct Crowd {
    /// Connections that are not read.
    pub(super) publishers: Vec<Arc<Outbox>>,
    /// Counts how often they were let go.
    pub(super) dispersed: u64,
    /// One has waited in vain.
    pub(super) is_given_up: bool,
}

#[cfg(test)]
impl QueueProperties {
    pub(in crate::broker) fn durable(name: &str) -> Self {
        Self {
            name: name.into(),
            vhost: "/".into(),
            durable: true,
            auto_delete: false,
            exclusive_to: None,
            arguments: Box::default(),
        }
    }
}

impl State {
    /// Asks those with a basic.get to try again.
    pub(super) fn wake_getters(&mut self, wakes: &mut Wakes) {
        wakes.owe_signals(std::mem::take(&mut self.getters).into_values());
    }
}

impl Queue {
    /// An empty queue.
    pub fn new(id: QueueId, properties: QueueProperties, node: Arc<Node>) -> Self {
        let bytes = properties.name.len() + 2 * properties.arguments.len();
        let charge = Charge::new(&node.memory.definitions, bytes as u64);
        Self {
            _charge: charge,
            id,
            properties,
            index_bytes: Gauge::default(),
            here_bytes: Gauge::default(),
            node,
            next_seq: AtomicU64::new(1),
            deleted: AtomicBool::new(false),
            flows: AtomicBool::new(false),
            state: Mutex::default(),
        }
    }

    /// A queue as it was found on the disk.
    pub(in crate::broker) fn restored(
        id: QueueId,
        properties: QueueProperties,
        node: Arc<Node>,
        classic: Classic<Arc<Consumer>>,
        next_seq: Seq,
    ) -> Self {
        let mut queue = Self::new(id, properties, node);
        queue.note_index(classic.index_bytes());
        queue.state.get_mut().classic = classic;
        *queue.next_seq.get_mut() = next_seq.0.max(1);
        queue
    }

    /// Its name for error texts.
    pub fn resource(&self) -> Resource {
        Resource {
            kind: ResourceKind::Queue,
            name: self.properties.name.to_string(),
            vhost: Arc::clone(&self.properties.vhost),
        }
    }

    /// Whether it was deleted; what is published to it then is dropped.
    pub fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }

    /// Whether the log must know of messages with this persistence.
    pub fn logs(&self, persistent: bool) -> bool {
        self.properties.durable && persistent
    }

    /// Whether its consumers take what comes, as far as was known when it was last looked at: what is published to it
    /// will not rest for long.
    pub fn flows(&self) -> bool {
        self.flows.load(Ordering::Relaxed)
    }

    /// Whether it takes `count` more messages. Asked before anything is appended to the log; a deleted queue
    /// takes nothing, and limits on length will say no here.
    pub fn reserve(&self, _count: u32) -> bool {
        !self.is_deleted()
    }

    /// Draws `count` sequence numbers: inside the log's hold for what is logged, so that the queue's order is
    /// the log's order, and under the queue's lock otherwise.
    pub fn draw_seq(&self, count: u32) -> Seq {
        Seq(self.next_seq.fetch_add(u64::from(count), Ordering::Relaxed))
    }

    /// Messages ready, and consumers: what queue.declare answers.
    pub fn counts(&self) -> (u64, usize) {
        let State { classic, .. } = &*self.lock();
        (classic.ready_messages(), classic.consumers.len())
    }

    /// Messages ready and unacknowledged.
    pub fn depth(&self) -> (u64, u64) {
        let State { classic, .. } = &*self.lock();
        (classic.ready_messages(), classic.unacked_messages())
    }

    /// Takes in runs that have their numbers, or draws them now. Whether more of them should wait: see
    /// [`Queue::join_crowd`].
    pub(crate) fn enqueue(
        self: &Arc<Self>,
        runs: impl Iterator<Item = (Run, Option<Seq>, Option<Logged>)>,
        wakes: &mut Wakes,
    ) -> bool {
        let mut state = self.lock();
        if self.is_deleted() {
            return false;
        }
        let mut entered = 0;
        for (run, seq, logged) in runs {
            let seq = seq.unwrap_or_else(|| self.draw_seq(run.count()));
            state.classic.enqueue(run.numbered_from(seq), logged);
            entered += 1;
        }
        wakes.count(entered);
        self.dispatch(&mut state, wakes);
        self.is_crowded(&state)
    }

    /// Its list of messages costs so much now, in bytes: the node's sum learns of the difference. Under the lock.
    pub(in crate::broker) fn note_index(&self, bytes: u64) {
        let before = self.index_bytes.read();
        if bytes == before {
            return;
        }
        self.index_bytes.set(bytes);
        let sum = &self.node.memory.index;
        if bytes > before {
            sum.add(bytes - before);
        } else {
            sum.sub(before - bytes);
        }
    }

    pub(in crate::broker) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Whether anybody holds its lock.
    #[cfg(test)]
    pub(in crate::broker) fn is_locked(&self) -> bool {
        self.state.is_locked()
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("id", &self.id)
            .field("name", &self.properties.name)
            .finish_non_exhaustive()
    }
}
