//! Routing tables: which targets a message goes to, one file per kind of exchange.
//!
//! Pure and generic in the target. The tables are persistent: cloning one is O(1) and shares everything, so
//! that a bind can publish a new snapshot beside 10,000 old bindings without copying them. Nothing here knows
//! what an exchange or a queue is, who may bind, or what a message looks like beyond its key and headers.

mod arguments;
mod budget;
pub mod consistent_hash;
pub mod delayed;
mod direct;
mod fanout;
pub mod headers;
mod modulus_hash;
mod random;
pub mod recent_history;
mod roll;
mod stable_hash;
mod targets;
mod term;
pub mod topic;

#[cfg(test)]
mod tests;

use std::fmt;
use std::hash::Hash;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

pub use crate::routing::arguments::canonical;
pub use crate::routing::budget::{MATCH_STEPS_MAX, MatchBudget, TooManySteps};
pub use crate::routing::consistent_hash::ConsistentHash;
pub use crate::routing::direct::Direct;
pub use crate::routing::fanout::Fanout;
pub use crate::routing::headers::Headers;
pub use crate::routing::modulus_hash::ModulusHash;
pub use crate::routing::random::{Lots, Random};
pub use crate::routing::roll::Member;
pub use crate::routing::stable_hash::stable_hash;
pub use crate::routing::topic::{Topic, matches};

use crate::protocol::erlang::Pretty;
use crate::protocol::properties::Properties;
use crate::protocol::table::Table;

/// Why a binding or an exchange is refused; the text is what the client reads.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RoutingError {
    /// The binding key of a topic exchange is too long to match in bounded time.
    #[error("binding key has {found} words; expected at most {words_max}")]
    TooManyWords {
        /// The number of words in the key.
        found: usize,
        /// The most it may have.
        words_max: usize,
    },
    /// The `x-match` of a headers binding is a string, but none of the four.
    #[error("Invalid x-match field value {}; expected all, any, all-with-x, or any-with-x", Pretty(value))]
    MatchValue {
        /// The value.
        value: Vec<u8>,
    },
    /// The `x-match` of a headers binding is no string.
    #[error("Invalid x-match field type {kind} (value {value}); expected longstr")]
    MatchType {
        /// The type's name.
        kind: &'static str,
        /// The value, as Erlang prints it.
        value: String,
    },
    /// The weight of a consistent-hash binding is no integer.
    #[error("The binding key must be an integer: {key}")]
    WeightType {
        /// The binding key, as Erlang prints it.
        key: String,
    },
    /// The weight of a consistent-hash binding is not positive.
    #[error("The binding key must be greater than 0")]
    WeightTooSmall,
    /// The weight of a consistent-hash binding is larger than any may be.
    #[error("The binding key must not be greater than {weight_max}")]
    WeightTooLarge {
        /// The largest one.
        weight_max: u16,
    },
    /// A consistent-hash exchange cannot hash on a header and on a property.
    #[error("hash-header and hash-property are mutually exclusive")]
    HashTwice,
    /// A property that a consistent-hash exchange does not hash on.
    #[error("Unsupported property: {name}")]
    HashProperty {
        /// Its name.
        name: String,
    },
    /// The length of a history is no positive integer.
    #[error("Invalid argument {value}, 'x-recent-history-length' must be a positive integer")]
    HistoryLength {
        /// The value, as Erlang prints it.
        value: String,
    },
    /// The length of a history is larger than any may be.
    #[error("Invalid argument {length}, 'x-recent-history-length' must not be greater than {length_max}")]
    HistoryTooLong {
        /// The length.
        length: i64,
        /// The largest one.
        length_max: usize,
    },
    /// A delayed-message exchange must say how it routes.
    #[error("Invalid argument, 'x-delayed-type' must be an existing exchange type")]
    NoDelayedType,
    /// And that it delays is not how.
    #[error("Invalid argument, 'x-delayed-message' can't be used for 'x-delayed-type'")]
    DelayedTwice,
    /// An argument that is to be a string is none.
    #[error("invalid type '{kind}' for arg '{name}'")]
    ArgumentType {
        /// The argument's name.
        name: &'static str,
        /// The type's name.
        kind: &'static str,
    },
    /// The name of an exchange type that does not exist.
    #[error("unknown exchange type '{name}'")]
    UnknownKind {
        /// The name asked for.
        name: String,
    },
}

/// The kinds of exchange that have a table of bindings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExchangeKind {
    /// The binding key equals the routing key.
    Direct,
    /// Every binding matches.
    Fanout,
    /// The binding key is a pattern of words.
    Topic,
    /// The binding arguments are compared with the message's headers.
    Headers,
    /// One binding is chosen by a hash of the message's key, header or property; the binding key is a weight.
    ConsistentHash,
    /// One binding is chosen by a hash of the routing key, modulo their number.
    ModulusHash,
    /// One binding is chosen by lot.
    Random,
    /// Every binding matches, and those that come later get the last messages.
    RecentHistory,
    /// As another kind, when a message's delay is over.
    Delayed,
}

