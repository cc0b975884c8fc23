//! The `[tls]` of the configuration: which certificates are shown to whom, and what is asked of clients.
//!
//! Knows no certificate: whoever serves reads the files.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::Deserialize;
use serde::de::{Deserializer, Error};

use crate::config::endpoint::{Endpoint, is_name};
use crate::config::environment::{items, parse_tables};
use crate::config::{ConfigError, Service, words};

/// Where AMQP over TLS is served when there is a certificate and nobody says otherwise.
pub const TLS_LISTENER_DEFAULT: &str = "127.0.0.1:5671";

/// Where the management API over TLS is when there is a certificate and nobody says otherwise.
pub const TLS_MGMT_DEFAULT: &str = "127.0.0.1:15671";

/// Where metrics over TLS are when there is a certificate and nobody says otherwise.
pub const TLS_PROMETHEUS_DEFAULT: &str = "127.0.0.1:15691";

/// The `[tls]` of the configuration. Without a certificate nothing of it is served.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// The certificate, and those that lead to a known authority behind it: a PEM file.
    pub certificate: Option<PathBuf>,
    /// Its key: a PEM file, as PKCS#8, PKCS#1 or SEC1.
    pub key: Option<PathBuf>,
    /// Addresses and ports to serve AMQP on.
    pub listeners: Vec<Endpoint>,
    /// Where the management API is served.
    pub mgmt: Service,
    /// Where metrics are served.
    pub prometheus: Service,
    /// The certificate of the management API and the metrics, where it is another.
    pub mgmt_certificate: Option<PathBuf>,
    /// Its key.
    pub mgmt_key: Option<PathBuf>,
    /// The authorities that clients' certificates come from: a PEM file.
    pub client_ca: Option<PathBuf>,
    /// What is asked of clients that speak AMQP.
    pub verify: Verify,
    /// Certificates of clients that are revoked: a PEM file of lists.
    pub crl: Option<PathBuf>,
    /// The oldest version that is spoken.
    pub version_min: TlsVersion,
    /// Where in a certificate the name is of who logs in by it (EXTERNAL).
    pub login_from: LoginFrom,
    /// Which of the subject's other names it is, where it is one of these.
    pub login_san_type: SanType,
    /// Other certificates, for clients that ask for one of these names.
    pub names: Vec<NamedCertificate>,
}

/// A certificate for those who ask for a name.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table with a name, a certificate and a key")]
pub struct NamedCertificate {
    /// The host's name; `*.example.com` are all that have one label more.
    pub name: String,
    /// The certificate, likewise.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

words! {
    /// What is asked of clients that speak AMQP.
    Verify {
        /// No certificate.
        None = "none",
        /// A certificate, which must be good; one without may log in otherwise.
        Optional = "optional",
        /// A good certificate, or it is not let in.
        Required = "required",
    }
}

words! {
    /// A version of TLS.
    TlsVersion {
        /// TLS 1.2.
        V1_2 = "1.2",
        /// TLS 1.3.
        V1_3 = "1.3",
    }
}

words! {
    /// Where in a certificate a user's name is.
    LoginFrom {
        /// The whole subject, as RFC 4514 writes it.
        DistinguishedName = "distinguished_name",
        /// The subject's common name.
        CommonName = "common_name",
        /// The first of the subject's other names.
        SubjectAlternativeName = "subject_alternative_name",
    }
}

words! {
    /// A kind of a subject's other names.
    SanType {
        /// A host's name.
        Dns = "dns",
        /// An address of electronic mail.
        Email = "email",
        /// A URI.
        Uri = "uri",
    }
}

impl Default for Tls {
    fn default() -> Self {
        Self {
            certificate: None,
            key: None,
            listeners: TLS_LISTENER_DEFAULT.parse().into_iter().collect(),
            mgmt: Service::Usual,
            prometheus: Service::Usual,
            mgmt_certificate: None,
            mgmt_key: None,
            client_ca: None,
            verify: Verify::None,
            crl: None,
            version_min: TlsVersion::V1_2,
            login_from: LoginFrom::DistinguishedName,
            login_san_type: SanType::Dns,
            names: Vec::new(),
        }
    }
}

/// What the settings are called in variables.
pub(super) const KEYS: [&str; 14] = [
    "CERTIFICATE",
    "KEY",
    "LISTEN",
    "MGMT",
    "PROMETHEUS",
    "MGMT_CERTIFICATE",
    "MGMT_KEY",
    "CLIENT_CA",
    "VERIFY",
    "CRL",
    "VERSION_MIN",
    "LOGIN_FROM",
    "LOGIN_SAN_TYPE",
    "NAMES",
];

impl Tls {
    /// Whether anything is served over TLS.
    pub fn is_on(&self) -> bool {
        self.certificate.is_some()
    }

