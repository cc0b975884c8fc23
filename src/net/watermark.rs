//! How much memory there is for this process: the machine's, or its control group's if that is less.

use std::fs;

/// What is assumed where the kernel does not tell.
const MEMORY_BYTES_ASSUMED: u64 = 2 * 1024 * 1024 * 1024;

/// Files that hold a control group's limit in bytes, second and first version.
const CGROUP_LIMITS: [&str; 2] = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];

/// The memory this process may use, in bytes.
pub fn memory_bytes() -> u64 {
    let machine = fs::read_to_string("/proc/meminfo").ok().as_deref().and_then(parse_meminfo);
    let group =
        CGROUP_LIMITS.iter().find_map(|path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok());
    machine.into_iter().chain(group).min().unwrap_or(MEMORY_BYTES_ASSUMED)
}

fn parse_meminfo(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::{memory_bytes, parse_meminfo};

    #[test]
    fn the_total_is_read_in_kibibytes() {
        let text = "MemTotal:       24635172 kB\nMemFree:        100 kB\n";
        assert_eq!(parse_meminfo(text), Some(24_635_172 * 1024));
        assert_eq!(parse_meminfo("nothing"), None);
        assert!(memory_bytes() > 0);
    }
}
