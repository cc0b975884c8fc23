//! A client without a socket, which counts the steps of its session's turns.

use std::collections::{BTreeMap, VecDeque};
use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::task::{Context, Waker};

use bytes::BytesMut;
use sluicemq::broker::Broker;
use sluicemq::clock::Now;
use sluicemq::protocol::field::Field;
use sluicemq::protocol::frame::{self, FrameKind, PROTOCOL_HEADER};
use sluicemq::protocol::methods::{
    BasicAck, BasicConsume, BasicPublish, BasicQos, ChannelOpen, ConnectionOpen, ConnectionStartOk,
    ConnectionTuneOk, Method, QueueBind, QueueDeclare,
};
use sluicemq::protocol::table::{Table, TableBuf};
use sluicemq::session::Session;

/// What a turn may take: what is begun in the last of a thousand steps is bounded by as many again.
pub(crate) const STEPS_MAX: u32 = 2_000;
/// A client that needs more turns than this is starved, or in a loop.
const TURNS_MAX: usize = 100_000;

/// A delivery that a client has heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Delivery {
    pub(crate) channel: u16,
    pub(crate) tag: u64,
    pub(crate) consumer: String,
    pub(crate) body: Vec<u8>,
}

pub(crate) struct Client {
    pub(crate) session: Session,
    /// It reads what is said to it.
    pub(crate) reads: bool,
    pub(crate) deliveries: VecDeque<Delivery>,
    /// Answers and notices, by name, with the number that some of them bear.
    pub(crate) told: VecDeque<(&'static str, u64)>,
    /// The longest turn so far, in steps, and how many there were.
    pub(crate) longest: u32,
    pub(crate) turns: usize,
    input: BytesMut,
    unread: Vec<u8>,
    now: Now,
    partial: BTreeMap<u16, Delivery>,
}

impl Client {
    /// A client that has logged in, with one open channel.
    pub(crate) fn log_in(broker: &Arc<Broker>) -> Self {
        let now = Now::read();
        let mut client = Self {
            session: Session::new(Arc::clone(broker), now),
            reads: true,
            deliveries: VecDeque::new(),
            told: VecDeque::new(),
            longest: 0,
            turns: 0,
            input: BytesMut::new(),
            unread: Vec::new(),
            now,
            partial: BTreeMap::new(),
        };
        client.input.extend_from_slice(&PROTOCOL_HEADER);
        let start_ok = ConnectionStartOk {
            client_properties: Table::EMPTY,
            mechanism: "PLAIN",
            response: b"\0guest\0guest",
            locale: "en_US",
        };
        frame::put_method(&mut client.input, 0, &Method::ConnectionStartOk(start_ok));
        client.session.on_bytes(&mut client.input, now);
        let credentials = client.session.take_verification().expect("a login to verify");
        let user = broker.login(&credentials, IpAddr::V4(Ipv4Addr::LOCALHOST), now.instant);
        client.session.on_verified(user, now);
        let tune_ok = ConnectionTuneOk { channel_max: 2047, frame_max: 131_072, heartbeat: 0 };
        client.say(0, &Method::ConnectionTuneOk(tune_ok));
        client.say(0, &Method::ConnectionOpen(ConnectionOpen { virtual_host: "/" }));
        client.open(1);
        client.told.clear();
        client
    }

    pub(crate) fn open(&mut self, channel: u16) {
        self.say(channel, &Method::ChannelOpen(ChannelOpen {}));
    }

    /// Says one thing, and has as many turns as that takes.
    pub(crate) fn say(&mut self, channel: u16, method: &Method<'_>) {
        let mut bytes = BytesMut::new();
        frame::put_method(&mut bytes, channel, method);
        self.feed(&bytes);
    }

    /// Its bytes arrive at once, and it has as many turns as they take.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.begin(bytes);
        self.finish();
    }

    /// Its bytes arrive at once, and it has its first turn.
    pub(crate) fn begin(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        self.session.on_bytes(&mut self.input, self.now);
        self.end_turn();
    }

    /// It has turns until it has nothing to do.
    pub(crate) fn finish(&mut self) {
        for _ in 0..TURNS_MAX {
            if !self.turn() {
                return;
            }
        }
        panic!("it never comes to rest");
    }

    /// One more turn, if it has something to do.
    pub(crate) fn turn(&mut self) -> bool {
        if self.session.poll_work(&mut Context::from_waker(Waker::noop())).is_pending() {
            return false;
        }
        self.session.on_wake(self.now);
        self.session.on_rest(&mut self.input, self.now);
        self.end_turn();
        true
    }

    fn end_turn(&mut self) {
        self.longest = self.longest.max(self.session.steps());
        self.turns += 1;
        if self.reads {
            self.read(usize::MAX);
        }
    }

