//! A configuration as a commented file, to read and to start one's own from. Passwords are left out.

use std::fmt::{self, Display, Formatter, Write};
use std::path::PathBuf;

use toml::Value;

use crate::config::tls::{TLS_MGMT_DEFAULT, TLS_PROMETHEUS_DEFAULT};
use crate::config::unit::Unit;
use crate::config::{Config, MGMT_DEFAULT, PROMETHEUS_DEFAULT, Service, UserConfig};

impl Config {
    /// The whole configuration as TOML, each key under a comment that explains it.
    pub fn to_commented_toml(&self) -> String {
        Commented(self).to_string()
    }
}

struct Commented<'a>(&'a Config);

impl Display for Commented<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(config) = self;
        f.write_str(
            "# SluiceMQ's configuration. Flags are above the environment, and that is above this file.\n",
        )?;
        f.write_str(
            "# Sizes may be written as \"64KiB\" or \"2GB\", durations as \"500ms\", \"10s\", \"5m\".\n\n",
        )?;
        entry(f, "Addresses and ports to serve AMQP on.", "listeners", &list(&config.listeners))?;
        let about = "Networks of proxies, each of whose connections to AMQP begins with a PROXY header (version 1 or 2) that says \
                     for whom it is. From anybody else none is taken.";
        entry(f, about, "proxy_protocol_from", &list(&config.proxy_protocol_from))?;
        let about = "Address and port of the management API, or \"none\".";
        service(f, about, "mgmt", &config.mgmt, MGMT_DEFAULT)?;
        let about = "Whether the management API lets in who speaks AMQP by WebSocket (/ws).";
        entry(f, about, "websocket", &config.websocket.to_string())?;
        let about = "Origins whose pages may do so, beside those of the API's own place, such as \"https://shop.example.com\"; \
                     \"*\" are all.";
        entry(f, about, "websocket_origins", &list(&config.websocket_origins))?;
        let about = "Address and port of the metrics, which need no password, or \"none\".";
        service(f, about, "prometheus", &config.prometheus, PROMETHEUS_DEFAULT)?;
        let about =
            "Socket by which the owner of the process administers it without a password, or \"none\".";
        optional(f, about, "socket", config.socket.show(), "\"/var/lib/sluicemq/ctl.sock\"")?;
        let data_dir = config.data_dir.as_ref().map(|path| path.display().to_string());
        let unset = "\"/var/lib/sluicemq\"";
        optional(f, "Directory of everything durable.", "data_dir", data_dir, unset)?;
        entry(f, "Vhosts that an empty data directory begins with.", "vhosts", &list(&config.vhosts))?;
        let about = "Users who may connect from this machine only.";
        entry(f, about, "loopback_users", &list(&config.loopback_users))?;
        let about = "File of definitions, as RabbitMQ exports them, or a directory of such files, that each start adds.";
        let definitions = config.definitions.as_ref().map(|path| path.display().to_string());
        optional(f, about, "definitions", definitions, "\"/etc/sluicemq/definitions.json\"")?;
        let about =
            "User that clients are who log in by ANONYMOUS, without a password; nobody may without it.";
        optional(f, about, "anonymous_login_user", config.anonymous_login_user.clone(), "\"guest\"")?;
        let about =
            "Whether users log in whose passwords are kept as MD5 hashes, as RabbitMQ did before 3.6.";
        entry(f, about, "md5_passwords", &config.md5_passwords.to_string())?;
        self.limits(f)?;
        self.sections(f)?;
        f.write_str(
            "# Users that an empty data directory begins with, with every permission in their vhosts.\n",
        )?;
        f.write_str("# From then on users and vhosts are those of the data directory; the start says where they differ.\n")?;
        if config.users.is_empty() {
            f.write_str("# [[users]]\n")?;
        }
        config.users.iter().try_for_each(|user| show_user(f, user))
    }
}

