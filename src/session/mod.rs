//! One AMQP connection as a state machine: bytes in, bytes out.
//!
//! It owns no socket, no task and no clock. Whoever drives it feeds it what arrived, tells it what happened and
//! what time it is, and writes what it has to say:
//!
//! ```text
//!           on_bytes, on_rest, on_verified, on_wake, on_written, on_timeout, on_shutdown, on_end
//!                                      |
//!   Header -> Handshake -> Running -> Ending -> Closing -> Closed      we close the connection
//!                                       '-----> Leaving -----^         the client does
//!                                      |
//!          output, take_verification, wants_input, deadline, poll_work
//! ```
//!
//! Read [`running`] for a frame's way and `cut` for a large body's, [`channel`] for the methods, [`link`] for what one
//! read chunk collects, `work` for the turns in which it is worked off, `upload` for large messages that must wait, [`refuse`] for how a refusal becomes a close,
//! `end` for how a connection ends.

pub mod channel;
pub mod chore;
mod cut;
mod end;
mod exclusive;
mod express;
pub mod handshake;
pub mod heartbeat;
pub mod link;
mod misplaced;
pub mod output;
pub mod overdue;
pub mod parked;
pub mod refuse;
pub mod running;
mod slim;
mod strangers;
mod time;
pub mod unroutable;
mod upload;
mod visit;
pub mod waiting;
mod work;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};

use crate::auth::sasl::Credentials;
use crate::auth::users::User;
use crate::broker::Broker;
use crate::broker::outbox::Outbox;
use crate::broker::presence::Presence;
use crate::broker::vhost::Actor;
use crate::clock::Now;
use crate::protocol::frame::{self, FrameKind, FrameView, PROTOCOL_HEADER, ProtocolHeader};
use crate::protocol::methods::Method;
use crate::protocol::reply::ReplyCode;
use crate::session::cut::Cut;
use crate::session::end::Last;
use crate::session::handshake::Handshake;
use crate::session::heartbeat::Heartbeat;
use crate::session::link::Link;
use crate::session::output::Output;
use crate::session::parked::Parked;
use crate::session::refuse::Refusal;
use crate::session::running::{Failure, Running};
use crate::session::visit::Visit;

/// One connection.
#[derive(Debug)]
pub struct Session {
    broker: Arc<Broker>,
    outbox: Arc<Outbox>,
    phase: Phase,
    /// The output while there is no link to hold it.
    out: Output,
    /// Likewise the replies that wait for the log: the connection's close leaves behind them.
    parked: Parked,
    heartbeat: Heartbeat,
    frame_max: u32,
    /// The turn was over, or too many replies were unread, before all that had arrived was looked at: only
    /// [`Session::on_rest`] takes that up again.
    has_rest: bool,
    /// When the present phase must have ended. Only an open connection, and one that gives back what it held, have none.
    phase_deadline: Option<Instant>,
    verification: Option<Credentials>,
    cut: Cut,
    visit: Option<Visit>,
}

#[derive(Debug)]
enum Phase {
    Header,
    Handshake(Handshake),
    Running(Box<Running>),
    /// What it held goes back, so many steps in a turn; then it says its last word.
    Ending(Box<Running>, Last),
    /// connection.close is sent; when `deaf`, not even an answer can be understood.
    Closing {
        deaf: bool,
        /// The client has closed it as well, and was told that it may.
        is_answered: bool,
    },
    /// The client's connection.close is answered: it is to end the connection.
    Leaving,
    /// What is left is written, and then the socket is closed.
    Closed,
}

impl Session {
    /// A connection that was just accepted.
    pub fn new(broker: Arc<Broker>, now: Now) -> Self {
        let limits = broker.node.limits();
        Self {
            outbox: broker.connect(),
            phase: Phase::Header,
            out: Output::default(),
            parked: Parked::default(),
            heartbeat: Heartbeat::new(now.instant),
            frame_max: limits.initial_frame_max_bytes,
            has_rest: false,
            phase_deadline: Some(now.instant + Duration::from_millis(limits.header_timeout_ms)),
            verification: None,
            cut: Cut::default(),
            visit: None,
            broker,
        }
    }

    /// Takes what it understands from the front of `input`. An incomplete frame stays there, and so does everything
    /// behind a method that must wait: see [`Session::on_rest`].
    pub fn on_bytes(&mut self, input: &mut BytesMut, now: Now) {
        self.heartbeat.on_received(now.instant);
        self.outbox.busy();
        self.begin_turn(now);
        self.on_rest(input, now);
    }

