//! The task of one connection: it moves bytes between a socket and a session, and waits.
//!
//! ```text
//! loop: write what the socket takes -> end a turn that was long -> wait for the next event -> feed the session
//! ```

use std::cell::Cell;
use std::future::Future;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use rustix::event::{PollFd, PollFlags, Timespec};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tracing::Instrument;

use crate::auth::sasl::Credentials;
use crate::broker::Broker;
use crate::broker::presence::{Encryption, Ends};
use crate::clock::Now;
use crate::net::admission::Permit;
use crate::net::stream::Stream;
use crate::session::Session;

/// What is read at once from a client that is not in or must wait, from any other, and from one that floods us.
const BRIEF_READ_BYTES: usize = 4 * 1024;
const READ_BYTES: usize = 64 * 1024;
const FLOOD_READ_BYTES: usize = 128 * 1024;
/// What a connection reads and writes before other tasks get their turn. A socket whose client keeps up never says
/// stop: a backlog written to it in one turn kept quiet neighbours waiting for half a second.
const TURN_BYTES: usize = 128 * 1024;
/// What a step of the session counts: a thousand are a turn.
const STEP_BYTES: usize = 128;
/// What a read or a write counts beside its bytes.
const CALL_BYTES: usize = 8 * 1024;
/// A wake counts as so many, also one for nothing.
const WAKE_BYTES: usize = 1024;
/// So many bytes written count as one read: what empties queues goes before what fills them. (With four a quiet
/// neighbour waited a quarter longer, and only a fan-out to 100 queues was faster, by 4 %.)
const WRITTEN_PER_READ: usize = 2;
/// Buffers given to one write.
const SLICES_PER_WRITE: usize = 64;
/// How often it is looked whether a client is still there that is not read.
const LOOK: Duration = Duration::from_secs(2);
/// What a kernel can tell of a peer that sends nothing more; that it is lost, all tell unasked.
#[cfg(target_os = "linux")]
const SHUT: PollFlags = PollFlags::RDHUP;
#[cfg(not(target_os = "linux"))]
const SHUT: PollFlags = PollFlags::empty();
/// How long a socket is drained after our side is shut, so that the last frame is not lost to a reset.
const LINGER: Duration = Duration::from_secs(1);

thread_local! {
    /// A read buffer of this thread's. Most connections need one no longer than it takes to understand what has come.
    static SPARE: Cell<BytesMut> = Cell::default();
}

/// Serves one accepted socket until either side ends it; what a TLS handshake came to, where there was one.
pub(super) async fn serve(
    stream: impl Stream,
    peer: SocketAddr,
    broker: Arc<Broker>,
    permit: Permit,
    stop: CancellationToken,
    encryption: Option<Encryption>,
) {
    // Of an error's level, so that no line about it is without it.
    let span = tracing::error_span!("connection", %peer);
    async move {
        let now = Now::read();
        let mut connection = Connection {
            session: Session::new(Arc::clone(&broker), now),
            now,
            broker,
            stream,
            peer,
            permit,
            input: BytesMut::new(),
            is_flood: false,
            turn_bytes: 0,
            has_polled: false,
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            next_look: None,
            stop: Box::pin(stop.cancelled_owned()),
            is_stopping: false,
        };
        let presence = connection.session.presence();
        if let Ok(local) = connection.stream.socket().local_addr() {
            presence.came(Ends { peer, local });
        }
        encryption.into_iter().for_each(|encryption| presence.came_encrypted(encryption));
        if let Err(error) = connection.run().await {
            connection.session.on_lost(&error);
        }
        connection.end().await;
    }
    .instrument(span)
    .await;
}

struct Connection<S> {
    session: Session,
    /// When the present event came: the clocks are read once for all that follows from it.
    now: Now,
    broker: Arc<Broker>,
    stream: S,
    peer: SocketAddr,
    permit: Permit,
    input: BytesMut,
    /// So much was read last that more is to be expected.
    is_flood: bool,
    /// Read and written in this turn, at the rate of [`TURN_BYTES`].
    turn_bytes: usize,
    /// Whether the last turn that was long has ended with a look at the sockets: every second one does.
    has_polled: bool,
    timer: Pin<Box<Sleep>>,
    /// When to look whether a client is still there that is not read.
    next_look: Option<std::time::Instant>,
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
    is_stopping: bool,
}

#[derive(Clone, Copy)]
enum Event {
    Input,
    /// The client has shut its side.
    End,
    Writable,
    Work,
    Timeout,
    Stop,
}

