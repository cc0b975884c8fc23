//! The files that the settings name, read and checked: nothing that comes from here is half of what was asked for.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

use crate::config::{Tls, Verify};
use crate::tls::certificate::Certificate;
use crate::tls::error::{Named, TlsError};
use crate::tls::patience::Patient;

/// No file of certificates is larger, in bytes.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// A certificate with its key, and what there is to know of it.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) key: Arc<CertifiedKey>,
    pub(super) subject: String,
    pub(super) until_ms: u64,
}

impl Pair {
    /// Reads both files, at this time in milliseconds since 1970.
    pub(super) fn read(certificate: &Named, key: &Named, now_ms: u64) -> Result<Self, TlsError> {
        let chain: Vec<CertificateDer<'static>> = all(certificate, "certificate")?;
        let malformed =
            || TlsError::Malformed { named: certificate.clone(), why: "it is no certificate".to_owned() };
        let first = chain.first().and_then(|first| Certificate::parse(first)).ok_or_else(malformed)?;
        let [from, until] = first.validity();
        if now_ms >= until.unix_ms() {
            return Err(TlsError::Expired { named: certificate.clone(), until: until.shown() });
        }
        if now_ms < from.unix_ms() {
            return Err(TlsError::NotYetValid { named: certificate.clone(), from: from.shown() });
        }
        let (subject, until_ms) = (first.subject(), until.unix_ms());
        let malformed =
            |error: rustls::Error| TlsError::Malformed { named: key.clone(), why: error.to_string() };
        let certified = CertifiedKey::new(chain, any_supported_type(&private_key(key)?).map_err(malformed)?);
        certified
            .keys_match()
            .map_err(|_| TlsError::Mismatch { key: key.clone(), certificate: certificate.clone() })?;
        Ok(Self { key: Arc::new(certified), subject, until_ms })
    }
}

/// Who looks at clients' certificates, where they are asked for one.
pub(super) fn verifier(
    settings: &Tls,
    provider: &Arc<CryptoProvider>,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, TlsError> {
    let Some(path) = settings.client_ca.as_deref().filter(|_| settings.verify != Verify::None) else {
        return Ok(None);
    };
    let named = named("tls.client_ca", path);
    let malformed = |named: &Named, why: String| TlsError::Malformed { named: named.clone(), why };
    let mut roots = RootCertStore::empty();
    for root in all::<CertificateDer<'_>>(&named, "certificate")? {
        roots.add(root).map_err(|error| malformed(&named, error.to_string()))?;
    }
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    let mut of_lists = named;
    if let Some(path) = &settings.crl {
        of_lists = self::named("tls.crl", path);
        let lists: Vec<CertificateRevocationListDer<'_>> = all(&of_lists, "list of revoked certificates")?;
        builder = builder.with_crls(lists).allow_unknown_revocation_status();
    }
    if settings.verify == Verify::Optional {
        builder = builder.allow_unauthenticated();
    }
    let verifier = builder.build().map_err(|error| malformed(&of_lists, error.to_string()))?;
    Ok(Some(Arc::new(Patient(verifier))))
}

/// A file by its setting.
pub(super) fn named(setting: &'static str, path: &Path) -> Named {
    Named { setting, path: path.to_owned() }
}

fn private_key(named: &Named) -> Result<PrivateKeyDer<'static>, TlsError> {
    let text = read(named)?;
    match PrivateKeyDer::from_pem_slice(&text) {
        Ok(key) => Ok(key),
        Err(pem::Error::NoItemsFound) if has(&text, b"-----BEGIN ENCRYPTED PRIVATE KEY-----") => {
            Err(TlsError::Encrypted(named.clone()))
        }
        Err(pem::Error::NoItemsFound) => Err(TlsError::Empty { named: named.clone(), what: "key" }),
        Err(error) => Err(TlsError::Malformed { named: named.clone(), why: error.to_string() }),
    }
}

/// All of a kind that are in a file, of which there must be one.
fn all<T: PemObject>(named: &Named, what: &'static str) -> Result<Vec<T>, TlsError> {
    let text = read(named)?;
    let found: Result<Vec<T>, _> = T::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if found.is_empty() => Err(TlsError::Empty { named: named.clone(), what }),
        Ok(found) => Ok(found),
        Err(error) => Err(TlsError::Malformed { named: named.clone(), why: error.to_string() }),
    }
}

fn read(named: &Named) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    let unreadable = |error| TlsError::Unreadable { named: named.clone(), error };
    // What is no file may never end, and a pipe need not even open.
    if !fs::metadata(&named.path).map_err(unreadable)?.is_file() {
        return Err(TlsError::NoFile(named.clone()));
    }
    let mut bytes = Zeroizing::new(Vec::new());
    let file = File::open(&named.path).map_err(unreadable)?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(TlsError::TooLarge(named.clone()));
    }
    Ok(bytes)
}

fn has(text: &[u8], line: &[u8]) -> bool {
    text.windows(line.len()).any(|window| window == line)
}
