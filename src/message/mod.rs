//! How messages lie in memory: runs in blocks, not objects.
//!
//! The small messages of one publisher's burst share one immutable [`block::Block`]; a queue holds a
//! [`run::Run`] of them, a few words for many messages. Nothing outside this folder knows the layout of a
//! record, and nothing inside it knows a queue, a lock or a socket.
//!
//! Read [`place`] (the numbers that name things), [`names`], [`record`], [`block_header`], [`block`], [`run`], [`stored`]
//! (a run as bytes on a disk), then [`fact`], what the log says about them, and [`fact_codec`], how it is written down.

pub mod block;
pub mod block_header;
pub mod definitions;
pub mod fact;
pub mod fact_codec;
pub mod little_endian;
pub mod names;
pub mod place;
pub mod record;
pub mod run;
pub mod stored;
