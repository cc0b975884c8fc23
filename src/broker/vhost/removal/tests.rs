use std::collections::VecDeque;
use std::sync::Arc;

use super::{Removal, STEPS_PER_HOLD_MAX};
use crate::broker::Broker;
use crate::broker::error::{BrokerError, ResourceKind};
use crate::broker::outbox::Item;
use crate::broker::queue::handle::Queue;
use crate::broker::queue::lifecycle::Subscription;
use crate::broker::remains::Orphan;
use crate::broker::route::{Targets, route};
use crate::broker::vhost::{Actor, BindingRequest, ExchangeRequest, QueueRequest, Vhost};
use crate::broker::wakes::Wakes;
use crate::config::Config;
use crate::message::block::BlockBuilder;
use crate::message::block_header::{Marks, Stamp};
use crate::message::names::Names;
use crate::message::record::Content;
use crate::message::run::Run;
use crate::protocol::field::Field;
use crate::protocol::properties::Properties;
use crate::protocol::table::{Table, TableBuf};
use crate::queue::consumers::Terms;

struct Host {
    broker: Broker,
    vhost: Arc<Vhost>,
    actor: Actor,
}

impl Host {
    fn new() -> Self {
        let broker = Broker::new(Arc::new(Config::default()), u64::MAX, u64::MAX).unwrap();
        let vhost = broker.vhost("/").unwrap();
        let user = broker.users.get("guest").unwrap();
        let actor = Actor { user, connection: broker.connect().connection() };
        Self { broker, vhost, actor }
    }

    fn exchange(&self, name: &str, auto_delete: bool, arguments: Table<'_>) {
        let request =
            ExchangeRequest { name, kind: "direct", durable: true, auto_delete, internal: false, arguments };
        self.vhost.declare_exchange(&self.actor, &request).unwrap();
    }

    fn queue(&self, name: &str, exclusive: bool) -> Arc<Queue> {
        let request =
            QueueRequest { name, durable: true, exclusive, auto_delete: false, arguments: Table::EMPTY };
        self.vhost.declare_queue(&self.actor, &request).unwrap();
        self.vhost.queue(name).unwrap()
    }

    fn bind(
        &self,
        source: &str,
        kind: ResourceKind,
        destination: &str,
        key: &str,
    ) -> Result<(), BrokerError> {
        let request = BindingRequest { source, kind, destination, key, arguments: Table::EMPTY };
        self.vhost.bind(&self.actor, &request).map(drop)
    }

    fn bind_queue(&self, source: &str, queue: &str, keys: impl Iterator<Item = u32>) {
        for key in keys {
            self.bind(source, ResourceKind::Queue, queue, &key.to_string()).unwrap();
        }
    }

    fn bindings_of(&self, exchange: &str) -> usize {
        self.vhost.exchange(exchange).unwrap().bindings.load().len()
    }

    fn targets(&self, exchange: &str, key: &str) -> Targets {
        let exchange = self.vhost.exchange(exchange).unwrap();
        route(&self.vhost, &exchange, &[key.as_bytes()], Properties::EMPTY, &mut Wakes::default())
            .unwrap()
            .targets
    }

    fn delete(&self, queue: &str) -> Removal {
        self.vhost.delete_queue(&self.actor, queue, false, false).unwrap().1
    }

    /// Whether that finished it.
    fn step(&self, removal: &mut Removal, steps: u32) -> bool {
        let mut left = steps;
        let finished = removal.step(&self.vhost, &mut Wakes::default(), &mut left);
        assert!(finished || left == 0, "steps are left, and so is work");
        finished
    }

    fn finish(&self, removal: Removal) {
        removal.finish(&self.vhost, &mut Wakes::default());
    }

    /// One message a run.
    fn fill(&self, queue: &Arc<Queue>, messages: u32) {
        let run = || {
            let mut builder = BlockBuilder::default();
            builder.push(&Content { names: Names::EMPTY, properties: &[0, 0], body: b"m" });
            let (block, count, body_bytes) = builder
                .seal(Stamp { marks: Marks::of(false), received_ms: 0 }, &self.broker.node.memory.messages);
            Run::of_block(block, count, body_bytes)
        };
        queue.enqueue((0..messages).map(|_| (run(), None, None)), false, &mut Wakes::default());
    }
}

#[test]
fn bindings_go_a_thousand_a_step_and_lead_nowhere_from_the_start() {
    let host = Host::new();
    host.exchange("e", false, Table::EMPTY);
    host.queue("q", false);
    host.bind_queue("e", "q", 0..5000);
    let version = host.vhost.version();
    let mut removal = host.delete("q");
    assert!(host.vhost.version() > version, "cached routes must be found anew");
    assert!(host.bind("e", ResourceKind::Queue, "q", "late").is_err());
    let mut steps = 0;
    let mut before = host.bindings_of("e");
    while !host.step(&mut removal, STEPS_PER_HOLD_MAX) {
        assert_eq!(host.targets("e", "4999").len(), 0);
        assert!(before - host.bindings_of("e") <= STEPS_PER_HOLD_MAX as usize);
        before = host.bindings_of("e");
        steps += 1;
    }
    assert!(steps >= 5, "{steps} steps");
    assert_eq!(host.bindings_of("e"), 0);
}

