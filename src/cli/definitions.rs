//! The files of definitions that a start adds to what is there.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::broker::audit::TARGET;
use crate::cli::Failure;
use crate::config::Config;
use crate::mgmt::server::Server;

/// As much as the management API takes at once, in bytes.
const FILE_BYTES_MAX: u64 = 20 << 20;

/// Definitions, and the file that they are from.
#[derive(Debug)]
pub(super) struct Definitions(Vec<(PathBuf, Map<String, Value>)>);

/// Reads what the configuration names: a file, or a directory of files whose names end in `.json`, in their order. Where it
/// brings users the configuration's own are not made.
///
/// # Errors
/// A file that cannot be read, or is no JSON object.
pub(super) fn read(config: &mut Config) -> Result<Definitions, Failure> {
    let Some(named) = &config.definitions else { return Ok(Definitions(Vec::new())) };
    let paths = if named.is_dir() { files_in(named)? } else { vec![named.clone()] };
    let read = paths.into_iter().map(|path| read_file(&path).map(|object| (path, object)));
    let read = Definitions(read.collect::<Result<_, _>>()?);
    let brings_users = |(_, object): &(PathBuf, Map<String, Value>)| {
        object.get("users").and_then(Value::as_array).is_some_and(|users| !users.is_empty())
    };
    if read.0.iter().any(brings_users) {
        config.users.clear();
    }
    Ok(read)
}

impl Definitions {
    /// Adds them to what is there.
    ///
    /// # Errors
    /// The first that cannot be, and why; what came before it stays.
    pub(super) fn add(&self, server: &Server) -> Result<(), Failure> {
        for (path, object) in &self.0 {
            let refused = |why| anyhow::Error::msg(format!("the definitions in {}: {why}", path.display()));
            server.import(object).map_err(refused)?;
            tracing::info!(target: TARGET, file = %path.display(), "definitions added");
        }
        Ok(())
    }
}

fn files_in(dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    let found = fs::read_dir(dir).map_err(|error| refused(dir, &error))?;
    let mut files: Vec<_> = found.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    Ok(files)
}

fn read_file(path: &Path) -> Result<Map<String, Value>, Failure> {
    let file = fs::File::open(path).map_err(|error| refused(path, &error))?;
    let mut text = Vec::new();
    let bytes =
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut text).map_err(|error| refused(path, &error))?;
    if bytes as u64 > FILE_BYTES_MAX {
        return Err(refused(path, &format!("it is over {FILE_BYTES_MAX} bytes")));
    }
    serde_json::from_slice(&text).map_err(|error| refused(path, &error))
}

fn refused(path: &Path, why: &dyn std::fmt::Display) -> Failure {
    Failure::Usage(format!("cannot read the definitions in {}: {why}", path.display()))
}
