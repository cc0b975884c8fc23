//! Much work at once: it is cut into turns, and others get between.

use bytes::BytesMut;
use sluicemq::clock::Now;
use sluicemq::protocol::field::Field;
use sluicemq::protocol::frame::put_method;
use sluicemq::protocol::methods::{
    BasicAck, BasicGet, BasicNack, BasicQos, BasicRecover, ChannelClose, ConfirmSelect, ExchangeDeclare,
    ExchangeDelete, Method, QueueBind, QueueDelete, QueuePurge,
};
use sluicemq::protocol::table::{Table, TableBuf};

use crate::client::{Client, STEPS_MAX, publish};
use crate::{broker, broker_with_turns};

const OUTBOX_BYTES: usize = 1 << 20;

/// Whether another connection is answered between two turns of the one that is at work.
fn bystander_is_answered(bystander: &mut Client) -> bool {
    bystander.declare("bystander");
    bystander.qos(1, 1, false);
    true
}

/// Runs what the adversary has begun, and lets a bystander work between any two turns. How many turns it took.
fn run_beside(adversary: &mut Client, bystander: &mut Client) -> usize {
    let before = adversary.turns;
    while adversary.turn() {
        assert!(bystander_is_answered(bystander));
    }
    assert!(adversary.longest <= STEPS_MAX, "a turn of {} steps", adversary.longest);
    adversary.turns - before
}

/// Publishes bodies 0, 1, 2 and so on, each a block of its own, to a queue.
fn fill(client: &mut Client, queue: &str, messages: u32) {
    for number in 0..messages {
        client.feed(&publish(b"", queue.as_bytes(), &number.to_be_bytes()));
    }
}

fn counts(client: &mut Client, queue: &str) -> u64 {
    let passive = sluicemq::protocol::methods::QueueDeclare {
        queue,
        passive: true,
        durable: false,
        exclusive: false,
        auto_delete: false,
        nowait: false,
        arguments: Table::EMPTY,
    };
    client.told.clear();
    client.say(1, &Method::QueueDeclare(passive));
    let (name, messages) = client.answer().expect("an answer");
    assert_eq!(name, "queue.declare-ok");
    messages
}

#[test]
fn a_message_to_thousands_of_queues_is_handed_over_in_turns_and_confirmed_when_all_have_it() {
    let broker = broker(OUTBOX_BYTES);
    let (mut adversary, mut bystander) = (Client::log_in(&broker), Client::log_in(&broker));
    for number in 0..5_000 {
        let queue = format!("q{number}");
        adversary.declare(&queue);
        adversary.bind(&queue, "amq.fanout", "");
    }
    adversary.say(1, &Method::ConfirmSelect(ConfirmSelect { nowait: true }));
    // The first one is routed, which is one step for each binding.
    adversary.feed(&publish(b"amq.fanout", b"", b"first"));
    assert_eq!(adversary.answer(), Some(("basic.ack", 1)));
    adversary.longest = 0;
    adversary.begin(&publish(b"amq.fanout", b"", b"second"));
    assert_eq!(adversary.answer(), None, "not all have it");
    assert!(run_beside(&mut adversary, &mut bystander) >= 4);
    assert_eq!(adversary.answer(), Some(("basic.ack", 2)));
    assert!((0..5_000).step_by(499).all(|number| counts(&mut bystander, &format!("q{number}")) == 2));
}

#[test]
fn messages_to_two_sets_of_queues_in_turn_share_blocks() {
    let broker = broker(OUTBOX_BYTES);
    let (mut adversary, mut bystander) = (Client::log_in(&broker), Client::log_in(&broker));
    for number in 0..200 {
        let queue = format!("q{number}");
        adversary.declare(&queue);
        adversary.bind(&queue, "amq.direct", if number % 2 == 0 { "even" } else { "odd" });
    }
    let mut chunk = BytesMut::new();
    for number in 0..500_u32 {
        let key: &[u8] = if number % 2 == 0 { b"even" } else { b"odd" };
        chunk.unsplit(publish(b"amq.direct", key, &number.to_be_bytes()));
    }
    let before = adversary.turns;
    adversary.begin(&chunk);
    run_beside(&mut adversary, &mut bystander);
    // 500 messages for 100 queues each would be 50,000 steps if each were a block of its own.
    assert!(adversary.turns - before < 20, "{} turns", adversary.turns - before);
    adversary.consume(1, "q7", "c", true);
    adversary.finish();
    let numbers: Vec<u32> = (adversary.deliveries.iter())
        .map(|delivery| u32::from_be_bytes(delivery.body[..].try_into().unwrap()))
        .collect();
    assert_eq!(numbers, (0..250).map(|half| 2 * half + 1).collect::<Vec<u32>>());
}

