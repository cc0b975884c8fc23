//! What ended connections had published and nobody releases: their queues are dispatched when the log is durable.
//!
//! A publisher's own task does this while it lives. What it leaves behind is one entry for each queue, however many
//! connections had published to it; a task of `net` waits and calls, and a simulation steps.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use crate::broker::Broker;
use crate::broker::queue::handle::Queue;
use crate::broker::wakes::Wakes;
use crate::message::place::{Lsn, QueueId};

/// Queues with messages whose publishers are gone.
#[derive(Debug, Default)]
pub struct Releases {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Each with the last position that its messages wait for.
    queues: BTreeMap<QueueId, (Lsn, Arc<Queue>)>,
    /// The first position that any of them waits for.
    first: Lsn,
    /// Those whose messages are durable, and which were not dispatched yet.
    durable: VecDeque<Arc<Queue>>,
    waker: Option<Waker>,
}

impl Releases {
    /// Takes over what a burst left, in order of the positions.
    pub fn adopt(&self, undelivered: impl IntoIterator<Item = (Lsn, Arc<Queue>)>) {
        let mut state = self.state.lock();
        for (lsn, queue) in undelivered {
            state.first = if state.queues.is_empty() { lsn } else { state.first.min(lsn) };
            let (last, _) = state.queues.entry(queue.id).or_insert((lsn, queue));
            *last = lsn.max(*last);
        }
        let waker = if state.queues.is_empty() { None } else { state.waker.take() };
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        let state = self.state.lock();
        state.queues.is_empty() && state.durable.is_empty()
    }

    /// The next queue to be dispatched now that the log is durable up to `durable`.
    fn take_durable(&self, durable: Lsn) -> Option<Arc<Queue>> {
        let state = &mut *self.state.lock();
        if state.durable.is_empty() && !state.queues.is_empty() && state.first <= durable {
            // Of a queue with several positions only the last is known: it is asked again whenever more is durable.
            state.first = Lsn(durable.0 + 1);
            state.durable.extend(state.queues.values().map(|(_, queue)| Arc::clone(queue)));
            state.queues.retain(|_, (last, _)| *last > durable);
        }
        state.durable.pop_front()
    }
}

impl Broker {
    /// Ready when [`Broker::release`] has something to do; otherwise the task will be woken.
    pub fn poll_release(&self, context: &mut Context<'_>) -> Poll<()> {
        let first = {
            let mut state = self.releases.state.lock();
            state.waker = Some(context.waker().clone());
            if !state.durable.is_empty() {
                return Poll::Ready(());
            }
            if state.queues.is_empty() {
                return Poll::Pending;
            }
            state.first
        };
        self.node.log.wake_when_durable(first, context.waker());
        if first <= self.node.log.durable() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Dispatches queues whose messages are durable by now, as many as one turn allows: to be asked again as long as
    /// [`Broker::poll_release`] is ready.
    pub fn release(&self) {
        let mut wakes = Wakes::default();
        while !wakes.is_turn_over()
            && let Some(queue) = self.releases.take_durable(self.node.log.durable())
        {
            wakes.count(1);
            queue.go_on(&mut wakes);
        }
        while let Some(queue) = wakes.take_unfinished() {
            self.releases.state.lock().durable.push_back(queue);
        }
        wakes.wake();
    }
}
