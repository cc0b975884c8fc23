//! Dead letters back to where they died, or messages to another place: what somebody asks for once.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::protocol::field::Field;
use crate::protocol::properties::Properties;
use crate::protocol::table::{Table, TableBuf};
use crate::transfer::message;

/// A transfer that was not at work catches up with no more than this.
const CATCHES_UP: Duration = Duration::from_millis(100);

/// Which messages are taken.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// Only those of which this is true.
    pub filter: Filter,
    /// No more are taken.
    pub limit: Option<u64>,
    /// So many are taken in a second.
    pub rate: Option<f64>,
    /// None is taken: it is only told what would be.
    pub is_dry: bool,
}

/// What must be equal, where something is said.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// The exchange that the message came by.
    pub exchange: Option<String>,
    /// The key it has.
    pub routing_key: Option<String>,
    /// Why it died last.
    pub reason: Option<String>,
    /// Where it died last.
    pub queue: Option<String>,
    /// Headers, all of them.
    pub headers: TableBuf,
}

/// A message as it lies in the queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen<'a> {
    pub(super) exchange: &'a [u8],
    pub(super) key: &'a [u8],
    pub(super) properties: &'a [u8],
}

impl Seen<'_> {
    fn headers(&self) -> Table<'_> {
        Properties::unchecked(self.properties).headers().unwrap_or(Table::EMPTY)
    }

    /// The queue in which it died last before it came to `here`.
    pub(super) fn origin(&self, here: &str) -> Option<Vec<u8>> {
        Some(message::last_death(self.headers(), here)?.0.to_vec())
    }
}

impl Filter {
    /// Whether a message of the queue `here` is meant.
    pub(super) fn matches(&self, seen: &Seen<'_>, here: &str) -> bool {
        let headers = seen.headers();
        let death = message::last_death(headers, here);
        let is = |wanted: &Option<String>, found: Option<&[u8]>| {
            wanted.as_ref().is_none_or(|wanted| found == Some(wanted.as_bytes()))
        };
        is(&self.exchange, Some(seen.exchange))
            && is(&self.routing_key, Some(seen.key))
            && is(&self.queue, death.map(|(queue, _)| queue))
            && is(&self.reason, death.map(|(_, reason)| reason))
            && self.headers.as_table().iter().all(|(name, wanted)| has(headers, name, wanted))
    }
}

fn has(headers: Table<'_>, name: &[u8], wanted: Field<'_>) -> bool {
    headers.iter().find(|(own, _)| *own == name).is_some_and(|(_, found)| found.equivalent(&wanted))
}

/// When the next one may go.
#[derive(Debug)]
pub(super) struct Rate {
    interval: Duration,
    next: Instant,
}

impl Rate {
    /// So many in a second.
    pub(super) fn new(per_second: f64, now: Instant) -> Self {
        let interval = Duration::try_from_secs_f64(1.0 / per_second).unwrap_or(Duration::MAX);
        Self { interval, next: now }
    }

    /// Until when the next one must wait.
    pub(super) fn wait(&self, now: Instant) -> Option<Instant> {
        Some(self.next).filter(|next| *next > now)
    }

    /// One goes.
    pub(super) fn take(&mut self, now: Instant) {
        let from = self.next.max(now.checked_sub(CATCHES_UP).unwrap_or(now));
        self.next = from.checked_add(self.interval).unwrap_or(from);
    }
}

/// So many destinations are told apart.
const DESTINATIONS_MAX: usize = 100;
/// What the others are called together.
const OTHERS: &str = "(others)";

/// How many messages go to each destination.
#[derive(Clone, Debug, Default)]
pub struct Destinations(BTreeMap<String, u64>);

impl Destinations {
    /// One more goes there.
    pub(super) fn count(&mut self, exchange: &[u8], key: &[u8]) {
        let text = String::from_utf8_lossy;
        let name = match exchange.is_empty() {
            true => format!("queue {}", text(key)),
            false => format!("exchange {} with key {}", text(exchange), text(key)),
        };
        let is_full = self.0.len() >= DESTINATIONS_MAX && !self.0.contains_key(&name);
        *self.0.entry(if is_full { OTHERS.to_owned() } else { name }).or_default() += 1;
    }

    /// Each, in order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(name, count)| (name.as_str(), *count))
    }
}
