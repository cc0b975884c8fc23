//! A client, the broker's session for it, and the socket between them.
//!
//! ```text
//!  send --> travelling --> input --> [ session ] --> output --(unless stalled)--> receive
//! ```
//!
//! The session's task is played as `net::connection` plays it: write, then do what there is to do, then
//! read. It sleeps until bytes arrive, its output can be written, or its waker fires.

use std::collections::{BTreeMap, VecDeque};
use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};

use bytes::BytesMut;
use rand::Rng;
use rand::rngs::StdRng;
use sluicemq::broker::Broker;
use sluicemq::clock::Now;
use sluicemq::protocol::field::Field;
use sluicemq::protocol::frame::{PROTOCOL_HEADER, put_method};
use sluicemq::protocol::methods::{ConnectionOpen, ConnectionStartOk, ConnectionTuneOk, Method};
use sluicemq::protocol::table::TableBuf;
use sluicemq::session::Session;
use sluicemq::session::output::Output;

use crate::model::{Event, Judged, Model, Said, Span, split};
use crate::op::{Op, Verdict};

/// Channels a client uses: 1 to this one.
pub(crate) const CHANNELS: u16 = 3;
/// The longest piece that arrives at once: what a socket is read for.
const CHUNK_BYTES_MAX: usize = 64 * 1024;

#[derive(Debug, Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A channel as its client sees it.
#[derive(Debug, Default)]
pub(crate) struct ChannelView {
    pub(crate) stage: Stage,
    pub(crate) has_confirms: bool,
    pub(crate) has_tx: bool,
    /// Received and not settled.
    pub(crate) tags: Vec<u64>,
    /// Settled in the open transaction.
    settled_in_tx: Vec<u64>,
    pub(crate) consumers: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Stage {
    #[default]
    Closed,
    Open,
    /// channel.close is sent.
    Closing,
}

/// What is settled when a client connects.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity {
    /// The connection's number in the model.
    pub(crate) connection: u64,
    pub(crate) frame_max: u32,
    /// It can be told that the broker cancelled a consumer.
    pub(crate) notify_cancel: bool,
}

pub(crate) struct Client {
    /// The connection's number in the model.
    pub(crate) connection: u64,
    pub(crate) views: Vec<ChannelView>,
    /// Its socket takes nothing.
    pub(crate) stalled: bool,
    /// connection.close is sent.
    pub(crate) closing: bool,
    /// The connection has ended.
    pub(crate) closed: bool,
    session: Session,
    frame_max: u32,
    flag: Arc<Flag>,
    waker: Waker,
    /// The task has something to do, as far as it knows.
    active: bool,
    /// Its turn was over before all that had arrived was taken.
    has_rest: bool,
    travelling: BytesMut,
    input: BytesMut,
    /// What was sent and not yet processed, by the byte it ends with.
    sent: VecDeque<(u64, u16, Op)>,
    sent_bytes: u64,
    fed_bytes: u64,
    written_bytes: u64,
    said_bytes: u64,
    /// What the client will know once so many bytes are written.
    inbox: VecDeque<(u64, Event)>,
    /// What each channel has parked, and what the model made of it.
    parked: BTreeMap<u16, VecDeque<(Said, Judged)>>,
    broker: Arc<Broker>,
    /// Where the log ended before the present turn.
    log_end: u64,
}

impl Client {
    /// A client that has logged in.
    pub(crate) fn connect(broker: &Arc<Broker>, model: &mut Model, who: Identity, now: Now) -> Self {
        let Identity { connection, frame_max, notify_cancel } = who;
        let flag = Arc::new(Flag::default());
        let mut client = Self {
            connection,
            views: (0..=CHANNELS).map(|_| ChannelView::default()).collect(),
            stalled: false,
            closing: false,
            closed: false,
            session: Session::new(Arc::clone(broker), now),
            frame_max,
            waker: Waker::from(Arc::clone(&flag)),
            flag,
            active: true,
            has_rest: false,
            travelling: BytesMut::new(),
            input: login(frame_max, notify_cancel),
            sent: VecDeque::new(),
            sent_bytes: 0,
            fed_bytes: 0,
            written_bytes: 0,
            said_bytes: 0,
            inbox: VecDeque::new(),
            parked: BTreeMap::new(),
            broker: Arc::clone(broker),
            log_end: 0,
        };
        client.session.on_bytes(&mut client.input, now);
        let credentials = client.session.take_verification().expect("a login to verify");
        let user = broker.login(&credentials, IpAddr::V4(Ipv4Addr::LOCALHOST), now.instant);
        client.session.on_verified(user, now);
        client.session.on_bytes(&mut client.input, now);
        assert!(client.session.is_running() && client.input.is_empty(), "the login failed");
        let unwritten = client.session.output().len();
        client.session.output().advance(unwritten);
        client.session.on_written(now);
        model.connect(connection, frame_max, notify_cancel);
        client
    }

    /// Puts an operation on its way.
    pub(crate) fn send(&mut self, channel: u16, op: Op, rng: &mut StdRng) {
        let before = self.travelling.len();
        op.encode(channel, self.frame_max, rng, &mut self.travelling);
        self.sent_bytes += (self.travelling.len() - before) as u64;
        self.note_sent(channel, &op);
        self.sent.push_back((self.sent_bytes, channel, op));
    }

