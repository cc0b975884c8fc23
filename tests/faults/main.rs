//! Disks that fail, and data that is not what was written: what the broker does, and what a client is told.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

#[allow(dead_code)]
#[path = "../chaos/client.rs"]
mod client;
mod damage;
mod desk;
mod errors;
mod faulty;
mod isolation;
#[allow(dead_code)]
#[path = "../chaos/node.rs"]
mod node;
mod process;
mod room;
mod volume;
