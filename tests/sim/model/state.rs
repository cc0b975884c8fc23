//! The parts of the model.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use crate::model::ChannelKey;
use crate::op::{Message, Verdict};

/// A queue from its declaration to its deletion.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) name: String,
    /// The connection it is exclusive to.
    pub(super) owner: Option<u64>,
    /// By sequence number: what waits, is on its way, or is held.
    pub(super) entries: BTreeMap<u64, Entry>,
    pub(super) next_seq: u64,
    pub(super) consumers: BTreeSet<u64>,
    /// Of the entries in doubt so many are still there.
    pub(super) survivors: u64,
    /// The last entry that anybody got.
    pub(super) last_given: u64,
}

/// A message in a queue.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) message: Rc<Message>,
    pub(super) held: bool,
    /// A purge may have removed it.
    pub(super) doubtful: bool,
    /// It was delivered and came back.
    pub(super) redelivered: bool,
    /// It may have been on its way to a channel that ended, which is as good as delivered.
    pub(super) perhaps_redelivered: bool,
    /// For what the log must know: where that ended before.
    pub(super) logged_behind: Option<u64>,
    /// When it became available, at the earliest and at the latest.
    pub(super) since: (u64, u64),
}

impl Queue {
    /// Messages that wait or are on their way.
    pub(super) fn unheld(&self) -> u64 {
        let certain = self.entries.values().filter(|entry| !entry.held && !entry.doubtful).count();
        certain as u64 + self.survivors
    }

    pub(super) fn held(&self) -> u64 {
        self.entries.values().filter(|entry| entry.held).count() as u64
    }

    /// The entry of a message that nobody holds.
    pub(super) fn find(&self, message: u64) -> Option<u64> {
        let found = self.entries.iter().find(|(_, entry)| !entry.held && entry.message.id == message);
        found.map(|(seq, _)| *seq)
    }

    /// The first message that certainly waits or is on its way.
    pub(super) fn first_certain(&self) -> Option<(u64, &Entry)> {
        let mut certain = self.entries.iter().filter(|(_, entry)| !entry.held && !entry.doubtful);
        certain.next().map(|(seq, entry)| (*seq, entry))
    }

    /// Marks a message as taken.
    pub(super) fn hold(&mut self, seq: u64) {
        let entry = self.entries.get_mut(&seq).expect("it was found");
        entry.held = true;
        self.last_given = self.last_given.max(seq);
        if std::mem::take(&mut entry.doubtful) {
            self.survivors =
                self.survivors.checked_sub(1).expect("more messages survived a purge than it said");
            self.settle_doubts();
        }
    }

    /// Without survivors no doubt is left.
    pub(super) fn settle_doubts(&mut self) {
        if self.survivors == 0 {
            self.entries.retain(|_, entry| !entry.doubtful);
        }
    }
}

/// A consumer, as long as its queue knows it.
#[derive(Debug)]
pub(super) struct Consumer {
    pub(super) channel: ChannelKey,
    pub(super) tag: String,
    pub(super) queue: u64,
    pub(super) no_ack: bool,
    pub(super) exclusive: bool,
    pub(super) prefetch: Option<u64>,
    pub(super) held: u64,
    /// What it was given: sequence number, and when that was available at the earliest.
    pub(super) given: Vec<(u64, u64)>,
}

/// A channel from its opening to the answer to its close.
#[derive(Debug, Default)]
pub(super) struct Channel {
    /// The broker closed it and waits for the answer.
    pub(super) refused: bool,
    pub(super) last_tag: u64,
    pub(super) unacked: BTreeMap<u64, Held>,
    /// By tag.
    pub(super) consumers: BTreeMap<String, u64>,
    /// Consumers whose queue is gone; the client is about to be told.
    pub(super) ended: BTreeSet<String>,
    pub(super) prefetch: u16,
    pub(super) window: Option<Window>,
    pub(super) confirms: Option<Confirms>,
    pub(super) tx: Option<Tx>,
}

/// A channel's shared prefetch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub(super) limit: u64,
    /// Messages available before may have been on their way when it was set.
    pub(super) since: u64,
}

#[derive(Debug, Default)]
pub(super) struct Confirms {
    pub(super) published: u64,
    pub(super) acked: u64,
    /// For each publish that is not confirmed: see [`Entry::logged_behind`].
    pub(super) logged_behind: VecDeque<Option<u64>>,
}

/// What an open transaction collects.
#[derive(Debug, Default)]
pub(super) struct Tx {
    /// With the names of the queues each goes to.
    pub(super) publishes: Vec<(Vec<String>, Rc<Message>)>,
    /// Those that came back since it is being committed.
    pub(super) returned: BTreeSet<u64>,
    pub(super) settled: Vec<(u64, Held, Verdict)>,
}

/// A delivery that is not settled.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) queue: u64,
    pub(super) seq: u64,
    /// `None` for basic.get.
    pub(super) consumer: Option<u64>,
}

impl Channel {
    /// What counts in its shared prefetch: not what basic.get took.
    pub(super) fn holds(&self) -> u64 {
        let settled = self.tx.iter().flat_map(|tx| tx.settled.iter().map(|(_, held, _)| held));
        self.unacked.values().chain(settled).filter(|held| held.consumer.is_some()).count() as u64
    }
}
