//! The checkpoint: the fold of all facts before the log's replay position, but for the messages' bytes, which are in
//! packs. One embedded database, written by the checkpoint alone, one transaction each time.
//!
//! `tables` is what is in it and how a checkpoint's changes are applied, `backend` how the database reaches our
//! disk. It knows no queue in memory and no message: definitions are facts as the log has them.

mod backend;
mod tables;

#[cfg(test)]
mod tests;

use std::fmt::Display;
use std::io::{self, ErrorKind};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;

use redb::Database;
use roaring::RoaringBitmap;

use crate::message::fact::Definition;
use crate::message::place::{Extent, Lsn, QueueId, Returned, Seq};
use crate::storage::disk::Disk;
use crate::storage::error::StoreError;
use crate::storage::log::{LOG_DIR, LoggedDefinition, ReplayFrom};
use crate::storage::meta::backend::{Backend, read_through};
use crate::storage::pack::writer::PackedExtent;

/// The database's file.
pub const META_FILE: &str = "meta.redb";
/// What it is called until it is whole.
const NEW_FILE: &str = "meta.redb.new";
/// What the person can do about damage.
const REMEDY: &str = "nothing else says what the rest is: put all of the directory back from a copy";
/// What the database may keep of its pages in memory.
const CACHE_BYTES: usize = 32 * 1024 * 1024;

/// The checkpoint's database.
#[derive(Debug)]
pub struct Meta {
    disk: Arc<dyn Disk>,
    /// Gone after a full disk: the database trusts a file no more that once refused a write.
    database: Option<Database>,
}

/// What the checkpoint says of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetaState {
    /// Where the log's replay starts; [`ReplayFrom::START`] before the first checkpoint.
    pub replay: ReplayFrom,
    /// The first queue number that was never used, as far as the checkpoint knows.
    pub next_queue_id: u64,
    /// The end of the log at the last stop, if the last thing that happened was a clean stop.
    pub clean: Option<Lsn>,
}

/// One thing that the checkpoint holds.
#[derive(Debug, PartialEq)]
pub enum Loaded<'a> {
    /// An exchange, a queue or a binding, as it was declared or bound. In this order.
    Defined(Definition<'a>),
    /// A queue's row, behind all definitions.
    Queue(QueueRow),
    /// An extent and what is settled in it, or never was a message of it. Behind all rows, by queue and number.
    Extent {
        /// Whose.
        queue: QueueId,
        /// Of which lane.
        lane: u32,
        /// Where.
        at: Extent,
        /// Numbers from its first on.
        settled: RoaringBitmap,
    },
    /// How often messages came back. Behind all extents, by queue and number.
    Returned {
        /// Whose.
        queue: QueueId,
        /// Which, and how often.
        returned: Returned,
    },
}

/// What is kept of a queue beside its extents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueRow {
    /// The queue.
    pub queue: QueueId,
    /// The first number that was never drawn, as far as the checkpoint knows.
    pub next_seq: Seq,
    /// The number after the highest that was ever handed out.
    pub delivered_hi: Seq,
}

/// What a checkpoint changes, applied in the order of the fields. Extents of a queue that is not defined then are
/// ignored.
#[derive(Debug, Default)]
pub struct Changes {
    /// Definitions that came and went, in the log's order.
    pub definitions: Vec<LoggedDefinition>,
    /// Queues whose rows changed.
    pub queues: Vec<QueueRow>,
    /// Packs that go with all their extents.
    pub packs_forgotten: Vec<u64>,
    /// Extents that go.
    pub extents_forgotten: Vec<(QueueId, u32, Seq)>,
    /// Extents that came.
    pub extents: Vec<PackedExtent>,
    /// What is settled in extents that were there before.
    pub settled: Vec<(QueueId, u32, Seq, RoaringBitmap)>,
    /// Counts of returns that go, by their first numbers.
    pub returns_forgotten: Vec<(QueueId, Seq)>,
    /// Counts of returns that came or changed. Those of a queue that is not defined then are ignored.
    pub returns: Vec<(QueueId, Returned)>,
    /// Where the replay starts from now on, if that changes.
    pub replay: Option<ReplayFrom>,
    /// The first queue number that was never used, if it changes.
    pub next_queue_id: Option<u64>,
    /// The log's end, at a clean stop.
    pub clean: Option<Lsn>,
}

