//! Dead letters on their way through a chain of queues, and a crash at every call to the disk: a confirmed message is in
//! one of them afterwards, and in one only.
//!
//! ```text
//! c0 (expires) -> c1 (holds one) -> c2 (expires) -> c3 (holds two) -> c4
//! ```

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use bytes::BytesMut;
use sluicemq::broker::dead_letters::Burials;
use sluicemq::clock::Now;
use sluicemq::protocol::field::Field;
use sluicemq::protocol::frame::{FRAME_END, put_body_head, put_header, put_method};
use sluicemq::protocol::methods::{
    BasicAck, BasicGet, BasicPublish, BasicReject, ConfirmSelect, Method, QueueDeclare, QueueDelete,
};
use sluicemq::protocol::properties::{Properties, PropertiesBuf};
use sluicemq::protocol::table::{ArrayBuf, TableBuf};
use sluicemq::storage::disk::Disk;
use sluicemq::storage::disk::simulated::{CrashMode, Fault, SimulatedDisk};
use sluicemq::storage::error::StoreError;

use crate::client::{Client, Heard};
use crate::life::{Life, Sizes};
use crate::message::Message;

/// Nothing stays in memory that need not, and a checkpoint is never far.
const SIZES: Sizes = Sizes::SMALL;
const QUEUES: u32 = 5;
const TTL_MS: i32 = 10;
/// Messages of each of two bursts.
const BURST: u32 = 5;
/// A queue that is deleted, where its dead letters go, and how many there are.
const FIRST: &str = "first";
const SECOND: &str = "second";
const DELETED: u32 = 16;
const BODY: [u8; 10_000] = [7; 10_000];

/// A broker, a client, and a clock that moves when it is told to.
struct Chain {
    life: Life,
    client: Client,
    burials: Burials,
    /// Whether those were woken since they last had nothing to do.
    woken: Arc<Flag>,
    now: Now,
    confirmed: u64,
    /// A deletion was answered.
    is_deleted: bool,
}

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn name(queue: u32) -> String {
    format!("c{queue}")
}

fn arguments(queue: u32) -> TableBuf {
    let next = name(queue + 1);
    let mut arguments = TableBuf::new();
    if queue + 1 < QUEUES {
        arguments.insert("x-dead-letter-exchange", Field::LongStr(b""));
        arguments.insert("x-dead-letter-routing-key", Field::LongStr(next.as_bytes()));
    }
    match queue {
        0 | 2 => drop(arguments.insert("x-message-ttl", Field::I32(TTL_MS))),
        1 => drop(arguments.insert("x-max-length", Field::I32(1))),
        3 => drop(arguments.insert("x-max-length", Field::I32(2))),
        _ => {}
    }
    arguments
}

impl Chain {
    fn start(disk: SimulatedDisk, epoch_seed: u64, now: Now) -> Result<Self, String> {
        let disk: Arc<dyn Disk> = Arc::new(disk);
        let life = Life::start(disk, SIZES, epoch_seed).map_err(|error| error.to_string())?;
        let client = Client::connect(&life.broker, now);
        Ok(Self {
            life,
            client,
            burials: Burials::default(),
            woken: Arc::new(Flag(AtomicBool::new(true))),
            now,
            confirmed: 0,
            is_deleted: false,
        })
    }

    /// Does what somebody has a reason to do; whether anybody had.
    fn work(&mut self) -> Result<bool, StoreError> {
        let broker = Arc::clone(&self.life.broker);
        let stored = self.life.commit()? | self.life.checkpoint()?;
        let mut worked = stored | self.life.read_ahead()? | self.client.work();
        if broker.node.deadlines.first().is_some_and(|first| first <= self.now.steady_ms) {
            broker.on_deadlines(self.now);
            worked = true;
        }
        if self.woken.0.swap(false, Ordering::Relaxed) {
            let waker = Waker::from(Arc::clone(&self.woken));
            if self.burials.poll(&broker.node, &mut Context::from_waker(&waker)).is_ready() {
                self.burials.step(&broker, self.now);
                self.woken.0.store(true, Ordering::Relaxed);
                worked = true;
            }
        }
        let context = &mut Context::from_waker(Waker::noop());
        if broker.poll_release(context).is_ready() {
            broker.release(self.now);
            worked = true;
        }
        while let Some((_, heard)) = self.client.hear() {
            match heard {
                Heard::Confirmed { tag, .. } => self.confirmed = self.confirmed.max(tag),
                Heard::Answered { name: "queue.delete-ok", .. } => self.is_deleted = true,
                _ => {}
            }
        }
        Ok(worked)
    }

