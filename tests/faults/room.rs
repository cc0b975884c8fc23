//! A disk that gets full and has room again, on a simulated disk whose size changes: publishers wait no longer than they
//! must, nothing is left behind by what did not fit, and what is there shrinks to what lives.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use sluicemq::broker::alarms::HOLD;
use sluicemq::broker::checkpoint::Progress;
use sluicemq::storage::disk::Disk;
use sluicemq::storage::disk::simulated::{CrashMode, SimulatedDisk};
use sluicemq::storage::log::Committed;
use sluicemq::storage::pack::Kind;

use crate::desk::{Desk, SLOT_BYTES};
use crate::faulty::{Call, FaultyDisk};

/// More than is ever used.
const LARGE: u64 = 1 << 40;
const BODY_BYTES: usize = 4000;
/// What a start may leave of the log when nothing lives: the open slot, one that is sealed, and one that is free.
const LOG_BYTES: u64 = 3 * SLOT_BYTES;
/// The tables of a few packs, and the reserve.
const TABLES_BYTES: u64 = 8 << 20;

fn body(id: u64) -> Vec<u8> {
    id.to_le_bytes().repeat(BODY_BYTES / 8)
}

fn open(disk: &SimulatedDisk, seed: u64) -> Desk {
    let mut desk = Desk::open(Arc::new(disk.clone()), seed).unwrap();
    for queue in ["kept", "drained"] {
        desk.declare(queue);
    }
    desk.work().unwrap();
    desk
}

fn used(disk: &SimulatedDisk) -> u64 {
    disk.set_capacity(LARGE);
    LARGE - disk.free_bytes().unwrap()
}

fn packs(disk: &SimulatedDisk) -> (usize, u64) {
    let names = disk.list("pack").unwrap();
    let bytes = names.iter().map(|name| disk.open(&format!("pack/{name}")).unwrap().len().unwrap());
    (names.len(), bytes.sum())
}

/// Publishes so many messages, of which every `one_in` is kept and the others are drained when all are in packs.
fn nearly_kill_packs(desk: &mut Desk, count: u64, one_in: u64) -> u64 {
    let mut kept = 0;
    for id in 0..count {
        let is_kept = id % one_in == 0;
        kept += u64::from(is_kept);
        desk.publish(if is_kept { "kept" } else { "drained" }, &body(id));
        desk.work().unwrap();
    }
    kept
}

fn raise_alarm(desk: &Desk) {
    desk.broker.look_at_disk(0, desk.now.instant);
    assert!(desk.broker.node.alarms.reason().is_some());
}

#[test]
fn what_is_there_shrinks_to_what_lives_when_a_backlog_is_drained_during_an_alarm() {
    for one_in in [2, 5, 20, 200] {
        let disk = SimulatedDisk::new();
        let mut desk = open(&disk, 1);
        let kept = nearly_kill_packs(&mut desk, 400, one_in);
        // The limit is what is used when only a little more than what lives is.
        let limit = desk.broker.config.storage.disk_free_limit_bytes();
        let live = kept * BODY_BYTES as u64;
        let capacity = limit * 10 / 9 + live * 3 / 2 + LOG_BYTES + TABLES_BYTES;
        disk.set_capacity(capacity);
        desk.broker.look_at_disk(disk.free_bytes().unwrap().min(limit - 1), desk.now.instant);
        assert!(desk.broker.node.alarms.reason().is_some());
        assert_eq!(desk.drain("drained").unwrap().len() as u64, 400 - kept);
        desk.work().unwrap();
        desk.broker.look_at_disk(disk.free_bytes().unwrap(), desk.now.instant + HOLD);
        let (files, bytes) = packs(&disk);
        assert_eq!(
            desk.broker.node.alarms.reason(),
            None,
            "one of {one_in} lives: {live} bytes of {bytes} in {files} packs"
        );
        assert!(bytes <= live * 3 / 2 + SLOT_BYTES, "{live} bytes live, and {files} packs have {bytes}");
        let found = desk.drain("kept").unwrap();
        assert!((0..).step_by(one_in as usize).map(body).zip(&found).all(|(kept, found)| kept == *found));
        assert_eq!(found.len() as u64, kept);
    }
}

