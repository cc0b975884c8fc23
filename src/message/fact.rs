//! What the log says: every durable change, in the past tense.
//!
//! The state of the broker is the fold of these. Facts are absolute and idempotent: they carry the numbers
//! they speak of, never "the next one", so that a replay over a state that already holds a part of them ends
//! in the same state.

use crate::message::place::{QueueId, Returned, Seq};
use crate::message::run::Run;

/// One durable change.
#[derive(Debug)]
pub enum Fact<'a> {
    /// The messages of `run` are in each of the queues, numbered from the given number on.
    Published {
        /// The messages; the run's own numbers say nothing.
        run: &'a Run,
        /// Each durable queue that has them.
        targets: &'a [(QueueId, Seq)],
    },
    /// The numbers `first..end` of the queue are done with: acknowledged, rejected, purged.
    Settled {
        /// The queue.
        queue: QueueId,
        /// The ranges, in no order.
        ranges: &'a [(Seq, Seq)],
    },
    /// Messages of a queue that counts it came back.
    Returned {
        /// The queue.
        queue: QueueId,
        /// How often each has by now, in no order.
        ranges: &'a [Returned],
    },
    /// A definition came, changed or went.
    Defined(Definition<'a>),
}

/// A durable definition that came or went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Definition<'a> {
    /// An exchange was declared.
    ExchangeDeclared {
        /// Its virtual host.
        vhost: &'a str,
        /// Its name.
        name: &'a str,
        /// Its type, as clients write it.
        kind: &'a str,
        /// Whether it goes with its last binding.
        auto_delete: bool,
        /// Whether clients may not publish to it.
        internal: bool,
        /// Its arguments, a field table without its length.
        arguments: &'a [u8],
    },
    /// An exchange was deleted.
    ExchangeDeleted {
        /// Its virtual host.
        vhost: &'a str,
        /// Its name.
        name: &'a str,
    },
    /// A queue was declared.
    QueueDeclared {
        /// Its number.
        queue: QueueId,
        /// Its virtual host.
        vhost: &'a str,
        /// Its name.
        name: &'a str,
        /// Whether it goes with its last consumer.
        auto_delete: bool,
        /// Its arguments, a field table without its length.
        arguments: &'a [u8],
    },
    /// A queue was deleted, with all that was in it.
    QueueDeleted {
        /// Its number.
        queue: QueueId,
    },
    /// A binding was made between durable ends.
    Bound(Binding<'a>),
    /// A binding was removed.
    Unbound(Binding<'a>),
    /// A parameter was set: what administrators say, from users to policies.
    ParameterSet {
        /// Which.
        parameter: Parameter<'a>,
        /// What it says, a field table without its length.
        value: &'a [u8],
    },
    /// A parameter was cleared.
    ParameterCleared {
        /// Which.
        parameter: Parameter<'a>,
    },
}

/// A parameter by its identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameter<'a> {
    /// The virtual host it belongs to; empty for one of the whole broker.
    pub vhost: &'a str,
    /// What kind it is.
    pub component: &'a str,
    /// Its name among those.
    pub name: &'a str,
}

/// A binding by its identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding<'a> {
    /// The virtual host of both ends.
    pub vhost: &'a str,
    /// The exchange messages come from.
    pub source: &'a str,
    /// Where they go.
    pub destination: Destination<'a>,
    /// The binding key.
    pub key: &'a str,
    /// The arguments, a field table without its length.
    pub arguments: &'a [u8],
}

/// A binding's far end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination<'a> {
    /// A queue.
    Queue(QueueId),
    /// An exchange, by name.
    Exchange(&'a str),
}
