//! The counters and the clock that all tasks of a run share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// The longest latency that is told apart from longer ones.
const LATENCY_MAX_NS: u64 = 3_600_000_000_000;

/// What happened so far. Each counter is raised once per burst, never per message.
#[derive(Debug)]
pub(super) struct Meter {
    start: Instant,
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

impl Meter {
    pub(super) fn new() -> Self {
        Self {
            start: Instant::now(),
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

    /// Nanoseconds since the run began: what messages are stamped with.
    pub(super) fn now_ns(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    pub(super) fn seconds(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }
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
