//! Why publishers must wait: memory, the disk, or both.
//!
//! A reason is raised by whoever sees it and cleared by a periodic look; a connection that has published since is
//! not read while any is left. Consumers and acknowledgements, which free memory and disk, go on.

use std::sync::atomic::{AtomicU8, Ordering};

/// What is short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// Memory is at its watermark.
    Memory,
    /// Less than the limit is free on the disk.
    Disk,
}

impl Shortage {
    fn bit(self) -> u8 {
        match self {
            Self::Memory => 1,
            Self::Disk => 2,
        }
    }
}

/// The alarms of the node.
#[derive(Debug, Default)]
pub struct Alarms(AtomicU8);

impl Alarms {
    /// Raises or clears an alarm. `true` for the one caller that changed it.
    pub fn set(&self, shortage: Shortage, raised: bool) -> bool {
        let bit = shortage.bit();
        if self.is_raised(shortage) == raised {
            return false;
        }
        let before = if raised {
            self.0.fetch_or(bit, Ordering::Relaxed)
        } else {
            self.0.fetch_and(!bit, Ordering::Relaxed)
        };
        (before & bit != 0) != raised
    }

    /// Whether this one is raised.
    pub fn is_raised(&self, shortage: Shortage) -> bool {
        self.0.load(Ordering::Relaxed) & shortage.bit() != 0
    }

    /// Why publishers must wait, in RabbitMQ's words, which clients look for; `None` when they need not.
    pub fn reason(&self) -> Option<&'static str> {
        match (self.is_raised(Shortage::Memory), self.is_raised(Shortage::Disk)) {
            (false, false) => None,
            (true, false) => Some("low on memory"),
            (false, true) => Some("low on disk"),
            (true, true) => Some("low on memory & disk"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Alarms, Shortage};

    #[test]
    fn publishers_wait_until_no_reason_is_left() {
        let alarms = Alarms::default();
        assert_eq!(alarms.reason(), None);
        assert!(alarms.set(Shortage::Memory, true));
        assert!(!alarms.set(Shortage::Memory, true), "it is raised already");
        assert_eq!(alarms.reason(), Some("low on memory"));
        assert!(alarms.set(Shortage::Disk, true));
        assert_eq!(alarms.reason(), Some("low on memory & disk"));
        assert!(alarms.set(Shortage::Memory, false));
        assert_eq!(alarms.reason(), Some("low on disk"));
        assert!(alarms.set(Shortage::Disk, false));
        assert_eq!(alarms.reason(), None);
    }
}
