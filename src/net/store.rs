//! The data directory as the configuration describes it: opened before anything is served, watched while it is.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::broker::Broker;
use crate::clock::Now;
use crate::config::{Durability, Storage};
use crate::net::essential::essential_blocking;
use crate::net::wake_blocked;
use crate::storage::directory::{Directory, NodeId};
use crate::storage::disk::Disk;
use crate::storage::disk::real::RealDisk;
use crate::storage::error::StoreError;
use crate::storage::log::{LogOptions, SyncMode};
use crate::storage::pack::shelf::OPEN_MAX;

/// How often the disk's room is looked at: with so many times the limit free not even publishers who write as fast as a
/// disk can reach it between two looks. It is not longer than people want to wait when room has come back.
const PLENTY_TIMES: u64 = 16;
const LOOK_INTERVAL_MAX: Duration = Duration::from_secs(1);
const LOOK_INTERVAL_MIN: Duration = Duration::from_millis(100);
/// See [`files_max`].
const BESIDE_SLOTS_AND_PACKS: u64 = 16;

/// The data directory, and how what is in it is to behave.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) directory: Directory,
    pub(super) log_options: LogOptions,
}

impl Store {
    /// Makes the directory if it is not there, and takes it for this process.
    ///
    /// # Errors
    /// As [`Directory::open_unknown`], or what the system says to making one.
    pub(super) fn open(dir: &Path, storage: &Storage) -> Result<Self, StoreError> {
        let disk = RealDisk::new(dir).map_err(StoreError::io("make", "it"))?;
        let directory = Directory::open_unknown(Arc::new(disk), NodeId(rand::random()))?;
        Ok(Self { directory, log_options: log_options(storage, Now::read()) })
    }
}

/// What the configuration means for the log.
fn log_options(storage: &Storage, now: Now) -> LogOptions {
    LogOptions {
        slot_bytes: storage.slot_bytes,
        window_slots: usize::try_from(storage.window_slots).unwrap_or(usize::MAX),
        sync: match storage.durability {
            Durability::Fsync => SyncMode::EachBatch,
            Durability::Interval => SyncMode::Interval,
            Durability::Os => SyncMode::Never,
        },
        created_ms: now.unix_ms,
        ..LogOptions::default()
    }
}

/// So many files the store may have open: two windows of slots, with one in reserve, and packs. Beside them are the lock,
/// the tables, folders, and packs that are written and merged.
pub(super) fn files_max(storage: &Storage) -> u64 {
    storage.window_slots.saturating_mul(2).saturating_add(OPEN_MAX as u64 + BESIDE_SLOTS_AND_PACKS)
}

/// Compares what is free on the disk with the limit, for ever.
pub(super) async fn watch(broker: Arc<Broker>, disk: Arc<dyn Disk>) {
    loop {
        let own = Arc::clone(&disk);
        let free_bytes = match essential_blocking("looks at the disk", move || own.free_bytes()).await {
            Some(Ok(free_bytes)) => free_bytes,
            Some(Err(error)) => {
                tracing::warn!(%error, "cannot tell how much is free on the disk");
                u64::MAX
            }
            None => return,
        };
        broker.look_at_disk(free_bytes, Now::read().instant);
        wake_blocked(&broker).await;
        let limit_bytes = broker.disk_free_limit_bytes.read();
        let is_plenty = free_bytes > limit_bytes.saturating_mul(PLENTY_TIMES);
        let pause = if is_plenty { LOOK_INTERVAL_MAX } else { LOOK_INTERVAL_MIN };
        tokio::time::sleep(pause).await;
    }
}