impl ExchangeKind {
    /// Every kind, in the order they are documented.
    pub const ALL: [Self; 9] = [
        Self::Direct,
        Self::Fanout,
        Self::Topic,
        Self::Headers,
        Self::ConsistentHash,
        Self::ModulusHash,
        Self::Random,
        Self::RecentHistory,
        Self::Delayed,
    ];

    /// The name clients declare it by.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Fanout => "fanout",
            Self::Topic => "topic",
            Self::Headers => "headers",
            Self::ConsistentHash => "x-consistent-hash",
            Self::ModulusHash => "x-modulus-hash",
            Self::Random => "x-random",
            Self::RecentHistory => "x-recent-history",
            Self::Delayed => "x-delayed-message",
        }
    }

    /// Checks the arguments of a new exchange of this kind; those that all kinds have are not its business.
    ///
    /// # Errors
    /// An argument that the kind knows, and that is not as it must be.
    pub fn check_arguments(self, arguments: Table<'_>) -> Result<(), RoutingError> {
        match self {
            Self::ConsistentHash => consistent_hash::check_arguments(arguments),
            Self::RecentHistory => recent_history::length(arguments).map(drop),
            Self::Delayed => delayed::inner_kind(arguments)?.check_arguments(arguments),
            _ => Ok(()),
        }
    }
}

impl FromStr for ExchangeKind {
    type Err = RoutingError;

    fn from_str(name: &str) -> Result<Self, RoutingError> {
        let known = Self::ALL.into_iter().find(|kind| kind.name() == name);
        known.ok_or_else(|| RoutingError::UnknownKind { name: name.to_owned() })
    }
}

/// The bindings of one exchange. A binding is identified by key, arguments and target.
#[derive(Clone)]
pub enum Bindings<T> {
    /// Of a direct exchange.
    Direct(Direct<T>),
    /// Of a fanout exchange.
    Fanout(Fanout<T>),
    /// Of a topic exchange.
    Topic(Topic<T>),
    /// Of a headers exchange.
    Headers(Headers<T>),
    /// Of a consistent-hash exchange.
    ConsistentHash(ConsistentHash<T>),
    /// Of a modulus-hash exchange.
    ModulusHash(ModulusHash<T>),
    /// Of a random exchange.
    Random(Random<T>),
    /// Of a recent-history exchange.
    RecentHistory(Fanout<T>),
}

impl<T: Clone + Eq + Hash + Member> Bindings<T> {
    /// An empty table of an exchange without arguments, whose lots are the same each time.
    pub fn new(kind: ExchangeKind) -> Self {
        Self::with(kind, Table::EMPTY, &Arc::default())
    }

    /// An empty table of an exchange with these arguments, which [`ExchangeKind::check_arguments`] has accepted. What is
    /// left to chance is decided by `lots`.
    pub fn with(kind: ExchangeKind, arguments: Table<'_>, lots: &Arc<Lots>) -> Self {
        match kind {
            ExchangeKind::Direct => Self::Direct(Direct::default()),
            ExchangeKind::Fanout => Self::Fanout(Fanout::default()),
            ExchangeKind::Topic => Self::Topic(Topic::default()),
            ExchangeKind::Headers => Self::Headers(Headers::default()),
            ExchangeKind::ModulusHash => Self::ModulusHash(ModulusHash::default()),
            ExchangeKind::Random => Self::Random(Random::new(lots)),
            ExchangeKind::RecentHistory => Self::RecentHistory(Fanout::default()),
            ExchangeKind::ConsistentHash => Self::ConsistentHash(ConsistentHash::new(arguments)),
            // Direct where there are no arguments: a table without bindings.
            ExchangeKind::Delayed => {
                let inner = delayed::inner_kind(arguments).unwrap_or(ExchangeKind::Direct);
                Self::with(inner, arguments, lots)
            }
        }
    }

    /// Whether a binding may have this key: to be asked before [`bind`](Self::bind), which adds nothing when
    /// the answer is no. What a headers binding's arguments may be is [`headers::check_arguments`].
    ///
    /// # Errors
    /// A topic pattern of too many words, a weight that is none.
    pub fn bind_allowed(&self, key: &str) -> Result<(), RoutingError> {
        match self {
            Self::Topic(_) => topic::check_key(key),
            Self::ConsistentHash(_) => consistent_hash::check_key(key),
            _ => Ok(()),
        }
    }

