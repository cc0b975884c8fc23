//! The data directory: one process has it, and it says what it is.
//!
//! ```text
//! LOCK     held for as long as the process lives
//! FORMAT   sluicemq 1
//!          node <32 hexadecimal digits>
//! ```
//!
//! `FORMAT` is written once, under another name first, so that it is there whole or not at all. A directory that has
//! other files and no `FORMAT` is not ours, and nothing is left in it, not even `LOCK`; one with the tables of a broker has
//! lost it. What the log, the packs and the rest look like is not known here.

use std::fmt::{self, Debug};
use std::io::{self, IoSlice};
use std::sync::Arc;

use crate::storage::disk::Disk;
use crate::storage::error::StoreError;
use crate::storage::meta::META_FILE;

const FORMAT: &str = "FORMAT";
const FORMAT_NEW: &str = "FORMAT.new";
const LOCK: &str = "LOCK";
/// A filesystem's own folder, at its root.
const LOST_AND_FOUND: &str = "lost+found";
const NAME: &str = "sluicemq";
const VERSION: u32 = 1;
/// What the person can do about a `FORMAT` that is damaged, for nothing else says what it said.
const REMEDY: &str =
    "put it back from a copy, or write its two lines: `sluicemq 1`, and `node ` with 32 hexadecimal digits";
/// A file that is longer is not ours, whatever it says.
const FORMAT_BYTES_MAX: usize = 4096;

/// Which node's data it is: drawn when the directory is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NodeId(pub u128);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A data directory that this process has.
#[derive(Debug)]
pub struct Directory {
    disk: Arc<dyn Disk>,
    node: NodeId,
    is_new: bool,
    _lock: Box<dyn Debug + Send + Sync>,
}

impl Directory {
    /// Takes a directory of which nothing is known: before anything is made in it, it must be empty, or ours.
    ///
    /// # Errors
    /// As [`Directory::open`].
    pub fn open_unknown(disk: Arc<dyn Disk>, new_node: NodeId) -> Result<Self, StoreError> {
        if !has_lock(&*disk)? && read_format(&*disk)?.map(|text| parse(&*disk, &text)).transpose()?.is_none()
        {
            refuse_strangers(&*disk)?;
        }
        Self::open(disk, new_node)
    }

    /// Takes the directory, and makes it one of ours if there is nothing in it; then its node is `new_node`.
    ///
    /// # Errors
    /// [`StoreError::InUse`] when another process has it, [`StoreError::Newer`] when it is of a later format,
    /// [`StoreError::Foreign`] when it is not ours, [`StoreError::Corrupt`] when it does not say whose it is.
    pub fn open(disk: Arc<dyn Disk>, new_node: NodeId) -> Result<Self, StoreError> {
        let lock = take_lock(&*disk)?;
        let found = read_format(&*disk)?;
        let is_new = found.is_none();
        let node = match found {
            Some(text) => parse(&*disk, &text)?,
            None => {
                refuse_strangers(&*disk)?;
                write_format(&*disk, new_node)?;
                new_node
            }
        };
        // A process that was killed may have left the name unsynced.
        disk.sync_dir("").map_err(StoreError::io("sync", "the data directory"))?;
        Ok(Self { disk, node, is_new, _lock: lock })
    }

    /// Takes a directory that is one of ours already, and changes nothing in it.
    ///
    /// # Errors
    /// As [`Directory::open`]; [`StoreError::Foreign`] too when there is nothing in it.
    pub fn open_existing(disk: Arc<dyn Disk>) -> Result<Self, StoreError> {
        let read = || match read_format(&*disk)? {
            Some(found) => parse(&*disk, &found),
            None if has_tables(&*disk)? => Err(corrupt("it is gone")),
            None => Err(foreign(&*disk, "no broker has been here")),
        };
        if !has_lock(&*disk)? {
            read()?;
        }
        let lock = take_lock(&*disk)?;
        let node = read()?;
        Ok(Self { disk, node, is_new: false, _lock: lock })
    }

    /// The disk it is on.
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// Whose data it is.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Whether it was made just now.
    pub fn is_new(&self) -> bool {
        self.is_new
    }
}

fn take_lock(disk: &dyn Disk) -> Result<Box<dyn Debug + Send + Sync>, StoreError> {
    disk.lock().map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => StoreError::InUse(disk.name()),
        _ => StoreError::io("lock", LOCK)(error),
    })
}

