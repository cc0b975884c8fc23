//! A connection that is open: its channels, and which frame goes to which.
//!
//! Work is done per read chunk: publishes and acknowledgements are collected, and handed over when another
//! method needs to see their effect or the chunk ends, so many steps in a turn (`session::work`).

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use crate::broker::outbox::Item;
use crate::broker::presence::Condition;
use crate::broker::queue::crowd::{self, CrowdTicket};
use crate::broker::queue::handle::Queue;
use crate::broker::wakes::HOLD_STEPS;
use crate::clock::Now;
use crate::message::place::Lsn;
use crate::protocol::express::PublishReader;
use crate::protocol::frame::{FrameKind, FrameView};
use crate::protocol::header::ContentHeader;
use crate::protocol::methods::{
    ChannelClose, ChannelCloseOk, ChannelOpenOk, ConnectionBlocked, ConnectionUnblocked,
    ConnectionUpdateSecretOk, Method,
};
use crate::protocol::reply::ReplyCode;
use crate::session::channel::discard::Discard;
use crate::session::channel::{Channel, PUBLISH_ID, Part, Piece};
use crate::session::handshake::{Client, Tuned};
use crate::session::link::Link;
use crate::session::misplaced::{expected_open, out_of_place};
use crate::session::refuse::Refusal;
use crate::session::upload::Upload;
use crate::session::work::{Closing, Ending};
use crate::stats::Charge;

/// A client that does not read its replies is not listened to. Deliveries do not count: their queues keep them when there
/// is no room, and a client that is in the middle of a large publish may read them only when it is through.
const UNREAD_BYTES_MAX: usize = 1024 * 1024;
/// Deliveries are encoded until this much waits for the socket.
const OUTPUT_BYTES_MAX: usize = 256 * 1024;

/// An open connection.
#[derive(Debug)]
pub struct Running {
    /// What its channels share.
    pub link: Link,
    /// In order of their numbers.
    pub(super) channels: Vec<(u16, Slot)>,
    pub(super) publishes: PublishReader,
    channel_max: u16,
    client: Client,
    /// An alarm is for this connection: it publishes nothing more.
    is_blocked: bool,
    /// A part of a message is what comes next, and waits for the end of the alarm.
    is_at_content: bool,
    is_held_back: bool,
    /// What unfinished messages wait for, and which one goes on without.
    pub(super) upload: Upload,
    /// A crowded queue that was published to.
    pub(super) crowded: Option<Crowded>,
    /// A method that waits for its queue is to be tried again once that is done.
    pub(super) tries_again: bool,
    /// Not all that the frames so far have caused is done.
    pub(super) is_behind: bool,
    /// A channel that ends.
    pub(super) closing: Option<Closing>,
    /// All of them do.
    pub(super) ending: Option<Ending>,
}

/// A crowded queue that is waited for.
#[derive(Debug)]
pub(super) struct Crowded {
    queue: Arc<Queue>,
    ticket: CrowdTicket,
    until: Instant,
}

/// A channel's place.
#[derive(Debug)]
pub(super) enum Slot {
    Open(Box<Channel>),
    /// channel.close is sent; what arrives until its answer is discarded.
    Closing(Discard),
}

/// What follows from a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The next frame.
    Continue,
    /// The client closes the connection.
    Closed,
}

/// A refusal that closes the connection, and the method that was refused.
#[derive(Debug)]
pub struct Failure {
    /// Why.
    pub refusal: Refusal,
    /// The method's class id, or zero.
    pub class_id: u16,
    /// The method's id, or zero.
    pub method_id: u16,
}

impl Failure {
    /// For a method, by its ids.
    pub fn new(refusal: Refusal, (class_id, method_id): (u16, u16)) -> Self {
        Self { refusal, class_id, method_id }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal, (0, 0))
    }
}

/// basic.publish, ack, reject and nack: collected, and handed over together.
const COLLECTED: [(u16, u16); 4] = [PUBLISH_ID, (60, 80), (60, 90), (60, 120)];

/// What waits while memory is short: messages, and queue.bind and exchange.bind.
const CONTENT: [(u16, u16); 3] = [PUBLISH_ID, (50, 20), (40, 30)];

impl Running {
    /// A connection without channels.
    pub fn new(mut link: Link, tuned: Tuned, client: Client) -> Self {
        link.frame_max = tuned.frame_max;
        link.notify_cancel = client.consumer_cancel_notify;
        Self {
            link,
            channels: Vec::new(),
            publishes: PublishReader::default(),
            channel_max: tuned.channel_max,
            client,
            is_blocked: false,
            is_at_content: false,
            is_held_back: false,
            upload: Upload::default(),
            crowded: None,
            tries_again: false,
            is_behind: false,
            closing: None,
            ending: None,
        }
    }

