//! A connection without a socket, and how its bytes are made.

use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::task::{Context, Waker};

use bytes::BytesMut;
use sluicemq::broker::Broker;
use sluicemq::broker::dead_letters::Burials;
use sluicemq::clock::Now;
use sluicemq::protocol::frame::{self, FRAME_END, FrameKind, PROTOCOL_HEADER};
use sluicemq::protocol::methods::{
    BasicPublish, ChannelOpen, ConnectionOpen, ConnectionStartOk, ConnectionTuneOk, Method,
};
use sluicemq::protocol::table::Table;
use sluicemq::session::Session;

pub(crate) const CHANNEL: u16 = 1;
const FRAME_MAX: u32 = 131_072;

pub(crate) struct Client {
    session: Session,
    input: BytesMut,
    now: Now,
    /// What it does from now on is measured.
    pub(crate) is_measured: bool,
    /// Messages it was sent.
    pub(crate) delivered: u64,
}

impl Client {
    pub(crate) fn log_in(broker: &Arc<Broker>) -> Self {
        let now = Now::read();
        let session = Session::new(Arc::clone(broker), now);
        let mut client = Self { session, input: BytesMut::new(), now, is_measured: false, delivered: 0 };
        client.feed(&PROTOCOL_HEADER);
        let start_ok = ConnectionStartOk {
            client_properties: Table::EMPTY,
            mechanism: "PLAIN",
            response: b"\0guest\0guest",
            locale: "en_US",
        };
        client.say(0, &Method::ConnectionStartOk(start_ok));
        let credentials = client.session.take_verification().expect("a password to check");
        let user = broker.login(&credentials, IpAddr::V4(Ipv4Addr::LOCALHOST), now.instant);
        client.session.on_verified(user, now);
        let tune_ok = ConnectionTuneOk { channel_max: 10, frame_max: FRAME_MAX, heartbeat: 0 };
        client.say(0, &Method::ConnectionTuneOk(tune_ok));
        client.say(0, &Method::ConnectionOpen(ConnectionOpen { virtual_host: "/" }));
        client.say(CHANNEL, &Method::ChannelOpen(ChannelOpen {}));
        client
    }

    pub(crate) fn say(&mut self, channel: u16, method: &Method<'_>) {
        let mut bytes = BytesMut::new();
        frame::put_method(&mut bytes, channel, method);
        self.feed(&bytes);
    }

    /// What a client's socket brings in one read.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        if self.is_measured {
            take(&mut self.session, &mut self.input, self.now);
        } else {
            self.session.on_bytes(&mut self.input, self.now);
        }
        self.listen();
        while self.session.wants_turn() {
            go_on(&mut self.session, &mut self.input, self.now);
            self.listen();
        }
    }

    /// Looks at what waits for the connection, as its task does when it is woken.
    pub(crate) fn wake(&mut self) {
        wake(&mut self.session, self.now);
        self.listen();
    }

    /// Reads what the session has to say, to its end.
    fn listen(&mut self) {
        while !self.session.output().is_empty() {
            let mut slices = [IoSlice::new(&[]); 8];
            let filled = self.session.output().fill(&mut slices);
            let bytes: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.iter().copied()).collect();
            self.delivered += contents(&bytes);
            written(&mut self.session, bytes.len(), self.now);
        }
    }
}

/// What a task of the broker does when bytes have arrived: this and the next four are what is measured.
#[inline(never)]
fn take(session: &mut Session, input: &mut BytesMut, now: Now) {
    session.on_bytes(input, now);
}

#[inline(never)]
fn wake(session: &mut Session, now: Now) {
    session.on_wake(now);
}

#[inline(never)]
fn go_on(session: &mut Session, input: &mut BytesMut, now: Now) {
    session.on_wake(now);
    session.on_rest(input, now);
}

#[inline(never)]
fn written(session: &mut Session, bytes: usize, now: Now) {
    session.output().advance(bytes);
    session.on_written(now);
}

/// What the task for dead letters does when there are some.
#[inline(never)]
pub(crate) fn bury(burials: &mut Burials, broker: &Broker) {
    let now = Now::read();
    while burials.poll(&broker.node, &mut Context::from_waker(Waker::noop())).is_ready() {
        burials.step(broker, now);
    }
}

/// How many messages begin in these bytes.
fn contents(bytes: &[u8]) -> u64 {
    let mut rest = bytes;
    let mut count = 0;
    while let Ok(Some(frame)) = frame::peek(rest, FRAME_MAX) {
        count += u64::from(frame.kind == FrameKind::Header);
        rest = &rest[frame.wire_bytes()..];
    }
    count
}

/// Appends a publish as clients send it.
pub(crate) fn put_publish(out: &mut BytesMut, exchange: &[u8], key: &[u8], properties: &[u8], body: &[u8]) {
    let publish = BasicPublish { exchange, routing_key: key, mandatory: false, immediate: false };
    frame::put_method(out, CHANNEL, &Method::BasicPublish(publish));
    frame::put_header(out, CHANNEL, body.len() as u64, properties);
    frame::put_body_head(out, CHANNEL, body.len() as u32);
    out.extend_from_slice(body);
    out.extend_from_slice(&[FRAME_END]);
}
