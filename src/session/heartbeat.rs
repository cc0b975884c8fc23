//! Heartbeats both ways (AMQP 0-9-1 §4.2.7). The interval is the client's; zero means none.
//!
//! A client that we listen to must be heard within two intervals, whatever waits to be sent to it. One that must wait,
//! for memory or for a reply, is judged by what it leaves in the socket: while that grows it lives. One that is not
//! listened to because it does not read its answers is judged by what its socket takes of them.

use std::time::{Duration, Instant};

/// With so much unread in the socket there may be no room for a heartbeat: its silence says nothing. With less there is,
/// in the smallest buffer a kernel gives.
const UNREAD_BYTES_MAX: u64 = 32 * 1024;

/// When something was last heard and said.
#[derive(Debug)]
pub struct Heartbeat {
    interval: Option<Duration>,
    last_received: Instant,
    last_sent: Instant,
    /// When the socket last took anything.
    last_taken: Instant,
    /// What lay in the socket when it was last looked at, in bytes.
    unread_bytes: u64,
}

/// Whether the client is listened to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listening {
    /// It is.
    Yes,
    /// It must wait for something that is not its doing.
    No,
    /// It does not read its answers.
    NotWhileUnread,
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
        Self { interval: None, last_received: now, last_sent: now, last_taken: now, unread_bytes: 0 }
    }

    /// The client has decided.
    pub fn start(&mut self, interval_seconds: u16, now: Instant) {
        self.interval = (interval_seconds > 0).then(|| Duration::from_secs(u64::from(interval_seconds)));
        self.last_received = now;
        self.last_sent = now;
    }

    /// Any bytes were read.
    pub fn on_received(&mut self, now: Instant) {
        self.last_received = now;
        self.unread_bytes = 0;
    }

    /// So many bytes lie in the socket, and nothing was read since the last look.
    pub fn on_unread(&mut self, bytes: u64, now: Instant) {
        if bytes > self.unread_bytes {
            self.last_received = now;
        }
        self.unread_bytes = bytes;
    }

    /// The socket took some of what is said.
    pub fn on_taken(&mut self, now: Instant) {
        self.last_taken = now;
    }

    /// All that there was to say was written.
    pub fn on_sent(&mut self, now: Instant) {
        self.last_sent = now;
    }

    /// When something will be due.
    pub fn deadline(&self, listening: Listening) -> Option<Instant> {
        let beat = self.last_sent + self.interval? / 2;
        Some(self.silent_from(listening).map_or(beat, |silent| beat.min(silent)))
    }

    /// What is due now.
    pub fn due(&self, now: Instant, listening: Listening) -> Option<Due> {
        let interval = self.interval?;
        if self.silent_from(listening).is_some_and(|silent| now >= silent) {
            return Some(Due::PeerIsGone);
        }
        (now >= self.last_sent + interval / 2).then_some(Due::Beat)
    }

    /// From when on silence means that nobody is there; `None` when it says nothing.
    fn silent_from(&self, listening: Listening) -> Option<Instant> {
        let last_sign = match listening {
            // What we listen to and have not read yet is about to be heard.
            Listening::Yes if self.unread_bytes > 0 => return None,
            Listening::No if self.unread_bytes >= UNREAD_BYTES_MAX => return None,
            Listening::Yes | Listening::No => self.last_received,
            Listening::NotWhileUnread => self.last_received.max(self.last_taken),
        };
        Some(last_sign + self.interval? * 2)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Due, Heartbeat, Listening, UNREAD_BYTES_MAX};

    fn after(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    #[test]
    fn beats_every_half_interval_and_gives_up_after_two() {
        let start = Instant::now();
        let mut heartbeat = Heartbeat::new(start);
        heartbeat.start(2, start);
        assert_eq!(heartbeat.due(after(start, 999), Listening::Yes), None);
        assert_eq!(heartbeat.deadline(Listening::Yes), Some(after(start, 1000)));
        assert_eq!(heartbeat.due(after(start, 1000), Listening::Yes), Some(Due::Beat));
        heartbeat.on_sent(after(start, 3900));
        assert_eq!(heartbeat.due(after(start, 3999), Listening::Yes), None);
        assert_eq!(heartbeat.due(after(start, 4000), Listening::Yes), Some(Due::PeerIsGone));
    }

    #[test]
    fn who_is_not_listened_to_lives_while_more_lies_in_the_socket() {
        let start = Instant::now();
        let mut heartbeat = Heartbeat::new(start);
        heartbeat.start(2, start);
        let look = |heartbeat: &mut Heartbeat, unread_bytes, ms| {
            heartbeat.on_unread(unread_bytes, after(start, ms));
            heartbeat.on_sent(after(start, ms));
            heartbeat.due(after(start, ms), Listening::No)
        };
        assert_eq!(look(&mut heartbeat, 8, 3900), None);
        assert_eq!(look(&mut heartbeat, 8, 7800), None);
        assert_eq!(heartbeat.deadline(Listening::No), Some(after(start, 7900)));
        assert_eq!(look(&mut heartbeat, 16, 7900), None);
        assert_eq!(look(&mut heartbeat, 16, 11_900), Some(Due::PeerIsGone));
        assert_eq!(look(&mut heartbeat, UNREAD_BYTES_MAX, 11_900), None);
        assert_eq!(
            look(&mut heartbeat, UNREAD_BYTES_MAX, 1_000_000),
            None,
            "the kernel's buffer may be full"
        );
        assert_eq!(heartbeat.deadline(Listening::No), Some(after(start, 1_001_000)), "only our own beat");
        assert_eq!(heartbeat.due(after(start, 1_000_000), Listening::Yes), None, "it is about to be read");
        heartbeat.on_received(after(start, 1_000_000));
        assert_eq!(heartbeat.due(after(start, 1_004_000), Listening::Yes), Some(Due::PeerIsGone));
    }

    #[test]
    fn who_does_not_read_its_answers_lives_while_its_socket_takes_some() {
        let start = Instant::now();
        let mut heartbeat = Heartbeat::new(start);
        heartbeat.start(2, start);
        heartbeat.on_unread(1 << 20, start);
        let look = |heartbeat: &mut Heartbeat, ms| {
            heartbeat.on_unread(1 << 20, after(start, ms));
            heartbeat.on_sent(after(start, ms));
            heartbeat.due(after(start, ms), Listening::NotWhileUnread)
        };
        assert_eq!(look(&mut heartbeat, 3_900), None);
        heartbeat.on_taken(after(start, 3_900));
        assert_eq!(look(&mut heartbeat, 7_800), None);
        assert_eq!(heartbeat.deadline(Listening::NotWhileUnread), Some(after(start, 7_900)));
        assert_eq!(look(&mut heartbeat, 7_900), Some(Due::PeerIsGone));
    }

    #[test]
    fn zero_means_none() {
        let start = Instant::now();
        let mut heartbeat = Heartbeat::new(start);
        heartbeat.start(0, start);
        assert_eq!(
            (heartbeat.deadline(Listening::Yes), heartbeat.due(after(start, 1_000_000), Listening::Yes)),
            (None, None)
        );
    }
}
