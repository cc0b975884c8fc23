//! What is known of a connection while it is open, for those who watch it and for those who want it closed.
//!
//! Written by the connection's own task, once for each run or each turn, and read by anyone. The one lock here is taken
//! when channels and consumers come and go, never for a message.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;

use crate::broker::consumer::Consumer;
use crate::stats::{Charge, Counter, Gauge};

/// What is kept of a client's properties, in bytes: what it says beyond this nobody reads.
pub const PROPERTIES_BYTES_MAX: usize = 4096;

/// A connection, as others see it.
#[derive(Debug, Default)]
pub struct Presence {
    /// Bytes read from its socket.
    pub received_bytes: Counter,
    /// Reads that found any.
    pub reads: Counter,
    /// Bytes written to it.
    pub sent_bytes: Counter,
    /// Writes.
    pub writes: Counter,
    ends: OnceLock<Ends>,
    encryption: OnceLock<Box<Encryption>>,
    opened: OnceLock<Opened>,
    condition: AtomicU8,
    channels: Mutex<BTreeMap<u16, Arc<ChannelTally>>>,
    /// Why it is to be closed, and whether anybody wants that.
    farewell: Mutex<Option<String>>,
    is_unwanted: AtomicBool,
}

/// Both ends of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// Where the client is.
    pub peer: SocketAddr,
    /// Where it reached us.
    pub local: SocketAddr,
}

/// What a TLS handshake came to, in RabbitMQ's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encryption {
    /// The version.
    pub protocol: &'static str,
    /// How the keys were agreed on.
    pub key_exchange: &'static str,
    /// What encrypts.
    pub cipher: &'static str,
    /// What notices changes.
    pub hash: &'static str,
    /// The certificate that the client has shown, and which is good.
    pub certificate: Option<PeerCertificate>,
}

/// A client's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCertificate {
    /// Whose it is.
    pub subject: String,
    /// Who says so.
    pub issuer: String,
    /// From when on, and until when.
    pub validity: String,
    /// Who logs in by it, if it names anybody.
    pub login: Option<String>,
}

/// What a client said of itself, and what was agreed when it was let in.
#[derive(Debug)]
pub struct Opened {
    /// Who it is.
    pub user: String,
    /// Where it is.
    pub vhost: Arc<str>,
    /// The mechanism it logged in with.
    pub mechanism: &'static str,
    /// Its properties: a valid field table without its length.
    pub properties: Box<[u8]>,
    /// Frames are no larger, in bytes.
    pub frame_max: u32,
    /// No more channels are open at a time.
    pub channel_max: u16,
    /// The heartbeat interval in seconds.
    pub heartbeat: u16,
    /// Since when, in milliseconds since 1970.
    pub since_ms: u64,
    /// What this takes, on the node's gauge.
    pub charge: Charge,
}

/// How a connection fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Nothing keeps it.
    Running,
    /// It waits for the log.
    Flow,
    /// An alarm keeps it from publishing.
    Blocked,
}

/// What a channel has done and holds.
#[derive(Debug, Default)]
pub struct ChannelTally {
    /// Messages published.
    pub published: Counter,
    /// Of these those that were to be confirmed.
    pub to_confirm: Counter,
    /// Messages confirmed.
    pub confirmed: Counter,
    /// Messages that were for nobody and went back.
    pub returned: Counter,
    /// Messages that were for nobody.
    pub dropped: Counter,
    /// Messages delivered that need an acknowledgement.
    pub delivered: Counter,
    /// Messages delivered that do not.
    pub delivered_no_ack: Counter,
    /// Messages that basic.get took, to be acknowledged.
    pub got: Counter,
    /// Messages that basic.get took for good.
    pub got_no_ack: Counter,
    /// Times that basic.get found none.
    pub got_empty: Counter,
    /// Of all that were handed out those that had been before.
    pub redelivered: Counter,
    /// Messages acknowledged.
    pub acked: Counter,
    /// Messages rejected or returned.
    pub refused: Counter,
    /// Prefetch of each consumer; 0 is no limit.
    pub prefetch: Gauge,
    /// Prefetch of all together; 0 is no limit.
    pub shared_prefetch: Gauge,
    /// Whether it confirms.
    pub confirms: AtomicBool,
    /// Whether it is in transactions.
    pub is_transactional: AtomicBool,
    consumers: Mutex<BTreeMap<Box<str>, Subscribed>>,
}

/// A consumer, as others see it.
#[derive(Clone, Debug)]
pub struct Subscribed {
    /// The consumer, unless it has ended.
    pub consumer: Weak<Consumer>,
    /// Its arguments: a valid field table without its length.
    pub arguments: Arc<[u8]>,
    /// Its prefetch; 0 is no limit.
    pub prefetch: u32,
    /// It is to be alone.
    pub exclusive: bool,
}

impl Condition {
    /// That of a connection which an alarm or the log keeps.
    pub fn of(is_blocked: bool, is_held_back: bool) -> Self {
        match (is_blocked, is_held_back) {
            (true, _) => Self::Blocked,
            (false, true) => Self::Flow,
            (false, false) => Self::Running,
        }
    }
}

impl Presence {
    /// Where it came from.
    pub fn came(&self, ends: Ends) {
        let _ = self.ends.set(ends);
    }

    /// Both ends of its socket, where there is one.
    pub fn ends(&self) -> Option<Ends> {
        self.ends.get().copied()
    }

