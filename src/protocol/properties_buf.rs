//! Properties of our own making, or a peer's with a few replaced.
//!
//! The bytes are always in wire form; a setter splices its value into its place, so what is not set anew
//! stays byte for byte what the publisher sent.

use super::properties::{Properties, Property};
use super::table::Table;

/// Properties that own their bytes and can be changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PropertiesBuf {
    raw: Vec<u8>,
}

impl Default for PropertiesBuf {
    fn default() -> Self {
        Properties::EMPTY.into()
    }
}

impl From<Properties<'_>> for PropertiesBuf {
    fn from(properties: Properties<'_>) -> Self {
        Self { raw: properties.as_bytes().to_vec() }
    }
}

impl PropertiesBuf {
    /// No property at all.
    pub fn new() -> Self {
        Self::default()
    }

    /// A view of what is set.
    pub fn as_properties(&self) -> Properties<'_> {
        Properties::unchecked(&self.raw)
    }

    /// The bytes from the flags word on.
    pub fn encode(&self) -> Vec<u8> {
        self.raw.clone()
    }

    /// The bytes from the flags word on, without a copy.
    pub fn into_bytes(self) -> Vec<u8> {
        self.raw
    }

    /// Takes a property away.
    pub fn remove(&mut self, property: Property) -> &mut Self {
        self.splice(property, None)
    }

    /// Sets the MIME type of the body.
    pub fn content_type(&mut self, value: impl AsRef<[u8]>) -> &mut Self {
        self.splice(Property::ContentType, Some(value.as_ref()))
    }

    /// Sets the MIME encoding of the body.
    pub fn content_encoding(&mut self, value: impl AsRef<[u8]>) -> &mut Self {
        self.splice(Property::ContentEncoding, Some(value.as_ref()))
    }

    /// Sets the headers.
    pub fn headers(&mut self, value: Table<'_>) -> &mut Self {
        self.splice(Property::Headers, Some(value.as_bytes()))
    }

    /// Sets the delivery mode, 2 for persistent.
    pub fn delivery_mode(&mut self, value: u8) -> &mut Self {
        self.splice(Property::DeliveryMode, Some(&[value]))
    }

    /// Sets the priority.
    pub fn priority(&mut self, value: u8) -> &mut Self {
        self.splice(Property::Priority, Some(&[value]))
    }

    /// Sets the correlation id.
    pub fn correlation_id(&mut self, value: impl AsRef<[u8]>) -> &mut Self {
        self.splice(Property::CorrelationId, Some(value.as_ref()))
    }

    /// Sets where replies go.
    pub fn reply_to(&mut self, value: impl AsRef<[u8]>) -> &mut Self {
        self.splice(Property::ReplyTo, Some(value.as_ref()))
    }

    /// Sets the time to live, milliseconds in decimal.
    pub fn expiration(&mut self, value: impl AsRef<[u8]>) -> &mut Self {
        self.splice(Property::Expiration, Some(value.as_ref()))
    }

    /// Sets the message id.
    pub fn message_id(&mut self, value: impl AsRef<[u8]>) -> &mut Self {
        self.splice(Property::MessageId, Some(value.as_ref()))
    }

    /// Sets the time, in seconds since 1970.
    pub fn timestamp(&mut self, value: u64) -> &mut Self {
        self.splice(Property::Timestamp, Some(&value.to_be_bytes()))
    }

    /// Sets the type.
    pub fn kind(&mut self, value: impl AsRef<[u8]>) -> &mut Self {
        self.splice(Property::Kind, Some(value.as_ref()))
    }

    /// Sets the user id.
    pub fn user_id(&mut self, value: impl AsRef<[u8]>) -> &mut Self {
        self.splice(Property::UserId, Some(value.as_ref()))
    }

    /// Sets the application id.
    pub fn app_id(&mut self, value: impl AsRef<[u8]>) -> &mut Self {
        self.splice(Property::AppId, Some(value.as_ref()))
    }

    /// Sets the cluster id.
    pub fn cluster_id(&mut self, value: impl AsRef<[u8]>) -> &mut Self {
        self.splice(Property::ClusterId, Some(value.as_ref()))
    }

    fn splice(&mut self, property: Property, value: Option<&[u8]>) -> &mut Self {
        let properties = self.as_properties();
        let place = properties.range(property);
        let mut flags = properties.flags() & !property.flag();
        let mut encoded = Vec::new();
        if let Some(value) = value {
            flags |= property.flag();
            property.put(&mut encoded, value);
        }
        self.raw.splice(place, encoded);
        if let Some(word) = self.raw.first_chunk_mut() {
            *word = flags.to_be_bytes();
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::{any, proptest};

    use super::{Properties, PropertiesBuf, Property};
    use crate::protocol::field::Field;
    use crate::protocol::table::TableBuf;

    fn full() -> PropertiesBuf {
        let mut headers = TableBuf::new();
        headers.insert("k", Field::I32(1));
        let mut all = PropertiesBuf::new();
        // In no particular order: each finds its place.
        all.cluster_id("cluster").app_id("app").user_id("guest").kind("order").timestamp(u64::MAX);
        all.content_type("text/plain").content_encoding("gzip").headers(headers.as_table());
        all.message_id("m1").expiration("60000").reply_to("replies").correlation_id("c1");
        all.priority(9).delivery_mode(2);
        all
    }

    #[test]
    fn all_fourteen_are_set_and_read() {
        let all = full();
        let wire =
            b"\xff\xfc\x0atext/plain\x04gzip\x00\x00\x00\x07\x01kI\x00\x00\x00\x01\x02\x09\x02c1\x07replies\
            \x0560000\x02m1\xff\xff\xff\xff\xff\xff\xff\xff\x05order\x05guest\x03app\x07cluster";
        assert_eq!(all.encode(), wire);
        let read = Properties::parse(wire).unwrap();
        assert_eq!(read.content_type(), Some(b"text/plain".as_slice()));
        assert_eq!(read.content_encoding(), Some(b"gzip".as_slice()));
        assert_eq!(read.headers().unwrap().get("k"), Some(Field::I32(1)));
        assert_eq!((read.delivery_mode(), read.priority()), (Some(2), Some(9)));
        assert_eq!(read.correlation_id(), Some(b"c1".as_slice()));
        assert_eq!(read.reply_to(), Some(b"replies".as_slice()));
        assert_eq!(read.expiration(), Some(b"60000".as_slice()));
        assert_eq!(read.message_id(), Some(b"m1".as_slice()));
        assert_eq!(read.timestamp(), Some(u64::MAX));
        assert_eq!(read.kind(), Some(b"order".as_slice()));
        assert_eq!(read.user_id(), Some(b"guest".as_slice()));
        assert_eq!(read.app_id(), Some(b"app".as_slice()));
        assert_eq!(read.cluster_id(), Some(b"cluster".as_slice()));
    }

    #[test]
    fn what_is_not_set_anew_stays() {
        // Flag 0, an empty header table and a type: all of it is kept around the new reply-to.
        let mut changed = PropertiesBuf::from(Properties::parse(b"\x20\x21\x00\x00\x00\x00\x01t").unwrap());
        changed.reply_to("q");
        assert_eq!(changed.encode(), b"\x22\x21\x00\x00\x00\x00\x01q\x01t");
        changed.reply_to("longer").remove(Property::Headers);
        assert_eq!(changed.encode(), b"\x02\x21\x06longer\x01t");
        changed.remove(Property::ReplyTo).remove(Property::ReplyTo);
        assert_eq!(changed.into_bytes(), b"\x00\x21\x01t");
    }

    proptest! {
        #[test]
        fn any_subset_parses(removed in any::<u16>(), text in vec(any::<u8>(), 0..300)) {
            let mut subset = full();
            for property in Property::ALL.into_iter().filter(|property| removed & property.flag() != 0) {
                subset.remove(property);
            }
            subset.app_id(&text);
            let raw = subset.encode();
            let read = Properties::parse(&raw).unwrap();
            assert_eq!(read.app_id(), Some(&text[..text.len().min(255)]));
            let user_id = (removed & Property::UserId.flag() == 0).then_some(b"guest".as_slice());
            assert_eq!(read.user_id(), user_id);
        }

        #[test]
        fn any_bytes_are_judged_and_changed_without_panic(raw in vec(any::<u8>(), 0..60)) {
            let parsed = Properties::parse(&raw);
            let mut changed = PropertiesBuf::from(parsed.unwrap_or(Properties::unchecked(&raw)));
            changed.message_id("m").remove(Property::ContentType);
            assert!(parsed.is_err() || Properties::parse(&changed.encode()).is_ok());
        }
    }
}
