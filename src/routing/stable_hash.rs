//! A hash that is the same in every process, on every machine and in every version: what is placed by it stays there.
//!
//! Whoever chooses what is hashed can steer it. It defends no table.

/// The hash of these bytes; other seeds give other ones.
pub fn stable_hash(seed: u64, bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let start = mix(seed ^ bytes.len() as u64);
    let hash = words.iter().fold(start, |hash, word| mix(hash ^ u64::from_le_bytes(*word)));
    let last = rest.iter().rev().fold(0, |last, octet| last << 8 | u64::from(*octet));
    mix(hash ^ last)
}

/// Spreads every bit over all: the last steps of splitmix64.
pub(crate) fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}
