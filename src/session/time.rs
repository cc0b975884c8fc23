//! What time does to a connection: phases end, heartbeats are due, the silent are given up.

use std::time::Instant;

use crate::clock::Now;
use crate::session::heartbeat::{Due, Listening};
use crate::session::{Phase, Session};

impl Session {
    /// When [`Session::on_timeout`] is to be called.
    pub fn deadline(&self) -> Option<Instant> {
        let (heartbeat, running) = match &self.phase {
            Phase::Running(running) => (self.heartbeat.deadline(self.listening()), running.deadline()),
            _ => (None, None),
        };
        [self.phase_deadline, heartbeat, running].into_iter().flatten().min()
    }

    /// So many bytes lie unread in the socket: to be told before [`Session::on_timeout`]. A client that is not listened to
    /// shows by them that it is still there.
    pub fn on_unread(&mut self, bytes: u64, now: Now) {
        self.heartbeat.on_unread(bytes, now.instant);
    }

    /// Time has passed.
    pub fn on_timeout(&mut self, now: Now) {
        if self.phase_deadline.is_some_and(|deadline| now.instant >= deadline) {
            if matches!(self.phase, Phase::Header | Phase::Handshake(_)) {
                self.complain(now, "handshake took too long");
            }
            self.abandon(now);
            return;
        }
        self.begin_turn(now);
        let Phase::Running(running) = &mut self.phase else { return };
        running.on_timeout(now);
        self.pump();
        match self.heartbeat.due(now.instant, self.listening()) {
            Some(Due::PeerIsGone) => {
                self.complain(now, "no heartbeat from the client");
                self.ends_for(|| "no heartbeat from the client".to_owned());
                self.abandon(now);
            }
            Some(Due::Beat) => {
                // What waits already says as much once the client reads it.
                if self.output().is_empty() {
                    self.output().heartbeat();
                }
                self.heartbeat.on_sent(now.instant);
            }
            None => {}
        }
    }

    fn listening(&self) -> Listening {
        match &self.phase {
            _ if self.wants_input() => Listening::Yes,
            Phase::Running(running) if running.has_unread_replies() && !running.must_wait() => {
                Listening::NotWhileUnread
            }
            _ => Listening::No,
        }
    }

    /// The socket took some of the output.
    pub fn on_taken(&mut self, now: Now) {
        self.heartbeat.on_taken(now.instant);
    }
}