#[test]
fn a_binding_takes_as_many_steps_as_it_has_arguments() {
    let host = Host::new();
    host.exchange("e", false, Table::EMPTY);
    host.queue("q", false);
    for binding in 0..20 {
        let mut arguments = TableBuf::new();
        (0..500).for_each(|key| _ = arguments.insert(&key.to_string(), Field::U32(binding)));
        let (kind, arguments) = (ResourceKind::Queue, arguments.as_table());
        let request = BindingRequest { source: "e", kind, destination: "q", key: "", arguments };
        host.vhost.bind(&host.actor, &request).unwrap();
    }
    let mut removal = host.delete("q");
    host.step(&mut removal, 2);
    assert_eq!(host.bindings_of("e"), 19);
    host.step(&mut removal, STEPS_PER_HOLD_MAX);
    assert_eq!(host.bindings_of("e"), 17);
    host.finish(removal);
}

#[test]
fn a_queue_declared_meanwhile_under_the_name_keeps_what_it_is_bound_to() {
    let host = Host::new();
    host.exchange("e", false, Table::EMPTY);
    host.queue("q", false);
    host.bind_queue("e", "q", 0..3000);
    let mut removal = host.delete("q");
    assert!(!host.step(&mut removal, 1000));
    let other = host.queue("q", false);
    host.bind_queue("e", "q", 0..3000);
    assert_eq!(host.targets("e", "2999").first().map(|queue| queue.id), Some(other.id));
    host.finish(removal);
    assert_eq!(host.bindings_of("e"), 3000);
    host.finish(host.delete("q"));
    assert_eq!(host.bindings_of("e"), 0);
}

#[test]
fn exchanges_go_with_their_last_binding_one_by_one() {
    let host = Host::new();
    for name in ["a", "b", "c"] {
        host.exchange(name, true, Table::EMPTY);
    }
    host.queue("q", false);
    host.bind("a", ResourceKind::Exchange, "b", "").unwrap();
    host.bind("b", ResourceKind::Exchange, "c", "").unwrap();
    host.bind("c", ResourceKind::Queue, "q", "").unwrap();
    let mut removal = host.delete("q");
    let answered = removal.after();
    while host.vhost.exchange("c").is_some() {
        assert!(!host.step(&mut removal, 1));
    }
    assert!(host.vhost.exchange("b").is_some());
    // Another one of the name is no part of it.
    host.exchange("c", true, Table::EMPTY);
    host.queue("other", false);
    host.bind("c", ResourceKind::Queue, "other", "").unwrap();
    while !host.step(&mut removal, 1) {}
    assert!(host.vhost.exchange("a").is_none() && host.vhost.exchange("b").is_none());
    assert_eq!(host.bindings_of("c"), 1);
    assert!(removal.after() > answered, "the answer waits for what went last");
}

#[test]
fn the_table_of_a_deleted_exchange_goes_in_steps() {
    let host = Host::new();
    host.exchange("e", false, Table::EMPTY);
    for queue in 0..2500 {
        host.queue(&queue.to_string(), false);
        host.bind("e", ResourceKind::Queue, &queue.to_string(), "key").unwrap();
    }
    let exchange = host.vhost.exchange("e").unwrap();
    let mut removal = host.vhost.delete_exchange(&host.actor, "e", false).unwrap();
    assert!(host.vhost.exchange("e").is_none());
    assert_eq!(
        route(&host.vhost, &exchange, &[b"key"], Properties::EMPTY, &mut Wakes::default())
            .unwrap()
            .targets
            .len(),
        0
    );
    host.exchange("e", false, Table::EMPTY);
    host.bind("e", ResourceKind::Queue, "7", "key").unwrap();
    assert!(!host.step(&mut removal, 1000));
    assert_eq!(exchange.bindings.load().len(), 1500);
    host.finish(removal);
    assert!(exchange.bindings.load().is_empty());
    assert_eq!(host.bindings_of("e"), 1);
}

#[test]
fn bindings_to_what_was_deleted_are_no_use_of_an_exchange() {
    let host = Host::new();
    host.exchange("e", false, Table::EMPTY);
    host.queue("q", false);
    host.bind_queue("e", "q", 0..10);
    assert!(host.vhost.delete_exchange(&host.actor, "e", true).is_err());
    let removal = host.delete("q");
    host.finish(host.vhost.delete_exchange(&host.actor, "e", true).unwrap());
    host.finish(removal);
}

