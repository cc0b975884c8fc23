//! The packs of a store: open while they are read, pinned by whoever reads, removed when nobody does.
//!
//! A pack is doomed only after the checkpoint's tables have forgotten it. Its file goes in small steps: unlinking a
//! large file at once stalls some disks for minutes.
//!
//! ```text
//!          open            doom                sweep, when nobody opens or reads it
//!  closed ------> leased ------> doomed, leased ------> going ------> gone
//! ```
//!
//! Nothing waits for the disk under the lock: what is being opened and what is going is noted in it, and the two keep
//! out of each other's way.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::storage::disk::Disk;
use crate::storage::error::StoreError;
use crate::storage::pack::reader::Pack;
use crate::storage::pack::{Kind, PACK_DIR, SPILL_DIR, number_of};

/// Packs that are kept open although nobody reads them.
pub const OPEN_MAX: usize = 64;
/// A file is shortened by this much at a time.
const TRUNCATE_BYTES: u64 = 16 * 1024 * 1024;

/// A pack pinned for reading: its file stays for as long as this lives.
pub type PackLease = Arc<Pack>;

/// All packs.
#[derive(Debug)]
pub struct Shelf {
    disk: Arc<dyn Disk>,
    state: Mutex<State>,
}

/// What names a pack.
type Key = (Kind, u64);

#[derive(Debug, Default)]
struct State {
    open: BTreeMap<Key, PackLease>,
    /// How many are opening each, outside of the lock: its file is let alone.
    opening: BTreeMap<Key, usize>,
    doomed: VecDeque<Doomed>,
    /// Doomed ones whose files somebody is shortening or removing, outside of the lock.
    going: BTreeSet<Key>,
}

#[derive(Debug)]
struct Doomed {
    key: Key,
    /// What readers may still hold.
    lease: Option<PackLease>,
}

impl State {
    fn is_doomed(&self, key: Key) -> bool {
        self.going.contains(&key) || self.doomed.iter().any(|doomed| doomed.key == key)
    }

    /// The pack if it is open; otherwise the caller opens it and says so with [`State::opened`].
    fn lease_or_open(&mut self, key: Key) -> Result<Option<PackLease>, StoreError> {
        if let Some(pack) = self.open.get(&key) {
            return Ok(Some(Arc::clone(pack)));
        }
        if self.is_doomed(key) {
            return Err(gone(key));
        }
        *self.opening.entry(key).or_default() += 1;
        Ok(None)
    }

    /// What opening the pack gave, and what need not stay open for it. A pack that was doomed meanwhile is not leased any
    /// more: its places have changed.
    fn opened(
        &mut self,
        key: Key,
        pack: Result<PackLease, StoreError>,
    ) -> Result<(PackLease, Option<PackLease>), StoreError> {
        if let Some(openers) = self.opening.get_mut(&key) {
            *openers -= 1;
            if *openers == 0 {
                self.opening.remove(&key);
            }
        }
        if self.is_doomed(key) {
            return Err(gone(key));
        }
        let pack = Arc::clone(self.open.entry(key).or_insert(pack?));
        let is_idle = |pack: &PackLease| Arc::strong_count(pack) == 1;
        let idle =
            if self.open.len() > OPEN_MAX { self.open.iter().find(|(_, pack)| is_idle(pack)) } else { None };
        let idle = idle.map(|(key, _)| *key).and_then(|key| self.open.remove(&key));
        Ok((pack, idle))
    }

    /// A doomed pack that nobody reads or opens, the one first that has waited longest.
    fn next_to_go(&mut self) -> Option<Doomed> {
        let is_free = |doomed: &Doomed| {
            !self.opening.contains_key(&doomed.key)
                && doomed.lease.as_ref().is_none_or(|lease| Arc::strong_count(lease) == 1)
        };
        let at = self.doomed.iter().position(is_free)?;
        let doomed = self.doomed.remove(at)?;
        self.going.insert(doomed.key);
        Some(doomed)
    }
}

fn gone((kind, number): Key) -> StoreError {
    let gone = std::io::Error::from(std::io::ErrorKind::NotFound);
    StoreError::io("open", &kind.file_name(number))(gone)
}

impl Shelf {
    /// The packs of a data directory.
    pub fn new(disk: Arc<dyn Disk>) -> Self {
        Self { disk, state: Mutex::default() }
    }

    /// Pins a pack; waits for the disk when it is not open. A place that was looked up before the pack was doomed may be
    /// stale: when this fails with [`StoreError::is_missing`], look it up again.
    ///
    /// # Errors
    /// What the disk says, or [`StoreError::Corrupt`].
    pub fn lease(&self, kind: Kind, number: u64) -> Result<PackLease, StoreError> {
        let key = (kind, number);
        if let Some(pack) = self.state.lock().lease_or_open(key)? {
            return Ok(pack);
        }
        let mut opened = Pack::open(&*self.disk, kind, number).map(Arc::new);
        if opened.as_ref().is_err_and(StoreError::lacks_descriptors) && self.close_idle() {
            opened = Pack::open(&*self.disk, kind, number).map(Arc::new);
        }
        // Bound to a name, so that the idle pack's file is closed when the lock is not held any more.
        let leased = self.state.lock().opened(key, opened);
        leased.map(|(pack, _idle)| pack)
    }

    /// Closes the packs that nobody reads: their descriptors are wanted for something else. Whether there were any.
    pub fn close_idle(&self) -> bool {
        let idle: Vec<PackLease> = {
            let mut state = self.state.lock();
            state.open.extract_if(.., |_, pack| Arc::strong_count(pack) == 1).map(|(_, pack)| pack).collect()
        };
        !idle.is_empty()
    }