impl Meta {
    /// Opens the checkpoint, or makes an empty one. What a sync failed to bring to the device is not seen.
    ///
    /// # Errors
    /// What the disk says, [`StoreError::Newer`], [`StoreError::Corrupt`].
    pub fn open(disk: Arc<dyn Disk>) -> Result<Self, StoreError> {
        let database = match disk.open(META_FILE) {
            Ok(file) => {
                read_through(&*file)?;
                open_checked(Backend::new(file))?
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                refuse_if_lost(&*disk)?;
                create(&*disk)?
            }
            Err(error) => return Err(StoreError::io("open", META_FILE)(error)),
        };
        tables::check_format(&database)?;
        Ok(Self { disk, database: Some(database) })
    }

    /// Shows everything that the checkpoint holds, one thing after the other.
    ///
    /// # Errors
    /// What the disk says, or [`StoreError::Corrupt`].
    pub fn load(&mut self, on_loaded: &mut dyn FnMut(Loaded<'_>)) -> Result<MetaState, StoreError> {
        tables::load(self.database()?, on_loaded)
    }

    /// The packs that extents lie in.
    ///
    /// # Errors
    /// What the disk says, or [`StoreError::Corrupt`].
    pub fn packs(&mut self) -> Result<Vec<u64>, StoreError> {
        tables::packs(self.database()?)
    }

    /// Applies a checkpoint's changes, all or none. They are durable when this returns; after [`StoreError::is_full`]
    /// nothing has changed and it may be tried again.
    ///
    /// # Errors
    /// What the disk says, or [`StoreError::Corrupt`].
    pub fn commit(&mut self, changes: &Changes) -> Result<(), StoreError> {
        let result = tables::commit(self.database()?, changes);
        if result.as_ref().is_err_and(StoreError::is_full) {
            self.database = None;
        }
        result
    }

    fn database(&mut self) -> Result<&Database, StoreError> {
        let database = match self.database.take() {
            Some(database) => database,
            None => {
                let file = self.disk.open(META_FILE).map_err(StoreError::io("open", META_FILE))?;
                open_database(Backend::new(file))?
            }
        };
        Ok(self.database.insert(database))
    }
}

/// The checkpoint is made before the log: where there is a log it was lost, and an empty one would say that no pack is
/// needed any more.
pub(super) fn refuse_if_lost(disk: &dyn Disk) -> Result<(), StoreError> {
    match disk.list(LOG_DIR) {
        Ok(names) if !names.is_empty() => Err(damaged("it is gone")),
        Err(error) if error.kind() != ErrorKind::NotFound => Err(StoreError::io("list", LOG_DIR)(error)),
        _ => Ok(()),
    }
}

/// Makes an empty checkpoint under another name, so that a crash leaves a whole one or none. It stays open: closing it
/// writes, and would not say that it failed.
fn create(disk: &dyn Disk) -> Result<Database, StoreError> {
    let file = disk.create(NEW_FILE).map_err(StoreError::io("create", NEW_FILE))?;
    let database = open_database(Backend::new(file))?;
    tables::write_format(&database)?;
    disk.rename(NEW_FILE, META_FILE).map_err(StoreError::io("rename", NEW_FILE))?;
    disk.sync_dir("").map_err(StoreError::io("sync", "the data directory"))?;
    Ok(database)
}

fn open_database(backend: Backend) -> Result<Database, StoreError> {
    Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(backend).map_err(failed)
}

/// Opens the database and compares every page with its checksum: it does neither of itself, and believes what it reads.
fn open_checked(backend: Backend) -> Result<Database, StoreError> {
    let opened = panic::catch_unwind(AssertUnwindSafe(|| {
        let mut database = open_database(backend)?;
        let is_whole = database.check_integrity().map_err(failed)?;
        Ok((database, is_whole))
    }));
    // It panics on some pages that are not what it wrote.
    let (database, is_whole) =
        opened.unwrap_or_else(|_| Err(damaged("its pages are not what was written")))?;
    if !is_whole {
        tracing::warn!("{META_FILE} was damaged, and is what the checkpoint before the last one was");
    }
    Ok(database)
}

/// The database's errors in our words.
fn failed(error: impl Into<redb::Error>) -> StoreError {
    let action = "read or write";
    match error.into() {
        // It reads what is not there, or not what it wrote, and calls both a failed call.
        redb::Error::Io(source)
            if matches!(source.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof) =>
        {
            damaged(source)
        }
        redb::Error::Io(source) => StoreError::io(action, META_FILE)(source),
        redb::Error::PreviousIo => StoreError::io(action, META_FILE)(io::Error::other(
            "an earlier call failed, and nothing after it counts",
        )),
        redb::Error::UpgradeRequired(version) => {
            damaged(format!("its file format {version} is older than any that this version wrote"))
        }
        other => damaged(other.to_string()),
    }
}

fn damaged(problem: impl Display) -> StoreError {
    StoreError::Corrupt { file: META_FILE.to_owned(), offset: 0, problem: format!("{problem}: {REMEDY}") }
}
