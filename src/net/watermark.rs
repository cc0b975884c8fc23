//! How much memory there is: the machine's, or less where a control group that this process is in says so, without what the
//! process needs beside what it counts.
//!
//! Control groups lie in each other, and the smallest limit holds, wherever it stands: the process's own group is often
//! not the one with the limit. Both versions are read, for there are machines that have either, or both.

use std::fs;
use std::path::{Component, Path, PathBuf};

/// What is assumed where the kernel does not tell.
const MEMORY_BYTES_ASSUMED: u64 = 2 * 1024 * 1024 * 1024;
/// What a process needs for itself, and of a little memory a part: code, threads, connections, buffers whose bytes are not
/// those of messages, and the allocator's share. With a watermark of 60 % of everything, a group of 512 MiB was full when
/// messages had taken 300.
const OWN_BYTES_MAX: u64 = 128 * 1024 * 1024;
const OWN_OF_MEMORY: u64 = 4;
/// Deeper than any group lies: paths are no longer than a page.
const GROUPS_MAX: usize = 4096;

/// A version of control groups.
struct Version {
    /// What its filesystem is called.
    filesystem: &'static str,
    /// What limits memory there, in the list of the process's groups and among the options of the mount.
    controller: Option<&'static str>,
    /// The files of a group that hold a limit in bytes. (Above `memory.high` the kernel lets a process hardly go on.)
    limits: &'static [&'static str],
}

const VERSIONS: [Version; 2] = [
    Version { filesystem: "cgroup2", controller: None, limits: &["memory.max", "memory.high"] },
    Version { filesystem: "cgroup", controller: Some("memory"), limits: &["memory.limit_in_bytes"] },
];

/// The memory of which shares are taken, in bytes.
pub fn memory_bytes() -> u64 {
    without_own(memory_bytes_below(Path::new("/")))
}

fn without_own(bytes: u64) -> u64 {
    bytes - OWN_BYTES_MAX.min(bytes / OWN_OF_MEMORY)
}

/// The memory this process may use, in bytes, as the files below this directory tell it.
fn memory_bytes_below(root: &Path) -> u64 {
    let read = |path: &Path| fs::read_to_string(root.join(path.strip_prefix("/").unwrap_or(path))).ok();
    let tell = |path: &str| read(Path::new(path)).unwrap_or_default();
    let machine = parse_meminfo(&tell("proc/meminfo"));
    let limits = limit_files(&tell("proc/self/cgroup"), &tell("proc/self/mountinfo"));
    let limits = limits.into_iter().filter_map(|path| read(&path)?.trim().parse().ok());
    machine.into_iter().chain(limits).min().unwrap_or(MEMORY_BYTES_ASSUMED)
}

