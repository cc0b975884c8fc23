//! A client inside the process: a session like any connection's, without a socket. What is published and got by the broker
//! itself goes the same way as everybody's, with the same rights, refusals and returns.
//!
//! It waits for nothing. Whoever drives it says something, gives it turns, and listens; what is not listened to stays in
//! the session's output, so that the broker holds back what would come next, as it does for a client that does not read.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::{Bytes, BytesMut};

use crate::auth::users::User;
use crate::broker::Broker;
use crate::clock::Now;
use crate::protocol::field::Field;
use crate::protocol::frame::{self, FRAME_OVERHEAD, FrameKind, FrameView, PROTOCOL_HEADER};
use crate::protocol::header::ContentHeader;
use crate::protocol::methods::{ChannelOpen, ConnectionOpen, ConnectionStartOk, ConnectionTuneOk, Method};
use crate::protocol::table::TableBuf;
use crate::session::Session;

/// The only channel.
const CHANNEL: u16 = 1;
/// A buffer that is empty keeps no more than this.
const BUFFER_BYTES_KEPT: usize = 256 * 1024;
/// Pieces of output taken at once.
const SLICES: usize = 16;
/// Of what is said, and of what is heard, so many bytes are handled at a time: a large message takes many turns.
const TURN_BYTES: usize = 256 * 1024;

/// Why a client is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// It does what somebody has asked for: what it gives back was delivered to them.
    Errand,
    /// It moves messages: what it gives back is as it was, and who published them is not asked once more.
    Move,
}

/// The client.
#[derive(Debug)]
pub struct Insider {
    session: Session,
    input: BytesMut,
    /// What is said behind `input`, in order.
    behind: VecDeque<Said>,
    /// How many bytes that is.
    behind_bytes: usize,
    /// Taken from the session and not yet understood.
    received: BytesMut,
    frame_max: u32,
    heard: VecDeque<Heard>,
    unfinished: Option<Heard>,
}

/// What waits to be said.
#[derive(Debug)]
enum Said {
    /// Whole frames.
    Frames(BytesMut),
    /// The rest of a body, of which frames are to be made.
    Body(Bytes),
}

/// What the broker says: a method, and what came with it.
#[derive(Debug, Default)]
pub struct Heard {
    method: Vec<u8>,
    /// The properties of a content.
    pub properties: Vec<u8>,
    /// The body of a content.
    pub body: Vec<u8>,
    left: u64,
}

impl Heard {
    /// The method.
    pub fn method(&self) -> Option<Method<'_>> {
        Method::parse(&self.method).ok()
    }
}

impl Insider {
    /// One of this user's in a virtual host, with a channel. Whether they may open it, the first thing that is heard tells:
    /// it is channel.open-ok or connection.close.
    pub fn connect(
        broker: &Arc<Broker>,
        user: &Arc<User>,
        vhost: &str,
        name: &str,
        purpose: Purpose,
        now: Now,
    ) -> Self {
        let limits = broker.node.limits();
        let mut insider = Self {
            session: Session::new(Arc::clone(broker), now),
            input: BytesMut::new(),
            behind: VecDeque::new(),
            behind_bytes: 0,
            received: BytesMut::new(),
            frame_max: limits.frame_max_bytes,
            heard: VecDeque::new(),
            unfinished: None,
        };
        let (channel_max, frame_max) = (limits.channel_max, limits.frame_max_bytes);
        insider.input.extend_from_slice(&PROTOCOL_HEADER);
        // Who it is was asked before: this password is looked at by nobody.
        let response = [b"\0", user.name.as_bytes(), b"\0-"].concat();
        let properties = client_properties(name);
        insider.say(
            0,
            &Method::ConnectionStartOk(ConnectionStartOk {
                client_properties: properties.as_table(),
                mechanism: "PLAIN",
                response: &response,
                locale: "en_US",
            }),
        );
        insider.turn(now);
        if insider.session.take_verification().is_some() {
            insider.session.on_verified(Some(Arc::clone(user)), now);
        }
        insider.say(0, &Method::ConnectionTuneOk(ConnectionTuneOk { channel_max, frame_max, heartbeat: 0 }));
        insider.say(0, &Method::ConnectionOpen(ConnectionOpen { virtual_host: vhost }));
        insider.turn(now);
        if purpose == Purpose::Move {
            insider.session.move_only();
        }
        insider.tell(&Method::ChannelOpen(ChannelOpen {}));
        insider.turn(now);
        // What the connection's own opening was answered is nobody's concern.
        while let Some(heard) = insider.hear(now) {
            if matches!(heard.method(), Some(Method::ChannelOpenOk(_) | Method::ConnectionClose(_))) {
                insider.heard.push_front(heard);
                break;
            }
        }
        insider
    }

