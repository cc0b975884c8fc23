//! A client inside the process: a session like any connection's, without a socket. What is published and got over HTTP
//! goes the same way as everybody's, with the same rights, refusals and returns.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;
use std::task::{Context, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use bytes::BytesMut;

use crate::auth::users::User;
use crate::broker::Broker;
use crate::clock::Now;
use crate::mgmt::answer::Refusal;
use crate::protocol::frame::{self, FRAME_OVERHEAD, FrameKind, PROTOCOL_HEADER};
use crate::protocol::header::ContentHeader;
use crate::protocol::methods::{ChannelOpen, ConnectionOpen, ConnectionStartOk, ConnectionTuneOk, Method};
use crate::protocol::table::Table;
use crate::session::Session;

/// What is not answered in this time is told to be unavailable: a publisher waits for an alarm to end.
const PATIENCE: Duration = Duration::from_secs(30);
/// The only channel.
const CHANNEL: u16 = 1;
const SLICES: usize = 16;

/// The client.
pub(crate) struct Insider {
    session: Session,
    input: BytesMut,
    now: Now,
    deadline: Instant,
    waker: Waker,
    frame_max: u32,
    heard: VecDeque<Heard>,
    unfinished: Option<Heard>,
}

/// What the broker says: a method, and what came with it.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    method: Vec<u8>,
    /// The properties of a content.
    pub(crate) properties: Vec<u8>,
    /// The body of a content.
    pub(crate) body: Vec<u8>,
    left: u64,
}

impl Heard {
    /// The method.
    pub(crate) fn method(&self) -> Option<Method<'_>> {
        Method::parse(&self.method).ok()
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

impl Insider {
    /// One of this user's in a virtual host, with a channel. It waits on this thread, which must be nobody's turn.
    ///
    /// # Errors
    /// The user may not open it.
    pub(crate) fn connect(broker: &Arc<Broker>, user: &Arc<User>, vhost: &str) -> Result<Self, Refusal> {
        let (now, limits) = (Now::read(), &broker.config.limits);
        let mut insider = Self {
            session: Session::new(Arc::clone(broker), now),
            input: BytesMut::new(),
            now,
            deadline: now.instant + PATIENCE,
            waker: Waker::from(Arc::new(Unpark(std::thread::current()))),
            frame_max: limits.frame_max_bytes,
            heard: VecDeque::new(),
            unfinished: None,
        };
        insider.input.extend_from_slice(&PROTOCOL_HEADER);
        // Whoever asks over HTTP has given a password: this one is looked at by nobody.
        let response = [b"\0", user.name.as_bytes(), b"\0-"].concat();
        let (client_properties, locale) = (Table::EMPTY, "en_US");
        let start_ok =
            ConnectionStartOk { client_properties, mechanism: "PLAIN", response: &response, locale };
        insider.say(0, &Method::ConnectionStartOk(start_ok));
        if insider.session.take_verification().is_some() {
            insider.session.on_verified(Some(Arc::clone(user)), insider.now);
        }
        let (channel_max, frame_max) = (limits.channel_max, limits.frame_max_bytes);
        insider.say(0, &Method::ConnectionTuneOk(ConnectionTuneOk { channel_max, frame_max, heartbeat: 0 }));
        insider.say(0, &Method::ConnectionOpen(ConnectionOpen { virtual_host: vhost }));
        insider
            .ask(&Method::ChannelOpen(ChannelOpen {}), |method| matches!(method, Method::ChannelOpenOk(_)))?;
        Ok(insider)
    }

    fn say(&mut self, channel: u16, method: &Method<'_>) {
        frame::put_method(&mut self.input, channel, method);
        self.feed();
    }

    /// Says a method of the channel.
    pub(crate) fn tell(&mut self, method: &Method<'_>) {
        self.say(CHANNEL, method);
    }

