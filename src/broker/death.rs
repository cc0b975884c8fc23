//! What a message looks like when it is dead-lettered: where it died, why and how often, in the headers that RabbitMQ
//! writes.
//!
//! ```text
//! x-death: [newest, ..., oldest]   one entry for each queue and reason, with a count
//! x-first-death-{queue,reason,exchange}   as of the first one
//! x-last-death-{queue,reason,exchange}    as of the last one
//! ```
//!
//! Its `expiration` goes into its entry, so that it does not expire again at once.

use crate::broker::copies::{self, BCC, CC};
use crate::message::block_header::Marks;
use crate::message::names::Names;
use crate::protocol::field::Field;
use crate::protocol::properties::{Properties, PropertiesBuf, Property};
use crate::protocol::table::{Array, ArrayBuf, Table, TableBuf};
use crate::queue::dying::Reason;
use crate::queue::settings::DeadLetterTo;
use crate::routing::delayed::{self, DELAY_HEADER};

/// The header with the entries.
const DEATHS: &str = "x-death";
/// The headers that tell of the first and of the last one, before the name of what they tell.
const FIRST: &str = "x-first-death-";
const LAST: &str = "x-last-death-";

/// How a message died.
#[derive(Clone, Copy, Debug)]
pub(super) struct Death<'a> {
    /// In which queue.
    pub(super) queue: &'a str,
    /// Why.
    pub(super) reason: Reason,
    /// When, in seconds since 1970.
    pub(super) time_s: u64,
    /// Where it is to go.
    pub(super) to: &'a DeadLetterTo,
}

impl Death<'_> {
    /// The message's properties from now on.
    pub(super) fn properties(&self, names: Names<'_>, properties: &[u8]) -> PropertiesBuf {
        let before = Properties::unchecked(properties);
        let headers = before.headers().unwrap_or(Table::EMPTY);
        let deaths = self.deaths(names, headers, before.expiration());
        let mut after = TableBuf::new();
        // What a publisher says of deaths that were not is written over.
        let is_first = headers.get(DEATHS).is_none();
        let is_own = |key: &[u8]| {
            key == DEATHS.as_bytes()
                || key.starts_with(LAST.as_bytes())
                || (is_first && key.starts_with(FIRST.as_bytes()))
        };
        let loses_keys =
            |key: &[u8]| self.to.routing_key.is_some() && (key == CC.as_bytes() || key == BCC.as_bytes());
        for (key, value) in headers.iter().filter(|(key, _)| !is_own(key) && !loses_keys(key)) {
            after.insert_bytes(key, value);
        }
        after.insert(DEATHS, Field::Array(deaths.as_array()));
        if is_first {
            self.summary(&mut after, FIRST, names);
        }
        self.summary(&mut after, LAST, names);
        let mut changed = PropertiesBuf::from(before);
        changed.remove(Property::Expiration).headers(after.as_table());
        changed
    }

    fn summary(&self, headers: &mut TableBuf, which: &str, names: Names<'_>) {
        let told = [
            ("queue", self.queue.as_bytes()),
            ("reason", self.reason.name().as_bytes()),
            ("exchange", names.exchange()),
        ];
        for (what, value) in told {
            let name = format!("{which}{what}");
            if headers.as_table().get(&name).is_none() {
                headers.insert(&name, Field::LongStr(value));
            }
        }
    }

    /// The entries, this one first: with a count more when it is there already.
    fn deaths(&self, names: Names<'_>, headers: Table<'_>, expiration: Option<&[u8]>) -> ArrayBuf {
        let before = entries(headers);
        let is_same = |entry: &Table<'_>| {
            text(*entry, "queue") == Some(self.queue.as_bytes())
                && text(*entry, "reason") == Some(self.reason.name().as_bytes())
        };
        let (same, others): (Vec<_>, Vec<_>) = before.partition(is_same);
        let mut deaths = ArrayBuf::new();
        let own = match same.first() {
            Some(known) => counted(*known),
            None => self.entry(names, headers, expiration),
        };
        deaths.push(Field::Table(own.as_table()));
        for other in others {
            deaths.push(Field::Table(other));
        }
        deaths
    }

    fn entry(&self, names: Names<'_>, headers: Table<'_>, expiration: Option<&[u8]>) -> TableBuf {
        let mut keys = ArrayBuf::new();
        keys.push(Field::LongStr(names.routing_key()));
        for key in copies::shown_keys(headers) {
            keys.push(Field::LongStr(key));
        }
        let mut entry = TableBuf::new();
        entry
            .insert("count", Field::I64(1))
            .insert("reason", Field::LongStr(self.reason.name().as_bytes()))
            .insert("queue", Field::LongStr(self.queue.as_bytes()))
            .insert("time", Field::Timestamp(self.time_s))
            .insert("exchange", Field::LongStr(names.exchange()))
            .insert("routing-keys", Field::Array(keys.as_array()));
        if let Some(expiration) = expiration {
            entry.insert("original-expiration", Field::LongStr(expiration));
        }
        entry
    }

    /// The keys it is published with.
    pub(super) fn keys<'k>(&'k self, names: Names<'k>, headers: Table<'k>) -> Vec<&'k [u8]> {
        match &self.to.routing_key {
            Some(key) => vec![key],
            None => std::iter::once(names.routing_key()).chain(copies::keys(headers)).collect(),
        }
    }

    /// The marks of a message that had these.
    pub(super) fn marks(&self, before: Marks) -> Marks {
        Marks { expires: false, blind: before.blind && self.to.routing_key.is_none(), ..before }
    }
}