#[test]
fn packs_of_which_little_lives_are_merged_when_there_is_nothing_else_to_do() {
    let disk = SimulatedDisk::new();
    let mut desk = open(&disk, 1);
    let kept = nearly_kill_packs(&mut desk, 400, 20);
    assert_eq!(desk.drain("drained").unwrap().len() as u64, 400 - kept);
    desk.work().unwrap();
    let (files, bytes) = packs(&disk);
    assert!(bytes < 4 * kept * BODY_BYTES as u64, "{bytes} bytes in {files} packs");
}

#[test]
fn packs_of_an_earlier_process_are_merged_although_the_tables_do_not_tell_what_they_had() {
    let disk = SimulatedDisk::new();
    let mut desk = open(&disk, 1);
    // Each queue has extents of its own in a pack, and those without live messages are forgotten one by one.
    let kept = nearly_kill_packs(&mut desk, 400, 20);
    let mut drained = 0;
    while desk.get("drained").unwrap().is_some() {
        drained += 1;
    }
    assert_eq!(drained, 400 - kept);
    while desk.broker.commit().unwrap() == Committed::Batch {}
    drop(desk);
    let disk = disk.crash(CrashMode::AllKept, 1);
    let mut desk = open(&disk, 2);
    desk.work().unwrap();
    let (files, bytes) = packs(&disk);
    assert!(bytes < 4 * kept * BODY_BYTES as u64, "{bytes} bytes in {files} packs");
    assert_eq!(desk.drain("kept").unwrap().len() as u64, kept);
}

#[test]
fn a_merge_that_does_not_fit_leaves_nothing_behind_and_slots_are_used_again_all_the_same() {
    let faulty = FaultyDisk::new(SimulatedDisk::new());
    let disk = faulty.disk.clone();
    let mut desk = Desk::open(Arc::new(faulty.clone()), 1).unwrap();
    for queue in ["kept", "drained"] {
        desk.declare(queue);
    }
    desk.work().unwrap();
    let kept = nearly_kill_packs(&mut desk, 200, 5);
    // No pack can be written: neither the merges' nor, for a while, the slots'.
    faulty.fail(Call::Write, "pack/", ErrorKind::StorageFull);
    let (files, bytes) = packs(&disk);
    while let Ok(Some(_)) = desk.get("drained") {}
    for _ in 0..50 {
        let _full = desk.work();
        let (files_now, bytes_now) = packs(&disk);
        assert!(files_now <= files + 1 && bytes_now <= bytes, "{files_now} files of {files}");
    }
    faulty.heal();
    desk.work().unwrap();
    desk.drain("drained").unwrap();
    assert_eq!(desk.got.len() as u64, 200 - kept);
    raise_alarm(&desk);
    desk.work().unwrap();
    let (files, bytes) = packs(&disk);
    assert!(bytes < 2 * kept * BODY_BYTES as u64, "{bytes} bytes in {files} packs");
}

#[test]
fn slots_are_used_again_before_packs_are_merged_that_do_not_fit() {
    let disk = SimulatedDisk::new();
    let mut desk = open(&disk, 1);
    // Nearly three quarters of all packs are dead, and what lives is more than there is room for.
    nearly_kill_packs(&mut desk, 1000, 5);
    desk.drain("drained").unwrap();
    let slots = desk.broker.node.log.slots_in_use();
    disk.set_capacity(used(&disk) + 6 * SLOT_BYTES);
    for id in 0..200 {
        desk.publish("drained", &body(id));
        desk.work().unwrap_or_else(|error| panic!("message {id}: {error}"));
        assert_eq!(desk.get("drained").unwrap(), Some(body(id)));
        assert!(desk.broker.node.log.slots_in_use() <= slots + 4);
    }
}

