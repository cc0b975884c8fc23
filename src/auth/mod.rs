//! Who a client is and what it may do. Knows nothing of connections, exchanges or queues beyond their names.
//!
//! [`sasl`] turns a response into credentials and checks them against [`users`]; [`password`] and
//! [`permissions`] are what a user consists of, with [`topics`] for keys, and [`pattern`] for the expressions of both;
//! [`backoff`] slows down those who guess.

pub mod backoff;
pub mod password;
pub mod pattern;
pub mod permissions;
pub mod sasl;
pub mod topics;
pub mod users;

pub use crate::auth::backoff::Backoff;
pub use crate::auth::password::PasswordHash;
pub use crate::auth::permissions::{Access, Permissions};
pub use crate::auth::sasl::{
    AuthError, Credentials, Mechanism, Offer, Proof, SaslError, authenticate, parse_response,
};
pub use crate::auth::users::{Profile, User, Users};
