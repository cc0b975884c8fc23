//! How connections live and end: names they keep, heartbeats, closing from both sides, alarms, permissions.

use std::collections::HashMap;
use std::thread;
use std::time::{Duration, Instant};

use sluicemq::auth::password::PasswordHash;
use sluicemq::auth::permissions::Permissions;
use sluicemq::auth::users::{Profile, User};
use sluicemq::config::Watermark;
use sluicemq::protocol::frame::FrameKind;
use sluicemq::protocol::methods::{
    AccessRequest, AccessRequestOk, BasicConsume, BasicGet, ChannelClose, ChannelCloseOk, ChannelFlow,
    ConnectionBlocked, ConnectionClose, ConnectionCloseOk, ConnectionTuneOk, ConnectionUnblocked,
    ConnectionUpdateSecret, ConnectionUpdateSecretOk, ExchangeDeclare, Method, QueueDeclare, QueuePurge,
    QueuePurgeOk,
};

use crate::harness::broker::{OwnBroker, impatient, only_here, unique};
use crate::harness::client::{CHANNEL_CLOSE, CONNECTION_CLOSE, Client, NO_PROPERTIES};
use crate::harness::login::Login;
use crate::harness::methods::{
    consume, exchange_declare, exchange_delete, publish, queue_bind, queue_declare, queue_delete,
    queue_unbind,
};
use crate::harness::wire::{method_frame, raw_frame};

#[test]
fn the_broker_makes_up_names() {
    let mut client = Client::open();
    let name = client.queue();
    let random = name.strip_prefix("amq.gen-").unwrap();
    assert_eq!(random.len(), 22);
    assert!(random.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c)), "{random}");
    assert_ne!(client.queue(), name, "an empty name is a new queue each time");
}

#[test]
fn an_empty_name_is_the_last_queue_of_the_channel() {
    let mut client = Client::open();
    let (first, second) = (client.queue(), client.queue());
    client.fill(&second, &["second"]);
    client.fill(&first, &["first"]);
    assert_eq!(client.take("").text(), "second");
    client.counts(&first);
    assert_eq!(client.take("").text(), "first", "a passive declaration counts too");
    client.bind_as(queue_bind("", "amq.direct", ""));
    client.publish("amq.direct", &first, "by the queue's name");
    assert_eq!(client.take(&first).text(), "by the queue's name");
    client.send(&Method::QueueUnbind(queue_unbind("", "amq.direct", "")));
    assert!(matches!(client.next_method().method(), Method::QueueUnbindOk(_)));
    client.consume("");
    assert_eq!(client.counts(&first), (0, 1));
    client.fill(&second, &["purged"]);
    client.counts(&second);
    let purge = Method::QueuePurge(QueuePurge { queue: "", nowait: false });
    client.call(&purge, &Method::QueuePurgeOk(QueuePurgeOk { message_count: 1 }));
    assert_eq!(client.delete(queue_delete("")), 0);
    client.open_channel(2);
    let text = "NOT_FOUND - no previously declared queue";
    client.check_channel_close(&Method::BasicGet(BasicGet { queue: "", no_ack: true }), 404, text);
}

#[test]
fn line_ends_are_no_part_of_names() {
    let mut client = Client::open();
    let name = unique("lines");
    let sent = format!("{name}\r\n");
    let declared = client.declare(QueueDeclare { exclusive: true, ..queue_declare(&sent) });
    assert_eq!(declared.queue, name);
}

#[test]
fn exclusive_queues_are_gone_when_close_is_answered() {
    let mut client = Client::open();
    let queue = unique("exclusive");
    client.declare(QueueDeclare { exclusive: true, ..queue_declare(&queue) });
    client.close();
    let mut other = Client::open();
    other.declare(QueueDeclare { exclusive: true, ..queue_declare(&queue) });
}

#[test]
fn a_silent_client_is_given_up_after_two_intervals() {
    let tune = ConnectionTuneOk { channel_max: 10, frame_max: 131_072, heartbeat: 1 };
    let mut client = Login { tune, ..Login::default() }.connect();
    let silent = Instant::now();
    let beats = client.wire.drain_to_close();
    assert!(silent.elapsed() >= Duration::from_millis(1500), "{:?}", silent.elapsed());
    assert!(!beats.is_empty());
    assert!(beats.iter().all(|beat| beat.kind == FrameKind::Heartbeat), "{beats:?}");
}

