//! What a checkpoint writes, against what the log holds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::broker::Broker;
use crate::broker::checkpoint::capture::{Capture, Outcome};
use crate::broker::checkpoint::{Checkpoint, Progress};
use crate::broker::memory::Memory;
use crate::broker::queue::handle::HOLDS;
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
use crate::storage::disk::simulated::{CrashMode, SimulatedDisk};
use crate::storage::disk::watched::WatchedDisk;
use crate::storage::log::{Committed, LogOptions, SyncMode};

/// Small enough for several checkpoints, and large enough for a single one.
const SMALL_SLOT_BYTES: u64 = 256 * 1024;
const LARGE_SLOT_BYTES: u64 = 16 << 20;
/// Messages of one burst.
const BURST: u64 = 3;

fn open(disk: &WatchedDisk, slot_bytes: u64) -> (Broker, Checkpoint) {
    let options = LogOptions { slot_bytes, window_slots: 2, ..LogOptions::default() };
    open_with(Arc::new(disk.clone()), options)
}

fn open_with(disk: Arc<dyn Disk>, options: LogOptions) -> (Broker, Checkpoint) {
    let memory = Memory::new(u64::MAX, u64::MAX);
    Broker::open(Arc::new(Config::default()), disk, options, memory).unwrap()
}

fn declare(broker: &Broker, queue: u64) {
    let name = format!("q{queue}");
    let (queue, vhost) = (QueueId(queue), "/");
    let declared =
        Definition::QueueDeclared { queue, vhost, name: &name, auto_delete: false, arguments: &[] };
    drop(broker.node.log.append_one(&Fact::Defined(declared)));
}

/// The numbers of what lives in a queue.
fn live(broker: &Broker, queue: u64) -> Vec<u64> {
    let queue = broker.vhost("/").unwrap().queue(&format!("q{queue}")).unwrap();
    let ranges = queue.live_ranges(Seq(0), Seq(u64::MAX));
    ranges.iter().flat_map(|(first, end)| first.0..end.0).collect()
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
    (1..=queues).for_each(|queue| declare(broker, queue));
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
        let live = live(broker, queue);
        let queue = vhost.queue(&format!("q{queue}")).unwrap();
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
fn what_lives_in_the_slots_is_captured_in_several_holds_of_a_queues_lock() {
    let holds = |bursts| {
        let disk = WatchedDisk::default();
        fill(&open(&disk, LARGE_SLOT_BYTES).0, 1, bursts);
        let (broker, _checkpoints) = open(&disk, LARGE_SLOT_BYTES);
        broker.node.log.seal_open_slot().unwrap();
        let mut capture = Capture::of_slots(broker.node.log.retirable(usize::MAX).unwrap(), None);
        let before = HOLDS.get();
        assert!(matches!(capture.next_queue(&broker, 1).unwrap(), Outcome::Captured));
        HOLDS.get() - before
    };
    // Each burst is a range at least, of which a thousand are looked at in one hold.
    let (few, many) = (holds(10), holds(4500));
    assert!(many >= few + 4, "{few} holds for 10 bursts, {many} for 4500");
}

#[test]
fn what_is_less_urgent_and_older_is_taken_over_though_more_urgent_messages_came_later() {
    let disk = WatchedDisk::default();
    let (broker, checkpoints) = open(&disk, SMALL_SLOT_BYTES);
    let (queue, log) = (QueueId(1), &broker.node.log);
    declare(&broker, 1);
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
    assert_eq!(live(&broker, 1), expected);
}

/// A message that waits in a pack moves to another queue, in one hold of the log, and a checkpoint that saves what is
/// settled comes before the log is synced: at which calls of it a crash finds the message nowhere, or in both queues.
fn crashes_that_break_a_hold(sync: SyncMode) -> Vec<String> {
    let options = LogOptions { slot_bytes: SMALL_SLOT_BYTES, window_slots: 1, sync, ..LogOptions::default() };
    let disk = WatchedDisk::default();
    {
        let (broker, _checkpoints) = open_with(Arc::new(disk.clone()), options.clone());
        (1..=2).for_each(|queue| declare(&broker, queue));
        let targets = [(QueueId(1), Seq(1))];
        drop(broker.node.log.append_one(&Fact::Published { run: &burst(300), targets: &targets }));
        while broker.commit().unwrap() == Committed::Batch {}
    }
    let (broker, mut checkpoints) = open_with(Arc::new(disk.clone()), options.clone());
    checkpoint(&broker, &mut checkpoints);
    assert_eq!(packs(disk.simulated()).0, 1, "the message is not in a pack");
    let log = &broker.node.log;
    let queue = broker.vhost("/").unwrap().queue("q1").unwrap();
    // A slot that names its queue, for a checkpoint to take.
    drop(log.append_one(&Fact::Settled { queue: QueueId(1), ranges: &[(Seq(3), Seq(4))] }));
    queue.lock().classic.ledger.cut(Seq(3), Seq(4));
    while broker.commit().unwrap() == Committed::Batch {}
    log.seal_open_slot().unwrap();
    let mut hold = log.append();
    hold.push(&Fact::Published { run: &burst(300), targets: &[(QueueId(2), Seq(1))] });
    hold.push(&Fact::Settled { queue: QueueId(1), ranges: &[(Seq(1), Seq(2))] });
    drop(hold.finish());
    queue.lock().classic.ledger.cut(Seq(1), Seq(2));

    let broken = Arc::new(Mutex::new(Vec::new()));
    let (now, found, call) = (disk.simulated().clone(), Arc::clone(&broken), AtomicU64::new(0));
    let after = options.clone();
    disk.watch(move || {
        let call = call.fetch_add(1, Ordering::Relaxed);
        for mode in CrashMode::ALL {
            let (broker, _checkpoints) = open_with(Arc::new(now.crash(mode, call)), after.clone());
            let (before, behind) = (live(&broker, 1).contains(&1), !live(&broker, 2).is_empty());
            if before == behind {
                found.lock().push(format!("{sync:?}, call {call}, {mode:?}: in both: {before}"));
            }
        }
    });
    let mut waited = false;
    loop {
        match checkpoints.turn(&broker).unwrap() {
            Progress::Working => {}
            Progress::WaitsForLog(_) => {
                waited = true;
                assert_eq!(broker.commit().unwrap(), Committed::Batch);
            }
            Progress::Idle | Progress::WaitsForReaders => break,
        }
    }
    let broken = std::mem::take(&mut *broken.lock());
    assert!(!broken.is_empty() || (waited && log.slots_in_use() == 1), "the checkpoint has taken nothing");
    broken
}

#[test]
fn the_tables_are_never_ahead_of_the_log() {
    for sync in [SyncMode::EachBatch, SyncMode::Interval, SyncMode::Never] {
        assert_eq!(crashes_that_break_a_hold(sync), Vec::<String>::new());
    }
}
