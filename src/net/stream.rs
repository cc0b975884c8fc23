//! What a connection's task reads from and writes to. Plain sockets are the common case, and pay for no other.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_util::io::poll_read_buf;

/// A socket, with or without something between it and the session.
pub(super) trait Stream: Send + 'static {
    /// The socket itself, to ask the kernel about it.
    fn socket(&self) -> &TcpStream;

    /// Ready when there may be something to read.
    fn poll_readable(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Appends what there is, and no more than the buffer has room for; nothing is the end.
    fn poll_read(&mut self, context: &mut Context<'_>, input: &mut BytesMut) -> Poll<io::Result<usize>>;

    /// Writes what is taken at once of these pieces.
    fn try_write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Whether something was taken that the socket does not have yet.
    fn has_rest(&self) -> bool;

    /// Gives the socket more of that.
    fn write_rest(&mut self) -> io::Result<()>;

    /// Says that nothing more comes from us, when all that was written is out.
    fn shut(&mut self) -> impl Future<Output = io::Result<()>> + Send;
}

impl Stream for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }

    #[inline]
    fn poll_readable(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_read_ready(context)
    }

    #[inline]
    fn poll_read(&mut self, context: &mut Context<'_>, input: &mut BytesMut) -> Poll<io::Result<usize>> {
        poll_read_buf(Pin::new(self), context, input)
    }

    #[inline]
    fn try_write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match slices {
            // Most answers are one piece, which costs the kernel less.
            [one] => Self::try_write(self, one),
            many => self.try_write_vectored(many),
        }
    }

    #[inline]
    fn has_rest(&self) -> bool {
        false
    }

    #[inline]
    fn write_rest(&mut self) -> io::Result<()> {
        Ok(())
    }

    async fn shut(&mut self) -> io::Result<()> {
        self.shutdown().await
    }
}
