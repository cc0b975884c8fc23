//! Which block a published message joins.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use crate::broker::publish::pending::Pending;
use crate::broker::route::Targets;
use crate::message::place::QueueId;

/// Which pending blocks may still grow.
#[derive(Debug, Default)]
pub(super) struct OpenBlocks {
    /// The block that a queue's messages went to last.
    by_queue: HashMap<QueueId, usize, RandomState>,
    /// Blocks for several queues, by where the list of those lies.
    sets: HashMap<usize, usize, RandomState>,
    /// The last block for one queue: most messages go where the one before went.
    last_single: Option<(QueueId, usize)>,
    last_set: Option<usize>,
    /// A block for several queues that `by_queue` does not know, for nothing else was published since.
    unregistered: Option<usize>,
    pub(super) steps: u32,
}

impl OpenBlocks {
    /// The open block for one queue alone; `None` when the next one is to be it.
    pub(super) fn single(&mut self, queue: QueueId, pending: &mut [Pending]) -> Option<usize> {
        if let Some((last, at)) = self.last_single
            && last == queue
        {
            return Some(at);
        }
        self.register(pending);
        let known = self.by_queue.get(&queue).copied();
        let is_own = |at: usize| pending.get(at).is_some_and(|block| block.targets.len() == 1);
        let found = known.filter(|&at| is_own(at));
        let at = found.unwrap_or(pending.len());
        if found.is_none() {
            self.by_queue.insert(queue, at);
            known.and_then(|at| pending.get_mut(at)).into_iter().for_each(|block| block.is_closed = true);
        }
        self.last_single = Some((queue, at));
        found
    }

    /// The open block for these queues; `None` when the next one is to be it.
    pub(super) fn set(&mut self, targets: &Targets, pending: &mut [Pending]) -> Option<usize> {
        let is_open = |at: &usize| {
            pending.get(*at).is_some_and(|block| !block.is_closed && same(&block.targets, targets))
        };
        let id = targets.as_ptr().addr();
        let found = self.last_set.filter(is_open).or_else(|| self.sets.get(&id).copied().filter(is_open));
        self.last_set = found.or(Some(pending.len()));
        if found.is_some() {
            return found;
        }
        self.register(pending);
        self.sets.insert(id, pending.len());
        self.last_single = None;
        if pending.is_empty() {
            self.unregistered = Some(0);
        } else {
            // Those before must not grow any more where they share a queue with this one.
            self.claim(targets, pending.len(), pending);
        }
        None
    }

    /// Tells `by_queue` of a block that it does not know.
    fn register(&mut self, pending: &mut [Pending]) {
        let Some(at) = self.unregistered.take() else { return };
        let Some(targets) = pending.get(at).map(|block| Arc::clone(&block.targets)) else { return };
        self.claim(&targets, at, pending);
    }

    /// The last messages of these queues are in the block at `at`.
    fn claim(&mut self, targets: &Targets, at: usize, pending: &mut [Pending]) {
        self.steps += targets.len() as u32;
        for queue in &**targets {
            if let Some(before) = self.by_queue.insert(queue.id, at)
                && let Some(block) = pending.get_mut(before)
            {
                block.is_closed = true;
            }
        }
    }

    /// For the next burst.
    pub(super) fn clear(&mut self) {
        self.by_queue.clear();
        self.sets.clear();
        (self.last_single, self.last_set, self.unregistered) = (None, None, None);
    }
}

fn same(one: &Targets, two: &Targets) -> bool {
    Arc::ptr_eq(one, two)
        || (one.len() == two.len() && one.iter().zip(&**two).all(|(one, two)| Arc::ptr_eq(one, two)))
}
