//! What stays in memory of a queue, who may wait for it, and how many steps it takes to find what may go.

use std::sync::Arc;

use super::{QUEUES_PER_LOOK, UNCONSUMED_BYTES_MAX};
use crate::broker::Broker;
use crate::broker::memory::Memory;
use crate::broker::outbox::Outbox;
use crate::broker::queue::dispatch::Taken;
use crate::broker::queue::handle::Queue;
use crate::broker::vhost::{Actor, QueueRequest};
use crate::broker::wakes::Wakes;
use crate::clock::Now;
use crate::config::Config;
use crate::message::block::BlockBuilder;
use crate::message::block_header::{Marks, Stamp};
use crate::message::fact::Fact;
use crate::message::names::Names;
use crate::message::record::Content;
use crate::message::run::Run;
use crate::protocol::table::Table;
use crate::queue::classic::Head;
use crate::queue::settings::Settings;
use crate::storage::disk::simulated::{Fault, SimulatedDisk};
use crate::storage::log::LogOptions;

const MIB: usize = 1 << 20;
/// A hold of the lock does not look at more than this to find what may go.
const STEPS_MAX: u32 = 1000;

/// A broker with a durable queue that nobody consumes.
struct World {
    disk: SimulatedDisk,
    broker: Broker,
    queue: Arc<Queue>,
    outbox: Arc<Outbox>,
    now_ms: u64,
}

impl World {
    fn new(cache_bytes: u64) -> Self {
        let memory = Memory::new(u64::MAX, u64::MAX).with_cache(cache_bytes);
        let options = LogOptions { slot_bytes: 64 << 20, ..LogOptions::default() };
        let disk = SimulatedDisk::new();
        let (broker, _) =
            Broker::open(Arc::new(Config::default()), Arc::new(disk.clone()), options, memory).unwrap();
        let outbox = broker.connect();
        let queue = declare(&broker, &outbox, "q");
        Self { disk, broker, queue, outbox, now_ms: 1000 }
    }

    fn wakes(&self) -> Wakes {
        let mut wakes = Wakes::default();
        wakes.begin_turn(self.now_ms);
        wakes
    }

    /// A message of so many bytes comes; the steps that it takes. It is durable when the next one comes.
    fn publish(&self, persistent: bool, body_bytes: usize) -> u32 {
        self.publish_to(&self.queue, persistent, body_bytes)
    }

    /// The same to another queue.
    fn publish_to(&self, queue: &Arc<Queue>, persistent: bool, body_bytes: usize) -> u32 {
        let mut builder = BlockBuilder::default();
        builder.push(&Content { names: Names::EMPTY, properties: &[0, 0], body: &vec![7; body_bytes] });
        let stamp = Stamp { marks: Marks::of(persistent), received_ms: self.now_ms };
        let (block, count, body_bytes) = builder.seal(stamp, &self.broker.node.memory.messages);
        let run = Run::of_block(block, count, body_bytes);
        let (mut wakes, log) = (self.wakes(), &self.broker.node.log);
        if persistent {
            let mut append = log.append();
            let seq = queue.draw_seq(&run);
            let logged = append.push(&Fact::Published { run: &run, targets: &[(queue.id, seq)] });
            let applying = append.finish();
            queue.enqueue([(run, Some(seq), Some(logged))].into_iter(), false, &mut wakes);
            drop(applying);
            self.broker.commit().unwrap();
        } else {
            queue.enqueue([(run, None, None)].into_iter(), false, &mut wakes);
        }
        let steps = wakes.steps();
        wakes.fire();
        steps
    }

    /// The queue is looked at once more, as when somebody publishes.
    fn look(&self) {
        let mut wakes = self.wakes();
        self.queue.go_on(&mut wakes);
        wakes.fire();
    }

    /// Reads back what is asked for; whether anything is.
    fn read_ahead(&self) -> bool {
        let Some(queue) = self.broker.node.reads.take() else { return false };
        let mut wakes = self.wakes();
        queue.read_ahead(&mut wakes).unwrap();
        wakes.fire();
        true
    }

    /// A basic.get; the size of what it has.
    fn get(&self) -> Option<u64> {
        match self.queue.take_one(&self.outbox, false, &mut self.wakes()) {
            Taken::Message(run, _) => Some(run.body_bytes()),
            Taken::Empty | Taken::NotYet => None,
        }
    }

