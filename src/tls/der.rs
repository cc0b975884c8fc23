//! Reads DER, the encoding of certificates, as far as one is looked into.
// X.690 §8.1, §10.1

/// Tags.
pub(super) const BOOLEAN: u8 = 0x01;
pub(super) const INTEGER: u8 = 0x02;
pub(super) const UTF8_STRING: u8 = 0x0c;
pub(super) const PRINTABLE_STRING: u8 = 0x13;
pub(super) const TELETEX_STRING: u8 = 0x14;
pub(super) const IA5_STRING: u8 = 0x16;
pub(super) const UTC_TIME: u8 = 0x17;
pub(super) const GENERALIZED_TIME: u8 = 0x18;
pub(super) const BMP_STRING: u8 = 0x1e;
pub(super) const SEQUENCE: u8 = 0x30;

/// What is left of an element's content.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    /// The next element: its tag and its content. `None` at the end, and where it is not whole.
    pub(super) fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&[tag, first], rest) = self.0.split_first_chunk()?;
        let (length, rest) = match first {
            short @ 0..=0x7f => (usize::from(short), rest),
            0x81..=0x84 => {
                let (octets, rest) = rest.split_at_checked(usize::from(first - 0x80))?;
                (octets.iter().fold(0, |sum, octet| sum << 8 | usize::from(*octet)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }

    /// The content of the next element, which must be of this tag.
    pub(super) fn take(&mut self, tag: u8) -> Option<Self> {
        self.next().filter(|(found, _)| *found == tag).map(|(_, content)| Self(content))
    }

    /// The next element, if it is of this tag; otherwise nothing is taken.
    pub(super) fn take_if(&mut self, tag: u8) -> Option<Self> {
        if self.0.first() == Some(&tag) { self.take(tag) } else { None }
    }

    /// All elements that follow.
    pub(super) fn all(mut self) -> impl Iterator<Item = (u8, &'a [u8])> {
        std::iter::from_fn(move || self.next())
    }
}

/// An object identifier in numbers and dots.
pub(super) fn dotted(identifier: &[u8]) -> String {
    let (mut parts, mut part) = (Vec::new(), 0_u64);
    for octet in identifier {
        part = part.wrapping_shl(7) | u64::from(octet & 0x7f);
        if octet & 0x80 == 0 {
            if parts.is_empty() {
                let first = (part / 40).min(2);
                parts.extend([first, part - 40 * first]);
            } else {
                parts.push(part);
            }
            part = 0;
        }
    }
    parts.iter().map(u64::to_string).collect::<Vec<_>>().join(".")
}

/// A text of any of the kinds that names in certificates have; `None` where it is of no such kind, or not well-formed.
pub(super) fn text(tag: u8, content: &[u8]) -> Option<String> {
    match tag {
        UTF8_STRING | PRINTABLE_STRING | IA5_STRING => String::from_utf8(content.to_vec()).ok(),
        TELETEX_STRING => Some(content.iter().copied().map(char::from).collect()),
        BMP_STRING => {
            let units = content
                .chunks_exact(2)
                .map(|pair| pair.iter().fold(0, |sum, octet| sum << 8 | u16::from(*octet)));
            String::from_utf16(&units.collect::<Vec<_>>()).ok()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{BMP_STRING, Reader, SEQUENCE, UTF8_STRING, dotted, text};

    #[test]
    fn elements_are_read_one_by_one_and_nothing_past_the_end() {
        let mut reader = Reader(&[0x30, 0x03, 0x02, 0x01, 0x05, 0x0c, 0x81, 0x01, b'x', 0x0c, 0x05, b'y']);
        assert_eq!(reader.take(SEQUENCE).unwrap().take_if(0x02).unwrap().0, [5]);
        assert!(reader.take_if(SEQUENCE).is_none());
        assert_eq!(reader.next(), Some((UTF8_STRING, &b"x"[..])));
        assert_eq!(reader.next(), None, "five octets are not there");
        for wrong in
            [&[][..], &[0x30], &[0x30, 0x80, 0, 0], &[0x30, 0x85, 0, 0, 0, 0, 1, 0], &[0x30, 0x84, 0xff]]
        {
            assert_eq!(Reader(wrong).next(), None, "{wrong:?}");
        }
    }

    #[test]
    fn identifiers_and_texts_are_shown() {
        assert_eq!(dotted(&[0x55, 0x04, 0x03]), "2.5.4.3");
        assert_eq!(dotted(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x01]), "1.2.840.113549.1.9.1");
        assert_eq!(text(BMP_STRING, &[0x20, 0xac]).as_deref(), Some("€"));
        assert_eq!(text(UTF8_STRING, &[0xff]), None);
        assert_eq!(text(SEQUENCE, b"x"), None);
    }
}
