//! Sessions without sockets: what waits for a log that is not yet durable, and what time does.

mod alarms;
mod bounds;
mod crowd;
mod ending;
mod large_bodies;
mod parked;
mod promised;
mod room;
mod silent;
mod slim;
mod transactions;
mod uploads;

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::BytesMut;

use crate::broker::Broker;
use crate::broker::checkpoint::{Checkpoint, Progress};
use crate::broker::memory::Memory;
use crate::clock::Now;
use crate::config::Config;
use crate::message::fact_codec::Sink;
use crate::protocol::field::Field;
use crate::protocol::frame::{self, FrameKind, PROTOCOL_HEADER};
use crate::protocol::methods::{
    BasicAck, BasicConsume, BasicGet, BasicNack, BasicPublish, BasicQos, ChannelOpen, ConfirmSelect,
    ConnectionOpen, ConnectionStartOk, ConnectionTuneOk, Method, QueueDeclare, QueueDelete, TxCommit,
    TxRollback, TxSelect,
};
use crate::protocol::table::{Table, TableBuf};
use crate::session::Session;
use crate::storage::disk::simulated::SimulatedDisk;
use crate::storage::error::StoreError;
use crate::storage::log::{Class, CommitMode, LogOptions};

/// delivery-mode 2.
const PERSISTENT: [u8; 3] = [0x10, 0, 2];

struct Client {
    session: Session,
    /// What the session has not taken yet.
    input: BytesMut,
    /// The bodies of the contents the session has sent.
    bodies: Vec<Vec<u8>>,
    now: Now,
    /// The names of the methods the session has sent and the test has not looked at.
    told: VecDeque<&'static str>,
    /// How many deliveries said that they were not the first.
    redelivered: usize,
}

impl Client {
    fn log_in(broker: &Arc<Broker>, heartbeat: u16) -> Self {
        let now = Now::read();
        let session = Session::new(Arc::clone(broker), now);
        let mut client = Self {
            session,
            input: BytesMut::new(),
            bodies: Vec::new(),
            now,
            told: VecDeque::new(),
            redelivered: 0,
        };
        let (mut capabilities, mut properties) = (TableBuf::new(), TableBuf::new());
        capabilities.insert("connection.blocked", Field::Bool(true));
        properties.insert("capabilities", Field::Table(capabilities.as_table()));
        client.feed(BytesMut::from(&PROTOCOL_HEADER[..]));
        client.say(
            0,
            &Method::ConnectionStartOk(ConnectionStartOk {
                client_properties: properties.as_table(),
                mechanism: "PLAIN",
                response: b"\0guest\0guest",
                locale: "en_US",
            }),
        );
        let credentials = client.session.take_verification().unwrap();
        let from = IpAddr::V4(Ipv4Addr::LOCALHOST);
        client.session.on_verified(broker.login(&credentials, from, now.instant), now);
        let tune_ok = ConnectionTuneOk { channel_max: 10, frame_max: 131_072, heartbeat };
        client.say(0, &Method::ConnectionTuneOk(tune_ok));
        client.say(0, &Method::ConnectionOpen(ConnectionOpen { virtual_host: "/" }));
        client.say(1, &Method::ChannelOpen(ChannelOpen {}));
        client.say(2, &Method::ChannelOpen(ChannelOpen {}));
        client.told.clear();
        client
    }

    fn say(&mut self, channel: u16, method: &Method<'_>) {
        let mut bytes = BytesMut::new();
        frame::put_method(&mut bytes, channel, method);
        self.feed(bytes);
    }

    fn publish_persistent(&mut self, queue: &[u8]) {
        self.feed(publish(queue, b""));
    }

    fn feed(&mut self, bytes: BytesMut) {
        self.input.unsplit(bytes);
        self.session.on_bytes(&mut self.input, self.now);
        self.listen();
    }

    fn wake(&mut self) {
        self.session.on_wake(self.now);
        self.session.on_rest(&mut self.input, self.now);
        self.listen();
    }

    fn has_work(&self) -> bool {
        self.session.poll_work(&mut Context::from_waker(Waker::noop())) == Poll::Ready(())
    }

