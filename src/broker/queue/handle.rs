//! A queue as everyone else holds it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use parking_lot::{Mutex, MutexGuard};

use crate::broker::consumer::{Consumer, Timeout};
use crate::broker::error::{Resource, ResourceKind};
use crate::broker::node::{ConnectionId, Node};
use crate::broker::outbox::Outbox;
use crate::broker::policy::Applied;
use crate::broker::queue::tally::Tally;
use crate::broker::wakes::Wakes;
use crate::message::place::{Logged, QueueId, Seq};
use crate::message::run::Run;
use crate::protocol::field::Field;
use crate::protocol::table::Table;
use crate::queue::classic::Classic;
use crate::queue::settings::{OverdueAction, QueueKind, Settings};
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

/// What a queue takes in memory beside its name and arguments, in bytes.
const QUEUE_BYTES: usize = 768;
/// What queues are called that hold an exchange's delayed messages: no client declares one.
pub(in crate::broker) const DELAYS_PREFIX: &str = "amq.delayed.";
/// The argument that says for which.
pub(in crate::broker) const DELAYS_FOR: &str = "x-delays-for";

/// A queue. Sessions cache it; the registry only finds it.
pub struct Queue {
    /// Its number, never used again.
    pub id: QueueId,
    /// What it was declared as.
    pub properties: QueueProperties,
    /// The kind it was declared as, which never changes.
    pub kind: QueueKind,
    keeps_all: bool,
    /// The exchange whose delayed messages it holds: no client reaches it.
    delays_for: Option<Box<str>>,
    /// What its list of messages costs, in bytes: its share of the node's sum. Written under the lock, by
    /// [`Queue::note_index`] alone.
    index_bytes: Gauge,
    /// What it has done and holds, for those who watch it.
    pub tally: Tally,
    /// The waiting bodies that are in memory, in bytes: what an eviction could free. Written under the lock.
    pub here_bytes: Gauge,
    /// The round of evictions in which it had less than was wanted of it, counted from 1: see [`crate::broker::evict`].
    pub(in crate::broker) asked_in: Gauge,
    pub(in crate::broker) node: Arc<Node>,
    /// The only source of sequence numbers.
    pub(super) next_seq: AtomicU64,
    /// Written under the lock; read without it by publishers that still hold the queue.
    pub(super) deleted: AtomicBool,
    /// Written under the lock; read without it by publishers.
    pub(super) flows: AtomicBool,
    /// What of its settings concerns those who do not hold the lock. Written under it.
    traits: Traits,
    /// As its settings say; 0 when they do not.
    consumer_timeout_ms: AtomicU64,
    /// The policies that apply to it. Written under the lock.
    pub(super) policies: ArcSwapOption<Applied>,
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
    /// Those of them that were told to try again and have not yet.
    pub(super) called: BTreeSet<ConnectionId>,
    /// Connections that are to delete it when its dead letters have gone.
    pub(super) leavers: BTreeMap<ConnectionId, Arc<Outbox>>,
    /// The head is being read back, or will be.
    pub(in crate::broker) is_reading: bool,
    /// The last read was for dead letters.
    pub(in crate::broker) letters_were_read: bool,
    /// Publishers that wait for its consumers.
    pub(super) crowd: Crowd,
    /// Somebody has been asked to go on delivering.
    pub(super) is_unfinished: bool,
    /// What it was told about its messages.
    pub(in crate::broker) settings: Arc<Settings>,
    /// Whether those are to be looked at after each delivery.
    pub(super) has_rules: bool,
    /// It is to go as soon as nobody uses it and its dead letters have gone.
    pub(super) ends_unused: bool,
    /// Dead letters wait, and whoever takes them on knows.
    pub(in crate::broker) is_burying: bool,
    /// When it is to be looked at again at the latest, if nothing happens before.
    pub(super) deadline: Option<u64>,
    /// By its time to live nothing at the head goes before this, wherever that is by now; 0 is not known.
    pub(super) fresh_until_ms: u64,
    /// Since when its consumers are ready for what is at its head and the log is not: by then it had not had its time.
    pub(super) promised_ms: Option<u64>,
    /// When it was last used, for as long as it has no consumers; 0 is not known yet.
    pub(super) used_ms: u64,
    /// What is on its way in and has its place.
    pub(super) reserved: Reserved,
    /// When dead letters that could not go are tried again.
    pub(in crate::broker) retry_ms: Option<u64>,
}

