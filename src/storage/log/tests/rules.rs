//! One rule of the log, one test.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};

use bytes::Bytes;
use proptest::prelude::{any, proptest};

use super::{
    KIND, SLOT_BYTES, append, body, commit_all, ids, open, open_with, options, read, refused, reopen, retire,
    slot_files, write,
};
use crate::message::fact::{Definition, Fact};
use crate::message::fact_codec::{self, Sink};
use crate::message::place::{Lsn, QueueId, Seq};
use crate::storage::batch::BatchHeader;
use crate::storage::disk::Disk;
use crate::storage::disk::real::RealDisk;
use crate::storage::disk::simulated::{CrashMode, Fault, SimulatedDisk};
use crate::storage::error::StoreError;
use crate::storage::log::{Class, CommitMode, Committed, Log, LogOptions, LogReader, ReplayFrom, SyncMode};
use crate::storage::slot::SlotHeader;

fn bytes_of(disk: &SimulatedDisk, name: &str) -> Vec<u8> {
    let file = disk.open(name).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_at(&mut bytes, 0).unwrap();
    bytes
}

#[test]
fn what_was_committed_is_found_again_and_read() {
    let disk = SimulatedDisk::new();
    let (log, found) = reopen(&disk, 1);
    assert!(found.is_empty());
    let starts = write(&log, 0..40, 1500);
    assert_eq!(log.durable(), log.end());
    let mut reader = LogReader::default();
    for (id, start) in starts.iter().enumerate() {
        assert_eq!(read(&log, &mut reader, *start), body(id as u64, 1500));
    }
    let end = log.end();
    drop(log);
    let (log, found) = reopen(&disk, 2);
    assert_eq!(found, (0..40).collect::<Vec<_>>());
    assert_eq!(log.recovered_end(), end);
    assert!(log.end() > end && log.durable() == log.end());
    for (id, start) in starts.iter().enumerate() {
        assert_eq!(read(&log, &mut reader, *start), body(id as u64, 1500));
    }
    assert!(log.lease(log.end()).is_none());
}

#[test]
fn a_torn_tail_is_cut_and_stays_cut() {
    let disk = SimulatedDisk::new();
    let (log, _) = reopen(&disk, 1);
    write(&log, 0..3, 100);
    let mut whole = bytes_of(&disk, "log/slot-00.log");
    // The third batch lies at page 3: damaged, it was never confirmed as far as anybody can tell.
    disk.tamper("log/slot-00.log", 3 * 4096 + 60, b"torn").unwrap();
    let (log, found) = reopen(&disk, 2);
    assert_eq!(found, [0, 1]);
    write(&log, [7], 100);
    // It looks whole again, but the cut is remembered.
    disk.tamper("log/slot-00.log", 3 * 4096, &whole.split_off(3 * 4096)).unwrap();
    assert_eq!(reopen(&disk, 3).1, [0, 1, 7]);
    assert_eq!(reopen(&disk, 4).1, [0, 1, 7]);
}

#[test]
fn damage_in_the_middle_is_refused_with_file_and_offset() {
    let disk = SimulatedDisk::new();
    let (log, _) = reopen(&disk, 1);
    write(&log, 0..3, 100);
    disk.tamper("log/slot-00.log", 2 * 4096 + 60, b"rot").unwrap();
    let problem = refused(&disk, 2);
    assert!(problem.starts_with("log/slot-00.log at byte 8192: the log is damaged"), "{problem}");
}

#[test]
fn damage_at_the_end_of_a_slot_that_was_followed_by_another_is_refused() {
    let disk = SimulatedDisk::new();
    let (log, _) = reopen(&disk, 1);
    write(&log, 0..9, 100);
    assert_eq!(log.slots_in_use(), 2);
    disk.tamper("log/slot-00.log", 7 * 4096 + 60, b"rot").unwrap();
    let problem = refused(&disk, 2);
    assert!(problem.starts_with("log/slot-00.log at byte 28672: "), "{problem}");
}

#[test]
fn damage_before_a_cut_is_refused() {
    let disk = SimulatedDisk::new();
    let (log, _) = reopen(&disk, 1);
    write(&log, 0..3, 100);
    drop(log);
    drop(reopen(&disk, 2));
    disk.tamper("log/slot-00.log", 3 * 4096 + 60, b"rot").unwrap();
    let problem = refused(&disk, 3);
    assert!(problem.starts_with("log/slot-00.log at byte 12288: the log ends at"), "{problem}");
}

