//! Publishers that outrun a queue's consumers wait for them, a moment at a time.
//!
//! A consumer with credit takes what its socket takes. What is published faster only waits: it takes memory, and
//! whatever comes behind it is late. The publisher's own socket is the better place for it.
//!
//! ```text
//!           much waits, and only for room
//!  at ease -------------------------------> crowded: whoever publishes to it is not read
//!     ^ ^                                      |   |
//!     | '----- an eighth of it was taken ------'   | PATIENCE is over: the client is slow, not we
//!     '------- likewise ---- given up <------------'
//!                            publishers go on, the queue grows
//! ```
//!
//! A queue without consumers, or whose consumers have used up their credit, is never crowded: there it is a buffer, as
//! it is meant to be.

use std::sync::Arc;
use std::time::Duration;

use crate::broker::outbox::Outbox;
use crate::broker::queue::handle::{Crowd, Queue, State};
use crate::broker::wakes::Wakes;

/// How long a publisher waits for a queue to be at ease.
pub const PATIENCE: Duration = Duration::from_millis(10);
/// A queue is crowded when it holds more than so many connections' outboxes do. With fewer, processors that could work
/// wait for each other; with more, everything is later and nothing is faster.
const OUTBOXES: u64 = 16;
/// What a message counts beside its body: about what its frames do.
const MESSAGE_BYTES: u64 = 64;

/// Which crowd a publisher waits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CrowdTicket(u64);

impl Queue {
    /// Whether it is time for its publishers to wait: to be followed by [`Queue::join_crowd`].
    pub(super) fn is_crowded(&self, state: &State) -> bool {
        !state.crowd.is_given_up && state.holds_more_than(self.crowded_bytes())
    }

    /// Notes a publisher, whose outbox is signalled when it may go on. `None` when it need not wait: the queue is at
    /// ease, given up or gone.
    pub fn join_crowd(&self, publisher: &Arc<Outbox>) -> Option<CrowdTicket> {
        let mut state = self.lock();
        if !self.is_crowded(&state) || self.is_deleted() {
            return None;
        }
        state.crowd.publishers.push(Arc::clone(publisher));
        Some(CrowdTicket(state.crowd.dispersed))
    }

    /// Whether a publisher that was noted still has to wait. One that is gone meanwhile is forgotten with the others.
    pub fn is_in_crowd(&self, ticket: CrowdTicket) -> bool {
        self.lock().crowd.dispersed == ticket.0
    }

    /// Lets all publishers go on, until the queue has been at ease: one has waited for [`PATIENCE`].
    pub fn give_up_crowd(&self, wakes: &mut Wakes) {
        let mut state = self.lock();
        state.crowd.is_given_up = true;
        state.crowd.disperse(wakes);
    }

    /// Lets publishers go on if enough was taken.
    pub(super) fn ease_crowd(&self, state: &mut State, wakes: &mut Wakes) {
        let is_noted = state.crowd.is_given_up || !state.crowd.publishers.is_empty();
        if is_noted && !state.holds_more_than(self.crowded_bytes() / 8 * 7) {
            state.crowd.is_given_up = false;
            state.crowd.disperse(wakes);
        }
    }

    fn crowded_bytes(&self) -> u64 {
        OUTBOXES * self.node.outbox_bytes
    }
}

impl State {
    /// Whether consumers took all there was, or will take what they have no room for in a moment.
    pub(super) fn flows(&self) -> bool {
        let consumers = &self.classic.consumers;
        consumers.has_ready() || (consumers.lack_room() && !self.crowd.is_given_up)
    }

    /// Whether more than this waits for room, in bytes.
    fn holds_more_than(&self, bytes: u64) -> bool {
        self.classic.consumers.lack_room()
            && self.classic.ready_bytes() + MESSAGE_BYTES * self.classic.ready_messages() > bytes
    }
}

impl Crowd {
    fn disperse(&mut self, wakes: &mut Wakes) {
        wakes.owe_signals(self.disband());
    }

    /// Ends it; those who are to be told.
    pub(super) fn disband(&mut self) -> Vec<Arc<Outbox>> {
        self.dispersed += 1;
        std::mem::take(&mut self.publishers)
    }
}
