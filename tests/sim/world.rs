//! The broker, its clients, and the dice that say who moves next.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sluicemq::broker::Broker;
use sluicemq::broker::dead_letters::Burials;
use sluicemq::broker::vhost::{Actor, ExchangeRequest};
use sluicemq::clock::Now;
use sluicemq::config::Config;
use sluicemq::protocol::table::Table;

use crate::client::{Client, Identity, Stage};
use crate::draw::{Draw, QUEUES};
use crate::model::{DECLARED, Model};
use crate::op::{Op, Verdict, is_exclusive};

/// No alarm is raised: publishers are never blocked.
const WATERMARK_BYTES: u64 = 1 << 40;
const STEPS: u64 = 1500;
const NOTIFIED: f64 = 0.7;
const FRAME_MAXES: [u32; 3] = [4096, 8192, 131_072];
/// Everything comes to rest about once in so many steps.
const STEPS_BETWEEN_RESTS: u32 = 60;
/// A rest that takes longer never comes.
const RESTING_STEPS_MAX: u64 = 100_000;
/// Lines kept for the story of a failure.
const REMEMBERED_LINES: usize = 60;

pub(crate) struct World {
    rng: StdRng,
    now: Now,
    broker: Arc<Broker>,
    burials: Burials,
    model: Model,
    draw: Draw,
    clients: Vec<Client>,
    connections: u64,
    /// How often the log lags.
    lag: f64,
    /// Share of clients that can be told that a consumer was cancelled.
    notified: f64,
    step: u64,
    story: VecDeque<String>,
    /// Of the whole story.
    digest: DefaultHasher,
}

