//! A disk of which some calls on some files fail for as long as a test wants.

use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex};

use sluicemq::storage::disk::simulated::SimulatedDisk;
use sluicemq::storage::disk::{Disk, DiskFile};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Read,
    Write,
    Sync,
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
}

impl FaultyDisk {
    pub(crate) fn new(disk: SimulatedDisk) -> Self {
        Self { disk, fault: Arc::default() }
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

    fn file(&self, file: io::Result<Box<dyn DiskFile>>) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(FaultyFile { file: file?, disk: self.clone() }))
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
        self.file(self.disk.open(name))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.file(self.disk.create(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
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
        self.file.truncate(len)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
}