    /// Whether the client must wait: its socket is not read. During an alarm it is, up to the next part of a message:
    /// acknowledgements and commits are what gives memory back.
    pub fn must_wait(&self) -> bool {
        (self.is_blocked && self.is_at_content)
            || self.is_held_back
            || self.is_in_line()
            || self.crowded.is_some()
    }

    /// Whether an alarm is for this connection.
    pub fn is_blocked(&self) -> bool {
        self.is_blocked
    }

    /// Whether its messages wait for the end of an alarm. Not those that are only moved: they are in memory already, and
    /// their source is rid of them when they have arrived.
    pub fn holds_content(&self) -> bool {
        self.is_blocked && !self.link.moves_only
    }

    /// During an alarm: what comes next is a part of a message, or is not. Whether it is left where it is.
    pub fn waits_with(&mut self, is_content: bool) -> bool {
        self.is_at_content = is_content;
        is_content
    }

    /// Whether so many replies wait to be read that nothing more is done which the client would be answered.
    pub fn has_unread_replies(&self) -> bool {
        let (out, parked) = (&self.link.out, &self.link.parked);
        if out.reply_bytes() + parked.reply_bytes() >= UNREAD_BYTES_MAX {
            return true;
        }
        let return_bytes = (out.return_bytes() + parked.return_bytes()) as u64;
        return_bytes > 0 && self.link.node().memory.refuses_returns(return_bytes)
    }

    /// What its sleep is to end for: up to where the log must be durable, and whether it waits for the log to keep up.
    pub fn awaits(&self) -> (Option<Lsn>, bool) {
        debug_assert!(!self.link.wakes.owes(), "others wait for what a sleeper has to tell them");
        (self.link.awaited, self.is_held_back)
    }

    /// Whether the next frame may be taken, even in the middle of what was read.
    pub fn takes_frames(&self) -> bool {
        self.link.waiting.is_none()
            && !self.link.parked.is_full()
            && !self.has_unread_replies()
            && !self.wants_turn()
    }

    /// Whether there is more to do than this turn allows.
    pub fn wants_turn(&self) -> bool {
        self.is_behind || self.link.wakes.steps() >= HOLD_STEPS
    }

    /// Whether a frame may be taken before what was collected is handed over, or all of that is: a method that is no
    /// publish and no acknowledgement sees the effects of those before it, and a publish is behind what came back.
    pub fn is_ready_for(&mut self, frame: &FrameView<'_>) -> bool {
        match frame.kind {
            FrameKind::Method => {
                let id = Method::peek_id(frame.payload);
                id.is_some_and(|id| COLLECTED.contains(&id)) || self.work()
            }
            FrameKind::Header | FrameKind::Body => self.is_ready_for_content(),
            FrameKind::Heartbeat => true,
        }
    }

    /// Whether a frame is a part of a message, or a binding, by which an exchange may repeat many.
    pub fn is_content(frame: &FrameView<'_>) -> bool {
        match frame.kind {
            FrameKind::Method => Method::peek_id(frame.payload).is_some_and(|id| CONTENT.contains(&id)),
            FrameKind::Header | FrameKind::Body => true,
            FrameKind::Heartbeat => false,
        }
    }

    /// As [`Running::is_ready_for`], for a part of a body.
    pub fn is_ready_for_content(&mut self) -> bool {
        !self.link.has_returns || self.work()
    }

    /// A frame from the client.
    ///
    /// # Errors
    /// What closes the connection. What closes a channel is done here.
    pub fn on_frame(&mut self, frame: &FrameView<'_>) -> Result<Step, Failure> {
        match frame.kind {
            FrameKind::Heartbeat if frame.channel == 0 => Ok(Step::Continue),
            FrameKind::Heartbeat => Err(out_of_place(frame)),
            FrameKind::Method => self.on_method_frame(frame),
            FrameKind::Header | FrameKind::Body if frame.channel == 0 => Err(out_of_place(frame)),
            FrameKind::Header => {
                let header = ContentHeader::parse(frame.payload)
                    .map_err(|error| Refusal::new(ReplyCode::FrameError, error.to_string()))?;
                self.on_content(frame, Part::Header(header))
            }
            FrameKind::Body => self.on_content(frame, Part::Body(Piece::Slice(frame.payload))),
        }
    }

