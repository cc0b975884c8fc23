//! What the keys of `rabbitmq.conf` mean here.

use crate::config::rabbitmq::{Rabbitmq, flag, place};
use crate::config::tls::{TLS_MGMT_DEFAULT, TLS_PROMETHEUS_DEFAULT};
use crate::config::unit::parse_size;
use crate::config::{Config, MGMT_DEFAULT, Network, PROMETHEUS_DEFAULT, Secret, Service};

/// A value of theirs as one of ours.
type Said = fn(&str) -> Result<String, String>;

/// Their keys that are one of ours: as variables have it, and with what the value is there.
#[rustfmt::skip]
const SAME: [(&str, &str, Said); 25] = [
    ("frame_max", "LIMITS_FRAME_MAX_BYTES", |value| or_most(value, "16MiB")),
    ("initial_frame_max", "LIMITS_INITIAL_FRAME_MAX_BYTES", same),
    ("channel_max", "LIMITS_CHANNEL_MAX", |value| or_most(value, "65535")),
    ("heartbeat", "LIMITS_HEARTBEAT_SECONDS", same),
    ("handshake_timeout", "LIMITS_HANDSHAKE_TIMEOUT_MS", same),
    ("max_message_size", "LIMITS_MESSAGE_BYTES_MAX", bytes),
    ("connection_max", "LIMITS_CONNECTIONS_MAX", count),
    ("consumer_max_per_channel", "LIMITS_CONSUMERS_PER_CHANNEL_MAX", same),
    ("consumer_timeout", "LIMITS_CONSUMER_TIMEOUT_MS", same),
    ("cluster_name", "IDENTITY_CLUSTER_NAME", same),
    ("vm_memory_high_watermark.relative", "MEMORY_WATERMARK", same),
    ("disk_free_limit.absolute", "STORAGE_DISK_FREE_LIMIT", bytes),
    ("log.default.level", "LOG_LEVEL", level),
    ("log.console.level", "LOG_LEVEL", level),
    ("log.console.formatter", "LOG_FORMAT", formatter),
    ("ssl_options.certfile", "TLS_CERTIFICATE", same),
    ("ssl_options.keyfile", "TLS_KEY", same),
    ("management.ssl.certfile", "TLS_MGMT_CERTIFICATE", same),
    ("management.ssl.keyfile", "TLS_MGMT_KEY", same),
    ("ssl_cert_login_from", "TLS_LOGIN_FROM", same),
    ("ssl_cert_login_san_type", "TLS_LOGIN_SAN_TYPE", same),
    ("ssl_handshake_timeout", "LIMITS_TLS_HANDSHAKE_TIMEOUT_MS", same),
    ("load_definitions", "DEFINITIONS", same),
    ("management.load_definitions", "DEFINITIONS", same),
    ("definitions.local.path", "DEFINITIONS", same),
];

/// What is served beside AMQP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Served {
    Management,
    SecureManagement,
    Metrics,
    SecureMetrics,
}

impl Served {
    /// Its setting, and the port that RabbitMQ has it at.
    pub(super) fn of(self, config: &mut Config) -> (&mut Service, &'static str) {
        let port = |place: &'static str| place.rsplit_once(':').map_or("", |(_, port)| port);
        match self {
            Self::Management => (&mut config.mgmt, port(MGMT_DEFAULT)),
            Self::SecureManagement => (&mut config.tls.mgmt, port(TLS_MGMT_DEFAULT)),
            Self::Metrics => (&mut config.prometheus, port(PROMETHEUS_DEFAULT)),
            Self::SecureMetrics => (&mut config.tls.prometheus, port(TLS_PROMETHEUS_DEFAULT)),
        }
    }

    /// What its keys begin with.
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::Management => "management.tcp",
            Self::SecureManagement => "management.ssl",
            Self::Metrics => "prometheus.tcp",
            Self::SecureMetrics => "prometheus.ssl",
        }
    }
}

