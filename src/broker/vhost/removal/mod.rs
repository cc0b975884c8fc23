//! What is left to do of a deletion, in bounded steps.
//!
//! A deleted object is gone at once: the log was told, nobody finds it, routing passes it over. What it leaves may be a
//! million messages, a hundred thousand bindings, exchanges that go with their last binding. Here they go, a few at a
//! time, and between the steps others run. What was declared meanwhile under the same name is another object and loses
//! nothing.
//!
//! ```text
//!  queue  --> messages: dropped, or buried in broker::remains when they are many
//!         --> consumers and waiting connections: told
//!         --> bindings to it: out of the definitions and out of their exchanges' tables
//!                |  the last one of an auto-delete exchange
//!                v
//!  exchange --> gone at once, then the bindings from it and to it <--- and so on
//! ```

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::vec;

use crate::broker::consumer::Consumer;
use crate::broker::exchange::{Destination, Exchange};
use crate::broker::node::ConnectionId;
use crate::broker::outbox::Outbox;
use crate::broker::queue::handle::Queue;
use crate::broker::queue::lifecycle::Remnant;
use crate::broker::vhost::Vhost;
use crate::broker::vhost::bindings::{Definitions, Taken};
use crate::broker::wakes::Wakes;
use crate::message::place::Lsn;
use crate::routing::Bindings;

/// The definitions lock is held for so many bindings, or exchanges that lost their last, and others get it in between.
const STEPS_PER_HOLD_MAX: u32 = 1000;

/// So many messages of a deleted queue, or places of them, are dropped at once; more are buried.
const MESSAGES_DROPPED_MAX: u64 = 1000;

/// What is left to do of a deletion: done by [`Removal::step`], turn by turn, before the client is answered, also when it
/// is gone meanwhile. It is never dropped before it is finished: bindings would stay.
#[derive(Debug, Default)]
#[must_use = "bindings stay where they are until it is finished"]
pub struct Removal {
    remnants: Vec<Remnant>,
    /// To be told that they are cancelled.
    consumers: VecDeque<Arc<Consumer>>,
    /// To be signalled.
    waiting: Vec<Arc<Outbox>>,
    /// Deleted, with bindings that may still be there.
    doomed: Vec<Destination>,
    /// Queues of a connection that are to be deleted.
    exclusive: Option<(ConnectionId, vec::IntoIter<Box<str>>)>,
    after: Lsn,
}

impl Removal {
    /// Nothing is left to do, and the answer waits for `after`.
    pub fn nothing(after: Lsn) -> Self {
        let mut removal = Self::default();
        removal.after = after;
        removal
    }

    /// A queue was deleted and left this.
    pub(super) fn of_queue(queue: &Arc<Queue>, remnant: Remnant, after: Lsn) -> Self {
        let mut removal = Self::nothing(after);
        removal.remnants.push(remnant);
        removal.doomed.push(Destination::Queue(Arc::clone(queue)));
        removal
    }

    /// An exchange was deleted.
    pub(super) fn of_exchange(exchange: &Arc<Exchange>, after: Lsn) -> Self {
        let mut removal = Self::nothing(after);
        removal.doomed.push(Destination::Exchange(Arc::clone(exchange)));
        removal
    }

    /// A connection ends, and those of these queues that are its own with it.
    pub(super) fn of_connection(owner: ConnectionId, names: Vec<Box<str>>) -> Self {
        let mut removal = Self::default();
        removal.exclusive = Some((owner, names.into_iter()));
        removal
    }

    /// This and something else.
    pub(super) fn and(mut self, other: Self) -> Self {
        self.take_over(other);
        self
    }

    /// The answer waits for this position at least.
    pub(super) fn waiting_for(mut self, after: Lsn) -> Self {
        self.after = self.after.max(after);
        self
    }

    /// Something else is to be done as well, which the answer does not wait for.
    fn take_over(&mut self, mut other: Self) {
        self.remnants.append(&mut other.remnants);
        self.doomed.append(&mut other.doomed);
    }

    /// What an answer waits for: to be asked when all is done, for exchanges that go with their last binding are in the
    /// log behind what made them go.
    pub fn after(&self) -> Lsn {
        self.after
    }

    /// Whether nothing is left to do.
    pub fn is_finished(&self) -> bool {
        self.remnants.is_empty()
            && self.consumers.is_empty()
            && self.waiting.is_empty()
            && self.doomed.is_empty()
            && self.exclusive.is_none()
    }

    /// Does at most `steps` steps, and counts them down: bindings, consumers, queues, exchanges. `true` when it is
    /// finished.
    pub fn step(&mut self, vhost: &Vhost, wakes: &mut Wakes, steps: &mut u32) -> bool {
        while *steps > 0 && !self.is_finished() {
            let done = self.step_once(vhost, wakes, *steps);
            *steps = steps.saturating_sub(done.max(1));
        }
        self.is_finished()
    }

