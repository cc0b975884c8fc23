//! What a checkpoint writes, against what the log holds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::broker::Broker;
use crate::broker::checkpoint::{Checkpoint, Progress};
use crate::broker::memory::Memory;
use crate::broker::wakes::Wakes;
use crate::config::Config;
use crate::message::block::BlockBuilder;
use crate::message::block_header::{Marks, Stamp};
use crate::message::fact::{Definition, Fact};
use crate::message::names::Names;
use crate::message::place::{QueueId, Seq};
use crate::message::record::Content;
use crate::message::run::Run;
use crate::storage::disk::Disk;
use crate::storage::disk::simulated::SimulatedDisk;
use crate::storage::disk::watched::WatchedDisk;
use crate::storage::log::{Committed, LogOptions};

/// Small enough for several checkpoints, and large enough for a single one.
const SMALL_SLOT_BYTES: u64 = 256 * 1024;
const LARGE_SLOT_BYTES: u64 = 16 << 20;
/// Messages of one burst.
const BURST: u64 = 3;

fn open(disk: &WatchedDisk, slot_bytes: u64) -> (Broker, Checkpoint) {
    let memory = Memory::new(u64::MAX, u64::MAX);
    let options = LogOptions { slot_bytes, window_slots: 2, ..LogOptions::default() };
    Broker::open(Arc::new(Config::default()), Arc::new(disk.clone()), options, memory).unwrap()
}

fn burst(bytes: usize) -> Run {
    let mut builder = BlockBuilder::default();
    for at in 0..BURST {
        builder.push(&Content { names: Names::EMPTY, properties: &[0, 0], body: &vec![at as u8; bytes] });
    }
    let stamp = Stamp { marks: Marks::of(true), received_ms: 0 };
    let (block, count, body_bytes) = builder.seal(stamp, &Arc::default());
    Run::of_block(block, count, body_bytes)
}

/// A log in which bursts of small messages go to all of so many queues, and of each burst something is settled in each.
fn fill(broker: &Broker, queues: u64, bursts: u64) -> u64 {
    let log = &broker.node.log;
    for queue in 1..=queues {
        let name = format!("q{queue}");
        let (queue, vhost) = (QueueId(queue), "/");
        let declared =
            Definition::QueueDeclared { queue, vhost, name: &name, auto_delete: false, arguments: &[] };
        drop(log.append_one(&Fact::Defined(declared)));
    }
    for at in 0..bursts {
        let first = Seq(1 + at * BURST);
        // In no order: what a queue has of a record is found all the same.
        let targets: Vec<_> =
            (1..=queues).map(|queue| (QueueId(1 + (queue * 7 + at) % queues), first)).collect();
        drop(log.append_one(&Fact::Published { run: &burst(300), targets: &targets }));
        for queue in (1..=queues).filter(|queue| (queue + at).is_multiple_of(5)) {
            let settled = [(first.after(1), first.after(2))];
            drop(log.append_one(&Fact::Settled { queue: QueueId(queue), ranges: &settled }));
        }
        while broker.commit().unwrap() == Committed::Batch {}
    }
    log.end().0
}

/// Lets the checkpoint take everything.
fn checkpoint(broker: &Broker, checkpoint: &mut Checkpoint) {
    broker.node.log.seal_open_slot().unwrap();
    while checkpoint.turn(broker).unwrap() == Progress::Working {}
}

fn packs(disk: &SimulatedDisk) -> (usize, u64) {
    let names = disk.list("pack").unwrap();
    let bytes = names.iter().map(|name| disk.open(&format!("pack/{name}")).unwrap().len().unwrap());
    (names.len(), bytes.sum())
}

/// What every queue has, by reading it back from the disk.
fn read_all(broker: &Broker, queues: u64) -> BTreeMap<u64, Vec<u64>> {
    let vhost = broker.vhost("/").unwrap();
    let read = |queue: u64| {
        let queue = vhost.queue(&format!("q{queue}")).unwrap();
        let live: Vec<_> =
            queue.live_ranges(Seq(0), Seq(u64::MAX)).iter().flat_map(|(first, end)| first.0..end.0).collect();
        let mut wakes = Wakes::default();
        queue.read_ahead(&mut wakes).unwrap();
        assert_eq!(queue.lock().classic.ready_messages(), live.len() as u64);
        live
    };
    let all = (1..=queues).map(|queue| (queue, read(queue))).collect();
    assert_eq!(broker.node.counters.damaged_messages.read(), 0);
    all
}

fn expected(queues: u64, bursts: u64) -> BTreeMap<u64, Vec<u64>> {
    let lives = |queue: u64, seq: &u64| {
        let (at, in_burst) = ((seq - 1) / BURST, (seq - 1) % BURST);
        !((queue + at).is_multiple_of(5) && in_burst == 1)
    };
    (1..=queues)
        .map(|queue| (queue, (1..=bursts * BURST).filter(|seq| lives(queue, seq)).collect()))
        .collect()
}

