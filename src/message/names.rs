//! The two names of a message, exchange and routing key, as one piece of bytes.
//!
//! ```text
//! u8 len, exchange | u8 len, routing key
//! ```
//!
//! In one piece they are compared once, hashed once and copied once for each message. That the piece is never
//! empty matters too: comparing empty slices costs some processors a hundred times what comparing full ones does.

/// A view of names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Names<'a>(&'a [u8]);

impl<'a> Names<'a> {
    /// Two empty names.
    pub const EMPTY: Names<'static> = Names(&[0, 0]);

    /// The exchange published to.
    pub fn exchange(self) -> &'a [u8] {
        read_short(self.0).map_or(&[], |(exchange, _)| exchange)
    }

    /// The routing key.
    pub fn routing_key(self) -> &'a [u8] {
        let after_exchange = read_short(self.0).map(|(_, rest)| rest);
        after_exchange.and_then(read_short).map_or(&[], |(key, _)| key)
    }

    /// The whole piece.
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// The names that `bytes` are, as a publish carries them. `None` when they are anything else.
    #[inline]
    pub fn of_wire(bytes: &'a [u8]) -> Option<Self> {
        Self::split_from(bytes).and_then(|(names, rest)| rest.is_empty().then_some(names))
    }

    /// Splits names off the front of `bytes`.
    #[inline]
    pub(super) fn split_from(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (_, rest) = read_short(bytes)?;
        let (_, rest) = read_short(rest)?;
        let (names, rest) = bytes.split_at_checked(bytes.len() - rest.len())?;
        Some((Self(names), rest))
    }
}

fn read_short(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&len, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(len))
}

/// What the length of a name can say.
const NAME_BYTES_MAX: usize = 255;

/// Names with a buffer of their own, kept from one message to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamesBuf(Vec<u8>);

impl NamesBuf {
    /// Replaces the names; each is at most 255 bytes, as short strings are. Of a longer one the rest is left out.
    pub fn set(&mut self, exchange: &[u8], routing_key: &[u8]) {
        self.0.clear();
        for name in [exchange, routing_key] {
            debug_assert!(name.len() <= NAME_BYTES_MAX, "names come from short strings");
            let name = name.get(..NAME_BYTES_MAX).unwrap_or(name);
            self.0.push(name.len() as u8);
            self.0.extend_from_slice(name);
        }
    }

    /// Replaces the names by a copy.
    pub fn copy(&mut self, names: Names<'_>) {
        self.0.clear();
        self.0.extend_from_slice(names.0);
    }

    /// The names.
    pub fn view(&self) -> Names<'_> {
        Names(&self.0)
    }
}

impl Default for NamesBuf {
    fn default() -> Self {
        Self(Names::EMPTY.0.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::{Names, NamesBuf};

    #[test]
    fn names_are_read_as_they_were_set() {
        let mut names = NamesBuf::default();
        assert_eq!((names.view().exchange(), names.view().routing_key()), (&b""[..], &b""[..]));
        names.set(b"amq.topic", b"a.b");
        assert_eq!((names.view().exchange(), names.view().routing_key()), (&b"amq.topic"[..], &b"a.b"[..]));
        let mut bytes = names.view().as_bytes().to_vec();
        bytes.extend_from_slice(b"rest");
        assert_eq!(Names::split_from(&bytes), Some((names.view(), &b"rest"[..])));
    }
}
