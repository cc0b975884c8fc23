//! What is left of deleted objects and nobody waits for: worked off in the background, a bounded part at a time.
//!
//! A task of `net` polls and steps, and a simulation steps. The room knows no names: what is here cannot be found any
//! more by anyone.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use crate::broker::consumer::Consumer;
use crate::broker::vhost::Vhost;
use crate::broker::vhost::removal::Removal;
use crate::broker::wakes::Wakes;
use crate::queue::classic::Classic;

/// One step drops about so many runs of messages, or places of them, or removes so many bindings.
const STEPS_MAX: u32 = 1000;

/// Something that nobody needs any more, and that would take long to drop.
pub trait Remain: fmt::Debug + Send {
    /// Makes it less by at most `steps` steps or so. `true` when nothing is left that takes time to drop.
    fn step(&mut self, wakes: &mut Wakes, steps: u32) -> bool;
}

/// A deletion whose client is gone.
#[derive(Debug)]
pub struct Orphan {
    /// Where it happened.
    pub vhost: Arc<Vhost>,
    /// What is left to do.
    pub removal: Removal,
}

/// The remains of one node.
#[derive(Debug, Default)]
pub struct Remains {
    /// A leaf: nothing is locked under it.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    list: VecDeque<Box<dyn Remain>>,
    waker: Option<Waker>,
}

impl Remains {
    /// Takes over what is left of something. What is small is better dropped at once.
    pub fn bury(&self, remain: Box<dyn Remain>, wakes: &mut Wakes) {
        let mut state = self.state.lock();
        state.list.push_back(remain);
        if let Some(waker) = state.waker.take() {
            wakes.owe(waker);
        }
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.state.lock().list.is_empty()
    }

    /// Ready when [`Remains::step`] has something to do; otherwise the task will be woken.
    pub fn poll(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        if state.list.is_empty() {
            state.waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    /// Does one step. All that is here gets one in turn.
    pub fn step(&self) {
        let mut wakes = Wakes::default();
        let first = self.state.lock().list.pop_front();
        if let Some(mut remain) = first
            && !remain.step(&mut wakes, STEPS_MAX)
        {
            self.state.lock().list.push_back(remain);
        }
        wakes.fire();
    }
}

/// The messages of a queue that is gone.
impl Remain for Classic<Arc<Consumer>> {
    fn step(&mut self, _wakes: &mut Wakes, steps: u32) -> bool {
        if !self.shed_dying(u64::from(steps)) {
            return false;
        }
        // The ledger is needed to find messages that are away: it goes last.
        if self.ready_messages() > 0 && !self.purge(u64::from(steps)).is_empty() {
            return false;
        }
        self.ledger.shed(steps as usize)
    }
}

impl Remain for Orphan {
    fn step(&mut self, wakes: &mut Wakes, mut steps: u32) -> bool {
        self.removal.step(&self.vhost, wakes, &mut steps)
    }
}
