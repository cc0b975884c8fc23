//! The environment laid over a configuration: `SLUICEMQ_` and the key in capitals, dots as underscores.
//!
//! Lists are separated by commas; `SLUICEMQ_USERS` takes the array of tables the file would have. A variable of a
//! setting that does not exist is refused like a key of the file. Those that Kubernetes makes for a service of our name
//! (`SLUICEMQ_PORT=tcp://...`) are nobody's mistake, but the caller is told. Knows nothing of where the variables come
//! from.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::de::DeserializeOwned;

use crate::config::nearest::nearest;
use crate::config::{Config, ConfigError, Identity, Origin, limits, storage, tls};

/// What the names of all variables start with.
pub const PREFIX: &str = "SLUICEMQ_";

/// The variable that names the configuration file; whoever reads the file reads it.
pub const CONFIG_FILE: &str = "SLUICEMQ_CONFIG";

/// What the names of those start with, behind [`PREFIX`], that are the command line's of a running broker.
const OF_CTL: &str = "CTL_";

/// The keys that are of none of the tables below, as variables have them.
const KEYS: [&str; 19] = [
    "LISTEN",
    "PROXY_PROTOCOL_FROM",
    "MGMT",
    "WEBSOCKET",
    "WEBSOCKET_ORIGINS",
    "PROMETHEUS",
    "SOCKET",
    "DATA_DIR",
    "VHOSTS",
    "LOOPBACK_USERS",
    "DEFINITIONS",
    "ANONYMOUS_LOGIN_USER",
    "USERS",
    "MEMORY_WATERMARK",
    "IDENTITY_PRODUCT",
    "IDENTITY_VERSION",
    "IDENTITY_CLUSTER_NAME",
    "LOG_LEVEL",
    "LOG_FORMAT",
];

impl Config {
    /// Sets what the variables say, and returns the names of those that are about a service of our name.
    ///
    /// # Errors
    /// The first mistake, with its variable and what was expected.
    pub fn overlay(
        &mut self,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Vec<String>, ConfigError> {
        let mut of_services = Vec::new();
        for (name, text) in variables {
            let Some(key) = name.strip_prefix(PREFIX) else { continue };
            if name == CONFIG_FILE || key.starts_with(OF_CTL) {
                continue;
            }
            match self.set(key, &text) {
                Some(Ok(())) => {}
                Some(Err(why)) => return Err(ConfigError::of_key("", why).in_variable(&name)),
                None if is_of_service(key, &text) => of_services.push(name),
                None => return Err(ConfigError::of_key("", unknown(key)).in_variable(&name)),
            }
        }
        self.validate()?;
        Ok(of_services)
    }

    /// Sets one key from text; `None` when there is no such key.
    pub(super) fn set(&mut self, key: &str, text: &str) -> Option<Result<(), String>> {
        let done = match key {
            "LISTEN" => items(text).map(str::parse).collect::<Result<_, _>>().map(|all| self.listeners = all),
            "PROXY_PROTOCOL_FROM" => items(text)
                .map(str::parse)
                .collect::<Result<_, _>>()
                .map(|all| self.proxy_protocol_from = all),
            "MGMT" => text.parse().map(|service| self.mgmt = service),
            "PROMETHEUS" => text.parse().map(|service| self.prometheus = service),
            "SOCKET" => match text.parse() {
                Ok(socket) => {
                    self.socket = socket;
                    Ok(())
                }
                Err(never) => match never {},
            },
            "DATA_DIR" if text.is_empty() => Err("expected a directory, found nothing".to_owned()),
            "DATA_DIR" => {
                self.data_dir = Some(PathBuf::from(text));
                Ok(())
            }
            "VHOSTS" => {
                self.vhosts = items(text).map(str::to_owned).collect();
                Ok(())
            }
            "LOOPBACK_USERS" => {
                self.loopback_users = items(text).map(str::to_owned).collect();
                Ok(())
            }
            "DEFINITIONS" if text.is_empty() => Err("expected a file, found nothing".to_owned()),
            "DEFINITIONS" => {
                self.definitions = Some(PathBuf::from(text));
                Ok(())
            }
            "ANONYMOUS_LOGIN_USER" => {
                self.anonymous_login_user = Some(text.to_owned());
                Ok(())
            }
            "MD5_PASSWORDS" => flag(text).map(|is_set| self.md5_passwords = is_set),
            "WEBSOCKET" => flag(text).map(|is_served| self.websocket = is_served),
            "WEBSOCKET_ORIGINS" => {
                self.websocket_origins = items(text).map(str::to_owned).collect();
                Ok(())
            }
            "USERS" => {
                let form = "[{ name = \"…\", password = \"…\", vhosts = [\"/\"] }]";
                parse_tables("users", text, form).map(|users| self.users = users)
            }
            "MEMORY_WATERMARK" => text.parse().map(|watermark| self.memory.watermark = watermark),
            "LOG_LEVEL" => text.parse().map(|level| self.log.level = level),
            "LOG_FORMAT" => text.parse().map(|format| self.log.format = format),
            _ if key.starts_with("IDENTITY_") => {
                return self.identity.set(key.strip_prefix("IDENTITY_")?, text).map(Ok);
            }
            _ if key.starts_with("TLS_") => return self.tls.set(key.strip_prefix("TLS_")?, text),
            _ if key.starts_with("STORAGE_") => return self.storage.set(key.strip_prefix("STORAGE_")?, text),
            _ => return self.limits.set(&key.strip_prefix("LIMITS_")?.to_lowercase(), text),
        };
        Some(done)
    }
}

impl Identity {
    /// Sets one key from text, which may be any; `None` when there is no such key.
    fn set(&mut self, key: &str, text: &str) -> Option<()> {
        let text = text.to_owned();
        match key {
            "PRODUCT" => self.product = text,
            "VERSION" => self.version = text,
            "CLUSTER_NAME" => self.cluster_name = text,
            "NODE" => self.node = Some(text),
            _ => return None,
        }
        Some(())
    }
}

/// Whether Kubernetes tells every container so about a service whose name begins with ours.
fn is_of_service(key: &str, text: &str) -> bool {
    let of_port = |(_, rest): (&str, &str)| {
        let number = rest.split('_').next().unwrap_or_default();
        !number.is_empty() && number.bytes().all(|octet| octet.is_ascii_digit())
    };
    key.ends_with("SERVICE_HOST")
        || key.contains("SERVICE_PORT")
        || (key.ends_with("PORT") && text.contains("://"))
        || key.split_once("PORT_").is_some_and(of_port)
}

fn unknown(key: &str) -> String {
    let of_limits = limits::names().iter().map(|name| format!("LIMITS_{}", name.to_uppercase()));
    let of_storage = storage::KEYS.iter().map(|name| format!("STORAGE_{name}"));
    let of_tls = tls::KEYS.iter().map(|name| format!("TLS_{name}"));
    let names = KEYS.iter().map(|&name| name.to_owned()).chain(of_limits).chain(of_storage).chain(of_tls);
    match nearest(key, names) {
        Some(known) => format!("there is no such setting: the nearest is {PREFIX}{known}"),
        None => "there is no such setting: `sluicemq config` prints all there are".to_owned(),
    }
}

fn flag(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| format!("expected true or false, found {text:?}"))
}

