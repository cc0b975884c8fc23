//! The frames of a delivery up to its body, written once for all messages that differ only in tag and body.
// AMQP 0-9-1 §1.8.3.9, §4.2.6

use bytes::BytesMut;

use crate::protocol::frame::{self, FRAME_OVERHEAD};
use crate::protocol::methods::{BasicDeliver, Method};

/// basic.deliver, the content header, and the head of the one body frame.
#[derive(Debug, Default)]
pub struct DeliveryHead {
    frames: BytesMut,
    tag_at: usize,
}

impl DeliveryHead {
    /// Writes the frames of this delivery. A body of no bytes has no frame.
    pub fn set(&mut self, channel: u16, deliver: &BasicDeliver<'_>, properties: &[u8], body_bytes: u32) {
        self.frames.clear();
        frame::put_method(&mut self.frames, channel, &Method::BasicDeliver(*deliver));
        // Class, method and the consumer's tag with its length stand before the delivery's.
        self.tag_at = FRAME_OVERHEAD - 1 + 4 + 1 + deliver.consumer_tag.len();
        frame::put_header(&mut self.frames, channel, u64::from(body_bytes), properties);
        if body_bytes > 0 {
            frame::put_body_head(&mut self.frames, channel, body_bytes);
        }
    }

    /// The frames, for the delivery with this tag.
    #[inline]
    pub fn with_tag(&mut self, delivery_tag: u64) -> &[u8] {
        if let Some(tag) = self.frames.get_mut(self.tag_at..).and_then(|rest| rest.first_chunk_mut()) {
            *tag = delivery_tag.to_be_bytes();
        }
        &self.frames
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::DeliveryHead;
    use crate::protocol::frame;
    use crate::protocol::methods::{BasicDeliver, Method};

    #[test]
    fn the_frames_are_those_of_the_methods_with_any_tag() {
        for (consumer_tag, redelivered, body_bytes) in
            [("", false, 0), ("a consumer", true, 9), ("c", false, 300)]
        {
            let deliver = BasicDeliver {
                consumer_tag,
                delivery_tag: 0,
                redelivered,
                exchange: b"x",
                routing_key: b"a.b",
            };
            let mut head = DeliveryHead::default();
            head.set(5, &deliver, &[0x10, 0, 2], body_bytes);
            for delivery_tag in [1, u64::MAX, 77] {
                let mut expected = BytesMut::new();
                let deliver = BasicDeliver { delivery_tag, ..deliver };
                frame::put_method(&mut expected, 5, &Method::BasicDeliver(deliver));
                frame::put_header(&mut expected, 5, u64::from(body_bytes), &[0x10, 0, 2]);
                if body_bytes > 0 {
                    frame::put_body_head(&mut expected, 5, body_bytes);
                }
                assert_eq!(head.with_tag(delivery_tag), &expected[..]);
            }
        }
    }
}
