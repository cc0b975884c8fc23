//! TLS: certificates as this broker shows and checks them, and the handshake of whoever comes by it.
//!
//! ```text
//! files -> Loaded, checked as a whole -> Store: what the next handshake takes, swapped by a reload -> handshake
//! ```
//!
//! `files` is the only reader of certificates, `choose` picks one by the name that a client asks for, `patience` bounds how
//! long theirs are checked, `certificate` tells what is written in one, `agreed` what a handshake came to. Knows nothing of
//! AMQP or HTTP: who serves them gets a stream. What a client's certificate makes of it is for the session to say.

mod agreed;
mod certificate;
mod choose;
mod error;
mod files;
pub mod handshake;
mod patience;
mod store;

pub use crate::tls::agreed::agreed;
pub use crate::tls::error::TlsError;
pub use crate::tls::store::{Shown, Store};
