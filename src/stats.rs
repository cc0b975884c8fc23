//! Counters that objects carry and anyone may read without a lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A quantity that rises and falls, kept by many threads and read by few: bytes held, sockets open.
///
/// Reads are not ordered with anything else; a gauge decides when to slow down, never what is true.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// One that begins with this value.
    pub fn of(amount: u64) -> Self {
        Self(AtomicU64::new(amount))
    }

    /// Adds `amount`.
    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    /// Adds `amount` unless that is more than `max` then. Whether it did.
    fn add_within(&self, amount: u64, max: u64) -> bool {
        let within = |held: u64| held.checked_add(amount).filter(|sum| *sum <= max);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within).is_ok()
    }

    /// Takes back what [`Gauge::add`] added before.
    pub fn sub(&self, amount: u64) {
        self.0.fetch_sub(amount, Ordering::Relaxed);
    }

    /// Replaces the value: for a gauge with a single writer.
    pub fn set(&self, amount: u64) {
        self.0.store(amount, Ordering::Relaxed);
    }

    /// The present value.
    pub fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A count that only rises and has one writer at a time: who holds a lock, or a task. Adding is no more than a store.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// So many more.
    #[inline]
    pub fn bump(&self, more: u64) {
        self.0.store(self.0.load(Ordering::Relaxed) + more, Ordering::Relaxed);
    }

    /// So many more, where several may count at the same time.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// The present value.
    pub fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Bytes on a gauge for as long as this lives.
#[derive(Debug)]
pub struct Charge {
    gauge: Arc<Gauge>,
    bytes: u64,
}

impl Charge {
    /// So many bytes.
    pub fn new(gauge: &Arc<Gauge>, bytes: u64) -> Self {
        gauge.add(bytes);
        Self { gauge: Arc::clone(gauge), bytes }
    }

    /// So many, if all that the gauge holds is at most `max` with them: of those who ask at the same time no more get some
    /// than there is place for.
    pub fn within(gauge: &Arc<Gauge>, bytes: u64, max: Option<u64>) -> Option<Self> {
        gauge.add_within(bytes, max.unwrap_or(u64::MAX)).then(|| Self { gauge: Arc::clone(gauge), bytes })
    }

    /// So many more.
    pub fn grow(&mut self, bytes: u64) {
        self.gauge.add(bytes);
        self.bytes += bytes;
    }

    /// So many less.
    pub fn shrink(&mut self, bytes: u64) {
        self.gauge.sub(bytes);
        self.bytes -= bytes;
    }

    /// So many in all.
    pub fn set(&mut self, bytes: u64) {
        self.gauge.add(bytes);
        self.gauge.sub(self.bytes);
        self.bytes = bytes;
    }

    /// How many.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.gauge.sub(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Charge, Gauge};

    #[test]
    fn no_more_places_are_given_than_there_are() {
        let gauge = Arc::new(Gauge::default());
        let take = |_: usize| Charge::within(&gauge, 1, Some(3));
        let mut taken: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|thread| scope.spawn(move || take(thread))).collect();
            threads.into_iter().filter_map(|thread| thread.join().ok()?).collect()
        });
        assert_eq!((taken.len(), gauge.read()), (3, 3));
        taken.pop();
        assert!(take(0).is_some() && Charge::within(&gauge, 1, None).is_some());
    }
}
