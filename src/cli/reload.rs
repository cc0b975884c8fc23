//! What is read anew while the broker runs, at SIGHUP or when an administrator asks: certificates, and what belongs to them.
//!
//! Other settings need a start. One that does not belongs here: it is read and checked with the rest, and nothing is
//! changed before all of it is good.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::clock::Now;
use crate::tls::Store;

/// What can be read anew.
#[derive(Debug, Default)]
pub(super) struct Reload(Mutex<State>);

#[derive(Debug)]
enum State {
    /// The broker starts for the first time, and may have read already what has changed since.
    Starting {
        /// It was asked to read it once more.
        is_due: bool,
    },
    /// It runs, or ran last, with these certificates.
    Started(Option<Arc<Store>>),
}

impl Default for State {
    fn default() -> Self {
        Self::Starting { is_due: false }
    }
}

impl Reload {
    /// From now on these certificates are meant.
    pub(super) fn certificates_of(&self, store: Option<&Arc<Store>>) {
        let before = std::mem::replace(&mut *self.0.lock(), State::Started(store.cloned()));
        if let State::Starting { is_due: true } = before {
            // The log has said what came of it.
            let _ = self.run();
        }
    }

    /// Reads all of it, and says in the log what came of it; when the broker has started, if it has not. It waits for the
    /// disk: not for a worker of the runtime.
    ///
    /// # Errors
    /// A sentence that says why everything is as it was.
    pub(super) fn run(&self) -> Result<(), String> {
        let certificates = match &mut *self.0.lock() {
            State::Starting { is_due } => {
                *is_due = true;
                return Ok(());
            }
            State::Started(certificates) => certificates.clone(),
        };
        let Some(certificates) = certificates else {
            let why = "there is nothing to reload: tls.certificate is not set";
            tracing::warn!("{why}");
            return Err(why.to_owned());
        };
        match certificates.reload(Now::read().unix_ms) {
            Ok(()) => {
                tracing::info!("certificates are reloaded: who connects from now on is shown the new ones");
                Ok(())
            }
            Err(error) => {
                tracing::error!("certificates are not reloaded, and the old ones stay: {error}");
                Err(error.to_string())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    use super::Reload;
    use crate::clock::Now;
    use crate::config::Tls;
    use crate::tls::Store;

    /// Puts a certificate of this name there.
    fn put(name: &str, dir: &Path) {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        fs::write(dir.join("own.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        fs::write(dir.join("own.key"), key.serialize_pem()).unwrap();
    }

    #[test]
    fn what_changes_while_the_broker_starts_is_read_when_it_has() {
        let dir = tempfile::tempdir().unwrap();
        let [certificate, key] = ["own.pem", "own.key"].map(|name| Some(dir.path().join(name)));
        put("first", dir.path());
        let settings = Tls { certificate, key, ..Tls::default() };
        let store = Store::open(&settings, Now::read().unix_ms).unwrap().unwrap();
        put("second", dir.path());
        let reload = Reload::default();
        reload.run().unwrap();
        assert_eq!(store.shown()[0].subject, "CN=first");
        reload.certificates_of(Some(&store));
        assert_eq!(store.shown()[0].subject, "CN=second");
    }

    #[test]
    fn without_certificates_there_is_nothing_to_reload() {
        let reload = Reload::default();
        reload.certificates_of(None);
        assert!(reload.run().unwrap_err().starts_with("there is nothing to reload"));
    }
}
