//! Queues as pure state machines: they take inputs, keep order and counts, and say what follows.
//!
//! Nothing here locks, logs, sends or calls back. Whoever owns a queue performs what it returns, after it
//! has let go of the queue: a chain of ten queues is then a loop and never a recursion.
//!
//! ```text
//!            enqueue(run, lsn)                       take(count, room)
//!   publisher ---------------> [ undurable | ready ] ------------------> outbox, then unacked (the session's)
//!                                     ^                                        |
//!                                     '-------------- give_back(run) ----------+----> settle(run): gone
//! ```
//!
//! Read [`classic`] first; [`lane`] is its list of messages (kept in [`chunks`]), [`ledger`] what a disk holds of them
//! (in the log or in an [`extent`] of a pack), [`consumers`] who is next. What a queue was told about its messages are
//! its [`settings`]; when they are too old says [`expiry`], and those that are to go elsewhere are [`dying`].

pub mod chunks;
pub mod classic;
pub mod consumers;
pub mod dying;
pub mod expiry;
pub mod extent;
pub mod lane;
pub mod ledger;

pub mod settings;
