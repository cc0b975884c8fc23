//! A socket that sends bytes and reads frames, and knows nothing of what they mean.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use sluicemq::protocol::frame::{self, FrameKind};
use sluicemq::protocol::methods::Method;

/// A broker that says nothing for this long has failed.
const READ_DEADLINE: Duration = Duration::from_secs(10);
/// What is read at once.
const READ_BYTES: usize = 64 * 1024;

/// A frame as it came.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: FrameKind,
    pub(crate) channel: u16,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// The method in it.
    pub(crate) fn method(&self) -> Method<'_> {
        assert_eq!(self.kind, FrameKind::Method, "a method is expected, this came: {self:?}");
        Method::parse(&self.payload).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }
}

/// A connected socket.
pub(crate) struct Wire {
    pub(crate) address: SocketAddr,
    stream: TcpStream,
    input: BytesMut,
}

impl Wire {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the broker listens");
        stream.set_read_timeout(Some(READ_DEADLINE)).unwrap();
        stream.set_write_timeout(Some(READ_DEADLINE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { address, stream, input: BytesMut::new() }
    }

    /// Waits so long for the broker, and not ten seconds.
    pub(crate) fn set_deadline(&self, deadline: Duration) {
        self.stream.set_read_timeout(Some(deadline)).unwrap();
    }

    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Sends what a broker that is closing may no longer take.
    pub(crate) fn send_to_the_dying(&mut self, bytes: &[u8]) {
        if let Err(error) = self.stream.write_all(bytes) {
            assert!(is_closed(error.kind()), "{error}");
        }
    }

    /// Writes until the broker takes no more, and says how many bytes it took.
    pub(crate) fn send_until_refused(&mut self, chunk: &[u8], bytes_max: usize) -> usize {
        self.stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
        let mut sent = 0;
        while sent < bytes_max {
            match self.stream.write(chunk) {
                Ok(0) | Err(_) => break,
                Ok(bytes) => sent += bytes,
            }
        }
        sent
    }

    pub(crate) fn send(&mut self, channel: u16, method: &Method<'_>) {
        self.send_bytes(&method_frame(channel, method));
    }

    /// The next frame, or `None` when the broker has closed the socket.
    pub(crate) fn next_frame(&mut self) -> Option<Frame> {
        loop {
            let peeked = frame::peek(&self.input, u32::MAX).expect("the broker sends well-formed frames");
            if let Some(view) = peeked {
                let (kind, channel, payload) = (view.kind, view.channel, view.payload.to_vec());
                let taken = view.wire_bytes();
                self.input.advance(taken);
                return Some(Frame { kind, channel, payload });
            }
            if self.fill() == 0 {
                assert!(self.input.is_empty(), "the socket closed inside a frame: {:?}", self.input);
                return None;
            }
        }
    }

    /// The next frame of a connection that lives.
    pub(crate) fn frame(&mut self) -> Frame {
        self.next_frame().expect("the broker closed the socket instead of answering")
    }

    /// So many bytes, whatever they are.
    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        while self.input.len() < count {
            assert_ne!(self.fill(), 0, "the socket closed after {:?}", self.input);
        }
        self.input.split_to(count).to_vec()
    }

    /// Says that nothing more will be sent; what comes can still be read.
    pub(crate) fn shut_down(&mut self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// Nothing comes any more but the end.
    pub(crate) fn expect_tcp_close(&mut self) {
        if let Some(frame) = self.next_frame() {
            panic!("the socket was to be closed, this came: {frame:?}");
        }
    }

    /// Whatever comes, the end comes too.
    pub(crate) fn drain_to_close(&mut self) -> Vec<Frame> {
        std::iter::from_fn(|| self.next_frame()).collect()
    }

    /// Whether nothing comes within that time.
    pub(crate) fn is_silent_for(&mut self, time: Duration) -> bool {
        assert!(self.input.is_empty(), "something came already: {:?}", self.input);
        self.set_deadline(time);
        let mut octet = [0];
        let peeked = self.stream.peek(&mut octet);
        self.set_deadline(READ_DEADLINE);
        match peeked {
            Ok(_) => false,
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
                true
            }
        }
    }

    /// Reads what there is; zero at the end.
    fn fill(&mut self) -> usize {
        let mut chunk = [0; READ_BYTES];
        match self.stream.read(&mut chunk) {
            Ok(bytes) => {
                self.input.extend_from_slice(&chunk[..bytes]);
                bytes
            }
            Err(error) if is_closed(error.kind()) => 0,
            Err(error) => panic!("the broker says nothing ({error}); unread: {:?}", self.input),
        }
    }
}

/// A broker that closes with unread input resets the connection.
fn is_closed(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted)
}

/// A method as it goes over the wire.
pub(crate) fn method_frame(channel: u16, method: &Method<'_>) -> Vec<u8> {
    let mut out = BytesMut::new();
    frame::put_method(&mut out, channel, method);
    out.to_vec()
}

/// A frame of any kind, valid or not.
pub(crate) fn raw_frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![kind];
    out.extend(channel.to_be_bytes());
    out.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
    out.extend(payload);
    out.push(frame::FRAME_END);
    out
}