impl World {
    /// The world of a seed: a broker with room for little, and some clients.
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let outbox_bytes = [1, 300, 2000, 10_000, 100_000][rng.random_range(0..5)];
        let clients = rng.random_range(2..=4);
        Self::with(rng, outbox_bytes, clients, NOTIFIED)
    }

    /// A world for a script. Its clients cannot be told that a consumer was cancelled.
    pub(crate) fn scripted(clients: usize, outbox_bytes: usize) -> Self {
        Self::with(StdRng::seed_from_u64(0), outbox_bytes, clients, 0.0)
    }

    fn with(mut rng: StdRng, outbox_bytes: usize, clients: usize, notified: f64) -> Self {
        let mut config = Config::default();
        config.limits.outbox_bytes = outbox_bytes;
        config.limits.turn_steps = [1, 3, 20, 1000][rng.random_range(0..4)];
        let lag = [0.0, 0.5, 0.9][rng.random_range(0..3)];
        let broker = Broker::new(Arc::new(config), WATERMARK_BYTES, WATERMARK_BYTES);
        let mut world = Self {
            draw: Draw::new(&mut rng),
            rng,
            now: Now::read(),
            broker: Arc::new(broker.expect("the default users can be made")),
            burials: Burials::default(),
            model: Model::default(),
            clients: Vec::new(),
            connections: 0,
            lag,
            notified,
            step: 0,
            story: VecDeque::new(),
            digest: DefaultHasher::new(),
        };
        DECLARED.iter().for_each(|(name, kind)| world.declare(name, kind));
        for _ in 0..clients {
            let client = world.connect();
            world.clients.push(client);
        }
        world
    }

    fn declare(&self, name: &str, kind: &str) {
        let user = self.broker.users.get("guest").expect("the default user");
        let connection = self.broker.connect().connection();
        let request = ExchangeRequest {
            name,
            kind,
            durable: true,
            auto_delete: false,
            internal: false,
            arguments: Table::EMPTY,
        };
        let vhost = self.broker.vhost("/").expect("the default virtual host");
        vhost.declare_exchange(&Actor { user, connection }, &request).expect("the exchange is new");
        self.broker.disconnect(connection);
    }

    /// A client does these things on its first channel, and everything arrives.
    pub(crate) fn play(&mut self, client: usize, ops: impl IntoIterator<Item = Op>) {
        for op in ops {
            self.send(client, 1, op);
        }
        while self.run_someone() {}
        self.model.check_depths(&self.broker);
    }

    /// A client's socket takes nothing from now on, or everything.
    pub(crate) fn stall(&mut self, client: usize, stalled: bool) {
        self.clients[client].stalled = stalled;
    }

    pub(crate) fn step(&self) -> u64 {
        self.step
    }

    /// What happened last, with the steps.
    pub(crate) fn story(&self) -> String {
        let lines: Vec<&str> = self.story.iter().map(String::as_str).collect();
        lines.join("\n")
    }

    /// Two worlds with the same one had the same story.
    pub(crate) fn digest(&self) -> u64 {
        self.digest.finish()
    }

    pub(crate) fn run(&mut self) {
        for queue in QUEUES {
            let client = self.rng.random_range(0..self.clients.len());
            self.open(client);
            self.send(client, 1, Op::Declare { queue: queue.to_owned() });
        }
        while self.step < STEPS {
            self.step += 1;
            self.now = self.now.later(Duration::from_millis(1));
            match self.rng.random_range(0..STEPS_BETWEEN_RESTS) {
                0 => self.rest(),
                1 => self.toggle_stall(),
                3..6 => self.step_log(),
                2 if self.rng.random_bool(0.2) => self.reconnect(),
                6..22 => self.act(),
                _ => drop(self.run_someone()),
            }
            self.model.check_depths(&self.broker);
        }
        self.end();
    }

    fn connect(&mut self) -> Client {
        self.connections += 1;
        let notify_cancel = self.rng.random_bool(self.notified);
        let frame_max = FRAME_MAXES[self.rng.random_range(0..FRAME_MAXES.len())];
        let who = Identity { connection: self.connections, frame_max, notify_cancel };
        Client::connect(&self.broker, &mut self.model, who, self.now)
    }

    fn send(&mut self, client: usize, channel: u16, op: Op) {
        let connection = self.clients[client].connection;
        self.tell(&format!("connection {connection}, channel {channel} sends {op:?}"));
        self.clients[client].send(channel, op, &mut self.rng);
    }

    fn tell(&mut self, what: &str) {
        if self.story.len() == REMEMBERED_LINES {
            self.story.pop_front();
        }
        let line = format!("  {:5}  {what}", self.step);
        line.hash(&mut self.digest);
        self.story.push_back(line);
    }

    /// A client does something.
    fn act(&mut self) {
        let client = self.rng.random_range(0..self.clients.len());
        if self.clients[client].closing {
            return;
        }
        let (channel, ops) = self.draw.ops(&self.clients[client], &self.model, &mut self.rng);
        for op in ops {
            self.send(client, channel, op);
        }
    }

    fn open(&mut self, client: usize) {
        if self.clients[client].views[1].stage == Stage::Closed {
            self.send(client, 1, Op::OpenChannel);
        }
    }

    fn toggle_stall(&mut self) {
        let client = self.rng.random_range(0..self.clients.len());
        self.clients[client].stalled ^= true;
        let Client { connection, stalled, .. } = self.clients[client];
        self.tell(&format!(
            "connection {connection} {}",
            if stalled { "stalls" } else { "takes output again" }
        ));
    }

    /// The disk takes what the log has for it, and takes its time again, or does not.
    fn step_log(&mut self) {
        let log = &self.broker.node.log;
        let lags = self.rng.random_bool(self.lag);
        log.release();
        if lags {
            log.hold();
        }
        self.tell(&format!("all is durable, and the log {}", if lags { "lags" } else { "is at once" }));
    }

    /// A socket breaks, and its client comes back.
    fn reconnect(&mut self) {
        let client = self.rng.random_range(0..self.clients.len());
        self.replace(client);
    }

    fn replace(&mut self, client: usize) {
        let fresh = self.connect();
        let old = std::mem::replace(&mut self.clients[client], fresh);
        self.tell(&format!("connection {} is gone", old.connection));
        old.drop_connection(&mut self.model, self.now);
    }

    /// One of those that have a reason to run does. `false` when nobody has.
    fn run_someone(&mut self) -> bool {
        if self.broker.poll_release(&mut Context::from_waker(Waker::noop())).is_ready() {
            self.tell("what the dead left is released");
            self.broker.release(self.now);
            return true;
        }
        if self.broker.node.deadlines.first().is_some_and(|first| first <= self.now.steady_ms) {
            self.tell("time brings something");
            self.broker.on_deadlines(self.now);
            return true;
        }
        if self.burials.poll(&self.broker.node, &mut Context::from_waker(Waker::noop())).is_ready() {
            self.tell("dead letters go on");
            self.burials.step(&self.broker, self.now);
            return true;
        }
        if self.broker.node.remains.poll(&mut Context::from_waker(Waker::noop())).is_ready() {
            self.tell("what was deleted is let go of");
            self.broker.node.remains.step();
            return true;
        }
        let runnable: Vec<usize> =
            (0..self.clients.len()).filter(|client| self.clients[*client].is_runnable(self.now)).collect();
        if runnable.is_empty() {
            return false;
        }
        let client = runnable[self.rng.random_range(0..runnable.len())];
        self.tell(&format!("connection {} runs", self.clients[client].connection));
        self.clients[client].run(&mut self.model, self.now, &mut self.rng);
        if self.clients[client].closed {
            self.replace(client);
        }
        true
    }

    fn settle_down(&mut self) {
        for client in &mut self.clients {
            client.stalled = false;
        }
        let mut steps = 0;
        while self.run_someone() {
            steps += 1;
            assert!(steps < RESTING_STEPS_MAX, "the broker never comes to rest");
        }
    }

    /// Everything arrives and is written, every wake is paid: nothing sleeps that should not.
    pub(crate) fn rest(&mut self) {
        self.tell("everything comes to rest");
        self.broker.node.log.release();
        self.settle_down();
        self.model.check_answered();
        assert!(self.broker.releases.is_empty(), "messages of the dead wait");
        self.model.check_rest(&self.broker);
        self.ask_for_counts();
    }

    /// What queue.declare answers at rest must be exact.
    fn ask_for_counts(&mut self) {
        let asker = self.rng.random_range(0..self.clients.len());
        self.open(asker);
        for queue in QUEUES {
            let is_there = self.model.queue_names().contains(&queue);
            if is_there && !is_exclusive(queue) {
                self.send(asker, 1, Op::Inspect { queue: queue.to_owned() });
            }
        }
        self.model.rest(true);
        self.settle_down();
        self.model.rest(false);
    }

    /// Everything is settled, deleted and disconnected: nothing is left.
    fn end(&mut self) {
        self.rest();
        for client in &mut self.clients {
            client.settle_all(Verdict::Ack, &mut self.rng);
        }
        self.rest();
        self.open(0);
        for queue in QUEUES.into_iter().filter(|queue| !is_exclusive(queue)) {
            self.send(0, 1, Op::Delete { queue: queue.to_owned(), if_unused: false, if_empty: false });
        }
        self.rest();
        for client in std::mem::take(&mut self.clients) {
            client.drop_connection(&mut self.model, self.now);
        }
        while self.run_someone() {}
        let memory = &self.broker.node.memory;
        assert!(self.model.queue_names().is_empty(), "queues are left");
        assert!(memory.messages.read() == 0, "{} bytes of messages are left", memory.messages.read());
        assert!(memory.partial_bodies.read() == 0, "{} bytes are left", memory.partial_bodies.read());
        assert!(self.broker.connections() == 0, "{} connections are left", self.broker.connections());
    }
}
