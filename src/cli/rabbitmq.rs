//! Where RabbitMQ's own configuration is: its files, and the variables of its container image.

use std::fs;
use std::path::{Path, PathBuf};

use crate::config::rabbitmq::EXTENSION;

/// What variables of RabbitMQ are not read, and what is instead.
const UNREAD: [(&str, &str); 5] = [
    ("RABBITMQ_DEFAULT_USER_FILE", "set [[users]] in the file of --config, or SLUICEMQ_USERS"),
    ("RABBITMQ_DEFAULT_PASS_FILE", "set [[users]] in the file of --config, or SLUICEMQ_USERS"),
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

/// RabbitMQ's variables; those that are no text are not for us.
pub(super) fn variables() -> impl Iterator<Item = (String, String)> {
    let texts = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    texts.filter(|(name, _)| name.starts_with("RABBITMQ_"))
}

/// Whether a file is in RabbitMQ's form.
pub(super) fn is_theirs(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == EXTENSION)
}

/// The files that belong to this one, in the order in which they are read: itself, and what is in the `conf.d` beside it.
pub(super) fn files_of(path: &Path) -> Vec<PathBuf> {
    let mut files = vec![path.to_owned()];
    files.extend(path.parent().map(|dir| dir.join("conf.d")).into_iter().flat_map(|dir| files_in(&dir)));
    files
}

/// The files that the environment names.
pub(super) fn files_of_environment() -> Vec<PathBuf> {
    let named = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let mut files = Vec::new();
    if let Some(path) = named(FILE) {
        // It may be written without its ending.
        files.push(if path.exists() { path } else { path.with_added_extension(EXTENSION) });
    }
    if let Some(path) = named(FILES) {
        // A directory, or a pattern of the files in it.
        let dir = if path.is_dir() { Some(&*path) } else { path.parent() };
        files.extend(dir.into_iter().flat_map(files_in));
    }
    files
}

/// The file of Erlang terms that lies beside this one, if there is one: nothing here understands it.
pub(super) fn advanced(path: &Path) -> Option<PathBuf> {
    path.parent().map(|dir| dir.join("advanced.config")).filter(|path| path.exists())
}

/// Those files of a directory that are in RabbitMQ's form, in the order of their names.
fn files_in(dir: &Path) -> Vec<PathBuf> {
    // One that is not there has none.
    let found = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut files: Vec<_> = found.map(|entry| entry.path()).filter(|path| is_theirs(path)).collect();
    files.sort();
    files
}
