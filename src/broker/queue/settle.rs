//! What comes back from consumers: acknowledgements, and messages to deliver again.
//!
//! A session collects the settlements of one read chunk per queue, so that a thousand acks cost one lock.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::broker::queue::handle::Queue;
use crate::broker::wakes::Wakes;
use crate::message::fact::Fact;
use crate::message::place::{Lsn, Seq};
use crate::message::run::Run;
use crate::queue::consumers::ConsumerKey;
use crate::storage::log::Append;

/// What one burst of acknowledgements changes at one queue.
#[derive(Debug)]
pub struct Settlement {
    /// The queue.
    pub queue: Arc<Queue>,
    logged: Vec<(Seq, Seq)>,
    transient: Vec<(Seq, Seq)>,
    returned: Vec<Run>,
    credits: SmallVec<[(ConsumerKey, u32); 2]>,
}

impl Settlement {
    /// Nothing yet.
    pub fn new(queue: Arc<Queue>) -> Self {
        Self {
            queue,
            logged: Vec::new(),
            transient: Vec::new(),
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
