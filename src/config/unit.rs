//! Sizes, durations, counts and shares: how a person writes them, and the sentence that refuses a wrong one.

use std::fmt;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Suffixes of sizes, and the bytes of one.
const SIZES: &[(&str, u64)] = &[
    ("B", 1),
    ("KiB", KIB),
    ("MiB", MIB),
    ("GiB", GIB),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

/// Suffixes of durations, and the milliseconds of one.
const DURATIONS: &[(&str, u64)] = &[("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];

/// What a number in the configuration counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Bytes.
    Bytes,
    /// Milliseconds.
    Milliseconds,
    /// Seconds.
    Seconds,
    /// Things.
    Count,
    /// Parts of a whole: 0 to 1.
    Share,
}

impl Unit {
    /// What to write for a value of this unit, for the end of an error.
    pub(crate) fn expected(self) -> &'static str {
        match self {
            Self::Bytes => "a size such as \"64KiB\" or a whole number of bytes",
            Self::Milliseconds => "a duration such as \"500ms\" or a whole number of milliseconds",
            Self::Seconds => "a duration such as \"60s\" or a whole number of seconds",
            Self::Count => "a whole number",
            Self::Share => "a share such as 0.05 or \"5%\"",
        }
    }

    /// Reads a number, with a suffix or without one.
    ///
    /// # Errors
    /// A sentence that says what was expected.
    pub(crate) fn parse(self, text: &str) -> Result<u64, String> {
        let refused = || format!("expected {}, found {text:?}", self.expected());
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(text.len());
        let (number, suffix) = text.split_at(digits);
        let number: u64 = number.replace('_', "").parse().map_err(|_| refused())?;
        let suffix = suffix.trim_start();
        if suffix.is_empty() {
            return Ok(number);
        }
        let suffixes = match self {
            Self::Bytes => SIZES,
            Self::Milliseconds | Self::Seconds => DURATIONS,
            Self::Count | Self::Share => &[],
        };
        let &(_, worth) = suffixes.iter().find(|(name, _)| *name == suffix).ok_or_else(refused)?;
        let number = number.checked_mul(worth).ok_or_else(refused)?;
        match self {
            Self::Seconds if number % 1_000 != 0 => Err(refused()),
            Self::Seconds => Ok(number / 1_000),
            _ => Ok(number),
        }
    }

    /// The value as it would be written in the file, shortest form first.
    pub(crate) fn show(self, value: u64) -> String {
        match self {
            Self::Bytes => show_size(value).map_or_else(|| value.to_string(), |size| format!("\"{size}\"")),
            _ => value.to_string(),
        }
    }

    /// The value in a sentence.
    pub(crate) fn say(self, value: u64) -> String {
        match self {
            Self::Bytes if value == 1 => "1 byte".to_owned(),
            Self::Bytes => show_size(value).unwrap_or_else(|| format!("{value} bytes")),
            Self::Milliseconds => format!("{value} ms"),
            Self::Seconds => format!("{value} s"),
            Self::Count | Self::Share => value.to_string(),
        }
    }
}

/// A round size with its binary suffix.
fn show_size(bytes: u64) -> Option<String> {
    let rounds = [(GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")];
    let (worth, suffix) = rounds.into_iter().find(|(worth, _)| bytes != 0 && bytes.is_multiple_of(*worth))?;
    Some(format!("{}{suffix}", bytes / worth))
}

/// A number of bytes with its suffix, or without one; also in RabbitMQ's way, where `k`, `M` and `G` are enough.
///
/// # Errors
/// A sentence that says what was expected.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let bare = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let suffix = match text.get(bare.len()..).unwrap_or_default() {
        "k" | "kiB" => "KiB",
        "M" => "MiB",
        "G" => "GiB",
        "T" => "TiB",
        own => own,
    };
    Unit::Bytes.parse(&format!("{bare}{suffix}"))
}

/// A size as people read it, to a tenth: "1.4 GiB".
pub fn size(bytes: u64) -> String {
    let units = [(1 << 40, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")];
    match units.into_iter().find(|(worth, _)| bytes >= *worth) {
        Some((worth, unit)) => format!("{:.1} {unit}", bytes as f64 / worth as f64),
        None => format!("{bytes} B"),
    }
}

/// How much memory may fill before publishers wait.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Watermark {
    /// A share of the memory the process may use: more than 0, at most 1.
    Fraction(f64),
    /// A size in bytes, not 0.
    Bytes(u64),
}

const WATERMARK_EXPECTED: &str =
    "a share of memory such as 0.6 or \"60%\", or a size with its unit such as \"400MiB\"";

impl Watermark {
    /// The watermark in bytes, where the process may use `memory_bytes`.
    pub fn bytes_of(self, memory_bytes: u64) -> u64 {
        match self {
            // Rounding a share of memory by a few bytes is of no consequence, and `as` saturates.
            Self::Fraction(share) => (memory_bytes as f64 * share) as u64,
            Self::Bytes(bytes) => bytes,
        }
    }

    fn share(share: f64, text: &dyn fmt::Display) -> Result<Self, String> {
        match share > 0.0 && share <= 1.0 {
            true => Ok(Self::Fraction(share)),
            false => Err(format!("a share of memory must be above 0 and at most 1 (100%), found {text}")),
        }
    }
}

impl FromStr for Watermark {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || format!("expected {WATERMARK_EXPECTED}, found {text:?}");
        if let Some(percent) = text.strip_suffix('%') {
            let percent: f64 = percent.trim().parse().map_err(|_| refused())?;
            return Self::share(percent / 100.0, &text);
        }
        if let Ok(share) = text.trim().parse::<f64>() {
            return Self::share(share, &text);
        }
        match Unit::Bytes.parse(text) {
            Ok(bytes) if bytes > 0 => Ok(Self::Bytes(bytes)),
            _ => Err(refused()),
        }
    }
}

impl fmt::Display for Watermark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fraction(share) => write!(f, "{share}"),
            Self::Bytes(bytes) => f.write_str(&show_size(*bytes).unwrap_or_else(|| format!("{bytes}B"))),
        }
    }
}

