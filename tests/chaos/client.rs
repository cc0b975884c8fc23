//! A connection with one channel that may break at any moment: every call says so instead of failing the test.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use sluicemq::protocol::frame::{self, FRAME_END, FrameKind, PROTOCOL_HEADER};
use sluicemq::protocol::header::ContentHeader;
use sluicemq::protocol::methods::{
    BasicPublish, ChannelOpen, ConnectionOpen, ConnectionStartOk, ConnectionTuneOk, Method,
};
use sluicemq::protocol::properties::PropertiesBuf;
use sluicemq::protocol::table::Table;

/// A broker that says nothing for this long while something is owed has failed.
const SILENCE_MAX: Duration = Duration::from_secs(20);
const FRAME_BYTES_MAX: u32 = 131_072;
const CHANNEL: u16 = 1;

/// What came, as far as the load cares.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// A publisher's confirm.
    Confirm { tag: u64, multiple: bool },
    /// A message for the consumer.
    Delivery { tag: u64, redelivered: bool, body: Vec<u8> },
    /// An answer to a get: `None` when the queue is empty.
    Got(Option<(u64, bool, Vec<u8>)>),
    /// Any other answer, by its ids.
    Answer((u16, u16)),
}

/// One connection.
pub(crate) struct Client {
    stream: TcpStream,
    input: BytesMut,
    output: BytesMut,
    patience: Duration,
}

impl Client {
    /// Logs in as guest and opens a channel.
    pub(crate) fn connect(address: SocketAddr) -> io::Result<Self> {
        Self::connect_with(address, Table::EMPTY)
    }

    /// The same as a client with these properties.
    pub(crate) fn connect_with(address: SocketAddr, client_properties: Table<'_>) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE_MAX))?;
        stream.set_write_timeout(Some(SILENCE_MAX))?;
        let mut client =
            Self { stream, input: BytesMut::new(), output: BytesMut::new(), patience: SILENCE_MAX };
        client.output.extend_from_slice(&PROTOCOL_HEADER);
        let start_ok = ConnectionStartOk {
            client_properties,
            mechanism: "PLAIN",
            response: b"\0guest\0guest",
            locale: "en_US",
        };
        client.call_on(0, &Method::ConnectionStartOk(start_ok), (10, 10))?;
        let tune_ok = ConnectionTuneOk { channel_max: 2047, frame_max: FRAME_BYTES_MAX, heartbeat: 0 };
        client.expect((10, 30))?;
        client.push_on(0, &Method::ConnectionTuneOk(tune_ok));
        client.push_on(0, &Method::ConnectionOpen(ConnectionOpen { virtual_host: "/" }));
        client.expect((10, 41))?;
        client.call(&Method::ChannelOpen(ChannelOpen {}))?;
        Ok(client)
    }

    /// It may say nothing for so long from now on: publishers may have to wait.
    pub(crate) fn be_patient(&mut self, patience: Duration) -> io::Result<()> {
        self.patience = patience;
        self.stream.set_write_timeout(Some(patience))?;
        self.stream.set_read_timeout(Some(patience))
    }

    /// The server speaks first: flush, wait for its start, answer.
    fn call_on(&mut self, channel: u16, method: &Method<'_>, after: (u16, u16)) -> io::Result<()> {
        self.expect(after)?;
        self.push_on(channel, method);
        Ok(())
    }

    /// Sends a method and waits for its answer, which has the next id in its class.
    pub(crate) fn call(&mut self, method: &Method<'_>) -> io::Result<()> {
        self.push(method);
        let (class_id, method_id) = method.id();
        self.expect((class_id, method_id + 1))
    }

    /// Flushes, and waits for this answer; nothing else may come.
    pub(crate) fn expect(&mut self, id: (u16, u16)) -> io::Result<()> {
        match self.next()? {
            Incoming::Answer(found) if found == id => Ok(()),
            other => Err(io::Error::other(format!("{id:?} was expected, and this came: {other:?}"))),
        }
    }

    /// Puts a method into the output.
    pub(crate) fn push(&mut self, method: &Method<'_>) {
        self.push_on(CHANNEL, method);
    }

