//! How messages lie in memory: runs in blocks, not objects.
//!
//! The small messages of one publisher's burst share one immutable [`block::Block`]; a queue holds a
//! [`run::Run`] of them, a few words for many messages. Nothing outside this folder knows the layout of a
//! record, and nothing inside it knows a queue, a lock or a socket.
//!
//! Read [`place`] (the numbers that name things), [`names`], [`record`], [`block`], [`run`], then [`fact`], what the
//! log says about them.

pub mod block;
pub mod fact;
pub mod names;
pub mod place;
pub mod record;
pub mod run;
