//! The limit of any broker on this machine: the handshake, and then every publish straight to one subscriber. No
//! queue, no routing, nothing is kept; acknowledgements are read and forgotten.
//!
//! `cargo bench --bench forwarder -- --listen 127.0.0.1:5673`
//!
//! It reads, copies and writes as a broker must: a publisher's task fills a buffer of bounded size, the subscriber's
//! task empties it with one write.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use bytes::{Buf, BytesMut};
use clap::Parser;
use parking_lot::Mutex;
use sluicemq::protocol::delivery::DeliveryHead;
use sluicemq::protocol::express::PublishReader;
use sluicemq::protocol::frame::{
    FRAME_END, FrameKind, FrameView, PROTOCOL_HEADER, peek, put_body_head, put_header, put_method,
};
use sluicemq::protocol::header::ContentHeader;
use sluicemq::protocol::methods::{
    BasicAck, BasicCancelOk, BasicConsumeOk, BasicDeliver, BasicPublish, BasicQosOk, ChannelCloseOk,
    ChannelOpenOk, ConfirmSelectOk, ConnectionCloseOk, ConnectionOpenOk, ConnectionStart, ConnectionTune,
    Method, QueueDeclareOk, QueueDeleteOk, QueuePurgeOk,
};
use sluicemq::protocol::table::Table;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// What is read at once: the forwarder is faster with more than the broker reads of a client that floods it.
const READ_BYTES: usize = 256 * 1024;
/// What waits for the subscriber before publishers are not read.
const WAITING_BYTES_MAX: usize = 1 << 20;
const FRAME_MAX: u32 = 131_072;
/// Bodies up to this size are looked for together with their publish and header.
const WHOLE_BODY_BYTES_MAX: usize = 64 * 1024;

#[derive(Parser)]
struct Arguments {
    /// Where clients connect.
    #[arg(long, default_value = "127.0.0.1:5673")]
    listen: SocketAddr,
    /// What `cargo bench` adds.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Between the publishers' tasks and the subscriber's.
#[derive(Default)]
struct Pipe {
    waiting: Mutex<BytesMut>,
    filled: Notify,
    emptied: Notify,
    subscriber: Mutex<Option<Subscriber>>,
}

#[derive(Clone)]
struct Subscriber {
    channel: u16,
    consumer_tag: String,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(arguments.listen).await.context("cannot listen")?;
        println!("forwarding on {}", listener.local_addr()?);
        let pipe = Arc::new(Pipe::default());
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let pipe = Arc::clone(&pipe);
            tokio::spawn(async move {
                if let Err(error) = Connection::new(stream, pipe).serve().await {
                    eprintln!("lost a connection: {error:#}");
                }
            });
        }
    })
}

impl Pipe {
    /// Hands bytes to the subscriber, when there is room for more.
    async fn push(&self, bytes: &mut BytesMut) {
        loop {
            let emptied = self.emptied.notified();
            {
                let mut waiting = self.waiting.lock();
                if waiting.len() < WAITING_BYTES_MAX {
                    waiting.extend_from_slice(bytes);
                    break;
                }
            }
            emptied.await;
        }
        bytes.clear();
        self.filled.notify_one();
    }

    fn take(&self, into: &mut BytesMut) {
        std::mem::swap(&mut *self.waiting.lock(), into);
        self.emptied.notify_waiters();
    }
}

struct Connection {
    stream: TcpStream,
    pipe: Arc<Pipe>,
    input: BytesMut,
    out: BytesMut,
    /// For the subscriber.
    forwarded: BytesMut,
    reader: PublishReader,
    head: DeliveryHead,
    /// The subscriber, once something was published.
    subscriber: Option<Subscriber>,
    delivery_tag: u64,
    published: u64,
    confirms: bool,
    subscribed: bool,
    closed: bool,
}

impl Connection {
    fn new(stream: TcpStream, pipe: Arc<Pipe>) -> Self {
        Self {
            stream,
            pipe,
            input: BytesMut::new(),
            out: BytesMut::new(),
            forwarded: BytesMut::new(),
            reader: PublishReader::default(),
            head: DeliveryHead::default(),
            subscriber: None,
            delivery_tag: 0,
            published: 0,
            confirms: false,
            subscribed: false,
            closed: false,
        }
    }

    async fn serve(&mut self) -> anyhow::Result<()> {
        self.greet().await?;
        let mut burst = BytesMut::new();
        while !self.closed {
            self.input.reserve(READ_BYTES);
            tokio::select! {
                biased;
                () = self.pipe.filled.notified(), if self.subscribed => {
                    self.pipe.take(&mut burst);
                    self.stream.write_all(&burst).await?;
                    burst.clear();
                }
                read = self.stream.read_buf(&mut self.input) => {
                    if read? == 0 {
                        return Ok(());
                    }
                    self.on_input().await?;
                }
            }
        }
        Ok(())
    }

    async fn greet(&mut self) -> anyhow::Result<()> {
        let mut header = [0; PROTOCOL_HEADER.len()];
        self.stream.read_exact(&mut header).await?;
        let start = ConnectionStart {
            version_major: 0,
            version_minor: 9,
            server_properties: Table::EMPTY,
            mechanisms: b"PLAIN",
            locales: b"en_US",
        };
        self.answer(0, &Method::ConnectionStart(start));
        self.flush().await
    }

