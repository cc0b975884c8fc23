//! Passwords as they are stored: RabbitMQ's base64(salt ‖ H(salt ‖ password)), so that exports load both ways.
//!
//! Knows nothing of users. It takes about a microsecond, so the caller may run it on any thread.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use md5::Md5;
use rand::TryRngCore;
use rand::rngs::OsRng;
use sha2::{Digest, Sha256, Sha512};
use subtle::ConstantTimeEq;
use thiserror::Error;

const SALT_BYTES: usize = 4;

/// The function a hash was made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hashing {
    /// RabbitMQ's default, `rabbit_password_hashing_sha256`.
    Sha256,
    /// `rabbit_password_hashing_sha512`, for imports.
    Sha512,
    /// `rabbit_password_hashing_md5`, of users from before RabbitMQ 3.6. It is found by trying: whoever keeps users says
    /// whether it is taken.
    Md5,
}

/// Why a password was not hashed or a hash not read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PasswordError {
    /// There was no password.
    #[error("an empty password never logs in")]
    Empty,
    /// The operating system gave no random bytes for the salt.
    #[error("no random bytes for a salt: {0}")]
    Salt(String),
    /// A function that is not one of [`Hashing`].
    #[error("hashing algorithm {name:?} is not one of rabbit_password_hashing_sha256, _sha512 and _md5")]
    Hashing {
        /// Its name, cut where it is long.
        name: String,
    },
    /// The text is not the base64 of a salt and a digest.
    #[error("not a password hash of this kind: expected base64 of {expected_bytes} bytes")]
    Malformed {
        /// The bytes of salt and digest together.
        expected_bytes: usize,
    },
}

/// A salt and the digest of salt and password.
#[derive(Clone)]
pub struct PasswordHash {
    hashing: Hashing,
    salt: [u8; SALT_BYTES],
    digest: Box<[u8]>,
}

impl PasswordHash {
    /// Hashes a password with SHA-256 and a fresh salt.
    ///
    /// # Errors
    /// An empty password; no random bytes from the system.
    pub fn hash(password: &[u8]) -> Result<Self, PasswordError> {
        if password.is_empty() {
            return Err(PasswordError::Empty);
        }
        let mut salt = [0; SALT_BYTES];
        OsRng.try_fill_bytes(&mut salt).map_err(|error| PasswordError::Salt(error.to_string()))?;
        Ok(Self::with_salt(Hashing::Sha256, salt, password))
    }

    /// A hash that no password has, so that an unknown user takes as long to refuse as a wrong password.
    pub fn dummy() -> Self {
        Self { hashing: Hashing::Sha256, salt: [0; SALT_BYTES], digest: Box::new([0; 32]) }
    }

    /// Reads the text RabbitMQ exports as `password_hash`.
    ///
    /// # Errors
    /// Text that is no base64, or of another length.
    pub fn from_base64(hashing: Hashing, text: &str) -> Result<Self, PasswordError> {
        let expected_bytes = SALT_BYTES + hashing.digest_bytes();
        let malformed = || PasswordError::Malformed { expected_bytes };
        let bytes = STANDARD.decode(text.trim()).map_err(|_| malformed())?;
        let (salt, digest) = bytes.split_first_chunk().ok_or_else(malformed)?;
        match digest.len() == hashing.digest_bytes() {
            true => Ok(Self { hashing, salt: *salt, digest: digest.into() }),
            false => Err(malformed()),
        }
    }

    /// The text RabbitMQ would export.
    pub fn to_base64(&self) -> String {
        STANDARD.encode([self.salt.as_slice(), &self.digest].concat())
    }

    /// The function it was made with.
    pub fn hashing(&self) -> Hashing {
        self.hashing
    }

    /// Whether this is the password, in a time that does not tell how much of it was right.
    pub fn verify(&self, password: &[u8]) -> bool {
        let given = self.hashing.digest(self.salt, password);
        let same = given.ct_eq(&self.digest);
        bool::from(same) && !password.is_empty()
    }