#[test]
fn files_that_nobody_needs_go_also_while_checkpoints_fail() {
    let faulty = FaultyDisk::new(SimulatedDisk::new());
    let mut desk = Desk::open(Arc::new(faulty.clone()), 1).unwrap();
    desk.declare("kept");
    desk.work().unwrap();
    faulty.fail(Call::Write, "meta.redb", ErrorKind::StorageFull);
    let mut refused = 0;
    for id in 0..100 {
        desk.publish("kept", &body(id));
        refused += u64::from(desk.work().is_err());
        assert_eq!(packs(&faulty.disk).0, 0);
    }
    assert!(refused > 10, "{refused}");
}

#[test]
fn files_that_nobody_needs_go_while_a_checkpoint_is_on_its_way() {
    let disk = SimulatedDisk::new();
    let mut desk = open(&disk, 1);
    fill_slots(&mut desk, 4);
    assert_eq!(desk.checkpoint.turn(&desk.broker).unwrap(), Progress::Working, "it begins");
    let (kind, number) = (Kind::Durable, 700);
    disk.create(&kind.file_name(number)).unwrap();
    desk.broker.node.shelf.doom(kind, number);
    assert_eq!(desk.checkpoint.turn(&desk.broker).unwrap(), Progress::Working, "it goes on");
    assert!(disk.open(&kind.file_name(number)).is_err());
}

/// More works than any rest of the checkpoint is long.
const WORKS: usize = 2000;

#[test]
fn checkpoints_go_on_while_files_that_nobody_needs_cannot_be_removed() {
    for kind in [ErrorKind::StorageFull, ErrorKind::Other] {
        let faulty = FaultyDisk::new(SimulatedDisk::new());
        let mut desk = Desk::open(Arc::new(faulty.clone()), 1).unwrap();
        desk.declare("drained");
        desk.work().unwrap();
        for number in [700, 701] {
            faulty.disk.create(&Kind::Durable.file_name(number)).unwrap();
            desk.broker.node.shelf.doom(Kind::Durable, number);
        }
        faulty.fail(Call::Remove, "pack/", kind);
        for id in 0..100 {
            desk.publish("drained", &body(id));
            desk.work().unwrap();
        }
        assert_eq!(desk.confirmed, 100);
        assert!(desk.broker.node.log.slots_in_use() <= 4, "slots are not used again");
        let there = packs(&faulty.disk).0;
        faulty.heal();
        (0..WORKS).for_each(|_| desk.work().unwrap());
        assert_eq!(packs(&faulty.disk).0, there - 2);
    }
}

#[test]
fn files_of_the_log_that_cannot_be_removed_go_when_they_can_and_keep_nobody_waiting() {
    for kind in [ErrorKind::StorageFull, ErrorKind::Other] {
        let faulty = FaultyDisk::new(SimulatedDisk::new());
        let mut desk = Desk::open(Arc::new(faulty.clone()), 1).unwrap();
        desk.declare("drained");
        desk.work().unwrap();
        // As many slots as a burst needed, which are not all kept. Who publishes is held back then.
        let published = fill_slots(&mut desk, 12);
        desk.publish("drained", &body(published));
        assert!(!desk.broker.node.alarms.held_back.is_empty());
        faulty.fail(Call::Remove, "log/", kind);
        desk.work().unwrap();
        assert!(desk.broker.node.alarms.held_back.is_empty());
        assert_eq!(desk.confirmed, published + 1);
        // Those that could not go during an alarm do as well.
        raise_alarm(&desk);
        desk.work().unwrap();
        let there = faulty.disk.list("log").unwrap().len();
        assert!(there > 6, "{there} files: all could be removed");
        faulty.heal();
        (0..WORKS).for_each(|_| desk.work().unwrap());
        assert_eq!(faulty.disk.list("log").unwrap().len(), 2, "the open one and the free one");
        assert_eq!(desk.drain("drained").unwrap(), (0..=published).map(body).collect::<Vec<_>>());
    }
}

