//! What a queue was told about its messages: one value of effective settings, made of its arguments, and swapped as a
//! whole when what they are made of changes.
//!
//! Nothing here checks: [`crate::broker::arguments`] has, in RabbitMQ's words, before anything is read here.

use crate::protocol::field::Field;
use crate::protocol::table::Table;

/// What kind of queue it is; `x-queue-type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QueueKind {
    /// Durable or not, exclusive or not.
    #[default]
    Classic,
    /// Always durable, with a limit on how often a message comes back. On one node it is replicated to nobody.
    Quorum,
}

impl QueueKind {
    /// RabbitMQ's name for it in errors.
    pub const fn module(self) -> &'static str {
        match self {
            Self::Classic => "rabbit_classic_queue",
            Self::Quorum => "rabbit_quorum_queue",
        }
    }

    /// As arguments name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Quorum => "quorum",
        }
    }

    /// The kind that arguments ask for; classic when they do not.
    pub fn of(arguments: Table<'_>) -> Self {
        match arguments.get("x-queue-type") {
            Some(Field::LongStr(b"quorum")) => Self::Quorum,
            _ => Self::Classic,
        }
    }
}

/// What becomes of a message for which there is no room; `x-overflow`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// It comes in, and the oldest ones go.
    #[default]
    DropHead,
    /// It does not come in, and its publisher is told so.
    RejectPublish,
    /// Likewise, and it is dead-lettered.
    RejectPublishDeadLetter,
}

/// What happens when a consumer holds a message for too long; `x-consumer-timeout-action`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OverdueAction {
    /// Its channel is closed.
    #[default]
    Close,
    /// The message is taken back, and nothing else happens.
    Requeue,
    /// The consumer is cancelled, and all that it holds is taken back.
    Cancel,
}

impl OverdueAction {
    /// By its name.
    pub fn named(name: &[u8]) -> Option<Self> {
        match name {
            b"close" => Some(Self::Close),
            b"requeue" => Some(Self::Requeue),
            b"cancel" => Some(Self::Cancel),
            _ => None,
        }
    }
}

/// Where messages go that nobody took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetterTo {
    /// The exchange, which need not be there.
    pub exchange: Box<str>,
    /// The key they are published with, instead of their own ones.
    pub routing_key: Option<Box<[u8]>>,
}

/// The effective settings of a queue. The default is what a queue without arguments has: no rule at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// What kind of queue it is.
    pub kind: QueueKind,
    /// How long a message may wait, in milliseconds.
    pub message_ttl_ms: Option<u64>,
    /// How long the queue may be unused, in milliseconds.
    pub expires_ms: Option<u64>,
    /// How many messages may be ready.
    pub length_max: Option<u64>,
    /// How large the bodies of ready messages may be together, in bytes.
    pub bytes_max: Option<u64>,
    /// What is done at either limit.
    pub overflow: Overflow,
    /// Where messages go that nobody took.
    pub dead_letter: Option<DeadLetterTo>,
    /// A dead letter is kept until all queues that it is for have a place for it.
    pub keeps_dead_letters: bool,
    /// The highest priority; without it messages have none.
    pub priority_max: Option<u8>,
    /// Only one consumer is served at a time.
    pub single_active: bool,
    /// How often a message may come back.
    pub delivery_limit: Option<u64>,
    /// It holds messages that are to go on when their delay is over.
    pub delays: bool,
    /// How long a consumer may hold a message, in milliseconds.
    pub consumer_timeout_ms: Option<u64>,
    /// What happens to who holds one for longer.
    pub overdue_action: OverdueAction,
}