    fn rest(&mut self) -> Result<(), StoreError> {
        while self.work()? {}
        Ok(())
    }

    /// Time passes, until nothing is left to expire.
    fn wait(&mut self) -> Result<(), StoreError> {
        for _ in 0..2 * QUEUES {
            self.now = self.now.later(Duration::from_millis(5 * TTL_MS as u64));
            self.rest()?;
        }
        Ok(())
    }

    fn checkpoint(&mut self) -> Result<(), StoreError> {
        self.life.broker.node.log.seal_open_slot()?;
        while self.life.commit()? | self.life.checkpoint()? {}
        Ok(())
    }

    fn declare(&mut self, queue: &str, arguments: &TableBuf) {
        let declare = QueueDeclare {
            queue,
            passive: false,
            durable: true,
            exclusive: false,
            auto_delete: false,
            nowait: false,
            arguments: arguments.as_table(),
        };
        self.client.say(1, &Method::QueueDeclare(declare));
    }

    fn declare_all(&mut self) -> Result<(), StoreError> {
        for queue in 0..QUEUES {
            self.declare(&name(queue), &arguments(queue));
        }
        self.client.say(2, &Method::ConfirmSelect(ConfirmSelect { nowait: true }));
        self.rest()
    }

    fn publish(&mut self, first: u32) {
        self.publish_these(first..first + BURST, 100);
    }

    fn publish_these(&mut self, ids: Range<u32>, body_bytes: usize) {
        let mut bytes = BytesMut::new();
        for id in ids {
            let message =
                Message { id, persistent: true, exchange: String::new(), key: name(0), bytes: body_bytes };
            message.encode(2, &mut bytes);
        }
        self.client.feed(bytes);
    }

    /// The whole story, as far as the disk goes along.
    fn play(&mut self) -> Result<(), StoreError> {
        self.declare_all()?;
        self.publish(0);
        self.rest()?;
        while self.life.evict()? {}
        self.wait()?;
        self.checkpoint()?;
        self.publish(BURST);
        self.rest()?;
        self.checkpoint()?;
        self.wait()?;
        self.checkpoint()
    }

    /// How often each message is there.
    fn look(&mut self, queues: &[String]) -> Result<BTreeMap<u32, u32>, StoreError> {
        self.wait()?;
        let mut found = BTreeMap::new();
        for queue in queues.iter().filter(|queue| self.has(queue)).cloned().collect::<Vec<_>>() {
            loop {
                match self.get(&queue)? {
                    Heard::Delivered(delivery) => {
                        *found.entry(delivery.content.id().unwrap()).or_default() += 1;
                    }
                    Heard::Answered { name: "basic.get-empty", .. } => break,
                    other => panic!("a get is answered with {other:?}"),
                }
            }
        }
        Ok(found)
    }

    fn has(&self, queue: &str) -> bool {
        self.life.broker.vhost("/").unwrap().queue(queue).is_some()
    }

    /// Messages have left memory when they expire, and then their queue is deleted.
    fn play_deletion(&mut self) -> Result<(), StoreError> {
        let to_second = [("x-dead-letter-exchange", ""), ("x-dead-letter-routing-key", SECOND)];
        let mut dying = TableBuf::new();
        to_second.iter().for_each(|(key, value)| {
            dying.insert(key, Field::LongStr(value.as_bytes()));
        });
        self.declare(FIRST, &dying);
        self.declare(SECOND, &TableBuf::new());
        self.client.say(2, &Method::ConfirmSelect(ConfirmSelect { nowait: true }));
        self.rest()?;
        for id in 0..DELETED {
            self.publish_mortal(id);
            if id % 4 == 3 {
                self.rest()?;
            }
        }
        while self.life.evict()? {}
        self.checkpoint()?;
        let queue = self.life.broker.vhost("/").unwrap().queue(FIRST).unwrap();
        assert!(
            queue.here_bytes.read() <= u64::from(DELETED / 4) * BODY.len() as u64,
            "most are on the disk only"
        );
        self.now = self.now.later(Duration::from_secs(1));
        self.life.broker.on_deadlines(self.now);
        assert_eq!((queue.depth().0, queue.is_deleted()), (0, false));
        let delete = QueueDelete { queue: FIRST, if_unused: false, if_empty: false, nowait: false };
        self.client.say(1, &Method::QueueDelete(delete));
        self.rest()?;
        self.checkpoint()
    }