impl Commented<'_> {
    fn limits(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("[limits]\n\n")?;
        for (row, value) in self.0.limits.rows() {
            for about in row.about {
                writeln!(f, "#{about}")?;
            }
            writeln!(f, "# Must be {}.", row.range())?;
            writeln!(f, "{} = {value}\n", row.name)?;
        }
        Ok(())
    }

    fn sections(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(config) = self;
        f.write_str("[memory]\n\n")?;
        let about =
            "Above this publishers wait: a size, or a share of the machine's or cgroup's memory less 128MiB.";
        entry(f, about, "watermark", &quote(&config.memory.watermark))?;
        self.storage(f)?;
        self.tls(f)?;
        f.write_str("[identity]\n\n")?;
        let about = "The product clients are told; some libraries behave otherwise unless it is RabbitMQ.";
        entry(f, about, "product", &quote(&config.identity.product))?;
        entry(f, "The version clients are told.", "version", &quote(&config.identity.version))?;
        let about = "The name of the cluster clients are told.";
        entry(f, about, "cluster_name", &quote(&config.identity.cluster_name))?;
        let about = "The name of this node that operators are told; by the host's name when there is none.";
        optional(f, about, "node", config.identity.node.clone(), "\"rabbit@host\"")?;
        f.write_str("[log]\n\n")?;
        let about = "The least important level that is logged: error, warn, info, debug or trace.";
        entry(f, about, "level", &quote(&config.log.level))?;
        entry(f, "The form of a line: text or json.", "format", &quote(&config.log.format))
    }
}

impl Commented<'_> {
    fn storage(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let storage = &self.0.storage;
        f.write_str("[storage]\n\n")?;
        let about = "When something durable is safe: fsync, when the disk has said so; interval or os, when it is \
                     written, and a power cut loses what was confirmed.";
        entry(f, about, "durability", &quote(&storage.durability))?;
        let about = "Between two syncs when durability is interval, in milliseconds.";
        entry(f, about, "interval_ms", &Unit::Milliseconds.show(storage.interval_ms))?;
        let about = "Size of one file of the log, in bytes: between 64KiB and 1GiB.";
        entry(f, about, "slot_bytes", &Unit::Bytes.show(storage.slot_bytes))?;
        let about = "Files of the log that are filled before what waits in them moves on, and half as many again in a \
                     burst: between 2 and 1024.";
        entry(f, about, "window_slots", &storage.window_slots.to_string())?;
        let about = "What is kept in memory of messages that are on the disk: a share of memory, or a size, and at \
                     most half of the watermark; 10% and at most 1GiB without it.";
        optional(f, about, "cache", storage.cache.as_ref().map(ToString::to_string), "\"10%\"")?;
        let about = "With less free on the disk publishers wait, in bytes; 1GiB or twice slot_bytes x window_slots, \
                     whichever is more, without it.";
        match storage.disk_free_limit {
            Some(bytes) => entry(f, about, "disk_free_limit", &Unit::Bytes.show(bytes)),
            None => writeln!(f, "# {about}\n# disk_free_limit = \"1GiB\"\n"),
        }
    }
}