#[test]
fn sets_of_queues_that_overlap_keep_the_order_of_each_queue() {
    let broker = broker(OUTBOX_BYTES);
    let mut client = Client::log_in(&broker);
    for (queue, keys) in [("both", ["a", "b"].as_slice()), ("one", &["a"]), ("two", &["b"])] {
        client.declare(queue);
        keys.iter().for_each(|key| client.bind(queue, "amq.direct", key));
    }
    let mut chunk = BytesMut::new();
    let mut sent = Vec::new();
    for number in 0..300_u32 {
        let (exchange, key): (&[u8], &[u8]) = match number % 7 {
            0 | 3 => (b"amq.direct", b"a"),
            1 | 5 => (b"amq.direct", b"b"),
            2 => (b"", b"both"),
            4 => (b"", b"one"),
            _ => (b"", b"two"),
        };
        chunk.unsplit(publish(exchange, key, &number.to_be_bytes()));
        sent.push((number, key));
    }
    client.feed(&chunk);
    for (queue, keys) in
        [("both", [&b"a"[..], b"b", b"both"].as_slice()), ("one", &[b"a", b"one"]), ("two", &[b"b", b"two"])]
    {
        client.deliveries.clear();
        client.consume(1, queue, queue, true);
        client.finish();
        let expected: Vec<Vec<u8>> = (sent.iter())
            .filter(|(_, key)| keys.contains(key))
            .map(|(number, _)| number.to_be_bytes().to_vec())
            .collect();
        let heard: Vec<Vec<u8>> = client.deliveries.iter().map(|delivery| delivery.body.clone()).collect();
        assert_eq!(heard, expected, "{queue}");
    }
}

/// A client that holds so many messages, each a run of its own.
fn holder(broker: &std::sync::Arc<sluicemq::broker::Broker>, messages: u32) -> Client {
    let mut client = Client::log_in(broker);
    client.declare("q");
    fill(&mut client, "q", messages);
    client.consume(1, "q", "c", false);
    client.finish();
    assert_eq!(client.deliveries.len(), messages as usize);
    client.longest = 0;
    client
}

#[test]
fn what_comes_back_at_once_comes_in_turns_and_in_its_old_order() {
    const MESSAGES: u32 = 6_000;
    let nack = Method::BasicNack(BasicNack { delivery_tag: 0, multiple: true, requeue: true });
    let recover = Method::BasicRecover(BasicRecover { requeue: true });
    let close =
        Method::ChannelClose(ChannelClose { reply_code: 200, reply_text: "", class_id: 0, method_id: 0 });
    for (end, is_gone) in [(nack, false), (recover, false), (close, true)] {
        let broker = broker(OUTBOX_BYTES);
        let (mut adversary, mut bystander) = (holder(&broker, MESSAGES), Client::log_in(&broker));
        // Nothing is given to it again before all is back.
        adversary.reads = false;
        let mut bytes = BytesMut::new();
        put_method(&mut bytes, 1, &end);
        adversary.begin(&bytes);
        let turns = run_beside(&mut adversary, &mut bystander);
        assert!(turns >= 5, "{}: {turns} turns", end.name());
        if !is_gone {
            adversary.deliveries.clear();
            adversary.reads = true;
            adversary.read(usize::MAX);
            adversary.finish();
            let numbers = adversary.deliveries.iter().map(|delivery| delivery.body.clone());
            assert!(numbers.eq((0..MESSAGES).map(|number| number.to_be_bytes().to_vec())), "{}", end.name());
        } else {
            assert_eq!(counts(&mut bystander, "q"), u64::from(MESSAGES), "{}", end.name());
            bystander.consume(1, "q", "c", true);
            bystander.finish();
            let numbers = bystander.deliveries.iter().map(|delivery| delivery.body.clone());
            assert!(numbers.eq((0..MESSAGES).map(|number| number.to_be_bytes().to_vec())));
        }
    }
}

#[test]
fn a_connection_that_is_lost_gives_back_what_it_held_in_turns() {
    const MESSAGES: u32 = 6_000;
    let broker = broker(OUTBOX_BYTES);
    let (mut adversary, mut bystander) = (holder(&broker, MESSAGES), Client::log_in(&broker));
    adversary.session.abandon(Now::read());
    assert!(adversary.session.is_ending());
    assert!(run_beside(&mut adversary, &mut bystander) >= 4);
    assert!(adversary.session.is_closed());
    assert_eq!(counts(&mut bystander, "q"), u64::from(MESSAGES));
}

