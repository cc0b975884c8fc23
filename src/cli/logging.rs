//! Starts the log: to stderr, as lines for people or as objects for machines. Its level can be changed while it runs.

use std::io::{self, IsTerminal};
use std::sync::OnceLock;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::Registry;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt;

use crate::broker::audit;
use crate::config::{Log, LogFormat, LogLevel};

/// What lets the level be changed.
static LEVEL: OnceLock<Handle<Targets, Registry>> = OnceLock::new();

/// Starts the process's log. Called once, before anything is logged.
pub(super) fn start(log: &Log) {
    let (level, handle) = reload::Layer::new(filter(log.level));
    // It is started once.
    let _ = LEVEL.set(handle);
    let lines = fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    match log.format {
        LogFormat::Text => tracing_subscriber::registry().with(level).with(lines).init(),
        LogFormat::Json => {
            // Where a line was written is one of its fields, and no list beside it.
            let lines = lines.json().flatten_event(true).with_span_list(false);
            tracing_subscriber::registry().with(level).with(lines).init();
        }
    }
}

/// Changes the least important level that is logged.
pub(super) fn set_level(level: LogLevel) {
    if let Some(handle) = LEVEL.get() {
        tracing::info!(%level, "what is logged has changed");
        // There is nobody to be told when the log itself is gone.
        let _ = handle.reload(filter(level));
    }
}

/// What is logged at a level. Who did what is told at any: whoever turns the log down is named, too.
fn filter(level: LogLevel) -> Targets {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    Targets::new().with_default(level).with_target(audit::TARGET, level.max(LevelFilter::INFO))
}
