//! One client at a broker on a simulated disk, all in one thread: what a client is told, and nothing else, counts.

use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::task::{Context, Waker};

use bytes::{Buf, BytesMut};
use sluicemq::broker::Broker;
use sluicemq::broker::checkpoint::{Checkpoint, Progress};
use sluicemq::broker::memory::Memory;
use sluicemq::broker::queue::handle::Queue;
use sluicemq::broker::recover::OpenError;
use sluicemq::broker::wakes::Wakes;
use sluicemq::clock::Now;
use sluicemq::config::Config;
use sluicemq::protocol::frame::{self, FRAME_END, FrameKind, PROTOCOL_HEADER};
use sluicemq::protocol::methods::{
    BasicGet, BasicPublish, ChannelOpen, ConfirmSelect, ConnectionOpen, ConnectionStartOk, ConnectionTuneOk,
    Method, QueueDeclare,
};
use sluicemq::protocol::properties::PropertiesBuf;
use sluicemq::protocol::table::Table;
use sluicemq::session::Session;
use sluicemq::storage::disk::Disk;
use sluicemq::storage::error::StoreError;
use sluicemq::storage::log::{Committed, LogOptions};

const ROOM_BYTES: u64 = 1 << 40;
const FRAME_BYTES_MAX: usize = 131_072;
/// Small slots and a short window: a checkpoint every few messages.
pub(crate) const SLOT_BYTES: u64 = 64 * 1024;
const WINDOW_SLOTS: usize = 2;
/// More turns than any answer takes.
const TURNS_MAX: usize = 1000;
/// More turns of checkpoints than any work takes, and more reads: who goes on and on gets nowhere.
const CHECKPOINT_TURNS_MAX: usize = 10_000;
const READS_MAX: usize = 1000;

pub(crate) struct Desk {
    pub(crate) broker: Arc<Broker>,
    pub(crate) checkpoint: Checkpoint,
    session: Session,
    input: BytesMut,
    heard: BytesMut,
    /// The highest tag that was confirmed.
    pub(crate) confirmed: u64,
    pub(crate) published: u64,
    /// What was received, in order, as it came.
    pub(crate) got: Vec<Vec<u8>>,
    empty: bool,
    pub(crate) now: Now,
}

impl Desk {
    /// Opens the broker, logs in, opens a channel with confirms. `seed` must be another one at each opening.
    pub(crate) fn open(disk: Arc<dyn Disk>, seed: u64) -> Result<Self, OpenError> {
        Self::open_with(disk, seed, WINDOW_SLOTS)
    }

    /// The same, and a checkpoint is due when so many slots are in use.
    pub(crate) fn open_with(disk: Arc<dyn Disk>, seed: u64, window_slots: usize) -> Result<Self, OpenError> {
        let options = LogOptions {
            slot_bytes: SLOT_BYTES,
            window_slots,
            epoch_seed: Some(seed),
            ..LogOptions::default()
        };
        let memory = Memory::new(ROOM_BYTES, ROOM_BYTES);
        let (broker, checkpoint) = Broker::open(Arc::new(Config::default()), disk, options, memory)?;
        let broker = Arc::new(broker);
        let now = Now::read();
        let mut desk = Self {
            session: Session::new(Arc::clone(&broker), now),
            broker,
            checkpoint,
            input: BytesMut::new(),
            heard: BytesMut::new(),
            confirmed: 0,
            published: 0,
            got: Vec::new(),
            empty: false,
            now,
        };
        desk.log_in();
        Ok(desk)
    }

    fn log_in(&mut self) {
        self.input.extend_from_slice(&PROTOCOL_HEADER);
        let start_ok = ConnectionStartOk {
            client_properties: Table::EMPTY,
            mechanism: "PLAIN",
            response: b"\0guest\0guest",
            locale: "en_US",
        };
        self.push(0, &Method::ConnectionStartOk(start_ok));
        let frame_max = FRAME_BYTES_MAX as u32;
        let tune_ok = ConnectionTuneOk { channel_max: 2047, frame_max, heartbeat: 0 };
        self.push(0, &Method::ConnectionTuneOk(tune_ok));
        self.push(0, &Method::ConnectionOpen(ConnectionOpen { virtual_host: "/" }));
        self.push(1, &Method::ChannelOpen(ChannelOpen {}));
        self.push(1, &Method::ConfirmSelect(ConfirmSelect { nowait: false }));
        self.turn();
        let credentials = self.session.take_verification().expect("a login to verify");
        let from = IpAddr::V4(Ipv4Addr::LOCALHOST);
        self.session.on_verified(self.broker.login(&credentials, from, self.now.instant), self.now);
        self.turn();
        assert!(self.session.is_running());
    }

    /// The client goes without a word, and comes back.
    pub(crate) fn reconnect(&mut self) {
        self.session = Session::new(Arc::clone(&self.broker), self.now);
        self.input.clear();
        self.heard.clear();
        self.log_in();
    }

    fn push(&mut self, channel: u16, method: &Method<'_>) {
        frame::put_method(&mut self.input, channel, method);
    }

    /// The session reads what it was sent, and says what it has to say.
    fn turn(&mut self) {
        self.session.on_bytes(&mut self.input, self.now);
        loop {
            self.hear();
            let mut context = Context::from_waker(Waker::noop());
            if self.session.poll_work(&mut context).is_pending() {
                break;
            }
            self.session.on_wake(self.now);
            self.session.on_rest(&mut self.input, self.now);
        }
        self.read();
    }

