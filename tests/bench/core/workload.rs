//! The workloads: who publishes what to where, and how it is consumed.

use std::sync::Arc;

use bytes::BytesMut;
use sluicemq::broker::Broker;
use sluicemq::broker::dead_letters::Burials;
use sluicemq::config::Config;
use sluicemq::protocol::field::Field;
use sluicemq::protocol::methods::{
    BasicAck, BasicConsume, BasicQos, BasicReject, ConfirmSelect, ExchangeDeclare, Method, QueueBind,
    QueueDeclare,
};
use sluicemq::protocol::table::{Table, TableBuf};

use crate::client::{CHANNEL, Client, bury, put_publish};

/// What a socket brings at once.
const CHUNK_BYTES: usize = 64 * 1024;
const EXCHANGE: &str = "x";
const TRANSIENT: &[u8] = &[0, 0];
/// delivery-mode 2.
const PERSISTENT: &[u8] = &[0x10, 0, 2];
/// priority, of each of three.
const PRIORITIES: [&[u8]; 3] = [&[0x08, 0, 0], &[0x08, 0, 1], &[0x08, 0, 2]];
/// Where dead letters go. Nobody takes them.
const DEAD: &str = "dead";

/// One row of the budget.
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    /// Messages to publish.
    pub(crate) messages: u64,
    body_bytes: usize,
    durable: bool,
    acks: Acks,
    topology: Topology,
    rule: Rule,
}

/// What queues are told about their messages.
#[derive(Clone, Copy, PartialEq)]
enum Rule {
    None,
    /// They live for a minute, which none of them needs.
    Ttl,
    /// So many are kept, the newest.
    MaxLength(i32),
    /// Each message has one of three priorities.
    Priorities,
    /// What is rejected goes to another queue.
    DeadLetter,
}

enum Acks {
    /// The broker takes every delivery for acknowledged.
    Auto,
    /// Every so many deliveries, with all before it; within this prefetch.
    Every { count: u64, prefetch: u16 },
    /// Every delivery is rejected; within this prefetch.
    Reject { prefetch: u16 },
    /// Nobody consumes.
    Nobody,
}

enum Topology {
    /// Published to so many queues in turn, through the default exchange.
    Queues(usize),
    /// Each message goes to so many queues.
    Fanout(usize),
    /// So many bindings of one queue, each published to at random.
    Direct(usize),
    /// The same: a third of the patterns exact, a third `*.x.*`, a third `x.#`.
    Topic(usize),
}

const BASE: Workload = Workload {
    name: "",
    messages: 50_000,
    body_bytes: 16,
    durable: false,
    acks: Acks::Auto,
    topology: Topology::Queues(1),
    rule: Rule::None,
};

/// All of them.
pub(crate) const WORKLOADS: &[Workload] = &[
    Workload { name: "auto_ack", ..BASE },
    Workload { name: "auto_ack_1k", body_bytes: 1024, messages: 20_000, ..BASE },
    Workload { name: "auto_ack_16k", body_bytes: 16 * 1024, messages: 2_000, ..BASE },
    Workload { name: "ack_each", acks: Acks::Every { count: 1, prefetch: 100 }, messages: 20_000, ..BASE },
    Workload { name: "ack_100", acks: Acks::Every { count: 100, prefetch: 1000 }, ..BASE },
    Workload { name: "queues_1000", topology: Topology::Queues(1000), ..BASE },
    Workload { name: "fanout_10", topology: Topology::Fanout(10), messages: 10_000, ..BASE },
    Workload { name: "fanout_100", topology: Topology::Fanout(100), messages: 2_000, ..BASE },
    Workload { name: "direct_10000", topology: Topology::Direct(10_000), messages: 20_000, ..BASE },
    Workload { name: "topic_10000", topology: Topology::Topic(10_000), messages: 20_000, ..BASE },
    Workload {
        name: "durable_1k",
        body_bytes: 1024,
        durable: true,
        acks: Acks::Every { count: 1, prefetch: 0 },
        messages: 20_000,
        ..BASE
    },
    Workload { name: "ttl", rule: Rule::Ttl, ..BASE },
    Workload { name: "drop_head", rule: Rule::MaxLength(1000), acks: Acks::Nobody, ..BASE },
    Workload { name: "priorities_3", rule: Rule::Priorities, messages: 20_000, ..BASE },
    Workload {
        name: "dead_letter",
        rule: Rule::DeadLetter,
        acks: Acks::Reject { prefetch: 100 },
        messages: 20_000,
        ..BASE
    },
];

