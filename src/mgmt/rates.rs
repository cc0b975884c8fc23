//! Rates: how much counters rise in a second, of what was asked for lately.
//!
//! Whoever shows an object says so here, and from then on its counters are read every [`SAMPLE_INTERVAL`], until nobody
//! has asked for [`FORGET_AFTER`]. A rate is that of the last one or two intervals. Of what is asked for the first time
//! nothing is known, and its rates are zero.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::{Map, Value, json};

use crate::broker::Broker;
use crate::broker::outbox::Outbox;
use crate::broker::presence::ChannelTally;
use crate::broker::queue::handle::Queue;
use crate::broker::vhost::Vhost;
use crate::mgmt::views::counts;

/// How often counters are read.
pub(crate) const SAMPLE_INTERVAL: Duration = Duration::from_secs(5);
/// What nobody has asked for in so long is read no more.
const FORGET_AFTER: Duration = Duration::from_secs(60);
/// So many objects are watched at most; of others rates are zero.
const WATCHED_MAX: usize = 20_000;
/// Over less than this nothing is told.
const WINDOW_MIN: Duration = Duration::from_millis(500);

/// Counters by name.
pub(crate) type Counts = Vec<(&'static str, u64)>;

/// What has rates.
#[derive(Clone, Debug)]
pub(crate) enum Subject {
    /// Everything.
    Node(Weak<Broker>),
    /// What a virtual host has.
    Vhost(Weak<Vhost>),
    /// A queue.
    Queue(Weak<Queue>),
    /// A connection.
    Connection(Weak<Outbox>),
    /// A channel.
    Channel(Weak<ChannelTally>),
}

/// An object's identity: its kind, and where it is in memory, where nothing else comes while it is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key(u8, usize);

#[derive(Debug)]
struct Watched {
    subject: Subject,
    asked: Instant,
    /// The last two samples, the older one first.
    samples: [Option<(Instant, Counts)>; 2],
}

/// All that is watched.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    watched: Mutex<HashMap<Key, Watched>>,
}

