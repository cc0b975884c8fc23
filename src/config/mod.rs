//! The configuration: one typed tree with defaults, read from text and from variables, checked as a whole.
//!
//! The file is the weakest, the environment is above it, flags are above both. This room reads no file, no
//! environment and no clock itself: `cli` brings the text and the variables, and sets what flags say.
//!
//! [`Config`] is the tree, [`limits`] its table of bounds, [`mod@unit`] how sizes and durations are written,
//! [`error`] what a mistake is told, `live` what a reload may change, `environment` and `print` the two other ways in and out, [`rabbitmq`] how its own
//! configuration is read.

use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use rustix::system::uname;
use serde::Deserialize;
use serde::de::{Deserializer, Error};

pub use crate::config::endpoint::{Endpoint, LISTENER_DEFAULT};
pub use crate::config::error::{ConfigError, Origin};
pub use crate::config::limits::Limits;
pub use crate::config::network::Network;
pub use crate::config::secret::Secret;
pub use crate::config::service::{MGMT_DEFAULT, PROMETHEUS_DEFAULT, Service};
pub use crate::config::socket::LocalSocket;
pub use crate::config::storage::{Durability, Storage};
pub use crate::config::tls::{LoginFrom, SanType, Tls, TlsVersion, Verify};
pub use crate::config::unit::{Watermark, size};

pub mod endpoint;
pub mod environment;
pub mod error;
pub mod limits;
mod live;
mod nearest;
pub mod network;
mod print;
pub mod rabbitmq;
mod secret;
pub mod service;
pub mod socket;
pub mod storage;
pub mod tls;
pub mod unit;

#[cfg(test)]
mod tests;

/// Everything that can be set.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Addresses and ports to serve AMQP on; at least one.
    pub listeners: Vec<Endpoint>,
    /// Networks of those who come for others, and say for whom by a PROXY header, which must be there; none is taken from
    /// anybody else.
    pub proxy_protocol_from: Vec<Network>,
    /// Where the management API is served.
    pub mgmt: Service,
    /// Whether the management API lets in who speaks AMQP by WebSocket.
    pub websocket: bool,
    /// Of which origins a page may do so, beside those of the API's own place; `*` are all.
    pub websocket_origins: Vec<String>,
    /// Where metrics are served without a password.
    pub prometheus: Service,
    /// Where this machine's administrators come by without a password.
    pub socket: LocalSocket,
    /// Directory of everything durable. The command line always has one; a broker without is for tests, and forgets.
    pub data_dir: Option<PathBuf>,
    /// The vhosts that an empty data directory begins with; at least one. Afterwards what is there counts.
    pub vhosts: Vec<String>,
    /// The users that an empty data directory begins with. Afterwards what is there counts.
    pub users: Vec<UserConfig>,
    /// Names of users who may connect from this machine only.
    pub loopback_users: Vec<String>,
    /// A file of definitions, as RabbitMQ exports them, or a directory of such files: they are added at each start.
    pub definitions: Option<PathBuf>,
    /// Who logs in without saying who they are (ANONYMOUS); nobody may when it is not set.
    pub anonymous_login_user: Option<String>,
    /// Whether passwords that are kept as MD5 hashes are taken.
    pub md5_passwords: bool,
    /// What is served over TLS.
    pub tls: Tls,
    /// Every bound of the broker.
    pub limits: Limits,
    /// How much memory may fill.
    pub memory: Memory,
    /// How what is durable lies on the disk.
    pub storage: Storage,
    /// What the broker calls itself.
    pub identity: Identity,
    /// What is logged, and how.
    pub log: Log,
    /// The file that it was read from, for who asks.
    #[serde(skip)]
    pub file: Option<PathBuf>,
}

/// A user of the configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table with a name and a password")]
pub struct UserConfig {
    /// The name to log in with: 1 to 255 bytes.
    pub name: String,
    /// The password; an empty one is refused.
    pub password: Secret,
    /// The vhosts where the user may do everything; `/` alone when not given.
    #[serde(default = "vhosts_default")]
    pub vhosts: Vec<String>,
    /// Tags such as `administrator` or `monitoring`.
    #[serde(default)]
    pub tags: Vec<String>,
}

/// The `[memory]` of the configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Memory {
    /// Above this publishers wait: a size, or a share of the machine's or cgroup's memory less 128MiB.
    pub watermark: Watermark,
}

/// The `[identity]` of the configuration. Client libraries decide by product and version how to behave.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Identity {
    /// The product clients are told.
    pub product: String,
    /// The version clients are told.
    pub version: String,
    /// The name of the cluster clients are told.
    pub cluster_name: String,
    /// The name of this node that operators are told; `rabbit@` and the host's when there is none.
    pub node: Option<String>,
}

impl Identity {
    /// What this node is called: as it was set, or by the host's name up to the first dot.
    pub fn node_name(&self) -> String {
        self.node.clone().unwrap_or_else(|| {
            let host = uname().nodename().to_string_lossy().into_owned();
            let host = host.split('.').next().filter(|host| !host.is_empty()).unwrap_or("localhost");
            format!("rabbit@{host}")
        })
    }
}

/// The `[log]` of the configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// The least important level that is logged.
    pub level: LogLevel,
    /// The form of a line.
    pub format: LogFormat,
}

/// Defines an enum of words, read and shown as such.
macro_rules! words {
    ($(#[$about:meta])* $name:ident { $($(#[$word_about:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$word_about])* $variant,)+
        }

        impl $name {
            const EXPECTED: &str = concat!("one of", $(" ", $word),+);
        }

        impl FromStr for $name {
            type Err = String;

            fn from_str(word: &str) -> Result<Self, String> {
                match word {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(format!("expected {}, found {word:?}", Self::EXPECTED)),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Self::$variant => $word,)+
                })
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                String::deserialize(from)?.parse().map_err(D::Error::custom)
            }
        }
    };
}

