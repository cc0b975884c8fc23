//! What a wrong configuration is told: where, which key, and what was expected. Never a secret's content.

use std::fmt;
use std::ops::Range;

use thiserror::Error;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::nearest::nearest;

/// Where a setting came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// This line of the configuration file, counted from 1.
    Line(usize),
    /// This variable of the environment.
    Variable(String),
    /// The settings taken together, or a flag.
    Whole,
}

/// Why a configuration is refused, in one sentence.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub struct ConfigError {
    /// Where the mistake is.
    pub origin: Origin,
    /// The key at fault, dotted; empty where the text is no TOML at all.
    pub key: String,
    /// What is wrong and what was expected.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Origin::Line(line) => write!(f, "line {line}: ")?,
            Origin::Variable(name) => write!(f, "environment variable {name}: ")?,
            Origin::Whole => {}
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

impl ConfigError {
    /// An error of the settings as they are, wherever each came from.
    pub(crate) fn of_key(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self { origin: Origin::Whole, key: key.into(), message: message.into() }
    }

    /// Says which variable the setting came from.
    pub(crate) fn in_variable(self, name: &str) -> Self {
        Self { origin: Origin::Variable(name.to_owned()), ..self }
    }

    /// Says which line of the file the key is on, when the file has it.
    pub(crate) fn in_file(self, text: &str) -> Self {
        let Ok(root) = DeTable::parse(text) else { return self };
        let mut line = None;
        walk(&DeValue::Table(root.into_inner()), "", &mut |key, span| {
            if key == self.key {
                line = Some(line_of(text, span.start));
            }
        });
        Self { origin: line.map_or(Origin::Whole, Origin::Line), ..self }
    }

    /// An error of the parser or of serde, with the line and the key it belongs to.
    pub(crate) fn of_toml(text: &str, error: &toml::de::Error) -> Self {
        let place = error.span().unwrap_or(0..0);
        let mut key = String::new();
        if let Ok(root) = DeTable::parse(text) {
            walk(&DeValue::Table(root.into_inner()), "", &mut |name, span| {
                if span.contains(&place.start) {
                    name.clone_into(&mut key);
                }
            });
        }
        let message = message_without_secrets(&key, error.message());
        Self { origin: Origin::Line(line_of(text, place.start)), key, message }
    }
}

/// Calls `visit` with each key of the document, dotted, and the span of what belongs to it, parents first.
fn walk(value: &DeValue<'_>, path: &str, visit: &mut dyn FnMut(&str, Range<usize>)) {
    match value {
        DeValue::Table(table) => {
            for (key, inner) in table {
                let name = key.get_ref();
                let path = if path.is_empty() { name.to_string() } else { format!("{path}.{name}") };
                visit(&path, key.span());
                step(inner, &path, visit);
            }
        }
        DeValue::Array(array) => {
            for (place, inner) in array.iter().enumerate() {
                step(inner, &format!("{path}[{place}]"), visit);
            }
        }
        _ => {}
    }
}

fn step(value: &Spanned<DeValue<'_>>, path: &str, visit: &mut dyn FnMut(&str, Range<usize>)) {
    visit(path, value.span());
    walk(value.get_ref(), path, visit);
}

fn line_of(text: &str, place: usize) -> usize {
    1 + text.bytes().take(place).filter(|&byte| byte == b'\n').count()
}

/// serde quotes the value it did not expect. Below `users` that may be a password, so only the rest is kept.
fn message_without_secrets(key: &str, message: &str) -> String {
    let message = message.replace("unknown field", "unknown key").replace("missing field", "missing key");
    let quotes = message.starts_with("invalid ") && key.starts_with("users");
    match message.rsplit_once(", expected ") {
        Some((unknown, expected)) if unknown.starts_with("unknown key ") => unknown_key(unknown, expected),
        Some((_, expected)) if quotes => format!("expected {expected}"),
        _ => message.trim_end().replace('\n', "; "),
    }
}

/// serde lists every key there is; one that was probably meant says more.
fn unknown_key(unknown: &str, expected: &str) -> String {
    let quoted = |text: &str| text.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let name = quoted(unknown).pop().unwrap_or_default();
    match nearest(&name, quoted(expected).into_iter()) {
        Some(known) => format!("{unknown}: the nearest is `{known}`"),
        None => format!("{unknown}, expected {expected}"),
    }
}