    /// Where AMQP is served over TLS.
    pub fn amqp(&self) -> &[Endpoint] {
        if self.is_on() { &self.listeners } else { &[] }
    }

    pub(super) fn validate(&self, plain: &[Endpoint]) -> Result<(), ConfigError> {
        let refused = |key: &str, message: &str| Err(ConfigError::of_key(format!("tls.{key}"), message));
        for (key, file, other, with) in [
            ("certificate", &self.certificate, "key", &self.key),
            ("mgmt_certificate", &self.mgmt_certificate, "mgmt_key", &self.mgmt_key),
        ] {
            if file.is_some() && with.is_none() {
                return refused(key, &format!("a certificate is of no use without its key: set tls.{other}"));
            }
            if file.is_none() && with.is_some() {
                return refused(other, &format!("a key is of no use without its certificate: set tls.{key}"));
            }
        }
        if let Some(key) = self.useless().filter(|_| !self.is_on()) {
            return refused(key, "means nothing without a certificate: set tls.certificate and tls.key");
        }
        match (self.verify, &self.client_ca) {
            (Verify::None, Some(_)) => {
                return refused("client_ca", "nobody is asked for a certificate: set tls.verify");
            }
            (Verify::Optional | Verify::Required, None) => {
                return refused("verify", "certificates of clients need authorities: set tls.client_ca");
            }
            (Verify::None, None) if self.crl.is_some() => {
                return refused("crl", "nobody is asked for a certificate: set tls.client_ca and tls.verify");
            }
            _ => {}
        }
        for (place, listener) in self.listeners.iter().enumerate().filter(|(_, own)| own.port() != 0) {
            if plain.contains(listener) || self.listeners.iter().take(place).any(|other| other == listener) {
                return refused(&format!("listeners[{place}]"), &format!("{listener} is there twice"));
            }
        }
        for (place, named) in self.names.iter().enumerate() {
            if !is_name(named.name.strip_prefix("*.").unwrap_or(&named.name)) {
                let message =
                    format!("expected a host's name such as \"mq.example.com\", found {:?}", named.name);
                return refused(&format!("names[{place}].name"), &message);
            }
        }
        Ok(())
    }

    /// What is set, and is for a broker with a certificate.
    fn useless(&self) -> Option<&'static str> {
        let usual = Self::default();
        let set = [
            ("listeners", self.listeners != usual.listeners),
            ("mgmt", matches!(self.mgmt, Service::At(_))),
            ("prometheus", matches!(self.prometheus, Service::At(_))),
            ("mgmt_certificate", self.mgmt_certificate.is_some()),
            ("client_ca", self.client_ca.is_some()),
            ("verify", self.verify != usual.verify),
            ("names", !self.names.is_empty()),
        ];
        set.into_iter().find_map(|(key, is_set)| is_set.then_some(key))
    }

    /// Sets one key from text; `None` when there is no such key.
    pub(super) fn set(&mut self, key: &str, text: &str) -> Option<Result<(), String>> {
        let file = match key {
            "CERTIFICATE" => &mut self.certificate,
            "KEY" => &mut self.key,
            "MGMT_CERTIFICATE" => &mut self.mgmt_certificate,
            "MGMT_KEY" => &mut self.mgmt_key,
            "CLIENT_CA" => &mut self.client_ca,
            "CRL" => &mut self.crl,
            _ => return self.set_word(key, text),
        };
        if text.is_empty() {
            return Some(Err("expected a file, found nothing".to_owned()));
        }
        *file = Some(PathBuf::from(text));
        Some(Ok(()))
    }