    fn say(&mut self, channel: u16, method: &Method<'_>) {
        self.say_frames(|out| frame::put_method(out, channel, method));
    }

    fn say_frames(&mut self, put: impl FnOnce(&mut BytesMut)) {
        if self.behind.is_empty() {
            return put(&mut self.input);
        }
        if !matches!(self.behind.back(), Some(Said::Frames(_))) {
            self.behind.push_back(Said::Frames(BytesMut::new()));
        }
        if let Some(Said::Frames(frames)) = self.behind.back_mut() {
            let before = frames.len();
            put(frames);
            self.behind_bytes += frames.len() - before;
        }
    }

    /// Makes frames of what waits, as far as a turn goes.
    fn pour(&mut self) {
        while self.input.len() < TURN_BYTES
            && let Some(said) = self.behind.pop_front()
        {
            match said {
                Said::Frames(frames) => {
                    self.behind_bytes -= frames.len();
                    self.input.extend_from_slice(&frames);
                }
                Said::Body(mut body) => {
                    let piece_max = (self.frame_max as usize).saturating_sub(FRAME_OVERHEAD).max(1);
                    let piece = body.split_to(body.len().min(piece_max));
                    self.behind_bytes -= piece.len();
                    frame::put_body_head(&mut self.input, CHANNEL, piece.len() as u32);
                    self.input.extend_from_slice(&piece);
                    self.input.extend_from_slice(&[frame::FRAME_END]);
                    if !body.is_empty() {
                        self.behind.push_front(Said::Body(body));
                    }
                }
            }
        }
    }

    /// Whether more can be said in another turn.
    pub fn has_more_to_say(&self) -> bool {
        !self.behind.is_empty() && self.input.len() < TURN_BYTES
    }

    /// Says a method of the channel: with the next turn.
    pub fn tell(&mut self, method: &Method<'_>) {
        self.say(CHANNEL, method);
    }

    /// Says a method of the channel, and what is the content of it: from the next turn on, a part in each.
    pub fn tell_content(&mut self, method: &Method<'_>, properties: &[u8], body: Bytes) {
        self.say_frames(|out| {
            frame::put_method(out, CHANNEL, method);
            frame::put_header(out, CHANNEL, body.len() as u64, properties);
        });
        if !body.is_empty() {
            self.behind_bytes += body.len();
            self.behind.push_back(Said::Body(body));
        }
    }

    /// What was said and not yet taken, in bytes: work that is not done keeps it from being, and of who does not only move
    /// messages an alarm.
    pub fn untold_bytes(&self) -> usize {
        self.input.len() + self.behind_bytes
    }

    /// Whether it has published during an alarm that is not over; it is woken when that is.
    pub fn is_blocked(&self) -> bool {
        self.session.is_blocked()
    }

    /// One turn: what was said is taken, as far as the turn goes, and what waits is done.
    pub fn turn(&mut self, now: Now) {
        if self.session.deadline().is_some_and(|deadline| deadline <= now.instant) {
            self.session.on_timeout(now);
        }
        self.session.on_wake(now);
        self.pour();
        self.session.on_bytes(&mut self.input, now);
        shrink(&mut self.input);
    }

