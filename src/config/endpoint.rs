//! Where to listen: an address and a port, or a host's name and a port. Names are looked up by whoever listens.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Error};

/// Where AMQP is served when nobody says otherwise.
pub const LISTENER_DEFAULT: &str = "127.0.0.1:5672";

/// The longest name a host has.
const NAME_BYTES_MAX: usize = 253;

/// A place to listen at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// An address with its port.
    Address(SocketAddr),
    /// A host's name, which may be of several addresses, and a port.
    Name {
        /// The host.
        host: String,
        /// The port.
        port: u16,
    },
}

impl Endpoint {
    /// The port; 0 is any that is free.
    pub fn port(&self) -> u16 {
        match self {
            Self::Address(address) => address.port(),
            Self::Name { port, .. } => *port,
        }
    }

    /// Whether only this machine reaches it. What a name stands for is not looked up.
    pub fn is_loopback(&self) -> bool {
        match self {
            Self::Address(address) => address.ip().is_loopback(),
            Self::Name { host, .. } => host.eq_ignore_ascii_case("localhost"),
        }
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self::Address(address)
    }
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let name = text.rsplit_once(':').filter(|(host, _)| is_name(host));
        let name = name.and_then(|(host, port)| Some((host, port.parse().ok()?)));
        match name {
            Some((host, port)) => Ok(Self::Name { host: host.to_owned(), port }),
            None => Err(format!(
                "expected an address and port such as \"{LISTENER_DEFAULT}\", \"[::]:5672\" or \"localhost:5672\", \
                 found {text:?}"
            )),
        }
    }
}

/// Digits and dots alone are an address with a mistake in it.
pub(super) fn is_name(host: &str) -> bool {
    let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    host.len() <= NAME_BYTES_MAX
        && host.bytes().all(is_of_name)
        && host.bytes().any(|byte| byte.is_ascii_alphabetic())
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::Endpoint;

    #[test]
    fn an_address_or_a_name_has_a_port() {
        for (text, is_loopback) in [
            ("127.0.0.1:5672", true),
            ("[::1]:5672", true),
            ("0.0.0.0:0", false),
            ("localhost:5672", true),
            ("mq-1.example.com:5672", false),
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!((endpoint.to_string().as_str(), endpoint.is_loopback()), (text, is_loopback));
        }
        for wrong in
            ["", "5672", ":5672", "localhost", "localhost:", "localhost:70000", "300.0.0.1:5672", "a b:1"]
        {
            assert!(
                wrong.parse::<Endpoint>().unwrap_err().starts_with("expected an address and port"),
                "{wrong}"
            );
        }
    }
}