    /// Reads up to so many bytes of what is said to it.
    pub(crate) fn read(&mut self, mut most: usize) {
        while most > 0 && !self.session.output().is_empty() {
            let mut slices = [IoSlice::new(&[]); 8];
            let output = self.session.output();
            let filled = output.fill(&mut slices);
            let before = self.unread.len();
            slices[..filled].iter().for_each(|slice| self.unread.extend_from_slice(slice));
            self.unread.truncate(before + most);
            let read = self.unread.len() - before;
            output.advance(read);
            most -= read;
            if output.is_empty() {
                self.session.on_written(self.now);
                self.longest = self.longest.max(self.session.steps());
            }
        }
        self.hear();
    }

    fn hear(&mut self) {
        let unread = std::mem::take(&mut self.unread);
        let mut rest = &unread[..];
        while let Ok(Some(frame)) = frame::peek(rest, 131_072) {
            match frame.kind {
                FrameKind::Method => self.hear_method(frame.channel, frame.payload),
                FrameKind::Header if frame.payload[4..12] == [0; 8] => self.hear_whole(frame.channel),
                FrameKind::Body => {
                    // Those of gets are not kept.
                    if let Some(partial) = self.partial.get_mut(&frame.channel) {
                        partial.body.extend_from_slice(frame.payload);
                        self.hear_whole(frame.channel);
                    }
                }
                FrameKind::Header | FrameKind::Heartbeat => {}
            }
            rest = &rest[frame.wire_bytes()..];
        }
        self.unread = rest.to_vec();
    }

    /// Bodies of these tests are in one frame.
    fn hear_whole(&mut self, channel: u16) {
        self.deliveries.extend(self.partial.remove(&channel));
    }

    fn hear_method(&mut self, channel: u16, payload: &[u8]) {
        let method = Method::parse(payload).expect("the broker says what it should");
        let number = match &method {
            Method::BasicDeliver(deliver) => {
                let (consumer, tag) = (deliver.consumer_tag.to_owned(), deliver.delivery_tag);
                self.partial.insert(channel, Delivery { channel, tag, consumer, body: Vec::new() });
                return;
            }
            Method::BasicAck(ack) => ack.delivery_tag,
            Method::QueuePurgeOk(purged) => purged.message_count.into(),
            Method::QueueDeclareOk(declared) => declared.message_count.into(),
            Method::QueueDeleteOk(deleted) => deleted.message_count.into(),
            _ => 0,
        };
        self.told.push_back((method.name(), number));
    }

    /// The next answer.
    pub(crate) fn answer(&mut self) -> Option<(&'static str, u64)> {
        self.told.pop_front()
    }

    pub(crate) fn declare(&mut self, queue: &str) {
        let declare = QueueDeclare {
            queue,
            passive: false,
            durable: false,
            exclusive: false,
            auto_delete: false,
            nowait: true,
            arguments: Table::EMPTY,
        };
        self.say(1, &Method::QueueDeclare(declare));
    }

    pub(crate) fn bind(&mut self, queue: &str, exchange: &str, routing_key: &str) {
        let bind = QueueBind { queue, exchange, routing_key, nowait: true, arguments: Table::EMPTY };
        self.say(1, &Method::QueueBind(bind));
    }

    pub(crate) fn consume(&mut self, channel: u16, queue: &str, consumer_tag: &str, no_ack: bool) {
        self.consume_at(0, channel, queue, consumer_tag, no_ack);
    }

    /// As [`Client::consume`], at a priority.
    pub(crate) fn consume_at(
        &mut self,
        priority: i32,
        channel: u16,
        queue: &str,
        consumer_tag: &str,
        no_ack: bool,
    ) {
        let mut arguments = TableBuf::new();
        arguments.insert("x-priority", Field::I32(priority));
        let consume = BasicConsume {
            queue,
            consumer_tag,
            no_local: false,
            no_ack,
            exclusive: false,
            nowait: true,
            arguments: arguments.as_table(),
        };
        self.say(channel, &Method::BasicConsume(consume));
    }

    pub(crate) fn qos(&mut self, channel: u16, prefetch_count: u16, global: bool) {
        self.say(channel, &Method::BasicQos(BasicQos { prefetch_size: 0, prefetch_count, global }));
        assert_eq!(self.answer(), Some(("basic.qos-ok", 0)));
    }

    pub(crate) fn ack(&mut self, delivery: &Delivery) {
        let ack = BasicAck { delivery_tag: delivery.tag, multiple: false };
        self.say(delivery.channel, &Method::BasicAck(ack));
    }
}

/// A message on the first channel, as its frames.
pub(crate) fn publish(exchange: &[u8], routing_key: &[u8], body: &[u8]) -> BytesMut {
    let publish = BasicPublish { exchange, routing_key, mandatory: false, immediate: false };
    let mut bytes = BytesMut::new();
    frame::put_method(&mut bytes, 1, &Method::BasicPublish(publish));
    frame::put_header(&mut bytes, 1, body.len() as u64, &[0, 0]);
    if !body.is_empty() {
        frame::put_body_head(&mut bytes, 1, body.len() as u32);
        bytes.extend_from_slice(body);
        bytes.extend_from_slice(&[frame::FRAME_END]);
    }
    bytes
}
