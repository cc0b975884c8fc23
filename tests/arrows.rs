//! The structure, held by a test: which room may import which, what only one room may name, how large a file is.

use std::fs;
use std::path::{Path, PathBuf};

/// The rooms from the ground up. A room may import from lines before its own, and from nothing else.
const LAYERS: [&[&str]; 11] = [
    &["clock", "config", "stats"],
    &["protocol"],
    &["message", "routing"],
    &["queue", "auth", "storage"],
    &["broker"],
    &["session"],
    &["transfer"],
    &["tls"],
    &["net", "mgmt", "bench"],
    &["cli"],
    &["main"],
];

/// No file is longer, its tests apart.
const FILE_LINES_MAX: usize = 600;

/// What only some rooms may name.
const RESERVED: [(&str, &[&str]); 3] = [
    ("tokio", &["tls", "net", "mgmt", "bench", "cli", "main"]),
    ("Instant::now()", &["clock", "net", "bench"]),
    ("SystemTime::now()", &["clock", "bench"]),
];

struct Source {
    path: PathBuf,
    room: String,
    /// Without comments, and without the tests at its end.
    code: Vec<String>,
    lines: usize,
}

#[test]
fn imports_point_down() {
    let mut wrong = Vec::new();
    for source in sources() {
        let own = layer(&source.room).unwrap_or_else(|| panic!("{} is in no layer", source.path.display()));
        for line in &source.code {
            for room in imported_rooms(line).filter(|room| *room != source.room) {
                match layer(&room) {
                    Some(other) if other < own => {}
                    Some(_) => wrong.push(format!("{}: {}", source.path.display(), line.trim())),
                    None => {}
                }
            }
        }
    }
    assert!(wrong.is_empty(), "imports that point up or sideways:\n{}", wrong.join("\n"));
}

#[test]
fn what_is_reserved_is_named_by_its_rooms_only() {
    let mut wrong = Vec::new();
    for source in sources() {
        for (name, rooms) in RESERVED {
            if rooms.contains(&source.room.as_str()) {
                continue;
            }
            let named = source.code.iter().filter(|line| line.contains(name));
            wrong.extend(named.map(|line| format!("{}: {}", source.path.display(), line.trim())));
        }
    }
    assert!(wrong.is_empty(), "named outside their rooms:\n{}", wrong.join("\n"));
}

#[test]
fn files_stay_small() {
    let large: Vec<_> = (sources().into_iter())
        .filter(|source| source.lines > FILE_LINES_MAX)
        .map(|source| format!("{}: {} lines", source.path.display(), source.lines))
        .collect();
    assert!(large.is_empty(), "files that want to be two rooms:\n{}", large.join("\n"));
}

#[test]
fn the_reader_of_imports_reads_them() {
    let rooms = |line| imported_rooms(line).collect::<Vec<_>>();
    assert_eq!(rooms("use crate::protocol::frame;"), ["protocol"]);
    assert_eq!(rooms("    let x: crate::queue::classic::Classic<crate::broker::X>;"), ["queue", "broker"]);
    assert_eq!(rooms("use super::frame;"), Vec::<String>::new());
}

fn layer(room: &str) -> Option<usize> {
    LAYERS.iter().position(|rooms| rooms.contains(&room))
}

fn imported_rooms(line: &str) -> impl Iterator<Item = String> {
    let mut paths: Vec<&str> = line.split("crate::").skip(1).collect();
    paths.extend(line.split("sluicemq::").skip(1));
    let names = paths
        .into_iter()
        .map(|path| path.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>());
    names.collect::<Vec<_>>().into_iter()
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("the sources are there") {
            let path = entry.expect("a readable folder").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.extend(read(&root, &path));
            }
        }
    }
    assert!(found.len() > 20, "the sources were not found");
    found
}

fn read(root: &Path, path: &Path) -> Option<Source> {
    let relative = path.strip_prefix(root).expect("found below the root");
    let first = relative.components().next()?.as_os_str().to_str()?;
    let room = first.trim_end_matches(".rs").to_owned();
    // lib.rs names every room: that is what it is for.
    if room == "lib" {
        return None;
    }
    let text = fs::read_to_string(path).expect("a readable file");
    let is_test_file = relative.file_name().is_some_and(|name| name == "tests.rs");
    let production = if is_test_file { "" } else { text.split("#[cfg(test)]\nmod tests {").next()? };
    let code = production.lines().filter(|line| !line.trim_start().starts_with("//")).map(str::to_owned);
    Some(Source { path: relative.to_owned(), room, code: code.collect(), lines: production.lines().count() })
}