fn parse_meminfo(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// The files that may hold a limit: those of the process's groups and of all that these lie in, as far as they can be
/// seen from here.
fn limit_files(groups: &str, mounts: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for version in VERSIONS {
        let own = groups.lines().find_map(|line| version.own_group(line));
        let mount = mounts.lines().find_map(|line| version.mount(line));
        let (Some(own), Some((top, place))) = (own, mount) else { continue };
        // Of what lies outside of what is mounted, the top is all that can be seen: in a container it is its own group.
        let below = Path::new(own).strip_prefix(top).unwrap_or(Path::new(""));
        let is_inside = below.components().all(|part| matches!(part, Component::Normal(_)));
        let lowest = Path::new(place).join(if is_inside { below } else { Path::new("") });
        let all = lowest.ancestors().take_while(|group| group.starts_with(place)).take(GROUPS_MAX);
        files.extend(all.flat_map(|group| version.limits.iter().map(|name| group.join(name))));
    }
    files
}

impl Version {
    /// The process's group, from a line of `/proc/self/cgroup`: `4:cpu,memory:/path`, in the second version `0::/path`.
    fn own_group<'a>(&self, line: &'a str) -> Option<&'a str> {
        let (_, line) = line.split_once(':')?;
        let (controllers, path) = line.split_once(':')?;
        let is_ours = match self.controller {
            Some(own) => controllers.split(',').any(|controller| controller == own),
            None => controllers.is_empty(),
        };
        is_ours.then_some(path)
    }

    /// Which group is at the top of a mount, and where it is, from a line of `/proc/self/mountinfo`: `31 23 0:28 TOP PLACE
    /// options - FILESYSTEM source options`.
    fn mount<'a>(&self, line: &'a str) -> Option<(&'a str, &'a str)> {
        let (place, kind) = line.split_once(" - ")?;
        let mut kind = kind.split(' ');
        if kind.next()? != self.filesystem {
            return None;
        }
        let has =
            |own| kind.next_back().is_some_and(|options| options.split(',').any(|option| option == own));
        if !self.controller.is_none_or(has) {
            return None;
        }
        let mut fields = place.split(' ').skip(3);
        Some((fields.next()?, fields.next()?))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::{memory_bytes, memory_bytes_below, parse_meminfo, without_own};

    const MIB: u64 = 1024 * 1024;
    const MACHINE: u64 = 4096 * MIB;
    const SECOND: &str = "24 23 0:28 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
    const FIRST: &str = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
                         32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                         35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                         41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

    /// What is found on a machine of 4 GiB whose process is in these groups, with these files.
    fn check(groups: &str, mounts: &str, files: &[(&str, &str)], expected: u64) {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("proc/meminfo", &format!("MemTotal:  {} kB\nMemFree:  100 kB\n", MACHINE / 1024));
        write("proc/self/cgroup", groups);
        write("proc/self/mountinfo", mounts);
        for (path, text) in files {
            write(&format!("sys/fs/cgroup/{path}"), text);
        }
        assert_eq!(memory_bytes_below(root.path()), expected, "{groups:?} {mounts:?} {files:?}");
    }

    #[test]
    fn the_total_is_read_in_kibibytes() {
        let text = "MemTotal:       24635172 kB\nMemFree:        100 kB\n";
        assert_eq!(parse_meminfo(text), Some(24_635_172 * 1024));
        assert_eq!(parse_meminfo("nothing"), None);
        assert!(memory_bytes() > 0);
    }

    #[test]
    fn what_the_process_needs_for_itself_is_left_to_it() {
        for (memory, expected) in [(0, 0), (64, 48), (256, 192), (512, 384), (4096, 3968)] {
            assert_eq!(without_own(memory * MIB), expected * MIB, "{memory}");
        }
    }

    #[test]
    fn the_smallest_limit_of_all_groups_that_the_process_is_in_holds() {
        let service = "0::/system.slice/broker.service\n";
        let own = "system.slice/broker.service/memory.max";
        let slice = "system.slice/memory.max";
        check(service, SECOND, &[(own, "536870912\n")], 512 * MIB);
        check(service, SECOND, &[(own, "536870912\n"), (slice, "268435456\n")], 256 * MIB);
        check(service, SECOND, &[(own, "max\n"), (slice, "1073741824\n")], 1024 * MIB);
        check(service, SECOND, &[(own, "max\n"), ("memory.max", "1073741824\n")], 1024 * MIB);
        check(service, SECOND, &[(own, "9223372036854771712\n"), (slice, "max\n")], MACHINE);
        check(service, SECOND, &[("other.slice/memory.max", "1\n")], MACHINE);
        let high = "system.slice/broker.service/memory.high";
        check(service, SECOND, &[(own, "536870912\n"), (high, "402653184\n")], 384 * MIB);
    }

    #[test]
    fn the_first_version_is_read_where_it_limits_memory() {
        let groups = "5:devices:/elsewhere\n4:cpu,memory:/pods/7\n1:cpuset:/\n0::/init.scope\n";
        let limit = "memory/pods/7/memory.limit_in_bytes";
        check(groups, FIRST, &[(limit, "536870912\n")], 512 * MIB);
        check(groups, FIRST, &[("memory/pods/memory.limit_in_bytes", "536870912\n")], 512 * MIB);
        check(groups, FIRST, &[(limit, "9223372036854771712\n")], MACHINE);
        check("4:memory:/\n0::/\n", FIRST, &[("memory/memory.limit_in_bytes", "536870912\n")], 512 * MIB);
    }

    #[test]
    fn of_a_container_the_top_is_seen() {
        // With a namespace of its own, and with the host's names.
        check("0::/\n", SECOND, &[("memory.max", "536870912\n")], 512 * MIB);
        let mounts = SECOND.replace(" / /sys", " /docker/12 /sys");
        check("0::/docker/12\n", &mounts, &[("memory.max", "536870912\n")], 512 * MIB);
        let inner = [("memory.max", "max\n"), ("inner/memory.max", "536870912\n")];
        check("0::/docker/12/inner\n", &mounts, &inner, 512 * MIB);
        check("0::/../other\n", SECOND, &[("memory.max", "536870912\n")], 512 * MIB);
        check("0::/docker/13\n", &mounts, &[("memory.max", "536870912\n")], 512 * MIB);
    }

    #[test]
    fn where_nothing_is_told_something_is_assumed() {
        check("", "", &[("memory.max", "536870912\n")], MACHINE);
        assert!(memory_bytes_below(Path::new("/nowhere")) > 0);
    }
}
