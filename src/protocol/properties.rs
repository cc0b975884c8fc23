//! The properties of a content, walked in place.
//!
//! Almost every message carries none, one or two of the fourteen, so nothing is decoded ahead: an accessor
//! first asks the flags word and only then walks to its value. RabbitMQ ignores the two lowest flags, the
//! continuation among them, and so do we; the bytes are relayed as they came. To make or change
//! properties see [`PropertiesBuf`]. Knows nothing of what the broker does with them.
// AMQP 0-9-1 §4.2.6.1

use std::ops::Range;

use thiserror::Error;

pub use super::properties_buf::PropertiesBuf;

use super::table::{Table, TableError};
use super::wire::{Reader, WireError, put_longstr, put_shortbytes};

const FLAGS_BYTES: usize = 2;

/// A property, in wire order: flag 15 is the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Property {
    ContentType,
    ContentEncoding,
    Headers,
    DeliveryMode,
    Priority,
    CorrelationId,
    ReplyTo,
    Expiration,
    MessageId,
    Timestamp,
    Kind,
    UserId,
    AppId,
    ClusterId,
}

impl Property {
    pub(super) const ALL: [Self; 14] = [
        Self::ContentType,
        Self::ContentEncoding,
        Self::Headers,
        Self::DeliveryMode,
        Self::Priority,
        Self::CorrelationId,
        Self::ReplyTo,
        Self::Expiration,
        Self::MessageId,
        Self::Timestamp,
        Self::Kind,
        Self::UserId,
        Self::AppId,
        Self::ClusterId,
    ];

    /// The properties whose flags are set, in wire order; flags no property has are passed over.
    fn flagged(mut flags: u16) -> impl Iterator<Item = Self> {
        std::iter::from_fn(move || {
            let property = *Self::ALL.get(flags.leading_zeros() as usize)?;
            flags &= !property.flag();
            Some(property)
        })
    }

    pub(super) const fn flag(self) -> u16 {
        0x8000 >> self as u8
    }

    /// The flags of the properties before this one.
    const fn flags_before(self) -> u16 {
        !(u16::MAX >> self as u8)
    }

    /// Takes this property's value off the front, without the length a string or table begins with.
    fn read<'a>(self, reader: &mut Reader<'a>) -> Result<&'a [u8], WireError> {
        match self {
            Self::Headers => reader.longstr(),
            Self::DeliveryMode | Self::Priority => reader.octets(1),
            Self::Timestamp => reader.octets(8),
            _ => reader.shortbytes(),
        }
    }

    /// Appends a value as [`Self::read`] takes it off.
    pub(super) fn put(self, out: &mut Vec<u8>, value: &[u8]) {
        match self {
            Self::Headers => put_longstr(out, value),
            Self::DeliveryMode | Self::Priority | Self::Timestamp => out.extend_from_slice(value),
            _ => put_shortbytes(out, value),
        }
    }
}

/// Why bytes are not properties.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PropertiesError {
    /// The bytes end before or after the last property the flags announce.
    #[error("content properties do not match their flags")]
    Length,
    /// The headers are broken or break a limit.
    #[error(transparent)]
    Headers(#[from] TableError),
}

impl From<WireError> for PropertiesError {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Table(error) => Self::Headers(error),
            WireError::Length | WireError::BadUtf8 => Self::Length,
        }
    }
}

/// The properties of a content: a flags word, and a value for every flag set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Properties<'a> {
    flags: u16,
    raw: &'a [u8],
}

impl<'a> Properties<'a> {
    /// No property at all.
    pub const EMPTY: Self = Self { flags: 0, raw: &[0, 0] };

    /// Checks bytes that begin with the flags word, the headers down to their deepest entry.
    #[inline]
    pub fn parse(raw: &'a [u8]) -> Result<Self, PropertiesError> {
        let mut reader = Reader::new(raw);
        let flags = reader.short()?;
        for property in Property::flagged(flags) {
            let value = property.read(&mut reader)?;
            if property == Property::Headers {
                Table::parse(value)?;
            }
        }
        reader.finish()?;
        Ok(Self { flags, raw })
    }

    /// A view of bytes that were checked before; with others, some properties look absent.
    #[inline]
    pub fn unchecked(raw: &'a [u8]) -> Self {
        let flags = raw.first_chunk().map_or(0, |flags| u16::from_be_bytes(*flags));
        Self { flags, raw }
    }

