//! The broker, its clients and its disk, and the dice that say who moves next.
//!
//! All sessions are at rest whenever the disk is called, so that at each call it is known exactly what the broker
//! must hold. But others work while a call lasts: before some calls of the thread that commits, clients act and the
//! thread of checkpoints makes a step, and so on, wherever the broker holds no lock that they would need.

pub(crate) mod lives;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::panic::{self, AssertUnwindSafe};
use std::rc::Rc;
use std::sync::Arc;

use bytes::BytesMut;
use sluicemq::broker::Broker;
use sluicemq::clock::Now;
use sluicemq::storage::disk::simulated::{Fault, SimulatedDisk};
use sluicemq::storage::error::StoreError;
use sluicemq::storage::log::SyncMode;

use crate::client::{CHANNELS, Client, Heard};
use crate::conversation::Channel;
use crate::dice::Dice;
use crate::draw::Habits;
use crate::life::{Life, Sizes};
use crate::op::Op;
use crate::party::Party;
use crate::shadow::Shadow;
use crate::watched::{Kind, watch};

/// Clients that publish and consume; one more defines.
const CLIENTS: usize = 3;
const LIVES: u64 = 3;
/// One in so many acts of a client is followed by the departure of one that has not heard of it yet.
const DEPARTURE: u64 = 8;
/// A process whose checkpoints are dead is gone after fewer steps than this.
const OUTLIVES_STEPS: u64 = 40;
/// Others act while so many calls in a hundred last.
const MEANWHILE: u64 = 20;

/// The disk at a call, and what must be on it.
pub(crate) struct Point {
    pub(crate) call: u64,
    pub(crate) disk: SimulatedDisk,
    /// The recovered state is one of these.
    pub(crate) from: usize,
    pub(crate) to: usize,
    /// The state that the process has found, or the one before it while it starts: durable whatever was synced since.
    pub(crate) found: usize,
    /// Nothing has happened since a clean stop, or it is on its way.
    pub(crate) may_be_clean: bool,
}

/// What the process is doing when it calls the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    /// Something that leaves nobody a chance: starting, stopping.
    Alone,
    Committing,
    Checkpointing,
    Reading,
    Evicting,
    /// Any of these, and something else meanwhile.
    Both,
}

/// How the thread of checkpoints dies.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Death {
    Panics,
    /// It ends with an error.
    Fails(Fault),
}

pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) sizes: Sizes,
    pub(crate) shadow: RefCell<Shadow>,
    pub(crate) points: RefCell<Vec<Point>>,
    /// Calls that change something, so far.
    pub(crate) calls: Cell<u64>,
    /// Whether a call is to be kept.
    wants: Box<dyn Fn(u64) -> bool>,
    /// All calls so far, those that only read among them.
    pub(crate) all_calls: Cell<u64>,
    fault: Option<(u64, Fault)>,
    /// Calls of the thread of checkpoints so far, when that is all that goes on; at one of them it dies.
    pub(crate) checkpoint_calls: Cell<u64>,
    death: Option<(u64, Death)>,
    /// So many steps are left to a process whose checkpoints are dead.
    outlives: Cell<Option<u64>>,
    /// Whether they died once.
    pub(crate) died: Cell<bool>,
    /// In each life the disk is full for a while.
    is_short: bool,
    /// What ends the present life.
    failure: RefCell<Option<StoreError>>,
    /// Whether the fault ended a process.
    pub(crate) failed: Cell<bool>,
    /// How often the disk was full.
    pub(crate) full: Cell<u64>,
    /// Messages that went to packs, and that left memory.
    pub(crate) packed: Cell<u64>,
    pub(crate) evicted: Cell<u64>,
    /// The state that the present process has found, or the last one that came so far.
    found: Cell<usize>,
    disk: RefCell<SimulatedDisk>,
    life: RefCell<Option<Rc<Life>>>,
    parties: RefCell<Vec<Party>>,
    dice: RefCell<Dice>,
    habits: Habits,
    doing: Cell<Doing>,
    /// Files opened in the present step.
    opened: RefCell<BTreeSet<String>>,
    may_be_clean: Cell<bool>,
    now: Now,
    has_listener: bool,
}

