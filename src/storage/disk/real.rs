//! A directory of the operating system: the only code below `net` that touches a file.
//!
//! It knows names and bytes, and nothing of what they mean. Short writes and interruptions are gone through here;
//! every other error is the caller's, and a failed sync is never tried again.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::fs::{DirBuilder, File, FileType, OpenOptions, TryLockError};
use std::io::{self, IoSlice};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
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
    /// Those that were synced or made, by name: as many as the store has.
    folders: Mutex<BTreeMap<String, Arc<File>>>,
}

/// Makes a directory and all it lies in. Their entries must outlive a power cut like what is in them: each one's parent is
/// synced before anything is made in it. That of the lowest one there is, too: it may have been made by a start that was
/// killed before it had come so far.
fn make_with_ancestors(dir: &Path, sync: &mut impl FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    let missing: Vec<&Path> = dir.ancestors().take_while(|dir| is_named(dir) && !dir.is_dir()).collect();
    let lowest = dir.ancestors().nth(missing.len());
    if let Some(parent) = lowest.and_then(parent_of) {
        // It may be somebody else's, who does not let us look at it, but then we have not made it.
        let _made_by_others = sync(parent);
    }
    for dir in missing.into_iter().rev() {
        match DirBuilder::new().mode(DIR_MODE).create(dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
            other => other?,
        }
        parent_of(dir).map_or(Ok(()), &mut *sync)?;
    }
    Ok(())
}

/// Whether a path is more than nothing, which stands for the working directory.
fn is_named(dir: &Path) -> bool {
    !dir.as_os_str().is_empty()
}

fn parent_of(dir: &Path) -> Option<&Path> {
    let parent = dir.parent()?;
    Some(if is_named(parent) { parent } else { Path::new(".") })
}

impl RealDisk {
    /// The directory `dir`, made if it is not there.
    ///
    /// # Errors
    /// What the system says when it can be neither found nor made.
    pub fn new(dir: impl Into<PathBuf>) -> io::Result<Self> {
        let dir = dir.into();
        make_with_ancestors(&dir, &mut |parent| File::open(parent)?.sync_all())?;
        Ok(Self { dir, folders: Mutex::default() })
    }

    /// A folder of the data directory, open: it is opened once, so that later nothing fails for want of a descriptor that
    /// only has to be synced.
    fn folder(&self, name: &str) -> io::Result<Arc<File>> {
        let mut folders = self.folders.lock();
        if let Some(folder) = folders.get(name) {
            return Ok(Arc::clone(folder));
        }
        let folder = Arc::new(File::open(self.dir.join(name))?);
        folders.insert(name.to_owned(), Arc::clone(&folder));
        Ok(folder)
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

    /// A file can be removed and made anew while somebody has it locked: the directory itself is locked as well, where its
    /// filesystem does that (NFS does not).
    fn lock(&self) -> io::Result<Box<dyn Debug + Send + Sync>> {
        let dir = File::open(&self.dir)?;
        if matches!(dir.try_lock(), Err(TryLockError::WouldBlock)) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(FILE_MODE)
            .open(self.dir.join("LOCK"))?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new((dir, file))),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn create_dir(&self, name: &str) -> io::Result<()> {
        match DirBuilder::new().mode(DIR_MODE).create(self.dir.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => other?,
        }
        self.folder(name).map(drop)
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
        self.folder(dir)?.sync_all()
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

    fn allocate_whole(&self, len: u64) -> io::Result<()> {
        loop {
            match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, len) {
                Err(Errno::INTR) => {}
                // A filesystem without preallocation finds out about its room when it is written.
                Err(Errno::OPNOTSUPP) if self.file.metadata()?.len() < len => return self.file.set_len(len),
                Err(Errno::OPNOTSUPP) => return Ok(()),
                other => return Ok(other?),
            }
        }
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

    /// What could not be had as a whole is given back: ext4 keeps what it had found when there was no more.
    fn allocate(&self, len: u64) -> io::Result<()> {
        let before = self.len()?;
        let allocated = self.allocate_whole(len);
        if allocated.is_err() {
            // It is the error that counts.
            let _ = self.file.set_len(before);
        }
        allocated
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
    use std::path::Path;

    use super::{RealDisk, make_with_ancestors};
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

    /// Makes `dir`; what was synced meanwhile, each with the names that were in it.
    fn synced_by_making(top: &Path, dir: &str) -> Vec<(String, Vec<String>)> {
        let mut synced = Vec::new();
        let made = make_with_ancestors(&top.join(dir), &mut |parent| {
            let names =
                std::fs::read_dir(parent)?.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            if let Ok(below) = parent.strip_prefix(top) {
                synced.push((below.to_str().unwrap().to_owned(), names.collect()));
            }
            Ok(())
        });
        made.unwrap();
        synced
    }

    #[test]
    fn each_new_directory_is_synced_in_the_one_that_it_lies_in_before_anything_is_made_there() {
        let top = tempfile::tempdir().unwrap();
        std::fs::create_dir(top.path().join("var")).unwrap();
        let entry = |dir: &str, names: &[&str]| {
            (dir.to_owned(), names.iter().map(|name| (*name).to_owned()).collect())
        };
        let (var, lib) = (entry("", &["var"]), entry("var", &["lib"]));
        let (mq, data) = (entry("var/lib", &["mq"]), entry("var/lib/mq", &["data"]));
        assert_eq!(synced_by_making(top.path(), "var/lib/mq/data"), [var, lib, mq, data.clone()]);
        assert!(top.path().join("var/lib/mq/data").is_dir());
        assert_eq!(synced_by_making(top.path(), "var/lib/mq/data"), [data]);
        assert!(make_with_ancestors(Path::new("/proc/none/of/these"), &mut |_| Ok(())).is_err());
    }

    #[test]
    fn one_process_has_the_directory_and_only_its_owner_sees_it() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::new(dir.path().join("data")).unwrap();
        let lock = disk.lock().unwrap();
        assert_eq!(disk.lock().unwrap_err().kind(), ErrorKind::WouldBlock);
        // Somebody has tidied up.
        std::fs::remove_file(dir.path().join("data/LOCK")).unwrap();
        assert_eq!(disk.lock().unwrap_err().kind(), ErrorKind::WouldBlock);
        drop(lock);
        disk.lock().unwrap();
        let mode =
            |name: &str| std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("data"), mode("data/LOCK")), (0o700, 0o600));
    }
}