    /// Goes on with what was read and had to wait: after [`Session::on_wake`] and [`Session::on_verified`].
    pub fn on_rest(&mut self, input: &mut BytesMut, now: Now) {
        let before = input.len();
        self.cut.begin_chunk(before);
        self.has_rest = false;
        let mut at = 0;
        while self.take_next(input, &mut at, now) {}
        input.advance(at.min(input.len()));
        self.cut.end_chunk(before - input.len());
        self.pump();
    }

    /// Handles what starts at `at`. `false` when there is nothing more to take now.
    fn take_next(&mut self, input: &mut BytesMut, at: &mut usize, now: Now) -> bool {
        let rest = input.get(*at..).unwrap_or_default();
        match &self.phase {
            Phase::Header => match frame::check_protocol_header(rest) {
                None => return false,
                Some(ProtocolHeader::Accepted) => {
                    *at += PROTOCOL_HEADER.len();
                    let config = &self.broker.config;
                    let begun = Handshake::start(config, &self.outbox.presence, &mut self.out);
                    self.phase = Phase::Handshake(begun);
                    let limit = self.broker.node.limits().handshake_timeout_ms;
                    self.phase_deadline = Some(now.instant + Duration::from_millis(limit));
                    return true;
                }
                Some(ProtocolHeader::Refused) => {
                    strangers::tell(&self.broker, rest, now);
                    self.out.raw(&PROTOCOL_HEADER);
                    self.enter(Phase::Closed, now);
                    return false;
                }
            },
            Phase::Handshake(handshake) if handshake.is_verifying() => return false,
            Phase::Running(running) if !running.takes_frames() => {
                self.has_rest = running.wants_turn() || running.has_unread_replies();
                return false;
            }
            Phase::Ending(..) => return false,
            Phase::Closing { deaf: true, .. } | Phase::Leaving | Phase::Closed => {
                *at = input.len();
                return false;
            }
            Phase::Handshake(_) | Phase::Running(_) | Phase::Closing { deaf: false, .. } => {}
        }
        if let Some(channel) = self.cut.partial_channel() {
            return !self.waits_with(|| true)
                && !self.waits_for_room(channel, rest.len())
                && self.is_ready_for_content(now)
                && self.take_part(input, at, now);
        }
        self.take_express(input, at, now) || self.take_frame(input, at, now)
    }

    /// Handles the frame at `at`, or what has arrived of one that is not collected first. `false` when it must wait.
    fn take_frame(&mut self, input: &mut BytesMut, at: &mut usize, now: Now) -> bool {
        let rest = input.get(*at..).unwrap_or_default();
        match frame::peek(rest, self.frame_max) {
            Ok(None) if self.waits_with(|| FrameKind::is_content_octet(rest.first())) => false,
            Ok(None) => self.is_running() && self.cut.begin_part(input, at, self.frame_max),
            Ok(Some(frame)) if self.waits_with(|| Running::is_content(&frame)) => false,
            Ok(Some(frame)) if self.waits_for_room_for(&frame) => false,
            Ok(Some(frame)) if !self.is_ready_for(&frame, now) => false,
            Ok(Some(frame)) if self.cut.takes(&frame) => {
                let (channel, payload_bytes) = (frame.channel, frame.payload.len());
                let payload = Cut::take_whole(payload_bytes, input, at);
                self.on_body(channel, payload, now);
                true
            }
            Ok(Some(frame)) => {
                *at += frame.wire_bytes();
                self.on_frame(&frame, now);
                true
            }
            Err(error) => {
                self.fail(&Failure::from(Refusal::from(error)), true, now);
                true
            }
        }
    }

    /// Whether what was taken before lets this frame be taken in this turn.
    fn is_ready_for(&mut self, frame: &FrameView<'_>, now: Now) -> bool {
        let Phase::Running(running) = &mut self.phase else { return true };
        running.link.now = now;
        self.has_rest = !running.is_ready_for(frame);
        !self.has_rest
    }

    fn waits_with(&mut self, is_content: impl FnOnce() -> bool) -> bool {
        match &mut self.phase {
            Phase::Running(running) if running.holds_content() => running.waits_with(is_content()),
            _ => false,
        }
    }

    fn is_ready_for_content(&mut self, now: Now) -> bool {
        let Phase::Running(running) = &mut self.phase else { return true };
        running.link.now = now;
        self.has_rest = !running.is_ready_for_content();
        !self.has_rest
    }

