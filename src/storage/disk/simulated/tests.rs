//! What each crash and fault leaves.

use std::io::{ErrorKind, IoSlice};

use super::{CrashMode, Fault, SimulatedDisk, is_crash};
use crate::storage::disk::{Disk, DiskFile};

fn write(file: &dyn DiskFile, byte: u8, page: u64, pages: usize) {
    file.write_at(&[IoSlice::new(&vec![byte; pages * 4096])], page * 4096).unwrap();
}

fn read(disk: &SimulatedDisk, name: &str) -> Option<Vec<u8>> {
    let file = disk.open(name).ok()?;
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_at(&mut bytes, 0).unwrap();
    Some(bytes)
}

/// Page 0 is synced; page 1 and 2 and the name "new" are not.
fn disk() -> SimulatedDisk {
    let disk = SimulatedDisk::new();
    disk.create_dir("log").unwrap();
    disk.sync_dir("").unwrap();
    let file = disk.create("log/a").unwrap();
    file.allocate(4 * 4096).unwrap();
    write(&*file, 1, 0, 1);
    file.sync_data().unwrap();
    disk.sync_dir("log").unwrap();
    let new = disk.create("log/new").unwrap();
    write(&*new, 9, 0, 1);
    write(&*file, 2, 1, 2);
    disk
}

fn pages(disk: &SimulatedDisk) -> (Vec<u8>, Option<usize>) {
    let bytes = read(disk, "log/a").unwrap();
    (bytes.chunks(4096).map(|page| page[0]).collect(), read(disk, "log/new").map(|bytes| bytes.len()))
}

#[test]
fn each_crash_keeps_what_it_says() {
    let disk = disk();
    let after = |mode| pages(&disk.crash(mode, 1));
    assert_eq!(after(CrashMode::NothingUnsynced), (vec![1, 0, 0, 0], None));
    assert_eq!(after(CrashMode::AllKept), (vec![1, 2, 2, 0], Some(4096)));
    assert_eq!(after(CrashMode::RenameBeforeData), (vec![1, 0, 0, 0], Some(0)));
    assert_eq!(after(CrashMode::DataBeforeDirectoryEntry), (vec![1, 2, 2, 0], None));
    assert_eq!(after(CrashMode::Kill), (vec![1, 2, 2, 0], Some(4096)));
    assert_eq!(after(CrashMode::TornLastPage).0[..2], [1, 2]);
}

#[test]
fn random_pages_are_lost_one_by_one() {
    let disk = disk();
    let seen: std::collections::BTreeSet<_> =
        (0..64).map(|seed| pages(&disk.crash(CrashMode::RandomPages, seed)).0).collect();
    let all = [[1, 0, 0, 0], [1, 0, 2, 0], [1, 2, 0, 0], [1, 2, 2, 0]].map(Vec::from);
    assert_eq!(seen, all.into());
}

#[test]
fn a_page_is_torn_in_its_middle() {
    let disk = disk();
    let torn = (0..8).any(|seed| {
        let page =
            read(&disk.crash(CrashMode::TornLastPage, seed), "log/a").unwrap()[2 * 4096..3 * 4096].to_vec();
        page[0] == 2 && page[4095] == 0
    });
    assert!(torn);
}

#[test]
fn what_a_killed_process_wrote_is_still_unsynced() {
    let killed = disk().crash(CrashMode::Kill, 3);
    assert_eq!(pages(&killed.crash(CrashMode::NothingUnsynced, 1)), (vec![1, 0, 0, 0], None));
    killed.open("log/a").unwrap().sync_data().unwrap();
    assert_eq!(pages(&killed.crash(CrashMode::NothingUnsynced, 1)).0, [1, 2, 2, 0]);
}

#[test]
fn a_failed_sync_leaves_the_cache_lying() {
    let lies = (0..16).any(|nth| {
        let disk = SimulatedDisk::new();
        (0..nth).for_each(|_| disk.sync_dir("").unwrap());
        let file = disk.create("a").unwrap();
        disk.sync_dir("").unwrap();
        write(&*file, 7, 0, 1);
        disk.fail_at(disk.calls(), Fault::SyncFails);
        file.sync_data().unwrap_err();
        file.sync_data().unwrap();
        let mut cached = [0; 1];
        let mut device = [0; 1];
        file.read_at(&mut cached, 0).unwrap();
        file.read_uncached_at(&mut device, 0).unwrap();
        let after = read(&disk.crash(CrashMode::AllKept, 0), "a").unwrap();
        assert_eq!((cached[0], device[0]), (7, after[0]));
        device[0] == 0
    });
    assert!(lies);
}

#[test]
fn a_name_renamed_is_the_old_or_the_new_one() {
    let disk = SimulatedDisk::new();
    for (name, byte) in [("a", 1), ("b", 2)] {
        let file = disk.create(name).unwrap();
        write(&*file, byte, 0, 1);
        file.sync_data().unwrap();
    }
    disk.sync_dir("").unwrap();
    disk.rename("b", "a").unwrap();
    for (mode, byte) in [(CrashMode::NothingUnsynced, 1), (CrashMode::AllKept, 2)] {
        assert_eq!(read(&disk.crash(mode, 0), "a").unwrap()[0], byte);
    }
    assert_eq!(disk.list("").unwrap(), ["a"]);
}

#[test]
fn calls_fail_as_planned() {
    let disk = SimulatedDisk::with_capacity(3 * 4096);
    let file = disk.create("a").unwrap();
    disk.fail_at(1, Fault::Error(ErrorKind::PermissionDenied));
    assert_eq!(file.allocate(4096).unwrap_err().kind(), ErrorKind::PermissionDenied);
    assert_eq!(file.allocate(4 * 4096).unwrap_err().kind(), ErrorKind::StorageFull);
    disk.fail_at(3, Fault::ShortWrite);
    file.write_at(&[IoSlice::new(&[5; 8192])], 0).unwrap_err();
    assert_eq!(file.len().unwrap(), 4096);
    disk.fail_at(4, Fault::Crash);
    assert!(is_crash(&file.sync_data().unwrap_err()));
    assert!(is_crash(&disk.open("a").unwrap_err()));
    assert!(disk.crash(CrashMode::Kill, 0).open("a").is_ok());
}

#[test]
fn what_is_cut_off_is_zero_when_it_grows_again() {
    let disk = SimulatedDisk::new();
    let file = disk.create("a").unwrap();
    write(&*file, 3, 0, 2);
    file.truncate(100).unwrap();
    file.allocate(8192).unwrap();
    let bytes = read(&disk, "a").unwrap();
    assert_eq!(bytes.iter().filter(|byte| **byte == 3).count(), 100);
}

#[test]
fn one_at_a_time_has_the_disk() {
    let disk = SimulatedDisk::new();
    let lock = disk.lock().unwrap();
    assert_eq!(disk.lock().unwrap_err().kind(), ErrorKind::WouldBlock);
    drop(lock);
    disk.lock().unwrap();
}
