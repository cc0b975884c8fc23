//! A client of the broker: one connection, its channels, and what is expected on them.
//!
//! It reads strictly: what a test expects is the next frame, or the test fails. So order is part of every script.

use std::net::SocketAddr;

use sluicemq::protocol::frame::FrameKind;
use sluicemq::protocol::methods::{
    BasicAck, BasicCancel, BasicCancelOk, BasicConsume, BasicConsumeOk, BasicGet, BasicGetEmpty, BasicNack,
    BasicPublish, BasicQos, BasicQosOk, BasicReject, ChannelClose, ChannelCloseOk, ChannelFlow,
    ChannelFlowOk, ChannelOpen, ChannelOpenOk, ConfirmSelect, ConfirmSelectOk, ConnectionClose,
    ConnectionCloseOk, ExchangeBindOk, ExchangeDeclare, ExchangeDeclareOk, ExchangeDeleteOk, Method,
    QueueBind, QueueBindOk, QueueDeclare, QueueDeclareOk, QueueDelete, QueueDeleteOk,
};

use crate::harness::broker::{self, unique};
use crate::harness::content::{Arrival, content_frames, header_frame};
use crate::harness::login::Login;
use crate::harness::methods::{
    consume, exchange_bind, exchange_declare, exchange_delete, publish, queue_bind, queue_declare,
    queue_delete,
};
use crate::harness::wire::{Frame, Wire, method_frame, raw_frame};

/// Properties of a message without any.
pub(crate) const NO_PROPERTIES: &[u8] = &[0, 0];

/// The channel that [`Client::fill`] borrows.
const FILL_CHANNEL: u16 = 2000;

/// A queue as queue.declare-ok describes it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Declared {
    pub(crate) queue: String,
    pub(crate) messages: u32,
    pub(crate) consumers: u32,
}

/// A connection, and the channel that is spoken on.
pub(crate) struct Client {
    pub(crate) wire: Wire,
    channel: u16,
    /// What does not go with the connection.
    left_queues: Vec<String>,
    left_exchanges: Vec<String>,
}

impl Client {
    /// Logs in and opens channel 1.
    pub(crate) fn open() -> Self {
        Login::default().connect()
    }

    /// The same, at a broker of one's own.
    pub(crate) fn at(address: SocketAddr) -> Self {
        Login { address, ..Login::default() }.connect()
    }

    /// A connection that is open; opens its channel 1.
    pub(crate) fn over(wire: Wire) -> Self {
        let mut client = Self { wire, channel: 1, left_queues: Vec::new(), left_exchanges: Vec::new() };
        client.open_channel(1);
        client
    }

    /// Opens a channel and speaks on it from now on.
    pub(crate) fn open_channel(&mut self, channel: u16) -> &mut Self {
        self.on(channel).call(&Method::ChannelOpen(ChannelOpen {}), &Method::ChannelOpenOk(ChannelOpenOk {}));
        self
    }

    /// Speaks on that channel from now on.
    pub(crate) fn on(&mut self, channel: u16) -> &mut Self {
        self.channel = channel;
        self
    }

    pub(crate) fn send(&mut self, method: &Method<'_>) {
        self.wire.send(self.channel, method);
    }

    /// The next frame must be this method, on this channel.
    pub(crate) fn expect(&mut self, expected: &Method<'_>) {
        let frame = self.next_method();
        assert_eq!(frame.method(), *expected);
    }

    /// Sends one method and expects another at once.
    pub(crate) fn call(&mut self, method: &Method<'_>, expected: &Method<'_>) {
        self.send(method);
        self.expect(expected);
    }

    /// The next frame, which is to be a method on this channel.
    pub(crate) fn next_method(&mut self) -> Frame {
        let frame = self.wire.frame();
        let place = (frame.kind, frame.channel);
        assert_eq!(place, (FrameKind::Method, self.channel), "{}", shown(&frame));
        frame
    }

    /// Returns when the broker has done all that was sent before.
    pub(crate) fn barrier(&mut self) {
        let flow = Method::ChannelFlow(ChannelFlow { active: true });
        self.call(&flow, &Method::ChannelFlowOk(ChannelFlowOk { active: true }));
    }

    /// The broker closes the channel for what the method did; the connection goes on, and so does the number.
    pub(crate) fn expect_channel_close(&mut self, method: (u16, u16), code: u16, text: &str) {
        let frame = self.next_method();
        let Method::ChannelClose(close) = frame.method() else { panic!("a close, not {}", shown(&frame)) };
        assert_eq!((close.reply_code, close.reply_text), (code, text));
        assert_eq!((close.class_id, close.method_id), method, "the refused method");
        self.send(&Method::ChannelCloseOk(ChannelCloseOk {}));
        let channel = self.channel;
        self.open_channel(channel).barrier();
    }

