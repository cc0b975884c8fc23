//! What `rabbitmq.conf` says of TLS, where only several lines together do.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::config::rabbitmq::{flag, place};
use crate::config::tls::{TlsVersion, Verify};
use crate::config::{Config, ConfigError, Endpoint, Service};

/// What was read so far.
#[derive(Debug, Default)]
pub(super) struct Ssl {
    /// By name.
    listeners: Option<BTreeMap<String, Endpoint>>,
    has_no_listeners: bool,
    authorities: Option<PathBuf>,
    is_verifying: bool,
    is_required: bool,
    has_1_2: bool,
    has_1_3: bool,
}

impl Ssl {
    /// Sets what a line says whose key has these parts; whether it says something here.
    pub(super) fn set(&mut self, key: &[&str], value: &str) -> Result<bool, String> {
        match key {
            ["listeners", "ssl"] if value == "none" => self.has_no_listeners = true,
            ["listeners", "ssl", name] => {
                self.listeners.get_or_insert_default().insert((*name).to_owned(), place(value)?);
            }
            ["ssl_options", "cacertfile"] => self.authorities = Some(PathBuf::from(value)),
            ["ssl_options", "verify"] => {
                self.is_verifying = match value {
                    "verify_peer" => true,
                    "verify_none" => false,
                    _ => return Err(format!("expected verify_peer or verify_none, found {value:?}")),
                };
            }
            ["ssl_options", "fail_if_no_peer_cert"] => self.is_required = flag(value)?,
            ["ssl_options", "versions", _] => match value {
                "tlsv1.3" => self.has_1_3 = true,
                "tlsv1.2" => self.has_1_2 = true,
                // Older ones are spoken by nobody who should be let in.
                _ => return Ok(false),
            },
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Sets what only all of it says.
    ///
    /// # Errors
    /// What holds together no more.
    pub(super) fn finish(self, config: &mut Config) -> Result<(), ConfigError> {
        let tls = &mut config.tls;
        if tls.certificate.is_none() && tls.key.is_none() && tls.mgmt_certificate.is_some() {
            // The management API has one and AMQP has none: then that is the only one there is, and for nothing else.
            (tls.certificate, tls.key) = (tls.mgmt_certificate.take(), tls.mgmt_key.take());
            tls.listeners.clear();
            if tls.prometheus == Service::Usual {
                tls.prometheus = Service::Nowhere;
            }
        } else if self.has_no_listeners {
            // Where there is no certificate nothing need be said.
            if tls.is_on() {
                tls.listeners.clear();
            }
        } else if let Some(listeners) = self.listeners {
            tls.listeners = listeners.into_values().collect();
        }
        if self.has_1_3 && !self.has_1_2 {
            tls.version_min = TlsVersion::V1_3;
        }
        if self.is_required && !self.is_verifying && tls.is_on() {
            // RabbitMQ does not start so either.
            let why = "nobody is asked for a certificate: set ssl_options.verify = verify_peer";
            return Err(ConfigError::of_key("ssl_options.fail_if_no_peer_cert", why));
        }
        // Who asks for no certificates names authorities all the same: RabbitMQ takes the rest of its own chain from them.
        if self.is_verifying {
            tls.verify = if self.is_required { Verify::Required } else { Verify::Optional };
            tls.client_ca = self.authorities;
        }
        Ok(())
    }
}
