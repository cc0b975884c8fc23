//! Messages, as they are sent and as they arrive.

use bytes::{BufMut, BytesMut};
use sluicemq::protocol::frame::{self, FrameKind};
use sluicemq::protocol::header::ContentHeader;
use sluicemq::protocol::methods::Method;
use sluicemq::protocol::properties::{Properties, PropertiesBuf};

use crate::harness::wire::{Frame, Wire, raw_frame};

/// Bodies are cut into frames of this many bytes.
const PIECE_BYTES: usize = 100_000;

/// A content header frame, valid or not.
pub(crate) fn header_frame(
    channel: u16,
    class_id: u16,
    weight: u16,
    size: u64,
    properties: &[u8],
) -> Vec<u8> {
    let mut payload = Vec::new();
    payload.put_u16(class_id);
    payload.put_u16(weight);
    payload.put_u64(size);
    payload.put_slice(properties);
    raw_frame(FrameKind::Header as u8, channel, &payload)
}

/// Header and body frames.
pub(crate) fn content_frames(channel: u16, properties: &[u8], body: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    frame::put_header(&mut out, channel, body.len() as u64, properties);
    for piece in body.chunks(PIECE_BYTES) {
        out.put_slice(&raw_frame(FrameKind::Body as u8, channel, piece));
    }
    out.to_vec()
}

/// Properties with what the change sets.
pub(crate) fn properties(change: impl FnOnce(&mut PropertiesBuf)) -> Vec<u8> {
    let mut properties = PropertiesBuf::new();
    change(&mut properties);
    properties.into_bytes()
}

/// A message that came, by basic.deliver, basic.get-ok or basic.return.
#[derive(Debug)]
pub(crate) struct Arrival {
    method: Frame,
    pub(crate) properties: Vec<u8>,
    pub(crate) body: Vec<u8>,
}

impl Arrival {
    /// Reads the content after its method.
    pub(crate) fn read(wire: &mut Wire, method: Frame) -> Self {
        let header = wire.frame();
        assert_eq!((header.kind, header.channel), (FrameKind::Header, method.channel), "{header:?}");
        let parsed = ContentHeader::parse(&header.payload).unwrap();
        assert_eq!((parsed.class_id, parsed.weight), (60, 0));
        let mut body = Vec::new();
        while (body.len() as u64) < parsed.body_bytes {
            let piece = wire.frame();
            assert_eq!((piece.kind, piece.channel), (FrameKind::Body, method.channel), "{piece:?}");
            body.extend(piece.payload);
        }
        Self { properties: parsed.properties.to_vec(), method, body }
    }

    pub(crate) fn method(&self) -> Method<'_> {
        self.method.method()
    }

    pub(crate) fn text(&self) -> &str {
        str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn properties(&self) -> Properties<'_> {
        Properties::parse(&self.properties).unwrap()
    }

    pub(crate) fn tag(&self) -> u64 {
        match self.method() {
            Method::BasicDeliver(deliver) => deliver.delivery_tag,
            Method::BasicGetOk(got) => got.delivery_tag,
            other => panic!("no tag in {other:?}"),
        }
    }

    pub(crate) fn is_redelivered(&self) -> bool {
        match self.method() {
            Method::BasicDeliver(deliver) => deliver.redelivered,
            Method::BasicGetOk(got) => got.redelivered,
            other => panic!("no redelivery in {other:?}"),
        }
    }

    pub(crate) fn consumer_tag(&self) -> &str {
        match self.method() {
            Method::BasicDeliver(deliver) => deliver.consumer_tag,
            other => panic!("no consumer in {other:?}"),
        }
    }
}