    /// Adds a binding; `false` when it was there already. `arguments` are the bytes of a validated table, and
    /// the order of their keys does not matter.
    pub fn bind(&mut self, key: &str, arguments: &[u8], target: T) -> bool {
        let arguments = canonical(arguments);
        let raw = arguments.as_table().as_bytes();
        match self {
            Self::Direct(direct) => direct.bind(key.as_bytes(), raw, target),
            Self::Fanout(fanout) => fanout.bind(key.as_bytes(), raw, target),
            Self::Topic(topic) => topic.bind(key, raw, target),
            Self::Headers(headers) => headers.bind(key.as_bytes(), arguments, target),
            Self::ConsistentHash(bindings) => bindings.bind(key, raw, target),
            Self::ModulusHash(bindings) => bindings.bind(key.as_bytes(), raw, target),
            Self::Random(random) => random.bind(key.as_bytes(), raw, target),
            Self::RecentHistory(fanout) => fanout.bind(key.as_bytes(), raw, target),
        }
    }

    /// Removes a binding; `false` when it was not there.
    pub fn unbind(&mut self, key: &str, arguments: &[u8], target: &T) -> bool {
        let arguments = canonical(arguments);
        let arguments = arguments.as_table().as_bytes();
        match self {
            Self::Direct(direct) => direct.unbind(key.as_bytes(), arguments, target),
            Self::Fanout(fanout) => fanout.unbind(key.as_bytes(), arguments, target),
            Self::Topic(topic) => topic.unbind(key, arguments, target),
            Self::Headers(headers) => headers.unbind(key.as_bytes(), arguments, target),
            Self::ConsistentHash(bindings) => bindings.unbind(key, arguments, target),
            Self::ModulusHash(bindings) => bindings.unbind(key.as_bytes(), arguments, target),
            Self::Random(random) => random.unbind(key.as_bytes(), arguments, target),
            Self::RecentHistory(fanout) => fanout.unbind(key.as_bytes(), arguments, target),
        }
    }

    /// Whether exchange and key decide where a message goes and nothing else comes of it, so that others with the same need
    /// not be routed again.
    pub fn is_by_key(&self) -> bool {
        match self {
            Self::Direct(_) | Self::Fanout(_) | Self::Topic(_) | Self::ModulusHash(_) => true,
            Self::Headers(_) | Self::Random(_) | Self::RecentHistory(_) => false,
            Self::ConsistentHash(bindings) => bindings.is_by_key(),
        }
    }

    /// Whether a message passes once, however many keys it has: with the first one.
    pub fn takes_first_key(&self) -> bool {
        match self {
            Self::Direct(_) | Self::Topic(_) => false,
            // To some keys mean nothing, and others choose once.
            Self::Fanout(_) | Self::Headers(_) => true,
            Self::ConsistentHash(_) | Self::ModulusHash(_) | Self::Random(_) | Self::RecentHistory(_) => true,
        }
    }

    /// Calls `found` with each target the message goes to. A target bound more than once may be reported more
    /// than once: the caller keeps one copy per queue. Returns the steps it took, one for each target among them.
    ///
    /// # Errors
    /// [`TooManySteps`] when patterns, or a choice among millions, take more than `budget` has left: then not all targets were found.
    pub fn route(
        &self,
        key: &[u8],
        properties: Properties<'_>,
        budget: &mut MatchBudget,
        found: &mut dyn FnMut(&T),
    ) -> Result<usize, TooManySteps> {
        let mut targets = 0;
        let mut count = |target: &T| {
            targets += 1;
            found(target);
        };
        let steps = match self {
            Self::Direct(direct) => {
                direct.route(key, &mut count);
                1
            }
            Self::Fanout(fanout) | Self::RecentHistory(fanout) => {
                fanout.route(&mut count);
                1
            }
            Self::Topic(topic) => topic.route(key, budget, &mut count)?,
            Self::Headers(bindings) => {
                bindings.route(properties.headers().unwrap_or(Table::EMPTY), &mut count)
            }
            Self::ConsistentHash(bindings) => bindings.route(key, properties, budget, &mut count)?,
            Self::ModulusHash(bindings) => bindings.route(key, &mut count),
            Self::Random(random) => random.route(&mut count),
        };
        Ok(steps + targets)
    }

    /// The number of bindings.
    pub fn len(&self) -> usize {
        match self {
            Self::Direct(direct) => direct.len(),
            Self::Fanout(fanout) => fanout.len(),
            Self::Topic(topic) => topic.len(),
            Self::Headers(headers) => headers.len(),
            Self::ConsistentHash(bindings) => bindings.len(),
            Self::ModulusHash(bindings) => bindings.len(),
            Self::Random(random) => random.len(),
            Self::RecentHistory(fanout) => fanout.len(),
        }
    }

    /// Whether there is no binding.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T: Clone + Eq + Hash + Member> fmt::Debug for Bindings<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::Direct(_) => "Direct",
            Self::Fanout(_) => "Fanout",
            Self::Topic(_) => "Topic",
            Self::Headers(_) => "Headers",
            Self::ConsistentHash(_) => "ConsistentHash",
            Self::ModulusHash(_) => "ModulusHash",
            Self::Random(_) => "Random",
            Self::RecentHistory(_) => "RecentHistory",
        };
        write!(f, "{kind}({} bindings)", self.len())
    }
}
