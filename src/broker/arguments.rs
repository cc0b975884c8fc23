//! Arguments of queues, exchanges and consumers: which are known, what values they take, and when two
//! declarations say the same.
//!
//! An argument that is known and valid but whose feature is not there yet is refused, never ignored. An
//! unknown argument is accepted, as RabbitMQ does.

use crate::broker::error::{BrokerError, Resource};
use crate::protocol::field::Field;
use crate::protocol::table::Table;

/// The longest time an argument may name: ten years, in milliseconds.
const EXPIRY_MS_MAX: i64 = 315_360_000_000;

/// The arguments that must agree when a classic queue is declared again.
pub const COMPARED_QUEUE_ARGUMENTS: [&str; 12] = [
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
];

/// Whether the broker acts on a valid argument.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Support {
    /// It does, or there is nothing to act on.
    Accepted,
    /// Not yet: the declaration is refused.
    Later,
    /// The argument belongs to another type of queue.
    OtherType,
}

type Check = fn(Field<'_>, Table<'_>) -> Result<Support, String>;

/// Every argument of queue.declare that is known, in the order in which they are checked.
const QUEUE_ARGUMENTS: [(&str, Check); 28] = [
    ("x-queue-type", queue_type),
    ("x-expires", |value, _| in_range(value, 1, EXPIRY_MS_MAX, "value_too_large")),
    ("x-message-ttl", |value, _| in_range(value, 0, EXPIRY_MS_MAX, "value_too_large")),
    ("x-dead-letter-exchange", |value, _| text(value).map(|_| Support::Later)),
    ("x-dead-letter-routing-key", dead_letter_routing_key),
    ("x-max-length", |value, _| in_range(value, 0, i64::MAX, "")),
    ("x-max-length-bytes", |value, _| in_range(value, 0, i64::MAX, "")),
    ("x-max-priority", |value, _| in_range(value, 0, 255, "max_value_exceeded")),
    ("x-overflow", overflow),
    ("x-queue-mode", queue_mode),
    ("x-queue-version", queue_version),
    ("x-single-active-consumer", |value, _| flag(value)),
    ("x-queue-master-locator", |value, _| text(value).map(|_| Support::Accepted)),
    ("x-queue-leader-locator", |value, _| text(value).map(|_| Support::Accepted)),
    ("x-message-deduplication", |value, _| flag(value)),
    ("x-cache-size", |value, _| in_range(value, 1, i64::MAX, "")),
    ("x-cache-ttl", |value, _| in_range(value, 0, i64::MAX, "")),
    ("x-cache-persistence", |value, _| text(value).map(|_| Support::Later)),
    ("x-deduplication-header", |value, _| text(value).map(|_| Support::Later)),
    ("x-delivery-limit", other_type),
    ("x-dead-letter-strategy", other_type),
    ("x-quorum-initial-group-size", other_type),
    ("x-max-in-memory-length", other_type),
    ("x-max-in-memory-bytes", other_type),
    ("x-max-age", other_type),
    ("x-stream-max-segment-size-bytes", other_type),
    ("x-stream-filter-size-bytes", other_type),
    ("x-initial-cluster-size", other_type),
];

/// Checks the arguments of a new queue.
///
/// # Errors
/// [`BrokerError::InvalidArgument`] for a wrong type or value, [`BrokerError::Precondition`] for an argument of
/// another type of queue, [`BrokerError::NotImplemented`] for what is valid and not there yet.
pub fn check_queue_arguments(arguments: Table<'_>, resource: &Resource) -> Result<(), BrokerError> {
    exchange_name("x-dead-letter-exchange", arguments, resource)?;
    for (name, check) in QUEUE_ARGUMENTS {
        let Some(value) = arguments.get(name) else { continue };
        let invalid = |reason| BrokerError::InvalidArgument {
            argument: name.to_owned(),
            resource: resource.clone(),
            reason,
        };
        match check(value, arguments).map_err(invalid)? {
            Support::Accepted => {}
            Support::Later => return Err(not_yet(&format!("argument '{name}'"), value, resource)),
            Support::OtherType => {
                return Err(BrokerError::Precondition(format!(
                    "invalid arg '{name}' for {resource} of queue type rabbit_classic_queue"
                )));
            }
        }
    }
    Ok(())
}

/// The `x-priority` of basic.consume; zero without one.
///
/// # Errors
/// [`BrokerError::InvalidArgument`] when it is not an integer, [`BrokerError::Precondition`] for the arguments of
/// stream consumers, which no classic queue takes.
pub fn consumer_priority(arguments: Table<'_>, resource: &Resource) -> Result<i64, BrokerError> {
    for name in ["x-stream-offset", "x-stream-filter", "x-stream-match-unfiltered"] {
        if arguments.get(name).is_some() {
            return Err(BrokerError::Precondition(format!(
                "invalid arg '{name}' for {resource} of queue type rabbit_classic_queue"
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
            let (received, current) = (meaning(name, received.get(name)), meaning(name, current.get(name)));
            match (received, current) {
                (None, None) => {}
                (Some(received), Some(current)) if received.equivalent(&current) => {}
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
        _ => Ok(Support::Later),
    }
}

fn flag(value: Field<'_>) -> Result<Support, String> {
    match value {
        Field::Bool(true) => Ok(Support::Later),
        Field::Bool(false) => Ok(Support::Accepted),
        other => Err(unacceptable(other)),
    }
}

fn queue_type(value: Field<'_>, _: Table<'_>) -> Result<Support, String> {
    match text(value)? {
        b"classic" | b"" | b"undefined" => Ok(Support::Accepted),
        b"quorum" | b"stream" => Ok(Support::Later),
        other => Err(format!("\"unsupported queue type '{}'\"", String::from_utf8_lossy(other))),
    }
}

fn dead_letter_routing_key(value: Field<'_>, arguments: Table<'_>) -> Result<Support, String> {
    text(value)?;
    match arguments.get("x-dead-letter-exchange") {
        Some(_) => Ok(Support::Later),
        None => Err("routing_key_but_no_dlx_defined".to_owned()),
    }
}

/// Without a limit on length, which is refused, no overflow ever happens.
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

fn other_type(_: Field<'_>, _: Table<'_>) -> Result<Support, String> {
    Ok(Support::OtherType)
}
