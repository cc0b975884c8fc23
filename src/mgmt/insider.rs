//! The client inside the process, for handlers: they run on threads that may wait for its answers.

use std::sync::Arc;
use std::task::{Context, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::auth::users::User;
use crate::broker::Broker;
use crate::clock::Now;
use crate::mgmt::answer::Refusal;
use crate::protocol::methods::Method;
use crate::transfer::insider;

pub(crate) use crate::transfer::insider::{Heard, Purpose};

/// What is not answered in this time is told to be unavailable: a publisher waits for an alarm to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// The client.
pub(crate) struct Insider {
    own: insider::Insider,
    now: Now,
    until: Instant,
    waker: Waker,
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
        Self::connect_for(Purpose::Errand, broker, user, vhost)
    }

    /// As [`Insider::connect`], for this purpose.
    ///
    /// # Errors
    /// The user may not open it.
    pub(crate) fn connect_for(
        purpose: Purpose,
        broker: &Arc<Broker>,
        user: &Arc<User>,
        vhost: &str,
    ) -> Result<Self, Refusal> {
        let now = Now::read();
        let mut insider = Self {
            own: insider::Insider::connect(broker, user, vhost, "", purpose, now),
            now,
            until: now.instant + PATIENCE,
            waker: Waker::from(Arc::new(Unpark(std::thread::current()))),
        };
        insider.wait_for(|method| matches!(method, Method::ChannelOpenOk(_)))?;
        Ok(insider)
    }

    /// Says a method of the channel.
    pub(crate) fn tell(&mut self, method: &Method<'_>) {
        self.own.tell(method);
        self.own.turn(self.now);
    }

    /// Says a method of the channel, and what is the content of it.
    pub(crate) fn tell_content(&mut self, method: &Method<'_>, properties: &[u8], body: Bytes) {
        self.own.tell_content(method, properties, body);
        self.own.turn(self.now);
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
        self.wait_for(is_answer)
    }

    fn wait_for(&mut self, is_answer: impl Fn(&Method<'_>) -> bool) -> Result<Heard, Refusal> {
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
            if let Some(heard) = self.own.hear(self.now) {
                match heard.method() {
                    Some(Method::ChannelClose(close)) => return Err(Refusal::bad_request(close.reply_text)),
                    Some(Method::ConnectionClose(close)) => {
                        return Err(Refusal::bad_request(close.reply_text));
                    }
                    _ => return Ok(heard),
                }
            }
            let has_more = self.own.has_news() || self.own.has_more_to_say();
            let is_idle = !has_more && self.own.poll_work(&mut Context::from_waker(&self.waker)).is_pending();
            self.now = Now::read();
            let deadline = self.own.deadline().map_or(self.until, |deadline| deadline.min(self.until));
            if !is_idle {
                self.own.turn(self.now);
            } else if self.now.instant >= self.until {
                return Err(Refusal::unavailable());
            } else if self.now.instant >= deadline {
                self.own.turn(self.now);
            } else {
                std::thread::park_timeout(deadline - self.now.instant);
            }
        }
    }
}

impl Drop for Insider {
    /// What was got and not settled goes back, in turns like everybody's.
    fn drop(&mut self) {
        while !self.own.leave(Now::read()) {}
    }
}
