//! A disk of which some calls on some files fail for as long as a test wants.

use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use sluicemq::storage::disk::simulated::SimulatedDisk;
use sluicemq::storage::disk::{Disk, DiskFile};

/// More files than a process may have open.
const EMFILE: i32 = 24;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Read,
    Write,
    Sync,
    /// Of a file, or of a part of one.
    Remove,
}

/// Which calls fail: on files whose names start so, and how.
#[derive(Clone, Debug)]
struct Fault {
    call: Call,
    files: &'static str,
    kind: io::ErrorKind,
}

#[derive(Clone, Debug)]
pub(crate) struct FaultyDisk {
    pub(crate) disk: SimulatedDisk,
    fault: Arc<Mutex<Option<Fault>>>,
    descriptors: Arc<Descriptors>,
}

#[derive(Debug)]
struct Descriptors {
    used: AtomicUsize,
    max: AtomicUsize,
}

impl FaultyDisk {
    pub(crate) fn new(disk: SimulatedDisk) -> Self {
        let descriptors = Descriptors { used: AtomicUsize::new(0), max: AtomicUsize::new(usize::MAX) };
        Self { disk, fault: Arc::default(), descriptors: Arc::new(descriptors) }
    }

    /// No more files may be open from now on than are.
    pub(crate) fn take_descriptors(&self) {
        let used = self.descriptors.used.load(Ordering::Relaxed);
        self.descriptors.max.store(used, Ordering::Relaxed);
    }

    pub(crate) fn give_descriptors(&self) {
        self.descriptors.max.store(usize::MAX, Ordering::Relaxed);
    }

    pub(crate) fn fail(&self, call: Call, files: &'static str, kind: io::ErrorKind) {
        *self.fault.lock().unwrap() = Some(Fault { call, files, kind });
    }

    pub(crate) fn heal(&self) {
        *self.fault.lock().unwrap() = None;
    }

    fn check(&self, call: Call, file: &str) -> io::Result<()> {
        match &*self.fault.lock().unwrap() {
            Some(fault) if fault.call == call && file.starts_with(fault.files) => Err(fault.kind.into()),
            _ => Ok(()),
        }
    }

    fn file(&self, open: impl FnOnce() -> io::Result<Box<dyn DiskFile>>) -> io::Result<Box<dyn DiskFile>> {
        let Descriptors { used, max } = &*self.descriptors;
        if used.load(Ordering::Relaxed) >= max.load(Ordering::Relaxed) {
            return Err(io::Error::from_raw_os_error(EMFILE));
        }
        let file = open()?;
        used.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(FaultyFile { file, disk: self.clone() }))
    }
}

impl Disk for FaultyDisk {
    fn name(&self) -> String {
        "the faulty disk".to_owned()
    }

    fn lock(&self) -> io::Result<Box<dyn Debug + Send + Sync>> {
        self.disk.lock()
    }

    fn create_dir(&self, name: &str) -> io::Result<()> {
        self.disk.create_dir(name)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.file(|| self.disk.open(name))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.file(|| self.disk.create(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        self.check(Call::Remove, name)?;
        self.disk.unlink(name)
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.disk.free_bytes()
    }
}

#[derive(Debug)]
struct FaultyFile {
    file: Box<dyn DiskFile>,
    disk: FaultyDisk,
}

impl Drop for FaultyFile {
    fn drop(&mut self) {
        self.disk.descriptors.used.fetch_sub(1, Ordering::Relaxed);
    }
}

impl FaultyFile {
    fn check(&self, call: Call) -> io::Result<()> {
        self.disk.check(call, self.file.name())
    }
}

impl DiskFile for FaultyFile {
    fn name(&self) -> &str {
        self.file.name()
    }

    fn write_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.check(Call::Write)?;
        self.file.write_at(slices, offset)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.check(Call::Read)?;
        self.file.read_at(buffer, offset)
    }

    fn read_uncached_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.check(Call::Read)?;
        self.file.read_uncached_at(buffer, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.check(Call::Sync)?;
        self.file.sync_data()
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.check(Call::Write)?;
        self.file.allocate(len)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        if len < self.file.len()? {
            self.check(Call::Remove)?;
        }
        self.file.truncate(len)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
}
