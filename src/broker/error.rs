//! What the broker refuses, and in which words. The words are the protocol's: RabbitMQ's own, which clients
//! and people search for. Which reply code a refusal gets, and what it closes, `session/refuse.rs` knows.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

/// A queue or exchange, named as error texts name it: `queue 'q' in vhost '/'`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// `queue` or `exchange`.
    pub kind: ResourceKind,
    /// Its name.
    pub name: String,
    /// Its virtual host.
    pub vhost: Arc<str>,
}

/// What a [`Resource`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResourceKind {
    /// A queue.
    Queue,
    /// An exchange.
    Exchange,
}

impl fmt::Display for ResourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Queue => "queue",
            Self::Exchange => "exchange",
        })
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.kind == ResourceKind::Exchange && self.name.is_empty() {
            "amq.default"
        } else {
            &self.name
        };
        write!(f, "{} '{}' in vhost '{}'", self.kind, name, self.vhost)
    }
}

/// A refusal.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum BrokerError {
    /// No such queue or exchange.
    #[error("no {0}")]
    NotFound(Resource),
    /// An empty queue name stands for the last one declared on the channel, and there is none.
    #[error("no previously declared queue")]
    NoPreviousQueue,
    /// Declared again with something changed.
    #[error("inequivalent arg '{argument}' for {resource}: received {received} but current is {current}")]
    Inequivalent {
        /// The property or argument that differs.
        argument: String,
        /// What was declared again.
        resource: Resource,
        /// The value now sent, rendered.
        received: String,
        /// The value it has, rendered.
        current: String,
    },
    /// Exclusive to another connection.
    #[error(
        "cannot obtain exclusive access to locked {0}. It could be originally declared on another connection \
         or the exclusive property value does not match that of the original declaration."
    )]
    Locked(Resource),
    /// basic.get where only one consumer is served.
    #[error(
        "cannot obtain access to locked {0}. basic.get operations are not supported by quorum queues with single active \
         consumer"
    )]
    SingleActive(Resource),
    /// The user may not do this.
    #[error("{access} access to {resource} refused for user '{user}'")]
    AccessRefused {
        /// `configure`, `write` or `read`.
        access: &'static str,
        /// What it was tried on.
        resource: Resource,
        /// Who tried.
        user: String,
    },
    /// The user may not use this key.
    #[error("{access} access to topic '{key}' in {exchange} refused for user '{user}'")]
    TopicRefused {
        /// `write` or `read`.
        access: &'static str,
        /// The routing key, or the binding's.
        key: String,
        /// Where it was tried.
        exchange: Resource,
        /// Who tried.
        user: String,
    },
    /// Clients may not publish to an internal exchange.
    #[error("cannot publish to internal {0}")]
    InternalExchange(Resource),
    /// The default exchange cannot be declared, bound or deleted.
    #[error("operation not permitted on the default exchange")]
    DefaultExchange,
    /// Names that start with `amq.` are the broker's.
    #[error("{0} name '{1}' contains reserved prefix 'amq.*'")]
    ReservedPrefix(ResourceKind, String),
    /// A name no object may have.
    #[error("invalid {0} name: {1}")]
    InvalidName(ResourceKind, &'static str),
    /// An exchange the broker made itself stays.
    #[error("deletion of system {0} not allowed")]
    SystemExchange(Resource),
    /// A consumer wants to be alone, or is.
    #[error("{0} in exclusive use")]
    InExclusiveUse(Resource),
    /// `if-unused` and it is used.
    #[error("{0} in use")]
    InUse(Resource),
    /// `if-empty` and it is not.
    #[error("{0} not empty")]
    NotEmpty(Resource),
    /// No such exchange type.
    #[error("unknown exchange type '{0}'")]
    UnknownExchangeType(String),
    /// An argument of the wrong type or out of range.
    #[error("invalid arg '{argument}' for {resource}: {reason}")]
    InvalidArgument {
        /// The argument's name.
        argument: String,
        /// What was to be declared.
        resource: Resource,
        /// What is wrong with it.
        reason: String,
    },
    /// A limit on how many exchanges there may be.
    #[error("cannot declare exchange '{0}': exchange limit of {1} is reached")]
    ExchangeLimit(String, u64),
    /// A message needs too many steps to find its way through an exchange's patterns.
    #[error("routing takes too many steps: patterns bound to {exchange} match too much of key '{key}'")]
    TooManyPatterns {
        /// Whose patterns.
        exchange: Resource,
        /// The routing key, or one of CC and BCC.
        key: String,
    },
    /// Refused by a rule that has its words already.
    #[error("{0}")]
    Precondition(String),
    /// A consumer tag that is in use.
    #[error("attempt to reuse consumer tag '{0}'")]
    TagInUse(String),
    /// More consumers than a channel may have.
    #[error("reached maximum ({0}) of consumers per channel")]
    TooManyConsumers(u32),
    /// Valid, and not there yet.
    #[error("{0}")]
    NotImplemented(String),
}
