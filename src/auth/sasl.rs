//! From what a client sends to the user it is: the mechanisms PLAIN, AMQPLAIN, EXTERNAL and ANONYMOUS, and the check.
//!
//! Knows nothing of connections: whoever calls decides when to answer a refusal, and how.
// RFC 4616, RFC 4422 appendix A, RFC 4505, and AMQP 0-9-1 §4.2.1 (start-ok's response)

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

use crate::auth::password::PasswordHash;
use crate::auth::users::{User, Users};
use crate::config::Secret;
use crate::protocol::field::Field;
use crate::protocol::table::Table;

/// A way to log in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mechanism {
    /// User and password between zero bytes.
    Plain,
    /// User and password in a field table.
    AmqPlain,
    /// Who the client's certificate says it is.
    External,
    /// Whom the configuration takes it for.
    Anonymous,
}

impl Mechanism {
    /// Every mechanism, in the order they are offered.
    pub const ALL: [Self; 4] = [Self::Plain, Self::AmqPlain, Self::External, Self::Anonymous];

    /// The registered name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::AmqPlain => "AMQPLAIN",
            Self::External => "EXTERNAL",
            Self::Anonymous => "ANONYMOUS",
        }
    }
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a client may log in by beside a password.
#[derive(Clone, Debug, Default)]
pub struct Offer {
    /// Who it is by its certificate, if it has shown one that is good.
    pub external: Option<String>,
    /// Who is anybody that says nothing.
    pub anonymous: Option<String>,
}

impl Offer {
    /// What `connection.start` offers.
    pub fn mechanisms(&self) -> String {
        let offered = Mechanism::ALL.into_iter().filter(|mechanism| self.has(*mechanism));
        offered.map(Mechanism::name).collect::<Vec<_>>().join(" ")
    }

    /// The mechanism of this name, if it was offered.
    ///
    /// # Errors
    /// It was not.
    pub fn find(&self, name: &str) -> Result<Mechanism, SaslError> {
        let known = Mechanism::ALL.into_iter().find(|mechanism| mechanism.name() == name);
        let offered = known.filter(|mechanism| self.has(*mechanism));
        offered.ok_or_else(|| SaslError::UnknownMechanism { name: name.to_owned() })
    }

    fn has(&self, mechanism: Mechanism) -> bool {
        match mechanism {
            Mechanism::Plain | Mechanism::AmqPlain => true,
            Mechanism::External => self.external.is_some(),
            Mechanism::Anonymous => self.anonymous.is_some(),
        }
    }
}

/// Why a response is no answer at all. The text is RabbitMQ's, except that it never repeats the response: that
/// may be a password in the wrong form, and the text is logged.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SaslError {
    /// No such mechanism: a 503.
    #[error("unknown authentication mechanism '{name}'")]
    UnknownMechanism {
        /// The name asked for.
        name: String,
    },
    /// A response that is not two fields, each after a zero byte, or no table where one belongs: a 502.
    #[error("response <<...>> invalid")]
    Malformed,
    /// A table without one of the two: a 502.
    #[error("AMQPLAIN auth info is missing LOGIN or PASSWORD field")]
    MissingField,
    /// A table where one of the two is no string: a 502.
    #[error("AMQPLAIN auth info uses unsupported type for LOGIN or PASSWORD field")]
    FieldType,
}

/// Who a client says it is.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The user's name.
    pub user: String,
    /// Why that should be believed.
    pub proof: Proof,
}

/// Why it should be believed who somebody is.
#[derive(Clone, Debug)]
pub enum Proof {
    /// The password given, to be checked.
    Password(Secret),
    /// Nothing is left to check: a certificate says so, or the configuration.
    Given,
}

impl Credentials {
    /// A user and the password given.
    pub fn by_password(user: impl Into<String>, password: Secret) -> Self {
        Self { user: user.into(), proof: Proof::Password(password) }
    }

    fn given(user: Option<&String>) -> Result<Self, SaslError> {
        let user = user.cloned().ok_or(SaslError::Malformed)?;
        Ok(Self { user, proof: Proof::Given })
    }
}

/// Why a login is refused: for the log alone. The client learns no more than that it was.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AuthError {
    /// There is no such user.
    #[error("user '{user}' is unknown")]
    UnknownUser {
        /// The name given.
        user: String,
    },
    /// The password is wrong or missing, or the user has none.
    #[error("user '{user}' gave a wrong password")]
    BadPassword {
        /// The user.
        user: String,
    },
    /// The user may not come from elsewhere.
    #[error("user '{user}' can only connect via localhost")]
    LoopbackOnly {
        /// The user.
        user: String,
    },
}

