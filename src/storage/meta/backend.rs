//! The database's file on our disk. It knows no table.

use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicBool, Ordering};

use redb::StorageBackend;

use crate::storage::disk::DiskFile;
use crate::storage::error::StoreError;

/// How much of the file is compared at a time.
const STEP_BYTES: usize = 1024 * 1024;

/// A file of ours as the database wants one.
#[derive(Debug)]
pub(super) struct Backend {
    file: Box<dyn DiskFile>,
    /// Pages were written after the header: the header that is written next makes them count.
    has_pages: AtomicBool,
}

impl Backend {
    pub(super) fn new(file: Box<dyn DiskFile>) -> Self {
        Self { file, has_pages: AtomicBool::new(false) }
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let read = self.file.read_at(out, offset)?;
        if read < out.len() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.truncate(len)
    }

    /// A sync that fails is final, also for want of room: what it did not bring to the device may be there later.
    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data().map_err(io::Error::other)
    }

    /// The file begins with the header, which says what is committed. Where it cannot be written behind the pages of a
    /// commit, also for want of room, the next opening may find that commit or not: this is final too.
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let written = self.file.write_at(&[IoSlice::new(data)], offset);
        let is_header = offset == 0;
        let has_pages = self.has_pages.swap(!is_header, Ordering::Relaxed);
        if is_header && has_pages { written.map_err(io::Error::other) } else { written }
    }
}

/// Makes the cache show what the device holds: after a failed sync of an earlier process it may show a commit that the
/// device lacks, which the next power cut would take back when the log before it is long gone.
pub(super) fn read_through(file: &dyn DiskFile) -> Result<(), StoreError> {
    let name = file.name().to_owned();
    file.sync_data().map_err(StoreError::io("sync", &name))?;
    let len = file.len().map_err(StoreError::io("measure", &name))?;
    let (mut cached, mut device) = (vec![0; STEP_BYTES], vec![0; STEP_BYTES]);
    let mut offset = 0;
    let mut differs = false;
    while offset < len {
        let read = file.read_at(&mut cached, offset).map_err(StoreError::io("read", &name))?;
        let held = file.read_uncached_at(&mut device, offset).map_err(StoreError::io("read", &name))?;
        let (cached, held_bytes) = (cached.get(..read), device.get(..held.min(read)));
        if cached != held_bytes {
            differs = true;
            let slices = [IoSlice::new(held_bytes.unwrap_or_default())];
            file.write_at(&slices, offset).map_err(StoreError::io("write", &name))?;
        }
        if held < STEP_BYTES {
            let end = offset + held.min(read) as u64;
            if end < len {
                file.truncate(end).map_err(StoreError::io("shorten", &name))?;
            }
            break;
        }
        offset += STEP_BYTES as u64;
    }
    if differs { file.sync_data().map_err(StoreError::io("sync", &name)) } else { Ok(()) }
}