impl Settings {
    /// What arguments say that were accepted.
    pub fn of(arguments: Table<'_>) -> Self {
        let number = |name: &str| match arguments.get(name) {
            Some(value) => value.as_int().and_then(|value| u64::try_from(value).ok()),
            None => None,
        };
        let text = |name: &str| match arguments.get(name) {
            Some(Field::LongStr(text)) => Some(text),
            _ => None,
        };
        let dead_letter = text("x-dead-letter-exchange").map(|exchange| DeadLetterTo {
            exchange: String::from_utf8_lossy(exchange).into(),
            // What is longer was accepted by nobody, and fits in no message.
            routing_key: text("x-dead-letter-routing-key").filter(|key| key.len() <= 255).map(Into::into),
        });
        let kind = QueueKind::of(arguments);
        let overflow = match text("x-overflow") {
            Some(b"reject-publish") => Overflow::RejectPublish,
            // Quorum queues have no such thing and drop, as in RabbitMQ.
            Some(b"reject-publish-dlx") if kind == QueueKind::Classic => Overflow::RejectPublishDeadLetter,
            _ => Overflow::DropHead,
        };
        // As in RabbitMQ it is not to be had where the oldest make room for the newest.
        let keeps_dead_letters = kind == QueueKind::Quorum
            && text("x-dead-letter-strategy") == Some(b"at-least-once")
            && overflow == Overflow::RejectPublish;
        Self {
            kind,
            message_ttl_ms: number("x-message-ttl"),
            expires_ms: number("x-expires"),
            length_max: number("x-max-length"),
            bytes_max: number("x-max-length-bytes"),
            overflow,
            dead_letter,
            keeps_dead_letters,
            priority_max: number("x-max-priority")
                .and_then(|max| u8::try_from(max).ok())
                .filter(|max| *max > 0),
            single_active: arguments.get("x-single-active-consumer") == Some(Field::Bool(true)),
            delivery_limit: number("x-delivery-limit").filter(|_| kind == QueueKind::Quorum),
            delays: false,
            consumer_timeout_ms: number("x-consumer-timeout"),
            overdue_action: text("x-consumer-timeout-action")
                .and_then(OverdueAction::named)
                .unwrap_or_default(),
        }
    }

    /// Whether messages that leave without having been taken go elsewhere.
    pub fn buries(&self) -> bool {
        self.dead_letter.is_some() || self.delays
    }

    /// Whether there is a limit on what is ready.
    pub fn is_limited(&self) -> bool {
        self.length_max.is_some() || self.bytes_max.is_some()
    }

    /// Whether publishers are refused at a limit.
    pub fn rejects(&self) -> bool {
        self.is_limited() && self.overflow != Overflow::DropHead
    }

    /// Whether so many ready messages with bodies of so many bytes together are more than is allowed.
    pub fn is_exceeded_by(&self, messages: u64, bytes: u64) -> bool {
        self.length_max.is_some_and(|max| messages > max) || self.bytes_max.is_some_and(|max| bytes > max)
    }
}

#[cfg(test)]
mod tests {
    use super::{DeadLetterTo, Overflow, QueueKind, Settings};
    use crate::protocol::field::Field;
    use crate::protocol::table::{Table, TableBuf};

    #[test]
    fn a_queue_without_arguments_has_no_rule() {
        assert_eq!(Settings::of(Table::EMPTY), Settings::default());
    }

    #[test]
    fn arguments_of_any_width_are_one_value() {
        let mut arguments = TableBuf::new();
        arguments
            .insert("x-message-ttl", Field::U8(60))
            .insert("x-max-length", Field::I64(5))
            .insert("x-overflow", Field::LongStr(b"reject-publish-dlx"))
            .insert("x-dead-letter-exchange", Field::LongStr(b"dlx"))
            .insert("x-dead-letter-routing-key", Field::LongStr(b"key"))
            .insert("x-max-priority", Field::I16(10));
        let told = Settings::of(arguments.as_table());
        let dead_letter =
            Some(DeadLetterTo { exchange: "dlx".into(), routing_key: Some(b"key".as_slice().into()) });
        assert_eq!((told.message_ttl_ms, told.length_max), (Some(60), Some(5)));
        assert_eq!((told.overflow, told.priority_max), (Overflow::RejectPublishDeadLetter, Some(10)));
        assert_eq!((told.kind, &told.dead_letter), (QueueKind::Classic, &dead_letter));
        assert!(told.rejects() && !told.is_exceeded_by(5, u64::MAX) && told.is_exceeded_by(6, 0));
    }
}
