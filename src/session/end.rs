//! How a connection ends: what it held goes back in turns, then it says its last word.

use bytes::BytesMut;

use crate::clock::Now;
use crate::protocol::frame;
use crate::protocol::methods::{ConnectionClose, ConnectionCloseOk, Method};
use crate::session::parked::Parked;
use crate::session::running::Failure;
use crate::session::{Phase, Session};

/// What a connection says when it has left.
#[derive(Debug)]
pub(super) enum Last {
    /// connection.close-ok: the client has closed it.
    CloseOk,
    /// connection.close; when `deaf`, not even an answer can be understood.
    Close { frame: BytesMut, deaf: bool },
    /// Nobody listens.
    Nothing,
}

impl Session {
    /// The client has closed the connection: everything ends before it is told so. It may still be reading what came
    /// before, so that the end is its to make.
    pub(super) fn close_ok(&mut self, now: Now) {
        self.ends_for(|| "closed by the client".to_owned());
        self.end(Last::CloseOk, now);
    }

    /// Tells the client why the connection is closed, and waits a while for its answer.
    pub(super) fn fail(&mut self, failure: &Failure, deaf: bool, now: Now) {
        let Failure { refusal, class_id, method_id } = failure;
        let (code, text) = (refusal.code.code(), refusal.text());
        if self.is_visit() {
            self.ends_for(|| format!("closed by the broker: {code} {text}"));
        } else if let Some(left_out) = self.broker.complaints.allow(now.instant) {
            tracing::warn!(code, ?text, left_out, "connection closed");
        }
        let close = ConnectionClose {
            reply_code: code,
            reply_text: &text,
            class_id: *class_id,
            method_id: *method_id,
        };
        let mut bytes = BytesMut::new();
        frame::put_method(&mut bytes, 0, &Method::ConnectionClose(close));
        self.end(Last::Close { frame: bytes, deaf }, now);
    }

    fn end(&mut self, last: Last, now: Now) {
        self.phase = match std::mem::replace(&mut self.phase, Phase::Closed) {
            Phase::Running(mut running) => {
                // What was published so far is handed over and confirmed, if this turn allows.
                running.work();
                running.end();
                Phase::Ending(running, last)
            }
            Phase::Ending(running, _) => Phase::Ending(running, last),
            _ => return self.say_last(last, now),
        };
        self.go_on_ending(now);
    }

    /// Gives back what the connection held, as far as this turn goes, and ends it when that is all.
    pub(super) fn go_on_ending(&mut self, now: Now) {
        let Phase::Ending(running, _) = &mut self.phase else { return };
        let is_over = running.work() && !running.link.wakes.has_unfinished();
        running.link.wakes.wake();
        if is_over && let Phase::Ending(mut running, last) = std::mem::replace(&mut self.phase, Phase::Closed)
        {
            self.out = std::mem::take(&mut running.link.out);
            self.parked = std::mem::take(&mut running.link.parked);
            self.say_last(last, now);
        }
    }

    fn say_last(&mut self, last: Last, now: Now) {
        match last {
            Last::CloseOk => {
                self.put_last(&close_ok());
                self.enter(Phase::Leaving, now);
            }
            Last::Close { frame, deaf } => {
                self.put_last(&frame);
                self.enter(Phase::Closing { deaf, is_answered: false }, now);
            }
            Last::Nothing => self.fall_silent(),
        }
    }

    fn fall_silent(&mut self) {
        self.out.clear();
        self.parked = Parked::default();
        self.phase = Phase::Closed;
        self.phase_deadline = None;
    }

    /// A last word goes out behind what still waits for the log.
    pub(super) fn put_last(&mut self, frame: &[u8]) {
        if self.parked.is_empty() {
            self.out.raw(frame);
        } else {
            self.parked.push_last(frame);
        }
    }

    /// The socket is gone, or nobody is there to talk to: what the connection held goes back, in this turn and, when
    /// that is not enough, in those of [`Session::on_wake`] for as long as [`Session::is_ending`].
    pub fn abandon(&mut self, now: Now) {
        self.begin_turn(now);
        match &mut self.phase {
            Phase::Running(running) | Phase::Ending(running, _) => {
                running.link.now = now;
                self.end(Last::Nothing, now);
            }
            _ => self.fall_silent(),
        }
    }

    /// Whether what the connection held has not all gone back.
    pub fn is_ending(&self) -> bool {
        matches!(self.phase, Phase::Ending(..))
    }

    /// From now on it only moves messages, for the broker: what it gives back is as if nobody had had it, however long it
    /// was held, and who published what it publishes was asked when they did. Its frames may be of any size: headers have
    /// grown on their way.
    pub fn move_only(&mut self) {
        self.frame_max = u32::MAX;
        if let Phase::Running(running) = &mut self.phase {
            running.link.moves_only = true;
        }
    }

    /// However a connection ends, what it held goes back, in one turn if there are no others.
    pub(super) fn finish_ending(&mut self) {
        match &self.phase {
            Phase::Running(running) | Phase::Ending(running, _) => self.abandon(running.link.now),
            _ => self.fall_silent(),
        }
        while let Phase::Ending(running, _) = &mut self.phase {
            let now = running.link.now;
            running.link.wakes.begin_turn(now.steady_ms);
            self.go_on_ending(now);
        }
    }
}

/// connection.close-ok, the whole frame.
pub(super) fn close_ok() -> BytesMut {
    let mut bytes = BytesMut::new();
    frame::put_method(&mut bytes, 0, &Method::ConnectionCloseOk(ConnectionCloseOk {}));
    bytes
}
