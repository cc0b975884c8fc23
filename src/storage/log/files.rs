//! Files of slots: made, found free, shortened, removed. No slot's header is written here.

use std::sync::Arc;

use crate::storage::error::StoreError;
use crate::storage::log::slots::SlotFile;
use crate::storage::log::{LOG_DIR, Log};
use crate::storage::slot::SLOT_HEADER_BYTES;

/// A file is shortened in steps of this: freeing much at once stalls some disks for minutes.
const TRUNCATE_BYTES_MAX: u64 = 16 << 20;

pub(in crate::storage) fn name_of(number: u32) -> String {
    format!("{LOG_DIR}/slot-{number:02}.log")
}

/// The number in a file's name, without its directory.
pub(in crate::storage) fn number_of(name: &str) -> Option<u32> {
    let digits = name.strip_prefix("slot-")?.strip_suffix(".log")?;
    digits.parse().ok().filter(|number| name_of(*number).ends_with(name))
}

/// Shortens a file step by step.
pub(super) fn shorten(file: &mut SlotFile, to: u64) -> Result<(), StoreError> {
    while file.len > to {
        let len = file.len.saturating_sub(TRUNCATE_BYTES_MAX).max(to);
        file.file.truncate(len).map_err(StoreError::io("truncate", file.file.name()))?;
        file.len = len;
    }
    Ok(())
}

impl Log {
    /// A file for the next slot, with room for a batch of `batch_bytes` and a durable name. Where there is no room for a
    /// whole slot it is as short as that: what frees room has to be told to the log first.
    ///
    /// # Errors
    /// [`StoreError::is_full`] when there is no room for it.
    pub(super) fn take_file(&self, batch_bytes: u64) -> Result<SlotFile, StoreError> {
        let least = SLOT_HEADER_BYTES + batch_bytes;
        let len = self.options.slot_bytes.max(least);
        let free = self.slots.lock().free.pop_back();
        let Some(mut file) = free else {
            let file = or_shorter(len, least, |len| self.make_file(len))?;
            self.sync_names().map_err(|error| self.poison(&error))?;
            return Ok(file);
        };
        match or_shorter(len, least, |len| lengthen(&file, len)) {
            Ok(len) => file.len = len,
            Err(error) => {
                self.slots.lock().free.push_back(file);
                return Err(error);
            }
        }
        Ok(file)
    }

    /// Removes what is kept for later, but for one file: there is no room for it. Whether there was anything.
    pub fn release_spares(&self) -> bool {
        let prepared = self.take_preparing();
        let spare = {
            let mut slots = self.slots.lock();
            // The last one may say that it is the log's next slot.
            if slots.free.len() > 1 { slots.free.pop_front() } else { None }
        };
        let had_any = prepared.is_some() || spare.is_some();
        prepared.into_iter().chain(spare).for_each(|file| self.remove_file(file));
        had_any
    }

    /// Tries once more to remove a file that the disk did not let go of: some need room for that, too. Whether there may be
    /// more to do at once.
    ///
    /// # Errors
    /// What the disk says. The file stays for the next time, behind the others.
    pub fn sweep(&self) -> Result<bool, StoreError> {
        let refused = self.slots.lock().refused.pop_front();
        refused.map_or(Ok(false), |file| self.try_remove(file).map(|()| true))
    }

    /// A new file of `len` bytes, whose name is not durable yet.
    pub(super) fn make_file(&self, len: u64) -> Result<SlotFile, StoreError> {
        let number = self.slots.lock().take_number();
        let name = name_of(number);
        let made = self.disk.create(&name).map_err(StoreError::io("create", &name)).and_then(|file| {
            file.allocate(len).map_err(StoreError::io("allocate", &name))?;
            Ok(SlotFile { number, file: Arc::from(file), len })
        });
        if made.is_err() {
            // Whether this works or not, the error to tell is the first one.
            let _ = self.disk.unlink(&name);
            self.slots.lock().numbers.remove(&number);
        }
        made
    }

    /// Makes the names of new files durable.
    pub(super) fn sync_names(&self) -> Result<(), StoreError> {
        self.disk.sync_dir(LOG_DIR).map_err(StoreError::io("sync", LOG_DIR))
    }

    /// A file that nobody needs any more: kept to be used again, or removed if there are enough.
    pub(super) fn release_file(&self, mut file: SlotFile) {
        let kept = {
            let slots = self.slots.lock();
            slots.free.len() + slots.used.len() <= 2 * self.window_slots()
        };
        if !kept {
            return self.remove_file(file);
        }
        // One that cannot be shortened is as good, and a later use may shorten it.
        let _ = shorten(&mut file, self.options.slot_bytes);
        self.slots.lock().free.push_front(file);
    }

    /// Removes a file, or leaves that to [`Log::sweep`]: nobody needs it, and whoever lets go of it has more to do.
    pub(super) fn remove_file(&self, file: SlotFile) {
        let _ = self.try_remove(file);
    }

    fn try_remove(&self, mut file: SlotFile) -> Result<(), StoreError> {
        let name = name_of(file.number);
        let unlink = || self.disk.unlink(&name).map_err(StoreError::io("remove", &name));
        let removed = shorten(&mut file, 0).and_then(|()| unlink());
        let mut slots = self.slots.lock();
        match &removed {
            Ok(()) => drop(slots.numbers.remove(&file.number)),
            Err(_) => slots.refused.push_back(file),
        }
        removed
    }
}

/// What is done with the usual length, or with the least one if there is no room for that.
fn or_shorter<T>(len: u64, least: u64, does: impl Fn(u64) -> Result<T, StoreError>) -> Result<T, StoreError> {
    match does(len) {
        Err(error) if error.is_full() && least < len => does(least),
        done => done,
    }
}

/// Gives a file room up to `len`; how long it is then.
fn lengthen(file: &SlotFile, len: u64) -> Result<u64, StoreError> {
    if file.len < len {
        file.file.allocate(len).map_err(StoreError::io("allocate", file.file.name()))?;
    }
    Ok(file.len.max(len))
}

#[cfg(test)]
mod tests {
    use super::{name_of, number_of};

    #[test]
    fn a_name_is_read_as_it_was_made() {
        assert_eq!(name_of(7), "log/slot-07.log");
        assert_eq!(number_of("slot-07.log"), Some(7));
        assert_eq!(number_of("slot-123.log"), Some(123));
        for other in ["slot-7.log", "slot-+7.log", "slot-07.log.old", "slot-.log"] {
            assert_eq!(number_of(other), None, "{other}");
        }
    }
}
