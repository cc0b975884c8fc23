//! Arguments of queues, exchanges and consumers: which are known, what values they take, and when two
//! declarations say the same.
//!
//! An argument that is known and valid but whose feature is not there yet is refused, never ignored. An
//! unknown argument is accepted, as RabbitMQ does.

use crate::broker::error::{BrokerError, Resource};
use crate::protocol::field::Field;
use crate::protocol::table::Table;
use crate::queue::settings::{OverdueAction, QueueKind};

/// The longest time an argument may name: ten years, in milliseconds.
const EXPIRY_MS_MAX: i64 = 315_360_000_000;

/// Routing keys are short strings on the wire.
const ROUTING_KEY_BYTES_MAX: usize = 255;

/// The arguments that must agree when a classic queue is declared again, in the order in which they are compared: the
/// first one that differs is named.
const COMPARED_OF_CLASSIC: [&str; 14] = [
    "x-expires",
    "x-message-ttl",
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-max-length",
    "x-max-length-bytes",
    "x-max-priority",
    "x-overflow",
    "x-queue-mode",
    "x-queue-version",
    "x-single-active-consumer",
    "x-queue-type",
    "x-queue-master-locator",
    "x-queue-leader-locator",
];

/// The same for a quorum queue.
const COMPARED_OF_QUORUM: [&str; 15] = [
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-dead-letter-strategy",
    "x-expires",
    "x-max-length",
    "x-max-length-bytes",
    "x-max-in-memory-length",
    "x-max-in-memory-bytes",
    "x-overflow",
    "x-single-active-consumer",
    "x-queue-type",
    "x-quorum-initial-group-size",
    "x-delivery-limit",
    "x-message-ttl",
    "x-queue-leader-locator",
];

/// The arguments that must agree when a queue of this kind is declared again.
pub const fn compared_of(kind: QueueKind) -> &'static [&'static str] {
    match kind {
        QueueKind::Classic => &COMPARED_OF_CLASSIC,
        QueueKind::Quorum => &COMPARED_OF_QUORUM,
    }
}

/// Whether the broker acts on a valid argument.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Support {
    /// It does, or there is nothing to act on.
    Accepted,
    /// Not yet: the declaration is refused.
    Later,
}

type Check = fn(Field<'_>, Table<'_>) -> Result<Support, String>;

/// What happens when a consumer holds a message for too long: ours, of queues and of consumers.
const TIMEOUT_ACTION: &str = "x-consumer-timeout-action";

/// Kinds of queues that take an argument.
const CLASSIC: &[QueueKind] = &[QueueKind::Classic];
const QUORUM: &[QueueKind] = &[QueueKind::Quorum];
const BOTH: &[QueueKind] = &[QueueKind::Classic, QueueKind::Quorum];
/// Streams, which are not there yet.
const STREAM: &[QueueKind] = &[];

/// Every argument of queue.declare that is known, in the order in which they are checked, and the kinds of queues that
/// take it.
const QUEUE_ARGUMENTS: [(&str, &[QueueKind], Check); 30] = [
    ("x-queue-type", BOTH, queue_type),
    ("x-expires", BOTH, |value, _| in_range(value, 1, EXPIRY_MS_MAX, "value_too_large")),
    ("x-message-ttl", BOTH, |value, _| in_range(value, 0, EXPIRY_MS_MAX, "value_too_large")),
    ("x-dead-letter-exchange", BOTH, |value, _| text(value).map(|_| Support::Accepted)),
    ("x-dead-letter-routing-key", BOTH, dead_letter_routing_key),
    ("x-dead-letter-strategy", QUORUM, dead_letter_strategy),
    ("x-max-length", BOTH, |value, _| in_range(value, 0, i64::MAX, "")),
    ("x-max-length-bytes", BOTH, |value, _| in_range(value, 0, i64::MAX, "")),
    ("x-max-priority", CLASSIC, |value, _| in_range(value, 0, 255, "max_value_exceeded")),
    ("x-overflow", BOTH, overflow),
    ("x-queue-mode", CLASSIC, queue_mode),
    ("x-queue-version", CLASSIC, queue_version),
    ("x-single-active-consumer", BOTH, flag),
    ("x-delivery-limit", QUORUM, |value, _| integer(value).map(|_| Support::Accepted)),
    ("x-consumer-timeout", BOTH, |value, _| in_range(value, 0, i64::MAX, "")),
    (TIMEOUT_ACTION, BOTH, |value, _| overdue_action(value).map(|_| Support::Accepted)),
    ("x-quorum-initial-group-size", QUORUM, |value, _| in_range(value, 1, i64::MAX, "")),
    ("x-max-in-memory-length", QUORUM, |value, _| in_range(value, 0, i64::MAX, "")),
    ("x-max-in-memory-bytes", QUORUM, |value, _| in_range(value, 0, i64::MAX, "")),
    ("x-queue-master-locator", CLASSIC, |value, _| text(value).map(|_| Support::Accepted)),
    ("x-queue-leader-locator", BOTH, |value, _| text(value).map(|_| Support::Accepted)),
    ("x-message-deduplication", CLASSIC, |value, _| flag(value, Table::EMPTY).map(|_| later_if(value))),
    ("x-cache-size", CLASSIC, |value, _| in_range(value, 1, i64::MAX, "").map(|_| Support::Later)),
    ("x-cache-ttl", CLASSIC, |value, _| in_range(value, 0, i64::MAX, "").map(|_| Support::Later)),
    ("x-cache-persistence", CLASSIC, |value, _| text(value).map(|_| Support::Later)),
    ("x-deduplication-header", CLASSIC, |value, _| text(value).map(|_| Support::Later)),
    ("x-max-age", STREAM, not_checked),
    ("x-stream-max-segment-size-bytes", STREAM, not_checked),
    ("x-stream-filter-size-bytes", STREAM, not_checked),
    ("x-initial-cluster-size", STREAM, not_checked),
];

