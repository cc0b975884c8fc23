//! The packs of a store: open while they are read, pinned by whoever reads, removed when nobody does.
//!
//! A pack is doomed only after the checkpoint's tables have forgotten it. Its file goes in small steps: unlinking a
//! large file at once stalls some disks for minutes.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::storage::disk::Disk;
use crate::storage::error::StoreError;
use crate::storage::pack::reader::Pack;
use crate::storage::pack::{Kind, PACK_DIR, SPILL_DIR, number_of};

/// Packs that are kept open although nobody reads them.
const OPEN_MAX: usize = 64;
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

#[derive(Debug, Default)]
struct State {
    open: BTreeMap<(Kind, u64), PackLease>,
    doomed: Vec<Doomed>,
}

#[derive(Debug)]
struct Doomed {
    kind: Kind,
    number: u64,
    /// What readers may still hold.
    lease: Option<PackLease>,
}

impl Shelf {
    /// The packs of a data directory.
    pub fn new(disk: Arc<dyn Disk>) -> Self {
        Self { disk, state: Mutex::default() }
    }

    /// Pins a pack. A place that was looked up before the pack was doomed may be stale: when this fails, look it up
    /// again.
    ///
    /// # Errors
    /// What the disk says, or [`StoreError::Corrupt`].
    pub fn lease(&self, kind: Kind, number: u64) -> Result<PackLease, StoreError> {
        let mut state = self.state.lock();
        if let Some(pack) = state.open.get(&(kind, number)) {
            return Ok(Arc::clone(pack));
        }
        if state.doomed.iter().any(|doomed| (doomed.kind, doomed.number) == (kind, number)) {
            let gone = std::io::Error::from(std::io::ErrorKind::NotFound);
            return Err(StoreError::io("open", &kind.file_name(number))(gone));
        }
        // Opened under the lock, so that a pack cannot be doomed in between.
        let pack = Arc::new(Pack::open(&*self.disk, kind, number)?);
        if state.open.len() >= OPEN_MAX {
            let idle = state.open.iter().find(|(_, pack)| Arc::strong_count(pack) == 1).map(|(key, _)| *key);
            idle.and_then(|key| state.open.remove(&key));
        }
        state.open.insert((kind, number), Arc::clone(&pack));
        Ok(pack)
    }

    /// The checkpoint has durably forgotten the pack: its file goes when nobody reads it.
    pub fn doom(&self, kind: Kind, number: u64) {
        let mut state = self.state.lock();
        let lease = state.open.remove(&(kind, number));
        state.doomed.push(Doomed { kind, number, lease });
    }

    /// Shortens or removes one doomed file. Whether there may be more to do at once.
    ///
    /// # Errors
    /// What the disk says.
    pub fn sweep(&self) -> Result<bool, StoreError> {
        let mut state = self.state.lock();
        let is_free =
            |doomed: &Doomed| doomed.lease.as_ref().is_none_or(|lease| Arc::strong_count(lease) == 1);
        let Some(at) = state.doomed.iter().position(is_free) else { return Ok(false) };
        let doomed = state.doomed.swap_remove(at);
        let gone = self.shorten(doomed.kind, doomed.number)?;
        if !gone {
            state.doomed.push(Doomed { lease: None, ..doomed });
        }
        Ok(true)
    }

    /// Whether the file is gone.
    fn shorten(&self, kind: Kind, number: u64) -> Result<bool, StoreError> {
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
