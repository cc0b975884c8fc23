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

/// A broker that wants so much to be free on the disk.
fn broker_with_limit(limit_bytes: u64) -> Broker {
    let mut config = Config::default();
    config.storage.disk_free_limit = Some(limit_bytes);
    Broker::new(Arc::new(config), u64::MAX, u64::MAX).unwrap()
}

fn declare(broker: &Broker, name: &str, arguments: Table<'_>) -> Arc<Queue> {
    let vhost = broker.vhost("/").unwrap();
    let actor = Actor { user: broker.users.get("guest").unwrap(), connection: broker.connect().connection() };
    let request = QueueRequest { name, durable: true, exclusive: false, auto_delete: false, arguments };
    vhost.declare_queue(&actor, &request).unwrap();
    vhost.queue(name).unwrap()
}

/// Publishes so many small messages to a queue.
fn publish(broker: &Broker, queue: &Arc<Queue>, count: usize, marks: Marks, now: Now) {
    publish_bodies(broker, queue, &vec![&[0; 40][..]; count], marks, now);
}

fn publish_bodies(broker: &Broker, queue: &Arc<Queue>, bodies: &[&[u8]], marks: Marks, now: Now) {
    let (mut burst, mut wakes) = (Burst::default(), Wakes::default());
    for body in bodies {
        let content = Content { names: Names::EMPTY, properties: &[0, 0], body };
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
    let broker = broker_with_limit(LIMIT);
    let [queue, other] = ["q", "other"].map(|name| declare(&broker, name, dying_into(b"").as_table()));
    let to = declare(&broker, "to", Table::EMPTY);
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
    assert_eq!(run(), some + 1);
    broker.look_at_disk(LIMIT - 1, now.instant);
    assert!(run() > some + 1);
    broker.look_at_disk(u64::MAX, now.instant + HOLD);
    assert_eq!(run(), 101);
}

#[test]
fn dead_letters_that_are_larger_than_their_room_wait_for_more_and_no_other_queue_does() {
    const LIMIT: u64 = 100_000;
    const PERSISTENT: Marks = Marks::of(true);
    let broker = broker_with_limit(LIMIT);
    let dying = |number: usize| declare(&broker, &format!("q{number}"), dying_into(b"").as_table());
    let queues: Vec<_> = (0..20).map(dying).collect();
    let to = declare(&broker, "to", Table::EMPTY);
    let now = Now::read();
    broker.look_at_disk(LIMIT - 1, now.instant);
    let (large, small) = (&[0; 60_000][..], &[0; 40][..]);
    queues.iter().for_each(|queue| publish_bodies(&broker, queue, &[large, small], PERSISTENT, now));
    let last = dying(20);
    publish_bodies(&broker, &last, &[small], PERSISTENT, now);
    let mut burials = Burials::default();
    let mut run = || {
        let mut steps = 0;
        while burials.poll(&broker.node, &mut Context::from_waker(Waker::noop())).is_ready() {
            burials.step(&broker, now);
            steps += 1;
            assert!(steps < 200, "those that wait are tried again and again");
        }
        to.depth().0
    };
    assert_eq!(run(), 1, "the one for which there is room");
    broker.look_at_disk(LIMIT - 1, now.instant);
    assert_eq!(run(), 1);
    // Each is tried after a look, whichever stands before it.
    broker.look_at_disk(LIMIT / 2 + 70_000, now.instant);
    assert_eq!(run(), 2);
    broker.look_at_disk(u64::MAX, now.instant + HOLD);
    assert_eq!(run(), 41);
}

/// Hands over dead letters for as long as there is something to do. Fails when there always is.
fn bury(burials: &mut Burials, broker: &Broker, now: Now) {
    let mut steps = 0;
    while burials.poll(&broker.node, &mut Context::from_waker(Waker::noop())).is_ready() {
        burials.step(broker, now);
        steps += 1;
        assert!(steps < 200, "those that wait are tried again and again");
    }
}

#[test]
fn a_dead_letter_that_is_larger_than_what_is_free_waits_though_there_is_no_alarm() {
    let mut config = Config::default();
    (config.storage.slot_bytes, config.storage.disk_free_limit) = (64 * 1024, Some(1000));
    let broker = Broker::new(Arc::new(config), u64::MAX, u64::MAX).unwrap();
    let queue = declare(&broker, "q", dying_into(b"").as_table());
    let to = declare(&broker, "to", Table::EMPTY);
    let (now, mut burials) = (Now::read(), Burials::default());
    broker.look_at_disk(1_500_000, now.instant);
    publish_bodies(&broker, &queue, &[&[0; 2_000_000], &[0; 40]], Marks::of(true), now);
    for free_bytes in [1_500_000, 1_600_000] {
        broker.look_at_disk(free_bytes, now.instant);
        bury(&mut burials, &broker, now);
        assert_eq!(to.depth().0, 0, "a batch for which there is no room keeps all others from the disk");
    }
    broker.look_at_disk(u64::MAX, now.instant);
    bury(&mut burials, &broker, now);
    assert_eq!(to.depth().0, 2);
}

#[test]
fn a_queue_that_nobody_uses_goes_after_its_dead_letters() {
    let broker = broker_with_limit(0);
    let mut arguments = dying_into(b"");
    arguments.insert("x-expires", Field::I32(1000));
    let [leased, shared] = ["leased", "shared"].map(|name| declare(&broker, name, arguments.as_table()));
    let to = declare(&broker, "to", Table::EMPTY);
    let (begun, mut burials) = (Now::read(), Burials::default());
    let at = |ms: u64| Now { steady_ms: begun.steady_ms + ms, ..begun };
    let mut wakes = Wakes::default();
    wakes.begin_turn(begun.steady_ms);
    [&leased, &shared].iter().for_each(|queue| queue.renew_lease(&mut wakes));
    [&leased, &shared].iter().for_each(|queue| publish(&broker, queue, 3, Marks::of(true), begun));
    // Its last consumer goes, and it with it.
    let mut removal = broker.vhost("/").unwrap().delete_unused_queue(&shared, &mut wakes);
    assert!(removal.step(&broker.vhost("/").unwrap(), &mut wakes, &mut 10), "nothing is removed yet");
    for ms in [50, 1000, 1100, 1200] {
        broker.on_deadlines(at(ms));
        assert!(!leased.is_deleted() && !shared.is_deleted(), "{ms} ms: its dead letters are where it was");
    }
    bury(&mut burials, &broker, at(1200));
    assert_eq!(to.depth().0, 6);
    broker.on_deadlines(at(1400));
    assert!(leased.is_deleted() && shared.is_deleted());
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
