//! Every bound of the broker in one table: name, default, unit, range and meaning.
//!
//! The table makes the struct, its documentation, the reader of the file and of the environment, and what
//! `sluicemq config` prints, so that none of them can drift from the others.

use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, Visitor};

use crate::config::unit::Unit;

/// One line of the table, as the readers and the printer see it.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) about: &'static [&'static str],
    unit: Unit,
    min: u64,
    max: u64,
}

/// A value as it was written.
#[derive(Clone, Copy)]
enum Written<'a> {
    Text(&'a str),
    Whole(i64),
    Real(f64),
}

impl fmt::Display for Written<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Whole(number) => number.fmt(f),
            Self::Real(number) => number.fmt(f),
        }
    }
}

impl Row {
    fn whole(&self, written: Written<'_>) -> Result<u64, String> {
        let value = match written {
            Written::Text(text) => self.unit.parse(text)?,
            Written::Whole(number) => u64::try_from(number).map_err(|_| self.out_of_range(written))?,
            Written::Real(_) => return Err(self.unexpected(written)),
        };
        match (self.min..=self.max).contains(&value) {
            true => Ok(value),
            false => Err(self.out_of_range(written)),
        }
    }

    fn share(&self, written: Written<'_>) -> Result<f64, String> {
        let value = match written {
            Written::Text(text) => match text.strip_suffix('%') {
                Some(percent) => percent.trim().parse::<f64>().map(|percent| percent / 100.0),
                None => text.trim().parse(),
            }
            .map_err(|_| self.unexpected(written))?,
            Written::Whole(number) => number as f64,
            Written::Real(number) => number,
        };
        match value > 0.0 && value <= 1.0 {
            true => Ok(value),
            false => Err(format!("must be above 0 and at most 1 (100%), found {written}")),
        }
    }

    fn unexpected(&self, written: Written<'_>) -> String {
        format!("expected {}, found {written}", self.unit.expected())
    }

    fn out_of_range(&self, written: Written<'_>) -> String {
        format!("must be {}, found {written}", self.range())
    }

    /// The range in words.
    pub(crate) fn range(&self) -> String {
        match (self.unit, self.max) {
            (Unit::Share, _) => "above 0 and at most 1".to_owned(),
            (unit, u64::MAX) => format!("at least {}", unit.say(self.min)),
            (unit, max) => format!("between {} and {}", unit.say(self.min), unit.say(max)),
        }
    }
}

/// A number that can stand in the table.
trait Quantity: Copy {
    fn read(row: &Row, written: Written<'_>) -> Result<Self, String>;
    fn show(self, row: &Row) -> String;
}

macro_rules! whole_quantity {
    ($($type:ty)+) => {$(
        impl Quantity for $type {
            fn read(row: &Row, written: Written<'_>) -> Result<Self, String> {
                Self::try_from(row.whole(written)?).map_err(|_| row.out_of_range(written))
            }

            fn show(self, row: &Row) -> String {
                u64::try_from(self).map_or_else(|_| self.to_string(), |value| row.unit.show(value))
            }
        }
    )+};
}

whole_quantity!(u16 u32 u64 usize);

impl Quantity for f64 {
    fn read(row: &Row, written: Written<'_>) -> Result<Self, String> {
        row.share(written)
    }