#[test]
fn a_lost_slot_is_missed() {
    let disk = SimulatedDisk::new();
    let (log, _) = reopen(&disk, 1);
    write(&log, 0..20, 100);
    let last = bytes_of(&disk, "log/slot-02.log");
    let middle = bytes_of(&disk, "log/slot-01.log");
    disk.tamper("log/slot-01.log", 0, &[0; 4096]).unwrap();
    assert!(refused(&disk, 2).contains("slot 2 of the log is missing"));
    disk.tamper("log/slot-01.log", 0, &middle).unwrap();
    // A last slot without its header cannot be told from one that was never begun, but for what is in it.
    disk.tamper("log/slot-02.log", 0, &[0; 4096]).unwrap();
    assert!(refused(&disk, 2).starts_with("log/slot-02.log at byte 0: the header is damaged"));
    disk.tamper("log/slot-02.log", 0, &last).unwrap();
    assert_eq!(reopen(&disk, 2).1.len(), 20);
    let nothing = SimulatedDisk::new();
    let from = ReplayFrom { sequence: 4, lsn: Lsn(100) };
    assert!(open(&nothing, 1, from).unwrap_err().to_string().contains("slot 4 of the log is missing"));
}

#[test]
fn a_slot_of_another_history_is_refused() {
    let disk = SimulatedDisk::new();
    write(&reopen(&disk, 1).0, 0..6, 100);
    let backup = disk.crash(CrashMode::AllKept, 0);
    write(&reopen(&backup, 9).0, 100..103, 100);
    let other = bytes_of(&backup, "log/slot-01.log");
    assert_eq!(SlotHeader::decode(&other, "").unwrap().unwrap().sequence, 2);
    let (log, _) = reopen(&disk, 2);
    write(&log, 6..20, 100);
    // It follows the same first slot, and the third one tells that it is not the second.
    disk.tamper("log/slot-01.log", 0, &other).unwrap();
    assert!(refused(&disk, 3).contains("slot 3 does not follow the one before it"));
    let stranger = SimulatedDisk::new();
    write(&reopen(&stranger, 3).0, 0..9, 100);
    stranger.tamper("log/slot-01.log", 0, &other).unwrap();
    assert!(refused(&stranger, 4).contains("slot 2 does not follow the one before it"));
}

#[test]
fn a_failed_sync_is_final_though_the_next_one_succeeds() {
    let disk = SimulatedDisk::new();
    let (log, _) = reopen(&disk, 1);
    write(&log, [0], 100);
    let durable = log.durable();
    append(&log, [(1, 100)]);
    disk.fail_at(disk.calls() + 1, Fault::SyncFails);
    assert!(matches!(log.commit_once(), Err(StoreError::Poisoned(_))));
    append(&log, [(2, 100)]);
    assert!(matches!(log.commit_once(), Err(StoreError::Poisoned(_))));
    assert!(log.sync().is_err() && log.seal_open_slot().is_err() && log.prepare_slot().is_err());
    assert_eq!(log.durable(), durable);
    assert!(log.is_congested());
    // What the cache shows is not believed.
    let after = disk.crash(CrashMode::Kill, 0);
    let (_, found) = reopen(&after, 2);
    assert_eq!(reopen(&after.crash(CrashMode::NothingUnsynced, 0), 3).1, found);
}

#[test]
fn units_are_never_split() {
    let (log, _) = reopen(&SimulatedDisk::new(), 1);
    // Each unit has five records of 1,000 bytes, and a batch is full with 6 KiB.
    let units: Vec<_> = (0..5u64).map(|unit| append(&log, (0..5).map(|n| (unit * 5 + n, 1000)))).collect();
    let mut ends = Vec::new();
    while log.commit_once().unwrap() == Committed::Batch {
        ends.push(log.durable());
    }
    let unit_ends: Vec<_> = units.iter().map(|unit| unit[4].end).collect();
    assert_eq!(ends, [unit_ends[1], unit_ends[3], unit_ends[4]]);
}