impl Commented<'_> {
    fn tls(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let tls = &self.0.tls;
        let file = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        f.write_str("[tls]\n\n")?;
        let about = "Certificate, and those that lead to a known authority behind it (PEM). With it and its key TLS is served.";
        optional(f, about, "certificate", file(&tls.certificate), "\"/etc/sluicemq/server.pem\"")?;
        let about = "Its key (PEM: PKCS#8, PKCS#1 or SEC1).";
        optional(f, about, "key", file(&tls.key), "\"/etc/sluicemq/server.key\"")?;
        let about = "Addresses and ports to serve AMQP on.";
        match tls.is_on() {
            true => entry(f, about, "listeners", &list(&tls.listeners))?,
            false => writeln!(f, "# {about}\n# listeners = {}\n", list(&tls.listeners))?,
        }
        let about = "Address and port of the management API, or \"none\".";
        service(f, about, "mgmt", &tls.mgmt, TLS_MGMT_DEFAULT)?;
        let about = "Address and port of the metrics, which need no password, or \"none\".";
        service(f, about, "prometheus", &tls.prometheus, TLS_PROMETHEUS_DEFAULT)?;
        let about = "Certificate of the management API and the metrics, where it is another, and its key.";
        optional(f, about, "mgmt_certificate", file(&tls.mgmt_certificate), "\"/etc/sluicemq/mgmt.pem\"")?;
        optional(f, about, "mgmt_key", file(&tls.mgmt_key), "\"/etc/sluicemq/mgmt.key\"")?;
        entry(
            f,
            "The oldest version of TLS that is spoken: 1.2 or 1.3.",
            "version_min",
            &quote(&tls.version_min),
        )?;
        self.tls_of_clients(f)?;
        if tls.names.is_empty() {
            f.write_str("# Other certificates, for clients that ask for these names.\n# [[tls.names]]\n\n")?;
        }
        for named in &tls.names {
            writeln!(f, "[[tls.names]]\nname = {}", quote(&named.name))?;
            let (certificate, key) = (named.certificate.display(), named.key.display());
            writeln!(f, "certificate = {}\nkey = {}\n", quote(&certificate), quote(&key))?;
        }
        Ok(())
    }

    fn tls_of_clients(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let tls = &self.0.tls;
        let file = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let about = "What is asked of clients that speak AMQP: none, optional (a certificate, if it has one, must be \
                     good) or required.";
        entry(f, about, "verify", &quote(&tls.verify))?;
        let about = "Authorities that clients' certificates come from (PEM).";
        optional(f, about, "client_ca", file(&tls.client_ca), "\"/etc/sluicemq/clients.pem\"")?;
        let about = "Lists of certificates of clients that are revoked (PEM). An authority without a list revokes none.";
        optional(f, about, "crl", file(&tls.crl), "\"/etc/sluicemq/revoked.pem\"")?;
        let about = "Where in a certificate the user's name is who logs in by EXTERNAL: distinguished_name, common_name or \
                     subject_alternative_name.";
        entry(f, about, "login_from", &quote(&tls.login_from))?;
        let about = "Which of the subject's alternative names that is: dns, email or uri.";
        entry(f, about, "login_san_type", &quote(&tls.login_san_type))
    }
}

fn show_user(f: &mut Formatter<'_>, user: &UserConfig) -> fmt::Result {
    writeln!(f, "[[users]]\nname = {}", quote(&user.name))?;
    f.write_str("# password = \"…\" (set, and not shown)\n")?;
    writeln!(f, "vhosts = {}\ntags = {}\n", list(&user.vhosts), list(&user.tags))
}

fn entry(f: &mut Formatter<'_>, about: &str, key: &str, value: &str) -> fmt::Result {
    writeln!(f, "# {about}\n{key} = {value}\n")
}

/// A key that has no value by default is shown as a comment, with one it could have.
/// A default place is not one that was asked for: only then a start may do without.
fn service(f: &mut Formatter<'_>, about: &str, key: &str, service: &Service, usual: &str) -> fmt::Result {
    let said = (*service != Service::Usual).then(|| service.show(usual));
    optional(f, about, key, said, &quote(&usual))
}

fn optional(
    f: &mut Formatter<'_>,
    about: &str,
    key: &str,
    value: Option<String>,
    unset: &str,
) -> fmt::Result {
    match value {
        Some(value) => entry(f, about, key, &quote(&value)),
        None => writeln!(f, "# {about}\n# {key} = {unset}\n"),
    }
}

fn quote(text: &impl ToString) -> String {
    Value::String(text.to_string()).to_string()
}

fn list(items: &[impl ToString]) -> String {
    let mut shown = String::from("[");
    for (place, item) in items.iter().enumerate() {
        let comma = if place > 0 { ", " } else { "" };
        // Writing to a string cannot fail.
        let _ = write!(shown, "{comma}{}", quote(item));
    }
    shown + "]"
}