impl World {
    /// The world of a seed, whose calls are kept if `wants` says so.
    pub(crate) fn new(seed: u64, wants: impl Fn(u64) -> bool + 'static) -> Self {
        let mut dice = Dice::new(seed);
        let sizes = Sizes {
            slot_bytes: *dice.pick(&[16, 32, 64]).unwrap_or(&64) << 10,
            window_slots: 1 + dice.below(4) as usize,
            cache_bytes: *dice.pick(&[20_000, 100_000, u64::MAX]).unwrap_or(&0),
            sync: SyncMode::EachBatch,
        };
        Self {
            seed,
            sizes,
            shadow: RefCell::new(Shadow::new()),
            points: RefCell::default(),
            calls: Cell::new(0),
            wants: Box::new(wants),
            all_calls: Cell::new(0),
            fault: None,
            checkpoint_calls: Cell::new(0),
            death: None,
            outlives: Cell::new(None),
            died: Cell::new(false),
            is_short: false,
            failure: RefCell::default(),
            failed: Cell::new(false),
            full: Cell::new(0),
            packed: Cell::new(0),
            evicted: Cell::new(0),
            found: Cell::new(0),
            disk: RefCell::new(SimulatedDisk::new()),
            life: RefCell::default(),
            parties: RefCell::default(),
            habits: Habits::of(&mut dice),
            dice: RefCell::new(dice),
            doing: Cell::new(Doing::Alone),
            opened: RefCell::default(),
            may_be_clean: Cell::new(false),
            now: Now::read(),
            has_listener: std::env::var("CRASH_STORY").is_ok(),
        }
    }

    /// The same world, whose log is synced at an interval that never comes. Its own crashes are those of the process
    /// alone: after others the shadow would not know what to expect.
    pub(crate) fn relaxed(mut self) -> Self {
        self.sizes.sync = SyncMode::Interval;
        self
    }

    pub(crate) fn is_relaxed(&self) -> bool {
        self.sizes.sync != SyncMode::EachBatch
    }

    /// The same world, in which a call goes wrong.
    pub(crate) fn with_fault(mut self, call: u64, fault: Fault) -> Self {
        self.fault = Some((call, fault));
        self
    }

    /// The same world, in which the thread of checkpoints dies at one of its calls.
    pub(crate) fn with_death(mut self, call: u64, death: Death) -> Self {
        self.death = Some((call, death));
        self
    }

    /// Whether a thread may fail.
    fn is_ill_fated(&self) -> bool {
        self.fault.is_some() || self.death.is_some()
    }

    /// The same world, whose disk is full for a while in each life.
    pub(crate) fn with_shortage(mut self) -> Self {
        self.is_short = true;
        self
    }

    /// Plays everything.
    pub(crate) fn run(self: &Rc<Self>) {
        let watched = Rc::clone(self);
        watch(Some(Rc::new(move |kind, name| watched.on_call(kind, name))));
        for life in 0..LIVES {
            self.live(life);
        }
        watch(None);
    }

    fn roll(&self, sides: u64) -> u64 {
        self.dice.borrow_mut().below(sides)
    }

    fn connect(&self, broker: &Arc<Broker>) -> Party {
        let channels = (0..CHANNELS).map(|_| Channel::opened()).collect();
        Party { client: Client::connect(broker, self.now), channels }
    }

    fn life(&self) -> Rc<Life> {
        self.life.borrow().clone().expect("a life")
    }

    fn broker(&self) -> Arc<Broker> {
        Arc::clone(&self.life().broker)
    }

    /// Somebody does something.
    fn step(&self) {
        match self.roll(100) {
            0..55 => self.act(),
            55..72 => self.try_to(Doing::Committing),
            72..90 => {
                for _ in 0..=self.roll(3) {
                    self.try_to(Doing::Checkpointing);
                }
            }
            90..96 => self.try_to(Doing::Reading),
            96..99 => self.try_to(Doing::Evicting),
            _ => self.broker().release(self.now),
        }
        self.rest();
        if self.failure.borrow().is_none() {
            self.count();
        }
    }

    /// Every queue has as many messages as it must, waiting and held.
    fn count(&self) {
        let vhost = self.broker().vhost("/").expect("the virtual host");
        let parties = self.parties.borrow();
        for (name, queue) in &self.shadow.borrow().queues {
            let (ready, unacked) = vhost.queue(name).expect("a queue").depth();
            let (found, wanted) = (ready + unacked, queue.entries.len() as u64);
            let mut channels = parties.iter().flat_map(|party| &party.channels);
            let may_be_fewer = channels.any(|channel| channel.holds_back(queue.number));
            assert!(
                found == wanted || found < wanted && may_be_fewer,
                "{found} messages in {name}, not {wanted}"
            );
        }
    }

