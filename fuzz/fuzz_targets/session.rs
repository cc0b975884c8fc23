//! Any bytes, at any stage, against a live broker: nothing panics, and what a connection held goes back.
#![no_main]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use sluicemq::broker::Broker;
use sluicemq::clock::Now;
use sluicemq::config::Config;
use sluicemq::protocol::frame::{PROTOCOL_HEADER, put_method};
use sluicemq::protocol::methods::{
    ChannelOpen, ConnectionOpen, ConnectionStartOk, ConnectionTuneOk, Method,
};
use sluicemq::protocol::table::Table;
use sluicemq::session::Session;

const WATERMARK_BYTES: u64 = 1 << 20;
const PARTIAL_BODIES_MAX: u64 = 1 << 20;

static CONFIG: LazyLock<Arc<Config>> = LazyLock::new(|| Arc::new(Config::default()));

/// What a client says until its first channel is open.
static LOGIN: LazyLock<BytesMut> = LazyLock::new(|| {
    let mut bytes = BytesMut::from(&PROTOCOL_HEADER[..]);
    let start_ok = ConnectionStartOk {
        client_properties: Table::EMPTY,
        mechanism: "PLAIN",
        response: b"\0guest\0guest",
        locale: "en_US",
    };
    put_method(&mut bytes, 0, &Method::ConnectionStartOk(start_ok));
    let tune_ok = ConnectionTuneOk { channel_max: 2047, frame_max: 131_072, heartbeat: 0 };
    put_method(&mut bytes, 0, &Method::ConnectionTuneOk(tune_ok));
    put_method(&mut bytes, 0, &Method::ConnectionOpen(ConnectionOpen { virtual_host: "/" }));
    put_method(&mut bytes, 1, &Method::ChannelOpen(ChannelOpen {}));
    bytes
});

struct Client {
    session: Session,
    input: BytesMut,
}

impl Client {
    fn new(broker: &Arc<Broker>, now: Now) -> Self {
        Self { session: Session::new(Arc::clone(broker), now), input: BytesMut::new() }
    }

    fn feed(&mut self, broker: &Broker, bytes: &[u8], now: Now) {
        self.input.extend_from_slice(bytes);
        loop {
            self.session.on_bytes(&mut self.input, now);
            while self.session.wants_turn() {
                self.session.on_wake(now);
                self.session.on_rest(&mut self.input, now);
            }
            let unwritten = self.session.output().len();
            self.session.output().advance(unwritten);
            self.session.on_written(now);
            let Some(credentials) = self.session.take_verification() else { return };
            let from = IpAddr::V4(Ipv4Addr::LOCALHOST);
            self.session.on_verified(broker.login(&credentials, from, now.instant), now);
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let now = Now::read();
    let broker = Broker::new(Arc::clone(&CONFIG), WATERMARK_BYTES, PARTIAL_BODIES_MAX);
    let broker = Arc::new(broker.expect("the default users can be made"));
    let mut stranger = Client::new(&broker, now);
    let mut guest = Client::new(&broker, now);
    guest.feed(&broker, &LOGIN, now);
    assert!(guest.session.is_running());
    let (first, second) = bytes.split_at(bytes.len() / 2);
    for half in [first, second] {
        stranger.feed(&broker, half, now);
        guest.feed(&broker, half, now);
    }
    let later = now.later(Duration::from_secs(11));
    stranger.session.on_timeout(later);
    guest.session.on_timeout(later);
    drop((stranger, guest));
    assert_eq!(broker.node.memory.partial_bodies.read(), 0);
    assert_eq!(broker.connections(), 0);
});