    /// It came by TLS.
    pub fn came_encrypted(&self, encryption: Encryption) {
        let _ = self.encryption.set(Box::new(encryption));
    }

    /// What was agreed on, if it came by TLS.
    pub fn encryption(&self) -> Option<&Encryption> {
        self.encryption.get().map(Box::as_ref)
    }

    /// It was let in.
    pub fn open(&self, opened: Opened) {
        let _ = self.opened.set(opened);
    }

    /// What it said when it was let in; `None` before.
    pub fn opened(&self) -> Option<&Opened> {
        self.opened.get()
    }

    /// It fares so from now on.
    pub fn fares(&self, condition: Condition) {
        self.condition.store(condition as u8, Ordering::Relaxed);
    }

    /// How it fares.
    pub fn condition(&self) -> Condition {
        match self.condition.load(Ordering::Relaxed) {
            0 => Condition::Running,
            1 => Condition::Flow,
            _ => Condition::Blocked,
        }
    }

    /// A channel is open: where it counts.
    pub fn open_channel(&self, number: u16) -> Arc<ChannelTally> {
        let tally = Arc::new(ChannelTally::default());
        self.channels.lock().insert(number, Arc::clone(&tally));
        tally
    }

    /// A channel has ended.
    pub fn close_channel(&self, number: u16) -> Option<Arc<ChannelTally>> {
        self.channels.lock().remove(&number)
    }

    /// All channels end: they are handed over.
    pub fn close_channels(&self) -> BTreeMap<u16, Arc<ChannelTally>> {
        std::mem::take(&mut *self.channels.lock())
    }

    /// Its channels, in order of their numbers.
    pub fn channels(&self) -> Vec<(u16, Arc<ChannelTally>)> {
        self.channels.lock().iter().map(|(number, tally)| (*number, Arc::clone(tally))).collect()
    }

    /// How many channels it has.
    pub fn channel_count(&self) -> usize {
        self.channels.lock().len()
    }

    /// Somebody wants it closed; its task is to be signalled.
    pub(super) fn bid_farewell(&self, reason: &str) {
        self.farewell.lock().get_or_insert_with(|| reason.to_owned());
        self.is_unwanted.store(true, Ordering::Release);
    }

    /// Why it is to be closed, if it is: told once.
    #[inline]
    pub fn take_farewell(&self) -> Option<String> {
        if !self.is_unwanted.load(Ordering::Acquire) {
            return None;
        }
        self.farewell.lock().take()
    }
}

impl ChannelTally {
    /// A consumer of the channel began.
    pub fn subscribed(&self, tag: &str, subscribed: Subscribed) {
        self.consumers.lock().insert(tag.into(), subscribed);
    }

    /// It has ended.
    pub fn unsubscribed(&self, tag: &str) {
        self.consumers.lock().remove(tag);
    }

    /// Its consumers, in order of their tags.
    pub fn consumers(&self) -> Vec<Subscribed> {
        self.consumers.lock().values().cloned().collect()
    }

    /// How many consumers it has.
    pub fn consumer_count(&self) -> usize {
        self.consumers.lock().len()
    }

    /// Messages it holds that are not settled. Both sides change while this reads them.
    pub fn unacked(&self) -> u64 {
        let settled = self.acked.read() + self.refused.read();
        (self.delivered.read() + self.got.read()).saturating_sub(settled)
    }

    /// Messages that are not confirmed yet.
    pub fn unconfirmed(&self) -> u64 {
        let confirmed = self.confirmed.read();
        self.to_confirm.read().saturating_sub(confirmed)
    }

    /// Adds what another channel has done.
    pub fn absorb(&self, other: &Self) {
        for (sum, count) in self.counters().into_iter().zip(other.counters()) {
            sum.add(count.read());
        }
    }

    /// All counters, always in the same order.
    fn counters(&self) -> [&Counter; 13] {
        [
            &self.published,
            &self.to_confirm,
            &self.confirmed,
            &self.returned,
            &self.dropped,
            &self.delivered,
            &self.delivered_no_ack,
            &self.got,
            &self.got_no_ack,
            &self.got_empty,
            &self.redelivered,
            &self.acked,
            &self.refused,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::{ChannelTally, Condition, Presence};

    #[test]
    fn what_a_channel_did_is_counted_on_when_it_is_gone() {
        let (presence, sum) = (Presence::default(), ChannelTally::default());
        let tally = presence.open_channel(3);
        tally.published.bump(5);
        tally.delivered.bump(4);
        tally.acked.bump(1);
        assert_eq!((tally.unacked(), presence.channel_count()), (3, 1));
        sum.absorb(&presence.close_channel(3).unwrap());
        assert_eq!((sum.published.read(), sum.acked.read(), presence.channel_count()), (5, 1, 0));
    }

    #[test]
    fn a_farewell_is_told_once_and_the_first_reason_stays() {
        let presence = Presence::default();
        assert_eq!(presence.take_farewell(), None);
        presence.bid_farewell("first");
        presence.bid_farewell("second");
        assert_eq!(presence.take_farewell().as_deref(), Some("first"));
        assert_eq!(presence.take_farewell(), None);
    }

    #[test]
    fn a_condition_reads_back() {
        let presence = Presence::default();
        for condition in [Condition::Running, Condition::Flow, Condition::Blocked] {
            presence.fares(condition);
            assert_eq!(presence.condition(), condition);
        }
    }
}
