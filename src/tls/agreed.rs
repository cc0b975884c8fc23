//! What a handshake came to, in the words in which RabbitMQ tells it.

use rustls::{CipherSuite, ProtocolVersion, ServerConnection};

use crate::broker::presence::{Encryption, PeerCertificate};
use crate::config::Tls;
use crate::tls::certificate::{Certificate, Moment};

/// What both sides agreed on, and who the client proved to be. The settings say where its name is.
pub fn agreed(connection: &ServerConnection, settings: &Tls) -> Encryption {
    let suite = connection.negotiated_cipher_suite().map(|suite| suite.suite());
    let (key_exchange, cipher) = suite.map_or(("", ""), words);
    let peer = connection.peer_certificates().and_then(<[_]>::first);
    Encryption {
        protocol: match connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "tlsv1.3",
            Some(ProtocolVersion::TLSv1_2) => "tlsv1.2",
            _ => "",
        },
        key_exchange,
        cipher,
        hash: "aead",
        certificate: peer.and_then(|der| told(&Certificate::parse(der)?, settings)),
    }
}

fn told(certificate: &Certificate<'_>, settings: &Tls) -> Option<PeerCertificate> {
    Some(PeerCertificate {
        subject: certificate.subject(),
        issuer: certificate.issuer(),
        validity: certificate.validity().map(Moment::shown).join(" - "),
        login: certificate.login(settings.login_from, settings.login_san_type),
    })
}

/// How keys are agreed on, and what encrypts. All that is spoken here is authenticated as it is encrypted.
fn words(suite: CipherSuite) -> (&'static str, &'static str) {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => ("any", "aes_128_gcm"),
        CipherSuite::TLS13_AES_256_GCM_SHA384 => ("any", "aes_256_gcm"),
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => ("any", "chacha20_poly1305"),
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 => ("ecdhe_ecdsa", "aes_128_gcm"),
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 => ("ecdhe_ecdsa", "aes_256_gcm"),
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => ("ecdhe_ecdsa", "chacha20_poly1305"),
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => ("ecdhe_rsa", "aes_128_gcm"),
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => ("ecdhe_rsa", "aes_256_gcm"),
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => ("ecdhe_rsa", "chacha20_poly1305"),
        _ => ("", ""),
    }
}