#[test]
fn a_client_that_beats_stays() {
    let tune = ConnectionTuneOk { channel_max: 10, frame_max: 131_072, heartbeat: 1 };
    let mut client = Login { tune, ..Login::default() }.connect();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(3) {
        // The broker's own beat is the clock.
        assert_eq!(client.wire.frame().kind, FrameKind::Heartbeat);
        client.wire.send_bytes(&raw_frame(8, 0, &[]));
    }
}

#[test]
fn what_few_clients_ask_is_answered() {
    let mut client = Client::open();
    let request = AccessRequest {
        realm: "/data",
        exclusive: false,
        passive: true,
        active: true,
        write: true,
        read: true,
    };
    client.call(&Method::AccessRequest(request), &Method::AccessRequestOk(AccessRequestOk { ticket: 1 }));
    let secret = ConnectionUpdateSecret { new_secret: b"guest", reason: "the old one is worn" };
    client.on(0).call(
        &Method::ConnectionUpdateSecret(secret),
        &Method::ConnectionUpdateSecretOk(ConnectionUpdateSecretOk {}),
    );
    client.on(1).barrier();
}

#[test]
fn a_channel_number_is_free_when_its_close_is_answered() {
    let mut client = Client::open();
    for _ in 0..10 {
        client.close_channel();
        client.open_channel(1);
    }
}

#[test]
fn crossing_channel_closes_are_both_answered() {
    let mut client = Client::open();
    let none = unique("none");
    client.send(&Method::QueuePurge(QueuePurge { queue: &none, nowait: false }));
    client.send(&Method::ChannelClose(CHANNEL_CLOSE));
    let close = client.next_method();
    assert!(matches!(close.method(), Method::ChannelClose(ChannelClose { reply_code: 404, .. })));
    client.expect(&Method::ChannelCloseOk(ChannelCloseOk {}));
    client.send(&Method::ChannelCloseOk(ChannelCloseOk {}));
    client.open_channel(1).barrier();
}

#[test]
fn a_close_that_crosses_the_brokers_is_answered() {
    let mut client = Client::open();
    client.wire.send(9, &Method::ChannelFlow(ChannelFlow { active: true }));
    client.on(0);
    let close = client.next_method();
    assert!(matches!(close.method(), Method::ConnectionClose(ConnectionClose { reply_code: 504, .. })));
    // On its way before the broker's close was read, as far as the broker can tell.
    client.send(&Method::ConnectionClose(CONNECTION_CLOSE));
    client.expect(&Method::ConnectionCloseOk(ConnectionCloseOk {}));
    client.wire.send_to_the_dying(&method_frame(0, &Method::ConnectionCloseOk(ConnectionCloseOk {})));
    client.wire.expect_tcp_close();
}

#[test]
fn a_client_that_closes_ends_the_connection_itself() {
    let mut client = Client::open();
    client
        .on(0)
        .call(&Method::ConnectionClose(CONNECTION_CLOSE), &Method::ConnectionCloseOk(ConnectionCloseOk {}));
    assert!(client.wire.is_silent_for(Duration::from_millis(100)), "the client may still be reading");
    client.wire.shut_down();
    client.wire.expect_tcp_close();
}

#[test]
fn a_client_that_closes_and_stays_is_given_up() {
    if !only_here("RabbitMQ waits for half a minute") {
        return;
    }
    let mut client = Client::at(impatient());
    client
        .on(0)
        .call(&Method::ConnectionClose(CONNECTION_CLOSE), &Method::ConnectionCloseOk(ConnectionCloseOk {}));
    client.wire.send_to_the_dying(&raw_frame(8, 0, &[]));
    client.wire.expect_tcp_close();
}

#[test]
fn a_broker_that_stops_says_so() {
    if !only_here("this broker is stopped for it") {
        return;
    }
    let mut own = OwnBroker::start(|_| {});
    let mut client = Client::at(own.address);
    own.begin_stop();
    client.on(0);
    let frame = client.next_method();
    let Method::ConnectionClose(close) = frame.method() else { panic!("{frame:?}") };
    let text = "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'";
    assert_eq!((close.reply_code, close.reply_text), (320, text));
    client.send(&Method::ConnectionCloseOk(ConnectionCloseOk {}));
    client.wire.expect_tcp_close();
}

/// A broker whose memory is full with a few messages, and that has no disk to put them on.
fn forgetful() -> OwnBroker {
    OwnBroker::start(|config| {
        config.memory.watermark = Watermark::Bytes(1024 * 1024);
        config.data_dir = None;
    })
}