impl<'de> Deserialize<'de> for Watermark {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(WatermarkVisitor)
    }
}

struct WatermarkVisitor;

impl Visitor<'_> for WatermarkVisitor {
    type Value = Watermark;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(WATERMARK_EXPECTED)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Watermark, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_f64<E: Error>(self, share: f64) -> Result<Watermark, E> {
        Watermark::share(share, &share).map_err(E::custom)
    }

    fn visit_i64<E: Error>(self, share: i64) -> Result<Watermark, E> {
        Watermark::share(share as f64, &share).map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::{Unit, Watermark, parse_size, size};

    #[test]
    fn sizes_take_binary_and_decimal_suffixes() {
        for (text, bytes) in
            [("64KiB", 65_536), ("2GB", 2_000_000_000), ("1 MiB", 1_048_576), ("4_096", 4096)]
        {
            assert_eq!(Unit::Bytes.parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn sizes_are_read_in_rabbitmqs_way_too() {
        for (text, bytes) in
            [("1G", 1 << 30), ("500MB", 500_000_000), ("2k", 2048), ("1GiB", 1 << 30), ("7", 7)]
        {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        assert!(parse_size("x").is_err() && parse_size("").is_err());
    }

    #[test]
    fn durations_become_the_unit_of_their_key() {
        assert_eq!(Unit::Milliseconds.parse("10s"), Ok(10_000));
        assert_eq!(Unit::Seconds.parse("2m"), Ok(120));
        assert_eq!(Unit::Milliseconds.parse("500"), Ok(500));
    }

    #[test]
    fn a_wrong_unit_is_refused_by_one_sentence() {
        let refused = Unit::Bytes.parse("10s").unwrap_err();
        assert_eq!(refused, "expected a size such as \"64KiB\" or a whole number of bytes, found \"10s\"");
        assert!(Unit::Seconds.parse("1500ms").is_err(), "no whole seconds");
        assert!(Unit::Count.parse("5KiB").is_err());
        assert!(Unit::Bytes.parse("").is_err());
        assert!(Unit::Bytes.parse("-1").is_err());
        assert!(Unit::Bytes.parse("99999999999999TiB").is_err(), "overflows");
    }

    #[test]
    fn sizes_are_shown_as_short_as_they_are_exact() {
        assert_eq!(Unit::Bytes.show(1 << 20), "\"1MiB\"");
        assert_eq!(Unit::Bytes.show(131_071), "131071");
        assert_eq!(Unit::Bytes.show(0), "0");
    }

    #[test]
    fn sizes_are_told_to_a_tenth() {
        let told = [0, 1023, 1024, 64 << 20, 1_500_000_000, 3 << 40].map(size);
        assert_eq!(told, ["0 B", "1023 B", "1.0 KiB", "64.0 MiB", "1.4 GiB", "3.0 TiB"]);
    }

    #[test]
    fn a_watermark_is_a_share_or_a_size() {
        assert_eq!("60%".parse(), Ok(Watermark::Fraction(0.6)));
        assert_eq!("0.4".parse(), Ok(Watermark::Fraction(0.4)));
        assert_eq!("400MiB".parse(), Ok(Watermark::Bytes(400 << 20)));
        for wrong in ["0", "1.5", "120%", "NaN", "much", "0B", "-5%", ""] {
            assert!(wrong.parse::<Watermark>().is_err(), "{wrong}");
        }
        assert_eq!(Watermark::Fraction(0.5).bytes_of(1000), 500);
        assert_eq!(Watermark::Bytes(7).bytes_of(1000), 7);
    }
}
