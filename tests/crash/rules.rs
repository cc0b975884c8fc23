//! Queues with limits, priorities and dead letters beside a model of a page: one client does one thing at a time, messages
//! leave memory and come back, checkpoints go by, and the process ends now and then. At rest both must have the same.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::BytesMut;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use sluicemq::broker::dead_letters::Burials;
use sluicemq::clock::Now;
use sluicemq::protocol::field::Field;
use sluicemq::protocol::frame::{FRAME_END, put_body_head, put_header, put_method};
use sluicemq::protocol::methods::{
    BasicAck, BasicGet, BasicNack, BasicPublish, ConfirmSelect, Method, QueueDeclare, QueuePurge,
};
use sluicemq::protocol::properties::{Properties, PropertiesBuf};
use sluicemq::protocol::table::TableBuf;
use sluicemq::storage::disk::Disk;
use sluicemq::storage::disk::simulated::{CrashMode, SimulatedDisk};

use crate::client::{Client, Delivery, Heard};
use crate::life::{Life, Sizes};
use crate::variable;

const SEEDS: u64 = 30;
const STEPS: usize = 150;
const QUEUE: &str = "q";
const DEAD: &str = "dead";

/// What the queue is told.
#[derive(Clone, Copy, Debug)]
struct Rules {
    length_max: Option<usize>,
    overflow: &'static str,
    priority_max: u8,
    is_quorum: bool,
    delivery_limit: u32,
    cache_bytes: u64,
}

impl Rules {
    /// What comes back to a quorum queue and has left memory goes to its old place, not before all others: what a client
    /// holds leaves memory here when it may, and which does is nobody's business.
    fn order_is_known(self) -> bool {
        !self.is_quorum || self.cache_bytes > 0
    }

    fn sizes(self) -> Sizes {
        Sizes { cache_bytes: self.cache_bytes, ..Sizes::SMALL }
    }
}

#[derive(Clone, Copy, Debug)]
struct Message {
    id: u32,
    priority: u8,
    returns: u32,
}

/// What must be there: the ready ones in their order, what the client has in hand by its tag, and the dead.
#[derive(Debug, Default)]
struct Model {
    /// Those that came back to a quorum queue, which are the first to go again.
    returned: usize,
    ready: Vec<Message>,
    held: Vec<(u64, Message)>,
    dead: BTreeSet<u32>,
}

impl Model {
    /// A message comes, or comes back, to its place: by priority, and then by when it was published.
    fn put(&mut self, message: Message, rules: Rules) {
        let place = |other: &Message| (u8::MAX - other.priority.min(rules.priority_max), other.id);
        let at = self.ready[self.returned..].partition_point(|other| place(other) < place(&message));
        self.ready.insert(self.returned + at, message);
    }

    fn take(&mut self, at: usize) -> Message {
        self.returned -= usize::from(at < self.returned);
        self.ready.remove(at)
    }

    fn shorten(&mut self, rules: Rules) {
        while rules.overflow == "drop-head" && rules.length_max.is_some_and(|max| self.ready.len() > max) {
            let oldest = self.take(0);
            self.dead.insert(oldest.id);
        }
    }

    /// Whether a new message is confirmed.
    fn publish(&mut self, message: Message, rules: Rules) -> bool {
        if rules.overflow != "drop-head" && rules.length_max.is_some_and(|max| self.ready.len() >= max) {
            if rules.overflow == "reject-publish-dlx" {
                self.dead.insert(message.id);
            }
            return false;
        }
        self.put(message, rules);
        self.shorten(rules);
        true
    }

    fn give_back(&mut self, mut message: Message, rules: Rules) {
        message.returns += 1;
        if rules.is_quorum && message.returns > rules.delivery_limit {
            self.dead.insert(message.id);
            return;
        }
        if rules.is_quorum {
            self.ready.insert(self.returned, message);
            self.returned += 1;
        } else {
            self.put(message, rules);
        }
        self.shorten(rules);
    }
}

struct World {
    rng: StdRng,
    rules: Rules,
    model: Model,
    disk: SimulatedDisk,
    life: Life,
    client: Client,
    burials: Burials,
    now: Now,
    starts: u64,
    published: u32,
    next_tag: u64,
    story: Vec<String>,
}

fn draw_rules(rng: &mut StdRng) -> Rules {
    let is_quorum = rng.random_bool(0.3);
    let overflows: &[&str] = &["drop-head", "reject-publish", "reject-publish-dlx"];
    let overflows = if is_quorum { &overflows[..2] } else { overflows };
    let cache_bytes = if is_quorum && rng.random() { u64::MAX } else { 0 };
    let is_limited = rng.random_bool(0.7) && !(is_quorum && cache_bytes == 0);
    Rules {
        length_max: is_limited.then(|| rng.random_range(0..8)),
        overflow: overflows.choose(rng).unwrap(),
        priority_max: if is_quorum || rng.random_bool(0.4) { 0 } else { rng.random_range(1..=10) },
        is_quorum,
        delivery_limit: rng.random_range(0..4),
        cache_bytes,
    }
}

