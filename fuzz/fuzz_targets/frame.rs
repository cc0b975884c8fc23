//! A byte stream as a client sends it: frames are cut without overlap, and their payloads opened.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluicemq::protocol::frame::{FRAME_MAX_FLOOR, FrameKind, check_protocol_header, peek};
use sluicemq::protocol::header::ContentHeader;
use sluicemq::protocol::methods::Method;
use sluicemq::protocol::properties::Properties;

fuzz_target!(|stream: &[u8]| {
    let _ = check_protocol_header(stream);
    let mut rest = stream;
    while let Ok(Some(frame)) = peek(rest, FRAME_MAX_FLOOR) {
        assert!(frame.payload.len() <= FRAME_MAX_FLOOR as usize);
        match frame.kind {
            FrameKind::Method => drop(Method::parse(frame.payload)),
            FrameKind::Header => {
                let header = ContentHeader::parse(frame.payload).expect("peek lets no shorter one pass");
                let _ = Properties::parse(header.properties);
            }
            FrameKind::Body | FrameKind::Heartbeat => {}
        }
        rest = &rest[frame.wire_bytes()..];
    }
    let _ = peek(rest, FRAME_MAX_FLOOR).map_err(|error| error.to_string());
});
