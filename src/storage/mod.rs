//! What outlives the process. Today it is a [`log`] that forgets: it numbers facts and calls them durable
//! at once, so that everything above it already works the way a disk will make it work.

pub mod batch;
pub mod disk;
pub mod error;
pub mod log;
pub mod meta;
pub mod pack;
pub mod slot;