    fn evict(&self) {
        while self.broker.evict(&|| ()).unwrap() {}
    }

    fn head_is_away(&self) -> bool {
        matches!(self.queue.lock().classic.head(), Head::Away(_))
    }
}

fn declare(broker: &Broker, outbox: &Outbox, name: &str) -> Arc<Queue> {
    let vhost = broker.vhost("/").unwrap();
    let actor = Actor { user: broker.users.get("guest").unwrap(), connection: outbox.connection() };
    let arguments = Table::EMPTY;
    let request = QueueRequest { name, durable: true, exclusive: false, auto_delete: false, arguments };
    vhost.declare_queue(&actor, &request).unwrap();
    vhost.queue(name).unwrap()
}

/// The message of 4 MiB at the head of a queue is persistent, or not.
fn with_large_head(cache_bytes: u64, persistent: bool) -> World {
    let world = World::new(cache_bytes);
    world.publish(persistent, 4 * MIB);
    world.publish(true, 100);
    world
}

#[test]
fn a_get_that_waits_for_a_large_message_keeps_it_though_memory_lacks_room() {
    for persistent in [true, false] {
        let world = with_large_head(1000, persistent);
        world.evict();
        assert!(world.head_is_away(), "nobody waits for it");
        assert_eq!(world.get(), None);
        assert!(world.read_ahead());
        // It was told and has not come yet.
        world.evict();
        world.look();
        assert!(!world.head_is_away() && !world.read_ahead());
        assert_eq!(world.get(), Some(4 * MIB as u64));
        world.evict();
        assert!(world.broker.node.memory.messages.read() < MIB as u64);
    }
}

#[test]
fn a_get_that_waits_for_a_large_message_keeps_it_though_nobody_consumes() {
    let world = with_large_head(u64::MAX, true);
    assert!(world.head_is_away());
    assert_eq!(world.get(), None);
    assert!(world.read_ahead());
    for _ in 0..10 {
        world.publish(true, MIB);
    }
    assert!(!world.head_is_away() && !world.read_ahead());
    assert_eq!(world.get(), Some(4 * MIB as u64));
    let here_bytes = world.queue.lock().classic.here_bytes();
    assert!(here_bytes <= UNCONSUMED_BYTES_MAX, "{here_bytes} bytes of a queue that nobody consumes");
}

#[test]
fn a_message_that_is_written_to_be_spilled_stays_when_somebody_waits_for_it_meanwhile() {
    let world = World::new(1000);
    world.publish(false, 4 * MIB);
    let pauses = std::cell::Cell::new(0);
    let pause = || {
        pauses.set(pauses.get() + 1);
        // After the look for what needs no pack, in the middle of what is written to one.
        if pauses.get() == 2 {
            world.queue.lock().getters.insert(world.outbox.connection(), Arc::clone(&world.outbox));
        }
    };
    world.broker.evict(&pause).unwrap();
    assert!(pauses.get() > 2 && !world.broker.node.spills.is_empty(), "nothing was written");
    assert!(!world.head_is_away());
    assert_eq!(world.get(), Some(4 * MIB as u64));
}

#[test]
fn who_gives_up_waiting_keeps_nothing() {
    let world = with_large_head(1000, true);
    world.evict();
    assert_eq!(world.get(), None);
    assert!(world.read_ahead());
    world.queue.forget_waiter(&world.outbox);
    world.evict();
    assert!(world.head_is_away());
}

#[test]
fn what_one_read_has_brought_serves_all_its_gets_though_transient_messages_fill_the_queue() {
    const MESSAGES: usize = 8000;
    let world = World::new(u64::MAX);
    for _ in 0..MESSAGES {
        world.publish(true, 1000);
    }
    let mut here = MESSAGES;
    while !world.head_is_away() {
        assert_eq!(world.get(), Some(1000));
        here -= 1;
    }
    for _ in 0..5000 {
        world.publish(false, 1000);
    }
    let mut reads = 0;
    for _ in 0..here {
        if world.get().is_none() {
            assert!(world.read_ahead());
            reads += 1;
            assert_eq!(world.get(), Some(1000));
        }
    }
    assert!(reads <= here / 900 + 1, "{reads} reads of a mebibyte for {here} messages of 1000 bytes");
}

