//! The next slot, made and written before it is needed: a commit to blocks that were written before is several times
//! as fast as one to blocks that are only allocated.
//!
//! It is done in steps by whoever has time (the thread of checkpoints), never by the committer. A slot needed earlier
//! is made without; one that is used again has been written. While batches are so large that the disk is busy with
//! their bytes and not with their syncs, writing zeros first would only cost as much again.

use std::io::IoSlice;

use crate::storage::error::StoreError;
use crate::storage::log::Log;
use crate::storage::log::slots::SlotFile;

/// Each step is synced: the disk takes what it is given in turn, and a commit behind a whole slot of zeros would
/// wait for all of it, a tenth of a second.
const STEP_BYTES: usize = 256 << 10;
/// Batches as large as this on the average gain less from a slot written before than the writing costs.
const LARGE_BATCH_BYTES: u64 = 256 << 10;

/// A slot on its way.
#[derive(Debug)]
pub(super) struct Preparing {
    file: SlotFile,
    written: u64,
}

impl Log {
    /// Does one step towards a spare slot. `true` when there are more.
    ///
    /// # Errors
    /// [`StoreError::is_full`] when there is no room for one; any other error is final, as that of a commit.
    pub fn prepare_slot(&self) -> Result<bool, StoreError> {
        self.check_poison()?;
        let mut preparing = self.preparing.lock();
        let outcome = match preparing.take() {
            None if !self.needs_spare() => return Ok(false),
            None => self.make_file(self.options.slot_bytes).map(|file| Some(Preparing { file, written: 0 })),
            Some(begun) => self.write_zeros(begun),
        };
        match outcome {
            Ok(rest) => {
                *preparing = rest;
                Ok(preparing.is_some())
            }
            Err(error) if error.is_full() => Err(error),
            Err(error) => Err(self.poison(&error)),
        }
    }

    /// The slot on its way, which is not made any more.
    pub(super) fn take_preparing(&self) -> Option<SlotFile> {
        self.preparing.lock().take().map(|begun| begun.file)
    }

    fn needs_spare(&self) -> bool {
        let slots = self.slots.lock();
        let has_large_batches = || {
            slots.used.back().is_some_and(|open| open.contents.lock().mean_batch_bytes() >= LARGE_BATCH_BYTES)
        };
        slots.free.is_empty() && !has_large_batches()
    }

    fn write_zeros(&self, mut begun: Preparing) -> Result<Option<Preparing>, StoreError> {
        let file = &begun.file.file;
        let left = begun.file.len - begun.written;
        let zeros = vec![0; STEP_BYTES.min(left as usize)];
        let step = if left > 0 {
            file.write_at(&[IoSlice::new(&zeros)], begun.written)
                .map_err(StoreError::io("write", file.name()))
                .and_then(|()| file.sync_data().map_err(StoreError::io("sync", file.name())))
        } else {
            self.sync_names()
        };
        if let Err(error) = step {
            // No room: what was taken is given back, for those who need it more.
            self.remove_file(begun.file);
            return Err(error);
        }
        if left == 0 {
            self.slots.lock().free.push_front(begun.file);
            return Ok(None);
        }
        begun.written += zeros.len() as u64;
        Ok(Some(begun))
    }
}
