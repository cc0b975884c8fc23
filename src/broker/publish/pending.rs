//! Messages for the same queues, on their way there.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::broker::node::Node;
use crate::broker::queue::handle::Queue;
use crate::broker::route::Targets;
use crate::broker::wakes::Wakes;
use crate::message::block::BlockBuilder;
use crate::message::block_header::Stamp;
use crate::message::place::{Logged, Seq};
use crate::message::run::Run;

/// Messages that go to the same queues.
#[derive(Debug, Default)]
pub(super) struct Pending {
    pub(super) targets: Targets,
    /// Names of queues that were not there when its messages were published, which are for them as well.
    pub(super) absent: Vec<Box<str>>,
    pub(super) builder: BlockBuilder,
    pub(super) terms: Terms,
    pub(super) runs: Vec<Staged>,
    /// What is published to the same queues from now on must come behind others.
    pub(super) is_closed: bool,
    /// Its one message may be refused by some of its queues, and who is told then.
    pub(super) receipt: Option<Box<Receipt>>,
    /// Each of its queues keeps a place for it already.
    pub(super) is_reserved: bool,
    /// The numbers of those of its messages that are mandatory, in order.
    pub(super) numbers: Vec<u64>,
}

/// Mandatory messages whose queues are gone.
#[derive(Debug)]
pub struct Lost {
    /// The messages.
    pub run: Run,
    /// Their numbers.
    pub numbers: VecDeque<u64>,
}

/// Who published a message that may be refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Its channel.
    pub channel: u16,
    /// The number of the publish on it; 0 where none are confirmed.
    pub publish: u64,
}

/// What the messages of a block have in common.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Terms {
    pub(super) stamp: Stamp,
    /// Their publisher wants them back if their queues are gone before they are there.
    pub(super) mandatory: bool,
}

/// A run on its way into its queues.
#[derive(Debug)]
pub(super) struct Staged {
    pub(super) run: Run,
    pub(super) logged: Option<Logged>,
    mandatory: bool,
    /// For each target, the number it draws inside the log's hold, if it does; empty when none does.
    pub(super) seqs: SmallVec<[Option<Seq>; 1]>,
}

impl Pending {
    /// What is added from now on has these terms: a block has the same for all.
    pub(super) fn agree(&mut self, terms: Terms, node: &Node) {
        if (self.terms.stamp.marks, self.terms.mandatory) != (terms.stamp.marks, terms.mandatory) {
            self.seal(node);
        }
        self.terms = terms;
    }

    /// Closes the block that is being filled.
    pub(super) fn seal(&mut self, node: &Node) {
        if !self.builder.is_empty() {
            let (block, count, body_bytes) = self.builder.seal(self.terms.stamp, &node.memory.messages);
            self.stage(Run::of_block(block, count, body_bytes));
        }
    }

    /// Adds a run.
    pub(super) fn stage(&mut self, run: Run) {
        let mandatory = self.terms.mandatory;
        self.runs.push(Staged { run, logged: None, mandatory, seqs: SmallVec::new() });
    }

    /// Closes the block that is being filled; all of its messages are received at this time. Those that are for delays alone
    /// were when they were published: they wait since then.
    pub(super) fn seal_all(&mut self, received_ms: u64, node: &Node) {
        let is_for_delays = |queue: &Arc<Queue>| queue.delays_for().is_some();
        if !self.targets.is_empty() && self.targets.iter().all(is_for_delays) {
            return self.seal(node);
        }
        self.terms.stamp.received_ms = received_ms;
        self.seal(node);
        for Staged { run, .. } in &mut self.runs {
            run.receive_at(received_ms, &node.memory.messages);
        }
    }

    /// How many queues it is for, at most.
    pub(super) fn names(&self) -> usize {
        self.targets.len() + self.absent.len()
    }

    /// Queues that are gone make way for those that have their names now, and those come that were not there. What is for
    /// nobody is dropped, or added to `lost` when its publisher wants it back.
    pub(super) fn look_up(&mut self, find: impl Fn(&str) -> Option<Arc<Queue>>, lost: &mut Vec<Lost>) {
        if self.absent.is_empty() && !self.targets.iter().any(|queue| queue.is_deleted()) {
            return;
        }
        let now = |queue: &Arc<Queue>| match queue.is_deleted() {
            true => find(&queue.properties.name),
            false => Some(Arc::clone(queue)),
        };
        let come = self.absent.iter().filter_map(|name| find(name));
        self.targets = self.targets.iter().filter_map(now).chain(come).collect();
        self.absent = Vec::new();
        if self.targets.is_empty() {
            let mut numbers = self.numbers.drain(..);
            for Staged { run, .. } in self.runs.drain(..).filter(|staged| staged.mandatory) {
                let numbers = numbers.by_ref().take(run.count() as usize).collect();
                lost.push(Lost { run, numbers });
            }
        }
    }

