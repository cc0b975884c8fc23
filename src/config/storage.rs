//! The `[storage]` of the configuration: how what is durable lies on the disk, and when it counts as safe.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};

use crate::config::unit::{Unit, Watermark};
use crate::config::{ConfigError, words};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// What a slot of the log may hold, in bytes.
const SLOT_BYTES: std::ops::RangeInclusive<u64> = 64 * 1024..=GIB;
/// How many slots the log may have before a checkpoint.
const WINDOW_SLOTS: std::ops::RangeInclusive<u64> = 2..=1024;
/// How long confirms may run ahead of the disk, in milliseconds.
const INTERVAL_MS: std::ops::RangeInclusive<u64> = 1..=60_000;
/// What is kept in memory of messages that are on the disk when nobody says otherwise: a share of memory, and no
/// more than so many bytes.
const CACHE_SHARE: f64 = 0.1;
const CACHE_BYTES_MAX: u64 = GIB;

/// The `[storage]` of the configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Storage {
    /// When something durable counts as safe.
    pub durability: Durability,
    /// Between two syncs when the durability is `interval`, in milliseconds.
    #[serde(deserialize_with = "milliseconds")]
    pub interval_ms: u64,
    /// Size of one file of the log, in bytes.
    #[serde(deserialize_with = "bytes")]
    pub slot_bytes: u64,
    /// Files of the log that are filled before what waits in them moves on; half as many again in a burst.
    pub window_slots: u64,
    /// What is kept in memory of messages that are on the disk: a share of memory, or a size. No more than half of the
    /// memory watermark counts.
    pub cache: Option<Watermark>,
    /// With less free on the disk publishers wait, in bytes.
    #[serde(deserialize_with = "some_bytes")]
    pub disk_free_limit: Option<u64>,
}

words! {
    /// When something durable counts as safe.
    Durability {
        /// When the disk has said so.
        Fsync = "fsync",
        /// When it is written; the disk is asked at intervals, and a power cut takes what came since.
        Interval = "interval",
        /// When it is written; the operating system decides, and a power cut takes what it had not got to.
        Os = "os",
    }
}

impl Default for Storage {
    fn default() -> Self {
        Self {
            durability: Durability::Fsync,
            interval_ms: 100,
            slot_bytes: 64 * MIB,
            window_slots: 8,
            cache: None,
            disk_free_limit: None,
        }
    }
}

/// What the settings are called in variables.
pub(super) const KEYS: [&str; 6] =
    ["DURABILITY", "INTERVAL_MS", "SLOT_BYTES", "WINDOW_SLOTS", "CACHE", "DISK_FREE_LIMIT"];

impl Storage {
    /// The log's window: what is filled before a checkpoint, in bytes.
    pub fn window_bytes(&self) -> u64 {
        self.slot_bytes.saturating_mul(self.window_slots)
    }

    /// With less free on the disk publishers wait, in bytes.
    pub fn disk_free_limit_bytes(&self) -> u64 {
        self.disk_free_limit.unwrap_or_else(|| self.window_bytes().saturating_mul(2).max(GIB))
    }

    /// What is kept in memory of messages that are on the disk, in bytes, where the process may use `memory_bytes`.
    pub fn cache_bytes(&self, memory_bytes: u64) -> u64 {
        match self.cache {
            Some(cache) => cache.bytes_of(memory_bytes),
            None => Watermark::Fraction(CACHE_SHARE).bytes_of(memory_bytes).min(CACHE_BYTES_MAX),
        }
    }

    /// What should be known at start: a durability by which a power cut loses what was confirmed.
    pub fn warning(&self) -> Option<String> {
        let when = match self.durability {
            Durability::Fsync => return None,
            Durability::Interval => format!("of the last {} ms", self.interval_ms),
            Durability::Os => "that the operating system had not written".to_owned(),
        };
        let durability = self.durability;
        Some(format!("storage.durability is {durability}: a power cut loses confirmed messages {when}"))
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let checks = [
            ("storage.interval_ms", Unit::Milliseconds, self.interval_ms, INTERVAL_MS),
            ("storage.slot_bytes", Unit::Bytes, self.slot_bytes, SLOT_BYTES),
            ("storage.window_slots", Unit::Count, self.window_slots, WINDOW_SLOTS),
        ];
        for (key, unit, value, range) in checks {
            if !range.contains(&value) {
                let (min, max) = (unit.say(*range.start()), unit.say(*range.end()));
                let found = unit.say(value);
                let message = format!("must be between {min} and {max}, found {found}");
                return Err(ConfigError::of_key(key, message));
            }
        }
        Ok(())
    }

