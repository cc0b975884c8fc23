//! Which places are this broker's. Messages are moved within it: a URI that names another is refused.

use std::net::IpAddr;
use std::sync::Arc;

use percent_encoding::percent_decode_str;

use crate::config::{Endpoint, Secret};

const SCHEME: &str = "amqp://";
const VHOST_DEFAULT: &str = "/";

/// What this broker is called.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// The ports on which AMQP is served.
    ports: Vec<u16>,
    /// Hosts, beside those that always are this machine.
    hosts: Vec<String>,
}

/// A place in this broker.
#[derive(Clone, Debug)]
pub struct Place {
    /// The URI, without user and password.
    pub uri: Arc<str>,
    /// The virtual host.
    pub vhost: String,
    /// Who goes there, if it says so.
    pub login: Option<Login>,
}

/// A user and their password.
#[derive(Clone, Debug)]
pub struct Login {
    /// The name.
    pub user: String,
    /// The password.
    pub password: Secret,
}

impl Names {
    /// Those of a broker that listens at these endpoints, on these ports.
    pub fn new(endpoints: &[Endpoint], ports: Vec<u16>) -> Self {
        let named = endpoints.iter().filter_map(|endpoint| match endpoint {
            Endpoint::Address(address) => {
                Some(address.ip()).filter(|ip| !ip.is_unspecified()).map(|ip| ip.to_string())
            }
            Endpoint::Name { host, .. } => Some(host.clone()),
        });
        let own = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Self { ports, hosts: named.chain([own]).collect() }
    }

    /// Whether this is the broker itself.
    fn include(&self, host: &str, port: Option<u16>) -> bool {
        let is_loopback = host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        let is_own = is_loopback
            || host.is_empty()
            || host.eq_ignore_ascii_case("localhost")
            || self.hosts.iter().any(|own| own.eq_ignore_ascii_case(host));
        is_own && port.is_none_or(|port| self.ports.contains(&port))
    }

    /// The place that a URI names.
    ///
    /// # Errors
    /// It is no URI, or names another broker: a sentence.
    pub fn find(&self, uri: &str) -> Result<Place, String> {
        let told = without_secrets(uri);
        let invalid = |why: &str| format!("\"{told}\" not a valid URI: {why}");
        let Some(rest) = uri.strip_prefix(SCHEME) else {
            let (scheme, is_there) = uri.split_once(':').map_or(("", false), |(scheme, _)| (scheme, true));
            return Err(match scheme {
                "amqps" => {
                    format!("\"{told}\": messages are moved within the process, without TLS: use amqp://")
                }
                _ if is_there => invalid(&format!("{{{{unexpected_uri_scheme,\"{scheme}\"}},\"{told}\"}}")),
                _ => invalid(&format!("{{{{unable_to_parse_uri,no_scheme}},\"{told}\"}}")),
            });
        };
        let rest = rest.split(['?', '#']).next().unwrap_or_default();
        let (authority, path) =
            rest.split_once('/').map_or((rest, None), |(place, path)| (place, Some(path)));
        let (login, address) =
            authority.rsplit_once('@').map_or((None, authority), |(login, at)| (Some(login), at));
        let (host, port) = match address.rsplit_once(':') {
            // A colon inside the brackets of an IPv6 address is no port.
            Some((host, port)) if !port.contains(']') => {
                (host, Some(port.parse().map_err(|_| invalid("its port is no number"))?))
            }
            _ => (address, None),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if !self.include(host, port) {
            return Err(format!("\"{told}\" is another broker: messages are moved within this one only"));
        }
        let text = |part: &str| match percent_decode_str(part).decode_utf8() {
            Ok(text) => Ok(text.into_owned()),
            Err(_) => Err(invalid("it is no text")),
        };
        let login = login.map(|login| {
            let (user, password) = login.split_once(':').unwrap_or((login, ""));
            Ok::<_, String>(Login { user: text(user)?, password: Secret::new(text(password)?) })
        });
        let vhost = path.filter(|path| !path.is_empty()).map_or(Ok(VHOST_DEFAULT.to_owned()), text)?;
        Ok(Place { uri: without_login(uri).into(), vhost, login: login.transpose()? })
    }

    /// The first of several URIs that names a place here.
    ///
    /// # Errors
    /// None does; why the first one does not.
    pub fn find_first<'a>(&self, uris: impl IntoIterator<Item = &'a str>) -> Result<Place, String> {
        let mut refused = None;
        for uri in uris {
            match self.find(uri) {
                Ok(place) => return Ok(place),
                Err(reason) => refused = refused.or(Some(reason)),
            }
        }
        Err(refused.unwrap_or_else(|| "there is no URI".to_owned()))
    }
}