    /// Each of its messages by itself: queues may refuse some of them.
    pub(super) fn into_singles(self, receipt: Receipt) -> impl Iterator<Item = Self> {
        let targets = self.targets;
        let runs = self.runs.into_iter().flat_map(|staged| staged.run.into_singles());
        runs.map(move |run| {
            let receipt = Some(Box::new(receipt));
            let mut single = Self { targets: Arc::clone(&targets), receipt, ..Self::default() };
            single.stage(run);
            single
        })
    }

    /// Drops the targets that are gone.
    pub(super) fn drop_deleted(&mut self) {
        if self.targets.iter().any(|queue| queue.is_deleted()) {
            self.targets = self.targets.iter().filter(|queue| !queue.is_deleted()).cloned().collect();
        }
    }

    /// Drops the targets that have no place for its message; whether there were such. What they want to be dead-lettered
    /// is.
    pub(super) fn reserve(&mut self, node: &Node, wakes: &mut Wakes) -> bool {
        let Some(Staged { run, .. }) = self.runs.first() else { return false };
        let before = self.targets.len();
        let takes = |queue: &&Arc<Queue>| match queue.reserve(run) {
            Ok(()) => true,
            Err(refused) => {
                if refused.is_buried {
                    node.dead_letters.ask_for_refused(queue, run.clone(), wakes);
                }
                false
            }
        };
        self.targets = self.targets.iter().filter(takes).cloned().collect();
        self.targets.len() < before
    }

    /// Keeps a place for its one message in each of its queues, or in none; whether it did.
    pub(super) fn reserve_all(&mut self) -> bool {
        let Some(Staged { run, .. }) = self.runs.first() else { return false };
        let takes = |queue: &&Arc<Queue>| !queue.is_deleted() && queue.reserve(run).is_ok();
        let reserved = self.targets.iter().take_while(takes).count();
        self.is_reserved = reserved == self.targets.len();
        if !self.is_reserved {
            self.targets.iter().take(reserved).for_each(|queue| queue.give_up_place(run));
        }
        self.is_reserved
    }

    /// Parts its runs so that each has messages of one priority, if one of its queues numbers them by that.
    #[inline]
    pub(super) fn part_by_priority(&mut self) {
        if self.targets.iter().any(|queue| queue.has_priorities()) {
            self.part_all_by_priority();
        }
    }

    #[cold]
    fn part_all_by_priority(&mut self) {
        let parted =
            std::mem::take(&mut self.runs).into_iter().flat_map(|Staged { run, mandatory, .. }| {
                let parts = run.by_priority().into_iter();
                parts.map(move |run| Staged { run, logged: None, mandatory, seqs: SmallVec::new() })
            });
        self.runs = parted.collect();
    }

    /// Whether the log must have it.
    #[inline]
    pub(super) fn is_logged(&self) -> bool {
        let persistent = self.runs.iter().any(|staged| staged.run.is_persistent());
        self.targets.iter().any(|queue| queue.logs(persistent))
    }

    /// Puts some of its runs into one of its queues; whether that is crowded now.
    pub(super) fn enqueue(
        &self,
        queue: &Arc<Queue>,
        at: usize,
        some: Range<usize>,
        wakes: &mut Wakes,
    ) -> bool {
        let runs = self.runs.get(some).unwrap_or_default().iter().map(|staged| {
            let logged = staged.logged.filter(|_| queue.logs(staged.run.is_persistent()));
            (staged.run.clone(), staged.seqs.get(at).copied().flatten(), logged)
        });
        queue.enqueue(runs, self.receipt.is_some(), wakes)
    }

    /// Ready for the next burst.
    pub(super) fn recycle(&mut self) {
        self.runs.clear();
        self.targets = Targets::default();
        self.absent = Vec::new();
        self.is_closed = false;
        self.receipt = None;
        self.is_reserved = false;
        self.numbers = Vec::new();
    }
}