/// Reads the response of a mechanism that was offered. Whose mechanism says who they are is not asked what they say
/// themselves, as in RabbitMQ.
///
/// # Errors
/// What the response lacks to be one.
pub fn parse_response(
    offer: &Offer,
    mechanism: Mechanism,
    response: &[u8],
) -> Result<Credentials, SaslError> {
    match mechanism {
        Mechanism::Plain => parse_plain(response),
        Mechanism::AmqPlain => parse_amqplain(response),
        Mechanism::External => Credentials::given(offer.external.as_ref()),
        Mechanism::Anonymous => Credentials::given(offer.anonymous.as_ref()),
    }
}

/// Finds the user and checks the password, at the same cost whether or not the user exists.
///
/// # Errors
/// Why not, for the log.
pub fn authenticate(
    users: &Users,
    credentials: &Credentials,
    peer_is_loopback: bool,
) -> Result<Arc<User>, AuthError> {
    let user = users.get(&credentials.user);
    let profile = user.as_ref().map(|user| user.profile());
    let verified = match &credentials.proof {
        Proof::Password(password) => {
            let dummy = PasswordHash::dummy();
            let hash = profile.as_ref().and_then(|profile| profile.password.as_ref()).unwrap_or(&dummy);
            hash.verify(password.expose())
        }
        Proof::Given => true,
    };
    let name = || credentials.user.clone();
    let (Some(user), Some(profile)) = (user, profile) else {
        return Err(AuthError::UnknownUser { user: name() });
    };
    if !verified {
        return Err(AuthError::BadPassword { user: name() });
    }
    if profile.loopback_only && !peer_is_loopback {
        return Err(AuthError::LoopbackOnly { user: name() });
    }
    Ok(user)
}

/// RabbitMQ takes the form without an authorisation identity only: zero, user, zero, password.
fn parse_plain(response: &[u8]) -> Result<Credentials, SaslError> {
    let mut fields = response.split(|&byte| byte == 0);
    match (fields.next(), fields.next(), fields.next(), fields.next()) {
        (Some(b""), Some(user), Some(password), None) => Ok(credentials(user, password)),
        _ => Err(SaslError::Malformed),
    }
}

/// The table comes without its length, as RabbitMQ and all clients have it.
fn parse_amqplain(response: &[u8]) -> Result<Credentials, SaslError> {
    let table = Table::parse(response).map_err(|_| SaslError::Malformed)?;
    match (table.get("LOGIN"), table.get("PASSWORD")) {
        (Some(Field::LongStr(user)), Some(Field::LongStr(password))) => Ok(credentials(user, password)),
        (Some(_), Some(_)) => Err(SaslError::FieldType),
        _ => Err(SaslError::MissingField),
    }
}

/// A name that is not UTF-8 is nobody's; carried as text it still needs that somebody's password.
fn credentials(user: &[u8], password: &[u8]) -> Credentials {
    Credentials::by_password(String::from_utf8_lossy(user), Secret::new(password))
}

#[cfg(test)]
mod tests {
    use crate::auth::password::PasswordHash;
    use crate::auth::sasl::{
        AuthError, Credentials, Mechanism, Offer, Proof, SaslError, authenticate, parse_response,
    };
    use crate::auth::users::{Profile, User, Users};
    use crate::config::Secret;
    use crate::protocol::field::Field;
    use crate::protocol::table::TableBuf;

    fn plain(response: &[u8]) -> Result<(String, Vec<u8>), SaslError> {
        opened(parse_response(&Offer::default(), Mechanism::Plain, response))
    }