    /// Takes what has arrived of a body frame that is not collected first. `false` when that is too little.
    fn take_part(&mut self, input: &mut BytesMut, at: &mut usize, now: Now) -> bool {
        match self.cut.take_part(input, at) {
            Ok(Some((channel, payload))) => self.on_body(channel, payload, now),
            Ok(None) => return false,
            Err(error) => self.fail(&Failure::from(Refusal::from(error)), true, now),
        }
        true
    }

    fn on_body(&mut self, channel: u16, payload: Bytes, now: Now) {
        if !Cut::is_large(&payload) {
            return self.on_frame(&FrameView { kind: FrameKind::Body, channel, payload: &payload }, now);
        }
        if let Phase::Running(running) = &mut self.phase {
            running.link.now = now;
            let step = running.on_shared_body(channel, payload);
            self.on_running_step(step, now);
        }
    }

    /// Whether the commonest frames stood at `at`, and were taken.
    fn take_express(&mut self, input: &[u8], at: &mut usize, now: Now) -> bool {
        let Phase::Running(running) = &mut self.phase else { return false };
        running.link.now = now;
        let before = *at;
        let outcome = running.take_express(input, at);
        let failed = outcome.is_err();
        self.on_running_step(outcome.map(|()| running::Step::Continue), now);
        failed || *at > before
    }

    fn on_frame(&mut self, frame: &FrameView<'_>, now: Now) {
        match &mut self.phase {
            Phase::Handshake(handshake) => {
                let step = handshake.on_frame(&self.broker, frame, &mut self.out);
                let id = if frame.channel == 0 { Method::peek_id(frame.payload) } else { None };
                self.on_handshake_step(step, id.unwrap_or_default(), now);
            }
            Phase::Running(running) => {
                running.link.now = now;
                let step = running.on_frame(frame);
                self.on_running_step(step, now);
            }
            Phase::Closing { .. } => self.on_frame_while_closing(frame, now),
            Phase::Header | Phase::Ending(..) | Phase::Leaving | Phase::Closed => {}
        }
    }

    fn on_running_step(&mut self, step: Result<running::Step, Failure>, now: Now) {
        match step {
            Ok(running::Step::Continue) => {}
            Ok(running::Step::Closed) => self.close_ok(now),
            Err(failure) => self.fail(&failure, false, now),
        }
    }

    fn on_handshake_step(&mut self, step: handshake::Step, id: (u16, u16), now: Now) {
        match step {
            handshake::Step::Continue => {}
            handshake::Step::Verify(credentials) => self.verification = Some(credentials),
            handshake::Step::Opened { user, vhost, seats, tuned, client, name, said } => {
                self.show(&user, &vhost, tuned, said, now);
                // Who deletes it closes it first, and then the connections that are shown to be in it.
                let is_closing = vhost.is_closing();
                self.log_opened(&user, &vhost, &name, now);
                self.frame_max = tuned.frame_max;
                self.phase_deadline = None;
                self.heartbeat.start(tuned.heartbeat, now.instant);
                let actor = Actor { user, connection: self.outbox.connection() };
                let out = std::mem::take(&mut self.out);
                let (broker, outbox) = (Arc::clone(&self.broker), Arc::clone(&self.outbox));
                let link = Link::new(broker, actor, vhost, seats, outbox, out, now);
                self.phase = Phase::Running(Box::new(Running::new(link, tuned, client)));
                if is_closing {
                    let refusal = Refusal::new(ReplyCode::ConnectionForced, "vhost is being deleted");
                    self.fail(&refusal.into(), false, now);
                }
            }
            handshake::Step::Refused(refusal) => self.fail(&Failure::new(refusal, id), false, now),
            handshake::Step::Dropped(reason) => {
                self.complain(now, reason);
                let delay = self.broker.node.limits().auth_failure_delay_ms;
                self.phase = Phase::Closing { deaf: true, is_answered: false };
                self.phase_deadline = Some(now.instant + Duration::from_millis(delay));
            }
            handshake::Step::Closed => self.close_ok(now),
        }
    }

    /// Of a connection that is closing only the end matters. When closes cross, the client owes us an answer still.
    fn on_frame_while_closing(&mut self, frame: &FrameView<'_>, now: Now) {
        if frame.kind != FrameKind::Method || frame.channel != 0 {
            return;
        }
        match Method::parse(frame.payload) {
            Ok(Method::ConnectionClose(_)) => self.answer_close(),
            Ok(Method::ConnectionCloseOk(_)) => self.enter(Phase::Closed, now),
            _ => {}
        }
    }

