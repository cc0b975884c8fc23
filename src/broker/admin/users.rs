//! Users come, change and go.

use std::sync::Arc;

use crate::auth::password::{Hashing, PasswordError, PasswordHash};
use crate::auth::users::{Profile, User};
use crate::broker::Broker;
use crate::broker::admin::parameters::{
    self, CONNECTIONS_MAX, Changing, PERMISSION, TOPIC_PERMISSION, USER, USER_LIMITS, check_limits, limit,
    of_broker, with_limit,
};
use crate::broker::admin::{AdminError, Undertaking, check_name};
use crate::broker::login::LOCAL_ADMINISTRATOR;
use crate::protocol::field::Field;
use crate::protocol::table::{ArrayBuf, Table, TableBuf};

/// A user has no more tags, and none is longer.
const TAGS_MAX: usize = 100;

const CHANNELS_MAX: &str = "max-channels";

/// What becomes of a user's password.
#[derive(Clone, Debug)]
pub enum PasswordChange {
    /// It is this one, as a hash.
    Set(PasswordHash),
    /// There is none: the user cannot log in by password.
    None,
    /// It stays.
    Keep,
}

impl Broker {
    /// Makes a user, or changes one: the tags, and the password as it says.
    ///
    /// # Errors
    /// A name or tags that cannot be.
    pub fn put_user(
        &self,
        name: &str,
        password: &PasswordChange,
        tags: &[String],
    ) -> Result<Undertaking, AdminError> {
        check_user(name, tags)?;
        let mut changing = self.change_parameters();
        let known = self.users.get(name);
        self.set_user(&mut changing, name, known.as_deref(), password, tags)
    }

    /// Changes what is said of a user who is there; what is not said stays as it is at that moment.
    ///
    /// # Errors
    /// Tags or a hash that cannot be, or [`AdminError::NotFound`].
    pub fn change_user(
        &self,
        name: &str,
        password: &PasswordChange,
        tags: Option<&[String]>,
    ) -> Result<Undertaking, AdminError> {
        check_user(name, tags.unwrap_or_default())?;
        let mut changing = self.change_parameters();
        let known = self.users.get(name).ok_or(AdminError::NotFound)?;
        let tags = tags.map_or_else(|| known.profile().tags.clone(), <[String]>::to_vec);
        self.set_user(&mut changing, name, Some(&known), password, &tags)
    }

    fn set_user(
        &self,
        changing: &mut Changing<'_>,
        name: &str,
        known: Option<&User>,
        password: &PasswordChange,
        tags: &[String],
    ) -> Result<Undertaking, AdminError> {
        let password = match password {
            PasswordChange::Set(hash) => {
                self.check_hash(hash)?;
                Some(hash.clone())
            }
            PasswordChange::None => None,
            PasswordChange::Keep => known.and_then(|user| user.profile().password.clone()),
        };
        let value = user_to_table(password.as_ref(), tags);
        Ok(changing.set(of_broker(USER, name), value.as_table(), || {
            self.apply_user(name, password.as_ref(), tags);
        }))
    }

    /// Deletes a user, with everything that was said about them. Those who are logged in as them may do nothing any more.
    ///
    /// # Errors
    /// [`AdminError::NotFound`].
    pub fn delete_user(&self, name: &str) -> Result<Undertaking, AdminError> {
        let mut changing = self.change_parameters();
        self.users.get(name).ok_or(AdminError::NotFound)?;
        // The user goes last: a crash in between must not leave permissions for the next one of that name.
        let of_user = format!("{name}\0");
        for component in [PERMISSION, TOPIC_PERMISSION] {
            for kept in self.parameters.of("", component, &of_user) {
                changing.clear(of_broker(component, &kept.name), || {})?;
            }
        }
        if self.parameters.get("", USER_LIMITS, name).is_some() {
            changing.clear(of_broker(USER_LIMITS, name), || {})?;
        }
        changing.clear(of_broker(USER, name), || {
            drop(self.users.remove(name));
            self.permissions_changed();
        })
    }

    /// Sets how much a user may open; `max-connections` and `max-channels`.
    ///
    /// # Errors
    /// A limit that is not one of these or no number, or [`AdminError::NotFound`].
    pub fn set_user_limits(&self, name: &str, limits: Table<'_>) -> Result<Undertaking, AdminError> {
        check_user_limits(limits)?;
        let mut changing = self.change_parameters();
        let user = self.users.get(name).ok_or(AdminError::NotFound)?;
        Ok(changing.set(of_broker(USER_LIMITS, name), limits, || apply_limits(&user, limits)))
    }