/// Places of messages that are on their way into a queue that may refuse some.
#[derive(Debug, Default)]
pub(super) struct Reserved {
    pub(super) messages: u64,
    /// The sum of their bodies, in bytes.
    pub(super) bytes: u64,
}

impl Reserved {
    pub(super) fn release(&mut self, run: &Run) {
        self.messages = self.messages.saturating_sub(u64::from(run.count()));
        self.bytes = self.bytes.saturating_sub(run.body_bytes());
    }
}

/// What of a queue's settings is read without its lock: bits, and above them the highest priority.
#[derive(Debug, Default)]
struct Traits(AtomicU32);

impl Traits {
    const BURIES: u32 = 1;
    const LEASED: u32 = 2;
    const REJECTS: u32 = 4;
    const PRIORITIES: u32 = 8;
    const TAKES_BACK: u32 = 16;
    const CANCELS: u32 = 32;
    const PRIORITY_SHIFT: u32 = 8;

    fn set(&self, settings: &Settings) {
        let has = |is_so: bool, bit: u32| u32::from(is_so) * bit;
        let bits = has(settings.dead_letter.is_some(), Self::BURIES)
            | has(settings.expires_ms.is_some(), Self::LEASED)
            | has(settings.rejects(), Self::REJECTS)
            | has(settings.priority_max.is_some(), Self::PRIORITIES)
            | has(settings.overdue_action == OverdueAction::Requeue, Self::TAKES_BACK)
            | has(settings.overdue_action == OverdueAction::Cancel, Self::CANCELS)
            | u32::from(settings.priority_max.unwrap_or(0)) << Self::PRIORITY_SHIFT;
        self.0.store(bits, Ordering::Relaxed);
    }

    #[inline]
    fn has(&self, bit: u32) -> bool {
        self.0.load(Ordering::Relaxed) & bit != 0
    }

    #[inline]
    fn priority_max(&self) -> Option<u8> {
        let bits = self.0.load(Ordering::Relaxed);
        (bits & Self::PRIORITIES != 0).then_some((bits >> Self::PRIORITY_SHIFT) as u8)
    }
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

impl QueueProperties {
    fn delays_for(&self) -> Option<Box<str>> {
        if !self.name.starts_with(DELAYS_PREFIX) {
            return None;
        }
        match Table::unchecked(&self.arguments).get(DELAYS_FOR) {
            Some(Field::LongStr(exchange)) => std::str::from_utf8(exchange).ok().map(Into::into),
            _ => None,
        }
    }
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
    /// What the settings ask of the state machine.
    fn agree(&mut self) {
        if self.settings.kind == QueueKind::Quorum {
            self.classic.keep_all();
        }
        if self.settings.delays {
            self.classic.delay_all();
        }
        self.classic.consumers.set_single_active(self.settings.single_active);
    }