    /// Publishes a message that has not long to live.
    fn publish_mortal(&mut self, id: u32) {
        let publish =
            BasicPublish { exchange: b"", routing_key: FIRST.as_bytes(), mandatory: false, immediate: false };
        let mut properties = PropertiesBuf::new();
        properties.delivery_mode(2).expiration(TTL_MS.to_string()).message_id(id.to_string());
        let mut bytes = BytesMut::new();
        put_method(&mut bytes, 2, &Method::BasicPublish(publish));
        put_header(&mut bytes, 2, BODY.len() as u64, &properties.encode());
        put_body_head(&mut bytes, 2, BODY.len() as u32);
        bytes.extend_from_slice(&BODY);
        bytes.extend_from_slice(&[FRAME_END]);
        self.client.feed(bytes);
    }

    /// The answer to a basic.get.
    fn get(&mut self, queue: &str) -> Result<Heard, StoreError> {
        self.client.say(1, &Method::BasicGet(BasicGet { queue, no_ack: false }));
        loop {
            if let Some((_, heard)) = self.client.hear() {
                return Ok(heard);
            }
            let store = self.life.commit()? | self.life.read_ahead()? | self.client.work();
            assert!(store, "a get is never answered");
        }
    }

    /// The message that is in a queue, and whether it shows its BCC.
    fn get_shown(&mut self, queue: &str) -> (u64, bool) {
        let Heard::Delivered(delivery) = self.get(queue).unwrap() else { panic!("{queue} is empty") };
        let properties = Properties::parse(&delivery.content.properties).unwrap();
        let headers = properties.headers().unwrap();
        assert_eq!(headers.get("mine"), Some(Field::Bool(true)));
        (delivery.tag, headers.get("BCC").is_some())
    }
}

/// What a client knew when its broker crashed, and what is there after a start.
struct Crash {
    confirmed: u64,
    is_deleted: bool,
    has_first: bool,
    found: BTreeMap<u32, u32>,
}

type Story = fn(&mut Chain) -> Result<(), StoreError>;

/// Crashes at this call of a story; `None` when there is no such call.
fn crash_at(call: u64, mode: CrashMode, play: Story, queues: &[String]) -> Option<Crash> {
    let (disk, now) = (SimulatedDisk::new(), Now::read());
    disk.fail_at(call, Fault::Crash);
    let started = Chain::start(disk.clone(), 1, now);
    let (mut confirmed, mut is_deleted, mut later) = (0, false, now);
    if let Ok(mut chain) = started {
        if play(&mut chain).is_ok() {
            return None;
        }
        (confirmed, is_deleted, later) = (chain.confirmed, chain.is_deleted, chain.now);
    }
    let mut chain = Chain::start(disk.crash(mode, call), 2, later).unwrap();
    let has_first = chain.has(FIRST);
    Some(Crash { confirmed, is_deleted, has_first, found: chain.look(queues).unwrap() })
}

/// Crashes at each call of a story: each confirmed message must be in one of these queues, and what was deleted stays so.
/// How many crashes there were.
fn crash_at_each(play: Story, queues: &[String]) -> u32 {
    let mut crashes = 0;
    for mode in CrashMode::ALL {
        for call in 0.. {
            let Some(crash) = crash_at(call, mode, play, queues) else { break };
            crashes += 1;
            for (id, times) in &crash.found {
                assert_eq!(*times, 1, "message {id} is there {times} times; {mode:?} at call {call}");
            }
            for id in 0..crash.confirmed as u32 {
                assert!(crash.found.contains_key(&id), "message {id} is lost; {mode:?} at call {call}");
            }
            assert!(!crash.is_deleted || !crash.has_first, "it is there again; {mode:?} at call {call}");
        }
    }
    println!("{crashes} crashes");
    crashes
}