    fn note_sent(&mut self, channel: u16, op: &Op) {
        let view = &mut self.views[usize::from(channel)];
        match op {
            Op::OpenChannel => *view = ChannelView { stage: Stage::Open, ..ChannelView::default() },
            Op::CloseChannel => *view = ChannelView { stage: Stage::Closing, ..ChannelView::default() },
            Op::CloseConnection => self.closing = true,
            Op::ConfirmSelect => view.has_confirms = true,
            Op::TxSelect => view.has_tx = true,
            Op::Settle { tag, multiple, .. } => {
                let settles = |other: u64| other == *tag || (*multiple && (*tag == 0 || other < *tag));
                let (settled, kept) = view.tags.drain(..).partition(|other| settles(*other));
                view.tags = kept;
                if view.has_tx {
                    view.settled_in_tx.extend::<Vec<u64>>(settled);
                }
            }
            _ => {}
        }
    }

    /// Whether its task has a reason to run.
    pub(crate) fn is_runnable(&mut self, now: Now) -> bool {
        !self.closed
            && (self.active
                || self.flag.0.load(Ordering::Relaxed)
                || self.is_late(now)
                || (!self.travelling.is_empty() && self.session.wants_input())
                || (!self.stalled && !self.session.output().is_empty()))
    }

    fn is_late(&self, now: Now) -> bool {
        self.session.deadline().is_some_and(|deadline| deadline <= now.instant)
    }

    /// Lets its task make one step.
    pub(crate) fn run(&mut self, model: &mut Model, now: Now, rng: &mut StdRng) {
        self.flag.0.store(false, Ordering::Relaxed);
        self.active = true;
        self.log_end = self.broker.node.log.end().0;
        self.write(model, now, rng);
        if self.session.awaits_end() && self.session.output().is_empty() {
            self.session.on_end(now);
        }
        if self.session.is_closed() && self.session.output().is_empty() {
            return self.closed = true;
        }
        let mut context = Context::from_waker(&self.waker);
        if self.is_late(now) {
            self.session.on_timeout(now);
        }
        if self.session.poll_work(&mut context).is_ready() || self.has_rest {
            self.session.on_wake(now);
            // What was said now was said before anything behind a waiting get was taken.
            self.observe(model);
            self.session.on_rest(&mut self.input, now);
        } else if self.session.wants_input() && !self.travelling.is_empty() {
            let bytes = self.travelling.len().min(chunk_bytes(rng));
            self.fed_bytes += bytes as u64;
            self.input.unsplit(self.travelling.split_to(bytes));
            self.session.on_bytes(&mut self.input, now);
        } else {
            self.active = false;
        }
        // The model sees no half of what frames have caused; those behind them wait for the next step.
        self.has_rest = self.session.wants_turn();
        while self.session.is_behind() {
            self.session.on_wake(now);
        }
        self.observe(model);
    }

    /// The socket takes all or a part of what is said.
    fn write(&mut self, model: &mut Model, now: Now, rng: &mut StdRng) {
        let waiting = self.session.output().len();
        if self.stalled || waiting == 0 {
            return;
        }
        let written = if rng.random_bool(0.8) { waiting } else { rng.random_range(1..=waiting) };
        self.session.output().advance(written);
        self.written_bytes += written as u64;
        if written == waiting {
            self.session.on_written(now);
            self.observe(model);
        }
        while let Some((_, event)) = self.inbox.pop_front_if(|(end, _)| *end <= self.written_bytes) {
            self.receive(event, rng);
        }
    }

    /// Tells the model what the session has processed and said, also what it has parked, which is judged once. What
    /// is parked must then be heard as it was, in the order of its channel and not before it is durable.
    fn observe(&mut self, model: &mut Model) {
        let processed = self.fed_bytes - self.input.len() as u64;
        let count = self.sent.iter().take_while(|(end, ..)| *end <= processed).count();
        let known = (self.said_bytes - self.written_bytes) as usize;
        let said = unwritten(self.session.output()).split_off(known);
        let before = self.said_bytes;
        self.said_bytes += said.len() as u64;
        let log = Span { end: self.log_end, durable: self.broker.node.log.durable().0 };
        self.log_end = self.broker.node.log.end().0;

        let mut fresh: Vec<(Option<u64>, Said)> = Vec::new();
        let mut was_parked = false;
        for (end, said) in split(&said, self.frame_max) {
            let end = before + end as u64;
            match self.parked.get_mut(&said.channel).and_then(VecDeque::pop_front) {
                Some((expected, judged)) => {
                    assert!(
                        said == expected,
                        "channel {}: what was parked came in another order",
                        said.channel
                    );
                    was_parked = true;
                    self.hear(end, judged, log);
                }
                None => fresh.push((Some(end), said)),
            }
        }
        let mut again: BTreeMap<u16, usize> = BTreeMap::new();
        for (channel, output) in self.session.parked().outputs() {
            was_parked = true;
            for (_, said) in split(&unwritten(output), self.frame_max) {
                let (at, known) = (again.entry(channel).or_default(), self.parked.get(&channel));
                match known.and_then(|known| known.get(*at)) {
                    Some((expected, _)) => {
                        assert!(said == *expected, "what is parked on {channel} has changed")
                    }
                    None => fresh.push((None, said)),
                }
                *at += 1;
            }
        }
        let done = self.sent.drain(..count).map(|(_, channel, op)| (channel, op));
        let (ends, fresh): (Vec<_>, Vec<_>) = fresh.into_iter().unzip();
        let judged = model.observe(self.connection, done, &fresh, was_parked, log);
        for ((end, said), judged) in ends.into_iter().zip(fresh).zip(judged) {
            match end {
                Some(end) => self.hear(end, judged, log),
                None => self.parked.entry(said.channel).or_default().push_back((said, judged)),
            }
        }
    }

