//! Places for connections. Where none is left, who asks for nothing gives theirs up: a connection that is kept, or whose
//! request does not come, is no reason to let nobody else in.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::clock::Now;

/// Who has asked for nothing for so long gives way.
const IDLE_MAX: Duration = Duration::from_secs(2);
/// It is looked for such connections so often, while somebody waits.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// The places of a listener.
#[derive(Debug)]
pub(crate) struct Seats {
    room: Arc<Semaphore>,
    crowd: Arc<Notify>,
}

/// The place of a connection, until it is dropped. A handle: clones are the same place.
#[derive(Clone, Debug)]
pub(crate) struct Seat(Arc<Taken>);

#[derive(Debug)]
struct Taken {
    _place: OwnedSemaphorePermit,
    crowd: Arc<Notify>,
    /// Since when nothing is asked for; nothing while something is.
    idle_since: Mutex<Option<Instant>>,
}

impl Seats {
    pub(crate) fn new(places: usize) -> Self {
        Self { room: Arc::new(Semaphore::new(places)), crowd: Arc::default() }
    }

    /// The next place. `None` is never seen: places do not go.
    pub(crate) async fn take(&self) -> Option<Seat> {
        let place = loop {
            match tokio::time::timeout(LOOK_INTERVAL, Arc::clone(&self.room).acquire_owned()).await {
                Ok(place) => break place.ok()?,
                Err(_) => self.crowd.notify_waiters(),
            }
        };
        let idle_since = Mutex::new(Some(Now::read().instant));
        Some(Seat(Arc::new(Taken { _place: place, crowd: Arc::clone(&self.crowd), idle_since })))
    }
}

/// A stream whose reader is not idle while it takes what is written.
pub(crate) struct Watched<S> {
    stream: S,
    seat: Seat,
}

impl<S> Watched<S> {
    /// The stream alone: it leaves the place.
    pub(crate) fn into_inner(self) -> S {
        self.stream
    }
}

impl Seat {
    /// The stream of whose connection this is the place.
    pub(crate) fn watched<S>(&self, stream: S) -> Watched<S> {
        Watched { stream, seat: self.clone() }
    }

    /// An answer goes out.
    fn touch(&self) {
        if let Some(since) = &mut *self.0.idle_since.lock() {
            *since = Now::read().instant;
        }
    }

    /// Something is asked for.
    pub(crate) fn begin(&self) {
        *self.0.idle_since.lock() = None;
    }

    /// Nothing is asked for from now on: it was answered, or has just come.
    pub(crate) fn end(&self) {
        *self.0.idle_since.lock() = Some(Now::read().instant);
    }

    /// Ends when others wait for the place, and nothing has been asked for in a while.
    pub(crate) async fn is_wanted(&self) {
        loop {
            self.0.crowd.notified().await;
            if self
                .0
                .idle_since
                .lock()
                .is_some_and(|since| Now::read().instant.saturating_duration_since(since) >= IDLE_MAX)
            {
                return;
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        if written.is_ready() {
            self.seat.touch();
        }
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        if written.is_ready() {
            self.seat.touch();
        }
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::{IDLE_MAX, Seats};
    use crate::clock::Now;

    #[tokio::test]
    async fn who_takes_an_answer_is_not_idle() {
        let seat = Seats::new(1).take().await.unwrap();
        let long_ago = Now::read().instant.checked_sub(2 * IDLE_MAX);
        *seat.0.idle_since.lock() = long_ago;
        let (ours, _theirs) = tokio::io::duplex(100);
        seat.watched(ours).write_all(b"an answer").await.unwrap();
        assert!(*seat.0.idle_since.lock() > long_ago);
        seat.begin();
        assert_eq!(*seat.0.idle_since.lock(), None);
    }
}