    /// Once: whoever closes again and again reads no answer either.
    fn answer_close(&mut self) {
        if let Phase::Closing { is_answered, .. } = &mut self.phase
            && !std::mem::replace(is_answered, true)
        {
            self.put_last(&end::close_ok());
        }
    }

    fn complain(&self, now: Now, about: &str) {
        if let Some(left_out) = self.broker.complaints.allow(now.instant) {
            tracing::warn!(left_out, "connection closed: {about}");
        }
    }

    /// A phase of the connection's end. However far it gets, a client that neither reads nor answers, or a log that is
    /// never durable, holds it up no longer than this.
    fn enter(&mut self, phase: Phase, now: Now) {
        self.phase = phase;
        let limit = self.broker.node.limits().close_timeout_ms;
        self.phase_deadline = Some(now.instant + Duration::from_millis(limit));
    }

    fn pump(&mut self) {
        if let Phase::Running(running) = &mut self.phase {
            running.pump();
        }
    }

    /// A password to be checked by someone who may take the time; the answer is [`Session::on_verified`].
    pub fn take_verification(&mut self) -> Option<Credentials> {
        self.verification.take()
    }

    /// The password was checked; `None` when the login fails.
    pub fn on_verified(&mut self, user: Option<Arc<User>>, now: Now) {
        let churn = &self.broker.node.churn;
        let counted = if user.is_some() { &churn.logins } else { &churn.logins_refused };
        counted.add(1);
        if let Phase::Handshake(handshake) = &mut self.phase {
            let step = handshake.on_verified(user, self.broker.node.limits.load_full(), &mut self.out);
            self.on_handshake_step(step, (0, 0), now);
        }
    }

    /// Something waits in the outbox, more is durable, or the alarm has changed. Afterwards [`Session::on_rest`] goes
    /// on with what was read and had to wait.
    pub fn on_wake(&mut self, now: Now) {
        self.outbox.busy();
        self.begin_turn(now);
        if let Phase::Running(running) = &mut self.phase {
            running.link.now = now;
            running.on_durable();
            running.slim();
            let step = running.retry();
            self.on_running_step(step, now);
        } else if matches!(self.phase, Phase::Ending(..)) {
            self.go_on_ending(now);
        } else if !self.parked.is_empty() {
            self.parked.release(self.broker.node.log.durable(), &mut self.out);
        }
        self.pump();
        self.look_for_farewell(now);
    }

    pub(super) fn begin_turn(&mut self, now: Now) {
        if let Phase::Running(running) | Phase::Ending(running, _) = &mut self.phase {
            running.link.wakes.begin_turn(now.steady_ms);
        }
    }

    /// How many steps the present turn has taken: a thousand are enough.
    pub fn steps(&self) -> u32 {
        match &self.phase {
            Phase::Running(running) | Phase::Ending(running, _) => running.link.wakes.steps(),
            _ => 0,
        }
    }

    /// Whether there is more to do than the present turn allows: [`Session::on_wake`] and [`Session::on_rest`] go on with
    /// it.
    pub fn wants_turn(&self) -> bool {
        match &self.phase {
            Phase::Running(running) => {
                running.wants_turn()
                    || running.tries_again
                    || (self.has_rest && !running.has_unread_replies())
                    || running.link.wakes.has_unfinished()
            }
            Phase::Ending(..) => true,
            _ => false,
        }
    }

    /// Whether what was taken so far has not all had its effect.
    pub fn is_behind(&self) -> bool {
        match &self.phase {
            Phase::Running(running) => running.is_behind,
            Phase::Ending(..) => true,
            _ => false,
        }
    }

    /// Ready when [`Session::on_wake`] has something to do; otherwise its task will be woken. While output waits for the
    /// socket, or much for the log, deliveries wait with it. Others wait for what this connection has published, and it for
    /// the end of an alarm, whether or not its client reads.
    pub fn poll_work(&self, context: &mut Context<'_>) -> Poll<()> {
        if self.poll_durable(context).is_ready() {
            return Poll::Ready(());
        }
        let takes_items = match &self.phase {
            Phase::Running(running) => running.link.out.is_empty() && running.takes_deliveries(),
            _ => self.out.is_empty(),
        };
        if takes_items { self.outbox.poll_work(context) } else { self.outbox.poll_signal(context) }
    }

