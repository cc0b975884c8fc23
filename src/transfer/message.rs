//! What is carried, and what is changed about it on the way.

use bytes::Bytes;

use crate::broker::copies::{BCC, CC};
use crate::clock::Now;
use crate::protocol::field::Field;
use crate::protocol::properties::{Properties, PropertiesBuf};
use crate::protocol::table::{Array, ArrayBuf, Table, TableBuf};

/// The headers that a shovel writes, as RabbitMQ's does.
const SHOVELLED: &str = "x-shovelled";
const SHOVELLED_TIMESTAMP: &str = "x-shovelled-timestamp";
/// Written for consumers by the queue that the message leaves.
const DELIVERY_COUNT: &[u8] = b"x-delivery-count";
/// The headers that tell of deaths.
const DEATHS: &str = "x-death";
const DEATH_PREFIXES: [&[u8]; 2] = [b"x-first-death-", b"x-last-death-"];

/// A message on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    /// Where it is published to.
    pub(super) exchange: Vec<u8>,
    pub(super) key: Vec<u8>,
    pub(super) properties: Vec<u8>,
    pub(super) body: Bytes,
}

impl Message {
    /// What it takes, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        (size_of::<Self>() + self.exchange.len() + self.key.len() + self.properties.len() + self.body.len())
            as u64
    }
}

/// A property that is written over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// `content_type`, and so on.
    ContentType(String),
    /// `content_encoding`.
    ContentEncoding(String),
    /// `delivery_mode`.
    DeliveryMode(u8),
    /// `priority`.
    Priority(u8),
    /// `correlation_id`.
    CorrelationId(String),
    /// `reply_to`.
    ReplyTo(String),
    /// `expiration`.
    Expiration(String),
    /// `message_id`.
    MessageId(String),
    /// `timestamp`.
    Timestamp(u64),
    /// `type`.
    Kind(String),
    /// `user_id`.
    UserId(String),
    /// `app_id`.
    AppId(String),
    /// `cluster_id`.
    ClusterId(String),
}

/// What is changed about messages.
#[derive(Clone, Debug, Default)]
pub struct Stamp {
    /// What goes before the entries of `x-shovelled`.
    pub forward: Option<TableBuf>,
    /// The time goes into a header.
    pub timestamp: bool,
    /// Properties that are written over.
    pub written: Vec<Written>,
    /// Nothing is told of deaths any more.
    pub drops_deaths: bool,
    /// There are no more keys than that with which it is published.
    pub drops_copies: bool,
}

impl Stamp {
    /// The properties of a message from now on.
    pub(super) fn apply(&self, properties: &[u8], now: Now) -> Vec<u8> {
        let before = Properties::unchecked(properties);
        let mut after = PropertiesBuf::from(before);
        if let Some(headers) = self.headers(before.headers(), now) {
            after.headers(headers.as_table());
        }
        for written in &self.written {
            match written {
                Written::ContentType(value) => after.content_type(value),
                Written::ContentEncoding(value) => after.content_encoding(value),
                Written::DeliveryMode(value) => after.delivery_mode(*value),
                Written::Priority(value) => after.priority(*value),
                Written::CorrelationId(value) => after.correlation_id(value),
                Written::ReplyTo(value) => after.reply_to(value),
                Written::Expiration(value) => after.expiration(value),
                Written::MessageId(value) => after.message_id(value),
                Written::Timestamp(value) => after.timestamp(*value),
                Written::Kind(value) => after.kind(value),
                Written::UserId(value) => after.user_id(value),
                Written::AppId(value) => after.app_id(value),
                Written::ClusterId(value) => after.cluster_id(value),
            };
        }
        after.into_bytes()
    }

    /// The headers, if there are any or are to be.
    fn headers(&self, before: Option<Table<'_>>, now: Now) -> Option<TableBuf> {
        if before.is_none() && self.forward.is_none() && !self.timestamp {
            return None;
        }
        let before = before.unwrap_or(Table::EMPTY);
        let mut after = TableBuf::new();
        for (key, value) in before.iter().filter(|(key, _)| !self.drops(key)) {
            after.insert_bytes(key, value);
        }
        if let Some(own) = &self.forward {
            let mut entries = ArrayBuf::new();
            entries.push(Field::Table(own.as_table()));
            let earlier = match before.get(SHOVELLED) {
                Some(Field::Array(earlier)) => earlier,
                _ => Array::unchecked(&[]),
            };
            for entry in earlier.iter() {
                entries.push(entry);
            }
            after.insert(SHOVELLED, Field::Array(entries.as_array()));
        }
        if self.timestamp {
            after.insert(SHOVELLED_TIMESTAMP, Field::I64((now.unix_ms / 1000) as i64));
        }
        Some(after)
    }

    fn drops(&self, key: &[u8]) -> bool {
        let is_death =
            || key == DEATHS.as_bytes() || DEATH_PREFIXES.iter().any(|prefix| key.starts_with(prefix));
        key == DELIVERY_COUNT
            || (self.drops_deaths && is_death())
            || (self.drops_copies && [CC, BCC].iter().any(|name| name.as_bytes() == key))
            || (self.forward.is_some() && key == SHOVELLED.as_bytes())
            || (self.timestamp && key == SHOVELLED_TIMESTAMP.as_bytes())
    }
}

/// Where a message died last before it came to `here`, and why: the newest entry of `x-death` that is of another queue.
pub(super) fn last_death<'a>(headers: Table<'a>, here: &str) -> Option<(&'a [u8], &'a [u8])> {
    let Some(Field::Array(deaths)) = headers.get(DEATHS) else { return None };
    deaths.iter().find_map(|entry| {
        let Field::Table(entry) = entry else { return None };
        let text = |key| match entry.get(key) {
            Some(Field::LongStr(text)) => Some(text),
            _ => None,
        };
        let queue = text("queue").filter(|queue| *queue != here.as_bytes())?;
        Some((queue, text("reason").unwrap_or_default()))
    })
}
