//! A connection by WebSocket: AMQP's octets in binary frames, in both directions (RFC 6455).
//!
//! How a client's octets are cut into frames and messages means nothing. What is written to it waits here for the socket,
//! one frame at most; of several pings the last is answered. Knows nothing of HTTP: whoever let the client in has
//! answered its request.

mod unframed;

use std::future::poll_fn;
use std::io::{self, ErrorKind, IoSlice};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::net::TcpStream;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

use crate::net::stream::Stream;
use crate::net::web::unframed::{Taken, Unframed};

/// What one frame of ours holds at most, in bytes.
const FRAME_BYTES_MAX: usize = 64 * 1024;
/// What is read at once, in bytes, and no more than there is room for behind it.
const READ_BYTES: usize = 16 * 1024;
/// The longest head of a frame, and a control frame's payload.
const HEAD_BYTES_MAX: usize = 14;

/// A stream whose octets are in frames.
pub(super) struct Web<S> {
    stream: S,
    /// What was read and not looked at.
    raw: BytesMut,
    unframed: Unframed,
    /// There may be more in it than there was room for.
    is_readable: bool,
    /// Nothing more is read: the client has taken leave, or says what we do not understand.
    is_over: bool,
    /// What the socket has not taken of a frame of ours.
    rest: BytesMut,
    pong: Option<Bytes>,
    farewell: Farewell,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Farewell {
    No,
    Due(CloseCode),
    Said,
}

impl<S: Stream> Web<S> {
    /// A stream on which this was read already.
    pub(super) fn new(stream: S, read: &[u8]) -> Self {
        Self {
            stream,
            raw: BytesMut::from(read),
            unframed: Unframed::default(),
            is_readable: !read.is_empty(),
            is_over: false,
            rest: BytesMut::new(),
            pong: None,
            farewell: Farewell::No,
        }
    }

    /// Looks at all that was read, as far as there is room for what it says.
    fn unframe(&mut self, input: &mut BytesMut) {
        while !self.is_over {
            let room = input.capacity() - input.len();
            match self.unframed.take(&mut self.raw, input, room) {
                Ok(Taken::Data | Taken::Pong) => {}
                Ok(Taken::Ping(said)) => self.pong = Some(said),
                Ok(Taken::Close) => self.leave(CloseCode::Normal),
                Ok(Taken::Nothing) => break,
                Err(code) => self.leave(code),
            }
        }
        if self.raw.is_empty() {
            self.raw = BytesMut::new();
        }
    }

    fn leave(&mut self, code: CloseCode) {
        self.is_over = true;
        self.raw.clear();
        if self.farewell == Farewell::No {
            self.farewell = Farewell::Due(code);
        }
    }

    /// Says what the protocol itself has to say, now or when the socket takes more: then the task is woken.
    fn answer(&mut self, context: &mut Context<'_>) {
        while let Err(error) = self.write_rest() {
            // What else is wrong with it is told by the next write.
            let is_full = error.kind() == ErrorKind::WouldBlock;
            if !is_full || self.stream.socket().poll_write_ready(context).is_pending() {
                return;
            }
        }
    }

    fn has_control(&self) -> bool {
        self.pong.is_some() || matches!(self.farewell, Farewell::Due(_))
    }

    /// Makes the next control frame, if there is one to send.
    fn put_control(&mut self) {
        if let Some(said) = self.pong.take() {
            self.put_head(OpCode::Control(Control::Pong), said.len());
            self.rest.put_slice(&said);
        } else if let Farewell::Due(code) = self.farewell {
            let code = u16::from(code).to_be_bytes();
            self.put_head(OpCode::Control(Control::Close), code.len());
            self.rest.put_slice(&code);
            self.farewell = Farewell::Said;
        }
    }

    fn put_head(&mut self, opcode: OpCode, payload_bytes: usize) {
        self.rest.reserve(HEAD_BYTES_MAX + payload_bytes);
        let header = FrameHeader { opcode, ..FrameHeader::default() };
        header.format(payload_bytes as u64, &mut (&mut self.rest).writer()).expect("memory takes all");
    }
}

impl<S: Stream> Stream for Web<S> {
    fn socket(&self) -> &TcpStream {
        self.stream.socket()
    }

    fn poll_readable(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_readable { Poll::Ready(Ok(())) } else { self.stream.poll_readable(context) }
    }

    fn poll_read(&mut self, context: &mut Context<'_>, input: &mut BytesMut) -> Poll<io::Result<usize>> {
        let (before, most) = (input.len(), input.capacity() - input.len());
        let mut read = 0;
        loop {
            self.unframe(input);
            if self.has_control() {
                self.answer(context);
            }
            let count = input.len() - before;
            self.is_readable = self.is_over || count == most;
            if self.is_readable || (count > 0 && read >= most) {
                return Poll::Ready(Ok(count));
            }
            if read >= most {
                // Frames with nothing in them are no reason to keep others waiting.
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.raw.reserve(READ_BYTES.min(most).max(HEAD_BYTES_MAX));
            let more = match self.stream.poll_readable(context) {
                Poll::Ready(is_ready) => is_ready.map(|()| self.stream.poll_read(context, &mut self.raw))?,
                Poll::Pending => Poll::Pending,
            };
            match more {
                Poll::Ready(Ok(0)) => self.is_over = true,
                Poll::Ready(more) => read += more?,
                Poll::Pending => {
                    if self.raw.is_empty() {
                        self.raw = BytesMut::new();
                    }
                    return if count > 0 { Poll::Ready(Ok(count)) } else { Poll::Pending };
                }
            }
        }
    }

    fn try_write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.write_rest()?;
        let all = slices.iter().map(|slice| slice.len()).sum::<usize>();
        if self.farewell != Farewell::No {
            // Whose leave is taken hears no more.
            return Ok(all);
        }
        let count = all.min(FRAME_BYTES_MAX);
        self.put_head(OpCode::Data(Data::Binary), count);
        let mut left = count;
        for slice in slices {
            let part = slice.get(..left).unwrap_or(slice);
            self.rest.put_slice(part);
            left -= part.len();
        }
        match self.write_rest() {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
            _ => Ok(count),
        }
    }

    fn has_rest(&self) -> bool {
        !self.rest.is_empty() || self.has_control() || self.stream.has_rest()
    }

    fn write_rest(&mut self) -> io::Result<()> {
        loop {
            if self.rest.is_empty() {
                self.put_control();
            }
            if self.rest.is_empty() {
                self.rest = BytesMut::new();
                return self.stream.write_rest();
            }
            let written = self.stream.try_write(&[IoSlice::new(&self.rest)])?;
            self.rest.advance(written);
        }
    }

    async fn shut(&mut self) -> io::Result<()> {
        if self.farewell == Farewell::No {
            self.farewell = Farewell::Due(CloseCode::Normal);
        }
        poll_fn(|context| {
            loop {
                match self.write_rest() {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        ready!(self.stream.socket().poll_write_ready(context))?;
                    }
                    written => return Poll::Ready(written),
                }
            }
        })
        .await?;
        self.stream.shut().await
    }
}
