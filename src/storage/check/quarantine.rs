//! What is damaged is copied here before anything is written in its place, each with a note that says what it was.

use std::io::{self, IoSlice};

use crate::storage::disk::{Disk, DiskFile};
use crate::storage::error::StoreError;

/// The directory of what was set aside. No broker looks into it.
pub const CORRUPT_DIR: &str = "corrupt";

const STEP_BYTES: u64 = 1 << 20;

/// Copies a part of a file, with a note; the copy's name.
///
/// # Errors
/// What the disk says.
pub(super) fn keep(
    disk: &dyn Disk,
    file: &dyn DiskFile,
    from: u64,
    until: u64,
    note: &str,
) -> Result<String, StoreError> {
    disk.create_dir(CORRUPT_DIR).map_err(StoreError::io("create", CORRUPT_DIR))?;
    let name = free_name(disk, file.name(), from)?;
    let copy_name = format!("{name}.bin");
    let copy = disk.create(&copy_name).map_err(StoreError::io("create", &copy_name))?;
    let until = until.min(file.len().map_err(StoreError::io("measure", file.name()))?);
    let mut at = from;
    while at < until {
        let mut bytes = vec![0; (until - at).min(STEP_BYTES) as usize];
        let read = file.read_at(&mut bytes, at).map_err(StoreError::io("read", file.name()))?;
        bytes.truncate(read);
        if bytes.is_empty() {
            break;
        }
        copy.write_at(&[IoSlice::new(&bytes)], at - from).map_err(StoreError::io("write", &copy_name))?;
        at += bytes.len() as u64;
    }
    copy.sync_data().map_err(StoreError::io("sync", &copy_name))?;
    let note_name = format!("{name}.txt");
    let note = format!("{}, bytes {from} to {until}, is in {copy_name} as it was.\n{note}\n", file.name());
    let noted = disk.create(&note_name).map_err(StoreError::io("create", &note_name))?;
    noted.write_at(&[IoSlice::new(note.as_bytes())], 0).map_err(StoreError::io("write", &note_name))?;
    noted.sync_data().map_err(StoreError::io("sync", &note_name))?;
    for dir in [CORRUPT_DIR, ""] {
        disk.sync_dir(dir).map_err(StoreError::io("sync", CORRUPT_DIR))?;
    }
    Ok(copy_name)
}

/// A name that nothing has, by the place.
fn free_name(disk: &dyn Disk, file: &str, offset: u64) -> Result<String, StoreError> {
    let taken = match disk.list(CORRUPT_DIR) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        names => names.map_err(StoreError::io("list", CORRUPT_DIR))?,
    };
    let short = file.replace('/', "-");
    let name = |again: u32| match again {
        0 => format!("{short}-at-{offset}"),
        _ => format!("{short}-at-{offset}-{again}"),
    };
    let is_free = |again: &u32| !taken.contains(&format!("{}.bin", name(*again)));
    let free = (0..).find(is_free).unwrap_or_default();
    Ok(format!("{CORRUPT_DIR}/{}", name(free)))
}
