//! Who may come in: limits on connections, in all and from one address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::auth::backoff::household;
use crate::config::Limits;

/// Descriptors for everything but connections and the store's files: the log's output, listeners, the runtime.
const OTHER_DESCRIPTORS: u64 = 32;
/// Where there are hardly any, connections have this part of them: a store closes what it can do without.
const CONNECTIONS_OF_FEW: u64 = 4;
/// Accept rates are counted over this.
const RATE_WINDOW: Duration = Duration::from_secs(1);
/// Fewer addresses are not swept.
const SWEPT_MIN: usize = 1024;
/// What a connection that has not logged in may hold, in bytes.
const STRANGER_BYTES: usize = 8 * 1024;
/// The same during a TLS handshake: a message of one may be as long, and is collected.
const SHAKING_BYTES: usize = 64 * 1024;
/// All of those have this part of what strangers may hold together: the others come by plain ports, or are past theirs.
const SHAKING_OF_STRANGERS: usize = 2;

/// Counts connections against their limits.
#[derive(Debug)]
pub struct Admission {
    limits: Arc<ArcSwap<Limits>>,
    /// So many there are descriptors for.
    possible: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    connections: usize,
    unauthenticated_bytes: usize,
    /// What those of them may hold that are in their handshake.
    shaking_bytes: usize,
    addresses: HashMap<IpAddr, Address>,
    /// With so many addresses those are looked for that nobody uses any more.
    swept_at: usize,
}

#[derive(Debug)]
struct Address {
    connections: usize,
    window_start: Instant,
    accepted: u32,
}

impl State {
    /// Forgets addresses whose last connection ended within its window, and which did not come again. Done when there are
    /// twice as many as were left the last time.
    fn sweep(&mut self, now: Instant) {
        if self.addresses.len() >= self.swept_at.max(SWEPT_MIN) {
            self.addresses.retain(|_, known| known.connections > 0 || known.is_in_window(now));
            self.swept_at = 2 * self.addresses.len();
        }
    }
}

impl Address {
    fn is_in_window(&self, now: Instant) -> bool {
        now.duration_since(self.window_start) < RATE_WINDOW
    }
}

/// One connection's place, given back when it is dropped.
#[derive(Debug)]
pub struct Permit {
    admission: Arc<Admission>,
    /// Where it comes from, where those of an address are counted.
    address: Option<IpAddr>,
    /// What it may hold as a stranger; 0 when it has logged in.
    stranger_bytes: usize,
}

impl Admission {
    /// Nobody is in: these limits count, and whatever takes their place. The store may want so many files open at a time:
    /// there are descriptors for them, however many want to come in.
    pub fn new(limits: Arc<ArcSwap<Limits>>, store_files: u64) -> Self {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let by_descriptors = connections_by_descriptors(limit.unwrap_or(u64::MAX), store_files);
        let configured = configured(&limits.load());
        if by_descriptors < configured && configured < usize::MAX {
            tracing::warn!(
                limits.connections_max = configured,
                possible = by_descriptors,
                "fewer connections are let in: the limit on open files is too low"
            );
        }
        Self { limits, possible: by_descriptors, state: Mutex::default() }
    }

    /// Lets a connection in, if there is a place for it; one that begins with a TLS handshake takes more of one.
    pub fn admit(self: &Arc<Self>, ip: IpAddr, is_tls: bool, now: Instant) -> Option<Permit> {
        let mut permit = self.admit_for_another(is_tls)?;
        permit.comes_from(ip, now).then_some(permit)
    }

    /// The same for one that says itself where it comes from: [`Permit::comes_from`] is asked when it has.
    pub fn admit_for_another(self: &Arc<Self>, is_tls: bool) -> Option<Permit> {
        let stranger_bytes = if is_tls { SHAKING_BYTES } else { STRANGER_BYTES };
        let limits = self.limits.load();
        let mut state = self.state.lock();
        let unauthenticated_bytes = state.unauthenticated_bytes + stranger_bytes;
        let shaking_bytes = state.shaking_bytes + if is_tls { stranger_bytes } else { 0 };
        let connections_max = configured(&limits).min(self.possible);
        if state.connections >= connections_max
            || unauthenticated_bytes > limits.unauthenticated_bytes_max
            || (is_tls && shaking_bytes > limits.unauthenticated_bytes_max / SHAKING_OF_STRANGERS)
        {
            return None;
        }
        state.connections += 1;
        state.unauthenticated_bytes = unauthenticated_bytes;
        state.shaking_bytes = shaking_bytes;
        Some(Permit { admission: Arc::clone(self), address: None, stranger_bytes })
    }

    /// Counts a connection of this address, if it may have one more.
    fn count(&self, address: IpAddr, limits: &Limits, now: Instant) -> bool {
        let mut state = self.state.lock();
        state.sweep(now);
        let known = state.addresses.entry(address).or_insert(Address {
            connections: 0,
            window_start: now,
            accepted: 0,
        });
        if !known.is_in_window(now) {
            known.window_start = now;
            known.accepted = 0;
        }
        let (most, rate_max) =
            (limits.per_address_connections_max, limits.per_address_accepts_per_second_max);
        let too_many = most > 0 && known.connections >= most;
        let too_fast = rate_max > 0 && known.accepted >= rate_max;
        if too_many || too_fast {
            return false;
        }
        known.connections += 1;
        known.accepted += 1;
        true
    }
}

impl Permit {
    /// Where it comes from is known: whether one more may. Asked once.
    pub fn comes_from(&mut self, ip: IpAddr, now: Instant) -> bool {
        let limits = self.admission.limits.load();
        let are_counted =
            limits.per_address_connections_max > 0 || limits.per_address_accepts_per_second_max > 0;
        if !are_counted || ip.to_canonical().is_loopback() {
            return true;
        }
        let address = household(ip);
        let is_let_in = self.admission.count(address, &limits, now);
        self.address = is_let_in.then_some(address);
        is_let_in
    }