#[test]
fn packs_that_cannot_be_read_for_a_while_are_merged_when_they_can() {
    let faulty = FaultyDisk::new(SimulatedDisk::new());
    let disk = faulty.disk.clone();
    let mut desk = Desk::open(Arc::new(faulty.clone()), 1).unwrap();
    for queue in ["kept", "drained"] {
        desk.declare(queue);
    }
    desk.work().unwrap();
    let kept = nearly_kill_packs(&mut desk, 200, 20);
    // None of them has an open file that could be read.
    desk.broker.node.shelf.close_idle();
    faulty.fail(Call::Read, "pack/", ErrorKind::Other);
    while let Ok(Some(_)) = desk.get("drained") {}
    desk.work().unwrap();
    let (_, before) = packs(&disk);
    let begins = disk.calls();
    (0..WORKS).for_each(|_| desk.work().unwrap());
    let calls = (disk.calls() - begins) as usize;
    assert!(calls < 4 * WORKS, "{calls} calls: it is tried again and again");
    assert_eq!(packs(&disk).1, before);
    faulty.heal();
    (0..10 * WORKS).for_each(|_| desk.work().unwrap());
    let (files, bytes) = packs(&disk);
    assert!(bytes < 4 * kept * BODY_BYTES as u64, "{bytes} bytes in {files} packs");
    assert_eq!(desk.drain("kept").unwrap().len() as u64, kept);
}

#[test]
fn a_merge_that_takes_more_than_was_thought_is_not_tried_again_and_again() {
    let disk = SimulatedDisk::new();
    let mut desk = open(&disk, 1);
    // One large message of a pack lives beside many small ones that do not: it is thought to be as small.
    for id in 0..200 {
        let is_kept = id % 20 == 0;
        let (queue, bytes) = if is_kept { ("kept", 40_000) } else { ("drained", 1000) };
        desk.publish(queue, &body(id).repeat(10)[..bytes]);
        desk.work().unwrap();
    }
    let _was_there = disk.unlink("meta.ballast");
    disk.set_capacity(used(&disk) + 40_000);
    desk.drain("drained").unwrap();
    let begins = disk.calls();
    for _ in 0..100 {
        desk.work().unwrap();
    }
    assert!(disk.calls() - begins < 500, "{} calls", disk.calls() - begins);
    disk.set_capacity(LARGE);
    let (files, _) = packs(&disk);
    raise_alarm(&desk);
    desk.work().unwrap();
    assert!(packs(&disk).0 < files);
    assert_eq!(desk.drain("kept").unwrap().len(), 10);
}

/// Publishes to a queue until so many slots are in use, while no checkpoint runs.
fn fill_slots(desk: &mut Desk, slots: usize) -> u64 {
    let first = desk.published;
    while desk.broker.node.log.slots_in_use() < slots {
        desk.publish("drained", &body(desk.published));
        while desk.broker.commit().unwrap() == Committed::Batch {}
    }
    desk.published - first
}

#[test]
fn the_log_takes_the_reserve_when_there_is_no_other_room() {
    let disk = SimulatedDisk::new();
    let mut desk = open(&disk, 1);
    disk.set_capacity(used(&disk));
    while desk.broker.node.alarms.reason().is_none() {
        assert!(desk.published < 1000, "there is always room");
        desk.publish("drained", &body(desk.published));
        assert_eq!(desk.broker.commit().unwrap(), Committed::Batch);
    }
    assert!(disk.open("meta.ballast").is_err());
    desk.work().unwrap();
    assert_eq!(desk.confirmed, desk.published);
}

#[test]
fn slots_are_used_again_before_a_window_is_full_when_the_reserve_is_used() {
    let disk = SimulatedDisk::new();
    let mut desk = Desk::open_with(Arc::new(disk.clone()), 1, 16).unwrap();
    desk.declare("drained");
    desk.work().unwrap();
    let first = fill_slots(&mut desk, 4);
    assert_eq!(desk.drain("drained").unwrap().len() as u64, first);
    disk.set_capacity(used(&disk));
    let mut id = first;
    while desk.broker.node.alarms.reason().is_none() {
        desk.publish("drained", &body(id));
        desk.work().unwrap_or_else(|error| panic!("message {id}: {error}"));
        id += 1;
    }
    assert!(id < first + 20, "{id}");
    desk.work().unwrap();
    assert_eq!(desk.broker.node.log.slots_in_use(), 1);
    assert!(disk.free_bytes().unwrap() > 2 * SLOT_BYTES);
    assert_eq!(desk.drain("drained").unwrap(), (first..id).map(body).collect::<Vec<_>>());
}