    /// Does all of it, for a caller that has no turns.
    pub fn finish(mut self, vhost: &Vhost, wakes: &mut Wakes) -> Lsn {
        while !self.is_finished() {
            let mut steps = STEPS_PER_HOLD_MAX;
            self.step(vhost, wakes, &mut steps);
        }
        self.after
    }

    /// What comes next; how many steps it took, `most` at most.
    fn step_once(&mut self, vhost: &Vhost, wakes: &mut Wakes, most: u32) -> u32 {
        if let Some(Remnant { mut classic, waiting }) = self.remnants.pop() {
            self.consumers.extend(classic.consumers.remove_all());
            self.waiting.extend(waiting);
            let is_small = classic.ready_messages() + classic.dying_messages() <= MESSAGES_DROPPED_MAX
                && classic.ledger.len() as u64 <= MESSAGES_DROPPED_MAX;
            if !is_small {
                vhost.node.remains.bury(Box::new(classic), wakes);
            }
        } else if let Some(consumer) = self.consumers.pop_front() {
            consumer.outbox.lock().push_cancelled(&consumer, wakes);
        } else if let Some(outbox) = self.waiting.pop() {
            outbox.signal_into(wakes);
        } else if let Some(gone) = self.doomed.pop() {
            let most = most.min(STEPS_PER_HOLD_MAX);
            let forgotten = match &gone {
                Destination::Exchange(exchange) => {
                    exchange.history.as_ref().map_or(0, |history| history.forget_some(most))
                }
                Destination::Queue(_) => 0,
            };
            let done = if forgotten > 0 { forgotten } else { self.unbind_some(vhost, &gone, most) };
            if done > 0 {
                // There may be more; the exchanges that it made go wait until it is done.
                self.doomed.push(gone);
            }
            return done;
        } else if let Some((owner, names)) = &mut self.exclusive {
            match names.next() {
                Some(name) => {
                    let one = vhost.delete_exclusive_queue(&name, *owner);
                    self.take_over(one);
                }
                None => self.exclusive = None,
            }
        }
        1
    }

    /// Removes bindings from or to something that is gone, in one hold of the lock, for about `most` steps. The log needs
    /// no fact for each: that their end went says it. How many steps it took, one at least for each binding and each
    /// exchange that went by it: none when there are no more.
    fn unbind_some(&mut self, vhost: &Vhost, gone: &Destination, most: u32) -> u32 {
        let mut definitions = vhost.definitions.lock();
        let before = vhost.last_definition();
        let mut left = most;
        let mut edit: Option<Edit> = None;
        while left > 0
            && let Some(taken) = definitions.take_some(gone, left)
        {
            left = left.saturating_sub(taken.steps);
            let same = edit.take_if(|edit| !Arc::ptr_eq(&edit.source, &taken.source));
            left = left.saturating_sub(self.close_edit(vhost, &definitions, same));
            edit.get_or_insert_with(|| Edit::new(&taken.source)).remove(&taken);
        }
        left = left.saturating_sub(self.close_edit(vhost, &definitions, edit));
        if vhost.last_definition() > before {
            self.after = self.after.max(vhost.last_definition());
        }
        most - left
    }

    /// Publishes a table from which bindings were removed. How many exchanges went because it was their last.
    fn close_edit(&mut self, vhost: &Vhost, definitions: &Definitions, edit: Option<Edit>) -> u32 {
        let Some(Edit { source, bindings }) = edit else { return 0 };
        source.bindings.store(Arc::new(bindings));
        let goes = source.properties.auto_delete && !source.is_deleted() && !definitions.is_used(&source);
        if goes {
            self.take_over(vhost.end_exchange(&source));
            // First in, last out: below what is being worked at.
            self.doomed.push(Destination::Exchange(source));
        }
        u32::from(goes)
    }
}

impl Drop for Removal {
    fn drop(&mut self) {
        debug_assert!(
            self.is_finished() || std::thread::panicking(),
            "bindings of deleted objects stay for ever"
        );
    }
}

/// A table that is being changed: one copy for all that a step removes from it.
struct Edit {
    source: Arc<Exchange>,
    bindings: Bindings<Destination>,
}

impl Edit {
    fn new(source: &Arc<Exchange>) -> Self {
        Self { source: Arc::clone(source), bindings: (**source.bindings.load()).clone() }
    }

    fn remove(&mut self, taken: &Taken) {
        for label in &taken.labels {
            self.bindings.unbind(&label.key, &label.arguments, &taken.destination);
        }
    }
}