#[test]
fn a_dead_letter_is_in_one_place_after_a_crash_at_any_call() {
    let crashes = crash_at_each(Chain::play, &(0..QUEUES).map(name).collect::<Vec<_>>());
    assert!(crashes > 500, "the story has become too short: {crashes} crashes");
}

#[test]
fn dead_letters_on_the_disk_outlive_the_deletion_of_their_queue_and_a_crash_at_any_call() {
    let crashes = crash_at_each(Chain::play_deletion, &[FIRST.to_owned(), SECOND.to_owned()]);
    assert!(crashes > 200, "the story has become too short: {crashes} crashes");
}

#[test]
fn a_queue_is_deleted_when_its_dead_letters_have_gone() {
    let mut chain = Chain::start(SimulatedDisk::new(), 1, Now::read()).unwrap();
    chain.play_deletion().unwrap();
    assert_eq!((chain.confirmed, chain.is_deleted), (u64::from(DELETED), true));
    let vhost = chain.life.broker.vhost("/").unwrap();
    assert!(vhost.queue(FIRST).is_none());
    assert_eq!(vhost.queue(SECOND).unwrap().depth().0, u64::from(DELETED));
}

#[test]
fn what_is_much_goes_on_when_a_checkpoint_gives_the_log_room() {
    const MANY: u32 = 60;
    let mut chain = Chain::start(SimulatedDisk::new(), 1, Now::read()).unwrap();
    chain.declare_all().unwrap();
    for first in 0..MANY {
        chain.publish_these(first..first + 1, 20_000);
        chain.rest().unwrap();
    }
    chain.wait().unwrap();
    let vhost = chain.life.broker.vhost("/").unwrap();
    let depths: Vec<u64> = (0..QUEUES).map(|queue| vhost.queue(&name(queue)).unwrap().depth().0).collect();
    assert_eq!(depths, [0, 1, 0, 2, u64::from(MANY) - 3]);
}

#[test]
fn without_a_crash_each_is_where_it_belongs() {
    let mut chain = Chain::start(SimulatedDisk::new(), 1, Now::read()).unwrap();
    chain.play().unwrap();
    assert_eq!(chain.confirmed, u64::from(2 * BURST));
    let vhost = chain.life.broker.vhost("/").unwrap();
    let depths: Vec<u64> = (0..QUEUES).map(|queue| vhost.queue(&name(queue)).unwrap().depth().0).collect();
    assert_eq!(depths, [0, 1, 0, 2, u64::from(2 * BURST) - 3]);
}

#[test]
fn the_keys_of_bcc_outlive_a_crash_and_nobody_sees_them() {
    let disk = SimulatedDisk::new();
    let mut chain = Chain::start(disk.clone(), 1, Now::read()).unwrap();
    let mut arguments = TableBuf::new();
    arguments.insert("x-dead-letter-exchange", Field::LongStr(b""));
    chain.declare("open", &arguments);
    chain.declare("blind", &TableBuf::new());
    let (mut keys, mut headers) = (ArrayBuf::new(), TableBuf::new());
    keys.push(Field::LongStr(b"blind"));
    headers.insert("BCC", Field::Array(keys.as_array())).insert("mine", Field::Bool(true));
    let mut properties = PropertiesBuf::new();
    properties.delivery_mode(2).headers(headers.as_table());
    let publish = BasicPublish { exchange: b"", routing_key: b"open", mandatory: false, immediate: false };
    let mut bytes = BytesMut::new();
    put_method(&mut bytes, 2, &Method::BasicPublish(publish));
    put_header(&mut bytes, 2, 0, &properties.encode());
    chain.client.feed(bytes);
    chain.rest().unwrap();
    let (tag, _) = chain.get_shown("blind");
    chain.client.say(1, &Method::BasicAck(BasicAck { delivery_tag: tag, multiple: false }));
    chain.rest().unwrap();
    while chain.life.evict().unwrap() {}
    chain.checkpoint().unwrap();
    let later = chain.now;
    drop(chain);

    let mut chain = Chain::start(disk.crash(CrashMode::NothingUnsynced, 1), 2, later).unwrap();
    let (delivery_tag, is_shown) = chain.get_shown("open");
    assert!(!is_shown);
    chain.client.say(1, &Method::BasicReject(BasicReject { delivery_tag, requeue: false }));
    chain.rest().unwrap();
    assert!(!chain.get_shown("blind").1);
}
