//! Takes octets out of a client's frames (RFC 6455 §5), as they arrive: a length that is declared reserves nothing.

use std::io::Cursor;

use bytes::{Buf, Bytes, BytesMut};
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

/// A control frame has no more to say, in bytes.
const CONTROL_BYTES_MAX: u64 = 125;

/// Where in a client's frames we are.
#[derive(Debug, Default)]
pub(super) struct Unframed {
    /// What is to come of a frame of data.
    payload: Option<Payload>,
    /// Its message goes on in another frame.
    is_message_open: bool,
}

#[derive(Debug)]
struct Payload {
    left_bytes: u64,
    /// The mask, as it stands for the next octet.
    mask: [u8; 4],
}

/// What was taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// Something of data, which may have been nothing but its frame.
    Data,
    /// The client asks whether we are there, with these octets.
    Ping(Bytes),
    /// It answers what was not asked.
    Pong,
    /// It takes leave.
    Close,
    /// Nothing: more is to come, or there is no room.
    Nothing,
}

impl Unframed {
    /// Takes the next from the front of `raw`; octets of AMQP go to `input`, and no more than there is `room`.
    ///
    /// # Errors
    /// As what the connection is to be closed.
    pub(super) fn take(
        &mut self,
        raw: &mut BytesMut,
        input: &mut BytesMut,
        room: usize,
    ) -> Result<Taken, CloseCode> {
        if let Some(payload) = &mut self.payload {
            let left = usize::try_from(payload.left_bytes).unwrap_or(usize::MAX);
            let count = left.min(room).min(raw.len());
            if count == 0 {
                return Ok(Taken::Nothing);
            }
            let mut part = raw.split_to(count);
            unmask(&mut part, payload.mask);
            input.extend_from_slice(&part);
            payload.mask.rotate_left(count % 4);
            payload.left_bytes -= count as u64;
            self.payload = self.payload.take().filter(|payload| payload.left_bytes > 0);
            return Ok(Taken::Data);
        }
        let mut cursor = Cursor::new(&raw[..]);
        let parsed = FrameHeader::parse(&mut cursor).map_err(|_| CloseCode::Protocol)?;
        let head_bytes = cursor.position() as usize;
        let Some((header, length)) = parsed else { return Ok(Taken::Nothing) };
        let Some(mask) = header.mask.filter(|_| !header.rsv1 && !header.rsv2 && !header.rsv3) else {
            return Err(CloseCode::Protocol);
        };
        match header.opcode {
            OpCode::Control(control) => {
                if !header.is_final || length > CONTROL_BYTES_MAX {
                    return Err(CloseCode::Protocol);
                }
                Ok(take_control(control, raw, head_bytes, length as usize, mask))
            }
            OpCode::Data(data) => {
                match data {
                    Data::Text => return Err(CloseCode::Unsupported),
                    Data::Binary if !self.is_message_open => {}
                    Data::Continue if self.is_message_open => {}
                    _ => return Err(CloseCode::Protocol),
                }
                raw.advance(head_bytes);
                self.is_message_open = !header.is_final;
                self.payload = (length > 0).then_some(Payload { left_bytes: length, mask });
                Ok(Taken::Data)
            }
        }
    }
}

fn take_control(
    control: Control,
    raw: &mut BytesMut,
    head_bytes: usize,
    length: usize,
    mask: [u8; 4],
) -> Taken {
    if raw.len() < head_bytes + length {
        return Taken::Nothing;
    }
    raw.advance(head_bytes);
    let mut payload = raw.split_to(length);
    unmask(&mut payload, mask);
    match control {
        Control::Close => Taken::Close,
        Control::Ping => Taken::Ping(Bytes::copy_from_slice(&payload)),
        Control::Pong | Control::Reserved(_) => Taken::Pong,
    }
}

fn unmask(octets: &mut [u8], mask: [u8; 4]) {
    for four in octets.chunks_mut(mask.len()) {
        four.iter_mut().zip(mask).for_each(|(octet, key)| *octet ^= key);
    }
}

