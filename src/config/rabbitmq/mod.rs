//! RabbitMQ's own configuration, laid over ours: `rabbitmq.conf`, and the variables of its container image.
//!
//! Lines of `key = value`; what stands behind a `#` is a comment, unless the value is in single quotes; `$(NAME)` is a
//! variable. What a key means here is a line of a table (`keys`). The others are not refused, for many of them are about
//! what is not here (Erlang, clusters, plugins), but told by name.
//!
//! Several files are read one after the other, the later above the earlier. Like the rest of this room it is brought the
//! texts, and opens nothing.

mod keys;
mod ssl;

use std::collections::{BTreeMap, BTreeSet};

use crate::config::rabbitmq::keys::Served;
use crate::config::rabbitmq::ssl::Ssl;
use crate::config::{Config, ConfigError, Endpoint, Origin, Secret, Service, UserConfig};

/// Files whose names end so are in this form, and no TOML.
pub const EXTENSION: &str = "conf";

/// RabbitMQ listens at a bare port of all addresses.
const EVERYWHERE: &str = "0.0.0.0";
/// Where it listens for AMQP when nobody says otherwise.
const AMQP_PORT: &str = "5672";

/// What the size of the watermark is called there.
const WATERMARK: &str = "vm_memory_high_watermark.absolute";

/// What was read so far, where only all of it together says something.
#[derive(Debug, Default)]
pub struct Rabbitmq {
    /// By name.
    listeners: Option<BTreeMap<String, Endpoint>>,
    has_no_listeners: bool,
    user: DefaultUser,
    loopback: Option<BTreeMap<String, bool>>,
    has_no_loopback: bool,
    /// A watermark as a size, and whether there is one as a share.
    watermark: Option<String>,
    has_share: bool,
    /// Addresses and ports of the management API and of the metrics.
    services: BTreeMap<Served, (Option<String>, Option<String>)>,
    ssl: Ssl,
    unread: BTreeSet<String>,
}

/// The user that an empty data directory begins with.
#[derive(Debug, Default)]
struct DefaultUser {
    name: Option<String>,
    password: Option<Secret>,
    vhost: Option<String>,
    tags: Option<BTreeMap<String, bool>>,
}

