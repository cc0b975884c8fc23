//! Networks: addresses that begin alike, as CIDR writes them.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::de::{Deserialize, Deserializer, Error};

/// A network, which may be a single address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(IpNet);

impl Network {
    /// All addresses that there are.
    pub(super) fn all() -> Vec<Self> {
        vec![Self(Ipv4Net::default().into()), Self(Ipv6Net::default().into())]
    }

    /// Whether the address is of it. One of IPv4 stays so when it comes by a socket of IPv6.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.0.contains(&ip.to_canonical())
    }

    /// Whether every address of its kind is of it.
    pub fn is_everything(&self) -> bool {
        self.0.prefix_len() == 0
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        network
            .map(|network| Self(network.trunc()))
            .map_err(|_| format!("expected a network such as \"10.0.0.0/8\", or an address, found {text:?}"))
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::Network;

    #[test]
    fn addresses_that_begin_alike_are_of_it() {
        for (text, shown, inside, outside) in [
            ("10.0.0.0/8", "10.0.0.0/8", "10.200.0.1", "11.0.0.1"),
            (" 192.0.2.7/24", "192.0.2.0/24", "::ffff:192.0.2.9", "192.0.3.7"),
            ("192.0.2.7", "192.0.2.7/32", "192.0.2.7", "192.0.2.8"),
            ("2001:db8::/32", "2001:db8::/32", "2001:db8:1::1", "2001:db9::1"),
            ("0.0.0.0/0", "0.0.0.0/0", "127.0.0.1", "::1"),
        ] {
            let network: Network = text.parse().unwrap();
            assert_eq!(network.to_string(), shown);
            assert!(network.contains(inside.parse().unwrap()), "{inside} in {text}");
            assert!(!network.contains(outside.parse().unwrap()), "{outside} in {text}");
            assert_eq!(network.is_everything(), shown.ends_with("/0"));
        }
        for wrong in ["", "10.0.0.0/33", "10.0.0/8", "localhost", "10.0.0.0/", "::/129"] {
            assert!(wrong.parse::<Network>().unwrap_err().starts_with("expected a network"), "{wrong}");
        }
    }
}