    /// A step of one of the process's own threads.
    fn try_to(&self, what: Doing) {
        if self.failure.borrow().is_some() {
            return;
        }
        let life = self.life();
        self.tell(|| format!("  {what:?}"));
        let outer = self.doing.replace(if self.doing.get() == Doing::Alone { what } else { Doing::Both });
        if outer == Doing::Alone {
            self.opened.borrow_mut().clear();
        }
        let done = match what {
            Doing::Checkpointing if self.outlives.get().is_some() => Ok(false),
            Doing::Checkpointing if outer == Doing::Committing && !life.checkpoints_alone() => Ok(false),
            Doing::Committing => life.commit(),
            // Nobody else acts meanwhile: clients would have to wait.
            Doing::Checkpointing if outer == Doing::Alone && self.roll(4) == 0 => {
                self.doing.set(Doing::Both);
                life.checkpoint_in_alarm()
            }
            Doing::Checkpointing => self.checkpoint(&life),
            Doing::Reading => life.read_ahead(),
            Doing::Evicting => life.evict(),
            Doing::Alone | Doing::Both => Ok(false),
        };
        self.doing.set(outer);
        if life.broker.node.counters.damaged_messages.read() > 0 {
            let unread = std::io::Error::other("a pack could not be read");
            self.failure.borrow_mut().get_or_insert(StoreError::io("read", "a pack")(unread));
            assert!(self.is_ill_fated(), "messages are damaged");
        }
        match done {
            Ok(_) => {}
            Err(error) if (self.is_short || self.fault.is_some()) && error.is_full() => {
                self.full.set(self.full.get() + 1);
            }
            Err(error) => {
                assert!(self.is_ill_fated(), "{what:?} failed: {error}");
                self.failure.borrow_mut().get_or_insert(error);
            }
        }
    }

    /// A turn of the thread of checkpoints. When it dies the others go on for a while, until the process is gone.
    fn checkpoint(&self, life: &Life) -> Result<bool, StoreError> {
        match panic::catch_unwind(AssertUnwindSafe(|| life.checkpoint())) {
            Ok(Err(error)) if self.death.is_some() && !error.is_full() => {
                self.tell(|| format!("  checkpoints end: {error}"));
            }
            Ok(done) => return done,
            Err(panic) if panic.is::<Death>() => {
                self.tell(|| "  the thread of checkpoints panics".to_owned());
                // The process aborts: what it was doing has no last word.
                std::mem::forget(self.life());
            }
            Err(panic) => panic::resume_unwind(panic),
        }
        self.outlives.set(Some(self.roll(OUTLIVES_STEPS)));
        self.died.set(true);
        Ok(false)
    }

    /// Sessions do what they were woken for, until none was.
    fn rest(&self) {
        let mut parties = self.parties.borrow_mut();
        let broker = self.broker();
        loop {
            let mut worked = false;
            for party in parties.iter_mut() {
                while party.client.work() {
                    worked = true;
                    self.listen(party, &broker);
                }
            }
            if !worked {
                return;
            }
        }
    }

    /// Tells the story to whoever wants to hear it.
    fn tell(&self, what: impl FnOnce() -> String) {
        if self.has_listener {
            println!("{}: {}", self.calls.get(), what().chars().take(250).collect::<String>());
        }
    }

    fn listen(&self, party: &mut Party, broker: &Broker) {
        let mut shadow = self.shadow.borrow_mut();
        while let Some((channel, heard)) = party.client.hear() {
            self.tell(|| match &heard {
                Heard::Delivered(delivery) => {
                    format!("  hears {:?} {:?}", delivery.content.id(), delivery.consumer)
                }
                other => format!("  hears {other:?}"),
            });
            let channel = &mut party.channels[usize::from(channel) - 1];
            if let Err(why) = channel.hear(&mut shadow, heard) {
                panic!("{why}");
            }
        }
        shadow.appended(broker.node.log.end().0);
    }

    /// A client does something.
    fn act(&self) {
        if self.life().end_alarm() {
            self.rest();
        }
        let at = self.roll(CLIENTS as u64 * 4 + 3) as usize;
        if at == CLIENTS * 4 {
            return self.reconnect();
        }
        let at = (at / 4).min(CLIENTS);
        let number = self.roll(u64::from(CHANNELS)) as usize;
        let broker = self.broker();
        let mut parties = self.parties.borrow_mut();
        let all_heard = parties.iter().take(CLIENTS).all(|party| !party.client.has_parked());
        let is_getting = parties.iter().flat_map(|party| &party.channels).any(Channel::waits_for_get);
        let party = &mut parties[at];
        if !party.client.is_listened_to() || party.channels.iter().any(Channel::waits_for_get) {
            return;
        }
        let channel = &mut party.channels[number];
        let mut shadow = self.shadow.borrow_mut();
        let mut dice = self.dice.borrow_mut();
        let op = if at == CLIENTS {
            Habits::definition(&shadow, all_heard, &mut dice)
        } else {
            self.habits.op(&shadow, channel, &mut dice)
        };
        drop(dice);
        let Some(op) = op else { return };
        if is_getting && matches!(op, Op::Delete { .. }) {
            // Who waits for a message of a queue that goes is refused.
            return;
        }
        self.may_be_clean.set(false);
        self.tell(|| format!("client {at} channel {number}: {op:?}"));
        channel.say(&mut shadow, &op);
        if let Op::Delete { .. } = &op {
            parties.iter_mut().for_each(|party| party.forget_queues(&shadow));
        }
        drop(shadow);
        let party = &mut parties[at];
        let mut bytes = BytesMut::new();
        op.encode(number as u16 + 1, &mut bytes);
        party.client.feed(bytes);
        self.listen(party, &broker);
        drop(parties);
        if self.roll(DEPARTURE) == 0 {
            // What others are to hear of this is on its way.
            self.reconnect();
        }
        self.rest();
    }