/// Counters of now, and how fast they rise.
#[derive(Debug)]
pub(crate) struct Rated(Vec<(&'static str, u64, f64)>);

impl Subject {
    fn key(&self) -> Key {
        match self {
            Self::Node(_) => Key(0, 0),
            Self::Vhost(vhost) => Key(1, vhost.as_ptr() as usize),
            Self::Queue(queue) => Key(2, queue.as_ptr() as usize),
            Self::Connection(outbox) => Key(3, outbox.as_ptr() as usize),
            Self::Channel(tally) => Key(4, tally.as_ptr() as usize),
        }
    }

    /// What it has counted; `None` when it is gone.
    fn read(&self) -> Option<Counts> {
        match self {
            Self::Node(broker) => Some(counts::of_node(&*broker.upgrade()?)),
            Self::Vhost(vhost) => Some(counts::of_vhost(&*vhost.upgrade()?)),
            Self::Queue(queue) => {
                let queue = queue.upgrade().filter(|queue| !queue.is_deleted())?;
                Some(counts::of_queue(&queue))
            }
            Self::Connection(outbox) => Some(counts::of_connection(&outbox.upgrade()?.presence)),
            Self::Channel(tally) => Some(counts::of_channel(&*tally.upgrade()?)),
        }
    }
}

impl Rates {
    /// What the subject has counted, with rates where they are known; it is watched from now on.
    pub(crate) fn of(&self, subject: Subject, now: Instant) -> Rated {
        let Some(counts) = subject.read() else { return Rated(Vec::new()) };
        let mut watched = self.watched.lock();
        let key = subject.key();
        let is_full = watched.len() >= WATCHED_MAX;
        let before = match watched.get_mut(&key) {
            Some(watched) => {
                watched.asked = now;
                watched.oldest().filter(|(at, _)| now.saturating_duration_since(*at) >= WINDOW_MIN)
            }
            None if is_full => None,
            None => {
                let samples = [None, Some((now, counts.clone()))];
                watched.insert(key, Watched { subject, asked: now, samples });
                None
            }
        };
        let rate = |place: usize, count: u64| {
            let Some((at, before)) = before else { return 0.0 };
            let before = before.get(place).map_or(count, |(_, before)| *before);
            let seconds = now.saturating_duration_since(*at).as_secs_f64();
            (count as f64 - before as f64) / seconds
        };
        let rated =
            counts.iter().enumerate().map(|(place, (name, count))| (*name, *count, rate(place, *count)));
        Rated(rated.collect())
    }

    /// Reads the counters of all that is watched, and forgets what nobody asks for.
    pub(crate) fn sample(&self, now: Instant) {
        let due: Vec<(Key, Subject)> = {
            let mut watched = self.watched.lock();
            watched.retain(|_, watched| now.saturating_duration_since(watched.asked) < FORGET_AFTER);
            watched.iter().map(|(key, watched)| (*key, watched.subject.clone())).collect()
        };
        for (key, subject) in due {
            let counts = subject.read();
            let mut watched = self.watched.lock();
            match (counts, watched.get_mut(&key)) {
                (Some(counts), Some(watched)) => {
                    watched.samples.swap(0, 1);
                    let [_, newest] = &mut watched.samples;
                    *newest = Some((now, counts));
                }
                _ => drop(watched.remove(&key)),
            }
        }
    }
}

impl Watched {
    fn oldest(&self) -> Option<&(Instant, Counts)> {
        self.samples.iter().flatten().next()
    }
}

impl Rated {
    /// Puts those of these names into an object, each with its rate.
    pub(crate) fn put(&self, names: &[&str], into: &mut Map<String, Value>) {
        for (name, count, rate) in self.0.iter().filter(|(name, _, _)| names.contains(name)) {
            into.insert((*name).to_owned(), json!(count));
            into.insert(format!("{name}_details"), json!({"rate": round(*rate)}));
        }
    }
}

/// Nobody reads more than this of a rate.
fn round(rate: f64) -> f64 {
    (rate * 1000.0).round() / 1000.0
}

/// Watches the node as a whole, without anybody asking: its rates are what people look at first.
pub(crate) fn watch_node(rates: &Rates, broker: &Arc<Broker>, now: Instant) {
    rates.of(Subject::Node(Arc::downgrade(broker)), now);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use serde_json::Map;

    use super::{FORGET_AFTER, Rates, SAMPLE_INTERVAL, Subject};
    use crate::broker::presence::ChannelTally;

    fn rate(rates: &Rates, tally: &Arc<ChannelTally>, now: Instant) -> f64 {
        let mut shown = Map::new();
        rates.of(Subject::Channel(Arc::downgrade(tally)), now).put(&["publish"], &mut shown);
        shown["publish_details"]["rate"].as_f64().unwrap()
    }

    #[test]
    fn a_rate_is_that_of_the_last_two_intervals() {
        let (rates, tally, start) = (Rates::default(), Arc::new(ChannelTally::default()), Instant::now());
        let at = |intervals: u32| start + SAMPLE_INTERVAL * intervals;
        assert_eq!(rate(&rates, &tally, at(0)), 0.0, "nobody has asked before");
        tally.published.bump(100);
        assert_eq!(rate(&rates, &tally, at(1)), 20.0);
        rates.sample(at(1));
        rates.sample(at(2));
        assert_eq!(rate(&rates, &tally, at(3)), 0.0, "nothing came since");
    }

    #[test]
    fn what_nobody_asks_for_or_what_is_gone_is_forgotten() {
        let (rates, start) = (Rates::default(), Instant::now());
        let (asked, gone) = (Arc::new(ChannelTally::default()), Arc::new(ChannelTally::default()));
        rate(&rates, &asked, start);
        rate(&rates, &gone, start);
        drop(gone);
        rates.sample(start + Duration::from_secs(5));
        assert_eq!(rates.watched.lock().len(), 1);
        rates.sample(start + FORGET_AFTER);
        assert_eq!(rates.watched.lock().len(), 0);
    }
}
