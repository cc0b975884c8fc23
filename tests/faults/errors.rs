//! Calls to the disk that fail: what ends the store, what costs one queue its messages, what is tried again. That
//! the binary then exits with 74 is seen in `tests/chaos`, where a filesystem is shut down under it.

use std::io::ErrorKind;
use std::sync::Arc;

use sluicemq::storage::directory::{Directory, NodeId};
use sluicemq::storage::disk::Disk;
use sluicemq::storage::disk::real::RealDisk;
use sluicemq::storage::disk::simulated::{CrashMode, SimulatedDisk};
use sluicemq::storage::error::StoreError;
use sluicemq::storage::pack::Kind;
use sluicemq::storage::pack::shelf::Shelf;
use sluicemq::storage::pack::writer::PackWriter;

use crate::desk::Desk;
use crate::faulty::{Call, FaultyDisk};

/// EIO has no kind of its own.
const EIO: ErrorKind = ErrorKind::Other;
const MESSAGES: u64 = 60;

fn body(id: u64) -> Vec<u8> {
    id.to_le_bytes().repeat(200)
}

fn open(disk: &FaultyDisk, seed: u64) -> Desk {
    let mut desk = Desk::open(Arc::new(disk.clone()), seed).unwrap();
    desk.declare("orders");
    desk.work().unwrap();
    desk
}

/// Publishes and confirms so many that a part of them is in packs.
fn fill(desk: &mut Desk) {
    for id in 0..MESSAGES {
        desk.publish("orders", &body(id));
        desk.work().unwrap();
    }
    assert_eq!(desk.confirmed, MESSAGES);
    assert!(!desk.broker.node.disk.list("pack").unwrap().is_empty());
}

/// What the next process finds must be the confirmed ones, and perhaps more.
fn check_recovers(disk: &FaultyDisk, confirmed: u64) {
    for mode in [CrashMode::NothingUnsynced, CrashMode::Kill, CrashMode::AllKept] {
        let after = FaultyDisk::new(disk.disk.crash(mode, 3));
        let mut desk = open(&after, 77);
        let found = desk.drain("orders").unwrap();
        assert!(found.len() as u64 >= confirmed, "{mode:?}: {} of {confirmed}", found.len());
        assert!((0..).zip(&found).all(|(id, found)| *found == body(id)), "{mode:?}");
    }
}

#[test]
fn a_failed_sync_confirms_nothing_and_is_never_tried_again() {
    let disk = FaultyDisk::new(SimulatedDisk::new());
    let mut desk = open(&disk, 1);
    desk.publish("orders", &body(0));
    desk.work().unwrap();
    disk.fail(Call::Sync, "log/", EIO);
    desk.publish("orders", &body(1));
    let error = desk.work().unwrap_err();
    assert!(error.to_string().contains("sync log/slot-00.log") && !error.is_full(), "{error}");
    // The next sync would succeed, as the kernel's does.
    disk.heal();
    desk.publish("orders", &body(2));
    assert!(matches!(desk.work().unwrap_err(), StoreError::Poisoned(_)));
    assert_eq!(desk.confirmed, 1);
    check_recovers(&disk, 1);
}

#[test]
fn a_pack_that_cannot_be_written_ends_the_store_and_leaves_the_log() {
    for call in [Call::Write, Call::Sync] {
        let disk = FaultyDisk::new(SimulatedDisk::new());
        let mut desk = open(&disk, 1);
        disk.fail(call, "pack/", EIO);
        let mut error = None;
        for id in 0..MESSAGES {
            desk.publish("orders", &body(id));
            if let Err(failed) = desk.work() {
                error = Some(failed);
                break;
            }
        }
        let error = error.expect("a checkpoint comes");
        assert!(error.to_string().contains("pack/") && !error.is_full(), "{error}");
        check_recovers(&disk, desk.confirmed);
    }
}

#[test]
fn no_room_for_a_pack_or_the_tables_is_tried_again_and_loses_nothing() {
    for files in ["pack/", "meta.redb"] {
        let disk = FaultyDisk::new(SimulatedDisk::new());
        let mut desk = open(&disk, 1);
        disk.fail(Call::Write, files, ErrorKind::StorageFull);
        let mut refused = 0;
        for id in 0..MESSAGES {
            desk.publish("orders", &body(id));
            if let Err(error) = desk.work() {
                assert!(error.is_full(), "{error}");
                refused += 1;
            }
        }
        assert!(refused > 0, "{files}");
        check_recovers(&disk, desk.confirmed);
        disk.heal();
        desk.work().unwrap();
        assert_eq!(desk.confirmed, desk.published, "{files}");
        check_recovers(&disk, desk.confirmed);
        assert_eq!(desk.drain("orders").unwrap().len() as u64, MESSAGES);
    }
}