#[test]
fn a_slot_grows_for_a_unit_larger_than_itself_and_shrinks_again() {
    let disk = SimulatedDisk::new();
    let (log, _) = reopen(&disk, 1);
    write(&log, [0], 100);
    let mut unit = log.append();
    let large = Bytes::from(body(1, 100_000));
    let logged = unit.push_record(KIND, Class::Message, [], |sink| {
        sink.put(b"head");
        sink.share(large.clone());
        sink.put(b"tail");
    });
    drop(unit);
    commit_all(&log).unwrap();
    let expected = [b"head".as_slice(), &large, b"tail"].concat();
    assert_eq!(read(&log, &mut LogReader::default(), logged.start), expected);
    assert!(disk.open("log/slot-01.log").unwrap().len().unwrap() > 100_000);
    drop(log);
    let (log, records) = open(&disk, 2, ReplayFrom::START).unwrap();
    assert_eq!(records[1].body, expected);
    retire(&log, 9).unwrap();
    assert_eq!(disk.open("log/slot-01.log").unwrap().len().unwrap(), SLOT_BYTES);
}

#[test]
fn stale_bytes_of_a_slot_used_again_are_not_seen() {
    let disk = SimulatedDisk::new();
    let (log, _) = reopen(&disk, 1);
    write(&log, 0..14, 100);
    let replay = retire(&log, 9).unwrap();
    write(&log, 14..16, 100);
    log.seal_open_slot().unwrap();
    assert_eq!(slot_files(&disk).len(), 3);
    write(&log, [16], 100);
    let (_, records) = open(&disk, 2, replay).unwrap();
    assert_eq!(ids(&records), (7..17).collect::<Vec<_>>());
}

#[test]
fn what_gathers_while_a_batch_is_synced_is_the_next_one() {
    let disk = SimulatedDisk::new();
    let (log, _) = reopen(&disk, 1);
    // However long a sync takes: nobody who appends waits for it, and one more sync is enough for all of them.
    let last = (0..40).map(|id| append(&log, [(id, 100)])[0].end).last().unwrap();
    assert_eq!(log.commit_once().unwrap(), Committed::Batch);
    assert_eq!(log.durable(), last);
    assert_eq!(log.commit_once().unwrap(), Committed::Nothing);
    // Up to a bound: what is behind it is the batch after that.
    let held: Vec<Lsn> = (40..200).map(|id| append(&log, [(id, 100)])[0].end).collect();
    assert_eq!(log.commit_once().unwrap(), Committed::Batch);
    assert!(log.durable() >= held[39] && log.durable() < held[100], "{:?} of {held:?}", log.durable());
}

#[test]
fn no_room_for_a_slot_is_told_and_tried_again() {
    let disk = SimulatedDisk::with_capacity(SLOT_BYTES + 4096);
    let (log, _) = reopen(&disk, 1);
    write(&log, 0..7, 100);
    append(&log, [(7, 100)]);
    for _ in 0..2 {
        assert!(log.commit_once().unwrap_err().is_full());
        assert!(log.prepare_slot().unwrap_err().is_full());
    }
    assert!(log.pending_bytes() > 0 && log.poisoned().is_none());
    append(&log, [(8, 100)]);
    disk.set_capacity(8 * SLOT_BYTES);
    commit_all(&log).unwrap();
    assert_eq!((log.durable(), log.pending_bytes()), (log.end(), 0));
    assert_eq!(reopen(&disk, 2).1, (0..9).collect::<Vec<_>>());
}

#[test]
fn a_slot_is_as_short_as_its_batch_where_there_is_no_room_for_more_and_whole_when_it_is_used_again() {
    let disk = SimulatedDisk::with_capacity(SLOT_BYTES + 3 * 4096);
    let (log, _) = reopen(&disk, 1);
    write(&log, 0..7, 100);
    assert!(!log.is_checkpoint_due());
    // A header, and a batch of two pages.
    write(&log, [7], 5000);
    assert_eq!(bytes_of(&disk, "log/slot-01.log").len(), 3 * 4096);
    append(&log, [(8, 100)]);
    assert!(log.commit_once().unwrap_err().is_full());
    assert_eq!(slot_files(&disk).len(), 2, "a file without room does not stay");
    assert!(log.slots_in_use() < log.window_slots() && log.is_checkpoint_due(), "it lacks room");
    log.tell_of_room();
    assert!(!log.is_checkpoint_due());
    disk.set_capacity(8 * SLOT_BYTES);
    commit_all(&log).unwrap();
    assert_eq!(reopen(&disk.crash(CrashMode::NothingUnsynced, 1), 2).1, (0..9).collect::<Vec<_>>());
    let from = retire(&log, 2).unwrap();
    write(&log, 9..30, 100);
    assert!(slot_files(&disk).iter().all(|name| bytes_of(&disk, name).len() as u64 == SLOT_BYTES));
    drop(log);
    assert_eq!(ids(&open(&disk, 3, from).unwrap().1), (8..30).collect::<Vec<_>>());
}