#[test]
fn an_enqueue_looks_through_no_backlog_for_something_to_let_go_of() {
    let world = World::new(u64::MAX);
    let mut steps = 0;
    // Much more than a queue keeps that nobody consumes, and little of it is on the disk.
    for number in 0..20_000 {
        let taken = world.publish(number % 10 == 0, 1000);
        assert!(taken <= STEPS_MAX, "{taken} steps for one message");
        steps += taken;
    }
    assert!(steps <= 2 * 20_000, "{steps} steps for 20,000 messages");
    // Then it is: of each mebibyte that comes one goes, and each run was looked at once or twice.
    let (mut steps, before) = (0, world.queue.lock().classic.here_bytes());
    (0..20_000).for_each(|_| steps += world.publish(true, 1000));
    assert!(steps <= 5 * 20_000, "{steps} steps for 20,000 messages more");
    let after = world.queue.lock().classic.here_bytes();
    assert!(after <= before + UNCONSUMED_BYTES_MAX, "{after} bytes, {before} before");
}

#[test]
fn an_enqueue_looks_through_no_backlog_of_which_only_the_awaited_head_could_go() {
    let world = World::new(u64::MAX);
    world.queue.lock().getters.insert(world.outbox.connection(), Arc::clone(&world.outbox));
    world.publish(true, 5 * MIB);
    let mut steps = 0;
    (0..20_000).for_each(|_| steps += world.publish(false, 100));
    assert!(!world.head_is_away());
    assert!(steps <= 5 * 20_000, "{steps} steps for 20,000 messages");
}

#[test]
fn a_queue_whose_messages_expire_reads_its_head_back_when_that_has_had_its_time_and_not_before() {
    let mut world = World::new(1000);
    world.queue.swap_settings(
        &mut world.queue.lock(),
        Settings { message_ttl_ms: Some(5000), ..Settings::default() },
    );
    world.publish(true, 4 * MIB);
    world.publish(true, 4 * MIB);
    world.evict();
    assert!(world.head_is_away());
    for _ in 0..10 {
        world.now_ms += 100;
        world.publish(true, 10);
        assert!(!world.read_ahead(), "nothing is to go before {} ms", 6000 - world.now_ms);
    }
    world.now_ms = 6000;
    world.broker.on_deadlines(Now { steady_ms: world.now_ms, ..Now::read() });
    while world.read_ahead() {}
    assert_eq!(world.queue.depth(), (10, 0));
    assert_eq!(world.broker.node.deadlines.first(), Some(6100));
}

#[test]
fn many_large_queues_that_give_little_or_nothing_do_not_hide_one_that_has_much_to_give() {
    for trickle_bytes in [0, 100] {
        let world = World::new(1000);
        for _ in 0..10 {
            world.publish(true, 2000);
        }
        // No disk has what is in these, and none has room for it.
        world.disk.set_capacity(0);
        let others: Vec<_> = (0..=QUEUES_PER_LOOK)
            .map(|number| declare(&world.broker, &world.outbox, &format!("other {number}")))
            .collect();
        for other in &others {
            world.publish_to(other, false, 30_000);
        }
        for _ in 0..3 {
            for other in others.iter().filter(|_| trickle_bytes > 0) {
                world.publish_to(other, true, trickle_bytes);
            }
            world.evict();
        }
        let left = world.queue.here_bytes.read();
        assert!(left <= 8000, "{left} bytes of 20,000 stay, and {trickle_bytes} came to each of the others");
    }
}

#[test]
fn a_queue_that_finds_no_room_to_be_written_to_the_disk_does_not_keep_others_in_memory() {
    let world = World::new(1000);
    let other = declare(&world.broker, &world.outbox, "other");
    for _ in 0..10 {
        world.publish(true, 100_000);
        world.publish_to(&other, false, 200_000);
    }
    for _ in 0..3 {
        // It cannot be written, though there seems to be room.
        let calls = world.disk.calls();
        (calls..calls + 3).for_each(|call| world.disk.fail_at(call, Fault::NoSpace));
        assert!(world.broker.evict(&|| ()).unwrap_err().is_full());
    }
    let left = world.queue.here_bytes.read();
    assert!(left <= 300_000, "{left} bytes of a million stay");
}