/// How often a message says that it came back.
fn returns_of(delivery: &Delivery) -> u32 {
    let headers = Properties::unchecked(&delivery.content.properties).headers();
    let told = headers.and_then(|headers| headers.get("x-delivery-count")?.as_int());
    told.map_or(0, |count| count.try_into().expect("a count"))
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let (rules, disk, now) = (draw_rules(&mut rng), SimulatedDisk::new(), Now::read());
        let life = Life::start(Arc::new(disk.clone()) as Arc<dyn Disk>, rules.sizes(), 1).unwrap();
        let client = Client::connect(&life.broker, now);
        let story = vec![format!("seed {seed}: {rules:?}")];
        let (model, burials) = (Model::default(), Burials::default());
        let mut world = Self {
            rng,
            rules,
            model,
            disk,
            life,
            client,
            burials,
            now,
            starts: 1,
            published: 0,
            next_tag: 1,
            story,
        };
        world.declare();
        world
    }

    fn declare(&mut self) {
        let rules = self.rules;
        let mut arguments = TableBuf::new();
        arguments.insert("x-dead-letter-exchange", Field::LongStr(b""));
        arguments.insert("x-dead-letter-routing-key", Field::LongStr(DEAD.as_bytes()));
        arguments.insert("x-overflow", Field::LongStr(rules.overflow.as_bytes()));
        if let Some(max) = rules.length_max {
            arguments.insert("x-max-length", Field::I64(max as i64));
        }
        if rules.priority_max > 0 {
            arguments.insert("x-max-priority", Field::U8(rules.priority_max));
        }
        if rules.is_quorum {
            arguments.insert("x-queue-type", Field::LongStr(b"quorum"));
            arguments.insert("x-delivery-limit", Field::I64(rules.delivery_limit.into()));
        }
        for (queue, arguments) in [(DEAD, &TableBuf::new()), (QUEUE, &arguments)] {
            let declare = QueueDeclare {
                queue,
                passive: false,
                durable: true,
                exclusive: false,
                auto_delete: false,
                nowait: true,
                arguments: arguments.as_table(),
            };
            self.client.say(1, &Method::QueueDeclare(declare));
        }
        self.client.say(1, &Method::ConfirmSelect(ConfirmSelect { nowait: true }));
        self.rest();
    }

    /// Everything happens that somebody has a reason for.
    fn rest(&mut self) {
        self.now = self.now.later(Duration::from_millis(1));
        loop {
            let broker = Arc::clone(&self.life.broker);
            let stored = self.life.commit().unwrap() | self.life.checkpoint().unwrap();
            let mut worked = stored | self.life.read_ahead().unwrap() | self.client.work();
            if broker.node.deadlines.first().is_some_and(|first| first <= self.now.steady_ms) {
                broker.on_deadlines(self.now);
                worked = true;
            }
            let context = &mut Context::from_waker(Waker::noop());
            if self.burials.poll(&broker.node, context).is_ready() {
                self.burials.step(&broker, self.now);
                worked = true;
            }
            if broker.poll_release(context).is_ready() {
                broker.release(self.now);
                worked = true;
            }
            if !worked {
                return;
            }
        }
    }

    fn hear(&mut self) -> Heard {
        self.rest();
        self.client.hear().expect("an answer").1
    }

    fn step(&mut self) {
        match self.rng.random_range(0..100) {
            0..40 => self.publish(),
            40..58 => self.get(),
            58..76 => self.settle(),
            76..80 => self.purge(),
            80..90 => while self.life.evict().unwrap() {},
            90..96 => self.checkpoint(),
            _ => self.restart(),
        }
        self.rest();
        self.check();
    }

    fn tell(&mut self, what: String) {
        self.story.push(what);
    }

    fn publish(&mut self) {
        let (id, priority) = (self.published, self.rng.random_range(0..12));
        self.published += 1;
        let message = Message { id, priority, returns: 0 };
        self.tell(format!("publish {message:?}"));
        let mut properties = PropertiesBuf::new();
        properties.priority(priority).message_id(id.to_string()).delivery_mode(2);
        let publish =
            BasicPublish { exchange: b"", routing_key: QUEUE.as_bytes(), mandatory: false, immediate: false };
        let body = vec![b'x'; self.rng.random_range(1..3000)];
        let mut bytes = BytesMut::new();
        put_method(&mut bytes, 1, &Method::BasicPublish(publish));
        put_header(&mut bytes, 1, body.len() as u64, properties.as_properties().as_bytes());
        put_body_head(&mut bytes, 1, body.len() as u32);
        bytes.extend_from_slice(&body);
        bytes.extend_from_slice(&[FRAME_END]);
        self.client.feed(bytes);
        let is_confirmed = match self.hear() {
            Heard::Confirmed { .. } => true,
            Heard::Refused(text) if text.contains("BasicNack") => false,
            other => panic!("a publish is answered with {other:?}\n{}", self.story.join("\n")),
        };
        let expected = self.model.publish(message, self.rules);
        assert_eq!(is_confirmed, expected, "{}", self.story.join("\n"));
    }

    fn get(&mut self) {
        self.client.say(1, &Method::BasicGet(BasicGet { queue: QUEUE, no_ack: false }));
        self.tell(format!("get {:?}", self.model.ready.first()));
        match (self.hear(), self.model.ready.is_empty()) {
            (Heard::Answered { name: "basic.get-empty", .. }, true) => {}
            (Heard::Delivered(delivery), false) => {
                let is_it = |message: &Message| delivery.content.id() == Some(message.id);
                let at = self.model.ready.iter().position(is_it).expect("it is ready");
                assert!(at == 0 || !self.rules.order_is_known(), "{at}\n{}", self.story.join("\n"));
                let message = self.model.take(at);
                let returns = if self.rules.is_quorum { message.returns } else { 0 };
                assert_eq!(returns_of(&delivery), returns, "{}", self.story.join("\n"));
                assert_eq!(delivery.tag, self.next_tag);
                self.next_tag += 1;
                self.model.held.push((delivery.tag, message));
            }
            (heard, _) => panic!("a get is answered with {heard:?}\n{}", self.story.join("\n")),
        }
    }

    fn settle(&mut self) {
        if self.model.held.is_empty() {
            return;
        }
        let at = self.rng.random_range(0..self.model.held.len());
        let (delivery_tag, message) = self.model.held.remove(at);
        let verdict = self.rng.random_range(0..3);
        self.tell(format!("settle {message:?} as {verdict}"));
        let nack = |requeue| Method::BasicNack(BasicNack { delivery_tag, multiple: false, requeue });
        match verdict {
            0 => self.client.say(1, &Method::BasicAck(BasicAck { delivery_tag, multiple: false })),
            1 => {
                self.client.say(1, &nack(false));
                self.model.dead.insert(message.id);
            }
            _ => {
                self.client.say(1, &nack(true));
                self.model.give_back(message, self.rules);
            }
        }
    }

    fn purge(&mut self) {
        self.tell("purge".to_owned());
        self.client.say(1, &Method::QueuePurge(QueuePurge { queue: QUEUE, nowait: false }));
        let heard = self.hear();
        let purged = self.model.ready.len() as u32;
        let is_right = matches!(heard, Heard::Answered { messages: Some(count), .. } if count == purged);
        assert!(is_right, "{heard:?} instead of {purged}\n{}", self.story.join("\n"));
        self.model.ready.clear();
        self.model.returned = 0;
    }

    fn checkpoint(&mut self) {
        self.life.broker.node.log.seal_open_slot().unwrap();
        self.rest();
    }

    /// The power goes, and comes back: what was held is in its place again, and how often it came back is still known.
    fn restart(&mut self) {
        self.tell("restart".to_owned());
        self.starts += 1;
        self.disk = self.disk.crash(CrashMode::AllKept, self.starts);
        let disk = Arc::new(self.disk.clone()) as Arc<dyn Disk>;
        self.life = Life::start(disk, self.rules.sizes(), self.starts).unwrap();
        self.client = Client::connect(&self.life.broker, self.now);
        (self.burials, self.next_tag) = (Burials::default(), 1);
        self.model.returned = 0;
        let ready = std::mem::take(&mut self.model.ready);
        let held = std::mem::take(&mut self.model.held).into_iter().map(|(_, message)| message);
        ready.into_iter().chain(held).for_each(|message| self.model.put(message, self.rules));
        self.rest();
        self.model.shorten(self.rules);
        self.client.say(1, &Method::ConfirmSelect(ConfirmSelect { nowait: true }));
    }

    fn check(&self) {
        let vhost = self.life.broker.vhost("/").unwrap();
        let depth = |queue: &str| vhost.queue(queue).unwrap().depth();
        let Model { ready, held, dead, .. } = &self.model;
        let found = (depth(QUEUE), depth(DEAD).0);
        let expected = ((ready.len() as u64, held.len() as u64), dead.len() as u64);
        assert_eq!(found, expected, "{}", self.story.join("\n"));
    }

    /// All that is left is taken.
    fn end(mut self) {
        while !self.model.ready.is_empty() {
            self.get();
        }
        let mut dead = BTreeSet::new();
        loop {
            self.client.say(1, &Method::BasicGet(BasicGet { queue: DEAD, no_ack: true }));
            match self.hear() {
                Heard::Delivered(delivery) => assert!(dead.insert(delivery.content.id().unwrap())),
                _ => break,
            }
        }
        assert_eq!(dead, self.model.dead, "{}", self.story.join("\n"));
    }
}

#[test]
fn queues_with_rules_agree_with_a_model() {
    let first = variable("CRASH_SEED").unwrap_or(0);
    for seed in first..first + variable("RULES_SEEDS").unwrap_or(SEEDS) {
        let mut world = World::new(seed);
        (0..STEPS).for_each(|_| world.step());
        world.end();
    }
}
