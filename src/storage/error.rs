//! What goes wrong between the store and its disk.

use std::io;

use rustix::io::Errno;

/// Why the store cannot go on. Each says in one line what, where and why.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A call to the operating system failed.
    #[error("{action} {file}: {error}")]
    Io {
        /// What was tried, in the present: "write", "sync".
        action: &'static str,
        /// The file or directory.
        file: String,
        /// The system's own words, with its number. (Who has told this error has told them, so that they are no `source`.)
        error: io::Error,
    },
    /// A file does not say what it must.
    #[error("{file} at byte {offset}: {problem}")]
    Corrupt {
        /// The file.
        file: String,
        /// Where in it.
        offset: u64,
        /// What is wrong.
        problem: String,
    },
    /// The data was written by a newer version.
    #[error(
        "{file} is of format {found}, and this version knows formats up to {known}: run the newer version"
    )]
    Newer {
        /// The file.
        file: String,
        /// Its format.
        found: u32,
        /// The newest this version knows.
        known: u32,
    },
    /// Something failed before in a way that leaves unknown what the disk holds.
    #[error("the store is closed until the next start: {0}")]
    Poisoned(String),
    /// The directory has something in it, and nothing of ours.
    #[error("the data directory {dir} is not one of SluiceMQ's: {problem}")]
    Foreign {
        /// The directory.
        dir: String,
        /// How that is seen.
        problem: String,
    },
    /// Another process has the data directory.
    #[error("the data directory {0} is in use by another process")]
    InUse(String),
}

impl StoreError {
    /// Wraps a failed call on a file or directory; for `map_err`.
    pub fn io(action: &'static str, file: &str) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Io { action, file: file.to_owned(), error }
    }

    /// Whether what was read is not what was written, or is gone: no later try will do better.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Corrupt { .. } => true,
            _ => self.is_missing(),
        }
    }

    /// Whether a file is not there, or about to go.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io { error, .. } if error.kind() == io::ErrorKind::NotFound)
    }

    /// Whether it concerns the log, without which nothing goes on.
    pub fn is_of_log(&self) -> bool {
        match self {
            Self::Io { file, .. } | Self::Corrupt { file, .. } => file.starts_with("log"),
            Self::Poisoned(_) => true,
            _ => false,
        }
    }

    /// Whether the disk had no room, or the process no descriptor for a file: nothing was harmed, and there may be room
    /// later.
    pub fn is_full(&self) -> bool {
        let has_no_room = matches!(self, Self::Io { error, .. }
            if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded));
        has_no_room || self.lacks_descriptors()
    }

    /// Whether as many files are open as may be, in this process or on the machine.
    pub fn lacks_descriptors(&self) -> bool {
        let Self::Io { error, .. } = self else { return false };
        let code = error.raw_os_error().map(Errno::from_raw_os_error);
        matches!(code, Some(Errno::MFILE | Errno::NFILE))
    }
}
