//! Any bytes as slots, packs and tables beside valid ones: no panic, and nothing is delivered that was not written.
//! A check of the same disk agrees, and after its repair the broker starts.
#![no_main]

use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, LazyLock, Mutex};

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use sluicemq::storage::batch::BatchHeader;
use sluicemq::storage::check::{Check, Watch};
use sluicemq::storage::disk::Disk;
use sluicemq::storage::disk::simulated::{CrashMode, SimulatedDisk};
use sluicemq::storage::slot::SlotHeader;

#[allow(dead_code)]
#[path = "../../tests/faults/desk.rs"]
mod desk;

use desk::Desk;

const QUEUES: [&str; 2] = ["small", "large"];
const MESSAGES: u64 = 40;
const FILES_MAX: usize = 16;

#[derive(Arbitrary, Debug)]
struct Input {
    edits: Vec<Edit>,
    /// Batches with the right checksums: what is in them was never written, so that only panics count then.
    forged: Vec<Forged>,
}

#[derive(Arbitrary, Debug)]
struct Edit {
    file: u8,
    change: Change,
}

#[derive(Arbitrary, Debug)]
enum Change {
    Replace(Vec<u8>),
    Overwrite { page: u8, at: u16, bytes: Vec<u8> },
    Flip { at: u32, bits: u8 },
    Copy { from_file: u8, from: u16, to: u16, pages: u8 },
    Truncate(u32),
    Remove,
}

#[derive(Arbitrary, Debug)]
struct Forged {
    page: u8,
    lsn_distance: i16,
    records: u8,
    payload: Vec<u8>,
}

struct Unwatched;