#[test]
fn a_checkpoint_that_waits_for_a_log_without_room_gives_up_its_own() {
    let disk = SimulatedDisk::new();
    let mut desk = open(&disk, 1);
    fill_slots(&mut desk, 4);
    // What the checkpoint sees is not durable, and needs more than a slot.
    desk.publish("kept", &body(0).repeat(24)[..90_000]);
    while desk.checkpoint.turn(&desk.broker).unwrap() == Progress::Working {}
    assert_eq!(packs(&disk).0, 1);
    let _was_there = disk.unlink("meta.ballast");
    disk.set_capacity(used(&disk));
    assert!(desk.broker.commit().unwrap_err().is_full());
    assert!(desk.checkpoint.turn(&desk.broker).unwrap_err().is_full());
    assert_eq!(packs(&disk).0, 0);
    assert_eq!(desk.broker.commit().unwrap(), Committed::Batch);
    disk.set_capacity(LARGE);
    desk.work().unwrap();
    assert_eq!(desk.confirmed, desk.published);
    assert_eq!(desk.drain("drained").unwrap().len() as u64, desk.published - 1);
}

#[test]
fn the_log_keeps_one_free_slot_during_an_alarm() {
    let disk = SimulatedDisk::new();
    let mut desk = open(&disk, 1);
    fill_slots(&mut desk, 6);
    desk.drain("drained").unwrap();
    desk.work().unwrap();
    raise_alarm(&desk);
    desk.work().unwrap();
    assert_eq!(disk.list("log").unwrap().len(), 2, "the open one and the free one");
}

#[test]
fn a_start_removes_what_nobody_needs_before_it_asks_for_room() {
    let disk = SimulatedDisk::new();
    let mut desk = open(&disk, 1);
    desk.publish("kept", &body(1));
    while desk.broker.commit().unwrap() == Committed::Batch {}
    drop(desk);
    let disk = disk.crash(CrashMode::AllKept, 1);
    // No slot is free.
    for name in disk.list("log").unwrap() {
        let name = format!("log/{name}");
        let mut page = [0; 8];
        disk.open(&name).unwrap().read_at(&mut page, 0).unwrap();
        if page == [0; 8] {
            disk.unlink(&name).unwrap();
        }
    }
    // A crash has left a pack that no table knows, spilled messages, and no reserve.
    let _was_there = disk.unlink("meta.ballast");
    disk.create_dir("spill").unwrap();
    for name in ["pack/0000000000000700.pack", "spill/0000000000000701.pack"] {
        disk.create(name).unwrap().allocate(1 << 20).unwrap();
    }
    disk.set_capacity(used(&disk));
    let mut desk = Desk::open(Arc::new(disk.clone()), 2).unwrap();
    assert_eq!(desk.drain("kept").unwrap(), [body(1)]);
}

#[test]
fn the_log_goes_on_with_the_reserve_while_a_checkpoint_waits_for_it() {
    let disk = SimulatedDisk::new();
    let mut desk = open(&disk, 1);
    assert!(disk.open("meta.ballast").is_ok(), "there is plenty");
    // Nothing is free but the reserve.
    disk.set_capacity(used(&disk));
    let mut id = 0;
    while disk.open("meta.ballast").is_ok() {
        assert!(id < 1000, "the reserve is never used");
        desk.publish("drained", &body(id));
        desk.work().unwrap();
        desk.drain("drained").unwrap();
        id += 1;
    }
    assert_eq!(desk.confirmed, id);
    // And then in what is left of it, settles and all.
    for id in id..id + 300 {
        desk.publish("drained", &body(id));
        desk.work().unwrap();
        assert_eq!(desk.drain("drained").unwrap(), [body(id)]);
    }
}

