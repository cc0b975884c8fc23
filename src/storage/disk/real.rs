//! A directory of the operating system: the only code below `net` that touches a file.
//!
//! It knows names and bytes, and nothing of what they mean. Short writes and interruptions are gone through here;
//! every other error is the caller's, and a failed sync is never tried again.

use std::fmt::Debug;
use std::fs::{DirBuilder, File, FileType, OpenOptions, TryLockError};
use std::io::{self, IoSlice};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{Advice, FallocateFlags, OFlags};
use rustix::io::Errno;

use crate::storage::disk::{Disk, DiskFile, PAGE_BYTES};

/// Only we read and write what is ours.
const FILE_MODE: u32 = 0o600;
const DIR_MODE: u32 = 0o700;
/// As many slices as one call takes (IOV_MAX).
const SLICES_MAX: usize = 1024;
/// What a read past the cache takes at once.
const DIRECT_BYTES_MAX: usize = 1 << 20;
const PAGE: usize = PAGE_BYTES as usize;

/// A data directory on a filesystem.
#[derive(Debug)]
pub struct RealDisk {
    dir: PathBuf,
}

impl RealDisk {
    /// The directory `dir`, made if it is not there.
    ///
    /// # Errors
    /// What the system says when it can be neither found nor made.
    pub fn new(dir: impl Into<PathBuf>) -> io::Result<Self> {
        let dir = dir.into();
        if dir.is_dir() {
            return Ok(Self { dir });
        }
        DirBuilder::new().recursive(true).mode(DIR_MODE).create(&dir)?;
        // The entry of the directory itself must outlive a power cut like what is in it.
        if let Some(parent) = dir.parent() {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            File::open(parent)?.sync_all()?;
        }
        Ok(Self { dir })
    }

    fn entries(&self, dir: &str, is_wanted: fn(&FileType) -> bool) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(self.dir.join(dir))? {
            let entry = entry?;
            if is_wanted(&entry.file_type()?)
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn open_with(&self, name: &str, options: &mut OpenOptions) -> io::Result<Box<dyn DiskFile>> {
        let path = self.dir.join(name);
        let file = options.read(true).write(true).mode(FILE_MODE).open(&path)?;
        Ok(Box::new(RealFile { name: name.to_owned(), file, path, direct: OnceLock::new() }))
    }
}

impl Disk for RealDisk {
    fn name(&self) -> String {
        self.dir.display().to_string()
    }

    fn lock(&self) -> io::Result<Box<dyn Debug + Send + Sync>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(FILE_MODE)
            .open(self.dir.join("LOCK"))?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(file)),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn create_dir(&self, name: &str) -> io::Result<()> {
        match DirBuilder::new().mode(DIR_MODE).create(self.dir.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.open_with(name, &mut OpenOptions::new())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.open_with(name, OpenOptions::new().create(true).truncate(true))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.dir.join(from), self.dir.join(to))
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.dir.join(name))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.entries(dir, FileType::is_file)
    }

    fn folders(&self) -> io::Result<Vec<String>> {
        self.entries("", FileType::is_dir)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        File::open(self.dir.join(dir))?.sync_all()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.dir)?;
        // Without inodes no file can be made, whatever room there is. Some filesystems do not count them.
        if stat.f_files > 0 && stat.f_favail == 0 {
            return Ok(0);
        }
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

#[derive(Debug)]
struct RealFile {
    name: String,
    file: File,
    path: PathBuf,
    /// The same file opened past the page cache; `None` where the filesystem has no such thing.
    direct: OnceLock<Option<File>>,
}

impl RealFile {
    fn direct(&self) -> Option<&File> {
        let open = || {
            let flags = OFlags::DIRECT.bits().cast_signed();
            OpenOptions::new().read(true).custom_flags(flags).open(&self.path).ok()
        };
        self.direct.get_or_init(open).as_ref()
    }