    /// Sets one limit of a user, or takes it away.
    ///
    /// # Errors
    /// As [`Broker::set_user_limits`].
    pub fn set_user_limit(
        &self,
        name: &str,
        limit: &str,
        value: Option<i64>,
    ) -> Result<Undertaking, AdminError> {
        let mut changing = self.change_parameters();
        let user = self.users.get(name).ok_or(AdminError::NotFound)?;
        let limits = with_limit(self.parameters.get("", USER_LIMITS, name).as_ref(), limit, value);
        check_user_limits(limits.as_table())?;
        let apply = || apply_limits(&user, limits.as_table());
        changing.replace(of_broker(USER_LIMITS, name), limits.as_table(), apply)
    }

    /// Whether a password may be kept like that.
    ///
    /// # Errors
    /// A hash that is too weak, where that is not allowed.
    pub fn check_hash(&self, hash: &PasswordHash) -> Result<(), AdminError> {
        match self.takes_hash(hash) {
            true => Ok(()),
            false => Err(AdminError::Invalid("MD5 hashes are taken where md5_passwords is set".to_owned())),
        }
    }

    /// Whether a password that is kept like that is one to log in with.
    pub(in crate::broker) fn takes_hash(&self, hash: &PasswordHash) -> bool {
        hash.hashing() != Hashing::Md5 || self.config.md5_passwords
    }

    /// Makes what a user's parameter says.
    pub(super) fn apply_user(&self, name: &str, password: Option<&PasswordHash>, tags: &[String]) {
        let loopback_only = self.config.loopback_users.iter().any(|user| user == name);
        if self.users.get(name).is_none() {
            self.users.put(User::new(name, Profile::default()));
        }
        let Some(user) = self.users.get(name) else { return };
        user.change(|profile| {
            profile.password = password.cloned();
            profile.tags = tags.to_vec();
            profile.loopback_only = loopback_only;
        });
    }

    pub(super) fn restore_user(&self, kept: &parameters::Kept) {
        match user_from_table(kept.value()) {
            Ok((password, tags)) => self.apply_user(&kept.name, password.as_ref(), &tags),
            Err(error) => tracing::error!(user = ?kept.name, %error, "a user is left out"),
        }
    }

    pub(super) fn restore_user_limits(&self, kept: &parameters::Kept) {
        if let Some(user) = self.users.get(&kept.name) {
            apply_limits(&user, kept.value());
        }
    }
}

/// Whether there can be such a user.
///
/// # Errors
/// A name or tags that cannot be.
pub fn check_user(name: &str, tags: &[String]) -> Result<(), AdminError> {
    check_name(name)?;
    if name == LOCAL_ADMINISTRATOR {
        let reason = format!("'{name}' is whoever comes by the socket of this machine's administrator");
        return Err(AdminError::Name(reason));
    }
    if tags.len() > TAGS_MAX || tags.iter().any(|tag| check_name(tag).is_err()) {
        return Err(AdminError::Invalid(format!("{TAGS_MAX} tags of 255 bytes at most")));
    }
    Ok(())
}

/// Whether these can be a user's limits.
///
/// # Errors
/// One that is not known, or no number.
pub fn check_user_limits(limits: Table<'_>) -> Result<(), AdminError> {
    check_limits(limits, &[CONNECTIONS_MAX, CHANNELS_MAX], "user-limits")
}

fn apply_limits(user: &Arc<User>, limits: Table<'_>) {
    user.change(|profile| {
        profile.connections_max = limit(limits, CONNECTIONS_MAX);
        profile.channels_max = limit(limits, CHANNELS_MAX);
    });
}

fn user_to_table(password: Option<&PasswordHash>, tags: &[String]) -> TableBuf {
    let hash = password.map(PasswordHash::to_base64).unwrap_or_default();
    let hashing = password.map_or(Hashing::Sha256, PasswordHash::hashing);
    let mut all = ArrayBuf::new();
    for tag in tags {
        all.push(Field::LongStr(tag.as_bytes()));
    }
    let mut table = TableBuf::new();
    table
        .insert("password_hash", Field::LongStr(hash.as_bytes()))
        .insert("hashing_algorithm", Field::LongStr(hashing.name().as_bytes()))
        .insert("tags", Field::Array(all.as_array()));
    table
}

fn user_from_table(table: Table<'_>) -> Result<(Option<PasswordHash>, Vec<String>), PasswordError> {
    let text = |key| match table.get(key) {
        Some(Field::LongStr(text)) => String::from_utf8_lossy(text).into_owned(),
        _ => String::new(),
    };
    let hashing = Hashing::from_name(&text("hashing_algorithm"))?;
    let hash = text("password_hash");
    let password = if hash.is_empty() { None } else { Some(PasswordHash::from_base64(hashing, &hash)?) };
    let tags = match table.get("tags") {
        Some(Field::Array(tags)) => tags.iter().map(|tag| tag.to_string()).collect(),
        _ => Vec::new(),
    };
    Ok((password, tags))
}
