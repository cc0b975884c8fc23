//! How many messages died of what, for those who watch: by kind of queue and by what becomes of them, as RabbitMQ counts.

use crate::queue::dying::Reason;
use crate::queue::settings::{QueueKind, Settings};
use crate::stats::Counter;

/// What becomes of the dead of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// They are gone.
    Disabled,
    /// They go elsewhere, once.
    AtMostOnce,
    /// They stay until they are elsewhere.
    AtLeastOnce,
}

impl Strategy {
    /// Each.
    pub const ALL: [Self; 3] = [Self::Disabled, Self::AtMostOnce, Self::AtLeastOnce];

    fn of(settings: &Settings) -> Self {
        match (settings.dead_letter.is_some(), settings.keeps_dead_letters) {
            (false, _) => Self::Disabled,
            (true, false) => Self::AtMostOnce,
            (true, true) => Self::AtLeastOnce,
        }
    }

    /// As metrics say it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::AtMostOnce => "at_most_once",
            Self::AtLeastOnce => "at_least_once",
        }
    }
}

/// The counts of a node.
#[derive(Debug, Default)]
pub struct DeadCounts {
    classic: [[Counter; REASONS]; Strategy::ALL.len()],
    quorum: [[Counter; REASONS]; Strategy::ALL.len()],
    /// Of those that stay until they are elsewhere those that are.
    pub confirmed: Counter,
}

const REASONS: usize = 4;

/// Where a reason counts. A message whose delay is over is not dead.
fn place(reason: Reason) -> Option<usize> {
    match reason {
        Reason::Rejected => Some(0),
        Reason::Expired => Some(1),
        Reason::MaxLen => Some(2),
        Reason::DeliveryLimit => Some(3),
        Reason::Delayed => None,
    }
}

impl DeadCounts {
    fn of(&self, kind: QueueKind, strategy: Strategy, reason: Reason) -> Option<&Counter> {
        let counts = match kind {
            QueueKind::Classic => &self.classic,
            QueueKind::Quorum => &self.quorum,
        };
        counts.get(strategy as usize)?.get(place(reason)?)
    }

    /// So many more died in a queue with these settings.
    pub fn count(&self, settings: &Settings, reason: Reason, messages: u64) {
        if let Some(counter) = self.of(settings.kind, Strategy::of(settings), reason) {
            counter.add(messages);
        }
    }

    /// So many more were rejected in a queue from which nothing goes elsewhere.
    pub fn count_rejected(&self, kind: QueueKind, messages: u64) {
        if let Some(counter) = self.of(kind, Strategy::Disabled, Reason::Rejected) {
            counter.add(messages);
        }
    }

    /// How many died.
    pub fn read(&self, kind: QueueKind, strategy: Strategy, reason: Reason) -> u64 {
        self.of(kind, strategy, reason).map_or(0, Counter::read)
    }
}
