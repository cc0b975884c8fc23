//! The broker, its clients and its disk, and the dice that say who moves next.
//!
//! All sessions are at rest whenever the disk is called, so that at each call it is known exactly what the broker
//! must hold. But others work while a call lasts: before some calls of the thread that commits, clients act and the
//! thread of checkpoints makes a step, and so on, wherever the broker holds no lock that they would need.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use bytes::BytesMut;
use sluicemq::broker::Broker;
use sluicemq::clock::Now;
use sluicemq::storage::disk::Disk;
use sluicemq::storage::disk::simulated::{CrashMode, Fault, SimulatedDisk};
use sluicemq::storage::error::StoreError;

use crate::check;
use crate::client::{CHANNELS, Client, Heard};
use crate::conversation::Channel;
use crate::dice::Dice;
use crate::draw::Habits;
use crate::life::{Life, Sizes};
use crate::op::Op;
use crate::party::Party;
use crate::shadow::Shadow;
use crate::watched::{Kind, WatchedDisk, watch};

/// Clients that publish and consume; one more defines.
const CLIENTS: usize = 3;
const LIVES: u64 = 3;
const STEPS_PER_LIFE: [u64; 3] = [150, 300, 700];
/// One in so many acts of a client is followed by the departure of one that has not heard of it yet.
const DEPARTURE: u64 = 8;
/// The step in which the first shortage begins, and how many pass before there is more room or less.
const SHORTAGE_BEGINS: u64 = 60;
const SHORTAGE_STEPS: u64 = 20;
/// Others act while so many calls in a hundred last.
const MEANWHILE: u64 = 20;

/// The disk at a call, and what must be on it.
pub(crate) struct Point {
    pub(crate) call: u64,
    pub(crate) disk: SimulatedDisk,
    /// The recovered state is one of these.
    pub(crate) from: usize,
    pub(crate) to: usize,
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

/// How a process has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Crashed,
    Stopped,
    /// It stopped, and its last word may have failed; or it never came to serve anybody.
    Unknown,
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
            is_short: false,
            failure: RefCell::default(),
            failed: Cell::new(false),
            full: Cell::new(0),
            packed: Cell::new(0),
            evicted: Cell::new(0),
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