/// Checks the arguments of a new queue; its kind.
///
/// # Errors
/// [`BrokerError::InvalidArgument`] for a wrong type or value, [`BrokerError::Precondition`] for an argument of
/// another type of queue, [`BrokerError::NotImplemented`] for what is valid and not there yet.
pub fn check_queue_arguments(arguments: Table<'_>, resource: &Resource) -> Result<QueueKind, BrokerError> {
    let kind = QueueKind::of(arguments);
    for (name, kinds, check) in QUEUE_ARGUMENTS {
        let Some(value) = arguments.get(name) else { continue };
        if !kinds.contains(&kind) {
            return Err(BrokerError::Precondition(format!(
                "invalid arg '{name}' for {resource} of queue type {}",
                kind.module()
            )));
        }
        let invalid = |reason| BrokerError::InvalidArgument {
            argument: name.to_owned(),
            resource: resource.clone(),
            reason,
        };
        if check(value, arguments).map_err(invalid)? == Support::Later {
            return Err(not_yet(&format!("argument '{name}'"), value, resource));
        }
    }
    Ok(kind)
}

/// The `x-priority` of basic.consume; zero without one.
///
/// # Errors
/// [`BrokerError::InvalidArgument`] when it is not an integer, [`BrokerError::Precondition`] for the arguments of
/// stream consumers, which no classic queue takes.
pub fn consumer_priority(
    arguments: Table<'_>,
    resource: &Resource,
    kind: QueueKind,
) -> Result<i64, BrokerError> {
    for name in ["x-stream-offset", "x-stream-filter", "x-stream-match-unfiltered"] {
        if arguments.get(name).is_some() {
            return Err(BrokerError::Precondition(format!(
                "invalid arg '{name}' for {resource} of queue type {}",
                kind.module()
            )));
        }
    }
    let Some(value) = arguments.get("x-priority") else { return Ok(0) };
    integer(value).map_err(|reason| BrokerError::InvalidArgument {
        argument: "x-priority".to_owned(),
        resource: resource.clone(),
        reason,
    })
}

/// The `x-consumer-timeout` of basic.consume, in milliseconds, if there is one.
///
/// # Errors
/// [`BrokerError::InvalidArgument`] when it is no number of milliseconds.
pub fn consumer_timeout(arguments: Table<'_>, resource: &Resource) -> Result<Option<u64>, BrokerError> {
    let name = "x-consumer-timeout";
    let Some(value) = arguments.get(name) else { return Ok(None) };
    let invalid = |reason| BrokerError::InvalidArgument {
        argument: name.to_owned(),
        resource: resource.clone(),
        reason,
    };
    in_range(value, 0, i64::MAX, "").map_err(invalid)?;
    Ok(value.as_int().and_then(|ms| u64::try_from(ms).ok()).filter(|ms| *ms > 0))
}

