//! The content header frame's payload: which class, how much body follows, and the properties untouched.
//!
//! Does not look into the properties (see [`super::properties`]) and does not judge class or size.
// AMQP 0-9-1 §4.2.6.1

use thiserror::Error;

use super::wire::{self, Reader};

/// The payload of a content header frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentHeader<'a> {
    /// The class of the method before it; only basic (60) has content.
    pub class_id: u16,
    /// Unused by the protocol, zero.
    pub weight: u16,
    /// Bytes of body the following frames add up to.
    pub body_bytes: u64,
    /// The raw properties, from the flags word on.
    pub properties: &'a [u8],
}

/// Why a payload is no content header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum HeaderError {
    /// Shorter than the fixed part.
    #[error("content header of {0} octets is too short")]
    Truncated(usize),
}

impl<'a> ContentHeader<'a> {
    /// Opens the payload of a header frame.
    #[inline]
    pub fn parse(payload: &'a [u8]) -> Result<Self, HeaderError> {
        Self::read(payload).map_err(|_| HeaderError::Truncated(payload.len()))
    }

    fn read(payload: &'a [u8]) -> Result<Self, wire::WireError> {
        let mut reader = Reader::new(payload);
        Ok(Self {
            class_id: reader.short()?,
            weight: reader.short()?,
            body_bytes: reader.longlong()?,
            properties: reader.into_rest(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{ContentHeader, HeaderError};

    #[test]
    fn opens_a_captured_header() {
        // pika: a 5-byte body, delivery_mode 2.
        let payload = [0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0x10, 0, 2];
        let header = ContentHeader { class_id: 60, weight: 0, body_bytes: 5, properties: &payload[12..] };
        assert_eq!(ContentHeader::parse(&payload), Ok(header));
    }

    #[test]
    fn refuses_a_short_one() {
        assert_eq!(ContentHeader::parse(&[0, 60, 0]), Err(HeaderError::Truncated(3)));
    }
}
