//! What a policy may say: each key, who may say it, the kinds of queues that know it, and what is a valid value.

use std::fmt::Write;

use crate::broker::policy::Author;
use crate::protocol::erlang::Pretty;
use crate::protocol::field::Field;
use crate::protocol::field_text::Term;
use crate::protocol::table::Table;
use crate::queue::settings::QueueKind;

/// A policy says no more than so much.
const KEYS_MAX: usize = 100;
/// Short strings have no more, in bytes.
const NAME_BYTES_MAX: usize = 255;

/// A key, the kinds of queues that know it, whether operators may say it, what it is in errors, and what is valid. A key
/// that no kind knows is one of streams, or of exchanges.
struct Key {
    name: &'static str,
    kinds: &'static [QueueKind],
    is_for_operators: bool,
    /// As in "-1 is not a valid maximum length".
    what: &'static str,
    is_valid: fn(Field<'_>) -> bool,
}

const BOTH: &[QueueKind] = &[QueueKind::Classic, QueueKind::Quorum];
const CLASSIC: &[QueueKind] = &[QueueKind::Classic];
const QUORUM: &[QueueKind] = &[QueueKind::Quorum];
const STREAM: &[QueueKind] = &[];

const KEYS: [Key; 28] = [
    both("max-length", true, "maximum length", is_count),
    both("max-length-bytes", true, "maximum length in bytes", is_count),
    both("message-ttl", true, "message TTL", is_count),
    both("expires", true, "queue expiry", |value| value.as_int().is_some_and(|ms| ms > 0)),
    both("overflow", true, "overflow value", |value| {
        is_one_of(value, &[b"drop-head", b"reject-publish", b"reject-publish-dlx"])
    }),
    both("dead-letter-exchange", false, "dead letter exchange name", is_name),
    both("dead-letter-routing-key", false, "dead letter routing key", is_name),
    both("consumer-timeout", false, "consumer timeout", is_count),
    both("consumer-timeout-action", false, "consumer timeout action", |value| {
        is_one_of(value, &[b"requeue", b"cancel", b"close"])
    }),
    both("queue-master-locator", false, "queue leader locator", is_text),
    both("queue-leader-locator", false, "queue leader locator", is_text),
    both("ha-mode", true, "ha-mode value", is_text),
    both("ha-params", true, "ha-params value", |_| true),
    both("ha-sync-mode", true, "ha-sync-mode value", is_text),
    both("ha-promote-on-shutdown", false, "ha-promote-on-shutdown value", is_text),
    both("ha-promote-on-failure", false, "ha-promote-on-failure value", is_text),
    both("ha-sync-batch-size", false, "batch size", is_count),
    of("queue-mode", CLASSIC, false, "queue-mode value", |value| is_one_of(value, &[b"default", b"lazy"])),
    of("queue-version", CLASSIC, true, "queue-version value", |value| matches!(value.as_int(), Some(1 | 2))),
    of("delivery-limit", QUORUM, true, "delivery limit", is_count),
    of("dead-letter-strategy", QUORUM, false, "dead letter strategy", |value| {
        is_one_of(value, &[b"at-most-once", b"at-least-once"])
    }),
    of("max-in-memory-length", QUORUM, true, "maximum memory in length", is_count),
    of("max-in-memory-bytes", QUORUM, true, "maximum memory in bytes", is_count),
    of("target-group-size", QUORUM, true, "target group size", is_count),
    of("max-age", STREAM, false, "max age", is_text),
    of("stream-max-segment-size-bytes", STREAM, false, "segment size", is_count),
    of("initial-cluster-size", STREAM, false, "initial cluster size", is_count),
    Key {
        name: "alternate-exchange",
        kinds: BOTH,
        is_for_operators: false,
        what: "alternate exchange name",
        is_valid: is_name,
    },
];

const fn both(
    name: &'static str,
    is_for_operators: bool,
    what: &'static str,
    is_valid: fn(Field<'_>) -> bool,
) -> Key {
    of(name, BOTH, is_for_operators, what, is_valid)
}

const fn of(
    name: &'static str,
    kinds: &'static [QueueKind],
    is_for_operators: bool,
    what: &'static str,
    is_valid: fn(Field<'_>) -> bool,
) -> Key {
    Key { name, kinds, is_for_operators, what, is_valid }
}

/// Whether this kind of queue knows what the key says, or it is not said of queues at all.
pub(super) fn is_known_to(kind: QueueKind, key: &[u8]) -> bool {
    KEYS.iter().find(|known| known.name.as_bytes() == key).is_some_and(|known| known.kinds.contains(&kind))
}

/// Whether a policy may say this.
///
/// # Errors
/// All that is wrong with it, in RabbitMQ's words, a line each.
pub fn check_definition(author: Author, definition: Table<'_>) -> Result<(), String> {
    if definition.is_empty() {
        return Err("no policy provided\n".to_owned());
    }
    if definition.len() > KEYS_MAX {
        return Err(format!("more than {KEYS_MAX} policy settings\n"));
    }
    let known = |key: &[u8]| {
        let known = KEYS.iter().find(|known| known.name.as_bytes() == key);
        known.filter(|known| author == Author::User || known.is_for_operators)
    };
    let unknown: Vec<_> = (definition.iter().filter(|(key, _)| known(key).is_none()))
        .map(|(key, value)| format!("{{{},{}}}", Pretty(key), Term(value)))
        .collect();
    if !unknown.is_empty() {
        return Err(format!("[{}] are not recognised policy settings\n", unknown.join(",")));
    }
    let mut wrong = String::new();
    for (key, value) in definition.iter() {
        if let Some(known) = known(key).filter(|known| !(known.is_valid)(value)) {
            let _ = writeln!(wrong, "{} is not a valid {}", Term(value), known.what);
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong) }
}

fn is_count(value: Field<'_>) -> bool {
    value.as_int().is_some_and(|count| count >= 0)
}

fn is_text(value: Field<'_>) -> bool {
    matches!(value, Field::LongStr(_))
}

/// Names and keys are short strings on the wire.
fn is_name(value: Field<'_>) -> bool {
    matches!(value, Field::LongStr(text) if text.len() <= NAME_BYTES_MAX && std::str::from_utf8(text).is_ok())
}

fn is_one_of(value: Field<'_>, words: &[&[u8]]) -> bool {
    matches!(value, Field::LongStr(word) if words.contains(&word))
}

#[cfg(test)]
mod tests {
    use super::check_definition;
    use crate::broker::policy::Author;
    use crate::protocol::field::Field;
    use crate::protocol::table::TableBuf;

    fn told(author: Author, entries: &[(&str, Field<'_>)]) -> String {
        let mut definition = TableBuf::new();
        for (key, value) in entries {
            definition.insert(key, *value);
        }
        check_definition(author, definition.as_table()).err().unwrap_or_default()
    }

    #[test]
    fn what_is_wrong_is_said_in_rabbitmqs_words() {
        let user = |key, value| told(Author::User, &[(key, value)]);
        assert_eq!(user("foo", Field::I64(1)), "[{<<\"foo\">>,1}] are not recognised policy settings\n");
        assert_eq!(user("max-length", Field::I64(-1)), "-1 is not a valid maximum length\n");
        assert_eq!(user("message-ttl", Field::LongStr(b"x")), "<<\"x\">> is not a valid message TTL\n");
        assert_eq!(user("expires", Field::I64(0)), "0 is not a valid queue expiry\n");
        assert_eq!(user("max-length", Field::I64(0)), "");
        let action = |name| user("consumer-timeout-action", Field::LongStr(name));
        assert_eq!(action(b"panic"), "<<\"panic\">> is not a valid consumer timeout action\n");
        assert_eq!([action(b"requeue"), action(b"cancel"), action(b"close")], ["", "", ""]);
        let long = [b'k'; 256];
        assert!(
            user("dead-letter-routing-key", Field::LongStr(&long))
                .contains("is not a valid dead letter routing key")
        );
        assert!(
            user("alternate-exchange", Field::LongStr(&long))
                .contains("is not a valid alternate exchange name")
        );
        assert_eq!(told(Author::User, &[]), "no policy provided\n");
        let operator = told(Author::Operator, &[("dead-letter-exchange", Field::LongStr(b"x"))]);
        assert_eq!(
            operator,
            "[{<<\"dead-letter-exchange\">>,<<\"x\">>}] are not recognised policy settings\n"
        );
    }
}
