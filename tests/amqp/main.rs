//! What clients see on the wire: every rule of the protocol as a script of frames and the frames expected back.
//!
//! The scripts run against a broker of this process. With `SLUICEMQ_WIRE_TARGET=host:port` the very same scripts
//! run against another one, with guest/guest and the virtual host `/`: a RabbitMQ settles what a rule really is.
//! Where the two must differ, the test says why. `exchanges` wants the plugins enabled that `conformance` enables.
//!
//! Cargo runs tests in the order of their names: this is one of the first, so that what clients see is told in seconds,
//! before crashes and simulations take minutes.
//!
//! `traps` is what clients count on and brokers get wrong; `handshake`, `framing`, `contents` and `semantics` begin with
//! what no peer may send, or not without end: no panic, nobody else disturbed, and the memory comes back.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod harness;

mod administration;
mod consuming;
mod contents;
mod dead_letters;
mod delays;
mod errors;
mod exchanges;
mod framing;
mod handshake;
mod lifetime;
mod quorum;
mod routing;
mod rules;
mod semantics;
mod settling;
mod timeouts;
mod trace;
mod traps;