    fn set_word(&mut self, key: &str, text: &str) -> Option<Result<(), String>> {
        Some(match key {
            "LISTEN" => items(text).map(str::parse).collect::<Result<_, _>>().map(|all| self.listeners = all),
            "MGMT" => text.parse().map(|service| self.mgmt = service),
            "PROMETHEUS" => text.parse().map(|service| self.prometheus = service),
            "VERIFY" => text.parse().map(|verify| self.verify = verify),
            "VERSION_MIN" => text.parse().map(|version| self.version_min = version),
            "LOGIN_FROM" => text.parse().map(|from| self.login_from = from),
            "LOGIN_SAN_TYPE" => text.parse().map(|kind| self.login_san_type = kind),
            "NAMES" => {
                let form = "[{ name = \"…\", certificate = \"…\", key = \"…\" }]";
                parse_tables("names", text, form).map(|names| self.names = names)
            }
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    #[test]
    fn what_goes_together_is_set_together() {
        let pair = "certificate = \"c\"\nkey = \"k\"\n";
        for (text, expected) in [
            ("certificate = \"c\"", "line 2: tls.certificate: a certificate is of no use without its key"),
            ("key = \"k\"", "line 2: tls.key: a key is of no use without its certificate"),
            ("listeners = [\"[::]:5671\"]", "line 2: tls.listeners: means nothing without a certificate"),
            ("verify = \"required\"", "line 2: tls.verify: means nothing without a certificate"),
            ("verify = \"maybe\"", "line 2: tls.verify: expected one of none optional required, found"),
            (&format!("{pair}verify = \"required\""), "line 4: tls.verify: certificates of clients need"),
            (&format!("{pair}client_ca = \"a\""), "line 4: tls.client_ca: nobody is asked"),
            (&format!("{pair}crl = \"a\""), "line 4: tls.crl: nobody is asked"),
            (
                &format!("{pair}listeners = [\"127.0.0.1:5672\"]"),
                "line 4: tls.listeners[0]: 127.0.0.1:5672 is",
            ),
            (
                &format!("{pair}names = [{{ name = \"*.*\", certificate = \"c\", key = \"k\" }}]"),
                "line 4: tls.names[0].name: expected a host's name",
            ),
            (&format!("{pair}names = [3]"), "line 4: tls.names[0]: "),
        ] {
            let told = Config::from_toml(&format!("[tls]\n{text}")).unwrap_err().to_string();
            assert!(told.starts_with(expected), "{text}\n  told:     {told}\n  expected: {expected}");
        }
    }

    #[test]
    fn it_is_off_until_there_is_a_certificate() {
        let mut config = Config::default();
        assert!(!config.tls.is_on() && config.tls.amqp().is_empty());
        let variables = [("CERTIFICATE", "c"), ("KEY", "k"), ("VERSION_MIN", "1.3")];
        let named = ("NAMES", "[{ name = \"*.example.com\", certificate = \"c\", key = \"k\" }]");
        let of_tls = variables.into_iter().chain([named]);
        let of_tls = of_tls.map(|(key, value)| (format!("SLUICEMQ_TLS_{key}"), value.to_owned()));
        config.overlay(of_tls).unwrap();
        assert_eq!(config.tls.amqp().iter().map(ToString::to_string).collect::<Vec<_>>(), ["127.0.0.1:5671"]);
        assert_eq!(config.tls.names[0].name, "*.example.com");
        let printed =
            config.to_commented_toml().replace("# password = \"…\" (set, and not shown)", "password = \"x\"");
        assert_eq!(Config::from_toml(&printed).unwrap().to_commented_toml(), config.to_commented_toml());
    }
}
