//! The lock around a queue, and everything done under it.
//!
//! [`handle`] is the boundary: what is immutable or atomic is outside, the state machine inside.
//! [`dispatch`] hands messages to consumers, [`settle`] takes acknowledgements back, [`lifecycle`] is consumers
//! coming and going, purging, and the end. `rules` lets go of what is too old or too much, `policies` says when that has
//! changed. [`letters`] keeps a queue from going before its dead letters. [`crowd`] keeps publishers from running too far
//! ahead of consumers. [`tally`] is what others see of it without the lock. [`browse`] looks at messages and changes
//! nothing.

pub mod browse;
pub mod crowd;
pub mod dispatch;
pub mod handle;
pub mod letters;
pub mod lifecycle;
mod policies;
pub(in crate::broker) mod rules;
pub mod settle;
pub(in crate::broker) mod store;
pub mod tally;