    /// The broker closes the connection for what the method did, and goes on serving others.
    pub(crate) fn expect_connection_close(&mut self, method: (u16, u16), code: u16, text: &str) {
        expect_connection_close(&mut self.wire, method, code, text);
    }

    /// Sends a method and expects that it closes the channel.
    pub(crate) fn check_channel_close(&mut self, method: &Method<'_>, code: u16, text: &str) {
        self.send(method);
        self.expect_channel_close(method.id(), code, text);
    }

    /// Sends a method and expects that it closes the connection.
    pub(crate) fn check_connection_close(mut self, method: &Method<'_>, code: u16, text: &str) {
        self.send(method);
        self.expect_connection_close(method.id(), code, text);
    }

    /// Closes the channel from here; nothing more comes on it.
    pub(crate) fn close_channel(&mut self) {
        self.call(&Method::ChannelClose(CHANNEL_CLOSE), &Method::ChannelCloseOk(ChannelCloseOk {}));
    }

    /// Closes the connection from here. What goes with it is gone afterwards.
    pub(crate) fn close(mut self) {
        self.on(0).call(
            &Method::ConnectionClose(CONNECTION_CLOSE),
            &Method::ConnectionCloseOk(ConnectionCloseOk {}),
        );
    }

    /// A new queue that goes with the connection.
    pub(crate) fn queue(&mut self) -> String {
        self.declare(QueueDeclare { exclusive: true, ..queue_declare("") }).queue
    }

    /// A new queue that others can use; deleted when the test ends.
    pub(crate) fn shared_queue(&mut self, what: &str) -> String {
        let queue = self.leave_queue(unique(what));
        self.declare(queue_declare(&queue)).queue
    }

    /// The name of a queue that is deleted when the test ends.
    pub(crate) fn leave_queue(&mut self, queue: String) -> String {
        self.left_queues.push(queue.clone());
        queue
    }

    pub(crate) fn declare(&mut self, declare: QueueDeclare<'_>) -> Declared {
        self.send(&Method::QueueDeclare(declare));
        self.declared()
    }

    /// The answer to queue.declare.
    pub(crate) fn declared(&mut self) -> Declared {
        let frame = self.next_method();
        let Method::QueueDeclareOk(QueueDeclareOk { queue, message_count, consumer_count }) = frame.method()
        else {
            panic!("queue.declare-ok, not {}", shown(&frame));
        };
        Declared { queue: queue.to_owned(), messages: message_count, consumers: consumer_count }
    }

    /// How many messages are ready, and how many consumers there are.
    pub(crate) fn counts(&mut self, queue: &str) -> (u32, u32) {
        let declared = self.declare(QueueDeclare { passive: true, ..queue_declare(queue) });
        (declared.messages, declared.consumers)
    }

    /// Deletes a queue; how many messages went with it.
    pub(crate) fn delete(&mut self, delete: QueueDelete<'_>) -> u32 {
        self.send(&Method::QueueDelete(delete));
        let frame = self.next_method();
        let Method::QueueDeleteOk(QueueDeleteOk { message_count }) = frame.method() else {
            panic!("queue.delete-ok, not {}", shown(&frame));
        };
        message_count
    }

    /// A new exchange, deleted when the test ends.
    pub(crate) fn exchange(&mut self, kind: &str) -> String {
        let exchange = self.leave_exchange(unique(kind));
        self.declare_exchange(exchange_declare(&exchange, kind));
        exchange
    }

    /// The name of an exchange that is deleted when the test ends.
    pub(crate) fn leave_exchange(&mut self, exchange: String) -> String {
        self.left_exchanges.push(exchange.clone());
        exchange
    }

    pub(crate) fn declare_exchange(&mut self, declare: ExchangeDeclare<'_>) {
        let ok = Method::ExchangeDeclareOk(ExchangeDeclareOk {});
        self.call(&Method::ExchangeDeclare(declare), &ok);
    }

    pub(crate) fn bind(&mut self, queue: &str, exchange: &str, key: &str) {
        self.bind_as(queue_bind(queue, exchange, key));
    }

    pub(crate) fn bind_as(&mut self, bind: QueueBind<'_>) {
        self.call(&Method::QueueBind(bind), &Method::QueueBindOk(QueueBindOk {}));
    }

