//! Sessions without sockets: what waits for a log that is not yet durable, and what time does.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::BytesMut;

use crate::broker::Broker;
use crate::clock::Now;
use crate::config::Config;
use crate::protocol::frame::{self, FrameKind, PROTOCOL_HEADER};
use crate::protocol::methods::{
    BasicConsume, BasicPublish, ChannelOpen, ConfirmSelect, ConnectionOpen, ConnectionStartOk,
    ConnectionTuneOk, Method, QueueDeclare, TxCommit, TxSelect,
};
use crate::protocol::table::Table;
use crate::session::Session;

/// delivery-mode 2.
const PERSISTENT: [u8; 3] = [0x10, 0, 2];

struct Client {
    session: Session,
    now: Now,
    /// The names of the methods the session has sent and the test has not looked at.
    told: VecDeque<&'static str>,
}

impl Client {
    fn log_in(broker: &Arc<Broker>, heartbeat: u16) -> Self {
        let now = Now::read();
        let mut client = Self { session: Session::new(Arc::clone(broker), now), now, told: VecDeque::new() };
        client.feed(BytesMut::from(&PROTOCOL_HEADER[..]));
        client.say(
            0,
            &Method::ConnectionStartOk(ConnectionStartOk {
                client_properties: Table::EMPTY,
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
        client.told.clear();
        client
    }

    fn say(&mut self, channel: u16, method: &Method<'_>) {
        let mut bytes = BytesMut::new();
        frame::put_method(&mut bytes, channel, method);
        self.feed(bytes);
    }

    fn publish_persistent(&mut self, queue: &[u8]) {
        let publish = BasicPublish { exchange: b"", routing_key: queue, mandatory: false, immediate: false };
        let mut bytes = BytesMut::new();
        frame::put_method(&mut bytes, 1, &Method::BasicPublish(publish));
        frame::put_header(&mut bytes, 1, 0, &PERSISTENT);
        self.feed(bytes);
    }

    fn feed(&mut self, mut bytes: BytesMut) {
        self.session.on_bytes(&mut bytes, self.now);
        self.listen();
    }

    fn wake(&mut self) {
        self.session.on_wake();
        self.listen();
    }

    fn has_work(&self) -> bool {
        self.session.poll_work(&mut Context::from_waker(Waker::noop())) == Poll::Ready(())
    }

    /// Writes what the session has to say, and notes it.
    fn listen(&mut self) {
        while !self.session.output().is_empty() {
            let mut slices = [std::io::IoSlice::new(&[]); 8];
            let filled = self.session.output().fill(&mut slices);
            let bytes: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.iter().copied()).collect();
            self.session.output().advance(bytes.len());
            self.session.on_written(self.now);
            let mut at = 0;
            while let Ok(Some(frame)) = frame::peek(&bytes[at..], 131_072) {
                at += frame.wire_bytes();
                match frame.kind {
                    FrameKind::Method => self.told.push_back(Method::parse(frame.payload).unwrap().name()),
                    FrameKind::Heartbeat => self.told.push_back("heartbeat"),
                    FrameKind::Header | FrameKind::Body => {}
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

fn declare_durable(client: &mut Client, queue: &str) {
    let declare = QueueDeclare {
        queue,
        passive: false,
        durable: true,
        exclusive: false,
        auto_delete: false,
        nowait: false,
        arguments: Table::EMPTY,
    };
    client.say(1, &Method::QueueDeclare(declare));
    assert_eq!(client.told(), ["queue.declare-ok"]);
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