#[test]
fn what_does_not_fill_a_slot_is_settled_while_less_than_a_slot_is_free() {
    let disk = SimulatedDisk::new();
    let mut desk = open(&disk, 1);
    for id in 0..12 {
        desk.publish("drained", &body(id));
    }
    desk.work().unwrap();
    let _was_there = disk.unlink("meta.ballast");
    disk.set_capacity(used(&disk) + SLOT_BYTES / 2);
    for id in 12..14 {
        desk.publish("drained", &body(id));
        let _full = desk.work();
        let log = &desk.broker.node.log;
        assert_eq!(log.durable(), log.end(), "there was room for that");
    }
    disk.set_capacity(LARGE);
    desk.work().unwrap();
    assert_eq!(desk.drain("drained").unwrap().len(), 14);
}

#[test]
fn a_disk_that_is_full_now_and_then_loses_nothing_and_every_alarm_ends() {
    let disk = SimulatedDisk::new();
    let mut desk = open(&disk, 1);
    let limit = desk.broker.config.storage.disk_free_limit_bytes();
    let mut waiting = std::collections::VecDeque::new();
    let (mut id, mut full) = (0, 0);
    for round in 0..30u64 {
        // Somebody else takes all that is left, or a part of it, and gives it back.
        let left = [0, 5000, SLOT_BYTES / 2, SLOT_BYTES, 3 * SLOT_BYTES, limit * 2];
        if round % 2 == 0 {
            let _was_there = disk.unlink("meta.ballast");
        }
        disk.set_capacity(used(&disk) + left[round as usize % left.len()]);
        for _ in 0..40 {
            if desk.broker.node.alarms.reason().is_none() && !desk.broker.node.log.lacks_room() {
                desk.publish("drained", &body(id));
                waiting.push_back(id);
                id += 1;
            }
            if let Err(error) = desk.work() {
                assert!(error.is_full(), "{error}");
                desk.broker.on_disk_full(&error);
                full += 1;
            }
            if round % 3 == 0 && desk.confirmed == desk.published {
                let next = waiting.pop_front();
                if let Some(next) = next {
                    assert_eq!(desk.get("drained").unwrap(), Some(body(next)));
                }
            }
        }
        disk.set_capacity(LARGE);
        desk.work().unwrap();
        desk.now.instant += HOLD + Duration::from_secs(1);
        desk.broker.look_at_disk(LARGE, desk.now.instant);
        desk.now.instant += HOLD;
        desk.broker.look_at_disk(LARGE, desk.now.instant);
        assert_eq!(desk.broker.node.alarms.reason(), None);
        desk.work().unwrap();
        assert_eq!(desk.confirmed, desk.published, "round {round}");
    }
    assert!(full > 0, "the disk was never full");
    assert_eq!(desk.drain("drained").unwrap(), waiting.into_iter().map(body).collect::<Vec<_>>());
    raise_alarm(&desk);
    desk.work().unwrap();
    assert!(used(&disk) < LOG_BYTES + 2 * SLOT_BYTES + TABLES_BYTES, "{} bytes of nothing", used(&disk));
}

#[test]
fn what_waits_for_the_log_when_the_disk_fills_leaves_room_for_what_settles_it() {
    let disk = SimulatedDisk::new();
    let mut desk = open(&disk, 1);
    let durable = fill_slots(&mut desk, 3);
    // Somebody publishes more than the reserve, as long as they are read, and then there is no room any more.
    while desk.published < durable + 2000 && !desk.broker.node.log.is_congested() {
        desk.publish("drained", &body(desk.published));
    }
    desk.reconnect();
    disk.set_capacity(used(&disk));
    let _full = desk.work();
    assert!(desk.broker.node.alarms.reason().is_some());
    let mut got = 0;
    while let Ok(Some(found)) = desk.get("drained") {
        assert_eq!(found, body(got));
        got += 1;
    }
    desk.work().unwrap();
    let log = &desk.broker.node.log;
    assert_eq!(log.durable(), log.end(), "{got} were consumed, and the log waits for the room they take");
    assert!(got >= durable, "{got} of {durable}");
    assert_eq!(desk.drain("drained").unwrap(), Vec::<Vec<u8>>::new());
}