    /// Reads whole pages past the cache; `None` when the filesystem refuses it.
    fn read_direct(&self, buffer: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
        let Some(file) = self.direct() else { return Ok(None) };
        let mut scratch = vec![0; DIRECT_BYTES_MAX.min(buffer.len() + 2 * PAGE) + 2 * PAGE];
        let skip = scratch.as_ptr().align_offset(PAGE);
        let whole = (scratch.len() - PAGE) / PAGE * PAGE;
        let Some(aligned) = scratch.get_mut(skip..).and_then(|rest| rest.get_mut(..whole)) else {
            return Ok(None);
        };
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let at = offset + filled as u64;
            let start = at / PAGE_BYTES * PAGE_BYTES;
            let head = (at - start) as usize;
            let wanted = (head + rest.len()).next_multiple_of(PAGE).min(whole);
            let read = match aligned.get_mut(..wanted).map(|into| file.read_at(into, start)) {
                Some(Ok(read)) => read,
                Some(Err(error)) if error.kind() == io::ErrorKind::Interrupted => continue,
                Some(Err(error)) if error.kind() == io::ErrorKind::InvalidInput => return Ok(None),
                Some(Err(error)) => return Err(error),
                None => 0,
            };
            let got = aligned.get(head..read).unwrap_or_default();
            let count = got.len().min(rest.len());
            if count == 0 {
                break;
            }
            rest.iter_mut().zip(got).for_each(|(to, from)| *to = *from);
            filled += count;
        }
        Ok(Some(filled))
    }
}

impl DiskFile for RealFile {
    fn name(&self) -> &str {
        &self.name
    }

    fn write_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut offset = offset;
        let mut slices = slices.to_vec();
        let mut rest = slices.as_mut_slice();
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            let some = rest.get(..SLICES_MAX).unwrap_or(rest);
            let written = match rustix::io::pwritev(&self.file, some, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => written,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            offset += written as u64;
            IoSlice::advance_slices(&mut rest, written);
        }
        Ok(())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn read_uncached_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        // What is clean leaves the cache, so that later reads see the device too; what is dirty stays, and is
        // synced by whoever reads this way.
        let len = std::num::NonZeroU64::new(buffer.len() as u64);
        rustix::fs::fadvise(&self.file, offset, len, Advice::DontNeed)?;
        match self.read_direct(buffer, offset)? {
            Some(count) => Ok(count),
            None => self.read_at(buffer, offset),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn release_cache(&self) -> io::Result<()> {
        Ok(rustix::fs::fadvise(&self.file, 0, None, Advice::DontNeed)?)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        loop {
            match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, len) {
                Err(Errno::INTR) => {}
                // A filesystem without preallocation finds out about its room when it is written.
                Err(Errno::OPNOTSUPP) if self.len()? < len => return self.file.set_len(len),
                Err(Errno::OPNOTSUPP) => return Ok(()),
                other => return Ok(other?),
            }
        }
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, IoSlice};
    use std::os::unix::fs::PermissionsExt;

    use super::RealDisk;
    use crate::storage::disk::Disk;

    #[test]
    fn what_is_written_is_read_with_and_without_the_cache() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::new(dir.path().join("data")).unwrap();
        disk.create_dir("log").unwrap();
        disk.create_dir("log").unwrap();
        let file = disk.create("log/a").unwrap();
        file.allocate(3 << 20).unwrap();
        let body: Vec<u8> = (0..2_500_000u32).map(|n| (n % 251) as u8).collect();
        let pieces: Vec<_> = body.chunks(1000).map(IoSlice::new).collect();
        file.write_at(&pieces, 4096).unwrap();
        file.sync_data().unwrap();
        for offset in [4096u64, 4097, 12_000] {
            let mut buffer = vec![0; 2_000_000];
            let at = (offset - 4096) as usize;
            assert_eq!(file.read_uncached_at(&mut buffer, offset).unwrap(), buffer.len());
            assert_eq!(buffer, body[at..at + buffer.len()]);
            assert_eq!(file.read_at(&mut buffer, offset).unwrap(), buffer.len());
            assert_eq!(buffer, body[at..at + buffer.len()]);
        }
        let mut end = vec![0; 100];
        assert_eq!(file.read_uncached_at(&mut end, (3 << 20) - 10).unwrap(), 10);
        file.truncate(10).unwrap();
        assert_eq!(file.len().unwrap(), 10);
        disk.rename("log/a", "log/b").unwrap();
        disk.sync_dir("log").unwrap();
        assert_eq!(disk.list("log").unwrap(), ["b"]);
        assert_eq!(disk.open("log/a").unwrap_err().kind(), ErrorKind::NotFound);
        disk.unlink("log/b").unwrap();
        assert!(disk.free_bytes().unwrap() > 0);
    }

    #[test]
    fn one_process_has_the_directory_and_only_its_owner_sees_it() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::new(dir.path().join("data")).unwrap();
        let lock = disk.lock().unwrap();
        assert_eq!(disk.lock().unwrap_err().kind(), ErrorKind::WouldBlock);
        drop(lock);
        disk.lock().unwrap();
        let mode =
            |name: &str| std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("data"), mode("data/LOCK")), (0o700, 0o600));
    }
}
