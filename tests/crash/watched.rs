//! A simulated disk that tells a watcher of each call before it is made.
//!
//! What the disk holds at that moment is what a crash at this call finds: a watcher that copies the disk at each
//! call has every crash of a workload after playing it once.

use std::cell::RefCell;
use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::rc::Rc;

use sluicemq::storage::disk::simulated::SimulatedDisk;
use sluicemq::storage::disk::{Disk, DiskFile};

/// What is about to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Open,
    Read,
    Write,
    Sync,
    Other,
}

/// Called with what is about to be done, and to which file.
pub(crate) type Watcher = Rc<dyn Fn(Kind, &str)>;

thread_local! {
    static WATCHER: RefCell<Option<Watcher>> = const { RefCell::new(None) };
}

/// Watches all disks of this thread from now on, until another watcher comes.
pub(crate) fn watch(watcher: Option<Watcher>) {
    // Who watched may take a process with it that has a last word for its disk.
    let before = WATCHER.with(|slot| slot.replace(watcher));
    drop(before);
}

/// Stops watching; who watched.
pub(crate) fn pause() -> Option<Watcher> {
    WATCHER.with(|slot| slot.borrow_mut().take())
}

fn tell(kind: Kind, name: &str) {
    if let Some(watcher) = WATCHER.with(|slot| slot.borrow().clone()) {
        watcher(kind, name);
    }
}

#[derive(Clone, Debug)]
pub(crate) struct WatchedDisk(pub(crate) SimulatedDisk);

#[derive(Debug)]
struct WatchedFile(Box<dyn DiskFile>);

impl Disk for WatchedDisk {
    fn name(&self) -> String {
        self.0.name()
    }

    fn lock(&self) -> io::Result<Box<dyn Debug + Send + Sync>> {
        tell(Kind::Other, "LOCK");
        self.0.lock()
    }

    fn create_dir(&self, name: &str) -> io::Result<()> {
        tell(Kind::Other, name);
        self.0.create_dir(name)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        tell(Kind::Open, name);
        Ok(Box::new(WatchedFile(self.0.open(name)?)))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        tell(Kind::Other, name);
        Ok(Box::new(WatchedFile(self.0.create(name)?)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        tell(Kind::Other, from);
        self.0.rename(from, to)
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        tell(Kind::Other, name);
        self.0.unlink(name)
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        tell(Kind::Other, dir);
        self.0.list(dir)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        tell(Kind::Sync, dir);
        self.0.sync_dir(dir)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        tell(Kind::Read, "");
        self.0.free_bytes()
    }
}

impl DiskFile for WatchedFile {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn write_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        tell(Kind::Write, self.name());
        self.0.write_at(slices, offset)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        tell(Kind::Read, self.name());
        self.0.read_at(buffer, offset)
    }

    fn read_uncached_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        tell(Kind::Read, self.name());
        self.0.read_uncached_at(buffer, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        tell(Kind::Sync, self.name());
        self.0.sync_data()
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        tell(Kind::Write, self.name());
        self.0.allocate(len)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        tell(Kind::Write, self.name());
        self.0.truncate(len)
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
}
