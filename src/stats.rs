//! Counters that objects carry and anyone may read without a lock.

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
