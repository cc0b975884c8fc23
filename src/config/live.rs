//! What a configuration may change while a broker serves, and in which keys two of them differ.

use std::collections::BTreeMap;

use toml::{Table, Value};

use crate::config::Config;

/// What an empty data directory begins with: afterwards what is there counts, and nothing that is said here.
const OF_A_BEGINNING: [&str; 2] = ["users", "vhosts"];

impl Config {
    /// This one, with what of another can be changed while a broker serves. The others need a start, and three limits
    /// with them: how large outboxes, turns and unfinished messages may be, memory is laid out by.
    pub fn with_live(&self, other: &Self) -> Self {
        let mut next = self.clone();
        next.limits = other.limits.clone();
        next.limits.outbox_bytes = self.limits.outbox_bytes;
        next.limits.turn_steps = self.limits.turn_steps;
        next.limits.partial_bodies_fraction = self.limits.partial_bodies_fraction;
        next.memory = other.memory.clone();
        next.storage.disk_free_limit = other.storage.disk_free_limit;
        next.log.level = other.log.level;
        next
    }

    /// The keys of which the two say something else, as a file has them. Of users and virtual hosts nothing is said.
    pub fn differing(&self, other: &Self) -> Vec<String> {
        let (own, others) = (self.keys(), other.keys());
        let mut keys: Vec<String> = own
            .iter()
            .filter(|(key, value)| others.get(*key) != Some(value))
            .map(|(key, _)| key.clone())
            .chain(others.keys().filter(|key| !own.contains_key(*key)).cloned())
            .filter(|key| !OF_A_BEGINNING.contains(&key.as_str()))
            .collect();
        keys.sort_unstable();
        keys
    }

    fn keys(&self) -> BTreeMap<String, Value> {
        let mut keys = BTreeMap::new();
        let table: Table = self.to_commented_toml().parse().unwrap_or_default();
        for (name, value) in table {
            match value {
                Value::Table(section) => {
                    keys.extend(section.into_iter().map(|(key, value)| (format!("{name}.{key}"), value)));
                }
                value => drop(keys.insert(name, value)),
            }
        }
        keys
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    fn config(text: &str) -> Config {
        Config::from_toml(text).unwrap()
    }

    #[test]
    fn what_differs_is_named_and_what_needs_a_start_stays() {
        let before = Config::default();
        let after = config(
            "vhosts = [\"/\", \"orders\"]\nlisteners = [\"127.0.0.1:1\"]\ndata_dir = \"/x\"\n\
             limits.channel_max = 5\nlimits.turn_steps = 7\nmemory.watermark = \"1GiB\"\n\
             storage.disk_free_limit = \"2GiB\"\nstorage.slot_bytes = \"1MiB\"\nlog.level = \"debug\"\nlog.format = \"json\"\n",
        );
        assert_eq!(before.differing(&before), Vec::<String>::new());
        let next = before.with_live(&after);
        assert_eq!(
            before.differing(&next),
            ["limits.channel_max", "log.level", "memory.watermark", "storage.disk_free_limit"]
        );
        assert_eq!(
            next.differing(&after),
            ["data_dir", "limits.turn_steps", "listeners", "log.format", "storage.slot_bytes"]
        );
    }
}