    async fn on_input(&mut self) -> anyhow::Result<()> {
        let input = std::mem::take(&mut self.input);
        let mut at = 0;
        loop {
            self.forward_whole(&input, &mut at);
            let Some(frame) = peek(input.get(at..).unwrap_or_default(), FRAME_MAX)? else { break };
            at += frame.wire_bytes();
            self.on_frame(&frame)?;
        }
        self.input = input;
        self.input.advance(at);
        if !self.forwarded.is_empty() {
            self.pipe.push(&mut self.forwarded).await;
        }
        if self.confirms && self.published > 0 {
            self.answer(1, &Method::BasicAck(BasicAck { delivery_tag: self.published, multiple: true }));
        }
        self.flush().await
    }

    async fn flush(&mut self) -> anyhow::Result<()> {
        self.stream.write_all(&self.out).await?;
        self.out.clear();
        Ok(())
    }

    /// Publishes whose frames are all there.
    fn forward_whole(&mut self, input: &[u8], at: &mut usize) {
        let Some(subscriber) = &self.subscriber else { return };
        while let Some(rest) = input.get(*at..)
            && let Some(publish) = self.reader.read(rest, FRAME_MAX, WHOLE_BODY_BYTES_MAX)
        {
            let (exchange, routing_key) = split_names(publish.names);
            let deliver = BasicDeliver {
                consumer_tag: &subscriber.consumer_tag,
                delivery_tag: 0,
                redelivered: false,
                exchange,
                routing_key,
            };
            self.head.set(subscriber.channel, &deliver, publish.properties, publish.body.len() as u32);
            *at += publish.wire_bytes;
            for body in std::iter::once(publish.body).chain(self.reader.alike(input, at)) {
                self.delivery_tag += 1;
                self.published += 1;
                self.forwarded.extend_from_slice(self.head.with_tag(self.delivery_tag));
                if !body.is_empty() {
                    self.forwarded.extend_from_slice(body);
                    self.forwarded.extend_from_slice(&[FRAME_END]);
                }
            }
        }
    }

    fn on_frame(&mut self, frame: &FrameView<'_>) -> anyhow::Result<()> {
        match frame.kind {
            FrameKind::Method => self.on_method(frame.channel, &Method::parse(frame.payload)?),
            FrameKind::Header => {
                let header = ContentHeader::parse(frame.payload)?;
                put_header(&mut self.forwarded, frame.channel, header.body_bytes, header.properties);
            }
            FrameKind::Body => {
                put_body_head(&mut self.forwarded, frame.channel, frame.payload.len() as u32);
                self.forwarded.extend_from_slice(frame.payload);
                self.forwarded.extend_from_slice(&[FRAME_END]);
            }
            FrameKind::Heartbeat => {}
        }
        Ok(())
    }

    fn on_method(&mut self, channel: u16, method: &Method<'_>) {
        let answer = match method {
            Method::BasicPublish(publish) => return self.on_publish(publish),
            Method::ConnectionStartOk(_) => Method::ConnectionTune(ConnectionTune {
                channel_max: 2047,
                frame_max: FRAME_MAX,
                heartbeat: 0,
            }),
            Method::ConnectionOpen(_) => Method::ConnectionOpenOk(ConnectionOpenOk {}),
            Method::ChannelOpen(_) => Method::ChannelOpenOk(ChannelOpenOk {}),
            Method::QueueDeclare(declare) => Method::QueueDeclareOk(QueueDeclareOk {
                queue: declare.queue,
                message_count: 0,
                consumer_count: 0,
            }),
            Method::QueuePurge(_) => Method::QueuePurgeOk(QueuePurgeOk { message_count: 0 }),
            Method::QueueDelete(_) => Method::QueueDeleteOk(QueueDeleteOk { message_count: 0 }),
            Method::BasicQos(_) => Method::BasicQosOk(BasicQosOk {}),
            Method::BasicConsume(consume) => {
                let subscriber = Subscriber { channel, consumer_tag: consume.consumer_tag.to_owned() };
                *self.pipe.subscriber.lock() = Some(subscriber);
                self.subscribed = true;
                Method::BasicConsumeOk(BasicConsumeOk { consumer_tag: consume.consumer_tag })
            }
            Method::BasicCancel(cancel) => {
                Method::BasicCancelOk(BasicCancelOk { consumer_tag: cancel.consumer_tag })
            }
            Method::ConfirmSelect(_) => {
                self.confirms = true;
                Method::ConfirmSelectOk(ConfirmSelectOk {})
            }
            Method::ChannelClose(_) => Method::ChannelCloseOk(ChannelCloseOk {}),
            Method::ConnectionClose(_) => {
                self.closed = true;
                Method::ConnectionCloseOk(ConnectionCloseOk {})
            }
            _ => return,
        };
        self.answer(channel, &answer);
    }

    fn on_publish(&mut self, publish: &BasicPublish<'_>) {
        self.published += 1;
        self.subscriber = self.pipe.subscriber.lock().clone();
        let Some(subscriber) = &self.subscriber else { return };
        self.delivery_tag += 1;
        let deliver = BasicDeliver {
            consumer_tag: &subscriber.consumer_tag,
            delivery_tag: self.delivery_tag,
            redelivered: false,
            exchange: publish.exchange,
            routing_key: publish.routing_key,
        };
        put_method(&mut self.forwarded, subscriber.channel, &Method::BasicDeliver(deliver));
    }

    fn answer(&mut self, channel: u16, method: &Method<'_>) {
        put_method(&mut self.out, channel, method);
    }
}

/// The exchange and the routing key, without their lengths.
fn split_names(names: &[u8]) -> (&[u8], &[u8]) {
    let exchange_bytes = names.first().map_or(0, |&len| usize::from(len));
    let (exchange, key) =
        names.get(1..).unwrap_or_default().split_at_checked(exchange_bytes).unwrap_or_default();
    (exchange, key.get(1..).unwrap_or_default())
}
