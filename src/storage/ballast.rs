//! Room kept for the moment when there is none: a file that is allocated, never written, and let go of when a start or
//! a checkpoint finds the disk full. A checkpoint is what gives room back, so it must always fit.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::storage::disk::Disk;
use crate::storage::error::StoreError;

const BALLAST_FILE: &str = "meta.ballast";
/// It is taken again only when so many times its size is free.
const FREE_TIMES_MIN: u64 = 4;

/// The reserve of a data directory.
#[derive(Debug)]
pub struct Ballast {
    disk: Arc<dyn Disk>,
    bytes: u64,
    is_held: AtomicBool,
}

impl Ballast {
    /// A reserve of so many bytes; it is taken by [`Ballast::restore`].
    pub fn new(disk: Arc<dyn Disk>, bytes: u64) -> Self {
        Self { disk, bytes, is_held: AtomicBool::new(false) }
    }

    /// Whether this process has it.
    pub fn is_held(&self) -> bool {
        self.is_held.load(Ordering::Relaxed)
    }

    /// Gives the room to whoever needs it. Whether there was any.
    ///
    /// # Errors
    /// What the disk says.
    pub fn release(&self) -> Result<bool, StoreError> {
        self.is_held.store(false, Ordering::Relaxed);
        match self.disk.unlink(BALLAST_FILE) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(StoreError::io("remove", BALLAST_FILE)(error)),
        }
    }

    /// Takes the room if it is not held and there is plenty.
    ///
    /// # Errors
    /// What the disk says, unless it is full meanwhile.
    pub fn restore(&self) -> Result<(), StoreError> {
        if self.is_held() {
            return Ok(());
        }
        let free = self.disk.free_bytes().map_err(StoreError::io("measure", "the data directory"))?;
        if free < self.bytes.saturating_mul(FREE_TIMES_MIN) {
            return Ok(());
        }
        let file = self.disk.create(BALLAST_FILE).map_err(StoreError::io("create", BALLAST_FILE));
        let allocated =
            file.and_then(|file| file.allocate(self.bytes).map_err(StoreError::io("allocate", BALLAST_FILE)));
        match allocated {
            Ok(()) => self.is_held.store(true, Ordering::Relaxed),
            Err(error) if error.is_full() => drop(self.release()?),
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::Ballast;
    use crate::storage::disk::Disk;
    use crate::storage::disk::simulated::SimulatedDisk;

    #[test]
    fn room_is_given_when_there_is_none_and_taken_when_there_is_plenty() {
        let disk = SimulatedDisk::new();
        let ballast = Ballast::new(Arc::new(disk.clone()), 1 << 20);
        ballast.restore().unwrap();
        assert!(ballast.release().unwrap());
        assert!(!ballast.release().unwrap());
        disk.set_capacity(2 << 20);
        ballast.restore().unwrap();
        assert!(disk.open("meta.ballast").is_err(), "half of what is free is too much");
        disk.set_capacity(1 << 40);
        ballast.restore().unwrap();
        // A process that starts finds what an earlier one held.
        assert!(Ballast::new(Arc::new(disk), 1 << 20).release().unwrap());
    }
}