    fn with_salt(hashing: Hashing, salt: [u8; SALT_BYTES], password: &[u8]) -> Self {
        Self { hashing, salt, digest: hashing.digest(salt, password) }
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PasswordHash({:?})", self.hashing)
    }
}

impl Hashing {
    /// As RabbitMQ writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "rabbit_password_hashing_sha256",
            Self::Sha512 => "rabbit_password_hashing_sha512",
            Self::Md5 => "rabbit_password_hashing_md5",
        }
    }

    /// The one of this name; the first when it is empty.
    ///
    /// # Errors
    /// Another one.
    pub fn from_name(name: &str) -> Result<Self, PasswordError> {
        let known =
            [Self::Sha256, Self::Sha512, Self::Md5].into_iter().find(|hashing| hashing.name() == name);
        match known {
            None if name.is_empty() => Ok(Self::Sha256),
            known => known.ok_or_else(|| PasswordError::Hashing { name: name.chars().take(100).collect() }),
        }
    }

    fn digest_bytes(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
            Self::Md5 => 16,
        }
    }

    fn digest(self, salt: [u8; SALT_BYTES], password: &[u8]) -> Box<[u8]> {
        match self {
            Self::Sha256 => salted::<Sha256>(salt, password),
            Self::Sha512 => salted::<Sha512>(salt, password),
            Self::Md5 => salted::<Md5>(salt, password),
        }
    }
}

fn salted<H: Digest>(salt: [u8; SALT_BYTES], password: &[u8]) -> Box<[u8]> {
    H::new().chain_update(salt).chain_update(password).finalize().as_slice().into()
}

#[cfg(test)]
mod tests {
    use super::{Hashing, PasswordError, PasswordHash};

    /// RabbitMQ's documentation computes this one: salt 908DC60A, password test12.
    const DOCUMENTED: &str = "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR";

    /// The same, with MD5.
    const MD5: &str = "kI3GChNpte2FApYFXScl+0dIluk=";

    #[test]
    fn a_hash_from_rabbitmqs_documentation() {
        let hash = PasswordHash::from_base64(Hashing::Sha256, DOCUMENTED).unwrap();
        assert!(hash.verify(b"test12"));
        assert!(!hash.verify(b"test13"));
        assert_eq!(hash.to_base64(), DOCUMENTED);
    }

    #[test]
    fn each_hash_has_its_own_salt() {
        let (one, other) = (PasswordHash::hash(b"secret").unwrap(), PasswordHash::hash(b"secret").unwrap());
        assert_ne!(one.to_base64(), other.to_base64());
        assert!(one.verify(b"secret") && other.verify(b"secret"));
    }

    #[test]
    fn md5_is_read_and_checked() {
        let read = PasswordHash::from_base64(Hashing::Md5, MD5).unwrap();
        assert!(read.verify(b"test12") && !read.verify(b"test13"));
        assert_eq!(Hashing::from_name("rabbit_password_hashing_md5"), Ok(Hashing::Md5));
    }

    #[test]
    fn sha512_is_read_and_checked() {
        let hash = PasswordHash::with_salt(Hashing::Sha512, *b"salt", b"secret");
        let read = PasswordHash::from_base64(Hashing::Sha512, &hash.to_base64()).unwrap();
        assert!(read.verify(b"secret"));
        let refused = PasswordHash::from_base64(Hashing::Sha256, &hash.to_base64()).unwrap_err();
        assert_eq!(refused, PasswordError::Malformed { expected_bytes: 36 });
    }

    #[test]
    fn an_empty_password_never_authenticates() {
        assert_eq!(PasswordHash::hash(b"").unwrap_err(), PasswordError::Empty);
        assert!(!PasswordHash::with_salt(Hashing::Sha256, *b"salt", b"").verify(b""));
        assert!(!PasswordHash::dummy().verify(b""));
    }

    #[test]
    fn what_is_no_hash_is_refused() {
        for text in ["", "!", "a2tr"] {
            assert!(PasswordHash::from_base64(Hashing::Sha256, text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_hash_is_not_shown() {
        assert_eq!(format!("{:?}", PasswordHash::dummy()), "PasswordHash(Sha256)");
    }
}
