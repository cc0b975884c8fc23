//! Why publishers must wait: memory, the disk, or both.
//!
//! ```text
//!             whoever publishes past the limit, at once
//!  no alarm -------------------------------------------> raised: who publishes from now on waits
//!     ^                                                     |
//!     '--- the periodic look: well below the limit, --------'
//!          and HOLD after it was first seen raised
//! ```
//!
//! A connection that has published since is read no further than to its next message while any reason is left. Consumers
//! and acknowledgements, which free memory and disk, go on. Nobody is told when an alarm is raised: publishers look by
//! themselves, after all they publish. When the last one ends, those that wait are told, and nobody else.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::broker::node::ConnectionId;
use crate::broker::outbox::Outbox;
use crate::stats::Counter;

/// An alarm lasts at least so long: publishers that are let go on and stopped again for each message are slower than
/// those that wait, and every change costs each of them two frames.
pub const HOLD: Duration = Duration::from_secs(1);
/// Connections that are signalled in one step.
const WAKES_PER_STEP: usize = 1000;

/// What is short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// Memory is at its watermark.
    Memory,
    /// Less than the limit is free on the disk.
    Disk,
}

impl Shortage {
    fn bit(self) -> u8 {
        match self {
            Self::Memory => 1,
            Self::Disk => 2,
        }
    }

    fn of<T>(self, [memory, disk]: &[T; 2]) -> &T {
        match self {
            Self::Memory => memory,
            Self::Disk => disk,
        }
    }
}

/// What the periodic look changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The alarm is raised now.
    Raised,
    /// It is over.
    Cleared,
}

/// What the periodic look sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// As little is left as may be.
    Short,
    /// Between the two: an alarm stays as it is.
    Between,
    /// There is plenty again.
    Plenty,
}

/// The alarms of the node.
#[derive(Debug, Default)]
pub struct Alarms {
    raised: AtomicU8,
    /// Since when the periodic look has seen each raised.
    since: Mutex<[Option<Instant>; 2]>,
    /// How long each was, before, in milliseconds.
    lasted_ms: [Counter; 2],
    /// Connections that publish nothing more until no alarm is left.
    pub blocked: Waiting,
    /// Connections that are not read until the log has caught up.
    pub held_back: Waiting,
}

impl Alarms {
    /// Raises an alarm. `true` for the one caller that changed it.
    pub fn raise(&self, shortage: Shortage) -> bool {
        let bit = shortage.bit();
        !self.is_raised(shortage) && self.raised.fetch_or(bit, Ordering::Relaxed) & bit == 0
    }

    /// The periodic look: raises the alarm, or clears it when there has been time enough and there is plenty.
    pub fn look(&self, shortage: Shortage, level: Level, now: Instant) -> Option<Change> {
        let mut since = self.since.lock();
        let [memory, disk] = &mut *since;
        let since = match shortage {
            Shortage::Memory => memory,
            Shortage::Disk => disk,
        };
        let is_new = level == Level::Short && self.raise(shortage);
        if !self.is_raised(shortage) {
            return None;
        }
        let since_when = *since.get_or_insert(now);
        if level == Level::Plenty && now >= since_when + HOLD {
            *since = None;
            shortage.of(&self.lasted_ms).add((now - since_when).as_millis() as u64);
            self.raised.fetch_and(!shortage.bit(), Ordering::Relaxed);
            return Some(Change::Cleared);
        }
        is_new.then_some(Change::Raised)
    }

    /// For how long this one was raised in all, in milliseconds.
    pub fn lasted_ms(&self, shortage: Shortage, now: Instant) -> u64 {
        let since = *shortage.of(&self.since.lock());
        let present = since.map_or(0, |since| now.saturating_duration_since(since).as_millis() as u64);
        shortage.of(&self.lasted_ms).read() + present
    }

    /// Whether this one is raised.
    pub fn is_raised(&self, shortage: Shortage) -> bool {
        self.raised.load(Ordering::Relaxed) & shortage.bit() != 0
    }

    /// Why publishers must wait, in RabbitMQ's words, which clients look for; `None` when they need not.
    pub fn reason(&self) -> Option<&'static str> {
        match (self.is_raised(Shortage::Memory), self.is_raised(Shortage::Disk)) {
            (false, false) => None,
            (true, false) => Some("low on memory"),
            (false, true) => Some("low on disk"),
            (true, true) => Some("low on memory & disk"),
        }
    }

    /// Signals some of those that are blocked, when no reason is left. Whether there are more: others may run first.
    pub fn wake_blocked(&self) -> bool {
        self.reason().is_none() && self.blocked.wake_some()
    }
}

