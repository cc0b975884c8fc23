//! Dead letters in one thread: how many go on in a turn, and what an alarm of the disk lets through.

use std::sync::Arc;
use std::task::{Context, Waker};

use super::Burials;
use crate::broker::Broker;
use crate::broker::alarms::HOLD;
use crate::broker::error::ResourceKind;
use crate::broker::publish::Burst;
use crate::broker::queue::handle::Queue;
use crate::broker::queue::settle::Settlements;
use crate::broker::vhost::{Actor, BindingRequest, QueueRequest};
use crate::broker::wakes::{HOLD_STEPS, Wakes};
use crate::clock::Now;
use crate::config::Config;
use crate::message::block_header::Marks;
use crate::message::names::Names;
use crate::message::record::Content;
use crate::protocol::field::Field;
use crate::protocol::table::{Table, TableBuf};

const QUEUES: usize = 5000;

fn dying_into(exchange: &[u8]) -> TableBuf {
    let mut arguments = TableBuf::new();
    arguments
        .insert("x-dead-letter-exchange", Field::LongStr(exchange))
        .insert("x-dead-letter-routing-key", Field::LongStr(b"to"))
        .insert("x-max-length", Field::I32(0));
    arguments
}

/// Publishes so many small messages to a queue.
fn publish(broker: &Broker, queue: &Arc<Queue>, count: usize, marks: Marks, now: Now) {
    let (mut burst, mut wakes) = (Burst::default(), Wakes::default());
    for _ in 0..count {
        let content = Content { names: Names::EMPTY, properties: &[0, 0], body: &[0; 40] };
        burst.publish(&broker.node, &[Arc::clone(queue)].into(), &content, marks);
    }
    wakes.begin_turn(now.steady_ms);
    while burst.hand_over(&broker.node, &mut Settlements::default(), &mut wakes).is_none() {
        wakes.begin_turn(now.steady_ms);
    }
    wakes.fire();
}

#[test]
fn during_an_alarm_of_the_disk_dead_letters_take_what_they_may_and_wait() {
    const LIMIT: u64 = 1000;
    let mut config = Config::default();
    config.storage.disk_free_limit = Some(LIMIT);
    let broker = Broker::new(Arc::new(config), u64::MAX, u64::MAX).unwrap();
    let vhost = broker.vhost("/").unwrap();
    let user = broker.users.get("guest").unwrap();
    let actor = Actor { user, connection: broker.connect().connection() };
    let declare = |name: &str, arguments: Table<'_>| {
        let request = QueueRequest { name, durable: true, exclusive: false, auto_delete: false, arguments };
        vhost.declare_queue(&actor, &request).unwrap();
        vhost.queue(name).unwrap()
    };
    let [queue, other] = ["q", "other"].map(|name| declare(name, dying_into(b"").as_table()));
    let to = declare("to", Table::EMPTY);
    let now = Now::read();
    broker.look_at_disk(LIMIT - 1, now.instant);
    publish(&broker, &queue, 100, Marks { persistent: true, ..Marks::default() }, now);
    let mut burials = Burials::default();
    let mut run = || {
        while burials.poll(&broker.node, &mut Context::from_waker(Waker::noop())).is_ready() {
            burials.step(&broker, now);
        }
        to.depth().0
    };
    let some = run();
    assert!((1..30).contains(&some), "{some} have gone on");
    broker.look_at_disk(LIMIT / 2, now.instant);
    assert_eq!(run(), some, "what is left is for others");
    // One that the log need not know of stands behind one that waits.
    publish(&broker, &other, 1, Marks::default(), now);
    assert_eq!((run(), run()), (some, some + 1));
    broker.look_at_disk(LIMIT - 1, now.instant);
    assert!(run() > some + 1);
    broker.look_at_disk(u64::MAX, now.instant + HOLD);
    assert_eq!(run(), 101);
}

#[test]
fn dead_letters_for_very_many_queues_are_handed_over_in_turns() {
    let broker = Broker::new(Arc::new(Config::default()), u64::MAX, u64::MAX).unwrap();
    let vhost = broker.vhost("/").unwrap();
    let user = broker.users.get("guest").unwrap();
    let actor = Actor { user, connection: broker.connect().connection() };
    let declare = |name: &str, arguments: Table<'_>| {
        let (durable, exclusive, auto_delete) = (false, false, false);
        let request = QueueRequest { name, durable, exclusive, auto_delete, arguments };
        vhost.declare_queue(&actor, &request).unwrap();
        vhost.queue(name).unwrap()
    };
    let queue = declare("q", dying_into(b"amq.fanout").as_table());
    let targets: Vec<_> = (0..QUEUES).map(|number| declare(&format!("t{number}"), Table::EMPTY)).collect();
    for target in &targets {
        let (source, kind, destination) = ("amq.fanout", ResourceKind::Queue, &*target.properties.name);
        let binding = BindingRequest { source, kind, destination, key: "", arguments: Table::EMPTY };
        vhost.bind(&actor, &binding).unwrap();
    }
    let now = Now::read();
    publish(&broker, &queue, 3, Marks::default(), now);
    let arrived = || targets.iter().map(|target| target.depth().0).sum::<u64>();
    let mut burials = Burials::default();
    let (mut before, mut turns) = (0, 0);
    while burials.poll(&broker.node, &mut Context::from_waker(Waker::noop())).is_ready() {
        burials.step(&broker, now);
        assert!(arrived() - before <= u64::from(2 * HOLD_STEPS), "{} in one turn", arrived() - before);
        (before, turns) = (arrived(), turns + 1);
    }
    assert_eq!(arrived(), 3 * QUEUES as u64);
    assert!(turns >= 3 * QUEUES / HOLD_STEPS as usize, "{turns}");
}