    /// A body frame whose payload was cut out of the read buffer.
    ///
    /// # Errors
    /// As [`Running::on_frame`].
    pub fn on_shared_body(&mut self, number: u16, payload: Bytes) -> Result<Step, Failure> {
        let frame = FrameView { kind: FrameKind::Body, channel: number, payload: &payload.clone() };
        if number == 0 {
            return Err(out_of_place(&frame));
        }
        self.on_content(&frame, Part::Body(Piece::Shared(payload)))
    }

    fn on_content(&mut self, frame: &FrameView<'_>, part: Part<'_>) -> Result<Step, Failure> {
        let at = self.open_or_discard(frame, |discard| discard.on_part(&part))?;
        let Some((_, Slot::Open(channel))) = at.and_then(|at| self.channels.get_mut(at)) else {
            return Ok(Step::Continue);
        };
        let id = if channel.awaits_content() { PUBLISH_ID } else { (0, 0) };
        match channel.on_part(&mut self.link, part) {
            Ok(()) => {
                self.end_upload_if_whole(frame.channel);
                Ok(Step::Continue)
            }
            Err(refusal) => self.refuse(frame.channel, refusal, id),
        }
    }

    fn on_method_frame(&mut self, frame: &FrameView<'_>) -> Result<Step, Failure> {
        let method = Method::parse(frame.payload).map_err(|error| {
            Failure::new(error.into(), Method::peek_id(frame.payload).unwrap_or_default())
        })?;
        if frame.channel == 0 {
            return self.on_connection_method(&method);
        }
        match method {
            Method::ChannelOpen(_) => self.on_channel_open(frame.channel),
            Method::ChannelClose(_) => self.on_channel_close(frame),
            Method::ChannelCloseOk(close_ok) => self.on_channel_close_ok(frame, close_ok),
            _ => {
                let at = self.open_or_discard(frame, |discard| discard.on_method(&method))?;
                let Some((_, Slot::Open(channel))) = at.and_then(|at| self.channels.get_mut(at)) else {
                    return Ok(Step::Continue);
                };
                let id = if channel.awaits_content() { PUBLISH_ID } else { method.id() };
                match channel.on_method(&mut self.link, &method) {
                    Ok(()) => {
                        self.work_if_begun();
                        Ok(Step::Continue)
                    }
                    Err(refusal) => self.refuse(frame.channel, refusal, id),
                }
            }
        }
    }

    fn on_connection_method(&mut self, method: &Method<'_>) -> Result<Step, Failure> {
        match method {
            Method::ConnectionClose(_) => Ok(Step::Closed),
            // There are no tokens to refresh: passwords are checked once.
            Method::ConnectionUpdateSecret(_) => {
                self.link.send(0, &Method::ConnectionUpdateSecretOk(ConnectionUpdateSecretOk {}));
                Ok(Step::Continue)
            }
            other => {
                let refusal = Refusal::channel_error("unexpected method in connection state running");
                Err(Failure::new(refusal, other.id()))
            }
        }
    }

    fn on_channel_open(&mut self, number: u16) -> Result<Step, Failure> {
        const ID: (u16, u16) = (20, 10);
        let Err(at) = self.find(number) else {
            self.check_between_contents(number)?;
            return Err(Failure::new(Refusal::channel_error("second 'channel.open' seen"), ID));
        };
        let open = self.channels.len();
        if open >= usize::from(self.channel_max) {
            let text = format!(
                "number of channels opened ({open}) has reached the negotiated channel_max ({})",
                self.channel_max
            );
            return Err(Refusal::not_allowed(text).into());
        }
        let (user, limit) = (&self.link.actor.user, self.link.actor.user.profile().channels_max);
        let seat = Charge::within(&user.channels, 1, limit).ok_or_else(|| {
            let (name, limit) = (&user.name, limit.unwrap_or_default());
            Refusal::not_allowed(format!(
                "number of channels opened for user '{name}' has reached the maximum allowed user limit of ({limit})"
            ))
        })?;
        let tally = self.link.outbox.presence.open_channel(number);
        self.link.node().churn.channels_opened.add(1);
        self.channels.insert(at, (number, Slot::Open(Box::new(Channel::new(number, seat, tally)))));
        self.link.send(number, &Method::ChannelOpenOk(ChannelOpenOk {}));
        Ok(Step::Continue)
    }

