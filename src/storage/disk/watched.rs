//! A disk that tells a test of each call before it makes it: which locks are held then, and what others may do meanwhile.

use std::fmt::{self, Debug, Formatter};
use std::io::{self, IoSlice};
use std::sync::{Arc, OnceLock};

use crate::storage::disk::simulated::SimulatedDisk;
use crate::storage::disk::{Disk, DiskFile};

type Watch = OnceLock<Box<dyn Fn() + Send + Sync>>;

/// A simulated disk and who watches it.
#[derive(Clone, Default)]
pub(crate) struct WatchedDisk {
    disk: SimulatedDisk,
    watch: Arc<Watch>,
}

struct WatchedFile {
    file: Box<dyn DiskFile>,
    watch: Arc<Watch>,
}

impl WatchedDisk {
    /// From now on each call is told to `watch` first.
    pub(crate) fn watch(&self, watch: impl Fn() + Send + Sync + 'static) {
        assert!(self.watch.set(Box::new(watch)).is_ok(), "a disk is watched once");
    }

    /// The disk itself, unwatched.
    pub(crate) fn simulated(&self) -> &SimulatedDisk {
        &self.disk
    }

    fn tell(&self) -> &SimulatedDisk {
        self.watch.get().inspect(|watch| watch());
        &self.disk
    }

    fn watched(&self, file: io::Result<Box<dyn DiskFile>>) -> io::Result<Box<dyn DiskFile>> {
        file.map(|file| Box::new(WatchedFile { file, watch: Arc::clone(&self.watch) }) as Box<dyn DiskFile>)
    }
}

impl WatchedFile {
    fn tell(&self) -> &dyn DiskFile {
        self.watch.get().inspect(|watch| watch());
        &*self.file
    }
}

impl Debug for WatchedDisk {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.disk.fmt(f)
    }
}

impl Debug for WatchedFile {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.file.fmt(f)
    }
}

impl Disk for WatchedDisk {
    fn name(&self) -> String {
        self.disk.name()
    }

    fn lock(&self) -> io::Result<Box<dyn Debug + Send + Sync>> {
        self.tell().lock()
    }

    fn create_dir(&self, name: &str) -> io::Result<()> {
        self.tell().create_dir(name)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.watched(self.tell().open(name))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.watched(self.tell().create(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.tell().rename(from, to)
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        self.tell().unlink(name)
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.tell().list(dir)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.tell().sync_dir(dir)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.tell().free_bytes()
    }
}

impl DiskFile for WatchedFile {
    fn name(&self) -> &str {
        self.file.name()
    }

    fn write_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.tell().write_at(slices, offset)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.tell().read_at(buffer, offset)
    }

    fn read_uncached_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.tell().read_uncached_at(buffer, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.tell().sync_data()
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.tell().allocate(len)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.tell().truncate(len)
    }

    fn len(&self) -> io::Result<u64> {
        self.tell().len()
    }
}