/// Whether a process has taken it before: what is found in one without is looked at before anything is made there.
fn has_lock(disk: &dyn Disk) -> Result<bool, StoreError> {
    Ok(names(disk)?.iter().any(|name| name == LOCK))
}

fn names(disk: &dyn Disk) -> Result<Vec<String>, StoreError> {
    disk.list("").map_err(StoreError::io("list", "the data directory"))
}

fn corrupt(problem: &str) -> StoreError {
    StoreError::Corrupt { file: FORMAT.to_owned(), offset: 0, problem: format!("{problem}: {REMEDY}") }
}

fn foreign(disk: &dyn Disk, problem: &str) -> StoreError {
    StoreError::Foreign { dir: disk.name(), problem: problem.to_owned() }
}

/// `FORMAT` does not say that the directory is ours, for it `is` this. Where a broker's tables are beside it, it did once.
fn not_ours(disk: &dyn Disk, is: &str) -> StoreError {
    match has_tables(disk) {
        Ok(true) => corrupt(&format!("it {is}")),
        Ok(false) => foreign(disk, &format!("its FORMAT {is}")),
        Err(error) => error,
    }
}

fn has_tables(disk: &dyn Disk) -> Result<bool, StoreError> {
    Ok(names(disk)?.iter().any(|name| name == META_FILE))
}

fn read_format(disk: &dyn Disk) -> Result<Option<String>, StoreError> {
    let file = match disk.open(FORMAT) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StoreError::io("open", FORMAT)(error)),
    };
    let mut bytes = vec![0; FORMAT_BYTES_MAX];
    let count = file.read_at(&mut bytes, 0).map_err(StoreError::io("read", FORMAT))?;
    bytes.truncate(count);
    String::from_utf8(bytes).map(Some).map_err(|_| not_ours(disk, "is no text"))
}

fn parse(disk: &dyn Disk, text: &str) -> Result<NodeId, StoreError> {
    let mut lines = text.lines();
    let version = lines.next().and_then(|line| line.strip_prefix(NAME)?.strip_prefix(' '));
    let version: Option<u32> = version.and_then(|version| version.parse().ok());
    match version {
        Some(VERSION) => {}
        Some(found) if found > VERSION => {
            return Err(StoreError::Newer { file: FORMAT.to_owned(), found, known: VERSION });
        }
        _ => return Err(not_ours(disk, "names no format")),
    }
    let node = lines.next().and_then(|line| line.strip_prefix("node ")).filter(|digits| digits.len() == 32);
    let node = node.and_then(|digits| u128::from_str_radix(digits, 16).ok()).map(NodeId);
    node.filter(|_| lines.next().is_none())
        .ok_or_else(|| corrupt("it does not say which node's data this is"))
}

/// Data without a format must not be overwritten: it may be ours, damaged, or anything else.
fn refuse_strangers(disk: &dyn Disk) -> Result<(), StoreError> {
    if has_tables(disk)? {
        return Err(corrupt("it is gone"));
    }
    let mut strangers = names(disk)?;
    strangers.retain(|name| ![LOCK, FORMAT_NEW].contains(&name.as_str()));
    strangers.extend(disk.folders().map_err(StoreError::io("list", "the data directory"))?);
    strangers.sort();
    match strangers.iter().find(|name| *name != LOST_AND_FOUND) {
        None => Ok(()),
        Some(name) => Err(foreign(disk, &format!("it has no FORMAT and is not empty: there is {name}"))),
    }
}