    fn show(self, _: &Row) -> String {
        self.to_string()
    }
}

macro_rules! limits {
    ($(
        $(#[doc = $about:literal])+
        $name:ident: $type:ty = $default:expr, $unit:ident, $min:literal ..= $max:expr;
    )+) => {
        /// The `[limits]` of the configuration. Every value is within its range.
        #[derive(Clone, Debug, PartialEq)]
        pub struct Limits {
            $($(#[doc = $about])+ pub $name: $type,)+
        }

        impl Default for Limits {
            fn default() -> Self {
                Self { $($name: $default,)+ }
            }
        }

        const NAMES: &[&str] = &[$(stringify!($name)),+];

        const ROWS: &[Row] = &[$(Row {
            name: stringify!($name), about: &[$($about),+], unit: Unit::$unit, min: $min, max: $max,
        }),+];

        impl Limits {
            fn read(&mut self, row: &Row, written: Written<'_>) -> Result<(), String> {
                match row.name {
                    $(stringify!($name) => self.$name = Quantity::read(row, written)?,)+
                    _ => return Err("unknown limit".to_owned()),
                }
                Ok(())
            }

            fn show(&self, row: &Row) -> String {
                match row.name {
                    $(stringify!($name) => Quantity::show(self.$name, row),)+
                    _ => String::new(),
                }
            }
        }
    };
}

limits! {
    /// Largest frame offered to clients, in bytes; a client may negotiate it down to the minimum.
    frame_max_bytes: u32 = 131_072, Bytes, 4096..=16_777_216;
    /// Highest channel number offered to clients.
    channel_max: u16 = 2047, Count, 1..=65_535;
    /// Heartbeat interval offered to clients, in seconds; 0 offers none.
    heartbeat_seconds: u16 = 60, Seconds, 0..=65_535;
    /// Time from connecting to connection.open-ok, in milliseconds.
    handshake_timeout_ms: u64 = 10_000, Milliseconds, 100..=600_000;
    /// Time from connecting to the eight bytes of the protocol header, in milliseconds; a PROXY header before them, where
    /// there is to be one, has as long.
    header_timeout_ms: u64 = 5_000, Milliseconds, 100..=600_000;
    /// Time from connecting to the end of the TLS handshake, where there is one, in milliseconds.
    tls_handshake_timeout_ms: u64 = 5_000, Milliseconds, 100..=600_000;
    /// Largest message body, in bytes.
    message_bytes_max: u64 = 134_217_728, Bytes, 1..=536_870_912;
    /// Most connections at a time; 0 takes what the limit on file descriptors allows.
    connections_max: usize = 0, Count, 0..=10_000_000;
    /// Most consumers on one channel.
    consumers_per_channel_max: usize = 100_000, Count, 1..=1_000_000;
    /// Deliveries waiting for one connection's socket, in bytes; the rest stays in the queues.
    outbox_bytes: usize = 1_048_576, Bytes, 4096..=1_073_741_824;
    /// Steps of a connection's turn: messages, queues, bindings and consumers that it touches before others have theirs.
    turn_steps: u32 = 1_000, Count, 1..=1_000_000;
    /// Largest frame before the client has tuned the connection, in bytes; long OAuth tokens need more.
    initial_frame_max_bytes: u32 = 4_096, Bytes, 4096..=16_384;
    /// Memory for all connections that have not logged in, in bytes; beyond it new ones are refused.
    unauthenticated_bytes_max: usize = 67_108_864, Bytes, 65_536..=17_179_869_184;
    /// Share of memory that messages may take whose bodies have not arrived whole; beyond it they wait for each other.
    partial_bodies_fraction: f64 = 0.05, Share, 0..=1;
    /// Time a consumer may hold a message without acknowledging it, in milliseconds, where neither its queue
    /// nor itself says otherwise: then its channel is closed, or only that message goes back.
    consumer_timeout_ms: u64 = 1_800_000, Milliseconds, 1000..=315_360_000_000;
    /// Time a client has to answer connection.close before its socket is dropped, in milliseconds.
    close_timeout_ms: u64 = 3_000, Milliseconds, 1..=600_000;
    /// Time a failed login waits before its connection is closed, in milliseconds.
    auth_failure_delay_ms: u64 = 3_000, Milliseconds, 0..=60_000;
    /// Most messages in one transaction: those it publishes, and those it acknowledges, rejects or returns.
    tx_messages_max: usize = 100_000, Count, 1..=10_000_000;
    /// Most bytes of messages in one transaction, which goes to the disk in one piece.
    tx_bytes_max: u64 = 536_870_912, Bytes, 65_536..=1_073_741_824;
    /// Most queues in one vhost.
    queues_per_vhost_max: usize = 1_000_000, Count, 1..=10_000_000;
    /// Most exchanges in one vhost.
    exchanges_per_vhost_max: usize = 100_000, Count, 16..=10_000_000;
    /// Most bindings in one vhost.
    bindings_per_vhost_max: usize = 10_000_000, Count, 1..=100_000_000;
    /// Most connections at a time from one address (IPv6: one /64); loopback is exempt; 0 sets no limit.
    per_address_connections_max: usize = 0, Count, 0..=10_000_000;
    /// Most connections accepted in a second from one address (IPv6: one /64); loopback is exempt; 0 sets no limit.
    per_address_accepts_per_second_max: u32 = 0, Count, 0..=1_000_000;
}

/// What the limits are called.
pub(super) fn names() -> &'static [&'static str] {
    NAMES
}

impl Limits {
    /// Every limit with its value as TOML.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (&'static Row, String)> {
        ROWS.iter().map(|row| (row, self.show(row)))
    }

    /// Sets the limit of this name from text, if there is one.
    pub(crate) fn set(&mut self, name: &str, text: &str) -> Option<Result<(), String>> {
        let row = ROWS.iter().find(|row| row.name == name)?;
        Some(self.read(row, Written::Text(text)))
    }
}

impl<'de> Deserialize<'de> for Limits {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(LimitsVisitor)
    }
}

struct LimitsVisitor;

impl<'de> Visitor<'de> for LimitsVisitor {
    type Value = Limits;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table of limits")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Limits, A::Error> {
        let mut limits = Limits::default();
        while let Some(row) = map.next_key_seed(NameSeed)? {
            map.next_value_seed(ValueSeed { row, limits: &mut limits })?;
        }
        Ok(limits)
    }
}

/// Turns a key into its row; an unknown one is refused here, where the error still has the key's line.
struct NameSeed;

impl<'de> DeserializeSeed<'de> for NameSeed {
    type Value = &'static Row;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<&'static Row, D::Error> {
        let name = String::deserialize(from)?;
        let row = ROWS.iter().find(|row| row.name == name);
        row.ok_or_else(|| D::Error::unknown_field(&name, NAMES))
    }
}

/// Reads a value into its place.
struct ValueSeed<'a> {
    row: &'static Row,
    limits: &'a mut Limits,
}

impl ValueSeed<'_> {
    fn read<E: Error>(self, written: Written<'_>) -> Result<(), E> {
        self.limits.read(self.row, written).map_err(E::custom)
    }
}

impl<'de> DeserializeSeed<'de> for ValueSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl Visitor<'_> for ValueSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.row.unit.expected())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.read(Written::Text(text))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<(), E> {
        self.read(Written::Whole(number))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<(), E> {
        self.read(Written::Real(number))
    }
}

#[cfg(test)]
mod tests {
    use super::{Limits, Written};

    #[test]
    fn each_default_is_within_its_own_range_and_reads_back() {
        let limits = Limits::default();
        for (row, shown) in limits.rows() {
            let mut read = Limits::default();
            let text = shown.trim_matches('"');
            read.read(row, Written::Text(text)).unwrap_or_else(|why| panic!("{}: {why}", row.name));
            assert_eq!(read, limits, "{}", row.name);
        }
    }
}
