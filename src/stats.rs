//! Counters that objects carry and anyone may read without a lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A quantity that rises and falls, kept by many threads and read by few: bytes held, sockets open.
///
/// Reads are not ordered with anything else; a gauge decides when to slow down, never what is true.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Adds `amount`.
    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
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