impl Rule {
    fn arguments(self) -> TableBuf {
        let mut arguments = TableBuf::new();
        match self {
            Self::None => {}
            Self::Ttl => drop(arguments.insert("x-message-ttl", Field::I32(60_000))),
            Self::MaxLength(max) => drop(arguments.insert("x-max-length", Field::I32(max))),
            Self::Priorities => drop(arguments.insert("x-max-priority", Field::I32(2))),
            Self::DeadLetter => {
                arguments.insert("x-dead-letter-exchange", Field::LongStr(b""));
                arguments.insert("x-dead-letter-routing-key", Field::LongStr(DEAD.as_bytes()));
            }
        }
        arguments
    }
}

impl Workload {
    /// A broker with all that the workload needs, and its two clients.
    pub(crate) fn stage(&self) -> Stage<'_> {
        let broker = Broker::new(Arc::new(Config::default()), u64::MAX, u64::MAX);
        let broker = Arc::new(broker.expect("the default users can be made"));
        let mut publisher = Client::log_in(&broker);
        let mut consumer = Client::log_in(&broker);
        let queues = match self.topology {
            Topology::Queues(count) | Topology::Fanout(count) => count,
            Topology::Direct(_) | Topology::Topic(_) => 1,
        };
        let names: Vec<String> = (0..queues).map(|number| format!("q{number}")).collect();
        self.declare(&mut publisher, &names);
        self.consume(&mut consumer, &names);
        (publisher.is_measured, consumer.is_measured) = (true, true);
        let burials = Burials::default();
        Stage { workload: self, publisher, consumer, names, acknowledged: 0, dice: 1, burials, broker }
    }

    fn declare(&self, publisher: &mut Client, names: &[String]) {
        if self.durable {
            publisher.say(CHANNEL, &Method::ConfirmSelect(ConfirmSelect { nowait: true }));
        }
        let (arguments, plain) = (self.rule.arguments(), TableBuf::new());
        let dead = (DEAD.to_owned(), &plain);
        let own = names.iter().map(|name| (name.clone(), &arguments));
        for (queue, arguments) in own.chain((self.rule == Rule::DeadLetter).then_some(dead)) {
            let declare = QueueDeclare {
                queue: &queue,
                passive: false,
                durable: self.durable,
                exclusive: false,
                auto_delete: false,
                nowait: true,
                arguments: arguments.as_table(),
            };
            publisher.say(CHANNEL, &Method::QueueDeclare(declare));
        }
        let (kind, bindings) = match self.topology {
            Topology::Queues(_) => return,
            Topology::Fanout(_) => ("fanout", 1),
            Topology::Direct(bindings) => ("direct", bindings),
            Topology::Topic(bindings) => ("topic", bindings),
        };
        let declare = ExchangeDeclare {
            exchange: EXCHANGE,
            kind,
            passive: false,
            durable: false,
            auto_delete: false,
            internal: false,
            nowait: true,
            arguments: Table::EMPTY,
        };
        publisher.say(CHANNEL, &Method::ExchangeDeclare(declare));
        for (queue, binding) in names.iter().flat_map(|queue| (0..bindings).map(move |at| (queue, at))) {
            let routing_key = &self.binding_key(binding);
            let arguments = Table::EMPTY;
            let bind = QueueBind { queue, exchange: EXCHANGE, routing_key, nowait: true, arguments };
            publisher.say(CHANNEL, &Method::QueueBind(bind));
        }
    }

    fn binding_key(&self, at: usize) -> String {
        match self.topology {
            Topology::Topic(_) if at % 3 == 1 => format!("*.k{at}.*"),
            Topology::Topic(_) if at % 3 == 2 => format!("a.k{at}.#"),
            Topology::Topic(_) => format!("a.k{at}.z"),
            _ => format!("k{at}"),
        }
    }

    fn consume(&self, consumer: &mut Client, names: &[String]) {
        if let Acks::Nobody = self.acks {
            return;
        }
        if let Acks::Every { prefetch, .. } | Acks::Reject { prefetch } = self.acks {
            let qos = BasicQos { prefetch_size: 0, prefetch_count: prefetch, global: false };
            consumer.say(CHANNEL, &Method::BasicQos(qos));
        }
        for queue in names {
            let consume = BasicConsume {
                queue,
                consumer_tag: queue,
                no_local: false,
                no_ack: matches!(self.acks, Acks::Auto),
                exclusive: false,
                nowait: true,
                arguments: Table::EMPTY,
            };
            consumer.say(CHANNEL, &Method::BasicConsume(consume));
        }
    }
}