/// The bytes of the log, those of the packs, and how many calls a checkpoint has made.
fn play(slot_bytes: u64, queues: u64, bursts: u64) -> (u64, u64, u64) {
    let disk = WatchedDisk::default();
    let log_bytes = fill(&open(&disk, slot_bytes).0, queues, bursts);
    let (broker, mut checkpoints) = open(&disk, slot_bytes);
    let calls = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&calls);
    disk.watch(move || {
        counted.fetch_add(1, Ordering::Relaxed);
    });
    checkpoint(&broker, &mut checkpoints);
    let calls = calls.load(Ordering::Relaxed);
    let (files, pack_bytes) = packs(disk.simulated());
    assert!(files > 0 && broker.node.log.slots_in_use() == 1, "the checkpoint has not taken everything");
    assert_eq!(read_all(&broker, queues), expected(queues, bursts));
    drop((broker, checkpoints));
    // The next process finds it so, and merges keep what is shared together.
    let (broker, mut checkpoints) = open(&disk, slot_bytes);
    assert_eq!(read_all(&broker, queues), expected(queues, bursts));
    // All but one burst of eight is settled.
    let settled: Vec<_> = (0..bursts)
        .filter(|at| at % 8 != 0)
        .map(|at| (Seq(1 + at * BURST), Seq(1 + (at + 1) * BURST)))
        .collect();
    for queue in 1..=queues {
        drop(broker.node.log.append_one(&Fact::Settled { queue: QueueId(queue), ranges: &settled }));
        let queue = broker.vhost("/").unwrap().queue(&format!("q{queue}")).unwrap();
        for &(first, end) in &settled {
            queue.lock().classic.ledger.cut(first, end);
        }
    }
    while broker.commit().unwrap() == Committed::Batch {}
    checkpoint(&broker, &mut checkpoints);
    let (_, merged_bytes) = packs(disk.simulated());
    assert!(merged_bytes < pack_bytes / 4, "{merged_bytes} bytes of {pack_bytes} when an eighth lives");
    drop((broker, checkpoints));
    let mut left = expected(queues, bursts);
    left.values_mut().for_each(|seqs| seqs.retain(|seq| ((seq - 1) / BURST).is_multiple_of(8)));
    assert_eq!(read_all(&open(&disk, slot_bytes).0, queues), left);
    (log_bytes, pack_bytes, calls)
}

#[test]
fn a_fan_out_takes_about_as_much_of_a_pack_as_of_the_log() {
    for (queues, bursts) in [(2, 600), (40, 300), (400, 60)] {
        let (log_bytes, pack_bytes, _) = play(SMALL_SLOT_BYTES, queues, bursts);
        assert!(pack_bytes < 4 * log_bytes, "{queues} queues: {pack_bytes} bytes for {log_bytes} of the log");
    }
}

#[test]
fn the_work_of_a_fan_outs_checkpoint_grows_as_its_records_and_copies_do() {
    let (_, _, few) = play(LARGE_SLOT_BYTES, 200, 60);
    let (_, _, many) = play(LARGE_SLOT_BYTES, 800, 60);
    assert!(many < 5 * few, "{few} calls for 200 queues, {many} for 800");
}

#[test]
fn what_is_less_urgent_and_older_is_taken_over_though_more_urgent_messages_came_later() {
    let disk = WatchedDisk::default();
    let (broker, checkpoints) = open(&disk, SMALL_SLOT_BYTES);
    let (queue, vhost, name) = (QueueId(1), "/", "q1");
    let log = &broker.node.log;
    let declared = Definition::QueueDeclared { queue, vhost, name, auto_delete: false, arguments: &[] };
    drop(log.append_one(&Fact::Defined(declared)));
    let mut expected = Vec::new();
    for at in 0..400 {
        let first = Seq(1 + at * BURST).of_rank(9 - (at / 45) as u8);
        expected.extend((0..BURST).map(|message| first.0 + message));
        drop(log.append_one(&Fact::Published { run: &burst(300), targets: &[(queue, first)] }));
        while broker.commit().unwrap() == Committed::Batch {}
    }
    expected.sort_unstable();
    assert!(log.slots_in_use() > 2);
    drop((broker, checkpoints));
    let (broker, mut checkpoints) = open(&disk, SMALL_SLOT_BYTES);
    while checkpoints.turn(&broker).unwrap() == Progress::Working {}
    assert!(packs(disk.simulated()).0 > 0);
    drop((broker, checkpoints));
    let (broker, _checkpoints) = open(&disk, SMALL_SLOT_BYTES);
    let queue = broker.vhost("/").unwrap().queue(name).unwrap();
    let found: Vec<u64> =
        queue.live_ranges(Seq(0), Seq(u64::MAX)).iter().flat_map(|(first, end)| first.0..end.0).collect();
    assert_eq!(found, expected);
}