    /// The bytes from the flags word on, exactly as they came.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.raw
    }

    /// The MIME type of the body.
    pub fn content_type(&self) -> Option<&'a [u8]> {
        self.value(Property::ContentType)
    }

    /// The MIME encoding of the body.
    pub fn content_encoding(&self) -> Option<&'a [u8]> {
        self.value(Property::ContentEncoding)
    }

    /// The headers, which applications and some exchanges read.
    pub fn headers(&self) -> Option<Table<'a>> {
        self.value(Property::Headers).map(Table::unchecked)
    }

    /// 2 if the message is to survive a restart.
    pub fn delivery_mode(&self) -> Option<u8> {
        self.octet(Property::DeliveryMode)
    }

    /// The rank in a priority queue.
    pub fn priority(&self) -> Option<u8> {
        self.octet(Property::Priority)
    }

    /// What the application matches replies by.
    pub fn correlation_id(&self) -> Option<&'a [u8]> {
        self.value(Property::CorrelationId)
    }

    /// Where replies go.
    pub fn reply_to(&self) -> Option<&'a [u8]> {
        self.value(Property::ReplyTo)
    }

    /// Time to live, milliseconds in decimal.
    pub fn expiration(&self) -> Option<&'a [u8]> {
        self.value(Property::Expiration)
    }

    /// The application's name for the message.
    pub fn message_id(&self) -> Option<&'a [u8]> {
        self.value(Property::MessageId)
    }

    /// When the application made it, in seconds since 1970.
    pub fn timestamp(&self) -> Option<u64> {
        let octets = self.value(Property::Timestamp)?;
        octets.first_chunk().map(|octets| u64::from_be_bytes(*octets))
    }

    /// The application's type of message; `type` on the wire.
    pub fn kind(&self) -> Option<&'a [u8]> {
        self.value(Property::Kind)
    }

    /// The user who published it.
    pub fn user_id(&self) -> Option<&'a [u8]> {
        self.value(Property::UserId)
    }

    /// The application that published it.
    pub fn app_id(&self) -> Option<&'a [u8]> {
        self.value(Property::AppId)
    }

    /// Deprecated by the specification, relayed.
    pub fn cluster_id(&self) -> Option<&'a [u8]> {
        self.value(Property::ClusterId)
    }

    /// Those that are texts, by the names that RabbitMQ gives them.
    pub fn texts(&self) -> [(&'static str, Option<&'a [u8]>); 10] {
        [
            ("content_type", self.content_type()),
            ("content_encoding", self.content_encoding()),
            ("correlation_id", self.correlation_id()),
            ("reply_to", self.reply_to()),
            ("expiration", self.expiration()),
            ("message_id", self.message_id()),
            ("type", self.kind()),
            ("user_id", self.user_id()),
            ("app_id", self.app_id()),
            ("cluster_id", self.cluster_id()),
        ]
    }

    fn octet(&self, property: Property) -> Option<u8> {
        self.value(property)?.first().copied()
    }

    #[inline]
    fn value(&self, property: Property) -> Option<&'a [u8]> {
        if self.flags & property.flag() == 0 {
            return None;
        }
        property.read(&mut self.reader_at(property).ok()?).ok()
    }

    pub(super) fn flags(&self) -> u16 {
        self.flags
    }

    /// Where the property with its length is, or, if absent, would be.
    pub(super) fn range(&self, property: Property) -> Range<usize> {
        let Ok(mut reader) = self.reader_at(property) else {
            return self.raw.len()..self.raw.len();
        };
        let start = self.raw.len() - reader.remaining();
        if self.flags & property.flag() != 0 {
            property.read(&mut reader).ok();
        }
        start..self.raw.len() - reader.remaining()
    }

    fn reader_at(&self, property: Property) -> Result<Reader<'a>, WireError> {
        let mut reader = Reader::new(self.raw);
        reader.octets(FLAGS_BYTES)?;
        for earlier in Property::flagged(self.flags & property.flags_before()) {
            earlier.read(&mut reader)?;
        }
        Ok(reader)
    }
}

#[cfg(test)]
mod tests {
    use super::{Properties, PropertiesError};
    use crate::protocol::table::TableError;

    #[test]
    fn common_properties_are_found() {
        assert_eq!(Properties::parse(&[0, 0]), Ok(Properties::EMPTY));
        assert_eq!(Properties::EMPTY.delivery_mode(), None);
        let persistent = Properties::parse(&[0x10, 0, 2]).unwrap();
        assert_eq!(persistent.delivery_mode(), Some(2));
        let text = Properties::parse(b"\x98\x00\x0atext/plain\x02\x05").unwrap();
        assert_eq!(text.content_type(), Some(b"text/plain".as_slice()));
        assert_eq!((text.delivery_mode(), text.priority(), text.app_id()), (Some(2), Some(5), None));
    }

    #[test]
    fn lengths_must_match_the_flags() {
        for raw in
            [b"".as_slice(), b"\x00", b"\x10\x00", b"\x10\x00\x02\x00", b"\x80\x00\x05text", b"\x00\x00\x00"]
        {
            assert_eq!(Properties::parse(raw), Err(PropertiesError::Length), "{raw:?}");
        }
    }

    #[test]
    fn headers_are_checked() {
        let error = Properties::parse(b"\x20\x00\x00\x00\x00\x03\x01kU").unwrap_err();
        assert_eq!(error, PropertiesError::Headers(TableError::UnknownType(b'U')));
        assert_eq!(Properties::parse(b"\x20\x00\x00\x00\x00\x09"), Err(PropertiesError::Length));
    }

    #[test]
    fn the_two_low_flags_are_ignored_and_kept() {
        let raw = b"\x10\x03\x02";
        let properties = Properties::parse(raw).unwrap();
        assert_eq!(properties.delivery_mode(), Some(2));
        assert_eq!(properties.as_bytes(), raw);
    }
}