impl Watch for Unwatched {
    fn begin(&mut self, _part: &'static str, _bytes: u64) {}
    fn advance(&mut self, _bytes: u64) {}
}

static LAST_PANIC: Mutex<String> = Mutex::new(String::new());

/// A disk with messages in packs and in the log.
static WRITTEN: LazyLock<SimulatedDisk> = LazyLock::new(|| {
    // The database panics on some damage, which its owner catches: only what is not caught counts.
    panic::set_hook(Box::new(|info| {
        *LAST_PANIC.lock().unwrap_or_else(|error| error.into_inner()) = info.to_string();
    }));
    let disk = SimulatedDisk::new();
    let mut desk = Desk::open(Arc::new(disk.clone()), 1).expect("an empty disk");
    QUEUES.iter().for_each(|queue| desk.declare(queue));
    for id in 0..MESSAGES {
        desk.publish(QUEUES[id as usize % 2], &body(id));
        desk.work().expect("a disk that works");
    }
    drop(desk);
    disk.crash(CrashMode::AllKept, 0)
});

fn body(id: u64) -> Vec<u8> {
    id.to_le_bytes().repeat(if id % 2 == 0 { 40 } else { 400 })
}

/// Small files are named first, so that few bits reach all of them.
fn files(disk: &SimulatedDisk) -> Vec<String> {
    let mut names = vec!["meta.redb".to_owned()];
    for dir in ["log", "pack"] {
        let found = disk.list(dir).expect("a directory");
        names.extend(found.into_iter().map(|name| format!("{dir}/{name}")));
    }
    names.sort();
    names.truncate(FILES_MAX);
    names
}

fn bytes_of(disk: &SimulatedDisk, name: &str) -> Vec<u8> {
    let Ok(file) = disk.open(name) else { return Vec::new() };
    let mut bytes = vec![0; file.len().expect("a length") as usize];
    file.read_at(&mut bytes, 0).expect("a disk that works");
    bytes
}

fn edit(disk: &SimulatedDisk, names: &[String], edit: &Edit) {
    let name = &names[usize::from(edit.file) % names.len()];
    let Ok(file) = disk.open(name) else { return };
    let len = file.len().expect("a length");
    match &edit.change {
        Change::Replace(bytes) => {
            file.truncate(0).expect("a disk that works");
            disk.tamper(name, 0, bytes).expect("a file");
        }
        Change::Overwrite { page, at, bytes } => {
            let at = u64::from(*page) * 4096 + u64::from(*at % 4096);
            disk.tamper(name, at, bytes).expect("a file");
        }
        Change::Flip { at, bits } if len > 0 => {
            let at = u64::from(*at) % len;
            let octet = bytes_of(disk, name)[at as usize];
            disk.tamper(name, at, &[octet ^ bits]).expect("a file");
        }
        Change::Copy { from_file, from, to, pages } => {
            let bytes = bytes_of(disk, &names[usize::from(*from_file) % names.len()]);
            let start = (usize::from(*from % 32) * 4096).min(bytes.len());
            let end = (start + usize::from(*pages % 8 + 1) * 4096).min(bytes.len());
            disk.tamper(name, u64::from(*to % 32) * 4096, &bytes[start..end]).expect("a file");
        }
        Change::Truncate(to) => file.truncate(u64::from(*to) % (len + 1)).expect("a disk that works"),
        Change::Remove => disk.unlink(name).expect("a file"),
        Change::Flip { .. } => {}
    }
}

/// Puts a batch into the newest slot, behind or instead of what is there.
fn forge(disk: &SimulatedDisk, names: &[String], forged: &Forged) {
    let slots = names.iter().filter(|name| name.starts_with("log/"));
    let newest = slots
        .filter_map(|name| Some((SlotHeader::decode(&bytes_of(disk, name), name).ok()??, name)))
        .max_by_key(|(header, _)| header.sequence);
    let Some((slot, name)) = newest else { return };
    let bytes = bytes_of(disk, name);
    let batches = bytes.chunks(4096).filter_map(BatchHeader::decode).filter(|found| found.epoch == slot.epoch);
    let end = batches.map(|found| found.end_lsn()).max().unwrap_or(0);
    let header = BatchHeader {
        payload_bytes: forged.payload.len() as u32,
        epoch: slot.epoch,
        first_lsn: end.saturating_add_signed(forged.lsn_distance.into()),
        records: forged.records.into(),
        relaxed: false,
        payload_crc: crc32c::crc32c(&forged.payload),
    };
    let at = u64::from(forged.page % 16 + 1) * 4096;
    disk.tamper(name, at, &[header.encode().as_slice(), &forged.payload].concat()).expect("a file");
}

/// Opens the broker and drains it; why it does not open. What comes must have been written, in its queue.
fn drain(disk: &SimulatedDisk, seed: u64, believes: bool) -> Result<(), String> {
    let mut desk = Desk::open(Arc::new(disk.clone()), seed).map_err(|error| error.to_string())?;
    for (at, queue) in QUEUES.into_iter().enumerate() {
        // A queue whose declaration is gone is made anew.
        desk.declare(queue);
        let Ok(bodies) = desk.drain(queue) else { return Ok(()) };
        let mut last = None;
        for found in bodies.iter().filter(|_| believes) {
            let id = found.first_chunk().map(|id| u64::from_le_bytes(*id)).expect("no body is empty");
            assert_eq!((id as usize % 2, found), (at, &body(id)), "a body that was not written to {queue}");
            assert!(last < Some(id), "out of order or twice");
            last = Some(id);
        }
    }
    Ok(())
}

fn run(input: &Input) {
    let disk = WRITTEN.crash(CrashMode::AllKept, 0);
    let names = files(&disk);
    input.edits.iter().for_each(|change| edit(&disk, &names, change));
    input.forged.iter().for_each(|forged| forge(&disk, &names, forged));
    let believes = input.forged.is_empty();
    // What is refused is checked and repaired all the same.
    let _refused = drain(&disk.crash(CrashMode::AllKept, 0), 2, believes);
    let Ok(check) = Check::run(Arc::new(disk.clone()), &mut Unwatched) else { return };
    let can_be_set_aside = check.report().damage.iter().all(|damage| damage.can_be_set_aside);
    // What is whole needs no second look.
    let is_clean = check.report().is_clean();
    if !is_clean && can_be_set_aside && check.repair().is_ok() {
        if believes {
            let started = drain(&disk.crash(CrashMode::AllKept, 0), 3, believes);
            assert_eq!(started, Ok(()), "a repaired broker starts");
        }
        let again = Check::run(Arc::new(disk), &mut Unwatched).expect("a repaired disk can be checked");
        assert!(again.report().is_clean() || !believes, "{:#?}", again.report().damage);
    }
}

fuzz_target!(|input: Input| {
    LazyLock::force(&WRITTEN);
    if panic::catch_unwind(AssertUnwindSafe(|| run(&input))).is_err() {
        eprintln!("{}\n{input:#?}", LAST_PANIC.lock().unwrap_or_else(|error| error.into_inner()));
        std::process::abort();
    }
});