/// A URI that may be shown, of those that name a place here.
pub fn without_login(uri: &str) -> String {
    let Some((scheme, rest)) = uri.split_once("://") else { return uri.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let address = authority.rsplit_once('@').map_or(authority, |(_, address)| address);
    format!("{scheme}://{address}{path}")
}

/// Of any text that was to be a URI what may be shown: what is before the last `@` may be a password that nobody has escaped.
pub fn without_secrets(uri: &str) -> String {
    let (scheme, rest) = uri.split_once("://").map_or(("", uri), |(scheme, rest)| (scheme, rest));
    let Some((_, shown)) = rest.rsplit_once('@') else { return uri.to_owned() };
    let mark = if scheme.is_empty() { "" } else { "://" };
    format!("{scheme}{mark}{shown}")
}

#[cfg(test)]
mod tests {
    use super::{Names, without_login};

    fn names() -> Names {
        Names { ports: vec![5672, 5673], hosts: vec!["mq.example".to_owned()] }
    }

    #[test]
    fn what_means_this_broker_is_found() {
        for (uri, vhost, user) in [
            ("amqp://", "/", None),
            ("amqp:///", "/", None),
            ("amqp:///%2F", "/", None),
            ("amqp:///a%20b?heartbeat=5", "a b", None),
            ("amqp://localhost", "/", None),
            ("amqp://u:p%40@127.0.0.1:5672/v", "v", Some("u")),
            ("amqp://[::1]:5673/v", "v", None),
            ("amqp://u@MQ.example/v", "v", Some("u")),
        ] {
            let place = names().find(uri).unwrap();
            assert_eq!(place.vhost, vhost, "{uri}");
            assert_eq!(place.login.map(|login| login.user).as_deref(), user, "{uri}");
        }
        assert_eq!(names().find("amqp://u:p%40@localhost").unwrap().login.unwrap().password.expose(), b"p@");
    }

    #[test]
    fn what_means_another_one_is_refused_and_of_a_list_the_first_here_counts() {
        let another = "\"amqp://far:5672/v\" is another broker: messages are moved within this one only";
        assert_eq!(names().find("amqp://u:p@far:5672/v").unwrap_err(), another);
        for uri in [
            "amqp://localhost:1",
            "amqp://localhost:x",
            "amqps://localhost",
            "http://x",
            "foo",
            "amqp:///%ff",
        ] {
            assert!(names().find(uri).is_err(), "{uri}");
        }
        let found = names().find_first(["amqp://far", "amqp:///here", "amqp://"]).unwrap();
        assert_eq!((&*found.uri, &*found.vhost), ("amqp:///here", "here"));
        assert!(names().find_first(["amqp://far", "foo"]).unwrap_err().contains("another broker"));
    }

    #[test]
    fn passwords_are_not_shown() {
        assert_eq!(without_login("amqp://u:p@h:1/v"), "amqp://h:1/v");
        assert_eq!(without_login("amqp:///v@x"), "amqp:///v@x");
        assert_eq!(without_login("amqp://h?a=b@x"), "amqp://h?a=b@x");
        for uri in [
            "amqp://u:secret@far/v",
            "amqp://u:secret@localhost:x",
            "amqps://u:secret@localhost",
            "http://u:secret@localhost",
            "amqp:u:secret@localhost",
            "u:secret@localhost",
            // Whoever has not escaped what is in a password.
            "amqp://u:secret/x@localhost/v",
            "amqp://u:secret?x@localhost/v",
            "amqp://u:secret#x@localhost/v",
            "amqp://u:sec/secret@x@localhost/v",
        ] {
            let refused = names().find(uri).unwrap_err();
            assert!(!refused.contains("secret"), "{refused}");
        }
    }
}
