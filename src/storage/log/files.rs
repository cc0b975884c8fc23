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
    /// A file for the next slot, with room for a batch of `batch_bytes` and a durable name.
    ///
    /// # Errors
    /// [`StoreError::is_full`] when there is no room for it.
    pub(super) fn take_file(&self, batch_bytes: u64) -> Result<SlotFile, StoreError> {
        let len = self.options.slot_bytes.max(SLOT_HEADER_BYTES + batch_bytes);
        let free = self.slots.lock().free.pop_back();
        let Some(mut file) = free else {
            let file = self.make_file(len)?;
            self.sync_names().map_err(|error| self.poison(&error))?;
            return Ok(file);
        };
        if file.len < len {
            if let Err(error) = file.file.allocate(len) {
                let error = StoreError::io("allocate", file.file.name())(error);
                self.slots.lock().free.push_back(file);
                return Err(error);
            }
            file.len = len;
        }
        Ok(file)
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
        let name = name_of(file.number);
        truncate(&*file.file, file.len, 0)?;
        self.disk.unlink(&name).map_err(StoreError::io("remove", &name))?;
        self.slots.lock().numbers.remove(&file.number);
        Ok(())
    }
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
