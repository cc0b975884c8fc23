//! What is read anew while the broker runs, at SIGHUP or when an administrator asks: certificates, and what belongs to them.
//!
//! Other settings need a start. One that does not belongs here: it is read and checked with the rest, and nothing is
//! changed before all of it is good.

use std::sync::Arc;

use arc_swap::ArcSwapOption;

use crate::clock::Now;
use crate::tls::Store;

/// What can be read anew.
#[derive(Debug, Default)]
pub(super) struct Reload {
    /// That of the broker that runs, or ran last.
    certificates: ArcSwapOption<Store>,
}

impl Reload {
    /// From now on these certificates are meant.
    pub(super) fn certificates_of(&self, store: Option<&Arc<Store>>) {
        self.certificates.store(store.cloned());
    }

    /// Reads all of it, and says in the log what came of it. It waits for the disk: not for a worker of the runtime.
    ///
    /// # Errors
    /// A sentence that says why everything is as it was.
    pub(super) fn run(&self) -> Result<(), String> {
        let Some(certificates) = self.certificates.load_full() else {
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