impl<S: Stream> Connection<S> {
    async fn run(&mut self) -> io::Result<()> {
        loop {
            self.write()?;
            if self.session.is_closed() && self.session.output().is_empty() {
                return self.linger().await;
            }
            if self.turn_bytes >= TURN_BYTES {
                self.end_turn().await;
                // Who keeps us at work must not keep us from looking at the time.
                if self.session.deadline().is_some_and(|deadline| deadline <= self.now.instant) {
                    self.on_timeout();
                }
                // What turns of nothing else have to say is written too.
                continue;
            }
            let event = std::future::poll_fn(|context| self.poll_event(context)).await?;
            self.on_event(event);
        }
    }

    /// Lets other tasks go first. After one turn our task stays in the worker's queue, where another worker that has
    /// nothing to do takes it: what we have woken runs at the same time. After the next it is the runtime's own yield,
    /// which sets the task aside until the worker has asked the sockets, and then wakes another worker for nothing.
    async fn end_turn(&mut self) {
        self.turn_bytes = 0;
        self.has_polled = !self.has_polled;
        if self.has_polled {
            return tokio::task::yield_now().await;
        }
        let mut is_over = false;
        let turn = |context: &mut Context<'_>| {
            if std::mem::replace(&mut is_over, true) {
                return Poll::Ready(());
            }
            context.waker().wake_by_ref();
            Poll::Pending
        };
        std::future::poll_fn(turn).await;
    }

    /// Writes what the socket takes, until the turn is over.
    fn write(&mut self) -> io::Result<()> {
        if self.stream.has_rest() && self.session.output().is_empty() {
            return self.stream.write_rest().or_else(none_if_full);
        }
        while self.turn_bytes < TURN_BYTES && !self.session.output().is_empty() {
            let output = self.session.output();
            let mut slices = [IoSlice::new(&[]); SLICES_PER_WRITE];
            let filled = output.fill(&mut slices);
            let written = match self.stream.try_write(slices.get(..filled).unwrap_or_default()) {
                Ok(written) => written,
                Err(error) => return none_if_full(error),
            };
            self.turn_bytes += CALL_BYTES + written / WRITTEN_PER_READ;
            output.advance(written);
            let presence = self.session.presence();
            presence.sent_bytes.bump(written as u64);
            presence.writes.bump(1);
            self.session.on_taken(self.now);
            if self.session.output().is_empty() {
                self.session.on_written(self.now);
                self.turn_bytes += STEP_BYTES * self.session.steps() as usize;
            }
        }
        Ok(())
    }

    fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Event>> {
        if !self.is_stopping && self.stop.as_mut().poll(context).is_ready() {
            self.is_stopping = true;
            return Poll::Ready(Ok(Event::Stop));
        }
        let has_output = !self.session.output().is_empty() || self.stream.has_rest();
        if self.session.poll_work(context).is_ready() {
            return Poll::Ready(Ok(Event::Work));
        }
        // A client is listened to however much is to be written: it may want to cancel a flood, or wait for us to read.
        if self.session.wants_input()
            && let Poll::Ready(read) = self.poll_read(context)
        {
            return Poll::Ready(read.map(|count| if count == 0 { Event::End } else { Event::Input }));
        }
        if has_output && let Poll::Ready(writable) = self.stream.socket().poll_write_ready(context) {
            return Poll::Ready(writable.map(|()| Event::Writable));
        }
        let timeout = self.poll_timer(context).map(|()| Ok(Event::Timeout));
        if timeout.is_pending() {
            // The turn ends by itself.
            self.turn_bytes = 0;
            if !self.session.wants_input() {
                self.give_back_room();
            }
        }
        timeout
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let read = self.poll_chunk(context);
        if read.is_pending() && self.input.is_empty() {
            self.give_back_room();
        }
        read
    }

    /// Room is made when there is something to read, and not before.
    fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        ready!(self.stream.poll_readable(context))?;
        // Of a client that publishes during an alarm what is read will only lie here.
        let is_brief = !self.session.is_running() || self.session.is_blocked();
        let chunk = match (!is_brief, self.is_flood) {
            (false, _) => BRIEF_READ_BYTES,
            (true, false) => READ_BYTES,
            (true, true) => FLOOD_READ_BYTES,
        };
        if self.input.capacity() == 0 && !is_brief {
            self.input = SPARE.take();
        }
        if self.input.capacity() - self.input.len() < chunk / 4 {
            self.input.reserve(chunk);
        }
        let room = self.input.capacity() - self.input.len();
        let count = ready!(self.stream.poll_read(context, &mut self.input))?;
        self.turn_bytes += CALL_BYTES + count;
        let presence = self.session.presence();
        presence.received_bytes.bump(count as u64);
        presence.reads.bump(1);
        self.is_flood = count == room || count >= READ_BYTES;
        Poll::Ready(Ok(count))
    }

    /// Nothing comes, or nothing is read, perhaps because memory is short: what was read and must wait is all that is
    /// kept.
    fn give_back_room(&mut self) {
        if self.input.is_empty() && self.input.try_reclaim(READ_BYTES) {
            SPARE.set(std::mem::take(&mut self.input));
        } else if self.input.capacity() > self.input.len() {
            self.input = BytesMut::from(&self.input[..]);
        }
        self.session.on_idle();
    }

    /// The timer is armed for the earliest deadline seen and looks again when it fires: deadlines that only move
    /// away, as a heartbeat's does with every frame, cost nothing.
    fn poll_timer(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.next_look = match self.session.wants_input() || !self.session.is_running() {
            true => None,
            false => self.next_look.or(Some(self.now.instant + LOOK)),
        };
        let deadline = [self.session.deadline(), self.next_look].into_iter().flatten().min();
        let Some(deadline) = deadline.map(Instant::from_std) else { return Poll::Pending };
        if self.timer.is_elapsed() || deadline < self.timer.deadline() {
            self.timer.as_mut().reset(deadline);
        }
        self.timer.as_mut().poll(context)
    }

    fn on_event(&mut self, event: Event) {
        self.now = Now::read();
        self.feed(event);
        if matches!(event, Event::Input | Event::Work) {
            self.turn_bytes += STEP_BYTES * self.session.steps() as usize;
        }
    }

    fn feed(&mut self, event: Event) {
        match event {
            Event::Input => self.on_input(),
            Event::End => self.session.on_end(self.now),
            Event::Work => {
                self.turn_bytes += WAKE_BYTES;
                self.session.on_wake(self.now);
                self.session.on_rest(&mut self.input, self.now);
                if self.session.yields() {
                    self.turn_bytes = TURN_BYTES;
                }
            }
            Event::Timeout => self.on_timeout(),
            Event::Stop => self.session.on_shutdown(self.now),
            Event::Writable => {}
        }
    }

    fn on_timeout(&mut self) {
        if self.next_look.take_if(|look| *look <= self.now.instant).is_some() && self.is_gone() {
            return self.session.on_end(self.now);
        }
        // Where the kernel does not tell, nothing grows: silence is judged as if nothing lay there.
        let unread_bytes = rustix::io::ioctl_fionread(self.stream.socket()).unwrap_or_default();
        self.session.on_unread(unread_bytes, self.now);
        self.session.on_timeout(self.now);
    }

    /// Whether the client has shut its side or is lost, behind what it has sent and is not read.
    fn is_gone(&self) -> bool {
        let mut socket = [PollFd::new(self.stream.socket(), SHUT)];
        let looked = rustix::event::poll(&mut socket, Some(&Timespec::default()));
        looked.is_ok_and(|found| found > 0)
    }

    fn on_input(&mut self) {
        self.session.on_bytes(&mut self.input, self.now);
        if let Some(credentials) = self.session.take_verification() {
            self.verify(&credentials);
        }
    }

    /// Our hashes take a microsecond: any other that took its time would be checked on a thread of its own, for the
    /// session waits for nobody.
    fn verify(&mut self, credentials: &Credentials) {
        let user = self.broker.login(credentials, self.peer.ip(), self.now.instant);
        if user.is_some() {
            self.permit.authenticated();
        }
        self.session.on_verified(user, self.now);
        // What came behind the password has waited.
        self.session.on_rest(&mut self.input, self.now);
    }

    /// Gives back what the session held, in turns like everybody's.
    async fn end(&mut self) {
        self.session.abandon(self.now);
        while self.session.is_ending() {
            tokio::task::yield_now().await;
            self.session.on_wake(self.now);
        }
    }

    /// Shuts our side and waits a moment for the client's, so that the last frame is not lost to a reset. What is not
    /// read by then is the kernel's to deal with.
    async fn linger(&mut self) -> io::Result<()> {
        let drained = async {
            self.stream.shut().await?;
            let socket = self.stream.socket();
            loop {
                self.input.clear();
                socket.readable().await?;
                match socket.try_read_buf(&mut self.input) {
                    Ok(0) => return Ok(()),
                    Ok(_) => {}
                    Err(error) => none_if_full(error)?,
                }
            }
        };
        tokio::time::timeout(LINGER, drained).await.unwrap_or(Ok(()))
    }
}

/// Nothing, where the socket was not ready: it will say when it is.
fn none_if_full(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::WouldBlock { Ok(()) } else { Err(error) }
}
