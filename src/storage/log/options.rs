//! How a log is to behave: sizes, when it syncs, who commits.

/// Sizes and modes of a log.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// A slot's length; one grows for a batch larger than itself.
    pub slot_bytes: u64,
    /// As many slots in use make a checkpoint due; twice as many hold publishers back.
    pub window_slots: usize,
    /// A batch takes no further unit once it has this many bytes.
    pub batch_bytes_max: usize,
    /// With more bytes waiting for the disk, publishers are held back.
    pub pending_bytes_max: u64,
    /// When a position counts as durable.
    pub sync: SyncMode,
    /// Who writes batches.
    pub commit: CommitMode,
    /// Whether sealed slots are used again as soon as they are applied, with nobody keeping what is in them.
    pub forgets: bool,
    /// What epochs are drawn from: the system's randomness, or a seed. A seed is for tests, and a new one for each
    /// opening of a directory.
    pub epoch_seed: Option<u64>,
    /// The time that slots begun in this run say, in milliseconds since 1970: for people.
    pub created_ms: u64,
}

/// When a position counts as durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncMode {
    /// When its batch was synced.
    EachBatch,
    /// When its batch was written; whoever owns the log calls [`super::Log::sync`] at an interval.
    Interval,
    /// When its batch was written; the system writes it to the device when it likes.
    Never,
}

/// Who writes batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitMode {
    /// Whoever calls [`super::Log::commit_once`]: a thread of its own, or a simulation's steps.
    Called,
    /// The appender, at the end of its hold: everything is durable at once.
    Inline,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            slot_bytes: 64 << 20,
            window_slots: 8,
            batch_bytes_max: 4 << 20,
            pending_bytes_max: 32 << 20,
            sync: SyncMode::EachBatch,
            commit: CommitMode::Called,
            forgets: false,
            epoch_seed: None,
            created_ms: 0,
        }
    }
}

/// Draws epochs: never 0, which stands for "no slot before".
#[derive(Debug)]
pub(super) struct Epochs {
    state: Option<u64>,
}

impl Epochs {
    pub(super) fn new(seed: Option<u64>) -> Self {
        Self { state: seed }
    }

    pub(super) fn draw(&mut self) -> u64 {
        let drawn = match &mut self.state {
            None => rand::random(),
            Some(state) => {
                *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
                let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
                let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
                mixed ^ (mixed >> 31)
            }
        };
        drawn | 1
    }
}