    /// Writes what the session has to say, and notes it.
    fn listen(&mut self) {
        while !self.session.output().is_empty() {
            let mut bytes = Vec::new();
            while !self.session.output().is_empty() {
                let mut slices = [std::io::IoSlice::new(&[]); 8];
                let filled = self.session.output().fill(&mut slices);
                let before = bytes.len();
                slices[..filled].iter().for_each(|slice| bytes.extend_from_slice(slice));
                self.session.output().advance(bytes.len() - before);
            }
            self.session.on_written(self.now);
            let mut at = 0;
            while let Ok(Some(frame)) = frame::peek(&bytes[at..], 131_072) {
                at += frame.wire_bytes();
                match frame.kind {
                    FrameKind::Method => {
                        let method = Method::parse(frame.payload).unwrap();
                        if let Method::BasicDeliver(deliver) = &method {
                            self.redelivered += usize::from(deliver.redelivered);
                        }
                        self.told.push_back(method.name());
                    }
                    FrameKind::Heartbeat => self.told.push_back("heartbeat"),
                    FrameKind::Header => self.bodies.push(Vec::new()),
                    FrameKind::Body => self.bodies.last_mut().unwrap().extend_from_slice(frame.payload),
                }
            }
        }
    }

    fn told(&mut self) -> Vec<&'static str> {
        self.told.drain(..).collect()
    }
}

fn broker() -> Arc<Broker> {
    Arc::new(Broker::new(Arc::new(Config::default()), u64::MAX, u64::MAX).unwrap())
}

/// A persistent message on the first channel.
fn publish(queue: &[u8], body: &[u8]) -> BytesMut {
    let publish = BasicPublish { exchange: b"", routing_key: queue, mandatory: false, immediate: false };
    let mut bytes = BytesMut::new();
    frame::put_method(&mut bytes, 1, &Method::BasicPublish(publish));
    frame::put_header(&mut bytes, 1, body.len() as u64, &PERSISTENT);
    if !body.is_empty() {
        frame::put_body_head(&mut bytes, 1, body.len() as u32);
        bytes.extend_from_slice(body);
        bytes.extend_from_slice(&[frame::FRAME_END]);
    }
    bytes
}

fn method(method: &Method<'_>) -> BytesMut {
    let mut bytes = BytesMut::new();
    frame::put_method(&mut bytes, 1, method);
    bytes
}

fn transient(queue: &str) -> QueueDeclare<'_> {
    QueueDeclare {
        queue,
        passive: false,
        durable: false,
        exclusive: false,
        auto_delete: false,
        nowait: false,
        arguments: Table::EMPTY,
    }
}

fn declare(queue: &str) -> Method<'_> {
    Method::QueueDeclare(QueueDeclare { durable: true, ..transient(queue) })
}

fn declare_durable(client: &mut Client, queue: &str) {
    client.say(1, &declare(queue));
    assert_eq!(client.told(), ["queue.declare-ok"]);
}

fn get(queue: &str) -> Method<'_> {
    Method::BasicGet(BasicGet { queue, no_ack: true })
}

fn consume(client: &mut Client, queue: &str) {
    let consume = BasicConsume {
        queue,
        consumer_tag: "",
        no_local: false,
        no_ack: false,
        exclusive: false,
        nowait: false,
        arguments: Table::EMPTY,
    };
    client.say(1, &Method::BasicConsume(consume));
    assert_eq!(client.told(), ["basic.consume-ok"]);
}

#[test]
fn nothing_is_confirmed_or_delivered_before_it_is_durable() {
    let broker = broker();
    let mut publisher = Client::log_in(&broker, 0);
    let mut consumer = Client::log_in(&broker, 0);
    declare_durable(&mut publisher, "q");
    consume(&mut consumer, "q");
    publisher.say(1, &Method::ConfirmSelect(ConfirmSelect { nowait: true }));
    broker.node.log.hold();
    publisher.publish_persistent(b"q");
    publisher.publish_persistent(b"q");
    assert!(!publisher.has_work() && !consumer.has_work());
    assert_eq!((publisher.told(), consumer.told()), (vec![], vec![]));
    broker.node.log.release();
    assert!(publisher.has_work());
    publisher.wake();
    assert_eq!(publisher.told(), ["basic.ack"]);
    assert!(consumer.has_work());
    consumer.wake();
    assert_eq!(consumer.told(), ["basic.deliver", "basic.deliver"]);
    assert!(!publisher.has_work() && !consumer.has_work());
}

