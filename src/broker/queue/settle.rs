//! What comes back from consumers: acknowledgements, and messages to deliver again.
//!
//! A session collects the settlements of one read chunk per queue, so that a thousand acks cost one lock.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use smallvec::SmallVec;

use crate::broker::queue::handle::Queue;
use crate::broker::wakes::Wakes;
use crate::message::fact::Fact;
use crate::message::place::{Lsn, QueueId, Seq};
use crate::message::run::Run;
use crate::queue::consumers::ConsumerKey;
use crate::storage::log::Append;

/// What one burst of acknowledgements changes, queue by queue.
#[derive(Debug, Default)]
pub struct Settlements {
    list: Vec<Settlement>,
    /// Where in the list each queue's is.
    by_queue: HashMap<QueueId, usize, RandomState>,
}

impl Settlements {
    /// What changes at this queue.
    pub fn of(&mut self, queue: &Arc<Queue>) -> &mut Settlement {
        let at = match self.list.last() {
            Some(settlement) if settlement.queue.id == queue.id => self.list.len() - 1,
            _ => *self.by_queue.entry(queue.id).or_insert(self.list.len()),
        };
        if at == self.list.len() {
            self.list.push(Settlement::new(Arc::clone(queue)));
        }
        #[expect(clippy::indexing_slicing, reason = "the position was just found or made")]
        &mut self.list[at]
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Each, in the order in which the queues were first touched.
    pub fn iter(&self) -> impl Iterator<Item = &Settlement> {
        self.list.iter()
    }

    /// Takes all.
    pub fn drain(&mut self) -> impl Iterator<Item = Settlement> {
        self.by_queue.clear();
        self.list.drain(..)
    }
}

/// What one burst of acknowledgements changes at one queue.
#[derive(Debug)]
pub struct Settlement {
    /// The queue.
    pub queue: Arc<Queue>,
    logged: SmallVec<[(Seq, Seq); 1]>,
    transient: SmallVec<[(Seq, Seq); 1]>,
    returned: Vec<Run>,
    credits: SmallVec<[(ConsumerKey, u32); 2]>,
}

impl Settlement {
    /// Nothing yet.
    pub fn new(queue: Arc<Queue>) -> Self {
        Self {
            queue,
            logged: SmallVec::new(),
            transient: SmallVec::new(),
            returned: Vec::new(),
            credits: SmallVec::new(),
        }
    }

    /// The run's messages are done with.
    pub fn settled(&mut self, run: &Run) {
        let ranges =
            if self.queue.logs(run.is_persistent()) { &mut self.logged } else { &mut self.transient };
        match ranges.last_mut() {
            Some((_, end)) if *end == run.first_seq() => *end = run.end_seq(),
            _ => ranges.push((run.first_seq(), run.end_seq())),
        }
    }

    /// The run's messages go back to where they were.
    pub fn returned(&mut self, run: Run) {
        self.returned.push(run);
    }

    /// A consumer holds `count` messages less.
    pub fn credit(&mut self, consumer: ConsumerKey, count: u32) {
        match self.credits.iter_mut().find(|(key, _)| *key == consumer) {
            Some((_, credit)) => *credit += count,
            None => self.credits.push((consumer, count)),
        }
    }

    /// Tells the log, before anything is changed. `None` when the log need not know.
    pub fn append(&self, log: &mut Append<'_>) -> Option<Lsn> {
        let fact = Fact::Settled { queue: self.queue.id, ranges: &self.logged };
        (!self.logged.is_empty()).then(|| log.push(&fact).end)
    }

    /// Whether the log must know.
    pub fn is_logged(&self) -> bool {
        !self.logged.is_empty()
    }

    /// Changes the queue, and delivers what the credit allows.
    pub fn apply(self, wakes: &mut Wakes) {
        let queue = self.queue;
        let mut state = queue.lock();
        if queue.is_deleted() {
            return;
        }
        let classic = &mut state.classic;
        for (first, end) in self.logged {
            classic.settle(first, end, true);
        }
        for (first, end) in self.transient {
            classic.settle(first, end, false);
        }
        for run in self.returned {
            classic.give_back(run);
        }
        for (consumer, count) in self.credits {
            classic.consumers.credited(consumer, count);
        }
        queue.dispatch(&mut state, wakes);
    }
}