    /// The same world, in which a call goes wrong.
    pub(crate) fn with_fault(mut self, call: u64, fault: Fault) -> Self {
        self.fault = Some((call, fault));
        self
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

    fn live(&self, number: u64) {
        self.start(number);
        let steps = STEPS_PER_LIFE[self.roll(3) as usize];
        for step in 0..steps {
            if self.is_short && step >= SHORTAGE_BEGINS && step.is_multiple_of(SHORTAGE_STEPS) {
                self.change_room();
            }
            self.step();
            if self.failure.borrow().is_some() {
                return self.fail();
            }
        }
        if self.is_short {
            self.disk.borrow().set_capacity(u64::MAX);
        }
        if self.roll(2) == 0 { self.stop() } else { self.crash() }
    }

    /// Somebody else takes room on the disk, or gives some back: none is left, or less than a slot, or there is plenty.
    fn change_room(&self) {
        let disk = self.disk.borrow();
        disk.set_capacity(u64::MAX / 2);
        let used = u64::MAX / 2 - disk.free_bytes().expect("a call that cannot fail");
        let left = [0, 20_000, self.sizes.slot_bytes, 3 * self.sizes.slot_bytes, u64::MAX / 4, u64::MAX / 4];
        disk.set_capacity(used + left[self.roll(left.len() as u64) as usize]);
    }

    /// Starts the next process, again and again if a fault keeps it from starting.
    fn start(&self, number: u64) {
        for attempt in 0.. {
            let disk = self.disk.borrow().clone();
            if let Some((call, fault)) = self.fault
                && call >= self.all_calls.get()
            {
                disk.fail_at(disk.calls() + call - self.all_calls.get(), fault);
            }
            let epochs = self.seed * 1000 + number * 100 + attempt;
            match Life::start(Arc::new(WatchedDisk(disk.clone())), self.sizes, epochs) {
                Ok(life) => {
                    self.shadow.borrow_mut().started(life.broker.node.log.end().0);
                    *self.life.borrow_mut() = Some(Rc::new(life));
                    break;
                }
                Err(error) => {
                    assert!(self.fault.is_some(), "the broker does not start: {error}");
                    assert!(attempt < 3, "the broker does not start: {error}");
                    self.find_again(disk.crash(CrashMode::Kill, self.roll(1000)));
                }
            }
        }
        let broker = self.broker();
        for _ in 0..=CLIENTS {
            self.parties.borrow_mut().push(self.connect(&broker));
        }
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
            Doing::Checkpointing if outer == Doing::Committing && !life.checkpoints_alone() => Ok(false),
            Doing::Committing => life.commit(),
            // Nobody else acts meanwhile: clients would have to wait.
            Doing::Checkpointing if outer == Doing::Alone && self.roll(4) == 0 => {
                self.doing.set(Doing::Both);
                life.checkpoint_in_alarm()
            }
            Doing::Checkpointing => life.checkpoint(),
            Doing::Reading => life.read_ahead(),
            Doing::Evicting => life.evict(),
            Doing::Alone | Doing::Both => Ok(false),
        };
        self.doing.set(outer);
        if life.broker.node.counters.damaged_messages.read() > 0 {
            let unread = std::io::Error::other("a pack could not be read");
            self.failure.borrow_mut().get_or_insert(StoreError::io("read", "a pack")(unread));
            assert!(self.fault.is_some(), "messages are damaged");
        }
        match done {
            Ok(_) => {}
            Err(error) if (self.is_short || self.fault.is_some()) && error.is_full() => {
                self.full.set(self.full.get() + 1);
            }
            Err(error) => {
                assert!(self.fault.is_some(), "{what:?} failed: {error}");
                self.failure.borrow_mut().get_or_insert(error);
            }
        }
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

    /// The process stops by itself: everything is heard, clients go, the rest is written.
    fn stop(&self) {
        let life = self.life();
        while matches!(life.commit(), Ok(true)) {
            life.broker.release(self.now);
            self.rest();
        }
        life.broker.release(self.now);
        self.rest();
        let mut parties = self.parties.take();
        while let Some(party) = parties.pop() {
            self.leave(party, &parties);
        }
        self.may_be_clean.set(true);
        let stopped = life.stop();
        if let Err(error) = &stopped {
            assert!(self.fault.is_some(), "the stop failed: {error}");
        }
        self.end();
        drop(life);
        let disk = self.disk.borrow().clone();
        self.find(disk, if stopped.is_ok() { Ended::Stopped } else { Ended::Unknown });
    }

    /// The machine or the process dies, at any moment.
    fn crash(&self) {
        let mode = CrashMode::ALL[self.roll(7) as usize];
        let disk = self.disk.borrow().crash(mode, self.roll(1 << 32));
        watch_nothing_while(|| {
            self.end();
        });
        self.may_be_clean.set(false);
        self.find(disk, Ended::Crashed);
    }

    /// A fault ended the process: nothing that the log had to hold may be heard any more.
    fn fail(&self) {
        let error = self.failure.take();
        self.failed.set(true);
        let life = self.life();
        if let Some(StoreError::Poisoned(_)) = error {
            let (durable, heard) = (life.broker.node.log.durable(), self.shadow.borrow().heard);
            for _ in 0..10 {
                self.act();
                assert!(life.commit().is_err(), "a poisoned log commits");
                self.rest();
            }
            assert_eq!(durable, life.broker.node.log.durable(), "a poisoned log becomes durable");
            let shadow = self.shadow.borrow();
            assert!(shadow.heard <= shadow.logged(durable.0).max(heard), "a poisoned log confirms");
        }
        drop(life);
        self.crash();
    }

    /// The process is gone.
    fn end(&self) {
        self.tell(|| "the process is gone".to_owned());
        let life = self.life.take().expect("a life");
        self.packed.set(self.packed.get() + life.broker.node.counters.packed_messages.read());
        self.evicted.set(self.evicted.get() + life.broker.node.counters.evicted_messages.read());
        let durable = life.broker.node.log.durable().0;
        let mut shadow = self.shadow.borrow_mut();
        let state = shadow.durable(durable);
        shadow.hear(state);
        drop(shadow);
        self.parties.take();
        drop(life);
    }

    /// Which state the disk holds now is found out on a copy, and the shadow goes on from there.
    fn find(&self, disk: SimulatedDisk, ended: Ended) {
        let copy = disk.copy();
        *self.disk.borrow_mut() = disk;
        let found = watch_nothing_while(|| check::find(&copy, self, ended));
        let found = found.unwrap_or_else(|why| panic!("{why}"));
        self.shadow.borrow_mut().restart(&found.state, &found.new);
    }

    /// A start has failed: nothing is lost, but it may have used up the mark of a clean stop, and then whatever waits
    /// may have been delivered.
    fn find_again(&self, disk: SimulatedDisk) {
        let mut shadow = self.shadow.borrow_mut();
        let last = shadow.states.len() - 1;
        shadow.hear(last);
        drop(shadow);
        self.find(disk, Ended::Unknown);
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
        if kind == Kind::Open {
            self.opened.borrow_mut().insert(name.to_owned());
        }
        if self.fault.is_none() || self.failure.borrow().is_none() {
            self.meanwhile(kind, name);
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
            may_be_clean: self.may_be_clean.get(),
        }
    }

    /// What others do while a call lasts.
    fn meanwhile(&self, kind: Kind, name: &str) {
        let doing = self.doing.get();
        let others: &[Option<Doing>] = match doing {
            Doing::Alone | Doing::Both => return,
            Doing::Committing => &[None, None, Some(Doing::Checkpointing)],
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