    /// Ready when there is something to do in a turn; otherwise the task will be woken.
    pub fn poll_work(&self, context: &mut Context<'_>) -> Poll<()> {
        self.session.poll_work(context)
    }

    /// When the next turn is due, whatever else happens.
    pub fn deadline(&self) -> Option<Instant> {
        self.session.deadline()
    }

    /// Whether there is something to hear.
    pub fn has_news(&mut self) -> bool {
        !self.heard.is_empty() || !self.session.output().is_empty()
    }

    /// The next thing that the broker says. Of a large message no more is taken than a turn may take: while there is
    /// [news](Insider::has_news) the next call goes on.
    pub fn hear(&mut self, now: Now) -> Option<Heard> {
        let mut left = TURN_BYTES;
        while left > 0 && self.heard.is_empty() && !self.session.output().is_empty() {
            left -= self.take_output(left, now);
        }
        self.heard.pop_front()
    }

    /// Takes so many bytes at most; how many.
    fn take_output(&mut self, most: usize, now: Now) -> usize {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let output = self.session.output();
        let filled = output.fill(&mut slices);
        let before = self.received.len();
        for slice in slices.iter().take(filled) {
            let left = most - (self.received.len() - before);
            self.received.extend_from_slice(slice.get(..left).unwrap_or(slice));
        }
        let taken = self.received.len() - before;
        output.advance(taken);
        if output.is_empty() {
            self.session.on_written(now);
        }
        while let Some((kind, frame)) = next_frame(&mut self.received) {
            self.on_frame(kind, frame.get(frame::HEAD_BYTES..frame.len() - 1).unwrap_or_default());
        }
        shrink(&mut self.received);
        taken
    }

    fn on_frame(&mut self, kind: FrameKind, payload: &[u8]) {
        match (kind, &mut self.unfinished) {
            (FrameKind::Method, _) => {
                let heard = Heard { method: payload.to_vec(), left: u64::MAX, ..Heard::default() };
                match heard.method().is_some_and(|method| method.has_content()) {
                    true => self.unfinished = Some(heard),
                    false => self.heard.push_back(heard),
                }
            }
            (FrameKind::Header, Some(heard)) => {
                if let Ok(header) = ContentHeader::parse(payload) {
                    heard.properties = header.properties.to_vec();
                    heard.left = header.body_bytes;
                    // It is there already: whoever sends it has it in memory.
                    heard.body.reserve_exact(header.body_bytes as usize);
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

    /// Ends it: what was got and not settled goes back, in turns like everybody's. Whether all has.
    pub fn leave(&mut self, now: Now) -> bool {
        if self.session.is_ending() {
            self.session.on_wake(now);
        } else {
            self.session.abandon(now);
        }
        !self.session.is_ending()
    }
}

fn client_properties(name: &str) -> TableBuf {
    let mut capabilities = TableBuf::new();
    capabilities.insert("consumer_cancel_notify", Field::Bool(true));
    let mut properties = TableBuf::new();
    properties.insert("capabilities", Field::Table(capabilities.as_table()));
    if !name.is_empty() {
        properties.insert("connection_name", Field::LongStr(name.as_bytes()));
    }
    properties
}

/// What a large message took is given back.
fn shrink(buffer: &mut BytesMut) {
    if buffer.is_empty() && buffer.capacity() > BUFFER_BYTES_KEPT {
        *buffer = BytesMut::new();
    }
}

/// The broker's own frames are what they should be, and now and then larger than was agreed: a header that has grown by the
/// way of its message.
fn next_frame(received: &mut BytesMut) -> Option<(FrameKind, BytesMut)> {
    let frame: FrameView<'_> = frame::peek(received, u32::MAX).ok()??;
    let (kind, bytes) = (frame.kind, frame.wire_bytes());
    Some((kind, received.split_to(bytes)))
}