impl Rabbitmq {
    /// Reads the text of a file. `variable` knows the environment.
    ///
    /// # Errors
    /// The first mistake, with its line, its key and what was expected.
    pub fn read(
        &mut self,
        config: &mut Config,
        text: &str,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<(), ConfigError> {
        for (number, line) in text.lines().enumerate() {
            let at = |key: &str, message: String| ConfigError {
                origin: Origin::Line(number + 1),
                key: key.to_owned(),
                message,
            };
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let Some((key, value)) = line.split_once('=') else {
                return Err(at("", "expected a line such as key = value".to_owned()));
            };
            let key = key.trim();
            let value = value_of(value.trim(), &variable).map_err(|why| at(key, why))?;
            self.set(config, key, &value).map_err(|why| at(key, why))?;
        }
        Ok(())
    }

    /// Reads variables of the container image, which are above all files: those that mean something here.
    ///
    /// # Errors
    /// The first mistake, with its variable.
    pub fn read_variables(
        &mut self,
        config: &mut Config,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(), ConfigError> {
        let mut place = (None, None);
        for (name, value) in variables {
            let refused = |why| ConfigError::of_key("", why).in_variable(&name);
            match name.as_str() {
                "RABBITMQ_DEFAULT_USER" => self.user.name = Some(value),
                "RABBITMQ_DEFAULT_PASS" => self.user.password = Some(Secret::new(value)),
                "RABBITMQ_DEFAULT_VHOST" => self.user.vhost = Some(value),
                "RABBITMQ_NODENAME" => config.identity.node = Some(node_of(value)),
                "RABBITMQ_NODE_IP_ADDRESS" => place.0 = Some(value),
                "RABBITMQ_NODE_PORT" => {
                    endpoint(EVERYWHERE, &value).map_err(refused)?;
                    place.1 = Some(value);
                }
                _ => {}
            }
        }
        if let (None, None) = place {
            return Ok(());
        }
        let (address, port) = place;
        let (address, port) =
            (address.as_deref().unwrap_or(EVERYWHERE), port.as_deref().unwrap_or(AMQP_PORT));
        let endpoint = endpoint(address, port)
            .map_err(|why| ConfigError::of_key("", why).in_variable("RABBITMQ_NODE_IP_ADDRESS"))?;
        // What a file says of listeners is above this.
        self.listeners.get_or_insert_with(|| [(String::new(), endpoint)].into());
        Ok(())
    }

    /// Sets what only all of it says; the keys that mean nothing here, each once.
    ///
    /// # Errors
    /// What holds together no more.
    pub fn finish(self, config: &mut Config) -> Result<BTreeSet<String>, ConfigError> {
        if self.has_no_listeners {
            config.listeners.clear();
        } else if let Some(listeners) = self.listeners {
            config.listeners = listeners.into_values().collect();
        }
        // Where only the one by TLS is said RabbitMQ serves no other.
        for (secure, plain) in
            [(Served::SecureManagement, Served::Management), (Served::SecureMetrics, Served::Metrics)]
        {
            if self.services.contains_key(&secure) && !self.services.contains_key(&plain) {
                *plain.of(config).0 = Service::Nowhere;
            }
        }
        for (served, (address, port)) in self.services {
            let (service, usual) = served.of(config);
            let endpoint =
                endpoint(address.as_deref().unwrap_or(EVERYWHERE), port.as_deref().unwrap_or(usual));
            let endpoint = endpoint.map_err(|why| ConfigError::of_key(served.key(), why))?;
            *service = Service::At(endpoint);
        }
        if let Some(size) = self.watermark.filter(|_| !self.has_share) {
            let watermark = size.parse().map_err(|why: String| ConfigError::of_key(WATERMARK, why))?;
            config.memory.watermark = watermark;
        }
        if self.has_no_loopback {
            config.loopback_users.clear();
        } else if let Some(loopback) = self.loopback {
            config.loopback_users = chosen(loopback);
        }
        self.ssl.finish(config)?;
        self.user.begin(config);
        config.validate()?;
        Ok(self.unread)
    }
}

impl DefaultUser {
    /// Makes it the one user of the configuration, if anything is said of it.
    fn begin(self, config: &mut Config) {
        if let (None, None, None, None) = (&self.name, &self.password, &self.vhost, &self.tags) {
            return;
        }
        let vhosts = vec![self.vhost.unwrap_or_else(|| "/".to_owned())];
        config.vhosts.clone_from(&vhosts);
        config.users = vec![UserConfig {
            name: self.name.unwrap_or_else(|| "guest".to_owned()),
            password: self.password.unwrap_or_else(|| Secret::new("guest")),
            vhosts,
            tags: self.tags.map_or_else(|| vec!["administrator".to_owned()], chosen),
        }];
    }
}

/// The names to which it was said yes.
fn chosen(names: BTreeMap<String, bool>) -> Vec<String> {
    names.into_iter().filter(|(_, is_chosen)| *is_chosen).map(|(name, _)| name).collect()
}

/// A value without its comment and its quotes, with its variables.
fn value_of(text: &str, variable: impl Fn(&str) -> Option<String>) -> Result<String, String> {
    if let Some(quoted) = text.strip_prefix('\'') {
        let (value, rest) = quoted.split_once('\'').ok_or("expected a quote at the end as well")?;
        return match rest.trim_start() {
            rest if rest.is_empty() || rest.starts_with('#') => Ok(value.to_owned()),
            _ => Err("expected nothing behind the second quote".to_owned()),
        };
    }
    let mut rest = text.split_once('#').map_or(text, |(value, _)| value).trim_end();
    if rest.starts_with("encrypted:") {
        return Err("encrypted values cannot be read here".to_owned());
    }
    let mut value = String::new();
    while let Some((before, after)) = rest.split_once("$(") {
        let (name, after) = after.split_once(')').ok_or("expected a bracket at the end of the variable")?;
        value.push_str(before);
        value.push_str(&variable(name).ok_or_else(|| format!("there is no environment variable {name}"))?);
        rest = after;
    }
    value.push_str(rest);
    Ok(value)
}

/// `port`, or `address:port`, where an IPv6 address need not be in brackets.
fn place(text: &str) -> Result<Endpoint, String> {
    let (address, port) = text.rsplit_once(':').unwrap_or((EVERYWHERE, text));
    endpoint(address, port)
}

fn flag(value: &str) -> Result<bool, String> {
    match value {
        "true" | "on" => Ok(true),
        "false" | "off" => Ok(false),
        _ => Err(format!("expected true or false, found {value:?}")),
    }
}

fn endpoint(address: &str, port: &str) -> Result<Endpoint, String> {
    match address.contains(':') && !address.starts_with('[') {
        true => format!("[{address}]:{port}").parse(),
        false => format!("{address}:{port}").parse(),
    }
}

/// RabbitMQ takes a name without a host for one of this host.
fn node_of(name: String) -> String {
    match name.contains('@') {
        true => name,
        false => {
            let own = crate::config::Identity::default().node_name();
            format!("{name}@{}", own.split_once('@').map_or("localhost", |(_, host)| host))
        }
    }
}

#[cfg(test)]
mod tests;
