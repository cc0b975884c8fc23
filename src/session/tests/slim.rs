//! What is delivered and not acknowledged does not keep memory that it need not.

use std::sync::Arc;

use super::{Broker, Client, declare_durable, method, publish, transient};
use crate::broker::memory::Memory;
use crate::broker::wakes::Wakes;
use crate::config::Config;
use crate::protocol::methods::{
    BasicAck, BasicConsume, BasicNack, BasicRecover, ChannelClose, ChannelOpen, Method, QueueDeclare,
    TxCommit, TxRollback, TxSelect,
};
use crate::protocol::table::Table;
use crate::storage::disk::simulated::SimulatedDisk;
use crate::storage::log::{CommitMode, LogOptions};

const CACHE_BYTES: u64 = 64 * 1024;
const MESSAGES: u64 = 300;

/// A broker with such a cache, and a client that has published to its queue.
fn setup(cache_bytes: u64) -> (Arc<Broker>, Client) {
    setup_with(cache_bytes, true)
}

fn setup_with(cache_bytes: u64, durable: bool) -> (Arc<Broker>, Client) {
    let memory = Memory::new(u64::MAX, u64::MAX).with_cache(cache_bytes);
    let disk = Arc::new(SimulatedDisk::new());
    let options = LogOptions { commit: CommitMode::Inline, ..LogOptions::default() };
    let (broker, _) = Broker::open(Arc::new(Config::default()), disk, options, memory).unwrap();
    let broker = Arc::new(broker);
    let mut publisher = Client::log_in(&broker, 0);
    publisher.say(1, &Method::QueueDeclare(QueueDeclare { durable, nowait: true, ..transient("q") }));
    for number in 0..MESSAGES {
        publisher.feed(publish(b"q", &body(number)));
    }
    (broker, publisher)
}

fn body(number: u64) -> Vec<u8> {
    let mut body = vec![number as u8; 1500];
    body[..8].copy_from_slice(&number.to_be_bytes());
    body
}

fn number(body: &[u8]) -> u64 {
    assert_eq!(body.len(), 1500);
    u64::from_be_bytes(body[..8].try_into().unwrap())
}

/// Plays the tasks that evict and read back, and the client's, until none has anything to do.
fn settle_down(broker: &Broker, client: &mut Client) {
    loop {
        let mut is_busy = broker.evict(&|| ()).unwrap();
        while let Some(queue) = broker.node.reads.take() {
            let mut wakes = Wakes::default();
            queue.read_ahead(&mut wakes).unwrap();
            wakes.fire();
            is_busy = true;
        }
        while client.has_work() {
            client.wake();
            is_busy = true;
        }
        if !is_busy {
            return;
        }
    }
}

/// A client that has taken all there is and acknowledged nothing.
fn with_all_in_hand() -> (Arc<Broker>, Client) {
    let (broker, _publisher) = setup(CACHE_BYTES);
    let mut client = Client::log_in(&broker, 0);
    start(&mut client);
    settle_down(&broker, &mut client);
    let expected: Vec<u64> = (0..MESSAGES).collect();
    assert_eq!(numbers(&mut client), expected);
    client.told();
    assert_eq!(broker.vhost("/").unwrap().queue("q").unwrap().depth(), (0, MESSAGES));
    let messages = &broker.node.memory.messages;
    assert!(messages.read() <= CACHE_BYTES, "{} bytes are kept", messages.read());
    (broker, client)
}

/// Begins to consume; what there is may come at once.
pub(super) fn start(client: &mut Client) {
    let consume = BasicConsume {
        queue: "q",
        consumer_tag: "",
        no_local: false,
        no_ack: false,
        exclusive: false,
        nowait: true,
        arguments: Table::EMPTY,
    };
    client.say(1, &Method::BasicConsume(consume));
}

fn numbers(client: &mut Client) -> Vec<u64> {
    client.bodies.drain(..).map(|body| number(&body)).collect()
}

fn nack(tag: u64, multiple: bool) -> Method<'static> {
    Method::BasicNack(BasicNack { delivery_tag: tag, multiple, requeue: true })
}

fn ack(tag: u64, multiple: bool) -> Method<'static> {
    Method::BasicAck(BasicAck { delivery_tag: tag, multiple })
}

#[test]
fn what_the_disk_has_is_not_kept_for_who_does_not_acknowledge() {
    let (broker, mut client) = with_all_in_hand();
    client.say(1, &ack(0, true));
    assert_eq!(broker.vhost("/").unwrap().queue("q").unwrap().depth(), (0, 0));
    assert_eq!(client.session.outbox.held_bytes.read(), 0);
}

#[test]
fn what_was_spilled_before_it_was_delivered_is_not_kept_either_and_comes_back_from_there() {
    let (broker, _publisher) = setup_with(CACHE_BYTES, false);
    while broker.evict(&|| ()).unwrap() {}
    assert!(!broker.node.spills.is_empty(), "no disk has it");
    let mut client = Client::log_in(&broker, 0);
    start(&mut client);
    settle_down(&broker, &mut client);
    let all: Vec<u64> = (0..MESSAGES).collect();
    assert_eq!(numbers(&mut client), all);
    // The head was never written.
    let (held, messages) = (client.session.outbox.held_bytes.read(), broker.node.memory.messages.read());
    assert!(held <= 2 * CACHE_BYTES && messages <= 2 * CACHE_BYTES, "{held} bytes are held, {messages} kept");
    client.say(1, &nack(0, true));
    settle_down(&broker, &mut client);
    assert_eq!((numbers(&mut client), client.redelivered), (all, MESSAGES as usize));
    client.say(1, &ack(0, true));
    assert_eq!(broker.vhost("/").unwrap().queue("q").unwrap().depth(), (0, 0));
    assert_eq!(client.session.outbox.held_bytes.read(), 0);
    settle_down(&broker, &mut client);
    assert!(broker.node.spills.is_empty(), "nobody needs it any more");
}

