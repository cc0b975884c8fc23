//! What a client does next, drawn from weights. It depends on the seed and on what the simulation saw, never on
//! names or orders the broker makes up.

use std::rc::Rc;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use sluicemq::protocol::field::Field;
use sluicemq::protocol::properties::PropertiesBuf;
use sluicemq::protocol::table::TableBuf;

use crate::client::{CHANNELS, ChannelView, Client, Stage};
use crate::model::{EXCHANGES, HASH, MISSING, MODULUS, Model};
use crate::op::{Message, Op, Pattern, Verdict};

/// The letter says what they are declared as: see [`crate::op::is_durable`].
pub(crate) const QUEUES: [&str; 9] = ["q0", "q1", "q2", "d0", "d1", "a0", "a1", "e0", "e1"];
const TOPIC_KEYS: [&str; 5] = ["a", "a.b", "a.b.c", "b.a", "c.c"];
const TOPIC_PATTERNS: [&str; 6] = ["#", "a.*", "*.b.#", "a", "#.c", "b.a"];
const WEIGHTS: [&str; 4] = ["1", "1", "2", "50"];
const HASHED_KEYS: u32 = 100;
const HEADERS: i32 = 3;
const BURST_MAX: u32 = 20;

/// Draws operations, and numbers messages and consumers.
///
/// Each seed has its own habits: what is rare on average is common in some.
#[derive(Debug)]
pub(crate) struct Draw {
    messages: u64,
    consumers: u64,
    /// Shares of consumers without acknowledgements, and of prefetches that a channel shares.
    no_ack: f64,
    global: f64,
    /// Share of publishes that go straight to a queue.
    direct: f64,
}

impl Draw {
    /// The habits of a seed.
    pub(crate) fn new(rng: &mut StdRng) -> Self {
        let mut share = |shares: [f64; 3]| shares[rng.random_range(0..3)];
        let (no_ack, global) = (share([0.05, 0.25, 0.5]), share([0.0, 0.3, 0.8]));
        Self { messages: 0, consumers: 0, no_ack, global, direct: share([0.1, 0.5, 0.9]) }
    }

    /// The next operations of a client on one of its channels.
    pub(crate) fn ops(&mut self, client: &Client, model: &Model, rng: &mut StdRng) -> (u16, Vec<Op>) {
        if rng.random_bool(0.003) {
            return (0, vec![Op::CloseConnection]);
        }
        let channel = rng.random_range(1..=CHANNELS);
        let view = &client.views[usize::from(channel)];
        match view.stage {
            Stage::Closing => return (channel, Vec::new()),
            Stage::Closed => return (channel, self.opening(rng)),
            Stage::Open => {}
        }
        let ops = match rng.random_range(0..100) {
            0..35 => {
                let count = if rng.random_bool(0.5) { 1 } else { rng.random_range(2..=BURST_MAX) };
                (0..count).map(|_| Op::Publish(self.message(model, rng))).collect()
            }
            35..60 => settle(view, rng),
            60..68 => vec![self.consume(model, rng)],
            68..71 => {
                view.consumers.choose(rng).map(|tag| Op::Cancel { tag: tag.clone() }).into_iter().collect()
            }
            71..76 => vec![Op::Get { queue: any_queue(model, rng), no_ack: rng.random_bool(0.4) }],
            76..78 => vec![Op::Recover],
            78..80 => vec![self.qos([0, 1, 2, 5, 20], rng)],
            80..82 => vec![Op::Purge { queue: any_queue(model, rng) }],
            82..84 => vec![Op::Delete {
                queue: any_queue(model, rng),
                if_unused: rng.random_bool(0.3),
                if_empty: rng.random_bool(0.3),
            }],
            84..89 => vec![Op::Declare { queue: QUEUES.choose(rng).unwrap().to_string() }],
            89..90 => vec![Op::Inspect { queue: any_queue(model, rng) }],
            90..94 => vec![Op::Bind { queue: any_queue(model, rng), pattern: pattern(rng) }],
            94..95 => vec![Op::Unbind { queue: any_queue(model, rng), pattern: pattern(rng) }],
            95..96 => vec![Op::CloseChannel],
            _ if view.has_tx => vec![if rng.random_bool(0.7) { Op::TxCommit } else { Op::TxRollback }],
            _ if view.has_confirms => vec![Op::ConfirmSelect],
            _ => vec![if rng.random_bool(0.6) { Op::ConfirmSelect } else { Op::TxSelect }],
        };
        (channel, ops)
    }

    /// A channel opens, in one of the ways they are used.
    fn opening(&self, rng: &mut StdRng) -> Vec<Op> {
        let mut ops = vec![Op::OpenChannel];
        if rng.random_bool(0.5) {
            ops.push(self.qos([1, 3, 5, 10, 50], rng));
        }
        match rng.random_range(0..6) {
            0..2 => ops.push(Op::ConfirmSelect),
            2 => ops.push(Op::TxSelect),
            _ => {}
        }
        ops
    }