#[test]
fn a_session_that_is_at_work_does_not_wake_its_own_task() {
    #[derive(Default)]
    struct Count(AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let broker = broker();
    let mut publisher = Client::log_in(&broker, 0);
    let mut consumer = Client::log_in(&broker, 0);
    declare_durable(&mut publisher, "q");
    consumer.say(1, &Method::BasicQos(BasicQos { prefetch_size: 0, prefetch_count: 1, global: false }));
    assert_eq!(consumer.told(), ["basic.qos-ok"]);
    consume(&mut consumer, "q");
    let count = Arc::new(Count::default());
    let waker = Waker::from(Arc::clone(&count));
    let wait = |consumer: &Client| consumer.session.poll_work(&mut Context::from_waker(&waker));
    let wakes = || count.0.load(Ordering::Relaxed);

    assert_eq!(wait(&consumer), Poll::Pending);
    publisher.publish_persistent(b"q");
    publisher.publish_persistent(b"q");
    assert_eq!((wakes(), wait(&consumer)), (1, Poll::Ready(())));
    consumer.wake();
    assert_eq!((consumer.told(), wait(&consumer)), (vec!["basic.deliver"], Poll::Pending));
    consumer.say(1, &Method::BasicAck(BasicAck { delivery_tag: 1, multiple: false }));
    assert_eq!((consumer.told(), wakes()), (vec!["basic.deliver"], 1));

    assert_eq!(wait(&consumer), Poll::Pending);
    consumer.say(1, &Method::BasicAck(BasicAck { delivery_tag: 2, multiple: false }));
    assert_eq!(wait(&consumer), Poll::Pending);
    publisher.publish_persistent(b"q");
    assert_eq!(wakes(), 2);
}

#[test]
fn what_a_transaction_published_is_delivered_when_it_is_durable() {
    let broker = broker();
    let mut publisher = Client::log_in(&broker, 0);
    let mut consumer = Client::log_in(&broker, 0);
    declare_durable(&mut publisher, "q");
    consume(&mut consumer, "q");
    publisher.say(1, &Method::TxSelect(TxSelect {}));
    publisher.publish_persistent(b"q");
    broker.node.log.hold();
    publisher.say(1, &Method::TxCommit(TxCommit {}));
    assert!(!consumer.has_work());
    broker.node.log.release();
    assert!(publisher.has_work());
    publisher.wake();
    assert!(consumer.has_work());
    consumer.wake();
    assert_eq!(consumer.told(), ["basic.deliver"]);
    assert_eq!(publisher.told(), ["tx.select-ok", "tx.commit-ok"]);
}

#[test]
fn a_get_waits_for_its_head_and_the_rest_waits_for_the_get() {
    let broker = broker();
    let (mut publisher, mut getter) = (Client::log_in(&broker, 0), Client::log_in(&broker, 0));
    declare_durable(&mut publisher, "q");
    broker.node.log.hold();
    publisher.publish_persistent(b"q");
    let mut bytes = method(&get("q"));
    bytes.unsplit(method(&get("q")));
    getter.feed(bytes);
    assert_eq!(getter.told(), Vec::<&str>::new(), "not empty, and not to be had yet");
    assert!(!getter.session.wants_input() && !getter.has_work());
    broker.node.log.release();
    publisher.wake();
    assert!(getter.has_work());
    getter.wake();
    assert_eq!(getter.told(), ["basic.get-ok", "basic.get-empty"]);
    assert!(getter.session.wants_input());
}

#[test]
fn a_get_ends_with_its_queue() {
    let broker = broker();
    let (mut publisher, mut getter) = (Client::log_in(&broker, 0), Client::log_in(&broker, 0));
    declare_durable(&mut publisher, "q");
    broker.node.log.hold();
    publisher.publish_persistent(b"q");
    getter.say(1, &get("q"));
    let delete = QueueDelete { queue: "q", if_unused: false, if_empty: false, nowait: true };
    publisher.say(1, &Method::QueueDelete(delete));
    assert!(getter.has_work());
    getter.wake();
    assert_eq!(getter.told(), ["channel.close"]);
}

#[test]
fn a_commit_is_answered_when_it_is_durable() {
    let broker = broker();
    let mut client = Client::log_in(&broker, 0);
    declare_durable(&mut client, "q");
    client.say(1, &Method::TxSelect(TxSelect {}));
    client.publish_persistent(b"q");
    client.told();
    broker.node.log.hold();
    client.say(1, &Method::TxCommit(TxCommit {}));
    client.say(1, &Method::TxCommit(TxCommit {}));
    assert_eq!(client.told(), Vec::<&str>::new(), "the second has nothing to wait for but the first");
    broker.node.log.release();
    client.wake();
    assert_eq!(client.told(), ["tx.commit-ok", "tx.commit-ok"]);
}

#[test]
fn what_a_dead_publisher_left_is_released() {
    let broker = broker();
    let (mut publisher, mut consumer) = (Client::log_in(&broker, 0), Client::log_in(&broker, 0));
    declare_durable(&mut publisher, "q");
    consume(&mut consumer, "q");
    broker.node.log.hold();
    publisher.publish_persistent(b"q");
    drop(publisher);
    let mut context = Context::from_waker(Waker::noop());
    assert!(broker.poll_release(&mut context).is_pending());
    broker.release(Now::read());
    assert!(!consumer.has_work());
    broker.node.log.release();
    assert!(broker.poll_release(&mut context).is_ready());
    broker.release(Now::read());
    consumer.wake();
    assert_eq!(consumer.told(), ["basic.deliver"]);
    assert!(broker.releases.is_empty());
}

#[test]
fn what_is_returned_is_there_before_what_is_published_behind_it() {
    let broker = broker();
    let mut client = Client::log_in(&broker, 0);
    declare_durable(&mut client, "q");
    consume(&mut client, "q");
    client.feed(publish(b"q", b"first"));
    let nack = BasicNack { delivery_tag: 1, multiple: false, requeue: true };
    let mut bytes = method(&Method::BasicNack(nack));
    bytes.unsplit(publish(b"q", b"second"));
    client.feed(bytes);
    assert_eq!(client.bodies, [&b"first"[..], b"first", b"second"]);
}

#[test]
fn publishers_wait_while_the_disk_is_short_or_the_log_behind() {
    let broker = broker();
    let (mut publisher, mut other) = (Client::log_in(&broker, 0), Client::log_in(&broker, 0));
    declare_durable(&mut publisher, "q");
    broker.on_disk_full(&StoreError::io("write", "log")(std::io::ErrorKind::StorageFull.into()));
    publisher.publish_persistent(b"q");
    other.say(1, &get("none"));
    assert!(publisher.session.is_blocked() && !other.session.is_blocked());
    alarms::end_alarms(&broker, &publisher);
    assert!(publisher.has_work());
    publisher.wake();
    assert!(!publisher.session.is_blocked());
    broker.node.log.hold();
    let waiting = vec![0; 64 << 20];
    broker.node.log.append().push_record(1, Class::Message, [], |sink| sink.put(&waiting));
    publisher.publish_persistent(b"q");
    assert!(!publisher.session.wants_input() && other.session.wants_input());
    broker.node.log.release();
    assert!(publisher.has_work());
    publisher.wake();
    assert!(publisher.session.wants_input());
}

#[test]
fn who_only_acknowledges_waits_as_well_when_the_log_takes_nothing_for_long() {
    let broker = broker();
    let mut consumer = Client::log_in(&broker, 0);
    declare_durable(&mut consumer, "q");
    consume(&mut consumer, "q");
    for _ in 0..3 {
        consumer.publish_persistent(b"q");
    }
    broker.node.log.hold();
    // The log in memory has slots of a MiB: one of these is more than that, and two are more than twice as much.
    let waiting = vec![0; 3 << 19];
    let append = || broker.node.log.append().push_record(1, Class::Message, [], |sink| sink.put(&waiting));
    let ack = |delivery_tag| Method::BasicAck(BasicAck { delivery_tag, multiple: false });
    append();
    consumer.say(1, &ack(1));
    assert!(consumer.session.wants_input(), "what frees memory is taken while the log is only behind");
    append();
    consumer.say(1, &ack(2));
    assert!(!consumer.session.wants_input());
    broker.node.log.release();
    assert!(consumer.has_work());
    consumer.wake();
    assert!(consumer.session.wants_input());
}

#[test]
fn a_transaction_has_room_for_so_many_bytes() {
    let mut config = Config::default();
    config.limits.tx_bytes_max = 1000;
    let broker = Arc::new(Broker::new(Arc::new(config), u64::MAX, u64::MAX).unwrap());
    let mut client = Client::log_in(&broker, 0);
    declare_durable(&mut client, "q");
    client.say(1, &Method::TxSelect(TxSelect {}));
    client.feed(publish(b"q", &[b'm'; 800]));
    client.say(1, &Method::TxRollback(TxRollback {}));
    client.feed(publish(b"q", &[b'm'; 800]));
    assert_eq!(client.told(), ["tx.select-ok", "tx.rollback-ok"]);
    client.feed(publish(b"q", &[b'm'; 800]));
    assert_eq!(client.told(), ["channel.close"]);
}

#[test]
fn heartbeats_go_out_and_their_absence_ends_the_connection() {
    let broker = broker();
    let mut client = Client::log_in(&broker, 2);
    for expected in [vec!["heartbeat"], vec!["heartbeat"], vec!["heartbeat"]] {
        client.now = client.now.later(Duration::from_secs(1));
        client.session.on_timeout(client.now);
        client.listen();
        assert_eq!(client.told(), expected);
        assert!(!client.session.is_closed());
    }
    client.now = client.now.later(Duration::from_secs(1));
    client.session.on_timeout(client.now);
    assert!(client.session.is_closed());
}

/// A broker on a disk in memory whose slots are small.
fn broker_with_a_disk() -> (Arc<Broker>, Checkpoint) {
    let options = LogOptions {
        slot_bytes: 64 * 1024,
        window_slots: 3,
        commit: CommitMode::Inline,
        ..LogOptions::default()
    };
    let memory = Memory::new(u64::MAX, u64::MAX);
    let disk = Arc::new(SimulatedDisk::new());
    let (broker, checkpoint) = Broker::open(Arc::new(Config::default()), disk, options, memory).unwrap();
    (Arc::new(broker), checkpoint)
}

fn run_checkpoint(broker: &Broker, checkpoint: &mut Checkpoint) {
    while checkpoint.step(broker).unwrap() == Progress::Working {}
}

#[test]
fn only_messages_that_outlive_the_window_are_copied_to_a_pack() {
    const MESSAGES: usize = 500;
    let (broker, mut checkpoint) = broker_with_a_disk();
    let mut client = Client::log_in(&broker, 0);
    declare_durable(&mut client, "short");
    declare_durable(&mut client, "long");
    let written = |broker: &Broker| broker.node.log.counters.bytes.read();
    for _ in 0..MESSAGES {
        client.feed(publish(b"short", &[7; 1000]));
        client.say(1, &get("short"));
        run_checkpoint(&broker, &mut checkpoint);
    }
    assert_eq!(client.bodies.len(), MESSAGES);
    let window = 3 * 64 * 1024;
    assert!(written(&broker) > 2 * window, "the log went round: {}", written(&broker));
    assert_eq!(broker.node.counters.packed_messages.read(), 0);
    for _ in 0..MESSAGES {
        client.feed(publish(b"long", &[7; 1000]));
        run_checkpoint(&broker, &mut checkpoint);
    }
    let packed = broker.node.counters.packed_messages.read();
    assert!(0 < packed && packed < MESSAGES as u64, "those in the window are not: {packed}");
}