/// A workload's broker and clients.
pub(crate) struct Stage<'a> {
    workload: &'a Workload,
    publisher: Client,
    consumer: Client,
    names: Vec<String>,
    acknowledged: u64,
    dice: u64,
    burials: Burials,
    broker: Arc<Broker>,
}

impl Stage<'_> {
    /// Publishes so many messages and consumes them; how many were delivered.
    pub(crate) fn play(&mut self, messages: u64) -> u64 {
        let mut chunk = BytesMut::new();
        for number in 0..messages {
            self.put_message(&mut chunk, number);
            if chunk.len() >= CHUNK_BYTES || number + 1 == messages {
                self.publisher.feed(&chunk);
                chunk.clear();
                self.drain();
            }
        }
        self.consumer.delivered
    }

    fn put_message(&mut self, chunk: &mut BytesMut, number: u64) {
        let workload = self.workload;
        let body = &[7; CHUNK_BYTES][..workload.body_bytes];
        let properties = match workload.rule {
            Rule::Priorities => PRIORITIES[number as usize % PRIORITIES.len()],
            _ if workload.durable => PERSISTENT,
            _ => TRANSIENT,
        };
        match workload.topology {
            Topology::Queues(count) => {
                let key = &self.names[number as usize % count];
                put_publish(chunk, b"", key.as_bytes(), properties, body);
            }
            Topology::Fanout(_) => put_publish(chunk, EXCHANGE.as_bytes(), b"", properties, body),
            Topology::Direct(bindings) | Topology::Topic(bindings) => {
                let key = self.routing_key(bindings);
                put_publish(chunk, EXCHANGE.as_bytes(), key.as_bytes(), properties, body);
            }
        }
    }

    /// A key that one binding fits, drawn by a generator that draws the same in every run.
    fn routing_key(&mut self, bindings: usize) -> String {
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let at = (self.dice >> 33) as usize % bindings;
        match self.workload.topology {
            Topology::Topic(_) => format!("a.k{at}.z"),
            _ => format!("k{at}"),
        }
    }

    /// Delivers and acknowledges until nothing moves.
    fn drain(&mut self) {
        loop {
            let before = self.consumer.delivered;
            self.consumer.wake();
            let acks = self.acks();
            if !acks.is_empty() {
                self.consumer.feed(&acks);
            }
            if self.workload.rule == Rule::DeadLetter {
                bury(&mut self.burials, &self.broker);
            }
            if self.consumer.delivered == before && acks.is_empty() {
                return;
            }
        }
    }

    fn acks(&mut self) -> BytesMut {
        let mut bytes = BytesMut::new();
        if let Acks::Reject { .. } = self.workload.acks {
            while self.acknowledged < self.consumer.delivered {
                self.acknowledged += 1;
                let reject = BasicReject { delivery_tag: self.acknowledged, requeue: false };
                sluicemq::protocol::frame::put_method(&mut bytes, CHANNEL, &Method::BasicReject(reject));
            }
        }
        if let Acks::Every { count, .. } = self.workload.acks {
            while self.acknowledged + count <= self.consumer.delivered {
                self.acknowledged += count;
                let ack = BasicAck { delivery_tag: self.acknowledged, multiple: count > 1 };
                sluicemq::protocol::frame::put_method(&mut bytes, CHANNEL, &Method::BasicAck(ack));
            }
        }
        bytes
    }
}