    /// The checkpoint has durably forgotten the pack: its file goes when nobody reads it.
    pub fn doom(&self, kind: Kind, number: u64) {
        let mut state = self.state.lock();
        let key = (kind, number);
        let lease = state.open.remove(&key);
        state.doomed.push_back(Doomed { key, lease });
    }

    /// Shortens or removes one doomed file. Whether there may be more to do at once.
    ///
    /// # Errors
    /// What the disk says. The file stays doomed.
    pub fn sweep(&self) -> Result<bool, StoreError> {
        let next = self.state.lock().next_to_go();
        let Some(Doomed { key, lease }) = next else { return Ok(false) };
        drop(lease);
        let shortened = self.shorten(key);
        let mut state = self.state.lock();
        state.going.remove(&key);
        if !matches!(shortened, Ok(true)) {
            state.doomed.push_back(Doomed { key, lease: None });
        }
        shortened.map(|_| true)
    }

    /// Sweeps until nothing more can go. Those that the disk does not let go of stay doomed.
    pub fn sweep_all(&self) {
        let mut refusals_left = self.state.lock().doomed.len();
        while refusals_left > 0 {
            match self.sweep() {
                Ok(true) => {}
                Ok(false) => break,
                // It is behind the others now.
                Err(_) => refusals_left -= 1,
            }
        }
    }

    /// Whether the file is gone.
    fn shorten(&self, (kind, number): Key) -> Result<bool, StoreError> {
        let name = kind.file_name(number);
        let file = match self.disk.open(&name) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(true),
            file => file.map_err(StoreError::io("open", &name))?,
        };
        let len = file.len().map_err(StoreError::io("measure", &name))?;
        if len > TRUNCATE_BYTES {
            file.truncate(len - TRUNCATE_BYTES).map_err(StoreError::io("shorten", &name))?;
            return Ok(false);
        }
        drop(file);
        self.disk.unlink(&name).map_err(StoreError::io("remove", &name))?;
        Ok(true)
    }

    /// At a start: dooms every pack that the tables do not know, and all of transient messages. The highest number in
    /// use, known or not, so that none is used twice.
    ///
    /// # Errors
    /// What the disk says.
    pub fn doom_unknown(&self, is_known: impl Fn(u64) -> bool) -> Result<u64, StoreError> {
        let mut highest = 0;
        for (kind, dir) in [(Kind::Durable, PACK_DIR), (Kind::Spill, SPILL_DIR)] {
            self.disk.create_dir(dir).map_err(StoreError::io("create", dir))?;
            for name in self.disk.list(dir).map_err(StoreError::io("list", dir))? {
                let Some(number) = number_of(&name) else { continue };
                highest = highest.max(number);
                if kind == Kind::Spill || !is_known(number) {
                    self.doom(kind, number);
                }
            }
        }
        Ok(highest)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::Shelf;
    use crate::storage::disk::Disk;
    use crate::storage::disk::watched::WatchedDisk;
    use crate::storage::pack::writer::PackWriter;
    use crate::storage::pack::{Kind, PACK_DIR};

    fn shelf(packs: u64) -> (WatchedDisk, Arc<Shelf>) {
        let disk = WatchedDisk::default();
        for number in 1..=packs {
            PackWriter::create(&disk, Kind::Durable, number).unwrap().finish(&disk).unwrap();
        }
        (disk.clone(), Arc::new(Shelf::new(Arc::new(disk))))
    }

    #[test]
    fn nobody_waits_for_the_disk_to_pin_a_pack_that_is_open() {
        let (disk, shelf) = shelf(2);
        let calls = Arc::new(AtomicUsize::new(0));
        let (own, counted) = (Arc::downgrade(&shelf), Arc::clone(&calls));
        disk.watch(move || {
            assert!(!own.upgrade().unwrap().state.is_locked(), "the disk is called under the lock");
            counted.fetch_add(1, Ordering::Relaxed);
        });
        shelf.lease(Kind::Durable, 1).unwrap();
        let opened = calls.load(Ordering::Relaxed);
        shelf.lease(Kind::Durable, 1).unwrap();
        assert_eq!(calls.load(Ordering::Relaxed), opened);
        shelf.doom(Kind::Durable, 2);
        assert!(shelf.sweep().unwrap());
        assert!(calls.load(Ordering::Relaxed) > opened);
    }

    #[test]
    fn a_pack_that_is_going_cannot_be_pinned() {
        let (disk, shelf) = shelf(1);
        shelf.doom(Kind::Durable, 1);
        let own = Arc::downgrade(&shelf);
        disk.watch(move || {
            let shelf = own.upgrade().unwrap();
            assert!(shelf.lease(Kind::Durable, 1).unwrap_err().is_missing());
            assert!(!shelf.sweep().unwrap(), "it is being swept");
        });
        while shelf.sweep().unwrap() {}
        assert!(disk.simulated().list(PACK_DIR).unwrap().is_empty());
    }

    #[test]
    fn a_pack_that_is_doomed_while_it_is_opened_is_let_alone_and_not_pinned() {
        let (disk, shelf) = shelf(1);
        let own = Arc::downgrade(&shelf);
        let is_doomed = AtomicUsize::new(0);
        disk.watch(move || {
            let shelf = own.upgrade().unwrap();
            if is_doomed.fetch_add(1, Ordering::Relaxed) == 0 {
                shelf.doom(Kind::Durable, 1);
                assert!(!shelf.sweep().unwrap(), "it is being opened");
            }
        });
        assert!(shelf.lease(Kind::Durable, 1).unwrap_err().is_missing());
        assert!(shelf.sweep().unwrap());
        assert!(disk.simulated().list(PACK_DIR).unwrap().is_empty());
    }
}