    fn on_channel_close(&mut self, frame: &FrameView<'_>) -> Result<Step, Failure> {
        let at = self.find(frame.channel).map_err(|_| expected_open(frame))?;
        self.check_between_contents(frame.channel)?;
        let close_ok = Method::ChannelCloseOk(ChannelCloseOk {});
        if matches!(self.channels.get(at), Some((_, Slot::Open(_))))
            && let (_, Slot::Open(channel)) = self.channels.remove(at)
        {
            self.close_channel(channel, &close_ok);
            self.work_if_begun();
        } else {
            // Closes that cross are both answered; the number is free when ours is.
            self.link.send(frame.channel, &close_ok);
        }
        Ok(Step::Continue)
    }

    fn on_channel_close_ok(
        &mut self,
        frame: &FrameView<'_>,
        close_ok: ChannelCloseOk,
    ) -> Result<Step, Failure> {
        let at = self.find(frame.channel).map_err(|_| expected_open(frame))?;
        self.check_between_contents(frame.channel)?;
        if matches!(self.channels.get(at), Some((_, Slot::Open(_)))) {
            let id = Method::ChannelCloseOk(close_ok).id();
            return Err(Failure::new(Refusal::unimplemented_method(), id));
        }
        self.channels.remove(at);
        Ok(Step::Continue)
    }

    /// A content goes on before its channel is opened or closed.
    fn check_between_contents(&self, number: u16) -> Result<(), Failure> {
        match self.find(number).ok().and_then(|at| self.channels.get(at)) {
            Some((_, Slot::Open(channel))) => {
                channel.check_between_contents().map_err(|refusal| Failure::new(refusal, PUBLISH_ID))
            }
            Some((_, Slot::Closing(discard))) => {
                discard.check_method().map_err(|refusal| Failure::new(refusal, discard.begun_by()))
            }
            None => Ok(()),
        }
    }

    /// Where the frame's channel is, if it is open. Frames of one that is closing are dropped: its client may be in the
    /// middle of a large message and hear of it only when that is sent. They come in order all the same.
    fn open_or_discard(
        &mut self,
        frame: &FrameView<'_>,
        discards: impl FnOnce(&mut Discard) -> Result<(), Refusal>,
    ) -> Result<Option<usize>, Failure> {
        let at = self.find(frame.channel).map_err(|_| expected_open(frame))?;
        let Some((_, Slot::Closing(discard))) = self.channels.get_mut(at) else { return Ok(Some(at)) };
        let id = discard.begun_by();
        discards(discard).map(|()| None).map_err(|refusal| Failure::new(refusal, id))
    }

    pub(super) fn find(&self, number: u16) -> Result<usize, usize> {
        match self.channels.first() {
            // Most connections have one.
            Some(&(first, _)) if first == number => Ok(0),
            _ => self.channels.binary_search_by_key(&number, |&(number, _)| number),
        }
    }

    /// Soft refusals close the channel, hard ones the connection.
    pub(super) fn refuse(&mut self, number: u16, refusal: Refusal, id: (u16, u16)) -> Result<Step, Failure> {
        if refusal.code.is_hard() {
            return Err(Failure::new(refusal, id));
        }
        self.close_refused(number, &refusal, id);
        self.work_if_begun();
        Ok(Step::Continue)
    }

    /// A channel begins to end for what it was refused.
    pub(super) fn close_refused(&mut self, number: u16, refusal: &Refusal, id: (u16, u16)) {
        let (code, text) = (refusal.code.code(), refusal.text());
        if let Some(left_out) = self.link.broker.complaints.allow(self.link.now.instant) {
            tracing::info!(channel = number, code, ?text, left_out, "channel closed");
        }
        let close = Method::ChannelClose(ChannelClose {
            reply_code: code,
            reply_text: &text,
            class_id: id.0,
            method_id: id.1,
        });
        if let Ok(at) = self.find(number)
            && let Some((_, slot)) = self.channels.get_mut(at)
            && let Slot::Open(channel) = &*slot
            && let closing = Slot::Closing(channel.discard())
            && let Slot::Open(channel) = std::mem::replace(slot, closing)
        {
            self.close_channel(channel, &close);
        }
    }

    /// The chunk ends, or something else has happened: hand over, deliver, look at the alarm, pay the wakes.
    pub fn pump(&mut self) {
        if self.work() {
            self.deliver();
            self.work();
        }
        if self.link.out.is_empty() {
            // Deliveries of a queue that is gone were skipped: no write will give their room back.
            self.link.on_written();
            self.work();
        }
        self.look_at_alarms();
        self.look_at_crowd();
        self.link.wakes.wake();
    }