#[test]
fn a_slot_is_prepared_once_and_taken_next() {
    let disk = SimulatedDisk::new();
    let (log, _) = reopen(&disk, 1);
    while log.prepare_slot().unwrap() {}
    assert!(!log.prepare_slot().unwrap());
    assert_eq!(slot_files(&disk).len(), 2);
    write(&log, 0..8, 100);
    assert_eq!((log.slots_in_use(), slot_files(&disk).len()), (2, 2));
}

#[test]
fn no_zeros_are_written_first_while_batches_are_large() {
    let disk = SimulatedDisk::new();
    let options = LogOptions { slot_bytes: 1 << 20, batch_bytes_max: 1 << 20, ..options(1) };
    let (log, _) = open_with(&disk, options, ReplayFrom::START).unwrap();
    write(&log, 0..2, 300_000);
    assert!(!log.prepare_slot().unwrap() && slot_files(&disk).len() == 1);
    write(&log, 2..4, 100);
    assert!(log.prepare_slot().unwrap());
}

#[test]
fn a_checkpoint_waits_for_the_end_of_a_burst_but_not_for_ever() {
    let (log, _) = reopen(&SimulatedDisk::new(), 1);
    write(&log, 0..21, 100);
    assert_eq!(log.slots_in_use(), log.window_slots());
    assert!(log.is_checkpoint_due());
    append(&log, [(21, 100)]);
    assert!(!log.is_checkpoint_due());
    commit_all(&log).unwrap();
    assert_eq!(log.slots_in_use(), log.window_slots() + 1);
    append(&log, [(22, 100)]);
    assert!(log.is_checkpoint_due() && !log.is_congested());
}

#[test]
fn a_slot_is_taken_when_sealed_applied_and_not_leased() {
    let disk = SimulatedDisk::new();
    let (log, _) = reopen(&disk, 1);
    let mut unit = log.append();
    let queue = QueueId(9);
    unit.push(&Fact::Settled { queue, ranges: &[(Seq(1), Seq(2))] });
    let deleted = Fact::Defined(Definition::QueueDeleted { queue: QueueId(4) });
    let place = unit.push(&deleted).start;
    let applying = unit.finish();
    commit_all(&log).unwrap();
    assert!(log.retirable(9).is_none(), "it is open");
    log.seal_open_slot().unwrap();
    log.seal_open_slot().unwrap();
    assert_eq!(log.slots_in_use(), 2);
    assert!(log.retirable(9).is_none(), "it is not applied");
    drop(applying);
    let retiring = log.retirable(9).unwrap();
    assert_eq!(retiring.replay(), ReplayFrom { sequence: 2, lsn: log.end() });
    assert_eq!(retiring.facts().queues().collect::<Vec<_>>(), [QueueId(4), queue]);
    let [definition] = retiring.facts().definitions() else { panic!("one definition") };
    assert_eq!((definition.lsn, definition.kind), (place, fact_codec::kind(&deleted)));
    let facts = format!("{:?}", retiring.facts());
    let lease = log.lease(place).unwrap();
    let retiring = log.try_retire(retiring).expect("it is leased");
    assert!(log.lease(place).is_none());
    assert_eq!(LogReader::default().read(&lease, place).unwrap().1, retiring.facts().definitions()[0].body);
    drop(lease);
    // Found again, a slot says the same.
    let (again, _) = open(&disk.crash(CrashMode::AllKept, 0), 2, ReplayFrom::START).unwrap();
    assert_eq!(format!("{:?}", again.retirable(1).unwrap().facts()), facts);
    assert!(log.try_retire(retiring).is_none());
    assert_eq!(log.slots_in_use(), 1);
}

#[test]
fn a_checkpoint_of_everything_leaves_a_log_that_ends_where_it_starts() {
    let disk = SimulatedDisk::new();
    let (log, _) = reopen(&disk, 1);
    write(&log, 0..20, 100);
    log.seal_open_slot().unwrap();
    let replay = retire(&log, 9).unwrap();
    drop(log);
    let (log, records) = open(&disk, 2, replay).unwrap();
    assert!(records.is_empty());
    assert_eq!(log.recovered_end(), replay.lsn);
    // No more files are kept than the window and one.
    assert!(slot_files(&disk).len() <= 4);
}

