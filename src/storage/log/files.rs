//! Files of slots: made, found free, shortened, removed. No slot's header is written here.

use std::sync::Arc;

use crate::storage::disk::DiskFile;
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
pub(super) fn truncate(file: &dyn DiskFile, from: u64, to: u64) -> Result<(), StoreError> {
    let mut len = from;
    while len > to {
        len = len.saturating_sub(TRUNCATE_BYTES_MAX).max(to);
        file.truncate(len).map_err(StoreError::io("truncate", file.name()))?;
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
    ///
    /// # Errors
    /// What the disk says: nothing is lost but room.
    pub fn release_spares(&self) -> Result<bool, StoreError> {
        let prepared = self.take_preparing();
        let spare = {
            let mut slots = self.slots.lock();
            // The last one may say that it is the log's next slot.
            if slots.free.len() > 1 { slots.free.pop_front() } else { None }
        };
        for file in prepared.iter().chain(&spare) {
            self.remove_file(file)?;
        }
        Ok(prepared.is_some() || spare.is_some())
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
    pub(super) fn release_file(&self, mut file: SlotFile) -> Result<(), StoreError> {
        let kept = {
            let slots = self.slots.lock();
            slots.free.len() + slots.used.len() <= 2 * self.window_slots()
        };
        if kept {
            truncate(&*file.file, file.len, self.options.slot_bytes)?;
            file.len = file.len.min(self.options.slot_bytes);
            self.slots.lock().free.push_front(file);
            return Ok(());
        }
        self.remove_file(&file)
    }

    fn remove_file(&self, file: &SlotFile) -> Result<(), StoreError> {
        let name = name_of(file.number);
        truncate(&*file.file, file.len, 0)?;
        self.disk.unlink(&name).map_err(StoreError::io("remove", &name))?;
        self.slots.lock().numbers.remove(&file.number);
        Ok(())
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
