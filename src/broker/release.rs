//! What ended connections had published and nobody releases: their queues are dispatched when the log is durable.
//!
//! A publisher's own task does this while it lives. What it leaves behind is one entry for each queue, however many
//! connections had published to it; a task of `net` waits and calls, and a simulation steps.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use crate::broker::Broker;
use crate::broker::queue::handle::Queue;
use crate::broker::wakes::{HOLD_STEPS, Wakes};
use crate::clock::Now;
use crate::message::place::{Lsn, QueueId};

/// Queues with messages whose publishers are gone.
#[derive(Debug, Default)]
pub struct Releases {
    state: Mutex<State>,
}

/// What a burst left, in order of the positions.
type Left = VecDeque<(Lsn, Arc<Queue>)>;

#[derive(Debug, Default)]
struct State {
    /// What was left and is not among the queues yet.
    left: VecDeque<Left>,
    queues: BTreeMap<QueueId, Waiting>,
    /// The queues by what each waits for next.
    positions: BTreeSet<(Lsn, QueueId)>,
    /// Those that may deliver more than one hold of their lock allows.
    unfinished: VecDeque<Arc<Queue>>,
    waker: Option<Waker>,
}

#[derive(Debug)]
struct Waiting {
    queue: Arc<Queue>,
    /// The first position that its messages wait for.
    next: Lsn,
    /// The last one.
    last: Lsn,
}