#[test]
fn a_pack_that_the_disk_does_not_read_holds_its_queue_up_and_no_other() {
    let disk = FaultyDisk::new(SimulatedDisk::new());
    fill(&mut open(&disk, 1));
    let disk = FaultyDisk::new(disk.disk.crash(CrashMode::Kill, 1));
    let mut desk = open(&disk, 2);
    disk.fail(Call::Read, "pack/", EIO);
    desk.declare("other");
    desk.publish("other", b"fine");
    assert_eq!(desk.get("other").unwrap().as_deref(), Some(&b"fine"[..]));
    assert!(desk.get("orders").is_err(), "no answer comes");
    desk.work().unwrap();
    assert_eq!((desk.confirmed, desk.got.len()), (1, 1));
    disk.heal();
    desk.work().unwrap();
    assert_eq!(desk.got.last(), Some(&body(0)), "the answer that was owed");
    let rest = desk.drain("orders").unwrap();
    assert!((1..MESSAGES).map(body).eq(rest));
    assert_eq!(desk.broker.node.counters.damaged_messages.read(), 0);
}

#[test]
fn a_clock_that_jumps_changes_no_order_and_loses_nothing() {
    const HOUR_MS: u64 = 3_600_000;
    let disk = FaultyDisk::new(SimulatedDisk::new());
    let mut desk = open(&disk, 1);
    let real_ms = desk.now.unix_ms;
    let times = [real_ms, real_ms + HOUR_MS, real_ms - HOUR_MS, 0, u64::MAX, 1, real_ms];
    for id in 0..MESSAGES {
        desk.now.unix_ms = times[id as usize % times.len()];
        desk.publish("orders", &body(id));
        desk.work().unwrap();
    }
    assert_eq!(desk.confirmed, MESSAGES);
    check_recovers(&disk, MESSAGES);
    assert_eq!(desk.drain("orders").unwrap().len() as u64, MESSAGES);
}

#[test]
fn data_of_a_newer_version_is_refused_with_the_advice_to_run_it() {
    let newer = |problem: String, file: &str| {
        assert!(problem.contains(file) && problem.contains("run the newer version"), "{problem}");
    };
    let disk = FaultyDisk::new(SimulatedDisk::new());
    fill(&mut open(&disk, 1));
    // A slot: its version, and the checksum of the header.
    let name = "log/slot-00.log";
    let mut header = vec![0; 44];
    disk.disk.open(name).unwrap().read_at(&mut header, 0).unwrap();
    header[8] = 2;
    let crc = crc32c::crc32c(&header);
    disk.disk.tamper(name, 0, &[header, crc.to_le_bytes().to_vec()].concat()).unwrap();
    let refused = Desk::open(Arc::new(disk.disk.crash(CrashMode::AllKept, 0)), 2).map(drop);
    newer(refused.unwrap_err().to_string(), name);

    let dir = tempfile::tempdir().unwrap();
    let real = || -> Arc<dyn Disk> { Arc::new(RealDisk::new(dir.path()).unwrap()) };
    drop(Directory::open(real(), NodeId(1)).unwrap());
    Desk::open(real(), 1).unwrap().close().unwrap();
    let format = redb::TableDefinition::<&str, u64>::new("meta");
    let database = redb::Database::open(dir.path().join("meta.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(format).unwrap().insert("format", 2).unwrap();
    transaction.commit().unwrap();
    drop(database);
    newer(Desk::open(real(), 2).map(drop).unwrap_err().to_string(), "meta.redb");
    std::fs::write(dir.path().join("FORMAT"), format!("sluicemq 2\nnode {:032x}\n", 1)).unwrap();
    newer(Directory::open(real(), NodeId(2)).map(drop).unwrap_err().to_string(), "FORMAT");
}

#[test]
fn a_log_that_cannot_open_its_next_file_for_want_of_descriptors_waits_for_one() {
    let disk = FaultyDisk::new(SimulatedDisk::new());
    let mut desk = open(&disk, 1);
    disk.take_descriptors();
    let refused = (0..MESSAGES * 100).find_map(|id| {
        desk.publish("orders", &body(id));
        desk.work().err()
    });
    let refused = refused.expect("there is no file for all of them");
    assert!(refused.is_full(), "nothing is broken: {refused}");
    desk.broker.on_disk_full(&refused);
    assert!(desk.broker.node.alarms.reason().is_some(), "publishers wait");
    disk.give_descriptors();
    desk.work().unwrap();
    assert_eq!(desk.confirmed, desk.published);
    let found = desk.drain("orders").unwrap();
    assert!((0..desk.published).map(body).eq(found));
}

#[test]
fn packs_that_nobody_reads_are_closed_for_one_that_somebody_does() {
    let disk = FaultyDisk::new(SimulatedDisk::new());
    for number in 1..=3 {
        PackWriter::create(&disk, Kind::Durable, number).unwrap().finish(&disk).unwrap();
    }
    let shelf = Shelf::new(Arc::new(disk.clone()));
    drop(shelf.lease(Kind::Durable, 1).unwrap());
    disk.take_descriptors();
    let read = shelf.lease(Kind::Durable, 2).unwrap();
    let refused = shelf.lease(Kind::Durable, 3).unwrap_err();
    assert!(refused.lacks_descriptors(), "that of the one that is read is not taken: {refused}");
    drop(read);
    shelf.lease(Kind::Durable, 3).unwrap();
}
