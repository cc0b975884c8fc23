//! A disk in memory that crashes on demand.
//!
//! **The fault model.** Files are pages of 4 KiB. What is written lies in a page cache until `sync_data`; a page
//! written several times between two syncs may reach the device in any of its versions or not at all, each page by
//! itself, and the page that was written last may be torn in its middle. A file's length is such a page of its own.
//! Creations, renames and removals lie in a journal until `sync_dir` of their directory; a prefix of the journal may
//! reach the device earlier. A failed sync marks pages clean that the device lacks, and the next sync succeeds: the
//! cache shows them until it is dropped, `read_uncached_at` shows the device, and after a power cut they are gone. A
//! killed process leaves the cache, which is as unsynced as before (clean pages may be dropped from it). Any call may
//! fail; a write that fails may have written a part. What was synced never changes: rot is for a test to write.
//!
//! A disk is a cheap handle. [`SimulatedDisk::crash`] gives another disk, as it is after the crash, and leaves this
//! one alone; pages are shared between them, so that a crash costs little more than the list of files.

mod pages;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::storage::disk::simulated::pages::{Contents, Dice};
use crate::storage::disk::{Disk, DiskFile, PAGE_BYTES};

/// The disk. Clones are the same disk.
#[derive(Clone, Debug)]
pub struct SimulatedDisk {
    state: Arc<Mutex<State>>,
}

/// What goes wrong at a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The call fails and does nothing.
    Error(io::ErrorKind),
    /// A write writes its first half and fails; any other call fails.
    ShortWrite,
    /// A sync fails: its pages are clean from now on, though the device has only some of them. Any other call fails.
    SyncFails,
    /// There is no room: the call fails with [`io::ErrorKind::StorageFull`].
    NoSpace,
    /// This call and all later ones fail, as [`is_crash`] tells.
    Crash,
}

/// What is left of the unsynced after a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashMode {
    /// Nothing of it.
    NothingUnsynced,
    /// All of it.
    AllKept,
    /// Of each page any version since its last sync, and a prefix of the directories' changes.
    RandomPages,
    /// All but the page written last, which is half new.
    TornLastPage,
    /// The changes of directories, and no data.
    RenameBeforeData,
    /// The data, and no changes of directories.
    DataBeforeDirectoryEntry,
    /// The process was killed: the cache is as it was, and still unsynced.
    Kill,
}

impl CrashMode {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::NothingUnsynced,
        Self::AllKept,
        Self::RandomPages,
        Self::TornLastPage,
        Self::RenameBeforeData,
        Self::DataBeforeDirectoryEntry,
        Self::Kill,
    ];
}

/// Whether an error says that the simulated machine has crashed.
pub fn is_crash(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Crashed>())
}

#[derive(Debug, thiserror::Error)]
#[error("the simulated machine has crashed")]
struct Crashed;

#[derive(Clone, Debug, Default)]
struct State {
    /// The names as a process sees them.
    entries: BTreeMap<String, Entry>,
    /// The names as the device has them.
    durable_entries: BTreeMap<String, Entry>,
    journal: Vec<Change>,
    files: BTreeMap<u64, Arc<Contents>>,
    next_file: u64,
    /// Which file, and which of its pages, was written last.
    last_written: Option<(u64, u64)>,
    capacity: Option<u64>,
    calls: u64,
    faults: BTreeMap<u64, Fault>,
    crashed: bool,
    locked: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    Dir,
    File(u64),
}

/// A change of names not yet synced: names and what they stand for from now on.
#[derive(Clone, Debug)]
struct Change {
    dir: String,
    names: Vec<(String, Option<Entry>)>,
}

impl Default for SimulatedDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl SimulatedDisk {
    /// An empty disk without end.
    pub fn new() -> Self {
        Self::of(State::default())
    }

    /// An empty disk of `bytes`: files count with their lengths.
    pub fn with_capacity(bytes: u64) -> Self {
        Self::of(State { capacity: Some(bytes), ..State::default() })
    }

    /// Gives the disk another size.
    pub fn set_capacity(&self, bytes: u64) {
        self.state.lock().capacity = Some(bytes);
    }

    /// How many calls were made of it and its files so far (asking for a name or a length is none).
    pub fn calls(&self) -> u64 {
        self.state.lock().calls
    }

    /// Lets the call after `n` others, counted from the disk's first one, go wrong.
    pub fn fail_at(&self, n: u64, fault: Fault) {
        self.state.lock().faults.insert(n, fault);
    }

    /// The disk as the next process finds it after a crash now. It has no faults planned, counts from 0, and is
    /// not locked.
    #[must_use]
    pub fn crash(&self, mode: CrashMode, seed: u64) -> Self {
        let mut state = self.state.lock().clone();
        let mut dice = Dice(seed);
        if mode == CrashMode::Kill {
            // A cache drops clean pages whenever it likes.
            if dice.roll(2) == 1 {
                state.files.values_mut().for_each(|file| Arc::make_mut(file).drop_clean());
            }
        } else {
            state.cut_power(mode, &mut dice);
        }
        state.start_anew();
        Self::of(state)
    }