impl Releases {
    /// Takes over what a burst left, in order of the positions. Where that is very much it is looked at in later turns.
    pub fn adopt(&self, left: Left) {
        if left.is_empty() {
            return;
        }
        let waker = {
            let mut state = self.state.lock();
            state.left.push_back(left);
            state.sort_in(HOLD_STEPS);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Wakes whoever is to be woken after a turn that belongs to no client; queues that have more to deliver go on from
    /// here.
    pub(super) fn take_over(&self, wakes: &mut Wakes) {
        let mut waker = None;
        while let Some(queue) = wakes.take_unfinished() {
            let mut state = self.state.lock();
            state.unfinished.push_back(queue);
            waker = waker.or_else(|| state.waker.take());
        }
        wakes.wake();
        waker.into_iter().for_each(Waker::wake);
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        let state = self.state.lock();
        state.left.is_empty() && state.queues.is_empty() && state.unfinished.is_empty()
    }

    fn sort_in(&self, most: u32) -> u32 {
        self.state.lock().sort_in(most)
    }

    /// The next queue to be dispatched now that the log is durable up to `durable`.
    fn take_durable(&self, durable: Lsn) -> Option<Arc<Queue>> {
        let state = &mut *self.state.lock();
        state.unfinished.pop_front().or_else(|| state.take_durable(durable))
    }
}

impl State {
    /// Looks at what was left, at so many queues at most; how many.
    fn sort_in(&mut self, most: u32) -> u32 {
        let mut sorted = 0;
        while sorted < most
            && let Some(left) = self.left.front_mut()
        {
            if let Some((lsn, queue)) = left.pop_front() {
                sorted += 1;
                self.wait(lsn, queue);
            }
            if self.left.front().is_some_and(VecDeque::is_empty) {
                self.left.pop_front();
            }
        }
        sorted
    }

    fn wait(&mut self, lsn: Lsn, queue: Arc<Queue>) {
        let id = queue.id;
        let waiting = match self.queues.entry(id) {
            Entry::Vacant(entry) => {
                entry.insert(Waiting { queue, next: lsn, last: lsn });
                self.positions.insert((lsn, id));
                return;
            }
            Entry::Occupied(entry) => entry.into_mut(),
        };
        waiting.last = waiting.last.max(lsn);
        if lsn < waiting.next {
            self.positions.remove(&(waiting.next, id));
            self.positions.insert((lsn, id));
            waiting.next = lsn;
        }
    }

    fn take_durable(&mut self, durable: Lsn) -> Option<Arc<Queue>> {
        let (next, id) = *self.positions.first()?;
        if next > durable {
            return None;
        }
        self.positions.pop_first();
        let waiting = self.queues.get_mut(&id)?;
        if waiting.last <= durable {
            return self.queues.remove(&id).map(|waiting| waiting.queue);
        }
        // Of its positions only the first and the last are known: it is asked again whenever more is durable.
        waiting.next = Lsn(durable.0 + 1);
        self.positions.insert((waiting.next, id));
        Some(Arc::clone(&waiting.queue))
    }
}

impl Broker {
    /// Ready when [`Broker::release`] has something to do; otherwise the task will be woken.
    pub fn poll_release(&self, context: &mut Context<'_>) -> Poll<()> {
        let first = {
            let mut state = self.releases.state.lock();
            state.waker = Some(context.waker().clone());
            if !state.left.is_empty() || !state.unfinished.is_empty() {
                return Poll::Ready(());
            }
            match state.positions.first() {
                Some((first, _)) => *first,
                None => return Poll::Pending,
            }
        };
        self.node.log.wake_when_durable(first, context.waker());
        if first <= self.node.log.durable() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Dispatches queues whose messages are durable by now, as many as one turn allows: to be asked again as long as
    /// [`Broker::poll_release`] is ready.
    pub fn release(&self, now: Now) {
        let mut wakes = Wakes::default();
        wakes.begin_turn(now.steady_ms);
        wakes.count(self.releases.sort_in(HOLD_STEPS));
        while !wakes.is_turn_over()
            && let Some(queue) = self.releases.take_durable(self.node.log.durable())
        {
            wakes.count(1);
            queue.go_on(&mut wakes);
        }
        self.releases.take_over(&mut wakes);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::task::{Context, Poll, Waker};

    use super::{Left, Releases};
    use crate::broker::Broker;
    use crate::broker::queue::handle::{Queue, QueueProperties};
    use crate::broker::wakes::HOLD_STEPS;
    use crate::clock::Now;
    use crate::config::Config;
    use crate::message::place::{Lsn, QueueId};

    fn broker() -> Broker {
        Broker::new(Arc::new(Config::default()), u64::MAX, u64::MAX).unwrap()
    }

    fn queue(broker: &Broker, id: u64) -> Arc<Queue> {
        Arc::new(Queue::new(QueueId(id), QueueProperties::durable("q"), Arc::clone(&broker.node)))
    }

    /// The numbers of the queues that are dispatched at this position.
    fn durable(releases: &Releases, lsn: u64) -> Vec<u64> {
        std::iter::from_fn(|| releases.take_durable(Lsn(lsn))).map(|queue| queue.id.0).collect()
    }

    #[test]
    fn a_queue_is_asked_when_its_first_and_its_last_message_may_be_durable() {
        let broker = broker();
        let releases = Releases::default();
        let left = |left: &[(u64, u64)]| -> Left {
            left.iter().map(|&(lsn, id)| (Lsn(lsn), queue(&broker, id))).collect()
        };
        releases.adopt(left(&[(10, 1), (20, 2), (30, 1)]));
        releases.adopt(left(&[(15, 3), (18, 2)]));
        assert!(durable(&releases, 9).is_empty());
        assert_eq!(durable(&releases, 17), [1, 3]);
        assert!(durable(&releases, 17).is_empty());
        assert_eq!(durable(&releases, 20), [1, 2]);
        assert!(!releases.is_empty());
        assert_eq!(durable(&releases, 30), [1]);
        assert!(releases.is_empty());
    }

    #[test]
    fn what_a_publisher_left_at_very_many_queues_is_done_in_turns() {
        let broker = broker();
        let left: Left = (0..3500).map(|id| (Lsn(0), queue(&broker, id))).collect();
        broker.releases.adopt(left);
        assert_eq!(
            unseen(&broker),
            7000 - u64::from(HOLD_STEPS),
            "the publisher's own turn is no longer either"
        );
        let mut context = Context::from_waker(Waker::noop());
        let mut turns = 0;
        while broker.poll_release(&mut context) == Poll::Ready(()) {
            let before = unseen(&broker);
            broker.release(Now::read());
            assert!(before - unseen(&broker) <= u64::from(HOLD_STEPS), "too many in one hold of the lock");
            turns += 1;
        }
        assert!(broker.releases.is_empty());
        assert!(turns >= 6, "sorted in and dispatched, a thousand at a time: {turns}");
    }

    /// Queues that were not looked at yet, once or twice.
    fn unseen(broker: &Broker) -> u64 {
        let state = broker.releases.state.lock();
        let left: usize = state.left.iter().map(|left| 2 * left.len()).sum();
        (left + state.queues.len()) as u64
    }
}
