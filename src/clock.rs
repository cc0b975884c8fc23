//! Time as a value: the only reader of the machine's clocks.
//!
//! The core never asks what time it is; whoever calls it says so. A test makes a [`Now`] up, moves it and
//! sees a heartbeat missed without waiting for one.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// One reading of both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// For deadlines and intervals: never goes back.
    pub instant: Instant,
    /// For what people and messages see: milliseconds since 1970, may jump.
    pub unix_ms: u64,
    /// For how long messages live: milliseconds since 1970 as this process began, which goes on from there by the clock
    /// that never goes back. Whoever sets the machine's clock makes nothing expire.
    pub steady_ms: u64,
}

/// The clocks when they were first read.
static BEGAN: OnceLock<(Instant, u64)> = OnceLock::new();

impl Now {
    /// Reads the clocks.
    pub fn read() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let (instant, unix_ms) = (Instant::now(), millis(since_epoch));
        let (began, began_ms) = *BEGAN.get_or_init(|| (instant, unix_ms));
        let steady_ms = began_ms.saturating_add(millis(instant.saturating_duration_since(began)));
        Self { instant, unix_ms, steady_ms }
    }

    /// The same moment, `by` later: how a test moves its clock.
    #[must_use]
    pub fn later(self, by: Duration) -> Self {
        Self {
            instant: self.instant + by,
            unix_ms: self.unix_ms.saturating_add(millis(by)),
            steady_ms: self.steady_ms.saturating_add(millis(by)),
        }
    }
}

/// How long this thread has been at work. A test compares two of its own spans with it, whatever else the machine does.
#[cfg(test)]
pub(crate) fn worked() -> Duration {
    let worked = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(worked.tv_sec.try_into().unwrap(), worked.tv_nsec.try_into().unwrap())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
