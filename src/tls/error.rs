//! Why certificates are not taken: one sentence that names the setting and the file.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// A file, and the setting that names it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{setting}: {}", path.display())]
pub struct Named {
    /// The setting.
    pub setting: &'static str,
    /// The file.
    pub path: PathBuf,
}

/// Why nothing can be served with these certificates.
#[derive(Debug, Error)]
pub enum TlsError {
    /// There is no such file, or it is not for this process.
    #[error("{named} cannot be read: {error}")]
    Unreadable {
        /// Which.
        named: Named,
        /// The system's own words.
        error: io::Error,
    },
    /// It is a directory, a pipe or a device.
    #[error("{0} is no file")]
    NoFile(Named),
    /// It is larger than any file of certificates.
    #[error("{0} is larger than 16MiB, and no file of certificates")]
    TooLarge(Named),
    /// It is no PEM, or what is in it is broken.
    #[error("{named} cannot be understood: {why}")]
    Malformed {
        /// Which.
        named: Named,
        /// What is wrong.
        why: String,
    },
    /// There is nothing in it that is looked for.
    #[error("{named} has no {what} in it")]
    Empty {
        /// Which.
        named: Named,
        /// What should be there.
        what: &'static str,
    },
    /// The key needs a passphrase.
    #[error("{0} is encrypted: a key must be readable without a passphrase")]
    Encrypted(Named),
    /// The key is another certificate's.
    #[error("{key} is not the key of the certificate in {}", certificate.path.display())]
    Mismatch {
        /// The key.
        key: Named,
        /// The certificate.
        certificate: Named,
    },
    /// The certificate is over.
    #[error("{named} has expired: it was valid until {until}")]
    Expired {
        /// Which.
        named: Named,
        /// Its end.
        until: String,
    },
    /// The certificate has not begun.
    #[error("{named} is not valid yet: it is from {from} on")]
    NotYetValid {
        /// Which.
        named: Named,
        /// Its beginning.
        from: String,
    },
}
