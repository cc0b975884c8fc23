//! What the broker reads in a message's properties, and the little it changes there.

use std::borrow::Cow;

use crate::auth::users::User;
use crate::broker::copies::{self, BCC, CC};
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
/// How often a message came back.
const DELIVERY_COUNT: &str = "x-delivery-count";

/// What queues are told of the properties; `blind` is known to whoever has looked for more keys.
pub(super) fn marks(properties: &Properties<'_>, blind: bool) -> Marks {
    Marks {
        persistent: properties.delivery_mode() == Some(PERSISTENT),
        expires: properties.expiration().is_some(),
        prioritized: properties.priority().is_some(),
        blind,
    }
}

/// Checks expiration and, where it is known who publishes, user-id.
pub(super) fn check(properties: &Properties<'_>, user: Option<&User>) -> Result<(), Refusal> {
    if let (Some(claimed), Some(user)) = (properties.user_id(), user)
        && is_for_another(properties, user)
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

/// Whether somebody else is named as the one who publishes, which a user may do as long as they have a tag for it.
pub(super) fn is_for_another(properties: &Properties<'_>, user: &User) -> bool {
    properties.user_id().is_some_and(|claimed| claimed != user.name.as_bytes())
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

/// The properties with the reply address filled in, when they ask for it.
pub(super) fn rewrite(
    properties: &Properties<'_>,
    reply_address: Option<&str>,
) -> Result<Option<Vec<u8>>, Refusal> {
    if properties.reply_to() != Some(REPLY_TO.as_bytes()) {
        return Ok(None);
    }
    let address = reply_address.ok_or_else(|| Refusal::precondition("fast reply consumer does not exist"))?;
    let mut changed = PropertiesBuf::from(*properties);
    changed.reply_to(address);
    Ok(Some(changed.into_bytes()))
}

/// What a client is shown of a message's headers otherwise than they were sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Shown {
    /// Not its BCC.
    pub(super) is_blind: bool,
    /// How often it came back, as quorum queues tell it.
    pub(super) delivery_count: Option<u16>,
}

impl Shown {
    /// Of a message that no queue has, with these marks.
    pub(super) fn of(marks: Marks) -> Self {
        Self { is_blind: marks.blind, delivery_count: None }
    }

    /// The raw properties that are shown.
    #[inline]
    pub(super) fn properties(self, sent: &[u8]) -> Cow<'_, [u8]> {
        match self.is_as_sent() {
            true => Cow::Borrowed(sent),
            false => Cow::Owned(self.change(sent)),
        }
    }

    /// Whether there is nothing to change.
    #[inline]
    fn is_as_sent(self) -> bool {
        !self.is_blind && self.delivery_count.is_none()
    }

    #[cold]
    fn change(self, sent: &[u8]) -> Vec<u8> {
        let shown = if self.is_blind { copies::without_blind(sent) } else { sent.to_vec() };
        match self.delivery_count {
            Some(count) => with_delivery_count(&shown, count),
            None => shown,
        }
    }
}

/// The properties with a header that says how often the message came back.
fn with_delivery_count(properties: &[u8], count: u16) -> Vec<u8> {
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

/// The keys of a message beside its routing key.
#[derive(Debug, Default)]
pub(super) struct MoreKeys<'a> {
    /// Those of its CC and BCC headers.
    pub(super) keys: Vec<&'a [u8]>,
    /// It has a BCC header.
    pub(super) is_blind: bool,
}

/// The routing keys of the CC and BCC headers, which are arrays.
pub(super) fn more_keys(headers: Table<'_>) -> Result<MoreKeys<'_>, Refusal> {
    if headers.is_empty() {
        return Ok(MoreKeys::default());
    }
    let [copies, blind] = [CC, BCC].map(|name| headers.get(name));
    for (name, value) in [(CC, copies), (BCC, blind)] {
        if let Some(other) = value.filter(|value| !matches!(value, Field::Array(_))) {
            return Err(unacceptable(name, other));
        }
    }
    if copies.is_none() && blind.is_none() {
        return Ok(MoreKeys::default());
    }
    Ok(MoreKeys { keys: copies::keys(headers).collect(), is_blind: blind.is_some() })
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
