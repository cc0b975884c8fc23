//! Which certificate a client is shown: by the name that it asks for.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// The certificate for everybody, and those for who asks for a name.
#[derive(Debug)]
pub(super) struct Choice {
    usual: Arc<CertifiedKey>,
    /// By name in small letters; `*.` and a name for those that have one label more.
    by_name: HashMap<String, Arc<CertifiedKey>>,
}

impl Choice {
    /// This for everybody, but who asks for one of these names.
    pub(super) fn new(
        usual: Arc<CertifiedKey>,
        named: impl IntoIterator<Item = (String, Arc<CertifiedKey>)>,
    ) -> Self {
        let by_name = named.into_iter().map(|(name, key)| (name.to_ascii_lowercase(), key)).collect();
        Self { usual, by_name }
    }

    fn find(&self, name: Option<&str>) -> &Arc<CertifiedKey> {
        let name = name.filter(|_| !self.by_name.is_empty()).map(str::to_ascii_lowercase);
        let exact = name.as_ref().and_then(|name| self.by_name.get(name));
        let below = || {
            let (_, domain) = name.as_ref()?.split_once('.')?;
            self.by_name.get(&format!("*.{domain}"))
        };
        exact.or_else(below).unwrap_or(&self.usual)
    }
}

impl ResolvesServerCert for Choice {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(self.find(hello.server_name())))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rcgen::KeyPair;
    use rustls::crypto::ring::sign::any_supported_type;
    use rustls::pki_types::PrivateKeyDer;
    use rustls::sign::CertifiedKey;

    use super::Choice;

    #[test]
    fn a_name_has_its_certificate_and_what_is_below_a_star() {
        let key = || {
            let key = PrivateKeyDer::try_from(KeyPair::generate().unwrap().serialize_der()).unwrap();
            Arc::new(CertifiedKey::new(Vec::new(), any_supported_type(&key).unwrap()))
        };
        let keys = [key(), key(), key()];
        let named = [("MQ.example.com", &keys[1]), ("*.example.com", &keys[2])];
        let named = named.map(|(name, key)| (name.to_owned(), Arc::clone(key)));
        let choice = Choice::new(Arc::clone(&keys[0]), named);
        for (name, at) in [
            (None, 0),
            (Some("mq.Example.com"), 1),
            (Some("other.example.com"), 2),
            (Some("a.b.example.com"), 0),
            (Some("example.com"), 0),
            (Some("com"), 0),
        ] {
            assert!(Arc::ptr_eq(choice.find(name), &keys[at]), "{name:?}");
        }
    }
}