    /// Asks those with a basic.get to try again.
    pub(super) fn wake_getters(&mut self, wakes: &mut Wakes) {
        self.called.extend(self.getters.keys());
        wakes.owe_signals(std::mem::take(&mut self.getters).into_values());
    }
}

impl Queue {
    /// An empty queue.
    pub fn new(id: QueueId, properties: QueueProperties, node: Arc<Node>) -> Self {
        let bytes = QUEUE_BYTES + properties.name.len() + 2 * properties.arguments.len();
        let charge = Charge::new(&node.memory.definitions, bytes as u64);
        let mut settings = Settings::of(Table::unchecked(&properties.arguments));
        let delays_for = properties.delays_for();
        settings.delays = delays_for.is_some();
        let queue = Self {
            _charge: charge,
            id,
            kind: settings.kind,
            keeps_all: settings.kind == QueueKind::Quorum,
            delays_for,
            properties,
            index_bytes: Gauge::default(),
            tally: Tally::default(),
            here_bytes: Gauge::default(),
            asked_in: Gauge::default(),
            node,
            next_seq: AtomicU64::new(1),
            deleted: AtomicBool::new(false),
            flows: AtomicBool::new(false),
            traits: Traits::default(),
            consumer_timeout_ms: AtomicU64::new(0),
            policies: ArcSwapOption::empty(),
            state: Mutex::default(),
        };
        queue.swap_settings(&mut queue.lock(), settings);
        queue
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
        let state = queue.state.get_mut();
        state.classic = classic;
        state.agree();
        queue.tally.ready.set(state.classic.ready_messages());
        queue.tally.ready_bytes.set(state.classic.ready_bytes());
        *queue.next_seq.get_mut() = next_seq.0.max(1);
        queue
    }

    /// The exchange whose delayed messages it holds, if it does.
    pub fn delays_for(&self) -> Option<&str> {
        self.delays_for.as_deref()
    }

    /// Whether it holds an exchange's delayed messages: no client knows of it.
    pub fn holds_delays(&self) -> bool {
        self.delays_for.is_some()
    }