fn write_format(disk: &dyn Disk, node: NodeId) -> Result<(), StoreError> {
    let text = format!("{NAME} {VERSION}\nnode {node}\n");
    let file = disk.create(FORMAT_NEW).map_err(StoreError::io("create", FORMAT_NEW))?;
    file.write_at(&[IoSlice::new(text.as_bytes())], 0).map_err(StoreError::io("write", FORMAT_NEW))?;
    file.sync_data().map_err(StoreError::io("sync", FORMAT_NEW))?;
    disk.rename(FORMAT_NEW, FORMAT).map_err(StoreError::io("rename", FORMAT_NEW))
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::sync::Arc;

    use super::{Directory, NodeId};
    use crate::storage::disk::simulated::{CrashMode, Fault, SimulatedDisk};
    use crate::storage::disk::{Disk, real::RealDisk};
    use crate::storage::error::StoreError;

    const NODE: NodeId = NodeId(0xabc);

    fn open(disk: &SimulatedDisk, node: u128) -> Result<Directory, StoreError> {
        Directory::open(Arc::new(disk.clone()), NodeId(node))
    }

    fn with_format(text: &[u8]) -> Result<Directory, StoreError> {
        let disk = SimulatedDisk::new();
        disk.create("FORMAT").unwrap().write_at(&[IoSlice::new(text)], 0).unwrap();
        open(&disk, 1)
    }

    #[test]
    fn a_directory_keeps_its_node() {
        let disk = SimulatedDisk::new();
        let made = open(&disk, NODE.0).unwrap();
        assert!(made.is_new() && made.node() == NODE);
        assert!(matches!(open(&disk, 1), Err(StoreError::InUse(_))));
        drop(made);
        let found = open(&disk.crash(CrashMode::NothingUnsynced, 0), 1).unwrap();
        assert!(!found.is_new() && found.node() == NODE);
    }

    #[test]
    fn what_is_newer_or_not_ours_is_refused() {
        let newer = with_format(b"sluicemq 2\nanything\n");
        assert!(matches!(newer, Err(StoreError::Newer { found: 2, known: 1, .. })));
        let node = format!("node {NODE}");
        for text in ["", "sluicemq", "sluicemq one", "sluicemq 0\n", "other 1\n"] {
            assert!(matches!(with_format(text.as_bytes()), Err(StoreError::Foreign { .. })), "{text}");
        }
        for text in ["sluicemq 1\n", "sluicemq 1\nnode x\n"] {
            assert!(matches!(with_format(text.as_bytes()), Err(StoreError::Corrupt { .. })), "{text}");
        }
        assert!(with_format(format!("sluicemq 1\n{node}\nmore\n").as_bytes()).is_err());
        assert!(with_format(&[0xff; 5000]).is_err());
        assert!(with_format(format!("sluicemq 1\n{node}\n").as_bytes()).is_ok());
        let disk = SimulatedDisk::new();
        disk.create("precious").unwrap();
        assert!(open(&disk, 1).unwrap_err().to_string().contains("precious"));
    }

    #[test]
    fn whenever_its_making_is_cut_short_it_is_made_or_found_next_time() {
        for call in 0..10 {
            for mode in CrashMode::ALL {
                let disk = SimulatedDisk::new();
                disk.fail_at(call, Fault::Crash);
                let made = open(&disk, 1).is_ok();
                let found = open(&disk.crash(mode, call), 2).unwrap();
                assert!(!made || found.node() == NodeId(1));
            }
        }
    }

    #[test]
    fn it_is_made_on_a_filesystem() {
        let dir = tempfile::tempdir().unwrap();
        let disk = || -> Arc<dyn Disk> { Arc::new(RealDisk::new(dir.path().join("data")).unwrap()) };
        let made = Directory::open(disk(), NODE).unwrap();
        assert!(matches!(Directory::open(disk(), NODE), Err(StoreError::InUse(_))));
        drop(made);
        assert_eq!(Directory::open(disk(), NodeId(1)).unwrap().node(), NODE);
    }

    #[test]
    fn nothing_is_left_in_a_directory_of_others() {
        let file = |dir: &std::path::Path| std::fs::write(dir.join("notes.txt"), "mine").unwrap();
        let folder = |dir: &std::path::Path| std::fs::create_dir(dir.join("projects")).unwrap();
        let format = |dir: &std::path::Path| std::fs::write(dir.join("FORMAT"), "of something else").unwrap();
        for make in [file, folder, format] as [fn(&std::path::Path); 3] {
            let dir = tempfile::tempdir().unwrap();
            make(dir.path());
            let disk = || -> Arc<dyn Disk> { Arc::new(RealDisk::new(dir.path()).unwrap()) };
            assert!(matches!(Directory::open_unknown(disk(), NODE), Err(StoreError::Foreign { .. })));
            assert!(matches!(Directory::open_existing(disk()), Err(StoreError::Foreign { .. })));
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        }
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("lost+found")).unwrap();
        Directory::open_unknown(Arc::new(RealDisk::new(dir.path()).unwrap()), NODE).unwrap();
    }
}
