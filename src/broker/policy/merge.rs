//! How arguments, a policy and an operator policy become one: limits are the lowest of all, and for the rest there is an
//! order.

use crate::protocol::field::Field;
use crate::protocol::table::{Table, TableBuf};
use crate::queue::settings::QueueKind;

/// What is a limit: the lowest value counts.
const LOWEST: [&str; 8] = [
    "max-length",
    "max-length-bytes",
    "message-ttl",
    "expires",
    "delivery-limit",
    "consumer-timeout",
    "max-in-memory-length",
    "max-in-memory-bytes",
];

/// Two policies: of limits the lowest, of the rest the operator's.
pub(super) fn policies(user: Table<'_>, operator: Table<'_>) -> TableBuf {
    let mut merged = TableBuf::new();
    for (key, value) in operator.iter() {
        let other = std::str::from_utf8(key).ok().and_then(|name| user.get(name));
        let is_limit = LOWEST.iter().any(|name| name.as_bytes() == key);
        merged.insert_bytes(key, if is_limit { lowest(value, other) } else { value });
    }
    for (key, value) in user.iter() {
        if std::str::from_utf8(key).is_ok_and(|name| operator.get(name).is_none()) {
            merged.insert_bytes(key, value);
        }
    }
    merged
}

/// Arguments under a policy: of limits the lowest, of the rest what was declared; only the overflow of a quorum queue is
/// the policy's.
pub(super) fn with_arguments(arguments: Table<'_>, policy: Table<'_>) -> TableBuf {
    let is_quorum = QueueKind::of(arguments) == QueueKind::Quorum;
    let said =
        |key: &[u8]| key.strip_prefix(b"x-").and_then(|key| policy.get(std::str::from_utf8(key).ok()?));
    let mut merged = TableBuf::new();
    for (key, declared) in arguments.iter() {
        let value = match said(key) {
            Some(other) if is_limit(key) => lowest(declared, Some(other)),
            Some(other) if is_quorum && key == b"x-overflow" => other,
            _ => declared,
        };
        merged.insert_bytes(key, value);
    }
    for (key, value) in policy.iter() {
        let name = [b"x-", key].concat();
        if std::str::from_utf8(&name).is_ok_and(|name| arguments.get(name).is_none()) {
            merged.insert_bytes(&name, value);
        }
    }
    merged
}

fn is_limit(argument: &[u8]) -> bool {
    argument.strip_prefix(b"x-").is_some_and(|key| LOWEST.iter().any(|name| name.as_bytes() == key))
}

/// The lower one; one below zero is no limit.
fn lowest<'a>(one: Field<'a>, other: Option<Field<'a>>) -> Field<'a> {
    let Some(other) = other else { return one };
    match (one.as_int(), other.as_int()) {
        (Some(first), Some(second)) if second >= 0 && (first < 0 || second < first) => other,
        _ => one,
    }
}

#[cfg(test)]
mod tests {
    use super::{policies, with_arguments};
    use crate::protocol::field::Field;
    use crate::protocol::table::TableBuf;

    fn table(entries: &[(&str, Field<'_>)]) -> TableBuf {
        let mut table = TableBuf::new();
        for (key, value) in entries {
            table.insert(key, *value);
        }
        table
    }

    #[test]
    fn limits_are_the_lowest_of_all() {
        let user = table(&[("max-length", Field::I64(5)), ("expires", Field::I64(9))]);
        let operator = table(&[("max-length", Field::I64(7)), ("message-ttl", Field::I64(3))]);
        let merged = policies(user.as_table(), operator.as_table());
        let arguments = table(&[("x-max-length", Field::I32(6)), ("x-message-ttl", Field::I32(2))]);
        let merged = with_arguments(arguments.as_table(), merged.as_table());
        let of = |name| merged.as_table().get(name).and_then(|value| value.as_int());
        assert_eq!((of("x-max-length"), of("x-message-ttl"), of("x-expires")), (Some(5), Some(2), Some(9)));
    }

    #[test]
    fn a_limit_below_zero_is_none() {
        let arguments = table(&[("x-delivery-limit", Field::I32(-1))]);
        let policy = table(&[("delivery-limit", Field::I64(4))]);
        let merged = with_arguments(arguments.as_table(), policy.as_table());
        assert_eq!(merged.as_table().get("x-delivery-limit"), Some(Field::I64(4)));
    }

    #[test]
    fn the_rest_is_as_declared_but_for_the_overflow_of_quorum_queues() {
        let policy = table(&[
            ("overflow", Field::LongStr(b"reject-publish")),
            ("dead-letter-exchange", Field::LongStr(b"policy")),
        ]);
        for (kind, overflow) in [("classic", "drop-head"), ("quorum", "reject-publish")] {
            let arguments = table(&[
                ("x-queue-type", Field::LongStr(kind.as_bytes())),
                ("x-overflow", Field::LongStr(b"drop-head")),
                ("x-dead-letter-exchange", Field::LongStr(b"declared")),
            ]);
            let merged = with_arguments(arguments.as_table(), policy.as_table());
            let of = |name| merged.as_table().get(name);
            assert_eq!(of("x-overflow"), Some(Field::LongStr(overflow.as_bytes())), "{kind}");
            assert_eq!(of("x-dead-letter-exchange"), Some(Field::LongStr(b"declared")), "{kind}");
        }
        let operator = table(&[("overflow", Field::LongStr(b"drop-head"))]);
        let merged = policies(policy.as_table(), operator.as_table());
        assert_eq!(merged.as_table().get("overflow"), Some(Field::LongStr(b"drop-head")));
    }
}