    /// Whether there is room for what waits in the outbox: not while as much waits to be written, or for the log.
    pub fn takes_deliveries(&self) -> bool {
        self.link.out.len() + self.link.parked.bytes() < OUTPUT_BYTES_MAX
    }

    fn deliver(&mut self) {
        // What is skipped makes no output, and counts steps.
        while self.takes_deliveries() && self.link.wakes.steps() < HOLD_STEPS {
            if self.link.arriving.is_empty() {
                let outbox = Arc::clone(&self.link.outbox);
                outbox.drain_into(&mut self.link.arriving);
            }
            let Some(item) = self.link.arriving.pop_front() else { return };
            let at = self.find(item.channel());
            let slot = at.ok().and_then(|at| self.channels.get_mut(at));
            match (item, slot) {
                (Item::Delivery { consumer, run }, Some((_, Slot::Open(channel)))) => {
                    channel.deliver(&mut self.link, consumer, run);
                }
                (Item::Cancelled(consumer), Some((_, Slot::Open(channel)))) => {
                    channel.on_cancelled(&mut self.link, &consumer);
                }
                (item, _) => self.link.give_back(item),
            }
        }
    }

    /// The log may be durable further than before: what waited for that goes on.
    pub fn on_durable(&mut self) {
        let durable = self.link.node().log.durable();
        if self.link.awaited.is_none_or(|awaited| awaited > durable) {
            return;
        }
        self.link.on_durable(durable);
        for (_, slot) in &mut self.channels {
            if let Slot::Open(channel) = slot {
                channel.on_durable(&mut self.link);
                self.link.awaited = self.link.awaited.into_iter().chain(channel.awaited()).min();
            }
        }
    }

    /// Blocks a connection that has published during an alarm, and lets it go on when no reason is left. One that
    /// has published to a log that cannot keep up is held back too, and not told: that passes in a moment.
    fn look_at_alarms(&mut self) {
        let node = self.link.node();
        let mut reason = node.alarms.reason();
        // Who is held back has published, and is to be told when that is to last.
        let concerned = self.is_blocked || self.is_held_back || self.link.has_published;
        if reason.is_some() && concerned {
            node.alarms.blocked.add(&self.link.outbox);
            reason = node.alarms.reason();
        }
        let block = reason.is_some() && concerned;
        let is_concerned = self.is_held_back || self.link.has_logged || node.log.is_flooded();
        let mut hold_back = node.log.is_congested() && is_concerned;
        if hold_back {
            node.alarms.held_back.add(&self.link.outbox);
            hold_back = node.log.is_congested();
        }
        (self.link.has_published, self.link.has_logged) = (false, false);
        let is_held_on = std::mem::replace(&mut self.is_held_back, hold_back) == hold_back;
        if is_held_on && block == self.is_blocked {
            return;
        }
        self.link.outbox.presence.fares(Condition::of(block, hold_back));
        if block == self.is_blocked {
            return;
        }
        (self.is_blocked, self.is_at_content) = (block, false);
        if !self.client.connection_blocked {
            return;
        }
        if let Some(reason) = reason.filter(|_| block) {
            self.link.send(0, &Method::ConnectionBlocked(ConnectionBlocked { reason }));
        } else {
            self.link.send(0, &Method::ConnectionUnblocked(ConnectionUnblocked {}));
        }
    }

    /// Waits for a queue that is crowded, no longer than it is and than [`crowd::PATIENCE`].
    fn look_at_crowd(&mut self) {
        let published_to = self.link.burst().0.take_crowded();
        if self.crowded.as_ref().is_some_and(|crowded| crowded.queue.is_in_crowd(crowded.ticket)) {
            return;
        }
        self.crowded = published_to.and_then(|queue| {
            let ticket = queue.join_crowd(&self.link.outbox)?;
            Some(Crowded { queue, ticket, until: self.link.now.instant + crowd::PATIENCE })
        });
    }

    /// When [`Running::on_timeout`] is to be called.
    pub fn deadline(&self) -> Option<Instant> {
        let crowded = self.crowded.as_ref().map(|crowded| crowded.until);
        crowded.into_iter().chain(self.link.overdue.at()).min()
    }

    /// Time has passed: a queue that is still crowded is not waited for any longer, nor is a consumer that holds a
    /// message for too long.
    pub fn on_timeout(&mut self, now: Now) {
        if let Some(crowded) = self.crowded.take_if(|crowded| crowded.until <= now.instant) {
            crowded.queue.give_up_crowd(&mut self.link.wakes);
            self.link.wakes.wake();
        }
        self.look_for_overdue(now);
    }
}
