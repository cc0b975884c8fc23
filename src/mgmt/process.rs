//! What the system says of this process.

use std::fs;

use rustix::process::{Resource, getrlimit};

/// What the process has in memory, in bytes; 0 where the system does not tell.
pub(crate) fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: Option<u64> = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok());
    kib.unwrap_or(0) * 1024
}

/// How many threads it has.
pub(crate) fn threads() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Threads:"));
    line.and_then(|line| line.trim().parse().ok()).unwrap_or(0)
}

/// How many threads this process' user may have; without a limit as many as RabbitMQ has processes.
pub(crate) fn threads_max() -> u64 {
    getrlimit(Resource::Nproc).current.unwrap_or(1 << 20)
}

/// How many descriptors it has open.
pub(crate) fn open_files() -> u64 {
    fs::read_dir("/proc/self/fd").map_or(0, |files| files.count() as u64)
}

/// How many it may have.
pub(crate) fn files_max() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::from(u32::MAX))
}