    /// What its list of messages costs, in bytes.
    pub fn index_bytes(&self) -> u64 {
        self.index_bytes.read()
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

    /// Whether the log must know of messages with this persistence. A quorum queue keeps all.
    #[inline]
    pub fn logs(&self, persistent: bool) -> bool {
        self.properties.durable && (persistent || self.keeps_all)
    }

    /// Whether the disk has all of these messages, which somebody has in hand: what the log must know is delivered only
    /// when it does, and what was spilled before stays where it is until it is settled.
    pub fn has_on_disk(&self, run: &Run) -> bool {
        self.logs(run.is_persistent()) || self.lock().classic.has_on_disk(run.first_seq(), run.end_seq())
    }

    /// Whether its consumers take what comes, as far as was known when it was last looked at: what is published to it
    /// will not rest for long.
    pub fn flows(&self) -> bool {
        self.flows.load(Ordering::Relaxed)
    }

    /// What it was told about its messages is this from now on, also for those that wait.
    pub(in crate::broker) fn swap_settings(&self, state: &mut State, settings: Settings) {
        state.has_rules = settings.message_ttl_ms.is_some() || settings.is_limited();
        self.traits.set(&settings);
        self.consumer_timeout_ms.store(settings.consumer_timeout_ms.unwrap_or(0), Ordering::Relaxed);
        state.settings = Arc::new(settings);
        state.fresh_until_ms = 0;
        state.agree();
    }

    /// Whether it counts how often messages come back, which the log then knows, and tells whoever gets them.
    #[inline]
    pub fn counts_returns(&self) -> bool {
        self.kind == QueueKind::Quorum
    }

    /// How often messages of this run came back, if whoever gets them is told so.
    #[inline]
    pub fn delivery_count(&self, run: &Run) -> Option<u16> {
        self.counts_returns().then(|| run.returns())
    }

    /// How long a message of it may be held, where the consumer says nothing.
    pub fn consumer_timeout(&self) -> Timeout {
        let ms = match self.consumer_timeout_ms.load(Ordering::Relaxed) {
            0 => self.node.consumer_timeout_ms.read(),
            own => own,
        };
        let action = match &self.traits {
            traits if traits.has(Traits::TAKES_BACK) => OverdueAction::Requeue,
            traits if traits.has(Traits::CANCELS) => OverdueAction::Cancel,
            _ => OverdueAction::Close,
        };
        Timeout { ms, action }
    }

    /// Whether only one consumer is served at a time.
    pub fn is_single_active(&self) -> bool {
        self.lock().settings.single_active
    }

    /// Whether messages that nobody took go elsewhere.
    #[inline]
    pub fn buries(&self) -> bool {
        self.traits.has(Traits::BURIES)
    }

    /// Whether there is a time after which the queue goes unless it is used.
    pub(super) fn is_leased(&self) -> bool {
        self.traits.has(Traits::LEASED)
    }

    /// Whether publishers may be refused: what is published to it is handed over message by message, and each
    /// asks for a place before.
    #[inline]
    pub fn rejects(&self) -> bool {
        self.traits.has(Traits::REJECTS)
    }

    /// Whether messages are numbered by their priorities: those of a run must be of one.
    #[inline]
    pub fn has_priorities(&self) -> bool {
        self.traits.has(Traits::PRIORITIES)
    }

    /// Draws numbers for a run: inside the log's hold for what is logged, so that the queue's order is the log's order,
    /// and under the queue's lock otherwise.
    #[inline]
    pub fn draw_seq(&self, run: &Run) -> Seq {
        let drawn = Seq(self.next_seq.fetch_add(u64::from(run.count()), Ordering::Relaxed));
        match self.traits.priority_max() {
            None => drawn,
            Some(max) => drawn.of_rank(max - run.priority().min(max)),
        }
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

    /// Takes in runs that have their numbers, or draws them now; `is_reserved` says whether each has a place. Whether
    /// more of them should wait: see [`Queue::join_crowd`].
    pub(crate) fn enqueue(
        self: &Arc<Self>,
        runs: impl Iterator<Item = (Run, Option<Seq>, Option<Logged>)>,
        is_reserved: bool,
        wakes: &mut Wakes,
    ) -> bool {
        let mut state = self.lock();
        if self.is_deleted() {
            return false;
        }
        let (mut entered, mut messages) = (0, 0);
        for (run, seq, logged) in runs {
            let seq = seq.unwrap_or_else(|| self.draw_seq(&run));
            if is_reserved {
                state.reserved.release(&run);
            }
            messages += u64::from(run.count());
            state.classic.enqueue(run.numbered_from(seq), logged);
            entered += 1;
        }
        self.tally.published.bump(messages);
        wakes.count(entered);
        self.dispatch(&mut state, wakes);
        self.is_crowded(&state)
    }

    /// Tells who watches it how much it holds. Under the lock.
    #[inline]
    pub(in crate::broker) fn note_depth(&self, classic: &Classic<Arc<Consumer>>) {
        let (messages, bytes) = classic.ready_totals();
        self.tally.ready.set(messages);
        self.tally.unacked.set(classic.unacked_messages());
        self.tally.ready_bytes.set(bytes);
        if self.kind == QueueKind::Quorum {
            self.note_dying(classic);
        }
        if messages == 0 {
            self.tally.head_ms.set(0);
        } else if let Some(front) = classic.front() {
            // One that left memory since is as old as it was.
            self.tally.head_ms.set(front.header().stamp.received_ms);
        }
    }

    /// Tells who watches it how many dead letters have not gone. Under the lock.
    pub(in crate::broker) fn note_dying(&self, classic: &Classic<Arc<Consumer>>) {
        self.tally.dying.set(classic.dying_messages());
        self.tally.dying_bytes.set(classic.dying_bytes());
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
        #[cfg(test)]
        HOLDS.set(HOLDS.get() + 1);
        self.state.lock()
    }

    /// Whether anybody holds its lock.
    #[cfg(test)]
    pub(in crate::broker) fn is_locked(&self) -> bool {
        self.state.is_locked()
    }
}

#[cfg(test)]
thread_local! {
    /// How often this thread has taken a queue's lock: what is done in one hold is bounded, so that much takes several.
    pub(in crate::broker) static HOLDS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("id", &self.id)
            .field("name", &self.properties.name)
            .finish_non_exhaustive()
    }
}
