//! AMQP 0-9-1 on the wire: bytes to borrowed views, and values back to bytes.
//!
//! Every parser here takes one delimited slice and either returns a view into it or says what is wrong with
//! it; nothing is copied, and what a peer may declare is bounded before it is believed. The room knows no
//! broker words: no queue that exists, no connection state, no clock, no socket. It must never grow any.
//!
//! Reading order: [`frame`] cuts the stream, [`methods`] and [`header`] open the payloads, [`properties`]
//! and [`table`] open what those carry, [`reply`] names the errors. [`express`] reads and [`delivery`] writes the commonest
//! frames several at a time.

pub mod delivery;
pub mod express;
pub mod field;
pub mod frame;
pub mod header;
pub mod methods;
pub mod properties;
pub mod reply;
pub mod table;

pub(crate) mod erlang;

pub(crate) mod field_text;
mod method_macro;
mod properties_buf;
mod table_buf;
mod wire;