    /// A client goes without a word, and another one comes.
    fn reconnect(&self) {
        let at = self.roll(CLIENTS as u64) as usize;
        let broker = self.broker();
        let mut parties = self.parties.borrow_mut();
        if parties[at].client.has_parked() {
            return;
        }
        self.may_be_clean.set(false);
        self.tell(|| format!("client {at} goes, and another one comes"));
        let gone = std::mem::replace(&mut parties[at], self.connect(&broker));
        self.leave(gone, &parties);
        drop(parties);
        self.rest();
    }

    fn leave(&self, mut party: Party, others: &[Party]) {
        let mut shadow = self.shadow.borrow_mut();
        let vhost = self.broker().vhost("/").expect("the virtual host");
        for (name, queue) in &mut shadow.queues {
            if party.consumes_from(queue.number)
                && !others.iter().any(|other| other.consumes_from(queue.number))
            {
                let (_, unacked) = vhost.queue(name).expect("a queue").depth();
                queue.lose_consumers(unacked as usize - queue.held());
            }
        }
        party.channels.iter_mut().for_each(|channel| shadow.end(channel));
        drop(party.client);
    }

    fn on_call(&self, kind: Kind, name: &str) {
        if self.fault.is_some_and(|(call, _)| call == self.all_calls.get()) {
            self.tell(|| format!("  a call goes wrong: {kind:?} of {name}"));
        }
        self.all_calls.set(self.all_calls.get() + 1);
        if !matches!(kind, Kind::Read | Kind::Open) {
            let call = self.calls.get();
            self.calls.set(call + 1);
            if (self.wants)(call) {
                self.points.borrow_mut().push(self.point(call));
            }
        }
        if self.doing.get() == Doing::Checkpointing && self.checkpoint_dies() {
            return;
        }
        if kind == Kind::Open {
            self.opened.borrow_mut().insert(name.to_owned());
        }
        if self.fault.is_none() || self.failure.borrow().is_none() {
            self.meanwhile(kind, name);
        }
    }

    /// The thread of checkpoints makes a call. Whether that is its last one.
    fn checkpoint_dies(&self) -> bool {
        let call = self.checkpoint_calls.get();
        self.checkpoint_calls.set(call + 1);
        match self.death.filter(|(at, _)| *at == call) {
            None => false,
            Some((_, death @ Death::Panics)) => panic::resume_unwind(Box::new(death)),
            Some((_, Death::Fails(fault))) => {
                let disk = self.disk.borrow();
                disk.fail_at(disk.calls(), fault);
                true
            }
        }
    }

    fn point(&self, call: u64) -> Point {
        let shadow = self.shadow.borrow();
        let life = self.life.borrow();
        let from = match &*life {
            Some(life) => shadow.durable(life.broker.node.log.durable().0),
            None => shadow.heard,
        };
        Point {
            call,
            disk: self.disk.borrow().copy(),
            from,
            to: shadow.states.len() - 1,
            found: self.found.get(),
            may_be_clean: self.may_be_clean.get(),
        }
    }

    /// What others do while a call lasts.
    fn meanwhile(&self, kind: Kind, name: &str) {
        let doing = self.doing.get();
        let others: &[Option<Doing>] = match doing {
            Doing::Alone | Doing::Both => return,
            Doing::Committing => &[None, None, Some(Doing::Checkpointing)],
            // Whoever commits waits for a sync of the log.
            Doing::Checkpointing if self.is_relaxed() && kind == Kind::Sync && name.starts_with("log/") => {
                &[None]
            }
            Doing::Checkpointing => &[None, None, Some(Doing::Committing)],
            // A pack is opened under locks that others would wait for.
            Doing::Reading if kind != Kind::Read || self.opened.borrow().contains(name) => return,
            Doing::Reading | Doing::Evicting => &[None, Some(Doing::Committing), Some(Doing::Checkpointing)],
        };
        if self.roll(100) >= MEANWHILE {
            return;
        }
        let other = others[self.roll(others.len() as u64) as usize];
        for _ in 0..=self.roll(4) {
            match other {
                None => {
                    self.doing.set(Doing::Both);
                    self.act();
                    self.doing.set(doing);
                }
                Some(other) => self.try_to(other),
            }
        }
        self.rest();
    }
}

/// Does something of which the watcher is not told.
pub(crate) fn watch_nothing_while<R>(does: impl FnOnce() -> R) -> R {
    let watcher = crate::watched::pause();
    let result = does();
    watch(watcher);
    result
}
