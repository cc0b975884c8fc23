//! What the dice found once, told step by step: the same world and the same model, without the dice.

use std::rc::Rc;

use sluicemq::protocol::properties::PropertiesBuf;

use crate::op::{Message, Op, Verdict};
use crate::world::World;

/// An outbox that takes everything.
const ROOM_BYTES: usize = 100_000;

fn declare(queue: &str) -> Op {
    Op::Declare { queue: queue.to_owned() }
}

fn consume(queue: &str, no_ack: bool) -> Op {
    let (queue, tag) = (queue.to_owned(), format!("of {queue}"));
    Op::Consume { queue, tag, no_ack, exclusive: false, priority: 0 }
}

/// Messages with these numbers, straight to a queue.
fn publish(queue: &str, ids: std::ops::Range<u64>) -> impl Iterator<Item = Op> + use<> {
    let queue = queue.to_owned();
    ids.map(move |id| {
        let mut properties = PropertiesBuf::new();
        properties.message_id(id.to_string());
        let properties = properties.into_bytes();
        let body = vec![b'm'; 100];
        let (exchange, key) = ("", queue.clone());
        Op::Publish(Rc::new(Message { id, exchange, key, header: None, mandatory: false, properties, body }))
    })
}

fn ack(tag: u64) -> Op {
    Op::Settle { tag, multiple: false, verdict: Verdict::Ack }
}

#[test]
fn what_a_transaction_settled_counts_in_a_shared_prefetch_set_later() {
    let mut world = World::scripted(1, ROOM_BYTES);
    world.play(0, [Op::OpenChannel, Op::TxSelect, declare("q"), consume("q", false)]);
    world.play(0, publish("q", 1..4).chain([Op::TxCommit]));
    world.play(0, [ack(1), ack(2), Op::Qos { count: 3, global: true }]);
    world.rest();
    // All three are held until the commit, and two after the rollback would be one too many.
    world.play(0, [Op::TxRollback]);
    world.play(0, publish("q", 4..9).chain([Op::TxCommit]));
    world.rest();
}

#[test]
fn what_needs_no_acknowledgement_gives_a_shared_prefetch_nothing_back() {
    let mut world = World::scripted(2, ROOM_BYTES);
    world.play(0, [Op::OpenChannel, declare("q"), declare("gone"), Op::Qos { count: 2, global: true }]);
    world.play(0, [consume("q", false), consume("gone", true)]);
    world.play(1, [Op::OpenChannel]);
    world.play(1, publish("q", 1..2));
    world.rest();
    world.stall(0, true);
    // The first is encoded, the rest waits in the outbox when its queue goes.
    world.play(1, publish("gone", 2..3));
    world.play(1, publish("gone", 3..6));
    world.play(1, [Op::Delete { queue: "gone".to_owned(), if_unused: false, if_empty: false }]);
    world.rest();
    world.play(1, publish("q", 6..12));
    world.rest();
}

#[test]
fn deliveries_of_a_deleted_queue_give_their_room_back_though_nothing_is_written() {
    let mut world = World::scripted(2, 1000);
    world.play(
        0,
        [Op::OpenChannel, declare("q"), declare("gone"), consume("gone", false), consume("q", false)],
    );
    world.play(1, [Op::OpenChannel]);
    world.rest();
    world.stall(0, true);
    // One is encoded, five fill more than half of the outbox, and there is no room for the other queue's.
    world.play(1, publish("gone", 1..2));
    world.play(1, publish("gone", 2..7));
    world.play(1, publish("q", 7..8));
    world.play(1, [Op::Delete { queue: "gone".to_owned(), if_unused: false, if_empty: false }]);
    world.rest();
}
