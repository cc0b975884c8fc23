//! The disk as the store sees it: one directory, files named by us, errors never hidden.
//!
//! Two implementations: [`real`], the only code below `net` that touches a file, and [`simulated`], which loses,
//! tears and reorders what was not synced, and can fail any call. Names are relative to the data directory
//! (`"log/slot-00.log"`), made by the store and never by a user.

pub mod real;
pub mod simulated;
#[cfg(test)]
pub(crate) mod watched;

use std::fmt::Debug;
use std::io::{self, IoSlice};

/// What a disk writes whole or tears: batches and headers start at multiples of it.
pub const PAGE_BYTES: u64 = 4096;

/// A data directory.
pub trait Disk: Debug + Send + Sync {
    /// What people call the place: for messages only.
    fn name(&self) -> String;
    /// Takes the directory for this process until the value drops.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when another process has it.
    fn lock(&self) -> io::Result<Box<dyn Debug + Send + Sync>>;
    /// Makes a directory; one that is there is left as it is.
    fn create_dir(&self, name: &str) -> io::Result<()>;
    /// Opens a file for reading and writing. [`io::ErrorKind::NotFound`] when it is not there.
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;
    /// Makes a file, or empties one that is there.
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;
    /// Gives a file another name, replacing what had it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn unlink(&self, name: &str) -> io::Result<()>;
    /// The names of the files in a directory (`""` is the data directory itself), without it, in no order.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;
    /// The names of the folders in the data directory, which are ours or a stranger's; a disk that only we use has none
    /// to tell of.
    fn folders(&self) -> io::Result<Vec<String>> {
        Ok(Vec::new())
    }
    /// Makes creations, renames and removals in a directory durable.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;
    /// How many bytes are free for us.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// An open file. All methods take `&self`: a file is shared by the threads that read it and the one that writes.
pub trait DiskFile: Debug + Send + Sync {
    /// Its name, for messages.
    fn name(&self) -> &str;
    /// Writes all of `slices` behind each other from `offset` on.
    fn write_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()>;
    /// Fills `buffer` from `offset` on and answers with the count of bytes; fewer only at the file's end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// As [`DiskFile::read_at`], but what the device holds: after a failed sync the page cache may show data that
    /// the device lacks.
    fn read_uncached_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Makes everything written durable, with the length it needs (fdatasync).
    fn sync_data(&self) -> io::Result<()>;
    /// Says that what is synced of the file will not be read soon: the system may use its cache for something else.
    fn release_cache(&self) -> io::Result<()> {
        Ok(())
    }
    /// Gives the file room up to `len` bytes, and that length if it is shorter.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// Cuts or extends the file to `len` bytes.
    fn truncate(&self, len: u64) -> io::Result<()>;
    /// Its length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether it has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}