#[test]
fn publishers_wait_while_memory_is_full_and_consumers_go_on() {
    if !only_here("the watermark is this broker's configuration") {
        return;
    }
    let own = forgetful();
    let (mut publisher, mut consumer) = (Client::at(own.address), Client::at(own.address));
    let queue = publisher.shared_queue("full");
    for _ in 0..20 {
        publisher.publish_as(publish("", &queue), NO_PROPERTIES, &[b'x'; 100_000]);
    }
    publisher.on(0).expect(&Method::ConnectionBlocked(ConnectionBlocked { reason: "low on memory" }));
    consumer.barrier();

    // Nobody reads the publisher's socket now: the kernel's buffers fill, and no more is taken.
    let heartbeats = raw_frame(8, 0, &[]).repeat(8192);
    let bytes_max = 64 * 1024 * 1024;
    assert!(publisher.wire.send_until_refused(&heartbeats, bytes_max) < bytes_max);

    consumer.consume(&queue);
    for _ in 0..20 {
        let tag = consumer.delivery().tag();
        consumer.ack(tag);
    }
    publisher.expect(&Method::ConnectionUnblocked(ConnectionUnblocked {}));
}

#[test]
fn a_publisher_that_freezes_while_it_is_blocked_is_given_up() {
    if !only_here("RabbitMQ does not look for heartbeats while it does not read") {
        return;
    }
    let own = forgetful();
    let tune = ConnectionTuneOk { channel_max: 10, frame_max: 131_072, heartbeat: 1 };
    let mut publisher = Login { address: own.address, tune, ..Login::default() }.connect();
    let mut other = Client::at(own.address);
    let queue = other.shared_queue("full");
    for _ in 0..20 {
        other.publish_as(publish("", &queue), NO_PROPERTIES, &[b'x'; 100_000]);
    }
    other.on(0).expect(&Method::ConnectionBlocked(ConnectionBlocked { reason: "low on memory" }));
    // Little lies in its socket then: there is room for a heartbeat.
    publisher.publish("", &queue, "one more");
    publisher.on(0).expect(&Method::ConnectionBlocked(ConnectionBlocked { reason: "low on memory" }));
    let beats = publisher.wire.drain_to_close();
    assert!(beats.iter().all(|beat| beat.kind == FrameKind::Heartbeat), "{beats:?}");
}

#[test]
fn a_blocked_publisher_that_goes_is_noticed_behind_what_it_has_sent() {
    if !only_here("RabbitMQ does not look while it does not read") {
        return;
    }
    let own = forgetful();
    let tune = ConnectionTuneOk { channel_max: 10, frame_max: 131_072, heartbeat: 0 };
    let mut publisher = Login { address: own.address, tune, ..Login::default() }.connect();
    let queue = publisher.queue();
    let mut other = Client::at(own.address);
    for _ in 0..20 {
        other.publish_as(publish("", &queue), NO_PROPERTIES, &[b'x'; 100_000]);
    }
    other.on(0).expect(&Method::ConnectionBlocked(ConnectionBlocked { reason: "low on memory" }));
    publisher.publish("", &queue, "the last that is read");
    publisher.on(0).expect(&Method::ConnectionBlocked(ConnectionBlocked { reason: "low on memory" }));
    publisher.on(1).publish("", &queue, "not read");
    drop(publisher);
    let deadline = Instant::now() + Duration::from_secs(20);
    let vhost = own.broker.vhost("/").unwrap();
    while vhost.queue(&queue).is_some() {
        assert!(Instant::now() < deadline, "it was the publisher's own, and keeps the alarm up");
        thread::yield_now();
    }
}

#[test]
fn a_connection_that_does_not_publish_is_not_blocked() {
    if !only_here("the watermark is this broker's configuration") {
        return;
    }
    let own = forgetful();
    let (mut publisher, mut other) = (Client::at(own.address), Client::at(own.address));
    let queue = publisher.shared_queue("full");
    for _ in 0..20 {
        publisher.publish_as(publish("", &queue), NO_PROPERTIES, &[b'x'; 100_000]);
    }
    publisher.on(0).expect(&Method::ConnectionBlocked(ConnectionBlocked { reason: "low on memory" }));
    other.barrier();
    other.publish("amq.direct", "nowhere", "now it has");
    other.on(0).expect(&Method::ConnectionBlocked(ConnectionBlocked { reason: "low on memory" }));
}

#[test]
fn a_client_that_cannot_take_it_is_blocked_without_a_word() {
    if !only_here("the watermark is this broker's configuration") {
        return;
    }
    let own = forgetful();
    let mut quiet = Login { address: own.address, capabilities: &[], ..Login::default() }.connect();
    let queue = quiet.shared_queue("full");
    for _ in 0..20 {
        quiet.publish_as(publish("", &queue), NO_PROPERTIES, &[b'x'; 100_000]);
    }
    let mut consumer = Client::at(own.address);
    consumer.consume_as(BasicConsume { no_ack: true, ..consume(&queue) });
    for _ in 0..20 {
        consumer.delivery();
    }
    quiet.barrier();
}

