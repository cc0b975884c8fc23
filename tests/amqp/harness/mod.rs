//! What the tests are written with: a broker to talk to, a socket that speaks frames, a client that speaks AMQP.
//!
//! Reading blocks, and a broker that has nothing to say for ten seconds has failed the test. Nothing here sleeps:
//! where a test must know that something has happened, it asks the broker something that is answered afterwards.

pub(crate) mod broker;
pub(crate) mod client;
pub(crate) mod content;
pub(crate) mod login;
pub(crate) mod methods;
pub(crate) mod wire;
