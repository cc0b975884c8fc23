//! Where a message goes, the plain way.

use crate::model::Model;
use crate::op::{Message, Pattern};

/// An exchange nobody declares.
pub(crate) const MISSING: &str = "no.such.exchange";
/// The exchanges in use: the default one and one of each kind.
pub(crate) const EXCHANGES: [&str; 5] = ["", "amq.direct", "amq.fanout", "amq.topic", "amq.headers"];

impl Model {
    /// The queues, in no special order. `None` when there is no such exchange.
    pub(super) fn route(&self, message: &Message) -> Option<Vec<u64>> {
        match message.exchange {
            MISSING => None,
            "" => Some(self.names.get(&message.key).copied().into_iter().collect()),
            _ => {
                let matching = self.bindings.iter().filter(|(_, pattern)| matches(pattern, message));
                let mut queues: Vec<u64> = matching.map(|(queue, _)| *queue).collect();
                queues.dedup();
                Some(queues)
            }
        }
    }
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