pub(super) fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

/// Reads what the file would have for a key that is an array of tables, and whose form is this.
pub(super) fn parse_tables<T: DeserializeOwned>(key: &str, text: &str, form: &str) -> Result<Vec<T>, String> {
    let text = format!("{key} = {text}");
    let mut tables: BTreeMap<String, Vec<T>> = toml::from_str(&text).map_err(|error| {
        // A variable has no lines.
        let error = ConfigError { origin: Origin::Whole, ..ConfigError::of_toml(&text, &error) };
        format!("{error}; the form is {form}")
    })?;
    match (tables.remove(key), tables.is_empty()) {
        (Some(own), true) => Ok(own),
        _ => Err(format!("expected {form}")),
    }
}

#[cfg(test)]
mod tests {
    use super::{KEYS, is_of_service, unknown};
    use crate::config::{Config, storage, tls};

    #[test]
    fn what_kubernetes_tells_of_services_is_no_setting() {
        for (key, text) in [
            ("SERVICE_HOST", "10.0.0.7"),
            ("SERVICE_PORT_AMQP", "5672"),
            ("PORT", "tcp://10.0.0.7:5672"),
            ("PORT_5672_TCP_ADDR", "10.0.0.7"),
            ("MGMT_SERVICE_HOST", "10.0.0.8"),
            ("MGMT_PORT", "udp://10.0.0.8:53"),
            ("MGMT_PORT_53_UDP_PROTO", "udp"),
        ] {
            assert!(is_of_service(key, text), "{key}");
        }
        for key in ["LISTEN_PORT", "PORT", "MEMORY_WATERMARK"] {
            assert!(!is_of_service(key, "5672"), "{key}");
        }
    }

    #[test]
    fn what_is_proposed_exists() {
        let of_storage = storage::KEYS.iter().map(|name| format!("STORAGE_{name}"));
        let of_tls = tls::KEYS.iter().map(|name| format!("TLS_{name}"));
        for key in KEYS.iter().map(|&key| key.to_owned()).chain(of_storage).chain(of_tls) {
            assert!(Config::default().set(&key, "").is_some(), "{key}");
        }
        assert!(unknown("STORAGE_SLOT_SIZE").contains("SLUICEMQ_STORAGE_SLOT_BYTES"));
        assert!(unknown("CHANNEL_MAX").contains("SLUICEMQ_LIMITS_CHANNEL_MAX"));
    }
}
