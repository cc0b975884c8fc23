//! What a run looked like as it went on: a point every tenth of a second.

use crate::bench::meter::{Meter, read};

const SECONDS_BETWEEN: f64 = 0.1;

/// The points, oldest first.
#[derive(Debug, Default)]
pub(super) struct Timeline {
    pub(super) points: Vec<Point>,
    last: (f64, u64, u64),
}

/// What happened since the point before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    /// Since the run began.
    pub(super) seconds: f64,
    /// Messages a second.
    pub(super) published: f64,
    pub(super) received: f64,
    /// Microseconds; `None` when nothing arrived.
    pub(super) latency: Option<(f64, f64)>,
}

impl Timeline {
    /// Looks at the meter, if it is time for another point.
    pub(super) fn sample(&mut self, meter: &Meter) {
        let now = (meter.seconds(), read(&meter.published), read(&meter.received));
        let elapsed = now.0 - self.last.0;
        if elapsed < SECONDS_BETWEEN {
            return;
        }
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / elapsed;
        let mut recent = meter.recent.lock();
        let us = |quantile| recent.value_at_quantile(quantile) as f64 / 1000.0;
        let latency = (!recent.is_empty()).then(|| (us(0.5), us(0.99)));
        recent.reset();
        drop(recent);
        let (published, received) = (rate(now.1, self.last.1), rate(now.2, self.last.2));
        self.points.push(Point { seconds: now.0, published, received, latency });
        self.last = now;
    }
}
