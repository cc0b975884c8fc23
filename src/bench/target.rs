//! The broker to load, from its URL. Knows nothing of sockets.

use std::str;

use anyhow::{Context, bail};

use crate::config::Secret;

const PORT_DEFAULT: u16 = 5672;

/// Where to connect, and as whom.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) user: String,
    pub(super) password: Secret,
    pub(super) vhost: String,
}

impl Target {
    /// Reads `amqp://user:password@host:port/vhost`; all but the host may be left out.
    pub(super) fn parse(url: &str) -> anyhow::Result<Self> {
        let Some(rest) = url.strip_prefix("amqp://") else {
            bail!("--url must start with amqp:// (amqps:// is not supported)");
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
            _ => (address, PORT_DEFAULT),
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
            let target = Target::parse(url).unwrap();
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
        for url in
            ["http://h", "amqp://u:secret@h:x/", "amqp://u:secret%4@h/", "amqp://u:secret@/", "amqp://"]
        {
            let told = format!("{:#}", Target::parse(url).unwrap_err());
            assert!(told.starts_with("--url") && !told.contains("secret"), "{told}");
        }
    }
}
