//! A connection by TLS: the handshake, and the stream behind it.
//!
//! The socket's readiness drives it as it does a plain one: what is read is decrypted into the connection's own buffer, and
//! what is written is encrypted when the socket has what was written before.

use std::future::poll_fn;
use std::io::{self, BufRead, ErrorKind, IoSlice, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use rustls::ServerConnection;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::broker::Broker;
use crate::net::admission::Permit;
use crate::net::connection;
use crate::net::stream::Stream;
use crate::tls::handshake::{self, Refused, Speaks};
use crate::tls::{Store, agreed};

/// Does the handshake with an accepted socket, and serves it until either side ends it.
pub(super) async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    store: Arc<Store>,
    broker: Arc<Broker>,
    mut permit: Permit,
    stop: CancellationToken,
) {
    let span = tracing::error_span!("connection", %peer);
    let limit = Duration::from_millis(broker.node.limits().tls_handshake_timeout_ms);
    let shaken = tokio::select! {
        shaken = handshake::accept(&store, stream, Speaks::Amqp, limit) => shaken,
        () = stop.cancelled() => return,
    };
    let stream = match shaken {
        Ok(stream) => stream,
        Err(refused) => return span.in_scope(|| tell(&broker, &refused)),
    };
    let (socket, tls) = stream.into_inner();
    let encryption = agreed(&tls, store.settings());
    drop(store);
    permit.shaken();
    let stream = Secured::new(socket, tls);
    connection::serve(stream, peer, broker, permit, stop, Some(encryption)).await;
}

fn tell(broker: &Broker, refused: &Refused) {
    // Who only looks whether somebody listens has done nothing wrong.
    if !matches!(refused, Refused::Left)
        && let Some(left_out) = broker.complaints.allow(Instant::now())
    {
        match refused {
            Refused::Stranger(first_bytes) => {
                let first_bytes = first_bytes.escape_ascii();
                tracing::warn!(%first_bytes, left_out, "not a protocol we speak: {refused}");
            }
            _ => tracing::warn!(left_out, "TLS handshake failed: {refused}"),
        }
    }
}

/// A socket whose bytes are encrypted.
pub(super) struct Secured {
    socket: TcpStream,
    tls: Box<ServerConnection>,
    /// What was decrypted may not have been taken: the socket alone does not tell.
    is_readable: bool,
    /// Why nothing more can be read, when all is taken that was before.
    broken: Option<io::Error>,
}

/// The socket, as far as it is ready.
struct Wire<'a>(&'a TcpStream);

impl Read for Wire<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Secured {
    /// One whose handshake is over.
    pub(super) fn new(socket: TcpStream, tls: ServerConnection) -> Self {
        Self { socket, tls: Box::new(tls), is_readable: true, broken: None }
    }

    /// Moves what is decrypted into the buffer, as far as there is room: whether that is the end.
    fn take_decrypted(&mut self, input: &mut BytesMut) -> io::Result<bool> {
        let mut reader = self.tls.reader();
        loop {
            let room = input.capacity() - input.len();
            let decrypted = match reader.fill_buf() {
                Ok(decrypted) => decrypted,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                // AMQP has a farewell of its own: who leaves without that of TLS is gone all the same.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(true),
                Err(error) => return Err(error),
            };
            if decrypted.is_empty() {
                return Ok(true);
            }
            let taken = decrypted.get(..room).unwrap_or(decrypted);
            let count = taken.len();
            input.extend_from_slice(taken);
            reader.consume(count);
            if count == room {
                return Ok(false);
            }
        }
    }

    /// Writes all that is encrypted: how many bytes that was.
    fn write_some(&mut self) -> io::Result<usize> {
        let mut written = 0;
        while self.tls.wants_write() {
            written += self.tls.write_tls(&mut Wire(&self.socket))?;
        }
        Ok(written)
    }

    /// Reads once from the socket and decrypts what is whole: how many bytes came, encrypted.
    fn decrypt_more(&mut self) -> io::Result<usize> {
        let count = self.tls.read_tls(&mut Wire(&self.socket))?;
        let processed = self.tls.process_new_packets();
        // What the protocol itself has to say is written now, or with the next that is, which tells of what is wrong with it.
        let _ = self.write_rest();
        processed.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
        Ok(count)
    }
}

/// An error, unless it is that the socket takes no more.
fn pass_over(written: io::Result<()>) -> io::Result<()> {
    written.or_else(|error| if error.kind() == ErrorKind::WouldBlock { Ok(()) } else { Err(error) })
}

impl Stream for Secured {
    fn socket(&self) -> &TcpStream {
        &self.socket
    }

    fn poll_readable(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_readable { Poll::Ready(Ok(())) } else { self.socket.poll_read_ready(context) }
    }

    /// Fills the buffer while the socket has more: a session likes to see much at a time.
    fn poll_read(&mut self, context: &mut Context<'_>, input: &mut BytesMut) -> Poll<io::Result<usize>> {
        let (before, most) = (input.len(), input.capacity() - input.len());
        let mut encrypted = 0;
        loop {
            let is_end = self.take_decrypted(input)?;
            // What came before it is for the session, as without TLS.
            if input.len() == before
                && let Some(error) = self.broken.take()
            {
                return Poll::Ready(Err(error));
            }
            let count = input.len() - before;
            self.is_readable = is_end || count == most || self.broken.is_some();
            if self.is_readable {
                return Poll::Ready(Ok(count));
            }
            if encrypted >= most {
                if count > 0 {
                    return Poll::Ready(Ok(count));
                }
                // Records with nothing in them are no reason to keep others waiting.
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            match self.socket.poll_read_ready(context) {
                Poll::Ready(is_ready) => is_ready?,
                Poll::Pending if count > 0 => return Poll::Ready(Ok(count)),
                Poll::Pending => return Poll::Pending,
            }
            match self.decrypt_more() {
                Ok(more) => encrypted += more,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => self.broken = Some(error),
            }
        }
    }

    fn try_write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.write_rest()?;
        let taken = self.tls.writer().write_vectored(slices)?;
        match self.write_some() {
            // Under TLS 1.2 the keys are for so many records, and what comes behind them is swallowed.
            Ok(written) if written < taken => {
                Err(io::Error::other("as many records were sent as TLS 1.2 has keys for"))
            }
            Ok(_) => Ok(taken),
            Err(error) => pass_over(Err(error)).map(|()| taken),
        }
    }

    fn has_rest(&self) -> bool {
        self.tls.wants_write()
    }

    fn write_rest(&mut self) -> io::Result<()> {
        self.write_some().map(drop)
    }

    async fn shut(&mut self) -> io::Result<()> {
        self.tls.send_close_notify();
        poll_fn(|context| {
            loop {
                match self.write_rest() {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        ready!(self.socket.poll_write_ready(context))?;
                    }
                    written => return Poll::Ready(written),
                }
            }
        })
        .await?;
        self.socket.shutdown().await
    }
}
