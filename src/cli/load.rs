//! Puts the configuration together: defaults, file, RabbitMQ's own, environment, flags, each above the one before.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::cli::args::Settings;
use crate::cli::rabbitmq;
use crate::config::rabbitmq::Rabbitmq;
use crate::config::{Config, Service};

/// A configuration file is a page or two; more than this is some other file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Readable by group or others.
const READABLE_BY_OTHERS: u32 = 0o044;

/// A configuration that holds together, and what is allowed but should be known.
pub(super) struct Loaded {
    pub(super) config: Config,
    pub(super) warnings: Vec<String>,
}

/// Reads the files and the environment, and sets what flags say. The error is one sentence for the person.
pub(super) fn load(settings: &Settings) -> Result<Loaded, String> {
    let mut warnings = Vec::new();
    let mut config = match &settings.config {
        Some(path) if !rabbitmq::is_theirs(path) => {
            let text = read(path, &mut warnings)?;
            Config::from_toml(&text).map_err(|error| format!("{}: {error}", path.display()))?
        }
        _ => Config::default(),
    };
    lay_rabbitmqs(settings.config.as_deref(), &mut config, &mut warnings)?;
    config.file = settings.config.as_ref().and_then(|path| std::path::absolute(path).ok());
    let of_services = config.overlay(variables()?).map_err(|error| error.to_string())?;
    warnings.extend(
        of_services
            .into_iter()
            .map(|name| format!("environment variable {name} means nothing and is ignored")),
    );
    warnings.extend(rabbitmq::unread());
    if !settings.listen.is_empty() {
        config.listeners.clone_from(&settings.listen);
    }
    config.mgmt = settings.mgmt.clone().unwrap_or(config.mgmt);
    config.prometheus = settings.prometheus.clone().unwrap_or(config.prometheus);
    config.socket = settings.socket.clone().unwrap_or(config.socket);
    config.data_dir = settings.data_dir.clone().or(config.data_dir).or_else(default_data_dir);
    config.validate().map_err(|error| error.to_string())?;
    warnings.extend(config.storage.warning());
    for listener in config.listeners.iter().filter(|listener| !listener.is_loopback()) {
        let advice = "set tls.certificate, tls.key and tls.listeners, and listen here on 127.0.0.1 only";
        warnings
            .push(format!("listening on {listener} without TLS: passwords travel as clear text: {advice}"));
    }
    if let Service::At(endpoint) = &config.mgmt
        && !endpoint.is_loopback()
    {
        warnings
            .push(format!("the management API on {endpoint} is without TLS: passwords travel as clear text"));
    }
    let keys = config.tls.names.iter().map(|named| &named.key);
    for key in keys.chain(&config.tls.key).chain(&config.tls.mgmt_key) {
        let mode = std::fs::metadata(key).map_or(0, |found| found.permissions().mode());
        if mode & READABLE_BY_OTHERS != 0 {
            let key = key.display();
            warnings.push(format!("{key} is a key and others can read it: chmod 600 {key}"));
        }
    }
    Ok(Loaded { config, warnings })
}

/// Lays RabbitMQ's files and variables over a configuration. Those of the environment are read where no file was named.
fn lay_rabbitmqs(
    named: Option<&Path>,
    config: &mut Config,
    warnings: &mut Vec<String>,
) -> Result<(), String> {
    let files = match named {
        Some(path) if rabbitmq::is_theirs(path) => rabbitmq::files_of(path),
        Some(_) => Vec::new(),
        None => rabbitmq::files_of_environment(),
    };
    let mut theirs = Rabbitmq::default();
    for path in &files {
        let text = read(path, warnings)?;
        let variable = |name: &str| std::env::var(name).ok();
        theirs.read(config, &text, variable).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    theirs.read_variables(config, rabbitmq::variables()).map_err(|error| error.to_string())?;
    let unread = theirs.finish(config).map_err(|error| error.to_string())?;
    if !unread.is_empty() {
        let keys: Vec<_> = unread.into_iter().collect();
        warnings.push(format!(
            "these settings of RabbitMQ mean nothing here and are ignored: {}",
            keys.join(", ")
        ));
    }
    if let Some(advanced) = files.first().and_then(|path| rabbitmq::advanced(path)) {
        warnings.push(format!("{} is not read: what it says must be said otherwise", advanced.display()));
    }
    Ok(())
}

/// Where a user's programs keep what they must not lose, by the XDG Base Directory Specification.
fn default_data_dir() -> Option<PathBuf> {
    let path = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = path("XDG_STATE_HOME").or_else(|| path("HOME").map(|home| home.join(".local/state")));
    state.map(|state| state.join("sluicemq"))
}

/// The text of a configuration file; a warning, if it holds passwords that others can read.
fn read(path: &Path, warnings: &mut Vec<String>) -> Result<String, String> {
    let refused = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
    let file = File::open(path).map_err(refused)?;
    let mode = file.metadata().map_err(refused)?.permissions().mode();
    let mut text = String::new();
    let bytes = file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(refused)?;
    if u64::try_from(bytes).is_ok_and(|bytes| bytes > FILE_BYTES_MAX) {
        return Err(format!(
            "{} is no configuration file: it is over {FILE_BYTES_MAX} bytes",
            path.display()
        ));
    }
    if mode & READABLE_BY_OTHERS != 0 && (text.contains("password") || text.contains("default_pass")) {
        let path = path.display();
        warnings.push(format!("{path} holds passwords and others can read it: chmod 600 {path}"));
    }
    Ok(text)
}

/// Our variables. Others may hold any bytes; ours must be text.
fn variables() -> Result<Vec<(String, String)>, String> {
    let mut found = Vec::new();
    for (name, value) in std::env::vars_os() {
        let Some(name) = name.to_str().filter(|name| name.starts_with(crate::config::environment::PREFIX))
        else {
            continue;
        };
        let value =
            value.into_string().map_err(|_| format!("environment variable {name}: is no UTF-8 text"))?;
        found.push((name.to_owned(), value));
    }
    Ok(found)
}
