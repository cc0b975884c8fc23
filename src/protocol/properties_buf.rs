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
