//! A message that can be told from every other, and from a damaged one, by its number alone.

use bytes::BytesMut;
use sluicemq::protocol::frame::{FRAME_END, FRAME_OVERHEAD, put_body_head, put_header, put_method};
use sluicemq::protocol::methods::{BasicPublish, Method};
use sluicemq::protocol::properties::{Properties, PropertiesBuf};

use crate::dice::mix;

/// Frames are no larger.
pub(crate) const FRAME_MAX: u32 = 131_072;

/// What was published once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) id: u32,
    pub(crate) persistent: bool,
    pub(crate) exchange: String,
    pub(crate) key: String,
    pub(crate) bytes: usize,
}

/// What a client received.
#[derive(Clone, Debug, Default)]
pub(crate) struct Content {
    pub(crate) exchange: Vec<u8>,
    pub(crate) key: Vec<u8>,
    pub(crate) properties: Vec<u8>,
    pub(crate) body: Vec<u8>,
}

impl Message {
    fn properties(&self) -> Vec<u8> {
        let mut properties = PropertiesBuf::new();
        properties.message_id(self.id.to_string());
        properties.delivery_mode(if self.persistent { 2 } else { 1 });
        if self.id.is_multiple_of(3) {
            properties.content_type(format!("type/{}", mix(u64::from(self.id))));
        }
        properties.into_bytes()
    }

    fn body(&self) -> Vec<u8> {
        let seed = mix(u64::from(self.id) + 1);
        let words = (0..self.bytes.div_ceil(8) as u64).map(|at| seed.wrapping_add(mix(at)));
        let mut body: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
        body.truncate(self.bytes);
        body
    }

    /// Appends the frames that publish it.
    pub(crate) fn encode(&self, channel: u16, out: &mut BytesMut) {
        let publish = BasicPublish {
            exchange: self.exchange.as_bytes(),
            routing_key: self.key.as_bytes(),
            mandatory: false,
            immediate: false,
        };
        put_method(out, channel, &Method::BasicPublish(publish));
        put_header(out, channel, self.bytes as u64, &self.properties());
        for payload in self.body().chunks(FRAME_MAX as usize - FRAME_OVERHEAD) {
            put_body_head(out, channel, payload.len() as u32);
            out.extend_from_slice(payload);
            out.extend_from_slice(&[FRAME_END]);
        }
    }

    /// What of a content is not as it was published.
    pub(crate) fn differences(&self, content: &Content) -> Vec<&'static str> {
        let same = [
            ("exchange", content.exchange == self.exchange.as_bytes()),
            ("routing key", content.key == self.key.as_bytes()),
            ("properties", content.properties == self.properties()),
            ("body", content.body == self.body()),
        ];
        same.into_iter().filter(|(_, same)| !same).map(|(part, _)| part).collect()
    }
}

impl Content {
    /// The number of the message that it says it is.
    pub(crate) fn id(&self) -> Option<u32> {
        let properties = Properties::parse(&self.properties).ok()?;
        std::str::from_utf8(properties.message_id()?).ok()?.parse().ok()
    }
}