/// A broker with a user who may touch what begins with `mine`.
fn with_limited_user() -> (OwnBroker, Client) {
    let own = OwnBroker::start(|_| {});
    let permissions = Permissions::new("^mine|^amq.gen", "^mine", "^mine").unwrap();
    own.broker.users.put(User::new(
        "limited",
        Profile {
            password: Some(PasswordHash::hash(b"secret").unwrap()),
            permissions: HashMap::from([("/".to_owned(), permissions)]),
            ..Profile::default()
        },
    ));
    let login = Login { address: own.address, user: "limited", password: "secret", ..Login::default() };
    let client = login.connect();
    (own, client)
}

#[test]
fn what_a_user_may_not_is_403() {
    if !only_here("the user is this broker's configuration; 3.10 leaves out the first word of the text") {
        return;
    }
    let (own, mut client) = with_limited_user();
    Client::at(own.address).declare(queue_declare("theirs"));
    let refused = |access: &str, what: &str| {
        format!("ACCESS_REFUSED - {access} access to {what} in vhost '/' refused for user 'limited'")
    };
    client.declare(queue_declare("mine"));
    client.declare_exchange(exchange_declare("mine", "direct"));
    for (method, access, what) in [
        (Method::QueueDeclare(queue_declare("other")), "configure", "queue 'other'"),
        (Method::QueueDelete(queue_delete("theirs")), "configure", "queue 'theirs'"),
        (Method::ExchangeDeclare(exchange_declare("other", "direct")), "configure", "exchange 'other'"),
        (Method::ExchangeDelete(exchange_delete("other")), "configure", "exchange 'other'"),
        (Method::QueueBind(queue_bind("theirs", "mine", "k")), "write", "queue 'theirs'"),
        (Method::QueueBind(queue_bind("mine", "amq.direct", "k")), "read", "exchange 'amq.direct'"),
        (Method::BasicConsume(consume("theirs")), "read", "queue 'theirs'"),
        (Method::BasicGet(BasicGet { queue: "theirs", no_ack: true }), "read", "queue 'theirs'"),
        (Method::QueuePurge(QueuePurge { queue: "theirs", nowait: false }), "read", "queue 'theirs'"),
    ] {
        client.check_channel_close(&method, 403, &refused(access, what));
    }
    for (exchange, shown) in [("amq.direct", "amq.direct"), ("", "amq.default")] {
        client.publish(exchange, "mine", "refused");
        client.expect_channel_close((60, 40), 403, &refused("write", &format!("exchange '{shown}'")));
    }
    client.bind("mine", "mine", "k");
    client.publish("mine", "k", "allowed");
    assert_eq!(client.take("mine").text(), "allowed");
    client.declare(QueueDeclare { passive: true, ..queue_declare("theirs") });
    client.declare_exchange(ExchangeDeclare { passive: true, ..exchange_declare("amq.direct", "direct") });
}

#[test]
fn a_vhost_has_only_so_many_queues_exchanges_and_bindings() {
    if !only_here("the limits are this broker's configuration") {
        return;
    }
    let own = OwnBroker::start(|config| {
        config.limits.queues_per_vhost_max = 2;
        config.limits.exchanges_per_vhost_max = 16;
        config.limits.bindings_per_vhost_max = 3;
    });
    let mut client = Client::at(own.address);
    client.declare(queue_declare("one"));
    client.declare(queue_declare("two"));
    client.declare(queue_declare("two"));
    let text = "PRECONDITION_FAILED - cannot declare queue 'three': queue limit in vhost '/' (2) is reached";
    client.check_channel_close(&Method::QueueDeclare(queue_declare("three")), 406, text);
    for number in 0..9 {
        client.declare_exchange(exchange_declare(&number.to_string(), "direct"));
    }
    let text = "PRECONDITION_FAILED - cannot declare exchange 'more': exchange limit of 16 is reached";
    client.check_channel_close(&Method::ExchangeDeclare(exchange_declare("more", "direct")), 406, text);
    for key in ["a", "b", "c", "c"] {
        client.bind("one", "amq.direct", key);
    }
    let text = "PRECONDITION_FAILED - binding limit in vhost '/' (3) is reached";
    client.check_channel_close(&Method::QueueBind(queue_bind("two", "amq.direct", "d")), 406, text);
}
