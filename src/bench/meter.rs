//! The counters and the clock that all tasks of a run share. The clock is the machine's, so that two processes can
//! have the same.

use std::sync::atomic::{AtomicU64, Ordering};

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

/// The longest latency that is told apart from longer ones.
const LATENCY_MAX_NS: u64 = 3_600_000_000_000;

/// What happened so far. Each counter is raised once per burst, never per message.
#[derive(Debug)]
pub(super) struct Meter {
    /// Of the machine's monotonic clock.
    start_ns: u64,
    pub(super) published: AtomicU64,
    pub(super) confirmed: AtomicU64,
    pub(super) received: AtomicU64,
    /// How often the broker said `connection.blocked`.
    pub(super) blocked: AtomicU64,
    /// Told after each burst that was received.
    pub(super) caught_up: Notify,
    /// Latencies since somebody last looked.
    pub(super) recent: Mutex<Histogram<u64>>,
}

/// What producers count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Counts {
    published: u64,
    confirmed: u64,
    blocked: u64,
}

impl Meter {
    /// The run begins now.
    pub(super) fn new() -> Self {
        Self::since(monotonic_ns())
    }

    /// The run began at another meter's start.
    pub(super) fn since(start_ns: u64) -> Self {
        Self {
            start_ns,
            published: AtomicU64::new(0),
            confirmed: AtomicU64::new(0),
            received: AtomicU64::new(0),
            blocked: AtomicU64::new(0),
            caught_up: Notify::new(),
            recent: Mutex::new(latency_histogram()),
        }
    }

    /// So many deliveries arrived.
    pub(super) fn on_received(&self, count: u64) {
        add(&self.received, count);
        self.caught_up.notify_one();
    }

    /// What another process received so far.
    pub(super) fn set_received(&self, received: u64) {
        self.received.store(received, Ordering::Relaxed);
        self.caught_up.notify_one();
    }

    /// What producers counted so far.
    pub(super) fn counts(&self) -> Counts {
        Counts {
            published: read(&self.published),
            confirmed: read(&self.confirmed),
            blocked: read(&self.blocked),
        }
    }

    /// What the producers of another process counted so far.
    pub(super) fn set_counts(&self, counts: Counts) {
        self.published.store(counts.published, Ordering::Relaxed);
        self.confirmed.store(counts.confirmed, Ordering::Relaxed);
        self.blocked.store(counts.blocked, Ordering::Relaxed);
    }

    /// When the run began, for another meter.
    pub(super) fn start_ns(&self) -> u64 {
        self.start_ns
    }

    /// Nanoseconds since the run began: what messages are stamped with.
    pub(super) fn now_ns(&self) -> u64 {
        monotonic_ns().saturating_sub(self.start_ns)
    }

    /// Seconds since the run began.
    pub(super) fn seconds(&self) -> f64 {
        self.now_ns() as f64 / 1e9
    }
}

/// The machine's monotonic clock.
fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Adds to a counter whose exact moment does not matter.
pub(super) fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

/// Reads a counter.
pub(super) fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// A histogram of nanoseconds.
pub(super) fn latency_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_MAX_NS, 3).expect("the bounds are constants that fit")
}