#[test]
fn a_session_that_is_dropped_in_the_middle_of_its_work_leaves_nothing_half_done() {
    const MESSAGES: u32 = 6_000;
    let broker = broker(OUTBOX_BYTES);
    let (mut adversary, mut bystander) = (holder(&broker, MESSAGES), Client::log_in(&broker));
    let nack = BasicNack { delivery_tag: 0, multiple: true, requeue: true };
    let mut bytes = BytesMut::new();
    put_method(&mut bytes, 1, &Method::BasicNack(nack));
    adversary.begin(&bytes);
    assert!(adversary.session.wants_turn());
    drop(adversary);
    assert_eq!(counts(&mut bystander, "q"), u64::from(MESSAGES));
}

#[test]
fn what_was_read_is_taken_up_again_though_output_is_written_between_two_turns() {
    let broker = broker(OUTBOX_BYTES);
    let mut adversary = holder(&broker, 3_000);
    adversary.reads = false;
    adversary.feed(&publish(b"", b"q", b"unread"));
    let mut acks = BytesMut::new();
    for delivery_tag in 1..=3_000 {
        let ack = BasicAck { delivery_tag, multiple: false };
        put_method(&mut acks, 1, &Method::BasicAck(ack));
    }
    put_method(&mut acks, 1, &Method::ConfirmSelect(ConfirmSelect { nowait: false }));
    adversary.begin(&acks);
    assert!(adversary.session.wants_turn());
    for _ in 0..10 {
        adversary.read(usize::MAX);
        adversary.turn();
    }
    adversary.read(usize::MAX);
    assert_eq!(adversary.answer(), Some(("confirm.select-ok", 0)));
}

#[test]
fn methods_behind_each_other_are_all_answered_whatever_a_turn_takes() {
    for (turn_steps, queues) in [(1, 30), (3, 30), (20, 30), (1_000, 1_100), (1_000, 700)] {
        let broker = broker_with_turns(OUTBOX_BYTES, turn_steps);
        let mut client = Client::log_in(&broker);
        for number in 0..queues {
            let queue = format!("q{number}");
            client.declare(&queue);
            client.bind(&queue, "amq.fanout", "");
        }
        let qos = Method::BasicQos(BasicQos { prefetch_size: 0, prefetch_count: 7, global: true });
        let methods = [
            Method::QueuePurge(QueuePurge { queue: "q1", nowait: false }),
            Method::BasicRecover(BasicRecover { requeue: true }),
            qos,
            Method::ConfirmSelect(ConfirmSelect { nowait: false }),
            Method::QueueDelete(QueueDelete {
                queue: "q2",
                if_unused: false,
                if_empty: false,
                nowait: false,
            }),
        ];
        client.consume(1, "q3", "c", false);
        for publishes in 0..4 {
            let mut chunk = BytesMut::new();
            for method in &methods {
                (0..publishes).for_each(|_| chunk.unsplit(publish(b"amq.fanout", b"", b"m")));
                put_method(&mut chunk, 1, method);
            }
            for reads in [true, false] {
                client.told.clear();
                client.reads = reads;
                client.begin(&chunk);
                for _ in 0..20_000 {
                    client.read(100);
                    if !client.turn() && client.session.output().is_empty() {
                        break;
                    }
                }
                let answers = client.told.iter().filter(|(name, _)| *name != "basic.ack").count();
                assert_eq!(
                    answers,
                    methods.len(),
                    "turns of {turn_steps}, {publishes} publishes: {:?}",
                    client.told
                );
            }
        }
    }
}

#[test]
fn a_client_that_reads_no_answers_is_read_no_longer() {
    let broker = broker(OUTBOX_BYTES);
    let mut adversary = Client::log_in(&broker);
    adversary.reads = false;
    let delete = QueueDelete { queue: "nobody", if_unused: false, if_empty: false, nowait: false };
    let mut deletes = BytesMut::new();
    for _ in 0..1_000 {
        put_method(&mut deletes, 1, &Method::QueueDelete(delete));
    }
    let is_read = |adversary: &mut Client| {
        adversary.feed(&deletes);
        adversary.session.wants_input()
    };
    assert!((0..200).any(|_| !is_read(&mut adversary)), "{} octets wait", adversary.session.output().len());
}

