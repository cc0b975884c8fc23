//! Clients' certificates are checked as far as an honest one leads: looking for a way from a certificate to an authority
//! takes the longer the more of those are sent that might lie between, and the client is a stranger.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

/// So many certificates lie between a client's own and an authority's at most.
const BETWEEN_MAX: usize = 4;

/// A check that looks no further.
#[derive(Debug)]
pub(super) struct Patient(pub(super) Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for Patient {
    fn offer_client_auth(&self) -> bool {
        self.0.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        own: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match between.len() {
            ..=BETWEEN_MAX => self.0.verify_client_cert(own, between, now),
            _ => Err(CertificateError::UnknownIssuer.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        own: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, own, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        own: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, own, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use rustls::crypto::ring;
    use rustls::server::WebPkiClientVerifier;
    use rustls::{CertificateError, Error, RootCertStore};

    use super::{BETWEEN_MAX, CertificateDer, ClientCertVerifier, Patient, UnixTime};

    #[test]
    fn who_sends_more_certificates_than_lead_anywhere_is_nobody() {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap();
        let own = CertificateParams::new(vec!["orders".to_owned()]).unwrap();
        let own = own.signed_by(&KeyPair::generate().unwrap(), &Issuer::new(params, key)).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(root.der().clone()).unwrap();
        let provider = ring::default_provider().into();
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build().unwrap();
        let verifier = Patient(verifier);
        let check = |between: usize| {
            let between: Vec<CertificateDer<'_>> = vec![root.der().clone(); between];
            verifier.verify_client_cert(own.der(), &between, UnixTime::now())
        };
        check(BETWEEN_MAX).unwrap();
        let unknown = Error::InvalidCertificate(CertificateError::UnknownIssuer);
        assert_eq!(check(BETWEEN_MAX + 1).unwrap_err(), unknown);
    }
}