    pub(crate) fn bind_exchange(&mut self, destination: &str, source: &str, key: &str) {
        let bind = Method::ExchangeBind(exchange_bind(destination, source, key));
        self.call(&bind, &Method::ExchangeBindOk(ExchangeBindOk {}));
    }

    pub(crate) fn publish(&mut self, exchange: &str, key: &str, body: &str) {
        self.publish_as(publish(exchange, key), NO_PROPERTIES, body.as_bytes());
    }

    /// Publishes through the default exchange.
    pub(crate) fn put(&mut self, queue: &str, body: &str) {
        self.publish("", queue, body);
    }

    /// Publishes many through the default exchange.
    pub(crate) fn put_all(&mut self, queue: &str, bodies: &[&str]) {
        for body in bodies {
            self.put(queue, body);
        }
    }

    /// Puts messages into a queue, and returns when they are there. (Counting overtakes publishes in RabbitMQ.)
    pub(crate) fn fill(&mut self, queue: &str, bodies: &[&str]) {
        let channel = self.channel;
        self.open_channel(FILL_CHANNEL).select_confirms();
        self.put_all(queue, bodies);
        self.expect_confirm(bodies.len() as u64);
        self.close_channel();
        self.on(channel);
    }

    pub(crate) fn publish_as(&mut self, publish: BasicPublish<'_>, properties: &[u8], body: &[u8]) {
        let mut frames = method_frame(self.channel, &Method::BasicPublish(publish));
        frames.extend(content_frames(self.channel, properties, body));
        self.wire.send_bytes(&frames);
    }

    /// Publishes through the default exchange with the whole body in one frame.
    pub(crate) fn publish_in_one_frame(&mut self, queue: &str, body: &[u8]) {
        let size = body.len() as u64;
        self.send(&Method::BasicPublish(publish("", queue)));
        self.wire.send_bytes(&header_frame(self.channel, 60, 0, size, NO_PROPERTIES));
        self.wire.send_bytes(&raw_frame(FrameKind::Body as u8, self.channel, body));
    }

    pub(crate) fn select_confirms(&mut self) {
        let select = Method::ConfirmSelect(ConfirmSelect { nowait: false });
        self.call(&select, &Method::ConfirmSelectOk(ConfirmSelectOk {}));
    }

    /// Waits until everything up to this publish is confirmed.
    pub(crate) fn expect_confirm(&mut self, last: u64) {
        loop {
            let frame = self.next_method();
            let Method::BasicAck(ack) = frame.method() else { panic!("an ack, not {}", shown(&frame)) };
            assert!(ack.delivery_tag <= last, "{ack:?} confirms more than {last}");
            if ack.delivery_tag == last {
                return;
            }
        }
    }

    /// Starts a consumer; its tag.
    pub(crate) fn consume(&mut self, queue: &str) -> String {
        self.consume_as(consume(queue))
    }

    pub(crate) fn consume_as(&mut self, consume: BasicConsume<'_>) -> String {
        self.send(&Method::BasicConsume(consume));
        let frame = self.next_method();
        let Method::BasicConsumeOk(BasicConsumeOk { consumer_tag }) = frame.method() else {
            panic!("basic.consume-ok, not {}", shown(&frame));
        };
        consumer_tag.to_owned()
    }

    pub(crate) fn cancel(&mut self, tag: &str) {
        let cancel = Method::BasicCancel(BasicCancel { consumer_tag: tag, nowait: false });
        self.call(&cancel, &Method::BasicCancelOk(BasicCancelOk { consumer_tag: tag }));
    }

    /// The next frame begins a delivery.
    pub(crate) fn delivery(&mut self) -> Arrival {
        let frame = self.next_method();
        assert!(matches!(frame.method(), Method::BasicDeliver(_)), "a delivery, not {}", shown(&frame));
        Arrival::read(&mut self.wire, frame)
    }

    /// The bodies of the next deliveries.
    pub(crate) fn bodies(&mut self, count: usize) -> Vec<String> {
        (0..count).map(|_| self.delivery().text().to_owned()).collect()
    }

    /// The next frame begins a return.
    pub(crate) fn returned(&mut self) -> Arrival {
        let frame = self.next_method();
        assert!(matches!(frame.method(), Method::BasicReturn(_)), "a return, not {}", shown(&frame));
        Arrival::read(&mut self.wire, frame)
    }