    fn amqplain(entries: &[(&str, Field<'_>)]) -> Result<(String, Vec<u8>), SaslError> {
        let mut table = TableBuf::new();
        for (key, field) in entries {
            table.insert(key, *field);
        }
        opened(parse_response(&Offer::default(), Mechanism::AmqPlain, &table.into_bytes()))
    }

    fn opened(parsed: Result<Credentials, SaslError>) -> Result<(String, Vec<u8>), SaslError> {
        parsed.map(|found| match found.proof {
            Proof::Password(password) => (found.user, password.expose().to_vec()),
            Proof::Given => panic!("no password is asked for"),
        })
    }

    fn guest(password: Option<PasswordHash>) -> Users {
        let users = Users::default();
        users.put(User::new("guest", Profile { password, loopback_only: true, ..Profile::default() }));
        users
    }

    fn login(users: &Users, user: &str, password: &str, loopback: bool) -> Result<String, AuthError> {
        let credentials = Credentials::by_password(user, Secret::new(password));
        authenticate(users, &credentials, loopback).map(|user| user.name.clone())
    }

    #[test]
    fn mechanisms_by_name() {
        let usual = Offer::default();
        assert_eq!(usual.mechanisms(), "PLAIN AMQPLAIN");
        assert_eq!(usual.find("PLAIN"), Ok(Mechanism::Plain));
        for unknown in ["X", "EXTERNAL", "ANONYMOUS", "plain", ""] {
            let told = usual.find(unknown).unwrap_err().to_string();
            assert_eq!(told, format!("unknown authentication mechanism '{unknown}'"));
        }
    }

    #[test]
    fn who_needs_no_password_is_who_was_offered() {
        let offer = Offer { external: Some("orders".to_owned()), anonymous: Some("guest".to_owned()) };
        assert_eq!(offer.mechanisms(), "PLAIN AMQPLAIN EXTERNAL ANONYMOUS");
        let users = guest(None);
        let login = |mechanism, loopback| {
            let credentials = parse_response(&offer, offer.find(mechanism).unwrap(), b"\0root\0").unwrap();
            authenticate(&users, &credentials, loopback).map(|user| user.name.clone())
        };
        assert_eq!(login("ANONYMOUS", true), Ok("guest".to_owned()));
        assert_eq!(login("ANONYMOUS", false), Err(AuthError::LoopbackOnly { user: "guest".to_owned() }));
        assert_eq!(login("EXTERNAL", true), Err(AuthError::UnknownUser { user: "orders".to_owned() }));
    }

    #[test]
    fn plain_is_zero_user_zero_password() {
        assert_eq!(plain(b"\0guest\0secret"), Ok(("guest".to_owned(), b"secret".to_vec())));
        assert_eq!(plain(b"\0guest\0"), Ok(("guest".to_owned(), Vec::new())));
        for wrong in
            [&b""[..], b"\0", b"guest", b"\0guest", b"guest\0secret", b"a\0guest\0secret", b"\0a\0b\0"]
        {
            assert_eq!(plain(wrong), Err(SaslError::Malformed), "{wrong:?}");
        }
        assert_eq!(SaslError::Malformed.to_string(), "response <<...>> invalid");
    }

    #[test]
    fn amqplain_is_a_table_without_its_length() {
        let (login, password) =
            (("LOGIN", Field::LongStr(b"guest")), ("PASSWORD", Field::LongStr(b"secret")));
        assert_eq!(amqplain(&[login, password]), Ok(("guest".to_owned(), b"secret".to_vec())));
        assert_eq!(amqplain(&[login]), Err(SaslError::MissingField));
        assert_eq!(amqplain(&[login, ("PASSWORD", Field::I32(1))]), Err(SaslError::FieldType));
        assert_eq!(
            opened(parse_response(&Offer::default(), Mechanism::AmqPlain, b"\x05LOG")),
            Err(SaslError::Malformed)
        );
    }

    #[test]
    fn the_reason_of_a_refusal_is_for_the_log() {
        let users = guest(Some(PasswordHash::hash(b"guest").unwrap()));
        assert_eq!(login(&users, "guest", "guest", true), Ok("guest".to_owned()));
        let told =
            |user, password, loopback| login(&users, user, password, loopback).unwrap_err().to_string();
        assert_eq!(told("alice", "guest", true), "user 'alice' is unknown");
        assert_eq!(told("guest", "wrong", true), "user 'guest' gave a wrong password");
        assert_eq!(told("guest", "", true), "user 'guest' gave a wrong password");
        assert_eq!(told("guest", "guest", false), "user 'guest' can only connect via localhost");
        assert_eq!(told("guest", "wrong", false), "user 'guest' gave a wrong password", "in that order");
    }

    #[test]
    fn a_user_without_a_hash_cannot_log_in_by_password() {
        let users = guest(None);
        assert!(login(&users, "guest", "guest", true).is_err());
        assert!(login(&users, "guest", "", true).is_err());
    }
}
