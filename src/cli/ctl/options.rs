//! Options as RabbitMQ's tools take them: before or behind the verb, and those that are for all verbs.

use std::collections::HashMap;
use std::time::Duration;

use crate::cli::ctl::failure::Failure;

/// An option.
#[derive(Debug)]
pub(super) struct Opt {
    pub(super) name: &'static str,
    pub(super) short: Option<char>,
    pub(super) takes: Takes,
}

/// What stands behind an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Takes {
    Nothing,
    Text,
    Number,
}

pub(super) const fn flag(name: &'static str, short: Option<char>) -> Opt {
    Opt { name, short, takes: Takes::Nothing }
}

pub(super) const fn text(name: &'static str, short: Option<char>) -> Opt {
    Opt { name, short, takes: Takes::Text }
}

pub(super) const fn number(name: &'static str, short: Option<char>) -> Opt {
    Opt { name, short, takes: Takes::Number }
}

/// What all verbs take: RabbitMQ's, of which some have nothing to say here, and where the broker is.
pub(super) const COMMON: &[Opt] = &[
    text("node", Some('n')),
    flag("longnames", Some('l')),
    number("timeout", Some('t')),
    flag("quiet", Some('q')),
    flag("silent", Some('s')),
    text("vhost", Some('p')),
    text("formatter", None),
    text("printer", None),
    text("erlang-cookie", None),
    flag("no-table-headers", None),
    flag("dry-run", None),
    flag("help", Some('?')),
    text("url", None),
    text("user", None),
    text("password-file", None),
    text("socket", None),
    text("data-dir", None),
    text("config", None),
];

/// Nobody waits for longer, and no clock runs out before.
const TIMEOUT_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// A command line, taken apart.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// What is no option: the verb comes first.
    pub(super) words: Vec<String>,
    given: HashMap<&'static str, String>,
    /// What no verb knows, or what has no value that it could have: as RabbitMQ shows it.
    wrong: Vec<String>,
}

impl Line {
    /// Takes a command line apart, where some verb has these options.
    pub(super) fn parse(words: &[String], options: &(impl Iterator<Item = &'static Opt> + Clone)) -> Self {
        let (mut line, mut words) = (Self::default(), words.iter());
        while let Some(word) = words.next() {
            if word == "--" {
                line.words.extend(words.by_ref().cloned());
            } else if !is_option(word) {
                line.words.push(word.clone());
            } else {
                line.option(word, &mut words, options.clone());
            }
        }
        line
    }

    fn option(
        &mut self,
        word: &str,
        rest: &mut std::slice::Iter<'_, String>,
        mut options: impl Iterator<Item = &'static Opt>,
    ) {
        let (name, inline) = match word.split_once('=') {
            Some((name, value)) if word.starts_with("--") => (name, Some(value.to_owned())),
            _ => (word, None),
        };
        let found = options.find(|option| match name.strip_prefix("--") {
            Some(long) => option.name == long.replace('_', "-"),
            None => name.strip_prefix('-').is_some_and(|own| own.chars().eq(option.short)),
        });
        let Some(option) = found else {
            return self.wrong.push(format!("{name} : {}", inline.unwrap_or_default()));
        };
        let value = match option.takes {
            Takes::Nothing => inline.or(Some("true".to_owned())),
            Takes::Text | Takes::Number => inline.or_else(|| rest.next().cloned()),
        };
        match value {
            Some(value) if option.takes != Takes::Number || value.parse::<f64>().is_ok() => {
                self.given.insert(option.name, value);
            }
            other => self.wrong.push(format!("{name} : {}", other.unwrap_or_default())),
        }
    }

    /// Checks that all options are this verb's, or everybody's.
    ///
    /// # Errors
    /// Those that are not.
    pub(super) fn check(&self, own: &[Opt]) -> Result<(), Failure> {
        let mut wrong = self.wrong.clone();
        let is_known = |name: &str| own.iter().chain(COMMON).any(|option| option.name == name);
        wrong.extend(self.given.keys().filter(|name| !is_known(name)).map(|name| format!("--{name} : ")));
        match wrong.is_empty() {
            true => Ok(()),
            false => Err(Failure::usage(format!("Invalid options for this command:\n{}", wrong.join("\n")))),
        }
    }

    /// The value of an option, if it is given.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.given.get(name).map(String::as_str)
    }

    /// How long something may take, if that is said.
    pub(super) fn timeout(&self) -> Option<Duration> {
        let seconds = self.get("timeout")?.parse().ok()?;
        Duration::try_from_secs_f64(seconds).ok().map(|timeout| timeout.min(TIMEOUT_MAX))
    }

    /// Whether an option is given.
    pub(super) fn has(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }
}

/// A dash alone is standard input or output, and a number may be negative.
fn is_option(word: &str) -> bool {
    word.len() > 1 && word.starts_with('-') && word.parse::<f64>().is_err()
}