use words;

words! {
    /// How important a log line is.
    LogLevel {
        /// What needs a person.
        Error = "error",
        /// What may need one.
        Warn = "warn",
        /// What happened.
        Info = "info",
        /// What led to it.
        Debug = "debug",
        /// Every step.
        Trace = "trace",
    }
}

words! {
    /// The form of a log line.
    LogFormat {
        /// For people.
        Text = "text",
        /// One object a line, for machines.
        Json = "json",
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listeners: LISTENER_DEFAULT.parse().into_iter().collect(),
            proxy_protocol_from: Vec::new(),
            mgmt: Service::Usual,
            websocket: true,
            websocket_origins: Vec::new(),
            prometheus: Service::Usual,
            socket: LocalSocket::Usual,
            data_dir: None,
            vhosts: vhosts_default(),
            users: vec![UserConfig {
                name: "guest".to_owned(),
                password: Secret::new("guest"),
                vhosts: vhosts_default(),
                tags: vec!["administrator".to_owned()],
            }],
            loopback_users: vec!["guest".to_owned()],
            definitions: None,
            anonymous_login_user: None,
            md5_passwords: false,
            tls: Tls::default(),
            limits: Limits::default(),
            memory: Memory::default(),
            storage: Storage::default(),
            identity: Identity::default(),
            log: Log::default(),
            file: None,
        }
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self { watermark: Watermark::Fraction(0.6) }
    }
}

impl Default for Identity {
    fn default() -> Self {
        Self {
            product: "RabbitMQ".to_owned(),
            version: "3.13.7".to_owned(),
            cluster_name: "sluicemq".to_owned(),
            node: None,
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: LogLevel::Info, format: LogFormat::Text }
    }
}

fn vhosts_default() -> Vec<String> {
    vec!["/".to_owned()]
}

impl Config {
    /// Reads the text of a configuration file; what it does not set keeps its default.
    ///
    /// # Errors
    /// The first mistake, with its line, its key and what was expected.
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|error| ConfigError::of_toml(text, &error))?;
        config.validate().map_err(|error| error.in_file(text))?;
        Ok(config)
    }

    /// Whether who comes from there says by a PROXY header for whom.
    pub fn is_proxy(&self, ip: IpAddr) -> bool {
        self.proxy_protocol_from.iter().any(|network| network.contains(ip))
    }

    /// Checks what no single setting can tell. To be asked again after flags were set.
    ///
    /// # Errors
    /// The first mistake, by key.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.listeners.is_empty() {
            return Err(ConfigError::of_key("listeners", "expected at least one address and port"));
        }
        for (place, listener) in self.listeners.iter().enumerate() {
            let is_there = self.listeners.iter().take(place).any(|other| other == listener);
            if is_there && listener.port() != 0 {
                let message = format!("{listener} is there twice");
                return Err(ConfigError::of_key(format!("listeners[{place}]"), message));
            }
        }
        for (place, origin) in self.websocket_origins.iter().enumerate() {
            let host = origin.split_once("://").map(|(_, host)| host);
            if origin != "*" && host.is_none_or(|host| host.is_empty() || host.contains('/')) {
                let message = format!(
                    "expected an origin such as \"https://shop.example.com\", or \"*\", found {origin:?}"
                );
                return Err(ConfigError::of_key(format!("websocket_origins[{place}]"), message));
            }
        }
        self.storage.validate()?;
        self.tls.validate(&self.listeners)?;
        if let Some(node) = &self.identity.node {
            check_name(node).map_err(|why| ConfigError::of_key("identity.node", why))?;
            if node.split_once('@').is_none_or(|(name, host)| name.is_empty() || host.is_empty()) {
                let message = format!("expected a name such as \"rabbit@host\", found {node:?}");
                return Err(ConfigError::of_key("identity.node", message));
            }
        }
        if let Some(name) = &self.anonymous_login_user {
            check_name(name).map_err(|why| ConfigError::of_key("anonymous_login_user", why))?;
        }
        if self.vhosts.is_empty() {
            return Err(ConfigError::of_key("vhosts", "expected at least one vhost"));
        }
        for (place, vhost) in self.vhosts.iter().enumerate() {
            check_name(vhost).map_err(|why| ConfigError::of_key(format!("vhosts[{place}]"), why))?;
        }
        let mut names = HashSet::new();
        for (place, user) in self.users.iter().enumerate() {
            let key = |field: &str| format!("users[{place}].{field}");
            check_name(&user.name).map_err(|why| ConfigError::of_key(key("name"), why))?;
            if !names.insert(user.name.as_str()) {
                return Err(ConfigError::of_key(key("name"), format!("user {:?} is set twice", user.name)));
            }
            if user.password.is_empty() {
                return Err(ConfigError::of_key(key("password"), "an empty password never logs in"));
            }
            if let Some(vhost) = user.vhosts.iter().find(|vhost| !self.vhosts.contains(vhost)) {
                let message = format!("vhost {vhost:?} is not one of the vhosts {:?}", self.vhosts);
                return Err(ConfigError::of_key(key("vhosts"), message));
            }
        }
        Ok(())
    }
}

/// Names of vhosts and users travel as short strings and are shown in logs.
fn check_name(name: &str) -> Result<(), String> {
    match name.len() {
        1..=255 if name.chars().any(char::is_control) => Err("a name has no control characters".to_owned()),
        1..=255 => Ok(()),
        bytes => Err(format!("a name has 1 to 255 bytes, found {bytes}")),
    }
}