/// What basic.consume says that happens when a message is held for too long; `None` when it does not say.
///
/// # Errors
/// [`BrokerError::InvalidArgument`] when it is none of what can happen.
pub fn consumer_overdue_action(
    arguments: Table<'_>,
    resource: &Resource,
) -> Result<Option<OverdueAction>, BrokerError> {
    let Some(value) = arguments.get(TIMEOUT_ACTION) else { return Ok(None) };
    let invalid = |reason| BrokerError::InvalidArgument {
        argument: TIMEOUT_ACTION.to_owned(),
        resource: resource.clone(),
        reason,
    };
    overdue_action(value).map(Some).map_err(invalid)
}

/// The `alternate-exchange` of exchange.declare.
///
/// # Errors
/// [`BrokerError::Precondition`] when it is not a string.
pub fn alternate_exchange<'a>(
    arguments: Table<'a>,
    resource: &Resource,
) -> Result<Option<&'a str>, BrokerError> {
    exchange_name("alternate-exchange", arguments, resource)
}

/// The `x-dead-letter-exchange` of queue.declare: who declares it must be allowed to publish there.
///
/// # Errors
/// [`BrokerError::Precondition`] when it is not a string.
pub fn dead_letter_exchange<'a>(
    arguments: Table<'a>,
    resource: &Resource,
) -> Result<Option<&'a str>, BrokerError> {
    exchange_name("x-dead-letter-exchange", arguments, resource)
}

/// The alternate exchange of arguments that were accepted before.
pub fn declared_alternate(arguments: Table<'_>) -> Option<&str> {
    match arguments.get("alternate-exchange") {
        Some(Field::LongStr(exchange)) => std::str::from_utf8(exchange).ok(),
        _ => None,
    }
}

/// An argument that names an exchange is refused in words of its own.
fn exchange_name<'a>(
    name: &str,
    arguments: Table<'a>,
    resource: &Resource,
) -> Result<Option<&'a str>, BrokerError> {
    match arguments.get(name) {
        None => Ok(None),
        Some(Field::LongStr(exchange)) => std::str::from_utf8(exchange)
            .map(Some)
            .map_err(|_| BrokerError::Precondition(format!("invalid name for arg '{name}' in {resource}"))),
        Some(other) => Err(BrokerError::Precondition(format!(
            "invalid type '{}' for arg '{name}' in {resource}",
            other.type_name()
        ))),
    }
}

/// Compares what is declared again with what is there (behaviour of queue.declare and exchange.declare on an
/// object that exists).
#[derive(Debug)]
pub struct Equivalence {
    resource: Resource,
}

impl Equivalence {
    /// For this object.
    pub fn of(resource: Resource) -> Self {
        Self { resource }
    }

    /// Compares a flag.
    ///
    /// # Errors
    /// [`BrokerError::Inequivalent`].
    pub fn check_flag(&self, name: &str, received: bool, current: bool) -> Result<(), BrokerError> {
        self.check_value(name, &received.to_string(), &current.to_string())
    }

    /// Compares a rendered value.
    ///
    /// # Errors
    /// [`BrokerError::Inequivalent`].
    pub fn check_value(&self, name: &str, received: &str, current: &str) -> Result<(), BrokerError> {
        if received == current {
            return Ok(());
        }
        Err(self.differs(name, format!("'{received}'"), format!("'{current}'")))
    }

    /// Compares the named arguments and no other.
    ///
    /// # Errors
    /// [`BrokerError::Inequivalent`].
    pub fn check_arguments(
        &self,
        names: &[&str],
        received: Table<'_>,
        current: &[u8],
    ) -> Result<(), BrokerError> {
        let current = Table::parse(current).unwrap_or(Table::EMPTY);
        for name in names {
            let (received, current) = (received.get(name), current.get(name));
            match (meaning(name, received), meaning(name, current)) {
                (None, None) => continue,
                (Some(received), Some(current)) if received.equivalent(&current) => continue,
                _ => {}
            }
            match (received, current) {
                (Some(received), Some(current)) => {
                    return Err(self.differs(name, format!("'{received}'"), format!("'{current}'")));
                }
                (received, current) => {
                    return Err(self.differs(name, described(received), described(current)));
                }
            }
        }
        Ok(())
    }

    fn differs(&self, argument: &str, received: String, current: String) -> BrokerError {
        BrokerError::Inequivalent {
            argument: argument.to_owned(),
            resource: self.resource.clone(),
            received,
            current,
        }
    }
}