    /// Another disk that holds what this one does now, synced and unsynced. It has no faults planned, counts from 0,
    /// and is not locked.
    #[must_use]
    pub fn copy(&self) -> Self {
        let mut state = self.state.lock().clone();
        state.start_anew();
        Self::of(state)
    }

    /// Changes bytes on the device and in the cache, as rot or a careless hand does.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn tamper(&self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state.lock();
        let Some(Entry::File(id)) = state.entries.get(name).copied() else { return Err(not_found()) };
        let file = state.contents(id);
        file.write(bytes, offset);
        file.sync();
        Ok(())
    }

    fn of(state: State) -> Self {
        Self { state: Arc::new(Mutex::new(state)) }
    }

    fn file(&self, name: &str, id: u64) -> Box<dyn DiskFile> {
        Box::new(SimulatedFile { name: name.to_owned(), id, disk: self.clone() })
    }
}

impl State {
    /// Counts a call and answers with the fault planned for it; those that fail without an effect fail here.
    fn call(&mut self) -> io::Result<Option<Fault>> {
        let fault = self.faults.get(&self.calls).copied();
        self.calls += 1;
        self.crashed |= fault == Some(Fault::Crash);
        if self.crashed {
            return Err(io::Error::other(Crashed));
        }
        match fault {
            Some(Fault::Error(kind)) => Err(kind.into()),
            Some(Fault::NoSpace) => Err(io::ErrorKind::StorageFull.into()),
            other => Ok(other),
        }
    }

    /// Forgets what belongs to the process that used the disk.
    fn start_anew(&mut self) {
        self.calls = 0;
        self.faults.clear();
        self.crashed = false;
        self.locked = false;
    }

    /// As [`State::call`], for calls that have no part to do.
    fn whole_call(&mut self) -> io::Result<()> {
        match self.call()? {
            None => Ok(()),
            Some(_) => Err(io::Error::other("simulated fault")),
        }
    }

    fn contents(&mut self, id: u64) -> &mut Contents {
        Arc::make_mut(self.files.entry(id).or_default())
    }

    fn change(&mut self, name: &str, names: Vec<(String, Option<Entry>)>) {
        for (name, entry) in &names {
            apply(&mut self.entries, name, *entry);
        }
        self.journal.push(Change { dir: parent(name).to_owned(), names });
    }

    fn sync_dir(&mut self, dir: &str) {
        let durable = &mut self.durable_entries;
        self.journal.retain(|change| {
            let synced = change.dir == dir;
            if synced {
                change.names.iter().for_each(|(name, entry)| apply(durable, name, *entry));
            }
            !synced
        });
    }

    fn used(&self) -> u64 {
        let len = |entry: &Entry| match entry {
            Entry::File(id) => self.files.get(id).map_or(0, |file| file.len.next_multiple_of(PAGE_BYTES)),
            Entry::Dir => 0,
        };
        self.entries.values().map(len).sum()
    }