    fn qos(&self, counts: [u16; 5], rng: &mut StdRng) -> Op {
        Op::Qos { count: counts[rng.random_range(0..5)], global: rng.random_bool(self.global) }
    }

    fn consume(&mut self, model: &Model, rng: &mut StdRng) -> Op {
        self.consumers += 1;
        Op::Consume {
            queue: any_queue(model, rng),
            tag: format!("c{}", self.consumers),
            no_ack: rng.random_bool(self.no_ack),
            exclusive: rng.random_bool(0.1),
            priority: [0, 0, 0, 1, -1][rng.random_range(0..5)],
        }
    }

    fn message(&mut self, model: &Model, rng: &mut StdRng) -> Rc<Message> {
        self.messages += 1;
        let id = self.messages;
        let exchange = match rng.random_range(0..100) {
            0 if rng.random_bool(0.2) => MISSING,
            _ if rng.random_bool(self.direct) => "",
            _ => EXCHANGES.choose(rng).unwrap(),
        };
        let key = match exchange {
            "amq.topic" => (*TOPIC_KEYS.choose(rng).unwrap()).to_owned(),
            "" => any_queue(model, rng),
            HASH | MODULUS => format!("k{}", rng.random_range(0..HASHED_KEYS)),
            _ => any_key(rng),
        };
        let header = (exchange == "amq.headers").then(|| rng.random_range(0..HEADERS));
        let bytes = match rng.random_range(0..100) {
            0..85 => rng.random_range(0..200),
            85..94 => rng.random_range(200..3000),
            94..98 => rng.random_range(2049..20_000),
            _ => rng.random_range(32_000..90_000),
        };
        let mut body = vec![id as u8; bytes];
        body.iter_mut().step_by(251).enumerate().for_each(|(at, byte)| *byte = at as u8);
        let mandatory = rng.random_bool(0.2);
        Rc::new(Message {
            id,
            exchange,
            key,
            header,
            mandatory,
            properties: properties(id, header, rng),
            body,
        })
    }
}

fn properties(id: u64, header: Option<i32>, rng: &mut StdRng) -> Vec<u8> {
    let mut properties = PropertiesBuf::new();
    properties.message_id(id.to_string());
    if rng.random_bool(0.4) {
        properties.delivery_mode(2);
    }
    if rng.random_bool(0.2) {
        properties.content_type("text/plain").priority(rng.random_range(0..10));
    }
    if let Some(value) = header {
        properties.headers(TableBuf::new().insert("h", Field::I32(value)).as_table());
    }
    properties.into_bytes()
}

/// Acknowledgements of what the client has received, in any order.
fn settle(view: &ChannelView, rng: &mut StdRng) -> Vec<Op> {
    let mut tags = view.tags.clone();
    let count = rng.random_range(1..=6);
    let mut ops = Vec::new();
    while ops.len() < count && !tags.is_empty() {
        let tag = if rng.random_bool(0.4) { tags[0] } else { *tags.choose(rng).unwrap() };
        let multiple = rng.random_bool(0.25);
        let requeue = rng.random_bool(0.5);
        let verdict = match rng.random_range(0..10) {
            0..6 => Verdict::Ack,
            6..8 => Verdict::Nack { requeue },
            _ => Verdict::Reject { requeue },
        };
        // A reject is always of one.
        let multiple = multiple && !matches!(verdict, Verdict::Reject { .. });
        let all = multiple && rng.random_bool(0.05);
        tags.retain(|other| *other != tag && !(multiple && *other < tag));
        ops.push(Op::Settle { tag: if all { 0 } else { tag }, multiple, verdict });
        if all {
            break;
        }
    }
    ops
}

/// A queue that is there, or sometimes one that may not be.
fn any_queue(model: &Model, rng: &mut StdRng) -> String {
    let names = model.queue_names();
    match names.choose(rng) {
        Some(name) if rng.random_bool(0.97) => (*name).to_owned(),
        _ => (*QUEUES.choose(rng).unwrap()).to_owned(),
    }
}

fn any_key(rng: &mut StdRng) -> String {
    format!("k{}", rng.random_range(0..3))
}

fn pattern(rng: &mut StdRng) -> Pattern {
    let exchange = *EXCHANGES[1..].choose(rng).unwrap();
    let key = match exchange {
        "amq.topic" => (*TOPIC_PATTERNS.choose(rng).unwrap()).to_owned(),
        HASH => (*WEIGHTS.choose(rng).unwrap()).to_owned(),
        _ => any_key(rng),
    };
    let header = (exchange == "amq.headers").then(|| rng.random_range(0..HEADERS));
    Pattern { exchange, key, header }
}
