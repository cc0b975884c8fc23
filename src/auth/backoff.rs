//! How long logins of one user from one address must wait after failures: 1, 2, 4 … 60 seconds after the fifth.
//!
//! ```text
//!  no entry ─fail→ 1 … 5 failures: no wait ─fail→ 6th: wait 1 s ─fail→ 2 s ─fail→ 4 s … 60 s
//!     ▲                                                  │
//!     └────────── success, or an hour of quiet ──────────┘
//! ```
//!
//! A pure state machine: time is an argument, and the table is bounded. Loopback is exempt, or a wrong password
//! in one local service would lock out the others. Knows nothing of passwords or sockets.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Failures that cost nothing beyond the delay every failure has.
const FREE_FAILURES: u32 = 5;
/// The longest wait.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// After this long without a failure all is forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(3_600);
/// The most pairs of user and address that are remembered.
const ENTRIES_MAX: usize = 10_000;
/// A name is remembered up to here: a longer one belongs to nobody.
const NAME_BYTES_MAX: usize = 255;

/// The failures remembered, by user and address.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: HashMap<Key, Failures>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    user: Box<str>,
    from: IpAddr,
}

#[derive(Clone, Copy, Debug)]
struct Failures {
    count: u32,
    last: Instant,
}

impl Backoff {
    /// How long a login of this user from this address must still wait; zero when it may be tried.
    pub fn wait(&self, user: &str, from: IpAddr, now: Instant) -> Duration {
        let Some(failures) = Key::new(user, from).and_then(|key| self.failures.get(&key)) else {
            return Duration::ZERO;
        };
        failures.wait().saturating_sub(now.saturating_duration_since(failures.last))
    }

    /// A login was refused.
    pub fn on_failure(&mut self, user: &str, from: IpAddr, now: Instant) {
        let Some(key) = Key::new(user, from) else { return };
        if !self.failures.contains_key(&key) && self.failures.len() >= ENTRIES_MAX {
            self.make_room(now);
        }
        let failures = self.failures.entry(key).or_insert(Failures { count: 0, last: now });
        if failures.is_forgotten(now) {
            failures.count = 0;
        }
        failures.count = failures.count.saturating_add(1);
        failures.last = now;
    }

    /// A login succeeded.
    pub fn on_success(&mut self, user: &str, from: IpAddr) {
        if let Some(key) = Key::new(user, from) {
            self.failures.remove(&key);
        }
    }

    /// Drops what is forgotten, then the older half: an attacker with many names buys nobody a free try soon.
    fn make_room(&mut self, now: Instant) {
        self.failures.retain(|_, failures| !failures.is_forgotten(now));
        if self.failures.len() < ENTRIES_MAX {
            return;
        }
        let mut times: Vec<Instant> = self.failures.values().map(|failures| failures.last).collect();
        let (_, &mut middle, _) = times.select_nth_unstable(ENTRIES_MAX / 2);
        self.failures.retain(|_, failures| failures.last > middle);
    }
}

/// Whose an address is: an IPv6 host owns a /64, so that is its address here.
pub fn household(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
        v4 => v4,
    }
}

impl Key {
    /// `None` for loopback, which is exempt.
    fn new(user: &str, from: IpAddr) -> Option<Self> {
        let from = from.to_canonical();
        if from.is_loopback() {
            return None;
        }
        let from = household(from);
        let user = user.get(..user.floor_char_boundary(NAME_BYTES_MAX)).unwrap_or_default();
        Some(Self { user: user.into(), from })
    }
}

impl Failures {
    fn wait(self) -> Duration {
        match self.count.checked_sub(FREE_FAILURES + 1) {
            None => Duration::ZERO,
            Some(doublings) => Duration::from_secs(1_u64 << doublings.min(6)).min(WAIT_MAX),
        }
    }

    fn is_forgotten(self, now: Instant) -> bool {
        now.saturating_duration_since(self.last) > FORGET_AFTER
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::time::{Duration, Instant};

    use crate::auth::backoff::{Backoff, ENTRIES_MAX};

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_wait_doubles_after_five_failures_up_to_a_minute() {
        let (mut backoff, now, from) = (Backoff::default(), Instant::now(), address("192.0.2.1"));
        let waits = (0..14).map(|_| {
            backoff.on_failure("a", from, now);
            backoff.wait("a", from, now).as_secs()
        });
        assert_eq!(waits.collect::<Vec<_>>(), [0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(backoff.wait("b", from, now), Duration::ZERO);
        assert_eq!(backoff.wait("a", address("192.0.2.2"), now), Duration::ZERO);
        assert_eq!(backoff.wait("a", from, now + Duration::from_secs(50)).as_secs(), 10);
        assert_eq!(backoff.wait("a", from, now + Duration::from_secs(60)), Duration::ZERO);
    }

    #[test]
    fn success_and_an_hour_of_quiet_forgive() {
        let (mut backoff, now, from) = (Backoff::default(), Instant::now(), address("192.0.2.1"));
        (0..8).for_each(|_| backoff.on_failure("a", from, now));
        backoff.on_success("a", from);
        backoff.on_failure("a", from, now);
        assert_eq!(backoff.wait("a", from, now), Duration::ZERO);
        (0..8).for_each(|_| backoff.on_failure("a", from, now));
        let later = now + Duration::from_secs(3_601);
        backoff.on_failure("a", from, later);
        assert_eq!(backoff.wait("a", from, later), Duration::ZERO);
    }

    #[test]
    fn loopback_is_exempt_and_a_v6_host_is_its_network() {
        let (mut backoff, now) = (Backoff::default(), Instant::now());
        for from in ["127.0.0.1", "::1", "::ffff:127.0.0.1"].map(address) {
            (0..8).for_each(|_| backoff.on_failure("a", from, now));
            assert_eq!(backoff.wait("a", from, now), Duration::ZERO);
        }
        (0..8).for_each(|_| backoff.on_failure("a", address("2001:db8::1"), now));
        assert!(backoff.wait("a", address("2001:db8::2"), now) > Duration::ZERO);
        assert_eq!(backoff.wait("a", address("2001:db8:0:1::1"), now), Duration::ZERO);
    }

    #[test]
    fn the_table_is_bounded_and_forgets_the_oldest_first() {
        let (mut backoff, start, from) = (Backoff::default(), Instant::now(), address("192.0.2.1"));
        let mut now = start;
        for user in 0..3 * ENTRIES_MAX {
            now += Duration::from_millis(1);
            backoff.on_failure(&user.to_string(), from, now);
            assert!(backoff.failures.len() <= ENTRIES_MAX);
        }
        (0..8).for_each(|_| backoff.on_failure(&"é".repeat(4_000), from, now));
        assert!(backoff.wait(&"é".repeat(4_000), from, now) > Duration::ZERO);
        assert!(backoff.failures.keys().all(|key| key.user.len() <= 255));
    }
}