#[test]
fn without_syncs_a_hole_in_the_tail_is_a_tail() {
    let disk = SimulatedDisk::new();
    let relaxed = |seed| LogOptions { sync: SyncMode::Interval, ..options(seed) };
    let (log, _) = open_with(&disk, relaxed(1), ReplayFrom::START).unwrap();
    write(&log, [0], 100);
    log.sync().unwrap();
    write(&log, 1..4, 100);
    assert_eq!(log.durable(), log.end());
    for seed in 0..20 {
        let after = disk.crash(CrashMode::RandomPages, seed);
        let (log, records) = open_with(&after, relaxed(seed + 2), ReplayFrom::START).unwrap();
        let found = ids(&records);
        assert_eq!(found, (0..found.len() as u64).collect::<Vec<_>>());
        assert!(!found.is_empty());
        write(&log, [9], 100);
        log.sync().unwrap();
        let (_, again) = open_with(&after, relaxed(seed + 100), ReplayFrom::START).unwrap();
        assert_eq!(ids(&again), [found, vec![9]].concat());
    }
}

#[test]
fn without_syncs_a_slot_is_synced_before_the_next_is_begun() {
    let disk = SimulatedDisk::new();
    let (log, _) =
        open_with(&disk, LogOptions { sync: SyncMode::Never, ..options(1) }, ReplayFrom::START).unwrap();
    write(&log, 0..9, 100);
    assert_eq!(reopen(&disk.crash(CrashMode::NothingUnsynced, 0), 2).1, (0..7).collect::<Vec<_>>());
}

#[test]
fn a_batch_of_another_epoch_is_nothing_wherever_it_fits() {
    let disk = SimulatedDisk::new();
    let (log, _) = reopen(&disk, 1);
    write(&log, 0..2, 100);
    let bytes = bytes_of(&disk, "log/slot-00.log");
    let last = BatchHeader::decode(&bytes[2 * 4096..]).unwrap();
    let payload = &bytes[2 * 4096 + 40..][..last.payload_bytes as usize];
    let forge = |epoch| {
        let header = BatchHeader { epoch, first_lsn: last.end_lsn(), ..last };
        [header.encode().as_slice(), payload].concat()
    };
    disk.tamper("log/slot-00.log", 3 * 4096, &forge(last.epoch + 1)).unwrap();
    assert_eq!(reopen(&disk.crash(CrashMode::AllKept, 0), 2).1, [0, 1]);
    disk.tamper("log/slot-00.log", 3 * 4096, &forge(last.epoch)).unwrap();
    assert_eq!(reopen(&disk, 2).1, [0, 1, 1]);
}

#[test]
fn an_inline_log_is_durable_at_once_unless_held() {
    let log = Log::default();
    let end = append(&log, [(1, 10)])[0].end;
    assert_eq!(log.durable(), end);
    log.hold();
    let held = append(&log, [(2, 10)])[0].end;
    assert_eq!(log.durable(), end);
    log.release();
    assert_eq!(log.durable(), held);
    // It forgets: however much it is told, it keeps two slots.
    for id in 0..100 {
        append(&log, [(id, 100_000)]);
    }
    assert!(log.slots_in_use() <= 2 && log.durable() == log.end());
    // A slot that is not applied when the next is begun stays, and nobody is held back for it.
    let applying: Vec<_> = (0..40)
        .map(|_| {
            let mut append = log.append();
            append.push_record(KIND, Class::Message, [], |sink| sink.put(&[0; 100_000]));
            append.finish()
        })
        .collect();
    assert!(log.slots_in_use() > 2 && !log.is_congested() && !log.is_checkpoint_due());
    drop(applying);
}

