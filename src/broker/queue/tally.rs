//! What a queue has done and holds, for those who watch it without its lock.
//!
//! Written by whoever holds the lock, once for each run or each hold, and read by anyone at any time: numbers that were
//! read one after the other need not fit together.

use crate::queue::settings::QueueKind;
use crate::stats::{Counter, Gauge};

/// The counts of one queue.
#[derive(Debug, Default)]
pub struct Tally {
    /// Messages that came in.
    pub published: Counter,
    /// Messages handed to consumers that acknowledge.
    pub delivered: Counter,
    /// Messages handed to consumers that do not.
    pub delivered_no_ack: Counter,
    /// Messages that basic.get took, to be acknowledged.
    pub got: Counter,
    /// Messages that basic.get took for good.
    pub got_no_ack: Counter,
    /// Times that basic.get found none.
    pub got_empty: Counter,
    /// Of all that were handed out those that had been before.
    pub redelivered: Counter,
    /// Messages that were acknowledged.
    pub acked: Counter,
    /// Messages that wait.
    pub ready: Gauge,
    /// Messages handed out and not settled.
    pub unacked: Gauge,
    /// The bodies of those that wait, in bytes.
    pub ready_bytes: Gauge,
    /// Of a quorum queue: dead letters that have not gone to where they go.
    pub dying: Gauge,
    /// Their bodies, in bytes.
    pub dying_bytes: Gauge,
    /// When the first of those that wait came in, in milliseconds since 1970; 0 when none waits, or that is not known.
    pub head_ms: Gauge,
    /// Consumers.
    pub consumers: Gauge,
    /// When its last consumer went, in milliseconds since 1970; 0 while it has any, or when that is not known.
    pub idle_since_ms: Gauge,
}

/// What queues that are gone had done.
#[derive(Debug, Default)]
pub struct Tallies {
    classic: Tally,
    quorum: Tally,
}

impl Tallies {
    /// Those of a kind.
    pub fn of(&self, kind: QueueKind) -> &Tally {
        match kind {
            QueueKind::Classic => &self.classic,
            QueueKind::Quorum => &self.quorum,
        }
    }
}

impl Tally {
    /// All that it holds.
    pub fn messages(&self) -> u64 {
        self.ready.read() + self.unacked.read() + self.dying.read()
    }

    /// How long the first of those that wait has waited, in milliseconds; `None` when none does, or that is not known.
    pub fn oldest_ms(&self, now_ms: u64) -> Option<u64> {
        let head_ms = self.head_ms.read();
        (head_ms > 0).then(|| now_ms.saturating_sub(head_ms))
    }

    /// The queue is gone: what it held is nobody's any more.
    pub(super) fn empty(&self) {
        let held = [&self.ready, &self.unacked, &self.ready_bytes, &self.dying, &self.dying_bytes];
        for gauge in held.into_iter().chain([&self.head_ms, &self.consumers]) {
            gauge.set(0);
        }
    }

    /// Adds what a queue has done.
    pub fn absorb(&self, other: &Self) {
        let pairs = [
            (&self.published, &other.published),
            (&self.delivered, &other.delivered),
            (&self.delivered_no_ack, &other.delivered_no_ack),
            (&self.got, &other.got),
            (&self.got_no_ack, &other.got_no_ack),
            (&self.got_empty, &other.got_empty),
            (&self.redelivered, &other.redelivered),
            (&self.acked, &other.acked),
        ];
        for (sum, count) in pairs {
            sum.add(count.read());
        }
    }
}
