//! The management API and the metrics: what the broker is and does, told over HTTP as RabbitMQ tells it.
//!
//! A request's way: [`server`] (sockets, and the bounds of what a stranger may send) or [`local`] (the socket of this
//! machine's administrator), `routes` (one table: which handler,
//! who may ask, and what it is about, which is also the API's description), `access` (who asks), a handler in `views`,
//! `answer`. Handlers are plain functions that run beside the runtime's workers, a few at a time: whatever is asked here
//! takes no turn from a connection. What they read are atomics and snapshots; no queue is locked for a listing.
//!
//! Who wants to speak AMQP by WebSocket is let in by [`mod@web`], and handed on.
//!
//! Knows nothing of AMQP's frames. RabbitMQ's names and shapes of values are kept, for tools look for them; what it has
//! and this broker has not, such as Erlang's processes, is left out (`tests/mgmt/departures.txt` lists it, with reasons).

mod access;
mod answer;
mod audit;
mod call;
mod change;
pub mod control;
mod insider;
mod json;
mod listing;
pub mod local;
mod openapi;
mod places;
mod process;
mod rates;
mod routes;
mod seats;
pub mod server;
mod turns;
mod views;
pub mod web;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::OnceLock;

use crate::broker::Broker;
use crate::mgmt::control::Control;
use crate::mgmt::rates::Rates;
use crate::mgmt::views::metrics::Told;
use crate::mgmt::web::Host;
use crate::tls::Store;
use crate::transfer::board::Board;

/// Connections at a time, of each listener; others wait in the kernel.
const CONNECTIONS_MAX: usize = 256;

/// What all handlers share.
#[derive(Debug)]
pub(crate) struct Mgmt {
    broker: Arc<Broker>,
    transfers: Arc<Board>,
    /// What this node is called.
    node: String,
    rates: Rates,
    /// The sums that metrics have told.
    told: Told,
    listening: Listening,
    /// The certificates that clients are shown, where there are any.
    tls: Option<Arc<Store>>,
    description: OnceLock<Vec<u8>>,
    control: OnceLock<Control>,
    /// Who serves those who come by WebSocket.
    host: OnceLock<Host>,
}

/// What this process listens on.
#[derive(Clone, Debug, Default)]
pub struct Listening {
    /// AMQP.
    pub amqp: Vec<SocketAddr>,
    /// This API.
    pub mgmt: Vec<SocketAddr>,
    /// Metrics.
    pub prometheus: Vec<SocketAddr>,
    /// AMQP over TLS.
    pub amqp_tls: Vec<SocketAddr>,
    /// This API over TLS.
    pub mgmt_tls: Vec<SocketAddr>,
    /// Metrics over TLS.
    pub prometheus_tls: Vec<SocketAddr>,
}

impl Listening {
    /// Each with RabbitMQ's name for its protocol.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&'static str, SocketAddr)> {
        let named = [
            ("amqp", &self.amqp),
            ("amqp/ssl", &self.amqp_tls),
            ("http", &self.mgmt),
            ("https", &self.mgmt_tls),
            ("http/prometheus", &self.prometheus),
            ("https/prometheus", &self.prometheus_tls),
        ];
        named.into_iter().flat_map(|(name, addresses)| addresses.iter().map(move |address| (name, *address)))
    }
}

impl Mgmt {
    fn new(transfers: Arc<Board>, listening: Listening, tls: Option<Arc<Store>>) -> Self {
        Self {
            rates: Rates::default(),
            told: Told::default(),
            broker: Arc::clone(transfers.broker()),
            node: transfers.broker().node_name.clone(),
            transfers,
            listening,
            tls,
            description: OnceLock::new(),
            control: OnceLock::new(),
            host: OnceLock::new(),
        }
    }
}
