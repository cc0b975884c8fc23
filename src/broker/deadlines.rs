//! The one place that knows when the next queue is to be looked at because time has passed, and nothing else happened.
//!
//! A task of `net` waits until then, or until an earlier time is noted, and calls; a simulation steps. What has come due
//! is done in turns: many queues may have waited for one moment.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use crate::broker::Broker;
use crate::broker::queue::handle::Queue;
use crate::broker::remains::Orphan;
use crate::broker::wakes::Wakes;
use crate::clock::Now;
use crate::message::place::QueueId;

/// When queues are to be looked at.
#[derive(Debug, Default)]
pub struct Deadlines {
    /// A leaf: nothing is locked under it.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    by_time: BTreeMap<(u64, QueueId), Weak<Queue>>,
    waker: Option<Waker>,
}

impl Deadlines {
    /// A queue is to be looked at at `time` ([`steady_ms`](Now::steady_ms)), and no longer `instead_of` another time.
    pub(super) fn note(&self, queue: &Arc<Queue>, instead_of: Option<u64>, time: u64, wakes: &mut Wakes) {
        let mut state = self.state.lock();
        if let Some(before) = instead_of {
            state.by_time.remove(&(before, queue.id));
        }
        let is_first = state.by_time.keys().next().is_none_or(|(first, _)| time < *first);
        state.by_time.insert((time, queue.id), Arc::downgrade(queue));
        if is_first && let Some(waker) = state.waker.take() {
            wakes.owe(waker);
        }
    }

    /// A queue is gone.
    pub(super) fn forget(&self, queue: QueueId, time: u64) {
        self.state.lock().by_time.remove(&(time, queue));
    }

    /// When the next one is due.
    pub fn first(&self) -> Option<u64> {
        self.state.lock().by_time.keys().next().map(|(time, _)| *time)
    }

    /// Ready when the next one is due before `known`, or there was none; otherwise the task will be woken.
    pub fn poll_sooner(&self, known: Option<u64>, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        let first = state.by_time.keys().next().map(|(time, _)| *time);
        if first.is_some_and(|first| known.is_none_or(|known| first < known)) {
            return Poll::Ready(());
        }
        state.waker = Some(context.waker().clone());
        Poll::Pending
    }

    fn take_due(&self, now_ms: u64) -> Option<Arc<Queue>> {
        let mut state = self.state.lock();
        while let Some(first) = state.by_time.first_entry()
            && first.key().0 <= now_ms
        {
            if let Some(queue) = first.remove().upgrade() {
                return Some(queue);
            }
        }
        None
    }
}

impl Broker {
    /// Looks at queues for which it is time, as many as one turn allows; to be called as long as one is due.
    pub fn on_deadlines(&self, now: Now) {
        let mut wakes = Wakes::default();
        wakes.begin_turn(now.steady_ms);
        while !wakes.is_turn_over()
            && let Some(queue) = self.node.deadlines.take_due(now.steady_ms)
        {
            wakes.count(1);
            if queue.on_deadline(&mut wakes)
                && let Some(vhost) = self.vhost(&queue.properties.vhost)
            {
                let removal = vhost.delete_expired_queue(&queue, now.steady_ms);
                self.node.remains.bury(Box::new(Orphan { vhost, removal }), &mut wakes);
            }
        }
        self.releases.take_over(&mut wakes);
    }
}
