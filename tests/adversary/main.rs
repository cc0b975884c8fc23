//! One connection that tries to stop the others, or to starve its own queues, judged by a counter of steps and never by
//! a clock: whatever it sends, each of its turns is about a thousand steps, others have theirs between, and nobody who
//! waits in line is passed over.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod client;
mod fairness;
mod storms;

use std::sync::Arc;

use sluicemq::broker::Broker;
use sluicemq::config::Config;

/// A broker whose outboxes take so many bytes.
fn broker(outbox_bytes: usize) -> Arc<Broker> {
    broker_with_turns(outbox_bytes, Config::default().limits.turn_steps)
}

/// The same, and turns of so many steps.
fn broker_with_turns(outbox_bytes: usize, turn_steps: u32) -> Arc<Broker> {
    let mut config = Config::default();
    config.limits.outbox_bytes = outbox_bytes;
    config.limits.turn_steps = turn_steps;
    Arc::new(Broker::new(Arc::new(config), u64::MAX, u64::MAX).expect("the default users can be made"))
}
