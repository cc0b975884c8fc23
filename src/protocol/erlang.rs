//! How Erlang prints a binary, because RabbitMQ's error texts do and clients' tests compare them.
//!
//! Knows nothing of AMQP.

use std::fmt::{self, Display, Formatter, Write};

/// A binary as `~p` prints it: `<<"text">>` when every octet is printable Latin-1, `<<1,2,3>>` otherwise.
///
/// Unlike Erlang, octets above 127 come out as UTF-8, and long terms are not folded over lines.
pub(crate) struct Pretty<'a>(pub(crate) &'a [u8]);

impl Display for Pretty<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() || !self.0.iter().all(|&octet| is_printable(octet)) {
            return Octets(self.0).fmt(f);
        }
        f.write_str("<<\"")?;
        self.0.iter().try_for_each(|&octet| write_char(f, octet))?;
        f.write_str("\">>")
    }
}

/// A binary as `~w` prints it: always `<<1,2,3>>`.
pub(super) struct Octets<'a>(pub(super) &'a [u8]);

impl Display for Octets<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("<<")?;
        for (i, octet) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{octet}")?;
        }
        f.write_str(">>")
    }
}

/// An atom as `~p` prints it: in quotes when it is no plain word. Names of ours have nothing to escape.
pub(crate) struct Atom<'a>(pub(crate) &'a str);

impl Display for Atom<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let is_word = |rest: &str| rest.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '@'));
        if self.0.starts_with(|first: char| first.is_ascii_lowercase()) && is_word(self.0) {
            return f.write_str(self.0);
        }
        write!(f, "'{}'", self.0)
    }
}

fn is_printable(octet: u8) -> bool {
    matches!(octet, 8..=13 | 27 | 32..=126 | 160..=255)
}

fn write_char(f: &mut Formatter<'_>, octet: u8) -> fmt::Result {
    match octet {
        b'"' => f.write_str("\\\""),
        b'\\' => f.write_str("\\\\"),
        8 => f.write_str("\\b"),
        9 => f.write_str("\\t"),
        10 => f.write_str("\\n"),
        11 => f.write_str("\\v"),
        12 => f.write_str("\\f"),
        13 => f.write_str("\\r"),
        27 => f.write_str("\\e"),
        _ => f.write_char(char::from(octet)),
    }
}

#[cfg(test)]
mod tests {
    use super::{Atom, Octets, Pretty};

    #[test]
    fn prints_as_erlang_does() {
        let pretty = |octets: &[u8]| Pretty(octets).to_string();
        assert_eq!(pretty(b""), "<<>>");
        assert_eq!(pretty(&[1, 2, 3]), "<<1,2,3>>");
        assert_eq!(pretty(b"GET / HTTP/1.1"), r#"<<"GET / HTTP/1.1">>"#);
        assert_eq!(pretty(b"a\"b\\c\n\x1b"), r#"<<"a\"b\\c\n\e">>"#);
        assert_eq!(pretty(b"A\x7f"), "<<65,127>>");
        assert_eq!(pretty(b"caf\xe9"), "<<\"café\">>");
        assert_eq!(Octets(b"AB").to_string(), "<<65,66>>");
        assert_eq!(
            ["fanout", "x-random", "Topic"].map(|name| Atom(name).to_string()),
            ["fanout", "'x-random'", "'Topic'"]
        );
    }
}
