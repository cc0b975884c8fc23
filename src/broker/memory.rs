//! The memory watermark: when publishers must wait.
//!
//! The alarm is raised by whoever publishes past the watermark, at once, and cleared by a periodic check
//! when memory has fallen under it: publishers stop quickly, and consumers and acks, which free memory, go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::stats::Gauge;

/// Bytes the node holds for messages, against the bytes it may.
#[derive(Debug)]
pub struct Memory {
    /// Message bytes: every block and large message charges itself here.
    pub messages: Arc<Gauge>,
    /// What the queues' lists cost, as of the last periodic check.
    pub index: Gauge,
    /// Parts of messages that have not arrived whole.
    pub partial_bodies: Gauge,
    watermark_bytes: u64,
    partial_bodies_max: u64,
    alarm: AtomicBool,
}

/// How much the alarm's state changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlarmChange {
    /// Publishers must wait from now on.
    Raised,
    /// Publishers may go on.
    Cleared,
}

impl Memory {
    /// Nothing held, nothing blocked.
    pub fn new(watermark_bytes: u64, partial_bodies_max: u64) -> Self {
        Self {
            messages: Arc::default(),
            index: Gauge::default(),
            partial_bodies: Gauge::default(),
            watermark_bytes,
            partial_bodies_max,
            alarm: AtomicBool::new(false),
        }
    }

    /// Whether publishers must wait.
    pub fn is_alarmed(&self) -> bool {
        self.alarm.load(Ordering::Relaxed)
    }

    /// Compares what is held with the watermark. `Some` for the one caller that saw it crossed.
    pub fn check(&self) -> Option<AlarmChange> {
        let above = self.held_bytes() >= self.watermark_bytes;
        if above == self.is_alarmed() || self.alarm.swap(above, Ordering::Relaxed) == above {
            return None;
        }
        Some(if above { AlarmChange::Raised } else { AlarmChange::Cleared })
    }

    /// Whether unfinished messages take more than their share.
    pub fn has_too_many_partial_bodies(&self) -> bool {
        self.partial_bodies.read() > self.partial_bodies_max
    }

    /// The sum of everything counted, in bytes.
    pub fn held_bytes(&self) -> u64 {
        self.messages.read() + self.index.read() + self.partial_bodies.read()
    }

    /// The watermark, in bytes.
    pub fn watermark_bytes(&self) -> u64 {
        self.watermark_bytes
    }
}