    /// Takes a message and owes its acknowledgement.
    pub(crate) fn get(&mut self, queue: &str) -> Option<Arrival> {
        self.get_as(BasicGet { queue, no_ack: false })
    }

    /// Takes a message that is sure to be there, for good.
    pub(crate) fn take(&mut self, queue: &str) -> Arrival {
        self.get_as(BasicGet { queue, no_ack: true }).expect("a message is in the queue")
    }

    pub(crate) fn get_as(&mut self, get: BasicGet<'_>) -> Option<Arrival> {
        self.send(&Method::BasicGet(get));
        let frame = self.next_method();
        match frame.method() {
            Method::BasicGetOk(_) => Some(Arrival::read(&mut self.wire, frame)),
            Method::BasicGetEmpty(BasicGetEmpty {}) => None,
            other => panic!("basic.get-ok or get-empty, not {other:?}"),
        }
    }

    /// All there is in the queue, taken for good.
    pub(crate) fn take_all(&mut self, queue: &str) -> Vec<String> {
        let next = || Some(self.get_as(BasicGet { queue, no_ack: true })?.text().to_owned());
        std::iter::from_fn(next).collect()
    }

    pub(crate) fn qos(&mut self, prefetch_count: u16, global: bool) {
        let qos = Method::BasicQos(BasicQos { prefetch_size: 0, prefetch_count, global });
        self.call(&qos, &Method::BasicQosOk(BasicQosOk {}));
    }

    pub(crate) fn ack(&mut self, delivery_tag: u64) {
        self.send(&Method::BasicAck(BasicAck { delivery_tag, multiple: false }));
    }

    pub(crate) fn ack_through(&mut self, delivery_tag: u64) {
        self.send(&Method::BasicAck(BasicAck { delivery_tag, multiple: true }));
    }

    pub(crate) fn requeue(&mut self, delivery_tag: u64) {
        self.send(&Method::BasicReject(BasicReject { delivery_tag, requeue: true }));
    }

    pub(crate) fn requeue_through(&mut self, delivery_tag: u64) {
        self.send(&Method::BasicNack(BasicNack { delivery_tag, multiple: true, requeue: true }));
    }
}

impl Drop for Client {
    /// Another broker keeps what is left in it; one of this process ends anyway.
    fn drop(&mut self) {
        if broker::is_ours() || std::thread::panicking() {
            return;
        }
        if self.left_queues.is_empty() && self.left_exchanges.is_empty() {
            return;
        }
        let mut cleaner = Self::at(self.wire.address);
        for queue in &self.left_queues {
            cleaner.delete(queue_delete(queue));
        }
        for exchange in &self.left_exchanges {
            let delete = Method::ExchangeDelete(exchange_delete(exchange));
            cleaner.call(&delete, &Method::ExchangeDeleteOk(ExchangeDeleteOk {}));
        }
        cleaner.close();
    }
}

/// A client's reasonless channel.close.
pub(crate) const CHANNEL_CLOSE: ChannelClose<'_> =
    ChannelClose { reply_code: 200, reply_text: "bye", class_id: 0, method_id: 0 };

/// A client's reasonless connection.close.
pub(crate) const CONNECTION_CLOSE: ConnectionClose<'_> =
    ConnectionClose { reply_code: 200, reply_text: "bye", class_id: 0, method_id: 0 };

/// The broker closes the connection and, when that is answered, the socket; others can still work.
pub(crate) fn expect_connection_close(wire: &mut Wire, method: (u16, u16), code: u16, text: &str) {
    let frame = wire.frame();
    let Method::ConnectionClose(close) = frame.method() else { panic!("a close, not {}", shown(&frame)) };
    assert_eq!((close.reply_code, close.reply_text), (code, text));
    assert_eq!((close.class_id, close.method_id), method, "the refused method");
    assert_eq!(frame.channel, 0);
    wire.send_to_the_dying(&method_frame(0, &Method::ConnectionCloseOk(ConnectionCloseOk {})));
    wire.expect_tcp_close();
    assert_usable(wire.address);
}

/// The broker still serves a client that comes now.
pub(crate) fn assert_usable(address: SocketAddr) {
    let mut other = Client::at(address);
    let queue = other.queue();
    other.put(&queue, "alive");
    assert_eq!(other.take(&queue).text(), "alive");
    other.close();
}

fn shown(frame: &Frame) -> String {
    match frame.kind {
        FrameKind::Method => format!("{:?} on channel {}", frame.method(), frame.channel),
        _ => format!("{frame:?}"),
    }
}