/// A queue type that is missing and the classic one are the same.
fn meaning<'a>(name: &str, value: Option<Field<'a>>) -> Option<Field<'a>> {
    match value {
        Some(Field::LongStr(b"classic" | b"")) if name == "x-queue-type" => None,
        other => other,
    }
}

fn not_yet(what: &str, value: Field<'_>, resource: &Resource) -> BrokerError {
    BrokerError::NotImplemented(format!("{what} with value '{value}' of {resource} is not supported yet"))
}

fn described(value: Option<Field<'_>>) -> String {
    value.map_or_else(
        || "none".to_owned(),
        |value| format!("the value '{value}' of type '{}'", value.type_name()),
    )
}

fn unacceptable(value: Field<'_>) -> String {
    format!("{{unacceptable_type,{}}}", value.type_name())
}

fn integer(value: Field<'_>) -> Result<i64, String> {
    value.as_int().ok_or_else(|| format!("\"expected integer, got {}\"", value.type_name()))
}

fn text(value: Field<'_>) -> Result<&[u8], String> {
    match value {
        Field::LongStr(text) => Ok(text),
        other => Err(unacceptable(other)),
    }
}

fn in_range(value: Field<'_>, min: i64, max: i64, too_large: &str) -> Result<Support, String> {
    match integer(value)? {
        negative if negative < 0 => Err(format!("{{value_negative,{negative}}}")),
        0 if min > 0 => Err("{value_zero,0}".to_owned()),
        large if large > max => Err(format!("{{{too_large},{large}}}")),
        _ => Ok(Support::Accepted),
    }
}

fn flag(value: Field<'_>, _: Table<'_>) -> Result<Support, String> {
    match value {
        Field::Bool(_) => Ok(Support::Accepted),
        other => Err(unacceptable(other)),
    }
}

fn overdue_action(value: Field<'_>) -> Result<OverdueAction, String> {
    let name = text(value)?;
    let invalid = || format!("{{invalid_consumer_timeout_action,{}}}", String::from_utf8_lossy(name));
    OverdueAction::named(name).ok_or_else(invalid)
}

fn later_if(value: Field<'_>) -> Support {
    if value == Field::Bool(true) { Support::Later } else { Support::Accepted }
}

fn queue_type(value: Field<'_>, _: Table<'_>) -> Result<Support, String> {
    match text(value)? {
        b"classic" | b"quorum" | b"" | b"undefined" => Ok(Support::Accepted),
        b"stream" => Ok(Support::Later),
        other => Err(format!("\"unsupported queue type '{}'\"", String::from_utf8_lossy(other))),
    }
}

fn dead_letter_routing_key(value: Field<'_>, arguments: Table<'_>) -> Result<Support, String> {
    let key = text(value)?;
    if key.len() > ROUTING_KEY_BYTES_MAX {
        return Err(format!("{{value_too_large,{}}}", key.len()));
    }
    match arguments.get("x-dead-letter-exchange") {
        Some(_) => Ok(Support::Accepted),
        None => Err("routing_key_but_no_dlx_defined".to_owned()),
    }
}

fn overflow(value: Field<'_>, _: Table<'_>) -> Result<Support, String> {
    match text(value)? {
        b"drop-head" | b"reject-publish" | b"reject-publish-dlx" => Ok(Support::Accepted),
        _ => Err("invalid_overflow".to_owned()),
    }
}

/// Both modes are one here: what does not fit in memory is kept elsewhere.
fn queue_mode(value: Field<'_>, _: Table<'_>) -> Result<Support, String> {
    match text(value)? {
        b"default" | b"lazy" => Ok(Support::Accepted),
        other => Err(format!("\"unsupported queue mode '{}'\"", String::from_utf8_lossy(other))),
    }
}

fn queue_version(value: Field<'_>, _: Table<'_>) -> Result<Support, String> {
    match integer(value)? {
        1 | 2 => Ok(Support::Accepted),
        other => Err(format!("\"unsupported queue version '{other}'\"")),
    }
}

fn dead_letter_strategy(value: Field<'_>, _: Table<'_>) -> Result<Support, String> {
    match text(value)? {
        b"at-most-once" | b"at-least-once" => Ok(Support::Accepted),
        _ => Err("invalid_dlx_strategy".to_owned()),
    }
}

fn not_checked(_: Field<'_>, _: Table<'_>) -> Result<Support, String> {
    Ok(Support::Accepted)
}
