//! What handshakes take: checked as a whole, and swapped as a whole by a reload. Connections keep what they began with.

use std::fmt::{self, Debug};
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use tokio::sync::Semaphore;

use crate::config::{Tls, TlsVersion};
use crate::tls::choose::Choice;
use crate::tls::error::TlsError;
use crate::tls::files::{Pair, named, verifier};

/// What is spoken behind it, as its protocol is registered.
const AMQP: &[u8] = b"amqp";
const HTTP: &[u8] = b"http/1.1";

/// The certificates of a broker.
pub struct Store {
    settings: Tls,
    current: ArcSwap<Loaded>,
    /// Signing takes about a millisecond: strangers have no more of the machine at a time than half of it.
    pub(super) turns: Arc<Semaphore>,
}

/// What was loaded at a time.
pub(super) struct Loaded {
    /// For clients that name AMQP among what they speak, and for all that name nothing, or something else.
    pub(super) amqp: Arc<ServerConfig>,
    pub(super) amqp_unnamed: Arc<ServerConfig>,
    pub(super) http: Arc<ServerConfig>,
    shown: Vec<Shown>,
}

/// A certificate that clients are shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Its file.
    pub path: PathBuf,
    /// Whose it is.
    pub subject: String,
    /// Until when, in milliseconds since 1970.
    pub until_ms: u64,
}

impl Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("shown", &self.shown()).finish_non_exhaustive()
    }
}

impl Store {
    /// Reads what the settings name, at this time in milliseconds since 1970; nothing where TLS is off.
    ///
    /// # Errors
    /// What is wrong, with its file and its setting.
    pub fn open(settings: &Tls, now_ms: u64) -> Result<Option<Arc<Self>>, TlsError> {
        let Some(loaded) = Loaded::read(settings, now_ms)? else { return Ok(None) };
        let at_once = std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2));
        Ok(Some(Arc::new(Self {
            settings: settings.clone(),
            current: ArcSwap::from_pointee(loaded),
            turns: Arc::new(Semaphore::new(at_once)),
        })))
    }

    /// Reads all of it once more. Who comes from now on is shown the new certificates, and checked by the new authorities.
    ///
    /// # Errors
    /// What is wrong: then everything stays as it was.
    pub fn reload(&self, now_ms: u64) -> Result<(), TlsError> {
        if let Some(loaded) = Loaded::read(&self.settings, now_ms)? {
            self.current.store(Arc::new(loaded));
        }
        Ok(())
    }

    /// The certificates that clients are shown.
    pub fn shown(&self) -> Vec<Shown> {
        self.current.load().shown.clone()
    }

    /// The settings by which it was opened.
    pub fn settings(&self) -> &Tls {
        &self.settings
    }

    pub(super) fn current(&self) -> Arc<Loaded> {
        self.current.load_full()
    }
}

impl Loaded {
    fn read(settings: &Tls, now_ms: u64) -> Result<Option<Self>, TlsError> {
        let (Some(certificate), Some(key)) = (&settings.certificate, &settings.key) else { return Ok(None) };
        let mut shown = Vec::new();
        let mut pair = |certificate, key, of: [&'static str; 2]| {
            let [of_certificate, of_key] = of;
            let certificate = named(of_certificate, certificate);
            let read = Pair::read(&certificate, &named(of_key, key), now_ms)?;
            shown.push(Shown { path: certificate.path, subject: read.subject, until_ms: read.until_ms });
            Ok(read.key)
        };
        let usual = pair(certificate, key, ["tls.certificate", "tls.key"])?;
        let mut by_name = Vec::new();
        for own in &settings.names {
            let key = pair(&own.certificate, &own.key, ["tls.names.certificate", "tls.names.key"])?;
            by_name.push((own.name.clone(), key));
        }
        let of_mgmt = match (&settings.mgmt_certificate, &settings.mgmt_key) {
            (Some(certificate), Some(key)) => {
                let own = pair(certificate, key, ["tls.mgmt_certificate", "tls.mgmt_key"])?;
                Choice::new(own, by_name.clone())
            }
            _ => Choice::new(Arc::clone(&usual), by_name.clone()),
        };
        let provider = Arc::new(ring::default_provider());
        let verifier = verifier(settings, &provider)?;
        let amqp = server(settings, Choice::new(usual, by_name), verifier, AMQP);
        let mut amqp_unnamed = amqp.clone();
        amqp_unnamed.alpn_protocols.clear();
        let http = server(settings, of_mgmt, None, HTTP);
        let [amqp, amqp_unnamed, http] = [amqp, amqp_unnamed, http].map(Arc::new);
        Ok(Some(Self { amqp, amqp_unnamed, http, shown }))
    }
}

fn server(
    settings: &Tls,
    choice: Choice,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    speaks: &[u8],
) -> ServerConfig {
    let versions = match settings.version_min {
        TlsVersion::V1_2 => &[&TLS13, &TLS12][..],
        TlsVersion::V1_3 => &[&TLS13],
    };
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_protocol_versions(versions).expect("the provider speaks both");
    let is_verifying = verifier.is_some();
    let verifier = verifier.unwrap_or_else(WebPkiClientVerifier::no_client_auth);
    let mut server = builder.with_client_cert_verifier(verifier).with_cert_resolver(Arc::new(choice));
    server.alpn_protocols = vec![speaks.to_vec()];
    if is_verifying {
        // Who is let in by a certificate shows it each time: it may be revoked since.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
    }
    server
}
