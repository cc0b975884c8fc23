//! What is read anew while the broker runs, at SIGHUP or when an administrator asks: certificates, limits, watermarks, and
//! what is logged.
//!
//! All of it is read and checked before anything is changed. Settings that need a start are named, and stay as they are.
//! A new setting that needs none belongs into [`Config::with_live`].

use std::sync::Arc;

use parking_lot::Mutex;

use crate::broker::Broker;
use crate::cli::args::Settings;
use crate::cli::load::load;
use crate::cli::logging;
use crate::clock::Now;
use crate::config::Config;
use crate::tls::Store;

/// What can be read anew.
#[derive(Debug)]
pub(super) struct Reload {
    /// Where settings come from.
    settings: Settings,
    /// What they said, and what a reload has made of it: what needs a start is as it was at that.
    current: Mutex<Config>,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    /// No broker runs. One may have read already what has changed since.
    Starting {
        /// It was asked to read it once more.
        is_due: bool,
    },
    Running(Arc<Running>),
}

/// A broker that runs.
#[derive(Debug)]
struct Running {
    broker: Arc<Broker>,
    certificates: Option<Arc<Store>>,
}

impl Reload {
    /// Of what these settings say, which is this.
    pub(super) fn new(settings: Settings, config: Config) -> Self {
        Self { settings, current: Mutex::new(config), state: Mutex::new(State::Starting { is_due: false }) }
    }

    /// From now on this broker is meant, which may have been started with what was said before the last reload.
    pub(super) fn begin(&self, broker: Arc<Broker>, certificates: Option<Arc<Store>>) {
        broker.reconfigure(&self.current.lock(), Now::read().instant);
        let running = State::Running(Arc::new(Running { broker, certificates }));
        let before = std::mem::replace(&mut *self.state.lock(), running);
        if let State::Starting { is_due: true } = before {
            // The log has said what came of it.
            let _ = self.run();
        }
    }

    /// No broker runs.
    pub(super) fn end(&self) {
        *self.state.lock() = State::Starting { is_due: false };
    }

    /// Reads all of it, and says in the log what came of it; when a broker has started, if none runs. It waits for the disk:
    /// not for a worker of the runtime.
    ///
    /// # Errors
    /// A sentence that says why everything is as it was.
    pub(super) fn run(&self) -> Result<(), String> {
        let running = match &mut *self.state.lock() {
            State::Starting { is_due } => {
                *is_due = true;
                return Ok(());
            }
            State::Running(running) => Arc::clone(running),
        };
        // One after the other.
        let mut current = self.current.lock();
        let loaded = load(&self.settings).map_err(|why| {
            tracing::error!("nothing is reloaded: {why}");
            why
        })?;
        if let Some(certificates) = &running.certificates {
            reload_certificates(certificates)?;
        }
        loaded.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        let next = current.with_live(&loaded.config);
        let (changed, ignored) = (current.differing(&next), next.differing(&loaded.config));
        if next.log.level != current.log.level {
            logging::set_level(next.log.level);
        }
        if !changed.is_empty() {
            running.broker.reconfigure(&next, Now::read().instant);
        }
        *current = next;
        match changed.as_slice() {
            [] => tracing::info!("settings are reloaded: none has changed"),
            changed => tracing::info!(
                "settings are reloaded: {}: limits of a connection count for who connects from now on",
                changed.join(", ")
            ),
        }
        if !ignored.is_empty() {
            tracing::warn!("{} needs a restart: ignored", ignored.join(", "));
        }
        Ok(())
    }
}

fn reload_certificates(certificates: &Store) -> Result<(), String> {
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::sync::Arc;

    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    use super::Reload;
    use crate::broker::Broker;
    use crate::cli::args::Settings;
    use crate::cli::load::load;
    use crate::clock::Now;
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
        let [certificate, key] = ["own.pem", "own.key"].map(|name| dir.path().join(name));
        let file = dir.path().join("sluicemq.toml");
        let text = format!("[tls]\ncertificate = {certificate:?}\nkey = {key:?}\n");
        fs::write(&file, &text).unwrap();
        put("first", dir.path());
        let settings = || Settings { config: Some(file.clone()), ..Settings::default() };
        let config = load(&settings()).unwrap().config;
        let store = Store::open(&config.tls, Now::read().unix_ms).unwrap().unwrap();
        let broker = Arc::new(Broker::new(Arc::new(config.clone()), u64::MAX, u64::MAX).unwrap());
        put("second", dir.path());
        fs::write(&file, format!("{text}[limits]\nheartbeat_seconds = 7\n")).unwrap();
        let reload = Reload::new(settings(), config);
        reload.run().unwrap();
        assert_eq!(store.shown()[0].subject, "CN=first");
        reload.begin(Arc::clone(&broker), Some(Arc::clone(&store)));
        assert_eq!(store.shown()[0].subject, "CN=second");
        assert_eq!(broker.node.limits().heartbeat_seconds, 7);
        // One that was made of what was said at first hears of it, too.
        reload.end();
        let next = Arc::new(Broker::new(Arc::clone(&broker.config), u64::MAX, u64::MAX).unwrap());
        reload.begin(Arc::clone(&next), Some(store));
        assert_eq!(next.node.limits().heartbeat_seconds, 7);
    }
}
