//! Where RabbitMQ's own configuration is: its files, and the variables of its container image.

use std::fs;
use std::path::{Path, PathBuf};

use crate::config::rabbitmq::EXTENSION;

/// What variables of RabbitMQ are not read, and what is instead.
const UNREAD: [(&str, &str); 7] = [
    ("RABBITMQ_DEFAULT_USER_FILE", "set [[users]] in the file of --config, or SLUICEMQ_USERS"),
    ("RABBITMQ_DEFAULT_PASS_FILE", "set [[users]] in the file of --config, or SLUICEMQ_USERS"),
    ("RABBITMQ_ADVANCED_CONFIG_FILE", "it is Erlang, and what it says must be said otherwise"),
    ("RABBITMQ_CONF_ENV_FILE", "set the variables themselves"),
    ("RABBITMQ_MNESIA_BASE", "set --data-dir, or SLUICEMQ_DATA_DIR"),
    ("RABBITMQ_MNESIA_DIR", "set --data-dir, or SLUICEMQ_DATA_DIR"),
    (
        "RABBITMQ_VM_MEMORY_HIGH_WATERMARK",
        "set watermark below [memory] in the file of --config, or SLUICEMQ_MEMORY_WATERMARK",
    ),
];

/// The variables that name files.
const FILE: &str = "RABBITMQ_CONFIG_FILE";
const FILES: &str = "RABBITMQ_CONFIG_FILES";

/// A sentence for each variable that is set and not read.
pub(super) fn unread() -> impl Iterator<Item = String> {
    let is_set = |(name, _): &(&str, &str)| std::env::var_os(name).is_some();
    UNREAD.into_iter().filter(is_set).map(|(name, ours)| format!("{name} is not read: {ours}"))
}

/// RabbitMQ's variables; those that are no text are not for us, and an empty one says nothing.
pub(super) fn variables() -> impl Iterator<Item = (String, String)> {
    let texts = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    texts.filter(|(name, value)| name.starts_with("RABBITMQ_") && !value.is_empty())
}

/// Whether a file is in RabbitMQ's form.
pub(super) fn is_theirs(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == EXTENSION)
}

/// The files that belong to this one, in the order in which they are read: itself, which may be missing where there are
/// others, and what is in the `conf.d` beside it.
pub(super) fn files_of(path: &Path) -> Vec<PathBuf> {
    let beside = path.parent().map(|dir| files_in(&dir.join("conf.d"), "")).unwrap_or_default();
    let is_read = path.exists() || beside.is_empty();
    is_read.then(|| path.to_owned()).into_iter().chain(beside).collect()
}

/// The files that the environment names.
pub(super) fn files_of_environment() -> Vec<PathBuf> {
    let named = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let mut files = Vec::new();
    if let Some(path) = named(FILE) {
        // It may be written without its ending.
        let path = if path.exists() { path } else { path.with_extension(EXTENSION) };
        files = files_of(&path);
    }
    if let Some(path) = named(FILES) {
        let others = if path.is_dir() { files_in(&path, "") } else { files_like(&path) };
        let is_new = |path: &PathBuf| !files.contains(path);
        let others: Vec<_> = others.into_iter().filter(is_new).collect();
        files.extend(others);
    }
    files
}

/// The file of Erlang terms that lies beside this one, if there is one: nothing here understands it.
pub(super) fn advanced(path: &Path) -> Option<PathBuf> {
    path.parent().map(|dir| dir.join("advanced.config")).filter(|path| path.exists())
}

/// What a pattern such as `/etc/rabbitmq/conf.d/1*.conf` means: the files whose names begin like it.
fn files_like(pattern: &Path) -> Vec<PathBuf> {
    let name = pattern.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    match (pattern.parent(), name.split_once('*')) {
        (Some(dir), Some((start, _))) => files_in(dir, start),
        _ => vec![pattern.to_owned()],
    }
}

/// Those files of a directory that are in RabbitMQ's form and whose names begin so, in the order of their names.
fn files_in(dir: &Path, start: &str) -> Vec<PathBuf> {
    // One that is not there has none.
    let found = fs::read_dir(dir).into_iter().flatten().flatten();
    let is_meant = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        is_theirs(path) && name.is_some_and(|name| name.starts_with(start))
    };
    let mut files: Vec<_> = found.map(|entry| entry.path()).filter(is_meant).collect();
    files.sort();
    files
}