    fn poll_durable(&self, context: &mut Context<'_>) -> Poll<()> {
        let (awaited, is_held_back) = match &self.phase {
            _ if self.wants_turn() => return Poll::Ready(()),
            Phase::Running(running) => running.awaits(),
            _ => (self.parked.awaited(), false),
        };
        if awaited.is_none() && !is_held_back {
            return Poll::Pending;
        }
        let log = &self.broker.node.log;
        log.wake_when_durable(awaited.unwrap_or_default(), context.waker());
        let is_durable = awaited.is_some_and(|awaited| awaited <= log.durable());
        if is_durable || (is_held_back && !log.is_congested()) { Poll::Ready(()) } else { Poll::Pending }
    }

    /// What others see of the connection.
    pub fn presence(&self) -> &Presence {
        &self.outbox.presence
    }

    /// Somebody wants the connection closed.
    fn look_for_farewell(&mut self, now: Now) {
        if let Some(reason) = self.outbox.presence.take_farewell()
            && self.is_running()
        {
            self.fail(&Refusal::new(ReplyCode::ConnectionForced, reason).into(), false, now);
        }
    }

    /// All output was written.
    pub fn on_written(&mut self, now: Now) {
        self.heartbeat.on_sent(now.instant);
        self.begin_turn(now);
        if let Phase::Running(running) = &mut self.phase {
            running.link.on_written();
            running.pump();
        }
    }

    /// Nothing is taken in for now: buffers are given back, so that ten thousand idle connections cost little, and as
    /// many that wait for memory do not need more of it.
    pub fn on_idle(&mut self) {
        if let Phase::Running(running) = &mut self.phase {
            running.link.shrink();
        }
        self.output().shrink();
    }

    /// What is to be written.
    pub fn output(&mut self) -> &mut Output {
        match &mut self.phase {
            Phase::Running(running) | Phase::Ending(running, _) => &mut running.link.out,
            _ => &mut self.out,
        }
    }

    /// What waits for the log before it may be written.
    pub fn parked(&self) -> &Parked {
        match &self.phase {
            Phase::Running(running) | Phase::Ending(running, _) => &running.link.parked,
            _ => &self.parked,
        }
    }

    /// Whether the socket should be read.
    pub fn wants_input(&self) -> bool {
        match &self.phase {
            Phase::Running(running) => !running.must_wait() && running.takes_frames(),
            Phase::Handshake(handshake) => !handshake.is_verifying(),
            Phase::Header | Phase::Closing { .. } | Phase::Leaving => true,
            Phase::Ending(..) | Phase::Closed => false,
        }
    }

    /// Whether an alarm is for this client, which is read no further than it must be.
    pub fn is_blocked(&self) -> bool {
        matches!(&self.phase, Phase::Running(running) if running.is_blocked())
    }

    /// Whether it is at work that can wait: others should have their turns first.
    pub fn yields(&self) -> bool {
        matches!(&self.phase, Phase::Running(running) if running.link.slimming.is_some())
    }

    /// Whether the client is in.
    pub fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running(_))
    }

    /// Whether all is said: once the output is written the socket can be closed.
    pub fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed) && self.parked.is_empty()
    }

    /// Whether the client's close is answered, and nothing is missing but that it ends the connection.
    pub fn awaits_end(&self) -> bool {
        matches!(self.phase, Phase::Leaving) && self.parked.is_empty()
    }

    /// The broker stops: the client is told so.
    pub fn on_shutdown(&mut self, now: Now) {
        match self.phase {
            Phase::Running(_) => {
                let text = "broker forced connection closure with reason 'shutdown'";
                self.fail(&Refusal::new(ReplyCode::ConnectionForced, text).into(), false, now);
            }
            Phase::Header | Phase::Handshake(_) => self.abandon(now),
            Phase::Leaving => self.phase = Phase::Closed,
            Phase::Ending(..) | Phase::Closing { .. } | Phase::Closed => {}
        }
    }

    /// The client has shut its side. When it has closed the connection before, it may still want to read the answer.
    pub fn on_end(&mut self, now: Now) {
        match self.phase {
            Phase::Leaving | Phase::Closed => self.phase = Phase::Closed,
            _ => {
                self.ends_for(|| "the client is gone without a close".to_owned());
                self.abandon(now);
            }
        }
    }
}

impl Drop for Session {
    /// However a connection ends, what it held goes back.
    fn drop(&mut self) {
        self.finish_ending();
        self.log_ended();
        self.hide();
        self.outbox.close();
        self.broker.disconnect(self.outbox.connection());
    }
}
