//! CC and BCC: headers with keys that a message goes by beside its routing key.
//!
//! CC is shown to whoever gets the message and BCC is not. It stays with the message as long as that is in the broker: a
//! dead letter goes by its keys once more. A [mark](crate::message::block_header::Marks::blind) says that there is one, so
//! that who has none is not looked at.

use crate::protocol::field::Field;
use crate::protocol::properties::{Properties, PropertiesBuf};
use crate::protocol::table::{Array, Table, TableBuf};

/// The header whose keys everybody sees.
pub const CC: &str = "CC";
/// The header whose keys nobody sees.
pub const BCC: &str = "BCC";

/// All keys of a message with these headers beside its routing key. What is no string in their arrays is no key, as in
/// RabbitMQ.
pub fn keys(headers: Table<'_>) -> impl Iterator<Item = &[u8]> {
    shown_keys(headers).chain(keys_of(headers, BCC))
}

/// Those of them that are shown.
pub fn shown_keys(headers: Table<'_>) -> impl Iterator<Item = &[u8]> {
    keys_of(headers, CC)
}

fn keys_of<'a>(headers: Table<'a>, name: &str) -> impl Iterator<Item = &'a [u8]> {
    let keys = match headers.get(name) {
        Some(Field::Array(keys)) => keys,
        _ => Array::unchecked(&[]),
    };
    keys.iter().filter_map(|key| match key {
        Field::LongStr(key) => Some(key),
        _ => None,
    })
}

/// Raw properties as they are shown, of a message with a BCC header.
pub fn without_blind(properties: &[u8]) -> Vec<u8> {
    without(properties, &[BCC])
}

/// Raw properties of a message that goes by one key from now on.
pub fn without_keys(properties: &[u8]) -> Vec<u8> {
    without(properties, &[CC, BCC])
}

fn without(properties: &[u8], names: &[&str]) -> Vec<u8> {
    let before = Properties::unchecked(properties);
    let Some(headers) = before.headers() else { return properties.to_vec() };
    let mut kept = TableBuf::new();
    for (key, value) in headers.iter().filter(|(key, _)| names.iter().all(|name| name.as_bytes() != *key)) {
        kept.insert_bytes(key, value);
    }
    let mut after = PropertiesBuf::from(before);
    after.headers(kept.as_table());
    after.into_bytes()
}
