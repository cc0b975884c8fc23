//! Who goes on with a large message when unfinished ones take up their share of memory: one after the other.
//!
//! If all went on memory would have no bound, and if all waited none would ever be whole. So all wait, and one is read on:
//!
//! ```text
//!             a part of a message, and no room for it
//!  reads on ------------------------------------------> in line --- first, and the one before is through, -----> reads
//!     ^                                                    |        or has had its time                           on
//!     '---------------- there is room again ---------------'
//! ```
//!
//! Who has begun to go on does so until its message is whole. One whose client is slow, or sends nothing more, keeps those
//! behind it waiting for a moment only; what becomes of that [`Memory::refuses_granted`] bounds.
//!
//! [`Memory::refuses_granted`]: crate::broker::memory::Memory::refuses_granted

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::broker::node::ConnectionId;
use crate::broker::outbox::Outbox;

/// After so long the next one may go on as well.
pub const TURN: Duration = Duration::from_secs(2);
/// Connections that are signalled in one look.
const WAKES_PER_LOOK: usize = 1000;

/// Connections whose messages wait for room, and whose turn it is.
#[derive(Debug, Default)]
pub struct Uploads(Mutex<Line>);

#[derive(Debug, Default)]
struct Line {
    turn: Option<Turn>,
    waiting: BTreeMap<u64, Arc<Outbox>>,
    /// Each connection's place among those that wait.
    places: BTreeMap<ConnectionId, u64>,
    last: u64,
}

#[derive(Debug)]
struct Turn {
    connection: ConnectionId,
    /// When the periodic look first saw it.
    since: Option<Instant>,
}

impl Uploads {
    /// Whether it is this connection's turn. If not it waits in line, and its task is signalled when it is to ask again.
    pub fn take_turn(&self, outbox: &Arc<Outbox>) -> bool {
        let mut line = self.0.lock();
        let connection = outbox.connection();
        if line.turn.as_ref().is_none_or(|turn| turn.connection == connection) {
            line.turn.get_or_insert(Turn { connection, since: None });
            return true;
        }
        if !line.places.contains_key(&connection) {
            line.last += 1;
            let place = line.last;
            line.places.insert(connection, place);
            line.waiting.insert(place, Arc::clone(outbox));
        }
        false
    }

    /// The connection's message is whole or given up, or it needs no turn any more: the next one goes on.
    pub fn leave(&self, connection: ConnectionId) {
        let mut line = self.0.lock();
        if let Some(place) = line.places.remove(&connection) {
            line.waiting.remove(&place);
        }
        let is_its_turn = line.turn.take_if(|turn| turn.connection == connection).is_some();
        let next = is_its_turn.then(|| line.begin_turn());
        drop(line);
        next.flatten().iter().for_each(|outbox| outbox.signal());
    }

    /// The periodic look: when there is room again all may ask for it, some at a time.
    pub fn look(&self, has_room: bool, now: Instant) {
        let mut line = self.0.lock();
        if has_room {
            line.turn = None;
            let some: Vec<_> = std::iter::from_fn(|| line.pop()).take(WAKES_PER_LOOK).collect();
            drop(line);
            return some.iter().for_each(|outbox| outbox.signal());
        }
        let Some(turn) = &mut line.turn else { return };
        let since = *turn.since.get_or_insert(now);
        let is_over = now >= since + TURN && !line.waiting.is_empty();
        let next = is_over.then(|| line.begin_turn());
        drop(line);
        next.flatten().iter().for_each(|outbox| outbox.signal());
    }
}

impl Line {
    fn pop(&mut self) -> Option<Arc<Outbox>> {
        let (_, outbox) = self.waiting.pop_first()?;
        self.places.remove(&outbox.connection());
        Some(outbox)
    }

    /// It is the first one's turn now, if anybody waits: it is to be signalled, under no lock.
    fn begin_turn(&mut self) -> Option<Arc<Outbox>> {
        let next = self.pop();
        self.turn = next.as_ref().map(|outbox| Turn { connection: outbox.connection(), since: None });
        next
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::task::{Context, Poll, Waker};
    use std::time::Instant;

    use super::{TURN, Uploads, WAKES_PER_LOOK};
    use crate::broker::node::ConnectionId;
    use crate::broker::outbox::Outbox;

    fn outboxes(count: u64) -> Vec<Arc<Outbox>> {
        (0..count).map(|number| Arc::new(Outbox::new(ConnectionId(number), 1))).collect()
    }

    fn signalled(outboxes: &[Arc<Outbox>]) -> Vec<u64> {
        let mut context = Context::from_waker(Waker::noop());
        let is_signalled = |outbox: &&Arc<Outbox>| outbox.poll_work(&mut context) == Poll::Ready(());
        outboxes.iter().filter(is_signalled).map(|outbox| outbox.connection().0).collect()
    }

    #[test]
    fn one_goes_on_after_the_other_in_order_of_arrival() {
        let (uploads, clients) = (Uploads::default(), outboxes(4));
        let takes = |at: usize| uploads.take_turn(&clients[at]);
        assert!(takes(2) && !takes(0) && !takes(3) && !takes(1) && !takes(0));
        assert!(takes(2), "it is its turn still");
        uploads.leave(ConnectionId(3));
        assert_eq!(signalled(&clients), [0; 0]);
        uploads.leave(ConnectionId(2));
        assert_eq!(signalled(&clients), [0]);
        assert!(takes(0) && !takes(2));
        uploads.leave(ConnectionId(0));
        assert_eq!(signalled(&clients), [1]);
        uploads.leave(ConnectionId(1));
        uploads.leave(ConnectionId(2));
        assert!(takes(3), "nobody is left");
    }

    #[test]
    fn nobody_keeps_others_waiting_for_long() {
        let (uploads, clients, start) = (Uploads::default(), outboxes(3), Instant::now());
        let asked: Vec<bool> = clients.iter().map(|client| uploads.take_turn(client)).collect();
        assert_eq!(asked, [true, false, false]);
        let mut now = start;
        for expected in [1, 2] {
            uploads.look(false, now);
            uploads.look(false, now + TURN / 2);
            assert_eq!(signalled(&clients), [0; 0]);
            now += TURN;
            uploads.look(false, now);
            assert_eq!(signalled(&clients), [expected]);
        }
        now += 2 * TURN;
        uploads.look(false, now);
        uploads.look(false, now + TURN);
        assert!(!uploads.take_turn(&clients[0]) && uploads.take_turn(&clients[2]), "nobody waited");
    }

    #[test]
    fn when_there_is_room_all_may_ask_again_some_at_a_time() {
        let (uploads, clients) = (Uploads::default(), outboxes(WAKES_PER_LOOK as u64 + 3));
        let asked: Vec<bool> = clients.iter().map(|client| uploads.take_turn(client)).collect();
        assert_eq!(asked.iter().filter(|is_next| **is_next).count(), 1);
        uploads.look(true, Instant::now());
        assert_eq!(signalled(&clients).len(), WAKES_PER_LOOK);
        uploads.look(true, Instant::now());
        assert_eq!(signalled(&clients).len(), 2);
    }
}