    fn push_on(&mut self, channel: u16, method: &Method<'_>) {
        frame::put_method(&mut self.output, channel, method);
    }

    /// Puts a publish into the output.
    pub(crate) fn push_publish(&mut self, exchange: &str, key: &str, persistent: bool, body: &[u8]) {
        let mut properties = PropertiesBuf::new();
        properties.delivery_mode(if persistent { 2 } else { 1 });
        let properties = properties.into_bytes();
        let publish = BasicPublish {
            exchange: exchange.as_bytes(),
            routing_key: key.as_bytes(),
            mandatory: false,
            immediate: false,
        };
        self.push_content(publish, &properties, body);
    }

    /// The same with any properties.
    pub(crate) fn push_content(&mut self, publish: BasicPublish<'_>, properties: &[u8], body: &[u8]) {
        self.push(&Method::BasicPublish(publish));
        frame::put_header(&mut self.output, CHANNEL, body.len() as u64, properties);
        for piece in body.chunks(FRAME_BYTES_MAX as usize - 8) {
            frame::put_body_head(&mut self.output, CHANNEL, piece.len() as u32);
            self.output.extend_from_slice(piece);
            self.output.extend_from_slice(&[FRAME_END]);
        }
    }

    /// Writes the output.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.output)?;
        self.output.clear();
        Ok(())
    }

    /// Whether something has come that can be read without waiting.
    pub(crate) fn has_input(&self) -> bool {
        !self.input.is_empty()
    }

    /// Flushes, and waits for something to come, but no longer than this. Whether it has.
    pub(crate) fn has_input_in(&mut self, limit: Duration) -> io::Result<bool> {
        self.flush()?;
        if self.has_input() {
            return Ok(true);
        }
        self.stream.set_read_timeout(Some(limit))?;
        let read = self.read_some();
        self.stream.set_read_timeout(Some(self.patience))?;
        match read {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(false),
            read => read.map(|()| true),
        }
    }

    /// Flushes and waits for what comes next.
    pub(crate) fn next(&mut self) -> io::Result<Incoming> {
        self.flush()?;
        let (kind, payload) = self.frame()?;
        if kind != FrameKind::Method {
            return Err(io::Error::other("a content without its method"));
        }
        let method = Method::parse(&payload).map_err(io::Error::other)?;
        match method {
            Method::BasicAck(ack) => Ok(Incoming::Confirm { tag: ack.delivery_tag, multiple: ack.multiple }),
            Method::BasicDeliver(deliver) => Ok(Incoming::Delivery {
                tag: deliver.delivery_tag,
                redelivered: deliver.redelivered,
                body: self.content()?,
            }),
            Method::BasicGetOk(got) => {
                let body = self.content()?;
                Ok(Incoming::Got(Some((got.delivery_tag, got.redelivered, body))))
            }
            Method::BasicGetEmpty(_) => Ok(Incoming::Got(None)),
            Method::ChannelClose(close) => Err(io::Error::other(close.reply_text.to_owned())),
            Method::ConnectionClose(close) => Err(io::Error::other(close.reply_text.to_owned())),
            other => Ok(Incoming::Answer(other.id())),
        }
    }

    fn content(&mut self) -> io::Result<Vec<u8>> {
        let (_, payload) = self.frame()?;
        let header = ContentHeader::parse(&payload).map_err(io::Error::other)?;
        let mut body = Vec::new();
        while (body.len() as u64) < header.body_bytes {
            body.extend(self.frame()?.1);
        }
        Ok(body)
    }

    fn frame(&mut self) -> io::Result<(FrameKind, Vec<u8>)> {
        loop {
            if let Some(view) = frame::peek(&self.input, u32::MAX).map_err(io::Error::other)? {
                let (kind, payload, taken) = (view.kind, view.payload.to_vec(), view.wire_bytes());
                self.input.advance(taken);
                return Ok((kind, payload));
            }
            self.read_some()?;
        }
    }

    fn read_some(&mut self) -> io::Result<()> {
        let mut chunk = [0; 64 * 1024];
        match self.stream.read(&mut chunk)? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            count => {
                self.input.extend_from_slice(&chunk[..count]);
                Ok(())
            }
        }
    }
}
