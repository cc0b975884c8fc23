//! The environment laid over a configuration: `SLUICEMQ_` and the key in capitals, dots as underscores.
//!
//! Lists are separated by commas; `SLUICEMQ_USERS` takes the array of tables the file would have. A variable
//! that means nothing is no mistake (Kubernetes makes `SLUICEMQ_PORT` for a service of that name), but the
//! caller is told. Knows nothing of where the variables come from.

use std::path::PathBuf;

use serde::Deserialize;

use crate::config::{Config, ConfigError, UserConfig, parse_address};

/// What the names of all variables start with.
pub const PREFIX: &str = "SLUICEMQ_";

/// The variable that names the configuration file; whoever reads the file reads it.
pub const CONFIG_FILE: &str = "SLUICEMQ_CONFIG";

impl Config {
    /// Sets what the variables say, and returns the names of those that start with [`PREFIX`] and say nothing.
    ///
    /// # Errors
    /// The first mistake, with its variable and what was expected.
    pub fn overlay(
        &mut self,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Vec<String>, ConfigError> {
        let mut unknown = Vec::new();
        for (name, text) in variables {
            let Some(key) = name.strip_prefix(PREFIX) else { continue };
            if name == CONFIG_FILE {
                continue;
            }
            match self.set(key, &text) {
                Some(Ok(())) => {}
                Some(Err(why)) => return Err(ConfigError::of_key("", why).in_variable(&name)),
                None => unknown.push(name),
            }
        }
        self.validate()?;
        Ok(unknown)
    }

    /// Sets one key from text; `None` when there is no such key.
    fn set(&mut self, key: &str, text: &str) -> Option<Result<(), String>> {
        let done = match key {
            "LISTEN" => {
                items(text).map(parse_address).collect::<Result<_, _>>().map(|all| self.listeners = all)
            }
            "MGMT" => parse_address(text).map(|address| self.mgmt = Some(address)),
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
            "USERS" => parse_users(text).map(|users| self.users = users),
            "MEMORY_WATERMARK" => text.parse().map(|watermark| self.memory.watermark = watermark),
            "IDENTITY_PRODUCT" => {
                text.clone_into(&mut self.identity.product);
                Ok(())
            }
            "IDENTITY_VERSION" => {
                text.clone_into(&mut self.identity.version);
                Ok(())
            }
            "IDENTITY_CLUSTER_NAME" => {
                text.clone_into(&mut self.identity.cluster_name);
                Ok(())
            }
            "LOG_LEVEL" => text.parse().map(|level| self.log.level = level),
            "LOG_FORMAT" => text.parse().map(|format| self.log.format = format),
            _ if key.starts_with("STORAGE_") => return self.storage.set(key.strip_prefix("STORAGE_")?, text),
            _ => return self.limits.set(&key.strip_prefix("LIMITS_")?.to_lowercase(), text),
        };
        Some(done)
    }
}

fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

fn parse_users(text: &str) -> Result<Vec<UserConfig>, String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Users {
        users: Vec<UserConfig>,
    }
    let text = format!("users = {text}");
    let users: Users = toml::from_str(&text).map_err(|error| {
        let ConfigError { key, message, .. } = ConfigError::of_toml(&text, &error);
        format!("{key}: {message}; the form is [{{ name = \"…\", password = \"…\", vhosts = [\"/\"] }}]")
    })?;
    Ok(users.users)
}