    /// Says a method of the channel, and what is the content of it.
    pub(crate) fn tell_content(&mut self, method: &Method<'_>, properties: &[u8], body: &[u8]) {
        frame::put_method(&mut self.input, CHANNEL, method);
        frame::put_header(&mut self.input, CHANNEL, body.len() as u64, properties);
        for piece in body.chunks((self.frame_max as usize).saturating_sub(FRAME_OVERHEAD).max(1)) {
            frame::put_body_head(&mut self.input, CHANNEL, piece.len() as u32);
            self.input.extend_from_slice(piece);
            self.input.extend_from_slice(&[frame::FRAME_END]);
        }
        self.feed();
    }

    /// Says a method and waits for what is its answer.
    ///
    /// # Errors
    /// As [`Insider::hear`].
    pub(crate) fn ask(
        &mut self,
        method: &Method<'_>,
        is_answer: impl Fn(&Method<'_>) -> bool,
    ) -> Result<Heard, Refusal> {
        self.tell(method);
        loop {
            let heard = self.hear()?;
            if heard.method().is_some_and(|method| is_answer(&method)) {
                return Ok(heard);
            }
        }
    }

    /// The next thing that the broker says.
    ///
    /// # Errors
    /// The broker has closed the channel or the connection, and why; or it says nothing for too long.
    pub(crate) fn hear(&mut self) -> Result<Heard, Refusal> {
        loop {
            if let Some(heard) = self.heard.pop_front() {
                match heard.method() {
                    Some(Method::ChannelClose(close)) => return Err(Refusal::bad_request(close.reply_text)),
                    Some(Method::ConnectionClose(close)) => {
                        return Err(Refusal::bad_request(close.reply_text));
                    }
                    _ => return Ok(heard),
                }
            }
            let is_idle = self.session.poll_work(&mut Context::from_waker(&self.waker)).is_pending();
            self.now = Now::read();
            if !is_idle {
                self.session.on_wake(self.now);
                self.feed();
            } else if self.now.instant >= self.deadline {
                return Err(Refusal::unavailable());
            } else {
                std::thread::park_timeout(self.deadline - self.now.instant);
            }
        }
    }

    fn feed(&mut self) {
        self.session.on_bytes(&mut self.input, self.now);
        let mut bytes = Vec::new();
        while !self.session.output().is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let filled = self.session.output().fill(&mut slices);
            let before = bytes.len();
            slices.iter().take(filled).for_each(|slice| bytes.extend_from_slice(slice));
            self.session.output().advance(bytes.len() - before);
            self.session.on_written(self.now);
        }
        let mut rest = &bytes[..];
        while let Ok(Some(frame)) = frame::peek(rest, self.frame_max) {
            rest = rest.get(frame.wire_bytes()..).unwrap_or_default();
            self.on_frame(frame.kind, frame.payload);
        }
    }

    fn on_frame(&mut self, kind: FrameKind, payload: &[u8]) {
        match (kind, &mut self.unfinished) {
            (FrameKind::Method, _) => {
                let heard = Heard { method: payload.to_vec(), left: u64::MAX, ..Heard::default() };
                let has_content =
                    matches!(heard.method(), Some(Method::BasicGetOk(_) | Method::BasicReturn(_)));
                match has_content {
                    true => self.unfinished = Some(heard),
                    false => self.heard.push_back(heard),
                }
            }
            (FrameKind::Header, Some(heard)) => {
                if let Ok(header) = ContentHeader::parse(payload) {
                    heard.properties = header.properties.to_vec();
                    heard.left = header.body_bytes;
                }
            }
            (FrameKind::Body, Some(heard)) => {
                heard.body.extend_from_slice(payload);
                heard.left = heard.left.saturating_sub(payload.len() as u64);
            }
            _ => {}
        }
        self.heard.extend(self.unfinished.take_if(|heard| heard.left == 0));
    }
}

impl Drop for Insider {
    /// What was got and not settled goes back, in turns like everybody's.
    fn drop(&mut self) {
        self.session.abandon(self.now);
        while self.session.is_ending() {
            self.session.on_wake(Now::read());
        }
    }
}
