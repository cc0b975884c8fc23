//! One attempt by itself: what it does with a session that it has left.

use std::sync::Arc;

use super::{BasicAck, BasicGet, Mover, Stage, Turn};
use crate::broker::Broker;
use crate::clock::Now;
use crate::config::Config;
use crate::protocol::methods::{BasicPublish, Method, QueueDeclare};
use crate::protocol::properties::PropertiesBuf;
use crate::protocol::table::Table;
use crate::transfer::insider::{Insider, Purpose};
use crate::transfer::job::Told;
use crate::transfer::plan::Intake;
use crate::transfer::redrive::Choice;
use crate::transfer::tests::World;

const QUEUE: &str = "from";
/// What a session does not have more of unread, and listens.
const LARGE_BYTES: usize = 2 * 1024 * 1024;

#[test]
fn one_that_is_ended_before_a_large_message_came_leaves_all_the_same() {
    let broker = Arc::new(Broker::new(Arc::new(Config::default()), u64::MAX, u64::MAX).unwrap());
    let (now, guest) = (Now::read(), broker.users.get("guest").unwrap());
    let mut client = Insider::connect(&broker, &guest, "/", "", Purpose::Errand, now);
    let (passive, durable, exclusive, auto_delete, nowait) = (false, true, false, false, true);
    let (queue, arguments) = (QUEUE, Table::EMPTY);
    let declare = QueueDeclare { queue, passive, durable, exclusive, auto_delete, nowait, arguments };
    client.tell(&Method::QueueDeclare(declare));
    let key = QUEUE.as_bytes();
    let publish = BasicPublish { exchange: b"", routing_key: key, mandatory: false, immediate: false };
    let none = PropertiesBuf::new().encode();
    for body in [vec![1; 10], vec![2; LARGE_BYTES]] {
        client.tell_content(&Method::BasicPublish(publish), &none, body.into());
    }
    while client.untold_bytes() > 0 {
        client.turn(now);
    }
    let mut mover = Mover::open(
        &broker,
        &Arc::new(World::plan(QUEUE, Intake::Chosen(Choice::default()))),
        &Told::new(now),
        [&guest, &guest],
        now,
    );
    mover.stage = Stage::Moving;
    // The disk has taken its time: the second answer is there only when nobody listens any more.
    for _ in 0..2 {
        mover.source.tell(&Method::BasicGet(BasicGet { queue, no_ack: false }));
        mover.source.turn(now);
    }
    mover.awaits_get = true;
    mover.stop(now);
    mover.source.tell(&Method::BasicAck(BasicAck { delivery_tag: 1, multiple: false }));
    let ended = (0..100).any(|_| matches!(mover.step(now), Turn::Ended(_)));
    assert!(ended, "it leaves");
    drop(mover);
    let count = broker.vhost("/").unwrap().queue(QUEUE).unwrap().tally.ready.read();
    assert_eq!(count, 1, "what was acknowledged is gone, and the other back");
}