#[test]
fn on_a_filesystem_it_is_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let open = |from| {
        let disk = Arc::new(RealDisk::new(dir.path().join("data")).unwrap());
        let options = LogOptions { epoch_seed: None, ..options(0) };
        let mut found = Vec::new();
        let log = Log::open(disk, options, from, &mut |record| {
            found.push(record);
            Ok(())
        });
        (log.unwrap(), ids(&found))
    };
    let (log, _) = open(ReplayFrom::START);
    while log.prepare_slot().unwrap() {}
    let starts = write(&log, 0..20, 1000);
    drop(log);
    let (log, found) = open(ReplayFrom::START);
    assert_eq!(found, (0..20).collect::<Vec<_>>());
    assert_eq!(read(&log, &mut LogReader::default(), starts[7]), body(7, 1000));
    log.seal_open_slot().unwrap();
    let replay = retire(&log, 9).unwrap();
    write(&log, [20], 40_000);
    drop(log);
    assert_eq!(open(replay).1, [20]);
}

struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn who_waits_is_woken_once_and_the_committer_works_until_it_is_told_to_go_home() {
    let log = Log::in_memory(LogOptions { commit: CommitMode::Called, ..options(1) });
    let count = Arc::new(Count(AtomicUsize::new(0)));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while log.wait_for_work() {
                commit_all(&log).unwrap();
            }
            commit_all(&log).unwrap();
        });
        let mut last = Lsn(0);
        for id in 0..200 {
            let class = if id % 3 == 0 { Class::Settle } else { Class::Message };
            last = log.append().push_record(KIND, class, [QueueId(1)], |sink| sink.put(b"x")).end;
        }
        while log.durable() < last {
            std::thread::yield_now();
        }
        last = log.append().push_record(KIND, Class::Settle, [QueueId(1)], |sink| sink.put(b"x")).end;
        log.wake_when_durable(last, &Waker::from(Arc::clone(&count)));
        while log.durable() < last {
            std::thread::yield_now();
        }
        log.close();
    });
    assert_eq!(count.0.load(Ordering::Relaxed), 1);
    assert_eq!(log.durable(), log.end());
}

#[test]
fn records_are_found_while_the_queues_that_a_batch_names_are_noted() {
    let log = Log::in_memory(options(4));
    let start = log.append().push_record(KIND, Class::Message, [QueueId(1)], |sink| sink.put(b"x")).start;
    commit_all(&log).unwrap();
    let open = Arc::clone(log.slots.lock().used.back().unwrap());
    let _noting = open.facts.lock();
    assert!(!open.contents.is_locked());
    assert!(log.lease(start).is_some());
}

proptest! {
    #[test]
    fn arbitrary_slots_never_panic_and_never_deliver_what_is_damaged(
        seed in any::<u64>(),
        flips in proptest::collection::vec((0usize..40_000, any::<u8>()), 0..6),
        cut in proptest::option::of(0u64..40_000),
    ) {
        let disk = SimulatedDisk::new();
        write(&reopen(&disk, 1).0, 0..5, 700);
        write(&reopen(&disk, 2).0, 5..9, 700);
        for (at, byte) in flips {
            // Mostly where something is.
            let name = if at % 2 == 0 { "log/slot-00.log" } else { "log/slot-01.log" };
            disk.tamper(name, (at as u64 / 1000) * 1024 + at as u64 % 64, &[byte]).unwrap();
        }
        if let Some(len) = cut {
            disk.open("log/slot-01.log").unwrap().truncate(len).unwrap();
        }
        if let Ok((_, records)) = open(&disk, seed | 1, ReplayFrom::START) {
            for record in records {
                let id = u64::from_le_bytes(record.body[..8].try_into().unwrap());
                assert_eq!(record.body, body(id, 700));
            }
        }
    }

    #[test]
    fn forged_batches_never_panic(
        payload in proptest::collection::vec(any::<u8>(), 0..200),
        first_lsn in any::<u64>(),
        records in any::<u32>(),
        length in proptest::option::of(any::<u32>()),
    ) {
        let disk = SimulatedDisk::new();
        write(&reopen(&disk, 1).0, 0..2, 100);
        let epoch = SlotHeader::decode(&bytes_of(&disk, "log/slot-00.log"), "").unwrap().unwrap().epoch;
        let header = BatchHeader {
            payload_bytes: length.unwrap_or(payload.len() as u32),
            epoch,
            first_lsn: if first_lsn % 2 == 0 { 232 } else { first_lsn },
            records: records % 4,
            relaxed: false,
            payload_crc: crc32c::crc32c(&payload),
        };
        disk.tamper("log/slot-00.log", 3 * 4096, &[header.encode().as_slice(), &payload].concat()).unwrap();
        let _ = open(&disk, 2, ReplayFrom::START);
    }
}
