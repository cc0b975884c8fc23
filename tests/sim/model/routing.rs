//! Where a message goes, the plain way.

use sluicemq::routing::stable_hash;

use crate::model::Model;
use crate::op::{Message, Pattern};

/// An exchange nobody declares.
pub(crate) const MISSING: &str = "no.such.exchange";
/// A consistent-hash exchange.
pub(crate) const HASH: &str = "x.hash";
/// A modulus-hash exchange.
pub(crate) const MODULUS: &str = "x.modulus";
/// Those that are not there from the start, and their kinds.
pub(crate) const DECLARED: [(&str, &str); 2] = [(HASH, "x-consistent-hash"), (MODULUS, "x-modulus-hash")];
/// The exchanges in use: the default one and one of each kind that can be foretold.
pub(crate) const EXCHANGES: [&str; 7] =
    ["", "amq.direct", "amq.fanout", "amq.topic", "amq.headers", HASH, MODULUS];

impl Model {
    /// The queues, in no special order. `None` when there is no such exchange.
    pub(super) fn route(&self, message: &Message) -> Option<Vec<u64>> {
        match message.exchange {
            MISSING => None,
            "" => Some(self.names.get(&message.key).copied().into_iter().collect()),
            HASH => Some(self.hashed(message).into_iter().collect()),
            MODULUS => Some(self.counted_off(message).into_iter().collect()),
            _ => {
                let matching = self.bindings.iter().filter(|(_, pattern)| matches(pattern, message));
                let mut queues: Vec<u64> = matching.map(|(queue, _)| *queue).collect();
                queues.dedup();
                Some(queues)
            }
        }
    }
}

impl Model {
    /// The queue that waits least for the message, of a weight as its binding says.
    fn hashed(&self, message: &Message) -> Option<u64> {
        let value = stable_hash(1, message.key.as_bytes());
        let waits =
            self.bindings.iter().filter(|(_, pattern)| pattern.exchange == HASH).map(|(queue, pattern)| {
                let draw = spread(value ^ stable_hash(0, self.queues[queue].name.as_bytes()));
                (-(draw as f64 / 2_f64.powi(64)).ln() / pattern.key.parse::<f64>().unwrap(), *queue)
            });
        waits.min_by(|(one, _), (other, _)| one.total_cmp(other)).map(|(_, queue)| queue)
    }

    /// The queue whose number among all bindings the message's hash is.
    fn counted_off(&self, message: &Message) -> Option<u64> {
        let bound = self.bindings.iter().filter(|(_, pattern)| pattern.exchange == MODULUS);
        let mut queues: Vec<u64> = bound.map(|(queue, _)| *queue).collect();
        queues.sort_by_key(|queue| stable_hash(0, self.queues[queue].name.as_bytes()));
        let number = stable_hash(0, message.key.as_bytes()).checked_rem(queues.len() as u64)?;
        queues.get(number as usize).copied()
    }
}

/// The step by which splitmix64 makes a number of another.
fn spread(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn matches(pattern: &Pattern, message: &Message) -> bool {
    pattern.exchange == message.exchange
        && match pattern.exchange {
            "amq.direct" => pattern.key == message.key,
            "amq.fanout" => true,
            "amq.topic" => {
                let split = |key: &str| key.split('.').map(str::to_owned).collect::<Vec<_>>();
                topic_matches(&split(&pattern.key), &split(&message.key))
            }
            _ => pattern.header.is_none() || pattern.header == message.header,
        }
}

fn topic_matches(pattern: &[String], key: &[String]) -> bool {
    match pattern.split_first() {
        None => key.is_empty(),
        Some((word, rest)) if word == "#" => (0..=key.len()).any(|skip| topic_matches(rest, &key[skip..])),
        Some((word, rest)) => key
            .split_first()
            .is_some_and(|(first, key)| (word == "*" || word == first) && topic_matches(rest, key)),
    }
}
