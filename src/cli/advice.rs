//! Why there is nothing to serve, once, and what to do about it.

use std::io::{self, ErrorKind};
use std::path::Path;

use crate::config::size;
use crate::mgmt::server::ListenError;
use crate::net::ServeError;
use crate::storage::error::StoreError;

/// What a start takes: tables, a short file of the log, and a folder or two, in bytes.
const START_BYTES: u64 = 4 << 20;

/// The error, and what the person can do.
pub(super) fn sentence(error: &ServeError) -> String {
    let advice = match error {
        ServeError::Listen { error, .. } => of_listening(error, "--listen"),
        ServeError::Open { dir, error } => return of_directory(dir, error),
        ServeError::Tls(_) | ServeError::Thread(_) | ServeError::Seed(_) | ServeError::Store { .. } => {
            return error.to_string();
        }
    };
    format!("{error}: {advice}")
}

/// The same for what stands beside the broker.
pub(super) fn of_service(error: &ListenError) -> String {
    format!("{error}: {}", of_listening(&error.error, error.flag))
}

fn of_listening(error: &io::Error, flag: &str) -> String {
    match error.kind() {
        ErrorKind::AddrInUse => {
            format!("stop what listens there, or choose another port with {flag} HOST:PORT")
        }
        ErrorKind::PermissionDenied => {
            format!("ports below 1024 are for privileged users: choose another with {flag} HOST:PORT")
        }
        _ => format!("choose an address of this machine with {flag} HOST:PORT"),
    }
}

fn of_directory(dir: &Path, error: &StoreError) -> String {
    let place = dir.display();
    match error {
        StoreError::InUse(_) => {
            format!("{error}: stop that broker, or choose another directory with --data-dir")
        }
        StoreError::Foreign { .. } => format!("{error}: choose an empty or a new one with --data-dir"),
        _ if error.lacks_descriptors() => format!(
            "the data directory {place}: {error}: raise the limit on open files (ulimit -n, or LimitNOFILE= of a service)"
        ),
        _ if error.is_full() => {
            let needed = size(START_BYTES);
            let free =
                free_bytes(dir).map_or_else(String::new, |bytes| format!(" and {} are free", size(bytes)));
            format!(
                "the data directory {place}: {error}: a start needs up to {needed}{free}: make room, or choose another \
                 directory with --data-dir"
            )
        }
        StoreError::Io { error: told, .. } if is_none(told.kind()) => format!(
            "the data directory {place} cannot be used: {error}: there is a file where a directory should be: choose \
             another place with --data-dir"
        ),
        StoreError::Io { error: told, .. } if is_refused(told.kind()) => format!(
            "the data directory {place} cannot be used: {error}: this user must be able to make it and write in it, or \
             choose another with --data-dir"
        ),
        _ => format!("the data directory {place}: {error}"),
    }
}

/// Whether the place, or one above it, is no directory.
fn is_none(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::NotADirectory | ErrorKind::AlreadyExists)
}

/// Whether the place is none where this process can write.
fn is_refused(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem | ErrorKind::NotFound)
}

fn free_bytes(dir: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(dir).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}