/// Connections that wait for the same thing. Whoever adds itself looks afterwards whether that has come already:
/// whoever brings it about does so before the waiting are woken, and so one of the two sees the other.
#[derive(Debug, Default)]
pub struct Waiting(Mutex<BTreeMap<ConnectionId, Arc<Outbox>>>);

impl Waiting {
    /// One more, or the same again.
    pub fn add(&self, outbox: &Arc<Outbox>) {
        self.0.lock().entry(outbox.connection()).or_insert_with(|| Arc::clone(outbox));
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.0.lock().len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// It waits no longer.
    pub fn forget(&self, connection: ConnectionId) {
        self.0.lock().remove(&connection);
    }

    /// Signals some, which are forgotten. Whether there are more.
    pub fn wake_some(&self) -> bool {
        let mut waiting = self.0.lock();
        let some: Vec<_> = std::iter::from_fn(|| waiting.pop_first()).take(WAKES_PER_STEP).collect();
        let has_more = !waiting.is_empty();
        drop(waiting);
        some.iter().for_each(|(_, outbox)| outbox.signal());
        has_more
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::task::{Context, Poll, Waker};
    use std::time::{Duration, Instant};

    use super::{Alarms, Change, HOLD, Level, Shortage, WAKES_PER_STEP};
    use crate::broker::node::ConnectionId;
    use crate::broker::outbox::Outbox;

    #[test]
    fn publishers_wait_until_no_reason_is_left() {
        let (alarms, start) = (Alarms::default(), Instant::now());
        assert_eq!(alarms.reason(), None);
        assert!(alarms.raise(Shortage::Memory));
        assert!(!alarms.raise(Shortage::Memory), "it is raised already");
        assert_eq!(alarms.reason(), Some("low on memory"));
        assert_eq!(alarms.look(Shortage::Memory, Level::Short, start), None);
        assert_eq!(alarms.look(Shortage::Disk, Level::Short, start), Some(Change::Raised));
        assert_eq!(alarms.reason(), Some("low on memory & disk"));
        let later = start + HOLD;
        assert_eq!(alarms.look(Shortage::Memory, Level::Plenty, later), Some(Change::Cleared));
        assert_eq!(alarms.reason(), Some("low on disk"));
        assert_eq!(alarms.look(Shortage::Disk, Level::Plenty, later), Some(Change::Cleared));
        assert_eq!(alarms.reason(), None);
    }

    #[test]
    fn an_alarm_ends_when_there_is_plenty_and_not_too_soon() {
        let (alarms, start) = (Alarms::default(), Instant::now());
        let look = |level, ms| alarms.look(Shortage::Memory, level, start + Duration::from_millis(ms));
        assert_eq!(look(Level::Plenty, 0), None);
        assert!(alarms.raise(Shortage::Memory));
        assert_eq!(look(Level::Plenty, 100), None, "it has just been raised");
        assert_eq!(look(Level::Plenty, 1099), None);
        assert_eq!(look(Level::Between, 5000), None, "and would be raised again in a moment");
        assert_eq!(look(Level::Short, 6000), None);
        assert_eq!(look(Level::Plenty, 6001), Some(Change::Cleared));
        assert_eq!(look(Level::Short, 6002), Some(Change::Raised));
        assert_eq!(look(Level::Plenty, 7001), None);
        assert_eq!(look(Level::Plenty, 7002), Some(Change::Cleared));
    }

    #[test]
    fn those_that_wait_are_signalled_once_and_some_at_a_time() {
        let alarms = Alarms::default();
        let outboxes: Vec<_> = (0..WAKES_PER_STEP as u64 + 2)
            .map(|number| Arc::new(Outbox::new(ConnectionId(number), 1)))
            .collect();
        let signalled = || {
            let mut context = Context::from_waker(Waker::noop());
            outboxes.iter().filter(|outbox| outbox.poll_work(&mut context) == Poll::Ready(())).count()
        };
        alarms.raise(Shortage::Memory);
        for outbox in outboxes.iter().chain(&outboxes) {
            alarms.blocked.add(outbox);
        }
        alarms.blocked.forget(ConnectionId(0));
        assert!(!alarms.wake_blocked());
        assert_eq!(signalled(), 0, "there is a reason to wait");
        let later = Instant::now() + HOLD;
        alarms.look(Shortage::Memory, Level::Plenty, later);
        alarms.look(Shortage::Memory, Level::Plenty, later + HOLD);
        assert!(alarms.wake_blocked());
        assert_eq!(signalled(), WAKES_PER_STEP);
        assert!(!alarms.wake_blocked());
        assert_eq!(signalled(), 1);
    }
}