#[test]
fn a_message_that_is_larger_than_all_room_waits_for_it_and_costs_the_others_nothing() {
    let disk = SimulatedDisk::new();
    let mut desk = open(&disk, 1);
    for id in 0..20 {
        desk.publish("drained", &body(id));
    }
    desk.work().unwrap();
    assert!(disk.open("meta.ballast").is_ok(), "there is plenty");
    // More than the reserve, of which nothing is free but that.
    let large = body(7).repeat(6 << 20 >> 12);
    disk.set_capacity(used(&disk));
    desk.publish("kept", &large);
    for _ in 0..3 {
        let refused = desk.work().unwrap_err();
        assert!(refused.is_full(), "{refused}");
        desk.broker.on_disk_full(&refused);
    }
    assert!(desk.broker.node.alarms.reason().is_some());
    assert_eq!(desk.confirmed, 20, "it is not safe");
    assert_eq!(packs(&disk), (0, 0), "what waits for it leaves nothing behind");
    // A crash now takes what was never confirmed, and nothing else.
    let crashed = disk.crash(CrashMode::AllKept, 1);
    crashed.set_capacity(LARGE);
    let mut after = open(&crashed, 2);
    after.work().unwrap();
    assert_eq!(after.drain("drained").unwrap(), (0..20).map(body).collect::<Vec<_>>());
    assert_eq!(after.drain("kept").unwrap(), Vec::<Vec<u8>>::new());
    // With room all is as if it had never lacked, and what is gone takes none.
    disk.set_capacity(LARGE);
    desk.work().unwrap();
    assert_eq!(desk.confirmed, 21);
    assert_eq!(desk.drain("kept").unwrap(), [large]);
    assert_eq!(desk.drain("drained").unwrap(), (0..20).map(body).collect::<Vec<_>>());
    raise_alarm(&desk);
    desk.work().unwrap();
    assert!(used(&disk) < LOG_BYTES + 2 * SLOT_BYTES + TABLES_BYTES, "{} bytes of nothing", used(&disk));
}

#[test]
fn publishers_are_told_to_wait_while_what_waits_in_the_log_is_larger_than_what_is_free() {
    let disk = SimulatedDisk::new();
    let mut desk = open(&disk, 1);
    desk.publish("kept", &body(7).repeat(50));
    fill_slots(&mut desk, 3);
    let _was_there = disk.unlink("meta.ballast");
    let free = 2 * SLOT_BYTES;
    disk.set_capacity(used(&disk) + free);
    // More than the limit is free, but what waits cannot go on from the log.
    desk.broker.set_disk_free_limit(1, desk.now.instant);
    let look = |desk: &mut Desk, free| {
        desk.now.instant += HOLD;
        desk.broker.look_at_disk(free, desk.now.instant);
        desk.broker.node.alarms.reason()
    };
    let mut id = desk.published;
    while look(&mut desk, disk.free_bytes().unwrap()).is_none() {
        desk.publish("drained", &body(id));
        if let Err(refused) = desk.work() {
            desk.broker.on_disk_full(&refused);
        }
        id += 1;
        assert!(id < 1000, "publishers go on for ever");
    }
    for _ in 0..3 {
        let refused = desk.work().unwrap_err();
        desk.broker.on_disk_full(&refused);
        assert!(
            look(&mut desk, disk.free_bytes().unwrap()).is_some(),
            "the alarm ended, and nothing can go on"
        );
    }
    assert_eq!(desk.get("kept").unwrap(), Some(body(7).repeat(50)));
    desk.work().unwrap();
    look(&mut desk, disk.free_bytes().unwrap());
    assert_eq!(look(&mut desk, disk.free_bytes().unwrap()), None);
}
