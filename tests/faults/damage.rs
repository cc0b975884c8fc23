//! Bytes that are not what was written: nothing damaged is ever delivered, all else is, or the start is refused with
//! the place; and a check finds the damage, and repairs it.

use std::collections::BTreeSet;
use std::sync::Arc;

use sluicemq::storage::check::{Check, Report, Watch, said};
use sluicemq::storage::disk::Disk;
use sluicemq::storage::disk::simulated::{CrashMode, SimulatedDisk};
use sluicemq::storage::log::Committed;

use crate::desk::Desk;

const PAGE: u64 = 4096;

struct Unwatched;

impl Watch for Unwatched {
    fn begin(&mut self, _part: &'static str, _bytes: u64) {}
    fn advance(&mut self, _bytes: u64) {}
}

fn check(disk: &SimulatedDisk) -> Check {
    Check::run(Arc::new(disk.clone()), &mut Unwatched).unwrap()
}

/// The tables can be open once only.
fn report(disk: &SimulatedDisk) -> Report {
    check(disk).into_report()
}

fn open(disk: &SimulatedDisk, seed: u64) -> Desk {
    Desk::open(Arc::new(disk.clone()), seed).unwrap()
}

fn refused(disk: &SimulatedDisk, seed: u64) -> String {
    match Desk::open(Arc::new(disk.clone()), seed) {
        Ok(_) => panic!("it should have refused"),
        Err(error) => error.to_string(),
    }
}

fn bytes_of(disk: &SimulatedDisk, name: &str) -> Vec<u8> {
    let file = disk.open(name).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_at(&mut bytes, 0).unwrap();
    bytes
}

fn flip(disk: &SimulatedDisk, name: &str, at: u64) {
    let octet = bytes_of(disk, name)[at as usize];
    disk.tamper(name, at, &[octet ^ 0x10]).unwrap();
}

fn body(id: u64, len: usize) -> Vec<u8> {
    id.to_le_bytes().into_iter().cycle().take(len).collect()
}

fn id_of(body: &[u8]) -> u64 {
    u64::from_le_bytes(body[..8].try_into().unwrap())
}

/// Bodies that were written, by their first bytes; the rest must fit.
fn ids(bodies: &[Vec<u8>]) -> Vec<u64> {
    bodies
        .iter()
        .map(|found| {
            assert_eq!(*found, body(id_of(found), found.len()), "a body that nobody wrote");
            id_of(found)
        })
        .collect()
}

/// Declares the queues and publishes these messages to the first, each in a batch of its own.
fn write(disk: &SimulatedDisk, seed: u64, messages: impl IntoIterator<Item = u64>, len: usize) {
    let mut desk = open(disk, seed);
    desk.declare("orders");
    desk.work().unwrap();
    for id in messages {
        desk.publish("orders", &body(id, len));
        desk.work().unwrap();
    }
    assert_eq!(desk.confirmed, desk.published);
}

/// Publishes these messages, each in a batch of its own, and lets no checkpoint come.
fn log_only(
    disk: &SimulatedDisk,
    seed: u64,
    messages: impl IntoIterator<Item = u64>,
    len: impl Fn(u64) -> usize,
) {
    let mut desk = open(disk, seed);
    let commit = |desk: &Desk| while desk.broker.node.log.commit_once().unwrap() == Committed::Batch {};
    desk.declare("orders");
    commit(&desk);
    for id in messages {
        desk.publish("orders", &body(id, len(id)));
        commit(&desk);
    }
}

/// Checks, repairs, and checks that a second time finds nothing and does nothing.
fn repair(disk: &SimulatedDisk) -> (String, Vec<String>) {
    let found = check(disk);
    let told: Vec<_> = found.report().damage.iter().map(|damage| damage.problem.clone()).collect();
    assert!(!told.is_empty());
    assert!(found.report().damage.iter().all(|damage| damage.can_be_set_aside), "{told:#?}");
    let done = found.repair().unwrap();
    let again = check(disk);
    assert!(again.report().is_clean(), "{told:#?}\n{done:#?}\n{:#?}", again.report());
    let before = disk.list("corrupt").unwrap_or_default().len();
    assert_eq!(again.repair().unwrap(), Vec::<String>::new());
    assert_eq!(disk.list("corrupt").unwrap_or_default().len(), before);
    (told.join("\n"), done)
}

/// Where each batch of a slot starts, by its mark.
fn batches(disk: &SimulatedDisk, name: &str) -> Vec<u64> {
    let bytes = bytes_of(disk, name);
    let starts = (1..bytes.len() as u64 / PAGE).map(|page| page * PAGE);
    starts.filter(|at| bytes[*at as usize..].starts_with(b"SLB1")).collect()
}

#[test]
fn a_flip_in_any_field_of_a_batch_is_a_cut_tail_or_a_refusal_with_the_place() {
    let written = SimulatedDisk::new();
    write(&written, 1, 0..6, 3000);
    let name = "log/slot-00.log";
    let starts = batches(&written, name);
    // A mark, a length, an epoch, a position, a count, flags, two checksums; a record's head, its targets, its body.
    for at in [0, 4, 9, 17, 24, 28, 32, 36, 40, 50, 60, 70, 200, 3000] {
        let (middle, last) = (starts[starts.len() - 2], starts[starts.len() - 1]);
        let disk = written.crash(CrashMode::AllKept, 0);
        flip(&disk, name, last + at);
        assert_eq!(ids(&open(&disk, 2).drain("orders").unwrap()), [0, 1, 2, 3, 4], "byte {at} of the tail");

        let disk = written.crash(CrashMode::AllKept, 0);
        flip(&disk, name, middle + at);
        let problem = refused(&disk, 2);
        let place = format!("{name} at byte {middle}: the log is damaged here");
        assert!(problem.starts_with(&place) && problem.contains("fsck --repair"), "byte {at}: {problem}");
        let found = report(&disk);
        assert_eq!(found.queues[0].messages, 5);
        assert_eq!(said(&found.queues[0].missing), "5", "byte {at}: {:#?}", &found);
        let (told, _) = repair(&disk);
        assert!(told.contains("5 of orders in /"), "{told}");
        assert_eq!(ids(&open(&disk, 3).drain("orders").unwrap()), [0, 1, 2, 3, 5], "byte {at} of the middle");
        let kept = format!("corrupt/log-slot-00.log-at-{middle}.bin");
        assert_eq!(
            bytes_of(&disk, &kept)[at as usize],
            bytes_of(&written, name)[(middle + at) as usize] ^ 0x10
        );
    }
}

#[test]
fn damage_over_many_batches_and_files_is_repaired_and_all_else_is_there() {
    for (seed, wiped) in [(1, 0..1), (2, 0..9), (3, 3..4), (4, 7..30), (5, 2..17)] {
        let disk = SimulatedDisk::new();
        log_only(&disk, seed, 0..40, |id| 900 + 700 * (id as usize % 9));
        let mut pages: Vec<(String, u64)> = Vec::new();
        for name in ["log/slot-00.log", "log/slot-01.log", "log/slot-02.log", "log/slot-03.log"] {
            if disk.open(name).is_ok() {
                pages.extend(batches(&disk, name).into_iter().map(|at| (name.to_owned(), at)));
            }
        }
        let mut expected: BTreeSet<u64> = (0..40).collect();
        // The first batch is the declaration.
        for (name, at) in &pages[wiped.start + 1..wiped.end + 1] {
            disk.tamper(name, *at, &[0; 64]).unwrap();
        }
        expected.retain(|id| !wiped.contains(&(*id as usize)));
        let problem = refused(&disk, 10 + seed);
        assert!(problem.contains("sluicemq fsck"), "{problem}");
        let found = report(&disk);
        let missing: u64 = found.queues[0].missing.iter().map(|range| range.end - range.start).sum();
        assert_eq!(missing, wiped.len() as u64, "{:#?}", &found);
        repair(&disk);
        let got = ids(&open(&disk, 20 + seed).drain("orders").unwrap());
        assert_eq!(got, expected.into_iter().collect::<Vec<_>>(), "{wiped:?}");
    }
}

#[test]
fn a_slot_without_its_header_is_found_again_and_a_lost_slot_costs_what_was_in_it() {
    let written = SimulatedDisk::new();
    log_only(&written, 1, 0..60, |_| 3500);
    let names: Vec<String> =
        (0..).map(|n| format!("log/slot-{n:02}.log")).take_while(|n| written.open(n).is_ok()).collect();
    assert!(names.len() >= 4, "{names:?}");
    for (at, name) in names.iter().enumerate() {
        let disk = written.crash(CrashMode::AllKept, 0);
        disk.tamper(name, 0, &[0x55; 4096]).unwrap();
        assert!(refused(&disk, 2).contains("fsck"), "{name}");
        let (_, done) = repair(&disk);
        assert!(done[0].contains("written anew"), "{done:?}");
        assert_eq!(ids(&open(&disk, 3).drain("orders").unwrap()).len(), 60, "{name}");

        let disk = written.crash(CrashMode::AllKept, 0);
        disk.unlink(name).unwrap();
        if at + 1 == names.len() {
            // Nothing tells that it ever was.
            assert!(report(&disk).is_clean());
            continue;
        }
        assert!(refused(&disk, 2).contains("missing"), "{name}");
        let found = report(&disk);
        repair(&disk);
        let got = open(&disk, 3);
        let mut got = got;
        if at == 0 {
            // The queue's declaration is in it.
            continue;
        }
        let got = ids(&got.drain("orders").unwrap());
        assert!(got.len() < 60 && got.len() > 30, "{name}: {}", got.len());
        let missing: u64 = found.queues[0].missing.iter().map(|range| range.end - range.start).sum();
        assert_eq!(missing as usize, 60 - got.len());
    }
}

/// The chain itself is seen in the log's own tests; this is what a check makes of it, and of writes that went astray.
#[test]
fn slots_of_another_time_are_refused_and_a_check_does_not_guess() {
    let disk = SimulatedDisk::new();
    log_only(&disk, 1, 0..4, |_| 900);
    let backup = disk.crash(CrashMode::AllKept, 0);
    // Another life goes on from the same backup.
    log_only(&backup, 9, 100..103, |_| 900);
    log_only(&disk, 2, 4..8, |_| 900);
    log_only(&disk, 3, 8..9, |_| 900);
    disk.tamper("log/slot-01.log", 0, &bytes_of(&backup, "log/slot-01.log")).unwrap();
    assert!(refused(&disk, 4).contains("another history"));
    let found = report(&disk);
    assert!(found.damage[0].problem.contains("another history"), "{:#?}", found.damage);
    assert!(!found.damage[0].can_be_set_aside);

    let disk = SimulatedDisk::new();
    write(&disk, 1, 0..6, 900);
    let name = "log/slot-00.log";
    let [one, two] = [2, 4].map(|page| page * PAGE as usize);
    let bytes = bytes_of(&disk, name);
    disk.tamper(name, two as u64, &bytes[one..one + PAGE as usize]).unwrap();
    assert!(refused(&disk, 2).contains("the log is damaged here"));
    repair(&disk);
    assert_eq!(ids(&open(&disk, 3).drain("orders").unwrap()), [0, 1, 3, 4, 5]);
}

/// Publishes until a checkpoint has moved messages to packs, in two queues; the ids are even in one, odd in the other.
fn write_packs(disk: &SimulatedDisk, count: u64) {
    let mut desk = open(disk, 1);
    desk.declare("even");
    desk.declare("odd");
    for id in 0..count {
        let (queue, len) = if id % 2 == 0 { ("even", 1500) } else { ("odd", 5000) };
        desk.publish(queue, &body(id, len));
        desk.work().unwrap();
    }
    assert_eq!(desk.confirmed, count);
    drop(desk);
    assert!(!packs(disk).is_empty());
}

fn packs(disk: &SimulatedDisk) -> Vec<String> {
    let mut names: Vec<_> = disk.list("pack").unwrap().iter().map(|name| format!("pack/{name}")).collect();
    names.sort();
    names
}

fn numbers(report: &Report) -> u64 {
    let ranges = report.queues.iter().flat_map(|queue| &queue.damaged);
    ranges.map(|range| range.end - range.start).sum()
}

/// What both queues give, and that each is in order.
fn drain_both(disk: &SimulatedDisk, seed: u64) -> (Vec<u64>, u64) {
    let mut desk = open(disk, seed);
    let (even, odd) = (ids(&desk.drain("even").unwrap()), ids(&desk.drain("odd").unwrap()));
    assert!(even.is_sorted() && odd.is_sorted());
    assert!(even.iter().all(|id| id % 2 == 0) && odd.iter().all(|id| id % 2 == 1), "of another queue");
    // Each queue goes on.
    desk.publish("even", &body(1000, 100));
    desk.publish("odd", &body(1001, 100));
    assert_eq!(ids(&[desk.get("even").unwrap().unwrap(), desk.get("odd").unwrap().unwrap()]), [1000, 1001]);
    let damaged = desk.broker.node.counters.damaged_messages.read();
    ([even, odd].concat(), damaged)
}

const MESSAGES: u64 = 80;

#[test]
fn a_flip_in_a_pack_is_never_delivered_and_counted_and_the_queues_go_on() {
    let written = SimulatedDisk::new();
    write_packs(&written, MESSAGES);
    assert!(report(&written).is_clean());
    let name = &packs(&written)[0];
    let len = bytes_of(&written, name).len() as u64;
    for at in (4100..len).step_by(2711) {
        let disk = written.crash(CrashMode::AllKept, 0);
        flip(&disk, name, at);
        let (got, damaged) = drain_both(&disk.crash(CrashMode::AllKept, 0), 2);
        assert_eq!(got.len() as u64 + damaged, MESSAGES, "byte {at}");
        assert!(damaged > 0, "byte {at}");
        let found = report(&disk);
        assert!(numbers(&found) == damaged || damaged_as_a_whole(&found), "byte {at}");
        let lost = numbers(&found);
        repair(&disk);
        let (got, damaged) = drain_both(&disk, 3);
        assert_eq!((got.len() as u64 + lost, damaged), (MESSAGES, 0), "byte {at}");
    }
}

/// A broker reads nothing of a pack that it cannot open; a repair may save all of it.
fn damaged_as_a_whole(report: &Report) -> bool {
    report.damage.iter().any(|damage| damage.problem.contains("can read nothing of it"))
}

/// Damages the first pack, and sees that both queues go on with all else; then repairs it.
fn check_pack(damage: impl Fn(&SimulatedDisk, &str), can_be_saved: bool) {
    let written = SimulatedDisk::new();
    write_packs(&written, MESSAGES);
    let name = packs(&written)[0].clone();
    damage(&written, &name);
    let (got, damaged) = drain_both(&written.crash(CrashMode::AllKept, 0), 2);
    assert_eq!(got.len() as u64 + damaged, MESSAGES);
    assert!(damaged > 0);
    let lost = numbers(&report(&written));
    assert!(lost <= damaged && (lost == 0) == can_be_saved, "{lost} of {damaged}");
    repair(&written);
    let (got, damaged) = drain_both(&written, 3);
    assert_eq!((got.len() as u64 + lost, damaged), (MESSAGES, 0));
}

#[test]
fn a_pack_that_is_cut_off_wiped_or_gone_costs_what_was_in_it() {
    let cut = |keep: u64| {
        move |disk: &SimulatedDisk, name: &str| {
            let len = bytes_of(disk, name).len() as u64;
            disk.open(name).unwrap().truncate(len * keep / 100).unwrap();
        }
    };
    check_pack(cut(60), false);
    check_pack(cut(0), false);
    // Only the end of the index is gone.
    check_pack(
        |disk, name| disk.open(name).unwrap().truncate(bytes_of(disk, name).len() as u64 - 1).unwrap(),
        true,
    );
    check_pack(|disk, name| disk.tamper(name, 0, &vec![0; bytes_of(disk, name).len()]).unwrap(), false);
    check_pack(|disk, name| disk.tamper(name, 0, &[0; 4096]).unwrap(), true);
    check_pack(|disk, name| disk.unlink(name).unwrap(), false);
    // Another pack under its name.
    check_pack(
        |disk, name| {
            let other = packs(disk).pop().unwrap();
            assert_ne!(other, name);
            disk.open(name).unwrap().truncate(0).unwrap();
            disk.tamper(name, 0, &bytes_of(disk, &other)).unwrap();
        },
        false,
    );
}

#[test]
fn blocks_in_each_others_place_are_not_delivered() {
    // Each large message has a block of its own, and those of the odd queue are of one length.
    check_pack(
        |disk, name| {
            let bytes = bytes_of(disk, name);
            let starts: Vec<usize> = (0..bytes.len() - 5000)
                .filter(|at| {
                    bytes[at + 32..].starts_with(&5000u64.to_le_bytes()[..0]) && is_large(&bytes, *at)
                })
                .collect();
            assert!(starts.len() >= 2, "{starts:?}");
            let (one, two) = (starts[0] + 32, starts[1] + 32);
            let len = starts[1] - starts[0] - 32;
            disk.tamper(name, one as u64, &bytes[two..two + len]).unwrap();
            disk.tamper(name, two as u64, &bytes[one..one + len]).unwrap();
        },
        false,
    );
}

/// Whether a prefix of one message is here, and a block of more than 5,000 bytes behind it.
fn is_large(bytes: &[u8], at: usize) -> bool {
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let (count, expiry, flags, block) = (number(at + 16), number(at + 20), number(at + 24), number(at + 32));
    (count, expiry, flags) == (1, 0, 0) && (5000..5200).contains(&block) && number(at + 4) == 0
}

#[test]
fn tables_that_are_damaged_cut_off_or_gone_are_refused_and_never_repaired() {
    let written = SimulatedDisk::new();
    write_packs(&written, MESSAGES);
    let len = bytes_of(&written, "meta.redb").len() as u64;
    let outcome = |damage: &dyn Fn(&SimulatedDisk)| {
        let disk = written.crash(CrashMode::AllKept, 0);
        damage(&disk);
        let before = packs(&disk);
        let opened = Desk::open(Arc::new(disk.clone()), 2).map(|mut desk| {
            let bodies = [desk.drain("even").unwrap(), desk.drain("odd").unwrap()].concat();
            ids(&bodies).len() as u64
        });
        if opened.is_err() {
            assert_eq!(packs(&disk), before, "nothing is removed");
            let problem =
                Check::run(Arc::new(disk.clone()), &mut Unwatched).map(drop).unwrap_err().to_string();
            assert!(problem.contains("meta.redb"), "{problem}");
        }
        opened.map_err(|error| error.to_string())
    };
    for keep in [0, 1, 100, 4096, len / 2, len - 4096] {
        let problem = outcome(&|disk| disk.open("meta.redb").unwrap().truncate(keep).unwrap());
        let problem = problem.expect_err(&format!("{keep} bytes are left of {len}"));
        assert!(problem.contains("meta.redb"), "{problem}");
    }
    for (from, bytes) in [(0, 4096), (0, len), (64, 1), (4096, len - 4096)] {
        let wiped = vec![0; bytes as usize];
        let problem = outcome(&|disk| disk.tamper("meta.redb", from, &wiped).unwrap()).unwrap_err();
        assert!(problem.contains("meta.redb"), "{problem}");
    }
    // A flip may hit what is unused. What is used is never believed: nothing is delivered that was not written.
    let mut refused = 0;
    for at in (0..len).step_by(997) {
        match outcome(&|disk| flip(disk, "meta.redb", at)) {
            Ok(got) => assert_eq!(got, MESSAGES, "byte {at}"),
            Err(problem) => {
                assert!(problem.contains("meta.redb"), "{problem}");
                refused += 1;
            }
        }
    }
    println!("{refused} flips were refused");
    assert!(outcome(&|disk| disk.unlink("meta.redb").unwrap()).is_err());
}

#[test]
fn a_pack_that_is_gone_has_its_number_for_itself() {
    let disk = SimulatedDisk::new();
    write_packs(&disk, MESSAGES);
    let last = packs(&disk).pop().unwrap();
    disk.unlink(&last).unwrap();
    let mut desk = open(&disk, 2);
    let first = 10 * MESSAGES;
    for id in first..first + MESSAGES {
        desk.publish("even", &body(id, 5000));
        desk.work().unwrap();
    }
    let now = packs(&disk);
    assert!(now.iter().any(|name| *name > last), "{now:?}");
    assert!(!now.contains(&last), "the tables still wait for what was in it");
}