#[test]
fn gets_that_nobody_reads_are_answered_as_they_are_read() {
    const GETS: usize = 200;
    let broker = broker(OUTBOX_BYTES);
    let mut adversary = Client::log_in(&broker);
    adversary.declare("q");
    (0..GETS).for_each(|_| adversary.feed(&publish(b"", b"q", &[0; 50_000])));
    adversary.reads = false;
    let mut gets = BytesMut::new();
    for _ in 0..GETS {
        let get = Method::BasicGet(BasicGet { queue: "q", no_ack: true });
        put_method(&mut gets, 1, &get);
    }
    adversary.feed(&gets);
    let mut answers = 0;
    while answers < GETS {
        let unread = adversary.session.output().len();
        assert!(unread > 0 && unread < 2 * OUTBOX_BYTES, "{unread} octets wait after {answers} answers");
        adversary.read(usize::MAX);
        adversary.finish();
        answers += adversary.told.drain(..).filter(|(name, _)| *name == "basic.get-ok").count();
    }
}

#[test]
fn a_purge_lets_others_in_and_counts_what_it_removed() {
    const MESSAGES: u32 = 6_000;
    let broker = broker(OUTBOX_BYTES);
    let (mut adversary, mut bystander) = (Client::log_in(&broker), Client::log_in(&broker));
    adversary.declare("q");
    fill(&mut adversary, "q", MESSAGES);
    adversary.longest = 0;
    let mut bytes = BytesMut::new();
    let purge = QueuePurge { queue: "q", nowait: false };
    put_method(&mut bytes, 1, &Method::QueuePurge(purge));
    adversary.begin(&bytes);
    assert_eq!(adversary.answer(), None);
    assert!(run_beside(&mut adversary, &mut bystander) >= 4);
    assert_eq!(adversary.answer(), Some(("queue.purge-ok", MESSAGES.into())));
    assert_eq!(counts(&mut bystander, "q"), 0);
}

#[test]
fn the_end_of_a_queue_with_many_bindings_lets_others_in() {
    let broker = broker(OUTBOX_BYTES);
    let (mut adversary, mut bystander) = (Client::log_in(&broker), Client::log_in(&broker));
    adversary.declare("q");
    for number in 0..6_000 {
        adversary.bind("q", "amq.direct", &number.to_string());
    }
    adversary.longest = 0;
    let mut bytes = BytesMut::new();
    let delete = QueueDelete { queue: "q", if_unused: false, if_empty: false, nowait: false };
    put_method(&mut bytes, 1, &Method::QueueDelete(delete));
    adversary.begin(&bytes);
    assert_eq!(adversary.answer(), None);
    assert!(run_beside(&mut adversary, &mut bystander) >= 4);
    assert_eq!(adversary.answer(), Some(("queue.delete-ok", 0)));
}

#[test]
fn a_long_history_reaches_its_new_queue_in_turns_and_goes_with_its_exchange_in_turns() {
    let broker = broker(OUTBOX_BYTES);
    let (mut adversary, mut bystander) = (Client::log_in(&broker), Client::log_in(&broker));
    let mut arguments = TableBuf::new();
    arguments.insert("x-recent-history-length", Field::I32(10_000));
    let declare = ExchangeDeclare {
        exchange: "history",
        kind: "x-recent-history",
        passive: false,
        durable: false,
        auto_delete: false,
        internal: false,
        nowait: false,
        arguments: arguments.as_table(),
    };
    adversary.say(1, &Method::ExchangeDeclare(declare));
    for number in 0..9_000_u32 {
        adversary.feed(&publish(b"history", b"", &number.to_be_bytes()));
    }
    adversary.declare("q");
    adversary.longest = 0;
    adversary.told.clear();
    let bind = QueueBind {
        queue: "q",
        exchange: "history",
        routing_key: "",
        nowait: false,
        arguments: Table::EMPTY,
    };
    let mut bytes = BytesMut::new();
    put_method(&mut bytes, 1, &Method::QueueBind(bind));
    adversary.begin(&bytes);
    assert_eq!(adversary.answer(), None, "not all are there");
    assert!(run_beside(&mut adversary, &mut bystander) >= 8);
    assert_eq!(adversary.answer(), Some(("queue.bind-ok", 0)));
    assert_eq!(counts(&mut bystander, "q"), 9_000);
    adversary.consume(1, "q", "c", true);
    adversary.finish();
    let in_order =
        adversary.deliveries.iter().zip(0..9_000_u32).all(|(got, number)| got.body == number.to_be_bytes());
    assert!(in_order && adversary.deliveries.len() == 9_000);

    adversary.longest = 0;
    let delete = ExchangeDelete { exchange: "history", if_unused: false, nowait: false };
    let mut bytes = BytesMut::new();
    put_method(&mut bytes, 1, &Method::ExchangeDelete(delete));
    adversary.begin(&bytes);
    assert!(run_beside(&mut adversary, &mut bystander) >= 8);
    assert_eq!(broker.node.memory.histories.read(), 0);
}