impl Rabbitmq {
    /// Sets what a line says, or remembers that it says nothing here.
    pub(super) fn set(&mut self, config: &mut Config, key: &str, value: &str) -> Result<(), String> {
        self.has_share |= key == "vm_memory_high_watermark.relative";
        if let Some((_, ours, said)) = SAME.iter().find(|(theirs, ..)| *theirs == key) {
            return config.set(ours, &said(value)?).unwrap_or_else(|| Err(format!("there is no {ours}")));
        }
        let parts: Vec<_> = key.split('.').collect();
        if self.ssl.set(&parts, value)? {
            return Ok(());
        }
        match parts.as_slice() {
            ["listeners", "tcp"] if value == "none" => self.has_no_listeners = true,
            ["listeners", "tcp", name] => {
                self.listeners.get_or_insert_default().insert((*name).to_owned(), place(value)?);
            }
            ["management", "tcp" | "listener", "ip"] => {
                self.service(Served::Management).0 = Some(value.to_owned())
            }
            ["management", "tcp" | "listener", "port"] => {
                self.service(Served::Management).1 = Some(value.to_owned());
            }
            ["management", "ssl", "ip"] => self.service(Served::SecureManagement).0 = Some(value.to_owned()),
            ["management", "ssl", "port"] => {
                self.service(Served::SecureManagement).1 = Some(value.to_owned())
            }
            ["prometheus", "ssl", "ip"] => self.service(Served::SecureMetrics).0 = Some(value.to_owned()),
            ["prometheus", "ssl", "port"] => self.service(Served::SecureMetrics).1 = Some(value.to_owned()),
            ["prometheus", "tcp", "ip"] => self.service(Served::Metrics).0 = Some(value.to_owned()),
            ["prometheus", "tcp", "port"] => self.service(Served::Metrics).1 = Some(value.to_owned()),
            // There whoever comes must say for whom, and is believed.
            ["proxy_protocol"] => {
                config.proxy_protocol_from = if flag(value)? { Network::all() } else { Vec::new() };
            }
            ["anonymous_login_user"] => {
                config.anonymous_login_user = Some(value.to_owned()).filter(|user| user != "none");
            }
            ["loopback_users"] if value == "none" => self.has_no_loopback = true,
            // A share is above a size, in whatever order they come.
            ["vm_memory_high_watermark", "absolute"] => self.watermark = Some(sized(value)?),
            ["loopback_users", name] => {
                self.loopback.get_or_insert_default().insert((*name).to_owned(), flag(value)?);
            }
            ["default_user"] => self.user.name = Some(value.to_owned()),
            ["default_pass"] => self.user.password = Some(Secret::new(value)),
            ["default_vhost"] => self.user.vhost = Some(value.to_owned()),
            ["default_user_tags", tag] => {
                self.user.tags.get_or_insert_default().insert((*tag).to_owned(), flag(value)?);
            }
            ["default_permissions", "configure" | "read" | "write"] if value == ".*" => {}
            ["default_permissions", _] => {
                let why = "expected .*, for the first user may do everything: the others are made by `sluicemq ctl`";
                return Err(why.to_owned());
            }
            // There is always a log on the console, and definitions come from files.
            ["log", "console"] if flag(value) == Ok(true) => {}
            ["definitions", "import_backend"] if value == "local_filesystem" => {}
            _ => drop(self.unread.insert(key.to_owned())),
        }
        Ok(())
    }

    fn service(&mut self, served: Served) -> &mut (Option<String>, Option<String>) {
        self.services.entry(served).or_default()
    }
}

fn same(value: &str) -> Result<String, String> {
    Ok(value.to_owned())
}

fn bytes(value: &str) -> Result<String, String> {
    parse_size(value).map(|bytes| bytes.to_string())
}

/// A watermark needs a unit to be no share.
fn sized(value: &str) -> Result<String, String> {
    parse_size(value).map(|bytes| format!("{bytes}B"))
}

/// No limit is the most that there can be.
fn or_most(value: &str, most: &str) -> Result<String, String> {
    Ok(if value == "0" { most } else { value }.to_owned())
}

fn count(value: &str) -> Result<String, String> {
    Ok(if value == "infinity" { "0" } else { value }.to_owned())
}

fn level(value: &str) -> Result<String, String> {
    let ours = match value {
        "debug" => "debug",
        "info" | "notice" => "info",
        "warning" => "warn",
        "error" | "critical" | "alert" | "emergency" | "none" => "error",
        _ => return Err(format!("expected one of debug info warning error, found {value:?}")),
    };
    Ok(ours.to_owned())
}

fn formatter(value: &str) -> Result<String, String> {
    match value {
        "json" => Ok("json".to_owned()),
        "plaintext" | "text" => Ok("text".to_owned()),
        _ => Err(format!("expected json or plaintext, found {value:?}")),
    }
}