#[test]
fn the_alternate_exchange_is_asked_when_only_deleted_queues_match() {
    let host = Host::new();
    host.exchange("other", false, Table::EMPTY);
    let mut arguments = TableBuf::new();
    arguments.insert("alternate-exchange", Field::LongStr(b"other"));
    host.exchange("e", false, arguments.as_table());
    host.queue("q", false);
    let second = host.queue("second", false);
    host.bind("e", ResourceKind::Queue, "q", "key").unwrap();
    host.bind("other", ResourceKind::Queue, "second", "key").unwrap();
    let removal = host.delete("q");
    assert_eq!(host.targets("e", "key").first().map(|queue| queue.id), Some(second.id));
    host.finish(removal);
}

#[test]
fn consumers_are_told_so_many_a_step() {
    let host = Host::new();
    let queue = host.queue("q", false);
    let outbox = host.broker.connect();
    for tag in 0..20 {
        let terms = Terms { priority: 0, prefetch: None, exclusive: false };
        let tag = tag.to_string().into();
        let subscription = Subscription {
            tag,
            channel: 1,
            no_ack: true,
            timeout_ms: None,
            overdue_action: None,
            terms,
            outbox: Arc::clone(&outbox),
        };
        queue.subscribe(subscription).unwrap();
    }
    let mut removal = host.delete("q");
    assert_eq!(queue.counts(), (0, 0));
    assert!(!host.step(&mut removal, 11));
    let mut items = VecDeque::new();
    outbox.drain_into(&mut items);
    let told = items.iter().map(|item| match item {
        Item::Cancelled(consumer) => consumer.tag.parse().unwrap(),
        Item::Delivery { .. } => panic!("a delivery"),
    });
    // The first step takes all of them out of the queue.
    assert_eq!(told.collect::<Vec<u32>>(), (0..10).collect::<Vec<_>>());
    host.finish(removal);
}

#[test]
fn many_messages_are_let_go_of_in_the_background_a_thousand_a_step() {
    let host = Host::new();
    let queue = host.queue("q", false);
    let held_bytes = &host.broker.node.memory.messages;
    host.fill(&queue, 1);
    let one = held_bytes.read();
    host.fill(&queue, 4999);
    let (removed, removal) = host.vhost.delete_queue(&host.actor, "q", false, false).unwrap();
    assert_eq!(removed.messages, 5000);
    host.finish(removal);
    let remains = &host.broker.node.remains;
    while !remains.is_empty() {
        let before = held_bytes.read();
        remains.step();
        assert!(before - held_bytes.read() <= 1000 * one);
    }
    assert_eq!(held_bytes.read(), 0);
    assert_eq!(queue.depth(), (0, 0));
}

#[test]
fn the_node_counts_what_lists_of_messages_cost_until_their_queues_are_gone() {
    let host = Host::new();
    let sum = || host.broker.node.memory.index.read();
    let (one, other) = (host.queue("one", false), host.queue("other", false));
    host.fill(&one, 1500);
    let cost = sum();
    assert_eq!(cost, one.lock().classic.index_bytes());
    host.fill(&other, 1);
    assert!(sum() > cost);
    one.purge_some(u64::MAX, &mut Wakes::default());
    assert!(sum() < cost);
    for queue in ["one", "other"] {
        host.finish(host.delete(queue));
    }
    assert_eq!(sum(), 0);
}

#[test]
fn few_messages_go_at_once() {
    let host = Host::new();
    let queue = host.queue("q", false);
    host.fill(&queue, 1000);
    host.finish(host.delete("q"));
    assert!(host.broker.node.remains.is_empty());
    assert_eq!(host.broker.node.memory.messages.read(), 0);
}

#[test]
fn the_queues_of_a_connection_go_one_by_one_and_without_it() {
    let host = Host::new();
    host.exchange("e", false, Table::EMPTY);
    let names: Vec<Box<str>> = (0..10).map(|name| name.to_string().into()).collect();
    for name in &names {
        host.queue(name, true);
        host.bind("e", ResourceKind::Queue, name, "key").unwrap();
    }
    let left = || names.iter().filter(|name| host.vhost.queue(name).is_some()).count();
    let mut removal = host.vhost.delete_exclusive_queues(host.actor.connection, names.clone());
    assert!(!host.step(&mut removal, 1));
    assert_eq!(left(), 9);
    let orphan = Orphan { vhost: Arc::clone(&host.vhost), removal };
    host.broker.node.remains.bury(Box::new(orphan), &mut Wakes::default());
    while !host.broker.node.remains.is_empty() {
        host.broker.node.remains.step();
    }
    assert_eq!((left(), host.bindings_of("e")), (0, 0));
}

#[test]
fn a_purge_removes_a_thousand_a_step() {
    let host = Host::new();
    let queue = host.queue("q", false);
    host.fill(&queue, 2500);
    let mut wakes = Wakes::default();
    let steps: Vec<u64> = (0..4).map(|_| queue.purge_some(u64::MAX, &mut wakes)).collect();
    assert_eq!(steps, [1000, 1000, 500, 0]);
}
