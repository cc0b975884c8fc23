//! The classic queue: messages in order of publishing, each to one consumer.
//!
//! A persistent message of a durable queue waits until its log position is durable, and what is behind it
//! waits too: nothing is ever seen that a crash could take back, and order holds.

use std::collections::VecDeque;

use crate::message::place::{Logged, Lsn, Place, Seq};
use crate::message::run::Run;
use crate::queue::consumers::Consumers;
use crate::queue::lane::Lane;
use crate::queue::ledger::Ledger;

/// One classic queue. `C` is what its owner needs to reach a consumer.
#[derive(Debug)]
pub struct Classic<C> {
    /// Who is next.
    pub consumers: Consumers<C>,
    ready: Lane,
    /// From which number on messages wait for which log position, in order of the numbers.
    undurable: VecDeque<(Seq, Lsn)>,
    ledger: Ledger,
    unacked: u64,
}

impl<C> Default for Classic<C> {
    fn default() -> Self {
        Self {
            consumers: Consumers::default(),
            ready: Lane::default(),
            undurable: VecDeque::new(),
            ledger: Ledger::default(),
            unacked: 0,
        }
    }
}

impl<C> Classic<C> {
    /// Takes in new messages. `logged` is their position in the log, when they are in it.
    pub fn enqueue(&mut self, run: Run, logged: Option<Logged>) {
        if let Some(Logged { start, end }) = logged {
            self.ledger.insert(run.first_seq(), run.end_seq(), Place::Log(start));
            let at = self.undurable.partition_point(|&(seq, _)| seq < run.first_seq());
            self.undurable.insert(at, (run.first_seq(), end));
        }
        self.ready.insert(run);
    }

    /// The log is durable up to `durable`.
    pub fn on_durable(&mut self, durable: Lsn) {
        while self.undurable.front().is_some_and(|&(_, lsn)| lsn <= durable) {
            self.undurable.pop_front();
        }
    }

    /// How many messages of the front run may be delivered.
    pub fn deliverable(&self) -> u32 {
        let Some(front) = self.ready.front() else { return 0 };
        let Some(&(barrier, _)) = self.undurable.front() else { return front.count() };
        let before = barrier.0.saturating_sub(front.first_seq().0);
        u32::try_from(before).unwrap_or(u32::MAX).min(front.count())
    }

    /// The run at the head.
    pub fn front(&self) -> Option<&Run> {
        self.ready.front()
    }

    /// Takes up to `count` messages of the front run; they are unacked until settled or given back.
    pub fn take(&mut self, count: u32) -> Option<Run> {
        let run = self.ready.take_front(count)?;
        self.unacked += u64::from(run.count());
        Some(run)
    }

    /// Messages taken before are done with.
    pub fn settle(&mut self, first: Seq, end: Seq, persistent: bool) {
        self.unacked = self.unacked.saturating_sub(end.0 - first.0);
        if persistent {
            self.ledger.cut(first, end);
        }
    }

    /// Messages taken before return to the place they had.
    pub fn give_back(&mut self, run: Run) {
        self.unacked = self.unacked.saturating_sub(u64::from(run.count()));
        self.ready.insert(run);
    }

    /// Removes up to about `count` ready messages from the head; their runs, for the log and the count.
    pub fn purge(&mut self, count: u64) -> Vec<Run> {
        let mut purged = Vec::new();
        let mut left = count;
        while left > 0
            && let Some(run) = self.ready.take_front(u32::MAX)
        {
            left = left.saturating_sub(u64::from(run.count()));
            if run.is_persistent() {
                self.ledger.cut(run.first_seq(), run.end_seq());
            }
            purged.push(run);
        }
        purged
    }

    /// Messages waiting to be delivered.
    pub fn ready_messages(&self) -> u64 {
        self.ready.messages()
    }

    /// Messages delivered and not yet settled.
    pub fn unacked_messages(&self) -> u64 {
        self.unacked
    }

    /// What the list of waiting messages costs beside their bytes, in bytes.
    pub fn index_bytes(&self) -> u64 {
        (self.ready.runs() * size_of::<Run>()) as u64
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::Classic;
    use crate::message::block::BlockBuilder;
    use crate::message::block_header::Stamp;
    use crate::message::names::Names;
    use crate::message::place::{Logged, Lsn, Seq};
    use crate::message::record::Content;
    use crate::message::run::Run;

    fn run(first: u64, count: u32) -> Run {
        let mut builder = BlockBuilder::default();
        for _ in 0..count {
            builder.push(&Content { names: Names::EMPTY, properties: &[0, 0], body: b"m" });
        }
        let (block, count, body_bytes) =
            builder.seal(Stamp { persistent: true, received_ms: 0 }, &Arc::default());
        Run::of_block(block, count, body_bytes).numbered_from(Seq(first))
    }

    fn ends_at(end: u64) -> Option<Logged> {
        Some(Logged { start: Lsn(end - 1), end: Lsn(end) })
    }

    /// Takes everything that may be delivered, one message at a time.
    fn drain(queue: &mut Classic<()>, durable: Lsn) -> Vec<Run> {
        let mut taken = Vec::new();
        queue.on_durable(durable);
        while queue.deliverable() > 0 {
            taken.extend(queue.take(1));
        }
        taken
    }

    fn numbers(runs: &[Run]) -> Vec<u64> {
        runs.iter().map(|run| run.first_seq().0).collect()
    }

    #[test]
    fn messages_come_in_order_of_their_numbers_whoever_was_quicker() {
        let mut queue = Classic::default();
        queue.enqueue(run(3, 2), None);
        queue.enqueue(run(1, 2), None);
        queue.enqueue(run(5, 1), None);
        assert_eq!(numbers(&drain(&mut queue, Lsn(0))), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn nothing_passes_a_message_that_is_not_durable() {
        let mut queue = Classic::default();
        queue.enqueue(run(1, 1), None);
        queue.enqueue(run(2, 2), ends_at(10));
        queue.enqueue(run(4, 1), None);
        queue.enqueue(run(5, 1), ends_at(20));
        assert_eq!(numbers(&drain(&mut queue, Lsn(9))), [1]);
        assert_eq!(numbers(&drain(&mut queue, Lsn(10))), [2, 3, 4]);
        assert_eq!(numbers(&drain(&mut queue, Lsn(20))), [5]);
    }

    #[test]
    fn what_is_given_back_returns_to_its_place() {
        let mut queue = Classic::default();
        queue.enqueue(run(1, 5), None);
        let mut taken = drain(&mut queue, Lsn(0));
        queue.give_back(taken.remove(3));
        queue.give_back(taken.remove(1));
        assert_eq!((queue.ready_messages(), queue.unacked_messages()), (2, 3));
        assert_eq!(numbers(&drain(&mut queue, Lsn(0))), [2, 4]);
    }

    #[test]
    fn a_purge_takes_only_what_is_ready() {
        let mut queue = Classic::<()>::default();
        queue.enqueue(run(1, 4), ends_at(1));
        assert_eq!(queue.deliverable(), 0);
        queue.on_durable(Lsn(1));
        assert_eq!(queue.deliverable(), 4);
        let held = queue.take(1).unwrap();
        let purged: u32 = queue.purge(u64::MAX).iter().map(Run::count).sum();
        assert_eq!((purged, queue.ready_messages(), queue.unacked_messages()), (3, 0, 1));
        assert_eq!(queue.ledger.messages(), 1);
        queue.settle(held.first_seq(), held.end_seq(), true);
        assert_eq!((queue.ledger.messages(), queue.unacked_messages()), (0, 0));
    }
}