/// Whether a message with these headers has been in this queue before, and has come back there without anybody having
/// rejected it on the way: it would go round for ever.
pub(super) fn is_in_cycle(headers: Table<'_>, reason: Reason, queue: &str) -> bool {
    if reason == Reason::Rejected {
        return false;
    }
    for entry in entries(headers) {
        if text(entry, "reason") == Some(Reason::Rejected.name().as_bytes()) {
            return false;
        }
        if text(entry, "queue") == Some(queue.as_bytes()) {
            return true;
        }
    }
    false
}

/// The entry with a count more: its time stays that of the first one.
fn counted(entry: Table<'_>) -> TableBuf {
    let mut counted = TableBuf::new();
    let count = entry.get("count").and_then(|count| count.as_int()).unwrap_or(0);
    if entry.get("count").is_none() {
        counted.insert("count", Field::I64(1));
    }
    for (key, value) in entry.iter() {
        let value = if key == b"count" { Field::I64(count.saturating_add(1)) } else { value };
        counted.insert_bytes(key, value);
    }
    counted
}

fn entries(headers: Table<'_>) -> impl Iterator<Item = Table<'_>> {
    let deaths = match headers.get(DEATHS) {
        Some(Field::Array(deaths)) => deaths,
        _ => Array::unchecked(&[]),
    };
    deaths.iter().filter_map(|entry| match entry {
        Field::Table(entry) => Some(entry),
        _ => None,
    })
}

/// The properties of a message whose delay is over: its header says so by its sign, so that no exchange delays it again.
pub(super) fn without_delay(properties: &[u8]) -> PropertiesBuf {
    let before = Properties::unchecked(properties);
    let mut headers = TableBuf::new();
    for (key, value) in before.headers().unwrap_or(Table::EMPTY).iter() {
        let is_delay = key == DELAY_HEADER.as_bytes();
        let over = delayed::delay_ms(before).filter(|_| is_delay).map(|ms| Field::I64(-(ms as i64)));
        headers.insert_bytes(key, over.unwrap_or(value));
    }
    let mut after = PropertiesBuf::from(before);
    after.headers(headers.as_table());
    after
}

fn text<'a>(entry: Table<'a>, key: &str) -> Option<&'a [u8]> {
    match entry.get(key) {
        Some(Field::LongStr(text)) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{Death, is_in_cycle, text};
    use crate::message::block_header::Marks;
    use crate::message::names::NamesBuf;
    use crate::protocol::field::Field;
    use crate::protocol::properties::{Properties, PropertiesBuf};
    use crate::protocol::table::{Table, TableBuf};
    use crate::queue::dying::Reason;
    use crate::queue::settings::DeadLetterTo;

    /// The properties of a message that dies in these queues, one after the other.
    fn after(deaths: &[(&str, Reason)], to: &DeadLetterTo, mut properties: PropertiesBuf) -> PropertiesBuf {
        let mut names = NamesBuf::default();
        names.set(b"events", b"key");
        for (at, (queue, reason)) in deaths.iter().enumerate() {
            let death = Death { queue, reason: *reason, time_s: 100 + at as u64, to };
            properties = death.properties(names.view(), &properties.encode());
        }
        properties
    }

    fn to(routing_key: Option<&[u8]>) -> DeadLetterTo {
        DeadLetterTo { exchange: "dlx".into(), routing_key: routing_key.map(Into::into) }
    }

    /// Queue, reason, count and time of each entry.
    fn story(properties: &PropertiesBuf) -> Vec<(String, String, i64, u64)> {
        let headers = properties.as_properties().headers().unwrap();
        let told = super::entries(headers).map(|entry| {
            let say = |key| String::from_utf8_lossy(text(entry, key).unwrap()).into_owned();
            let Some(Field::Timestamp(time)) = entry.get("time") else { panic!("a time") };
            (say("queue"), say("reason"), entry.get("count").unwrap().as_int().unwrap(), time)
        });
        told.collect()
    }

    #[test]
    fn entries_are_counted_by_queue_and_reason_and_the_newest_is_first() {
        let route =
            [("a", Reason::Rejected), ("b", Reason::Expired), ("a", Reason::Rejected), ("a", Reason::MaxLen)];
        let dead = after(&route, &to(None), PropertiesBuf::new());
        let entry =
            |queue: &str, reason: &str, count, time| (queue.to_owned(), reason.to_owned(), count, time);
        let expected =
            [entry("a", "maxlen", 1, 103), entry("a", "rejected", 2, 100), entry("b", "expired", 1, 101)];
        assert_eq!(story(&dead), expected);
        let headers = dead.as_properties().headers().unwrap();
        let said = |key: &str| text(headers, key).map(|value| String::from_utf8_lossy(value).into_owned());
        assert_eq!(said("x-first-death-queue").unwrap(), "a");
        assert_eq!(said("x-first-death-reason").unwrap(), "rejected");
        assert_eq!(said("x-last-death-reason").unwrap(), "maxlen");
        assert_eq!(said("x-last-death-exchange").unwrap(), "events");
    }

    #[test]
    fn an_expiration_moves_into_its_entry() {
        let mut properties = PropertiesBuf::new();
        properties.expiration("250").priority(3);
        let dead = after(&[("a", Reason::Expired)], &to(None), properties);
        let properties = dead.as_properties();
        assert_eq!((properties.expiration(), properties.priority()), (None, Some(3)));
        let entry = super::entries(properties.headers().unwrap()).next().unwrap();
        assert_eq!(text(entry, "original-expiration"), Some(b"250".as_slice()));
    }

    #[test]
    fn more_keys_stay_unless_there_is_a_new_one() {
        let array = |key: &[u8]| {
            let mut keys = super::ArrayBuf::new();
            keys.push(Field::LongStr(key));
            keys
        };
        let mut headers = TableBuf::new();
        headers
            .insert("CC", Field::Array(array(b"copy").as_array()))
            .insert("BCC", Field::Array(array(b"blind").as_array()))
            .insert("mine", Field::Bool(true));
        let mut properties = PropertiesBuf::new();
        properties.headers(headers.as_table());
        let mut names = NamesBuf::default();
        names.set(b"events", b"key");
        for (to, keys, keeps) in [
            (to(None), vec![b"key".as_slice(), b"copy", b"blind"], true),
            (to(Some(b"new")), vec![b"new".as_slice()], false),
        ] {
            let death = Death { queue: "a", reason: Reason::Rejected, time_s: 1, to: &to };
            assert_eq!(death.keys(names.view(), headers.as_table()), keys);
            assert_eq!(death.marks(Marks { blind: true, ..Marks::default() }).blind, keeps);
            let dead = death.properties(names.view(), &properties.encode());
            let after = dead.as_properties().headers().unwrap();
            assert_eq!(["CC", "BCC", "mine"].map(|name| after.get(name).is_some()), [keeps, keeps, true]);
            let entry = super::entries(after).next().unwrap();
            let Some(Field::Array(told)) = entry.get("routing-keys") else { panic!("an array") };
            assert!(told.iter().eq([Field::LongStr(b"key"), Field::LongStr(b"copy")]), "BCC is not told");
        }
    }

    #[test]
    fn what_nobody_rejected_does_not_go_round() {
        let headers_of = |route: &[(&str, Reason)]| after(route, &to(None), PropertiesBuf::new());
        let turns = |route: &[(&str, Reason)], queue: &str| {
            let properties = headers_of(route);
            let headers = Properties::headers(&properties.as_properties()).unwrap_or(Table::EMPTY);
            is_in_cycle(headers, route.last().unwrap().1, queue)
        };
        assert!(turns(&[("a", Reason::Expired), ("b", Reason::Expired)], "a"));
        assert!(turns(&[("a", Reason::Expired)], "a"));
        assert!(!turns(&[("a", Reason::Rejected), ("b", Reason::Expired)], "a"));
        assert!(turns(&[("a", Reason::Rejected), ("b", Reason::Expired)], "b"));
        assert!(!turns(&[("a", Reason::Expired), ("b", Reason::Rejected)], "a"));
        assert!(!turns(&[("a", Reason::Expired)], "c"));
    }
}
