//! The management API as a client meets it: over HTTP, on a broker in this process.

mod access;
#[allow(dead_code, clippy::indexing_slicing)]
#[path = "../chaos/client.rs"]
mod client;
mod connections;
mod fields;
mod limits;
mod listing;
mod metrics;
mod node;