#[cfg(test)]
mod tests {
    use bytes::{Bytes, BytesMut};

    use super::{CloseCode, Taken, Unframed, unmask};

    const BINARY: u8 = 2;
    const FINAL: u8 = 0x80;

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [1, 2, 3, 4];
        let mut frame = vec![first];
        match payload.len() {
            short @ 0..126 => frame.push(0x80 | short as u8),
            long => {
                frame.push(0x80 | 126);
                frame.extend((long as u16).to_be_bytes());
            }
        }
        frame.extend(mask);
        let mut masked = payload.to_vec();
        unmask(&mut masked, mask);
        frame.extend(masked);
        frame
    }

    /// What comes of this when so much arrives at a time, and there is room for so much.
    fn take(stream: &[u8], chunk: usize, room: usize) -> Result<(Vec<u8>, Vec<Taken>), CloseCode> {
        let (mut unframed, mut raw, mut all, mut taken) =
            (Unframed::default(), BytesMut::new(), Vec::new(), Vec::new());
        for part in stream.chunks(chunk) {
            raw.extend_from_slice(part);
            loop {
                let mut input = BytesMut::new();
                match unframed.take(&mut raw, &mut input, room)? {
                    Taken::Nothing => break,
                    Taken::Data => all.extend_from_slice(&input),
                    other => taken.push(other),
                }
                assert!(input.len() <= room);
            }
        }
        assert!(raw.is_empty());
        Ok((all, taken))
    }

    #[test]
    fn octets_come_out_however_they_are_cut() {
        let long: Vec<u8> = (0..1000).map(|at: usize| (at % 251) as u8).collect();
        let stream = [
            frame(BINARY | FINAL, b"AMQP\0\0\x09\x01"),
            frame(BINARY, &long),
            frame(0x9 | FINAL, b"there?"),
            frame(FINAL, b""),
            frame(BINARY | FINAL, b"end"),
            frame(0xa | FINAL, b""),
            frame(0x8 | FINAL, &[3, 0xe8]),
        ]
        .concat();
        let expected = [&b"AMQP\0\0\x09\x01"[..], &long, b"end"].concat();
        for chunk in [1, 2, 3, 5, 7, 64, 4096] {
            for room in [1, 3, 4096] {
                let (all, taken) = take(&stream, chunk, room).unwrap();
                assert!(all == expected, "{chunk} {room}");
                let ping = Taken::Ping(Bytes::from_static(b"there?"));
                assert_eq!(taken, [ping, Taken::Pong, Taken::Close], "{chunk} {room}");
            }
        }
    }

    #[test]
    fn what_is_declared_is_not_waited_for_in_one_piece() {
        let mut stream = vec![BINARY | FINAL, 0x80 | 127, 0x7f];
        stream.extend([0xff; 7]);
        stream.extend([0; 4]);
        stream.extend(b"AMQP");
        let (all, _) = take(&stream, stream.len(), 4096).unwrap();
        assert_eq!(all, b"AMQP");
    }

    #[test]
    fn what_no_client_says_closes() {
        let unmasked = [BINARY | FINAL, 1, b'x'];
        for (stream, code) in [
            (frame(1 | FINAL, b"text"), CloseCode::Unsupported),
            (frame(FINAL, b"of no message"), CloseCode::Protocol),
            ([frame(BINARY, b"a"), frame(BINARY, b"b")].concat(), CloseCode::Protocol),
            (frame(0x9, b"half a ping"), CloseCode::Protocol),
            (frame(0x9 | FINAL, &[0; 126]), CloseCode::Protocol),
            (frame(3 | FINAL, b""), CloseCode::Protocol),
            (frame(BINARY | FINAL | 0x40, b"packed"), CloseCode::Protocol),
            (unmasked.to_vec(), CloseCode::Protocol),
        ] {
            assert_eq!(take(&stream, stream.len(), 4096).unwrap_err(), code, "{stream:?}");
        }
    }
}