    /// The client will know of it when so many bytes are written.
    fn hear(&mut self, end: u64, judged: Judged, log: Span) {
        let is_durable = judged.logged_behind.is_none_or(|behind| behind < log.durable);
        assert!(is_durable, "{judged:?} is heard, and the log is durable only up to {}", log.durable);
        if let Some(event) = judged.event {
            let at = self.inbox.partition_point(|(other, _)| *other < end);
            self.inbox.insert(at, (end, event));
        }
    }

    fn receive(&mut self, event: Event, rng: &mut StdRng) {
        match event {
            Event::Delivered { channel, tag } => self.view(channel).tags.push(tag),
            Event::Refused { channel } => {
                let view = self.view(channel);
                let stage = if view.stage == Stage::Closing { Stage::Closing } else { Stage::Closed };
                *view = ChannelView { stage, ..ChannelView::default() };
                if !self.closing {
                    self.send(channel, Op::AnswerClose, rng);
                }
            }
            Event::ChannelClosed { channel } => *self.view(channel) = ChannelView::default(),
            Event::Consuming { channel, tag } => self.view(channel).consumers.push(tag),
            Event::Cancelled { channel, tag } => self.view(channel).consumers.retain(|other| *other != tag),
            Event::Recovered { channel } => {
                let view = self.view(channel);
                view.tags.clear();
                view.settled_in_tx.clear();
            }
            Event::Committed { channel } => self.view(channel).settled_in_tx.clear(),
            Event::RolledBack { channel } => {
                let view = self.view(channel);
                let mut back = std::mem::take(&mut view.settled_in_tx);
                view.tags.append(&mut back);
                view.tags.sort_unstable();
            }
            Event::ConnectionClosed => self.closing = true,
        }
    }

    fn view(&mut self, channel: u16) -> &mut ChannelView {
        &mut self.views[usize::from(channel)]
    }

    /// The socket breaks.
    pub(crate) fn drop_connection(mut self, model: &mut Model, now: Now) {
        self.session.abandon(now);
        drop(self.session);
        model.disconnect(self.connection);
    }

    /// Everything it holds, settled.
    pub(crate) fn settle_all(&mut self, verdict: Verdict, rng: &mut StdRng) {
        for channel in 1..=CHANNELS {
            let view = self.view(channel);
            if view.stage == Stage::Open && !view.tags.is_empty() {
                self.send(channel, Op::Settle { tag: 0, multiple: true, verdict }, rng);
            }
        }
    }
}

/// Mostly large pieces, and often ones that cut frames.
fn chunk_bytes(rng: &mut StdRng) -> usize {
    match rng.random_range(0..4) {
        0 => rng.random_range(1..=64),
        1 => rng.random_range(64..=4096),
        _ => CHUNK_BYTES_MAX,
    }
}

fn unwritten(output: &Output) -> Vec<u8> {
    let mut slices = vec![IoSlice::new(&[]); 64];
    loop {
        let filled = output.fill(&mut slices);
        if filled < slices.len() {
            return slices[..filled].iter().flat_map(|slice| slice.iter().copied()).collect();
        }
        let wider = slices.len() * 2;
        slices = vec![IoSlice::new(&[]); wider];
    }
}

fn login(frame_max: u32, notify_cancel: bool) -> BytesMut {
    let mut capabilities = TableBuf::new();
    capabilities.insert("consumer_cancel_notify", Field::Bool(notify_cancel));
    let mut properties = TableBuf::new();
    properties.insert("capabilities", Field::Table(capabilities.as_table()));
    let start_ok = ConnectionStartOk {
        client_properties: properties.as_table(),
        mechanism: "PLAIN",
        response: b"\0guest\0guest",
        locale: "en_US",
    };
    let tune_ok = ConnectionTuneOk { channel_max: 2047, frame_max, heartbeat: 0 };
    let mut bytes = BytesMut::from(&PROTOCOL_HEADER[..]);
    put_method(&mut bytes, 0, &Method::ConnectionStartOk(start_ok));
    put_method(&mut bytes, 0, &Method::ConnectionTuneOk(tune_ok));
    put_method(&mut bytes, 0, &Method::ConnectionOpen(ConnectionOpen { virtual_host: "/" }));
    bytes
}