    /// The TLS handshake is over.
    pub fn shaken(&mut self) {
        self.hold(STRANGER_BYTES);
    }

    /// The client has logged in.
    pub fn authenticated(&mut self) {
        self.hold(0);
    }

    /// From now on it holds no more than this, if it did.
    fn hold(&mut self, bytes: usize) {
        let given_back = self.stranger_bytes.saturating_sub(bytes);
        if given_back > 0 {
            let was_shaking = self.stranger_bytes == SHAKING_BYTES;
            self.stranger_bytes = bytes;
            let mut state = self.admission.state.lock();
            state.unauthenticated_bytes -= given_back;
            state.shaking_bytes -= if was_shaking { SHAKING_BYTES } else { 0 };
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.authenticated();
        let mut state = self.admission.state.lock();
        state.connections -= 1;
        let Some(address) = self.address else { return };
        if let Some(known) = state.addresses.get_mut(&address) {
            known.connections -= 1;
            // One that comes and goes within the window is still counted by the next.
            if known.connections == 0 && !known.is_in_window(Instant::now()) {
                state.addresses.remove(&address);
            }
        }
    }
}

/// 0 is what there are descriptors for.
fn configured(limits: &Limits) -> usize {
    if limits.connections_max > 0 { limits.connections_max } else { usize::MAX }
}

fn connections_by_descriptors(limit: u64, store_files: u64) -> usize {
    let left = limit.saturating_sub(store_files.saturating_add(OTHER_DESCRIPTORS));
    usize::try_from(left.max(limit / CONNECTIONS_OF_FEW)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use arc_swap::ArcSwap;

    use super::{Admission, SHAKING_BYTES, STRANGER_BYTES, connections_by_descriptors};
    use crate::config::Limits;

    fn admission(change: impl FnOnce(&mut Limits)) -> Arc<Admission> {
        let mut limits = Limits::default();
        change(&mut limits);
        Arc::new(Admission::new(Arc::new(ArcSwap::from_pointee(limits)), 0))
    }

    #[test]
    fn the_files_of_the_store_come_first() {
        for (limit, store_files, expected) in
            [(1024, 82, 910), (1024, 0, 992), (64, 82, 16), (u64::MAX, u64::MAX, usize::MAX / 4)]
        {
            assert_eq!(connections_by_descriptors(limit, store_files), expected, "{limit} {store_files}");
        }
    }

    #[test]
    fn a_place_is_given_back() {
        let admission = admission(|limits| limits.connections_max = 2);
        let (ip, now) = ("10.0.0.1".parse().unwrap(), Instant::now());
        let first = admission.admit(ip, false, now).unwrap();
        let _second = admission.admit(ip, false, now).unwrap();
        assert!(admission.admit(ip, false, now).is_none());
        drop(first);
        assert!(admission.admit(ip, false, now).is_some());
    }

    #[test]
    fn one_network_has_its_share_and_loopback_any() {
        let admission = admission(|limits| limits.per_address_connections_max = 1);
        let now = Instant::now();
        let _one = admission.admit("2001:db8::1".parse().unwrap(), false, now).unwrap();
        assert!(admission.admit("2001:db8::2".parse().unwrap(), false, now).is_none(), "the same /64");
        assert!(admission.admit("2001:db8:0:1::1".parse().unwrap(), false, now).is_some());
        let _loopback = admission.admit("127.0.0.1".parse().unwrap(), false, now).unwrap();
        assert!(admission.admit("127.0.0.1".parse().unwrap(), false, now).is_some());
    }

    #[test]
    fn addresses_that_came_once_are_forgotten() {
        let admission = admission(|limits| limits.per_address_accepts_per_second_max = 2);
        let start = Instant::now();
        for second in 0..5 {
            let now = start + Duration::from_secs(2 * second);
            for host in 0..2000_u32 {
                let ip = std::net::Ipv4Addr::from_bits(0x0a00_0000 + second as u32 * 10_000 + host).into();
                drop(admission.admit(ip, false, now).unwrap());
            }
            assert!(admission.state.lock().addresses.len() <= 4000);
        }
    }

    #[test]
    fn the_rate_is_counted_by_the_second() {
        let admission = admission(|limits| limits.per_address_accepts_per_second_max = 2);
        let (ip, start) = ("10.0.0.1".parse().unwrap(), Instant::now());
        drop((admission.admit(ip, false, start), admission.admit(ip, false, start)));
        assert!(admission.admit(ip, false, start).is_none());
        assert!(admission.admit(ip, false, start + Duration::from_secs(1)).is_some());
    }

    #[test]
    fn a_handshake_takes_what_its_messages_may() {
        let admission = admission(|limits| limits.unauthenticated_bytes_max = 4 * SHAKING_BYTES);
        let (ip, now) = ("10.0.0.1".parse().unwrap(), Instant::now());
        let mut first = admission.admit(ip, true, now).unwrap();
        let second = admission.admit(ip, true, now).unwrap();
        assert!(admission.admit(ip, true, now).is_none(), "half is for those without");
        first.shaken();
        let third = admission.admit(ip, true, now).unwrap();
        let strangers: Vec<_> = std::iter::from_fn(|| admission.admit(ip, false, now)).collect();
        assert_eq!(strangers.len(), 2 * SHAKING_BYTES / STRANGER_BYTES - 1);
        first.authenticated();
        assert!(admission.admit(ip, false, now).is_some());
        drop((second, third, strangers));
        let all: Vec<_> = std::iter::from_fn(|| admission.admit(ip, true, now)).collect();
        assert_eq!(all.len(), 2);
    }
}