    /// Sets one key from text; `None` when there is no such key.
    pub(super) fn set(&mut self, key: &str, text: &str) -> Option<Result<(), String>> {
        Some(match key {
            "DURABILITY" => text.parse().map(|durability| self.durability = durability),
            "INTERVAL_MS" => Unit::Milliseconds.parse(text).map(|interval| self.interval_ms = interval),
            "SLOT_BYTES" => Unit::Bytes.parse(text).map(|bytes| self.slot_bytes = bytes),
            "WINDOW_SLOTS" => Unit::Count.parse(text).map(|slots| self.window_slots = slots),
            "CACHE" => text.parse().map(|cache| self.cache = Some(cache)),
            "DISK_FREE_LIMIT" => Unit::Bytes.parse(text).map(|bytes| self.disk_free_limit = Some(bytes)),
            _ => return None,
        })
    }
}

fn bytes<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    from.deserialize_any(Quantity(Unit::Bytes))
}

fn some_bytes<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    bytes(from).map(Some)
}

fn milliseconds<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    from.deserialize_any(Quantity(Unit::Milliseconds))
}

/// Reads a number with its unit, or a whole number.
struct Quantity(Unit);

impl Visitor<'_> for Quantity {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.expected())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<u64, E> {
        self.0.parse(text).map_err(E::custom)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<u64, E> {
        let expected = self.0.expected();
        u64::try_from(number).map_err(|_| E::custom(format!("expected {expected}, found {number}")))
    }
}

#[cfg(test)]
mod tests {
    use super::{Durability, Storage};
    use crate::config::{Config, Watermark};

    #[test]
    fn the_disk_limit_follows_the_window_and_the_cache_the_memory() {
        let mut storage = Storage::default();
        assert_eq!(storage.disk_free_limit_bytes(), 1 << 30);
        storage.window_slots = 16;
        assert_eq!(storage.disk_free_limit_bytes(), 2 << 30);
        storage.disk_free_limit = Some(5);
        assert_eq!(storage.disk_free_limit_bytes(), 5);
        assert_eq!(storage.cache_bytes(1000), 100);
        assert_eq!(storage.cache_bytes(1 << 40), 1 << 30);
        storage.cache = Some(Watermark::Bytes(7));
        assert_eq!(storage.cache_bytes(1 << 40), 7);
    }

    #[test]
    fn what_is_written_is_read_and_checked() {
        let text = "[storage]\ndurability = \"interval\"\ninterval_ms = \"1s\"\nslot_bytes = \"1MiB\"\n\
                    window_slots = 4\ncache = \"5%\"\ndisk_free_limit = \"10MiB\"\n";
        let storage = Config::from_toml(text).unwrap().storage;
        assert_eq!((storage.durability, storage.interval_ms), (Durability::Interval, 1000));
        assert_eq!((storage.window_bytes(), storage.disk_free_limit), (4 << 20, Some(10 << 20)));
        assert_eq!(storage.cache, Some(Watermark::Fraction(0.05)));
        assert!(storage.warning().is_some_and(|warning| warning.contains("the last 1000 ms")));
        assert_eq!(Storage::default().warning(), None);
        for (text, expected) in [
            (
                "[storage]\nslot_bytes = \"1KiB\"",
                "line 2: storage.slot_bytes: must be between 64KiB and 1GiB, found 1KiB",
            ),
            (
                "[storage]\nwindow_slots = 1",
                "line 2: storage.window_slots: must be between 2 and 1024, found 1",
            ),
            (
                "[storage]\ndurability = \"maybe\"",
                "line 2: storage.durability: expected one of fsync interval os, found \"maybe\"",
            ),
        ] {
            assert_eq!(Config::from_toml(text).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn variables_set_it_too() {
        let mut storage = Storage::default();
        assert_eq!(storage.set("SLOT_BYTES", "128KiB"), Some(Ok(())));
        assert_eq!(storage.set("DURABILITY", "os"), Some(Ok(())));
        assert_eq!((storage.slot_bytes, storage.durability), (128 * 1024, Durability::Os));
        assert_eq!(storage.set("SIZE", "1"), None);
    }
}