    fn hear(&mut self) {
        loop {
            let output = self.session.output();
            let mut slices = [IoSlice::new(&[]); 64];
            let count = output.fill(&mut slices);
            let bytes: Vec<u8> = slices.iter().take(count).flat_map(|slice| slice.iter().copied()).collect();
            if bytes.is_empty() {
                break;
            }
            self.heard.extend_from_slice(&bytes);
            output.advance(bytes.len());
        }
        self.session.on_written(self.now);
    }

    fn read(&mut self) {
        while let Ok(Some(view)) = frame::peek(&self.heard, u32::MAX) {
            let (kind, payload, bytes) = (view.kind, view.payload.to_vec(), view.wire_bytes());
            self.heard.advance(bytes);
            match kind {
                FrameKind::Method => match Method::parse(&payload) {
                    Ok(Method::BasicAck(ack)) => self.confirmed = self.confirmed.max(ack.delivery_tag),
                    Ok(Method::BasicGetOk(_)) => self.got.push(Vec::new()),
                    Ok(Method::BasicGetEmpty(_)) => self.empty = true,
                    Ok(Method::ChannelClose(close)) => panic!("{}", close.reply_text),
                    _ => {}
                },
                FrameKind::Body => self.got.last_mut().expect("a body after its method").extend(payload),
                _ => {}
            }
        }
    }

    /// Lets the broker's threads and tasks do what they have to do.
    pub(crate) fn work(&mut self) -> Result<(), StoreError> {
        let mut again = Vec::new();
        let worked = self.work_until_idle(&mut again);
        // What could not be read is tried again at the next work.
        again.iter().for_each(|queue| self.broker.node.reads.ask_again(queue));
        worked
    }

    /// Who finds no room rests until somebody else has done something; the others go on.
    fn work_until_idle(&mut self, again: &mut Vec<Arc<Queue>>) -> Result<(), StoreError> {
        let (mut no_checkpoint, mut turns, mut reads) = (None, 0..CHECKPOINT_TURNS_MAX, 0..READS_MAX);
        for _ in 0..TURNS_MAX {
            let mut idle = true;
            let no_commit = loop {
                match self.broker.commit() {
                    Ok(Committed::Batch) => (idle, no_checkpoint) = (false, None),
                    Ok(Committed::Nothing) => break None,
                    Err(error) if error.is_full() => break Some(error),
                    Err(error) => return Err(error),
                }
            };
            while no_checkpoint.is_none() {
                turns.next().ok_or_else(|| timed_out("rest", "the checkpoint"))?;
                match self.checkpoint.turn(&self.broker) {
                    Ok(Progress::Working) => idle = false,
                    Ok(_) => break,
                    Err(error) if error.is_full() => no_checkpoint = Some(error),
                    Err(error) => return Err(error),
                }
            }
            while let Some(queue) = self.broker.node.reads.take() {
                idle = false;
                reads.next().ok_or_else(|| timed_out("rest", "who reads"))?;
                let mut wakes = Wakes::default();
                match queue.read_ahead(&mut wakes) {
                    Err(error) if error.is_of_log() => return Err(error),
                    Err(_) => again.push(queue),
                    Ok(()) => {}
                }
                wakes.fire();
            }
            self.turn();
            if idle {
                return no_commit.or(no_checkpoint).map_or(Ok(()), Err);
            }
        }
        Err(timed_out("rest", "the broker"))
    }

    /// Declares a durable queue; it is there after the next work.
    pub(crate) fn declare(&mut self, queue: &str) {
        self.push(
            1,
            &Method::QueueDeclare(QueueDeclare {
                queue,
                passive: false,
                durable: true,
                exclusive: false,
                auto_delete: false,
                nowait: false,
                arguments: Table::EMPTY,
            }),
        );
        self.turn();
    }

    /// Publishes a persistent message; it is confirmed after the next work.
    pub(crate) fn publish(&mut self, queue: &str, body: &[u8]) {
        let publish =
            BasicPublish { exchange: b"", routing_key: queue.as_bytes(), mandatory: false, immediate: false };
        self.push(1, &Method::BasicPublish(publish));
        let mut properties = PropertiesBuf::new();
        properties.delivery_mode(2);
        frame::put_header(&mut self.input, 1, body.len() as u64, &properties.into_bytes());
        for piece in body.chunks(FRAME_BYTES_MAX - 8) {
            frame::put_body_head(&mut self.input, 1, piece.len() as u32);
            self.input.extend_from_slice(piece);
            self.input.extend_from_slice(&[FRAME_END]);
        }
        self.published += 1;
        self.turn();
    }

    /// Gets and settles the next message; `None` when the queue is empty.
    pub(crate) fn get(&mut self, queue: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.empty = false;
        let known = self.got.len();
        self.push(1, &Method::BasicGet(BasicGet { queue, no_ack: true }));
        self.turn();
        for _ in 0..TURNS_MAX {
            if self.empty {
                return Ok(None);
            }
            if self.got.len() > known {
                return Ok(self.got.last().cloned());
            }
            self.work()?;
        }
        Err(timed_out("answer", "a get"))
    }

    /// Gets everything.
    pub(crate) fn drain(&mut self, queue: &str) -> Result<Vec<Vec<u8>>, StoreError> {
        let mut bodies = Vec::new();
        while let Some(body) = self.get(queue)? {
            bodies.push(body);
        }
        self.work()?;
        Ok(bodies)
    }

    /// What a clean stop does.
    pub(crate) fn close(mut self) -> Result<(), StoreError> {
        self.work()?;
        self.checkpoint.close(&self.broker)
    }
}

fn timed_out(action: &'static str, who: &str) -> StoreError {
    StoreError::io(action, who)(io::ErrorKind::TimedOut.into())
}
