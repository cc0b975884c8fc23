//! What the broker reads in a message's properties, and the little it changes there.

use crate::auth::users::User;
use crate::broker::reply_to::REPLY_TO;
use crate::message::block_header::Marks;
use crate::protocol::field::Field;
use crate::protocol::properties::{Properties, PropertiesBuf};
use crate::protocol::table::{Table, TableBuf};
use crate::session::refuse::Refusal;

/// The one class that carries content.
pub(super) const BASIC_CLASS: u16 = 60;
/// The longest expiration: ten years, in milliseconds.
const EXPIRATION_MS_MAX: u64 = 315_360_000_000;
/// The delivery modes: of messages that need not survive, which is what those without one are, and of those that are to.
const TRANSIENT: u8 = 1;
const PERSISTENT: u8 = 2;
/// Keys a message may be sent to beside its routing key.
const MORE_KEYS_MAX: usize = 1000;
/// Headers that hold more routing keys; the second is removed before delivery.
const CC: &str = "CC";
const BCC: &str = "BCC";
/// How often a message came back.
const DELIVERY_COUNT: &str = "x-delivery-count";

/// What queues are told of the properties.
pub(super) fn marks(properties: &Properties<'_>) -> Marks {
    Marks {
        persistent: properties.delivery_mode() == Some(PERSISTENT),
        expires: properties.expiration().is_some(),
        prioritized: properties.priority().is_some(),
    }
}

/// Checks user-id and expiration.
pub(super) fn check(properties: &Properties<'_>, user: &User) -> Result<(), Refusal> {
    if let Some(claimed) = properties.user_id()
        && claimed != user.name.as_bytes()
        && !user.has_tag("impersonator")
    {
        return Err(Refusal::precondition(format!(
            "user_id property set to '{}' but authenticated user was '{}'",
            String::from_utf8_lossy(claimed),
            user.name
        )));
    }
    match properties.expiration() {
        Some(expiration) => check_expiration(expiration),
        None => Ok(()),
    }
}

/// Asked last, as RabbitMQ does: of several faults one is named.
pub(super) fn check_delivery_mode(properties: &Properties<'_>) -> Result<(), Refusal> {
    match properties.delivery_mode() {
        None | Some(TRANSIENT | PERSISTENT) => Ok(()),
        Some(mode) => {
            Err(Refusal::precondition(format!("invalid message: {{delivery_mode_unknown,{mode}}}")))
        }
    }
}

/// An expiration is a decimal number of milliseconds; the refusal names what is wrong in RabbitMQ's terms.
fn check_expiration(expiration: &[u8]) -> Result<(), Refusal> {
    let text = String::from_utf8_lossy(expiration);
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(&text);
    let digits = unsigned.find(|c: char| !c.is_ascii_digit()).unwrap_or(unsigned.len());
    let (digits, leftover) = unsigned.split_at(digits);
    let number = digits.trim_start_matches('0');
    let reason = if digits.is_empty() {
        "no_integer".to_owned()
    } else if !leftover.is_empty() {
        format!("{{leftover_string,\"{leftover}\"}}")
    } else if text.starts_with('-') && !number.is_empty() {
        format!("{{value_negative,-{number}}}")
    } else if !number.is_empty() && !number.parse().is_ok_and(|ms: u64| ms <= EXPIRATION_MS_MAX) {
        format!("{{value_too_large,{number}}}")
    } else {
        return Ok(());
    };
    Err(Refusal::precondition(format!("invalid expiration '{text}': {reason}")))
}

/// The properties as they are delivered, when that is not as they were sent: the reply address filled in, BCC
/// taken out.
pub(super) fn rewrite(
    properties: &Properties<'_>,
    reply_address: Option<&str>,
) -> Result<Option<Vec<u8>>, Refusal> {
    let mut changed = None;
    if properties.reply_to() == Some(REPLY_TO.as_bytes()) {
        let address =
            reply_address.ok_or_else(|| Refusal::precondition("fast reply consumer does not exist"))?;
        changed.get_or_insert_with(|| PropertiesBuf::from(*properties)).reply_to(address);
    }
    if let Some(headers) = properties.headers()
        && headers.get(BCC).is_some()
    {
        let mut kept = TableBuf::new();
        for (key, value) in headers.iter().filter(|(key, _)| *key != BCC.as_bytes()) {
            kept.insert_bytes(key, value);
        }
        changed.get_or_insert_with(|| PropertiesBuf::from(*properties)).headers(kept.as_table());
    }
    Ok(changed.map(PropertiesBuf::into_bytes))
}

/// The properties with a header that says how often the message came back, as quorum queues tell it.
#[cold]
pub(super) fn with_delivery_count(properties: &[u8], count: u16) -> Vec<u8> {
    let before = Properties::unchecked(properties);
    let mut headers = TableBuf::new();
    let kept = before.headers().unwrap_or(Table::EMPTY);
    for (key, value) in kept.iter().filter(|(key, _)| *key != DELIVERY_COUNT.as_bytes()) {
        headers.insert_bytes(key, value);
    }
    headers.insert(DELIVERY_COUNT, Field::I64(count.into()));
    let mut told = PropertiesBuf::from(before);
    told.headers(headers.as_table());
    told.into_bytes()
}

/// The routing keys of the CC and BCC headers. What is no string in their arrays is no key, as in RabbitMQ.
pub(super) fn more_keys(headers: Table<'_>) -> Result<Vec<Vec<u8>>, Refusal> {
    let mut keys = Vec::new();
    if headers.is_empty() {
        return Ok(keys);
    }
    for name in [CC, BCC] {
        let array = match headers.get(name) {
            None => continue,
            Some(Field::Array(array)) => array,
            Some(other) => return Err(unacceptable(name, other)),
        };
        keys.extend(array.iter().filter_map(|key| match key {
            Field::LongStr(key) => Some(key.to_vec()),
            _ => None,
        }));
    }
    if keys.len() > MORE_KEYS_MAX {
        return Err(Refusal::precondition(format!("more than {MORE_KEYS_MAX} keys in CC and BCC")));
    }
    Ok(keys)
}

fn unacceptable(name: &str, value: Field<'_>) -> Refusal {
    let kind = value.type_name();
    Refusal::precondition(format!("invalid message: {{unacceptable_type_in_header,\"{name}\",{kind}}}"))
}

#[cfg(test)]
mod tests {
    use super::check_expiration;

    #[test]
    fn expirations_are_decimal_numbers_of_milliseconds() {
        for valid in ["0", "1", "60000", "+5", "-0", "315360000000"] {
            assert_eq!(check_expiration(valid.as_bytes()), Ok(()), "{valid}");
        }
        for (invalid, reason) in [
            ("", "no_integer"),
            ("abc", "no_integer"),
            ("1x", "{leftover_string,\"x\"}"),
            ("1.5", "{leftover_string,\".5\"}"),
            ("-1", "{value_negative,-1}"),
            ("99999999999999999999", "{value_too_large,99999999999999999999}"),
        ] {
            let refusal = check_expiration(invalid.as_bytes()).unwrap_err();
            assert_eq!(refusal.explanation, format!("invalid expiration '{invalid}': {reason}"));
        }
    }
}
