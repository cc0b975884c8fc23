//! The broker to load, from its URL.

use std::str;
use std::sync::Arc;

use anyhow::{Context, bail};
use rustls::ClientConfig;

use crate::bench::socket;
use crate::config::Secret;

const PORT_DEFAULT: u16 = 5672;
const TLS_PORT_DEFAULT: u16 = 5671;

/// Where to connect, and as whom.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) user: String,
    pub(super) password: Secret,
    pub(super) vhost: String,
    /// Who vouches for it, by TLS.
    pub(super) authority: Option<Arc<ClientConfig>>,
}

impl Target {
    /// Reads `amqp://user:password@host:port/vhost`; all but the host may be left out. With `amqps://` the file has the
    /// certificates of the authorities that are trusted.
    pub(super) fn parse(url: &str, ca: Option<&str>) -> anyhow::Result<Self> {
        let (rest, port_default, authority) =
            match (url.strip_prefix("amqp://"), url.strip_prefix("amqps://")) {
                (Some(rest), _) => (rest, PORT_DEFAULT, None),
                (None, Some(rest)) => {
                    let ca = ca.context("--url amqps:// needs --ca, a file of certificates to trust")?;
                    (rest, TLS_PORT_DEFAULT, Some(socket::trusting(ca)?))
                }
                (None, None) => bail!("--url must start with amqp:// or amqps://"),
            };
        let (place, vhost) = match rest.split_once('/') {
            Some((place, vhost)) => (place, decode(vhost)?),
            None => (rest, "/".to_owned()),
        };
        let (login, address) = place.rsplit_once('@').unwrap_or(("guest:guest", place));
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        // A colon inside the brackets of an IPv6 address is no port.
        let (host, port) = match address.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => {
                (host, port.parse().ok().with_context(|| format!("--url has no valid port: {port:?}"))?)
            }
            _ => (address, port_default),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            bail!("--url names no host");
        }
        Ok(Self {
            host: host.to_owned(),
            port,
            user: decode(user)?,
            password: Secret::new(decode(password)?),
            vhost,
            authority,
        })
    }
}

/// Undoes percent-encoding.
fn decode(text: &str) -> anyhow::Result<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (digits, rest) =
            part.split_at_checked(2).context("--url has a % without two hexadecimal digits")?;
        let byte = u8::from_str_radix(digits, 16);
        bytes.push(byte.ok().context("--url has a % without two hexadecimal digits")?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).ok().context("--url is not UTF-8 once decoded")
}

#[cfg(test)]
mod tests {
    use super::Target;

    #[test]
    fn every_part_but_the_host_may_be_left_out() {
        let parts = |url| {
            let target = Target::parse(url, None).unwrap();
            let password = String::from_utf8(target.password.expose().to_vec()).unwrap();
            (target.user, password, target.host, target.port, target.vhost)
        };
        let expected = |user: &str, password: &str, host: &str, port, vhost: &str| {
            (user.to_owned(), password.to_owned(), host.to_owned(), port, vhost.to_owned())
        };
        assert_eq!(parts("amqp://h"), expected("guest", "guest", "h", 5672, "/"));
        assert_eq!(parts("amqp://u:p%40%2f@h:1/%2f"), expected("u", "p@/", "h", 1, "/"));
        assert_eq!(parts("amqp://[::1]:7/orders"), expected("guest", "guest", "::1", 7, "orders"));
        assert_eq!(parts("amqp://[::1]"), expected("guest", "guest", "::1", 5672, "/"));
    }

    #[test]
    fn a_mistake_never_repeats_the_password() {
        for url in [
            "http://h",
            "amqps://u:secret@h",
            "amqp://u:secret@h:x/",
            "amqp://u:secret%4@h/",
            "amqp://u:secret@/",
            "amqp://",
        ] {
            let told = format!("{:#}", Target::parse(url, None).unwrap_err());
            assert!(told.starts_with("--url") && !told.contains("secret"), "{told}");
        }
    }
}
