//! What a method begins and may take longer than a turn: kept by the link, worked off by `session::work`.
//!
//! Nothing more is taken from the client before its chores are done, so that it sees everything in order.

use std::sync::Arc;

use bytes::BytesMut;

use crate::broker::consumer::Consumer;
use crate::broker::queue::handle::Queue;
use crate::broker::queue::settle::Back;
use crate::broker::vhost::Recalled;
use crate::broker::vhost::removal::Removal;
use crate::message::place::Lsn;
use crate::session::unroutable::Returns;

/// What an acknowledgement decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The messages are done with.
    Done,
    /// The messages are not wanted: they are dead-lettered where their queue does that.
    Reject,
    /// The messages go back to their queue.
    Return(Back),
}

impl Verdict {
    /// The method that says it of several messages, by its ids.
    pub fn method_id(self) -> (u16, u16) {
        match self {
            Self::Done => (60, 80),
            Self::Reject | Self::Return(_) => (60, 120),
        }
    }
}

/// The channel to be answered, and the frame; empty when nobody waits for one.
pub type Answer = (u16, BytesMut);

/// A queue that is being emptied.
#[derive(Debug)]
pub struct Purge {
    /// The channel to be answered.
    pub channel: u16,
    /// The queue.
    pub queue: Arc<Queue>,
    /// How many messages were there and are not removed yet.
    pub left: u64,
    /// How many were removed.
    pub purged: u64,
    /// Nobody waits for an answer.
    pub nowait: bool,
}

/// Something begun.
#[derive(Debug)]
pub enum Chore {
    /// basic.ack or basic.nack of every delivery of a channel up to and with this tag.
    Settle {
        /// The channel.
        channel: u16,
        /// The last tag.
        through: u64,
        /// What becomes of the messages.
        verdict: Verdict,
    },
    /// Everything that a channel has not acknowledged goes back.
    Recover {
        /// The channel.
        channel: u16,
        /// The client waits for an answer.
        reply: bool,
    },
    /// A consumer was cancelled because it held a message for too long, and what else it holds goes back.
    TakeBack {
        /// The channel.
        channel: u16,
        /// The consumer.
        consumer: Arc<Consumer>,
        /// The tag to go on with.
        from: u64,
    },
    /// Something was deleted, and what it leaves goes.
    Remove {
        /// What is left to do.
        removal: Removal,
        /// What is said when it is done.
        answer: Answer,
    },
    /// Something was bound to an exchange that remembers messages, and gets them.
    Recall {
        /// What is left of them, and for whom.
        recalled: Recalled,
        /// What the answer waits for.
        after: Lsn,
        /// What is said when all are there.
        answer: Answer,
    },
    /// queue.purge.
    Purge(Purge),
    /// tx.commit: what was settled is collected, and nothing of it handed over before all is.
    Commit {
        /// The channel.
        channel: u16,
    },
    /// tx.rollback: what was settled is taken back.
    RollBack {
        /// The channel.
        channel: u16,
    },
    /// tx.commit is answered, when what it handed over is durable.
    Committed {
        /// The channel.
        channel: u16,
        /// What the answer waits for; not known before all is handed over.
        after: Option<Lsn>,
        /// What goes back to the publisher before.
        returns: Returns,
    },
}
