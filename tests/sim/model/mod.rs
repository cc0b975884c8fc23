//! The shadow of the broker: what is declared, where each message is, and who holds it.
//!
//! It is told which operations the broker has processed and what the broker said in that turn. Operations without
//! an answer are applied as soon as everything before them is; one with an answer when the answer is read, which
//! must be the one that was predicted. So the model is where the broker was when it said what is judged.
//!
//! What the model cannot know is which waiting messages are on their way to a consumer already. Where that
//! matters it keeps bounds: when a message became available at the earliest and at the latest, and how many of
//! those that a purge may have removed are still there.
//!
//! [`state`] holds the parts, [`effects`] changes them, [`predict`] says how an operation will be answered,
//! [`judge`] compares that with what was said, [`rest`] what must hold when nothing moves any more.

mod effects;
mod judge;
mod predict;
mod rest;
mod routing;
mod state;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

pub(crate) use crate::model::judge::{Said, split};
pub(crate) use crate::model::routing::{DECLARED, EXCHANGES, HASH, MISSING, MODULUS};
use crate::model::state::{Channel, Consumer, Held, Queue};
use crate::op::{Message, Op, Pattern};

/// A channel of a connection.
pub(crate) type ChannelKey = (u64, u16);

/// What a client learns from what the broker said.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// A delivery that wants an acknowledgement.
    Delivered {
        channel: u16,
        tag: u64,
    },
    /// The broker closed the channel.
    Refused {
        channel: u16,
    },
    /// The broker agreed to close the channel.
    ChannelClosed {
        channel: u16,
    },
    Consuming {
        channel: u16,
        tag: String,
    },
    Cancelled {
        channel: u16,
        tag: String,
    },
    Recovered {
        channel: u16,
    },
    Committed {
        channel: u16,
    },
    RolledBack {
        channel: u16,
    },
    ConnectionClosed,
}

/// What a turn did to the log.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Span {
    /// Where it ended before.
    pub(crate) end: u64,
    /// Up to where it is durable after.
    pub(crate) durable: u64,
}

/// What the model makes of one thing that was said.
#[derive(Debug)]
pub(crate) struct Judged {
    pub(crate) event: Option<Event>,
    /// It may not be heard before the log is durable beyond this position.
    pub(crate) logged_behind: Option<u64>,
}

/// The whole of it.
#[derive(Debug, Default)]
pub(crate) struct Model {
    queues: BTreeMap<u64, Queue>,
    names: BTreeMap<String, u64>,
    bindings: BTreeSet<(u64, Pattern)>,
    consumers: BTreeMap<u64, Consumer>,
    channels: BTreeMap<ChannelKey, Channel>,
    peers: BTreeMap<u64, Peer>,
    messages: BTreeMap<u64, Rc<Message>>,
    /// Counts what happens, to tell before from after.
    clock: u64,
    /// Names queues and consumers, never twice.
    ids: u64,
    /// Came back in this turn and not yet available: the broker hands them over before the next publish.
    returning: Vec<Held>,
    /// Nothing is on its way: counts are exact.
    at_rest: bool,
    /// Where the log ended before this turn, and up to where it was durable after it.
    log: Span,
    /// What is judged now was logged behind this position.
    logged_behind: Option<u64>,
}

#[derive(Debug)]
struct Peer {
    frame_max: u32,
    notify_cancel: bool,
    /// Processed by the broker, not yet applied here.
    processed: VecDeque<(u16, Op)>,
    closed: bool,
}

impl Model {
    /// A connection is open.
    pub(crate) fn connect(&mut self, connection: u64, frame_max: u32, notify_cancel: bool) {
        let peer = Peer { frame_max, notify_cancel, processed: VecDeque::new(), closed: false };
        self.peers.insert(connection, peer);
    }

    /// The broker processed `done` of this connection and then had `said`, which is judged and answered in its order.
    ///
    /// What is parked is judged when it is said, and not when it is heard. Then the order of what different channels
    /// say is not known, and `parked` says so.
    pub(crate) fn observe(
        &mut self,
        connection: u64,
        done: impl Iterator<Item = (u16, Op)>,
        said: &[Said],
        parked: bool,
        log: Span,
    ) -> Vec<Judged> {
        self.log = log;
        self.peer(connection).processed.extend(done);
        self.apply_silent(connection);
        let judged = self.read(connection, said, parked);
        let unanswered = self.peer(connection).processed.front().cloned();
        // A get waits for its queue's head, and the connection for the get.
        let waits = matches!(unanswered, Some((_, Op::Get { .. }))) && !self.at_rest;
        assert!(unanswered.is_none() || waits, "no answer to {unanswered:?}");
        judged
    }

    /// Nobody waits for an answer.
    pub(crate) fn check_answered(&self) {
        for peer in self.peers.values() {
            assert!(peer.processed.is_empty(), "no answer to {:?}", peer.processed);
        }
    }

    /// The socket is gone.
    pub(crate) fn disconnect(&mut self, connection: u64) {
        self.peers.remove(&connection);
        self.close_connection(connection);
    }

    /// Applies what has no answer, up to the first operation that has one.
    fn apply_silent(&mut self, connection: u64) {
        while let Some((channel, op)) = self.peer(connection).processed.front().cloned()
            && self.is_silent((connection, channel), &op)
        {
            self.peer(connection).processed.pop_front();
            self.apply_unanswered((connection, channel), op);
        }
        // The broker collects publishes and settlements until another method needs to see their effect.
        let front = self.peer(connection).processed.front();
        if !front.is_some_and(|(_, op)| matches!(op, Op::Publish(_) | Op::Settle { .. })) {
            self.hand_over_returns();
        }
    }

    fn peer(&mut self, connection: u64) -> &mut Peer {
        self.peers.get_mut(&connection).expect("the connection is known")
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn next_id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    /// Names of the queues that are there, for choosing one.
    pub(crate) fn queue_names(&self) -> Vec<&str> {
        self.names.keys().map(String::as_str).collect()
    }
}