    /// Whether file `id` may have `len` bytes.
    fn check_room(&self, id: u64, len: u64) -> io::Result<()> {
        let Some(capacity) = self.capacity else { return Ok(()) };
        let old = self.files.get(&id).map_or(0, |file| file.len);
        let grown = len.next_multiple_of(PAGE_BYTES).saturating_sub(old.next_multiple_of(PAGE_BYTES));
        if grown > 0 && self.used() + grown > capacity {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    fn cut_power(&mut self, mode: CrashMode, dice: &mut Dice) {
        let kept = match mode {
            CrashMode::AllKept | CrashMode::TornLastPage | CrashMode::RenameBeforeData => self.journal.len(),
            CrashMode::RandomPages => dice.roll(self.journal.len() as u64 + 1) as usize,
            _ => 0,
        };
        for change in std::mem::take(&mut self.journal).into_iter().take(kept) {
            change.names.iter().for_each(|(name, entry)| apply(&mut self.durable_entries, name, *entry));
        }
        self.entries.clear();
        for (name, entry) in &self.durable_entries {
            // What lies in a directory that is not there cannot be found. Names come in order, parents first.
            if parent(name).is_empty() || self.entries.contains_key(parent(name)) {
                self.entries.insert(name.clone(), *entry);
            }
        }
        self.durable_entries = self.entries.clone();
        let entries = &self.entries;
        self.files.retain(|id, _| entries.values().any(|entry| *entry == Entry::File(*id)));
        let last = self.last_written.take();
        for (id, file) in &mut self.files {
            let torn = last.filter(|(file, _)| file == id).map(|(_, page)| page);
            Arc::make_mut(file).cut_power(mode, torn, dice);
        }
    }
}

impl Disk for SimulatedDisk {
    fn name(&self) -> String {
        "the simulated disk".to_owned()
    }

    fn lock(&self) -> io::Result<Box<dyn Debug + Send + Sync>> {
        let mut state = self.state.lock();
        state.whole_call()?;
        if std::mem::replace(&mut state.locked, true) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(Lock(self.clone())))
    }

    fn create_dir(&self, name: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        state.whole_call()?;
        if !state.entries.contains_key(name) {
            state.change(name, vec![(name.to_owned(), Some(Entry::Dir))]);
        }
        Ok(())
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state.lock();
        state.whole_call()?;
        match state.entries.get(name) {
            Some(Entry::File(id)) => Ok(self.file(name, *id)),
            _ => Err(not_found()),
        }
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state.lock();
        state.whole_call()?;
        if !parent(name).is_empty() && !state.entries.contains_key(parent(name)) {
            return Err(not_found());
        }
        if let Some(Entry::File(id)) = state.entries.get(name).copied() {
            state.contents(id).truncate(0);
            return Ok(self.file(name, id));
        }
        let id = state.next_file;
        state.next_file += 1;
        state.files.insert(id, Arc::default());
        state.change(name, vec![(name.to_owned(), Some(Entry::File(id)))]);
        Ok(self.file(name, id))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        state.whole_call()?;
        let entry = state.entries.get(from).copied().ok_or_else(not_found)?;
        state.change(to, vec![(from.to_owned(), None), (to.to_owned(), Some(entry))]);
        Ok(())
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        state.whole_call()?;
        state.entries.get(name).ok_or_else(not_found)?;
        state.change(name, vec![(name.to_owned(), None)]);
        Ok(())
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let mut state = self.state.lock();
        state.whole_call()?;
        if !dir.is_empty() && !state.entries.contains_key(dir) {
            return Err(not_found());
        }
        let files = state.entries.iter().filter(|(_, entry)| matches!(entry, Entry::File(_)));
        let names = files.filter(|(name, _)| parent(name) == dir).map(|(name, _)| name);
        Ok(names.map(|name| name.rsplit('/').next().unwrap_or(name).to_owned()).collect())
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        state.whole_call()?;
        state.sync_dir(dir);
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let mut state = self.state.lock();
        state.whole_call()?;
        Ok(state.capacity.map_or(u64::MAX / 2, |capacity| capacity.saturating_sub(state.used())))
    }
}

#[derive(Debug)]
struct Lock(SimulatedDisk);

impl Drop for Lock {
    fn drop(&mut self) {
        self.0.state.lock().locked = false;
    }
}

#[derive(Debug)]
struct SimulatedFile {
    name: String,
    id: u64,
    disk: SimulatedDisk,
}

impl DiskFile for SimulatedFile {
    fn name(&self) -> &str {
        &self.name
    }

    fn write_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        let fault = state.call()?;
        let len: u64 = slices.iter().map(|slice| slice.len() as u64).sum();
        state.check_room(self.id, offset + len)?;
        let mut bytes = Vec::with_capacity(len as usize);
        slices.iter().for_each(|slice| bytes.extend_from_slice(slice));
        let kept = if fault.is_some() { bytes.len() / 2 } else { bytes.len() };
        let bytes = bytes.get(..kept).unwrap_or_default();
        if fault != Some(Fault::SyncFails) && !bytes.is_empty() {
            state.contents(self.id).write(bytes, offset);
            state.last_written = Some((self.id, (offset + bytes.len() as u64 - 1) / PAGE_BYTES));
        }
        fault.map_or(Ok(()), |_| Err(io::Error::other("simulated fault")))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.disk.state.lock();
        state.whole_call()?;
        Ok(state.contents(self.id).read(buffer, offset, false))
    }

    fn read_uncached_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.disk.state.lock();
        state.whole_call()?;
        Ok(state.contents(self.id).read(buffer, offset, true))
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        let fault = state.call()?;
        let mut dice = Dice(state.calls);
        match fault {
            None => state.contents(self.id).sync(),
            Some(_) => {
                state.contents(self.id).fail_to_sync(&mut dice);
                return Err(io::Error::other("simulated failed sync"));
            }
        }
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        state.whole_call()?;
        state.check_room(self.id, len)?;
        let file = state.contents(self.id);
        file.set_len(file.len.max(len));
        Ok(())
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        state.whole_call()?;
        state.check_room(self.id, len)?;
        state.contents(self.id).truncate(len);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.state.lock().contents(self.id).len)
    }
}

fn apply(entries: &mut BTreeMap<String, Entry>, name: &str, entry: Option<Entry>) {
    match entry {
        Some(entry) => entries.insert(name.to_owned(), entry),
        None => entries.remove(name),
    };
}

fn parent(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(dir, _)| dir)
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}
