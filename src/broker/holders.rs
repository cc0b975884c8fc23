//! Connections that hold many message bytes for deliveries that nobody has acknowledged.
//!
//! What the disk has need not be in memory for that, and of what it does not have a message should not keep its whole
//! block. The largest are asked, some at a time, when letting go of waiting messages is not enough; each does it by
//! itself, in its own turns.

use std::cmp::Reverse;
use std::sync::Arc;

use crate::broker::Broker;
use crate::broker::outbox::Outbox;

/// Connections that are asked in one step.
const HOLDERS_PER_STEP: usize = 32;
/// Who holds less, or not so much more or less than the last time, is let alone.
const SLIMMABLE_BYTES_MIN: u64 = 64 * 1024;

impl Broker {
    /// Asks the connections that hold the most to let go of what they can.
    pub fn ask_holders(&self) {
        let mut holders: Vec<(u64, Arc<Outbox>)> = (self.connections.iter())
            .filter(|outbox| outbox.slimmable_bytes() > SLIMMABLE_BYTES_MIN)
            .map(|outbox| (outbox.held_bytes.read(), Arc::clone(&outbox)))
            .collect();
        holders.sort_by_key(|(held_bytes, outbox)| (Reverse(*held_bytes), outbox.connection()));
        for (_, outbox) in holders.iter().take(HOLDERS_PER_STEP) {
            outbox.ask_to_slim();
        }
    }
}
