//! Heartbeats both ways (AMQP 0-9-1 §4.2.7). The interval is the client's; zero means none.

use std::time::{Duration, Instant};

/// When something was last heard and said.
#[derive(Debug)]
pub struct Heartbeat {
    interval: Option<Duration>,
    last_received: Instant,
    last_sent: Instant,
}

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// The peer has not been heard for two intervals.
    PeerIsGone,
    /// Nothing was sent for half an interval.
    Beat,
}

impl Heartbeat {
    /// No heartbeats until an interval is agreed.
    pub fn new(now: Instant) -> Self {
        Self { interval: None, last_received: now, last_sent: now }
    }

    /// The client has decided.
    pub fn start(&mut self, interval_seconds: u16, now: Instant) {
        self.interval = (interval_seconds > 0).then(|| Duration::from_secs(u64::from(interval_seconds)));
        self.last_received = now;
        self.last_sent = now;
    }

    /// Any bytes arrived; or we did not listen, which is not the peer's fault.
    pub fn on_received(&mut self, now: Instant) {
        self.last_received = now;
    }

    /// Any bytes were written.
    pub fn on_sent(&mut self, now: Instant) {
        self.last_sent = now;
    }

    /// When something will be due. While we do not listen, only what we send is.
    pub fn deadline(&self, listening: bool) -> Option<Instant> {
        let interval = self.interval?;
        let beat = self.last_sent + interval / 2;
        Some(if listening { beat.min(self.last_received + interval * 2) } else { beat })
    }

    /// What is due now.
    pub fn due(&self, now: Instant, listening: bool) -> Option<Due> {
        let interval = self.interval?;
        if listening && now >= self.last_received + interval * 2 {
            return Some(Due::PeerIsGone);
        }
        (now >= self.last_sent + interval / 2).then_some(Due::Beat)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Due, Heartbeat};

    fn after(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    #[test]
    fn beats_every_half_interval_and_gives_up_after_two() {
        let start = Instant::now();
        let mut heartbeat = Heartbeat::new(start);
        heartbeat.start(2, start);
        assert_eq!(heartbeat.due(after(start, 999), true), None);
        assert_eq!(heartbeat.deadline(true), Some(after(start, 1000)));
        assert_eq!(heartbeat.due(after(start, 1000), true), Some(Due::Beat));
        heartbeat.on_sent(after(start, 3900));
        assert_eq!(heartbeat.due(after(start, 3999), true), None);
        assert_eq!(heartbeat.due(after(start, 4000), true), Some(Due::PeerIsGone));
        assert_eq!(heartbeat.due(after(start, 4000), false), None, "we did not listen");
    }

    #[test]
    fn zero_means_none() {
        let start = Instant::now();
        let mut heartbeat = Heartbeat::new(start);
        heartbeat.start(0, start);
        assert_eq!((heartbeat.deadline(true), heartbeat.due(after(start, 1_000_000), true)), (None, None));
    }
}
