//! What each message carries in its first 16 bytes: who sent it, its number, and when.
//!
//! ```text
//!  0        2                    8                      16
//!  | sender | number (48 bits)   | nanoseconds since the run began |
//! ```

/// From this size on a message carries sender and number.
pub(super) const NUMBERED_BYTES: usize = 8;
/// From this size on it carries the time as well.
pub(super) const TIMED_BYTES: usize = 16;

/// The bits of a message's number.
const NUMBER_BITS: u32 = 48;

/// The first bytes of a message, as far as they are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) producer: u16,
    pub(super) number: u64,
    pub(super) sent_ns: u64,
}

impl Stamp {
    /// The 16 bytes; a smaller message takes a prefix.
    pub(super) fn to_bytes(self) -> [u8; TIMED_BYTES] {
        let id = (u64::from(self.producer) << NUMBER_BITS) | self.number;
        let mut bytes = [0; TIMED_BYTES];
        let (first, second) = bytes.split_at_mut(NUMBERED_BYTES);
        first.copy_from_slice(&id.to_be_bytes());
        second.copy_from_slice(&self.sent_ns.to_be_bytes());
        bytes
    }

    /// Reads them back. The time of a message too small to carry it is 0.
    pub(super) fn from_bytes(bytes: [u8; TIMED_BYTES]) -> Self {
        let both = u128::from_be_bytes(bytes);
        let id = (both >> 64) as u64;
        Self {
            producer: (id >> NUMBER_BITS) as u16,
            number: id & ((1 << NUMBER_BITS) - 1),
            sent_ns: both as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Stamp;

    #[test]
    fn a_stamp_reads_back() {
        let stamp = Stamp { producer: u16::MAX, number: (1 << 48) - 1, sent_ns: u64::MAX - 1 };
        assert_eq!(Stamp::from_bytes(stamp.to_bytes()), stamp);
    }
}
