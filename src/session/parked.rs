//! Replies that wait until the log is durable, and what their channels send behind them.
//!
//! A durable declare-ok must not be heard before a crash can no longer undo the declare. Its channel works on
//! meanwhile, but what it sends leaves in order behind the reply; other channels are not concerned.
//!
//! ```text
//!  channel 1: [declare-ok, deliveries, acks | bind-ok, ...]   each | waits for its own position of the log
//!  channel 2: nothing parked: straight into the output
//! ```

use smallvec::SmallVec;

use crate::message::place::Lsn;
use crate::session::output::Output;

/// With so many parked replies a connection is not read until some have left.
pub const PARKED_REPLIES_MAX: usize = 64;

/// The parked replies of one connection, oldest first.
#[derive(Debug, Default)]
pub struct Parked {
    replies: Vec<Reply>,
}

#[derive(Debug)]
struct Reply {
    channel: u16,
    after: Lsn,
    /// The reply, and what its channel has sent since.
    out: Output,
    /// What deliveries among that take of the outbox's room until they are written, in bytes.
    room_bytes: u64,
}

impl Parked {
    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.replies.is_empty()
    }

    /// Whether no more replies should be made to wait.
    pub fn is_full(&self) -> bool {
        self.replies.len() >= PARKED_REPLIES_MAX
    }

    /// How many bytes wait.
    pub fn bytes(&self) -> usize {
        self.replies.iter().map(|reply| reply.out.len()).sum()
    }

    /// How many of the bytes that wait are replies.
    pub fn reply_bytes(&self) -> usize {
        self.replies.iter().map(|reply| reply.out.reply_bytes()).sum()
    }

    /// How many of the bytes that wait are messages that go back to the client.
    pub fn return_bytes(&self) -> usize {
        self.replies.iter().map(|reply| reply.out.return_bytes()).sum()
    }

    /// Keeps a channel's reply, a frame, until the log is durable up to `after`.
    pub fn push_frame(&mut self, channel: u16, after: Lsn, frame: &[u8]) {
        let mut out = Output::default();
        out.raw(frame);
        out.count_reply(out.len());
        self.replies.push(Reply { channel, after, out, room_bytes: 0 });
    }

    /// Keeps the connection's last frame until everything else has left.
    pub fn push_last(&mut self, frame: &[u8]) {
        let after = self.replies.iter().map(|reply| reply.after).max().unwrap_or_default();
        self.push_frame(0, after, frame);
    }

    /// What each channel says once it may, oldest first: for whoever watches the session.
    pub fn outputs(&self) -> impl Iterator<Item = (u16, &Output)> {
        self.replies.iter().map(|reply| (reply.channel, &reply.out))
    }

    /// Where a channel's frames go while it has a parked reply.
    pub fn output(&mut self, channel: u16) -> Option<&mut Output> {
        self.last_of(channel).map(|reply| &mut reply.out)
    }

    /// Counts a delivery's room with what is parked; `false` when its channel has nothing parked.
    pub fn keep_room(&mut self, channel: u16, bytes: u64) -> bool {
        let Some(reply) = self.last_of(channel) else { return false };
        reply.room_bytes += bytes;
        true
    }

    /// The first position of the log that a reply waits for.
    pub fn awaited(&self) -> Option<Lsn> {
        self.replies.iter().map(|reply| reply.after).min()
    }

    /// The log is durable up to here: what no longer waits goes to `out`. How much room of the outbox it takes.
    pub fn release(&mut self, durable: Lsn, out: &mut Output) -> u64 {
        let mut waiting = SmallVec::<[u16; 4]>::new();
        let mut room_bytes = 0;
        self.replies.retain_mut(|reply| {
            if reply.after > durable || waiting.contains(&reply.channel) {
                waiting.push(reply.channel);
                return true;
            }
            out.append(&mut reply.out);
            room_bytes += reply.room_bytes;
            false
        });
        room_bytes
    }

    fn last_of(&mut self, channel: u16) -> Option<&mut Reply> {
        self.replies.iter_mut().rfind(|reply| reply.channel == channel)
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::Parked;
    use crate::message::place::Lsn;
    use crate::protocol::frame;
    use crate::protocol::methods::{ChannelOpenOk, Method};
    use crate::session::output::Output;

    fn reply() -> BytesMut {
        let mut bytes = BytesMut::new();
        frame::put_method(&mut bytes, 1, &Method::ChannelOpenOk(ChannelOpenOk {}));
        bytes
    }

    #[test]
    fn replies_leave_when_durable_and_never_before_an_older_one_of_their_channel() {
        let mut parked = Parked::default();
        parked.push_frame(1, Lsn(20), &reply());
        parked.push_frame(2, Lsn(10), &reply());
        parked.push_frame(1, Lsn(10), &reply());
        assert_eq!(parked.awaited(), Some(Lsn(10)));
        let mut out = Output::default();
        let reply_bytes = parked.bytes() / 3;
        parked.release(Lsn(10), &mut out);
        assert_eq!(out.len(), reply_bytes, "only that of the second channel");
        parked.release(Lsn(20), &mut out);
        assert_eq!(out.len(), 3 * reply_bytes);
        assert!(parked.is_empty());
    }

    #[test]
    fn the_room_of_what_waits_is_given_back_with_it() {
        let mut parked = Parked::default();
        parked.push_frame(1, Lsn(5), &reply());
        assert!(parked.keep_room(1, 100));
        assert!(!parked.keep_room(2, 100));
        let mut out = Output::default();
        assert_eq!(parked.release(Lsn(4), &mut out), 0);
        assert_eq!(parked.release(Lsn(5), &mut out), 100);
    }
}
