//! Names the broker makes up: for queues, consumers, reply addresses.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// A name nobody can guess: the prefix and 22 characters.
pub fn generate(prefix: &str) -> String {
    let random: [u8; 16] = rand::random();
    format!("{prefix}{}", URL_SAFE_NO_PAD.encode(random))
}
