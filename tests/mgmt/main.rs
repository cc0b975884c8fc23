//! The management API as a client meets it: over HTTP, on a broker in this process.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod access;
mod browse;
mod changes;
#[allow(dead_code)]
#[path = "../chaos/client.rs"]
mod client;
mod connections;
mod fields;
mod limits;
mod listing;
mod messages;
mod metrics;
mod node;
mod process;
mod shovels;
mod transfers;