#[test]
fn what_was_held_before_memory_was_short_is_let_go_of_when_asked() {
    let (broker, mut publisher) = setup(9 * CACHE_BYTES);
    let mut client = Client::log_in(&broker, 0);
    start(&mut client);
    settle_down(&broker, &mut client);
    assert_eq!(client.session.outbox.held_bytes.read(), 1500 * MESSAGES, "there is room for all");
    declare_durable(&mut publisher, "other");
    for _ in 0..150 {
        publisher.feed(publish(b"other", &[7; 1000]));
    }
    settle_down(&broker, &mut client);
    assert_eq!(client.session.outbox.held_bytes.read(), 0);
    client.say(1, &nack(0, true));
    client.bodies.clear();
    settle_down(&broker, &mut client);
    assert_eq!(numbers(&mut client), (0..MESSAGES).collect::<Vec<_>>());
}

#[test]
fn what_comes_back_is_read_back_in_its_old_place() {
    let (broker, mut client) = with_all_in_hand();
    let mut bytes = method(&nack(11, false));
    bytes.unsplit(method(&nack(8, false)));
    bytes.unsplit(method(&ack(9, false)));
    bytes.unsplit(method(&nack(10, false)));
    client.feed(bytes);
    settle_down(&broker, &mut client);
    assert_eq!(numbers(&mut client), [7, 9, 10]);
    assert_eq!(client.redelivered, 3);
    assert_eq!(broker.vhost("/").unwrap().queue("q").unwrap().depth(), (0, MESSAGES - 1));
}

#[test]
fn recover_brings_all_back() {
    let (broker, mut client) = with_all_in_hand();
    client.say(1, &ack(5, true));
    client.say(1, &Method::BasicRecover(BasicRecover { requeue: true }));
    settle_down(&broker, &mut client);
    assert_eq!(numbers(&mut client), (5..MESSAGES).collect::<Vec<_>>());
    assert_eq!(client.redelivered, MESSAGES as usize - 5);
}

#[test]
fn a_channel_or_a_connection_that_ends_gives_all_back() {
    for closes_channel in [true, false] {
        let (broker, mut client) = with_all_in_hand();
        client.say(1, &ack(1, false));
        if closes_channel {
            let close = ChannelClose { reply_code: 200, reply_text: "", class_id: 0, method_id: 0 };
            client.say(1, &Method::ChannelClose(close));
            client.say(1, &Method::ChannelOpen(ChannelOpen {}));
            assert_eq!(client.told(), ["channel.close-ok", "channel.open-ok"]);
        } else {
            drop(client);
            client = Client::log_in(&broker, 0);
        }
        assert_eq!(broker.vhost("/").unwrap().queue("q").unwrap().depth(), (MESSAGES - 1, 0));
        start(&mut client);
        settle_down(&broker, &mut client);
        assert_eq!(numbers(&mut client), (1..MESSAGES).collect::<Vec<_>>());
        assert_eq!(client.redelivered, MESSAGES as usize - 1);
    }
}

#[test]
fn a_transaction_settles_what_is_not_in_memory_or_takes_it_back() {
    let (broker, mut client) = with_all_in_hand();
    let depth = || broker.vhost("/").unwrap().queue("q").unwrap().depth();
    client.say(1, &Method::TxSelect(TxSelect {}));
    client.say(1, &ack(100, true));
    client.say(1, &nack(101, false));
    client.say(1, &Method::TxRollback(TxRollback {}));
    assert_eq!(depth(), (0, MESSAGES));
    client.say(1, &ack(100, true));
    client.say(1, &nack(101, false));
    client.say(1, &Method::TxCommit(TxCommit {}));
    settle_down(&broker, &mut client);
    assert_eq!((depth(), numbers(&mut client)), ((0, MESSAGES - 100), vec![100]));
    client.say(1, &ack(150, true));
    client.say(1, &Method::BasicRecover(BasicRecover { requeue: true }));
    settle_down(&broker, &mut client);
    assert_eq!(
        numbers(&mut client).len() as u64,
        MESSAGES - 150 + 1,
        "what it has acknowledged stays with it"
    );
    client.say(1, &Method::TxRollback(TxRollback {}));
    client.say(1, &Method::BasicRecover(BasicRecover { requeue: true }));
    settle_down(&broker, &mut client);
    assert_eq!(numbers(&mut client).len() as u64, MESSAGES - 100, "and comes back when it is not committed");
}

#[test]
fn a_connection_that_is_asked_lets_go_some_at_a_time() {
    let broker = super::broker();
    let (mut publisher, mut client) = (Client::log_in(&broker, 0), Client::log_in(&broker, 0));
    declare_durable(&mut publisher, "q");
    start(&mut client);
    for _ in 0..2500 {
        publisher.feed(publish(b"q", &[7; 100]));
        client.wake();
    }
    assert_eq!(client.session.outbox.held_bytes.read(), 250_000);
    broker.ask_holders();
    let mut turns = 0;
    while client.has_work() {
        client.wake();
        turns += 1;
        assert_eq!(client.session.yields(), turns < 3, "others have their turns in between");
    }
    assert_eq!(turns, 3);
    broker.ask_holders();
    assert!(!client.has_work(), "nothing has changed since");
}
