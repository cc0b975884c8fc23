//! The handshake, in one go or step by step.

use std::net::SocketAddr;

use sluicemq::protocol::field::Field;
use sluicemq::protocol::frame::PROTOCOL_HEADER;
use sluicemq::protocol::methods::{
    ConnectionOpen, ConnectionOpenOk, ConnectionStartOk, ConnectionTune, ConnectionTuneOk, Method,
};
use sluicemq::protocol::table::TableBuf;

use crate::harness::broker;
use crate::harness::client::Client;
use crate::harness::wire::Wire;

/// How a client logs in; the default is one that gets in and can take everything.
#[derive(Clone)]
pub(crate) struct Login<'a> {
    pub(crate) address: SocketAddr,
    pub(crate) user: &'a str,
    pub(crate) password: &'a str,
    pub(crate) vhost: &'a str,
    pub(crate) capabilities: &'a [&'a str],
    pub(crate) tune: ConnectionTuneOk,
}

impl Default for Login<'_> {
    fn default() -> Self {
        Self {
            address: broker::address(),
            user: "guest",
            password: "guest",
            vhost: "/",
            capabilities: &["authentication_failure_close", "connection.blocked", "consumer_cancel_notify"],
            tune: ConnectionTuneOk { channel_max: 2047, frame_max: 131_072, heartbeat: 0 },
        }
    }
}

impl Login<'_> {
    /// All of it; channel 1 is open.
    pub(crate) fn connect(&self) -> Client {
        let mut wire = self.tuned();
        wire.send(0, &Method::ConnectionOpen(ConnectionOpen { virtual_host: self.vhost }));
        let frame = wire.frame();
        assert_eq!(frame.method(), Method::ConnectionOpenOk(ConnectionOpenOk {}));
        Client::over(wire)
    }

    /// Up to tune-ok.
    pub(crate) fn tuned(&self) -> Wire {
        let mut wire = self.authenticated().0;
        wire.send(0, &Method::ConnectionTuneOk(self.tune));
        wire
    }

    /// Up to the broker's tune.
    pub(crate) fn authenticated(&self) -> (Wire, ConnectionTune) {
        let mut wire = started(self.address);
        self.start_ok(&mut wire, "PLAIN", &self.plain());
        let frame = wire.frame();
        let Method::ConnectionTune(tune) = frame.method() else { panic!("not let in: {frame:?}") };
        (wire, tune)
    }

    /// Sends start-ok.
    pub(crate) fn start_ok(&self, wire: &mut Wire, mechanism: &str, response: &[u8]) {
        let mut capabilities = TableBuf::new();
        for name in self.capabilities {
            capabilities.insert(name, Field::Bool(true));
        }
        let mut properties = TableBuf::new();
        properties.insert("capabilities", Field::Table(capabilities.as_table()));
        let start_ok = ConnectionStartOk {
            client_properties: properties.as_table(),
            mechanism,
            response,
            locale: "en_US",
        };
        wire.send(0, &Method::ConnectionStartOk(start_ok));
    }

    /// The response of PLAIN.
    pub(crate) fn plain(&self) -> Vec<u8> {
        format!("\0{}\0{}", self.user, self.password).into_bytes()
    }
}

/// Up to the broker's start.
pub(crate) fn started(address: SocketAddr) -> Wire {
    let mut wire = Wire::connect(address);
    wire.send_bytes(&PROTOCOL_HEADER);
    let frame = wire.frame();
    assert!(matches!(frame.method(), Method::ConnectionStart(_)), "{frame:?}");
    wire
}
