//! Time as a value: the only reader of the machine's clocks.
//!
//! The core never asks what time it is; whoever calls it says so. A test makes a [`Now`] up, moves it and
//! sees a heartbeat missed without waiting for one.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// One reading of both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// For deadlines and intervals: never goes back.
    pub instant: Instant,
    /// For what people and messages see: milliseconds since 1970, may jump.
    pub unix_ms: u64,
}

impl Now {
    /// Reads the clocks.
    pub fn read() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self { instant: Instant::now(), unix_ms: u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX) }
    }

    /// The same moment, `by` later: how a test moves its clock.
    #[must_use]
    pub fn later(self, by: Duration) -> Self {
        let by_ms = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        Self { instant: self.instant + by, unix_ms: self.unix_ms.saturating_add(by_ms) }
    }
}
