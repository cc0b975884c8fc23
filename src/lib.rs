//! SluiceMQ: a message broker for AMQP 0-9-1 clients.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::indexing_slicing))]

pub mod auth;
pub mod bench;
pub mod broker;
pub mod cli;
pub mod clock;
pub mod config;
pub mod message;
pub mod net;
pub mod protocol;
pub mod queue;
pub mod routing;
pub mod session;
pub mod stats;
pub mod storage;
