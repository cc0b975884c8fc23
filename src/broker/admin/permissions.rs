//! What users may do in virtual hosts, and with which keys.

use std::sync::Arc;

use crate::auth::permissions::Permissions;
use crate::auth::topics::TopicPermission;
use crate::auth::users::User;
use crate::broker::Broker;
use crate::broker::admin::parameters::{Kept, PERMISSION, TOPIC_PERMISSION, of_broker};
use crate::broker::admin::{AdminError, Undertaking, check_name};
use crate::protocol::field::Field;
use crate::protocol::table::{Table, TableBuf};

impl Broker {
    /// Sets what a user may do in a virtual host: three regular expressions over names.
    ///
    /// # Errors
    /// A user or virtual host that is not there, or an expression that cannot be compiled.
    pub fn set_permissions(
        &self,
        user: &str,
        vhost: &str,
        [configure, write, read]: [&str; 3],
    ) -> Result<Undertaking, AdminError> {
        let permissions = Permissions::new(configure, write, read);
        let permissions = permissions.map_err(|error| AdminError::Invalid(error.to_string()))?;
        let mut changing = self.change_parameters();
        let user = self.user_of(user, vhost)?;
        let mut value = TableBuf::new();
        for (name, pattern) in [("configure", configure), ("write", write), ("read", read)] {
            value.insert(name, Field::LongStr(pattern.as_bytes()));
        }
        let name = format!("{}\0{vhost}", user.name);
        Ok(changing.set(of_broker(PERMISSION, &name), value.as_table(), || {
            user.change(|profile| drop(profile.permissions.insert(vhost.to_owned(), permissions.clone())));
            self.permissions_changed();
        }))
    }

    /// A user may do nothing in a virtual host any more.
    ///
    /// # Errors
    /// [`AdminError::NotFound`].
    pub fn clear_permissions(&self, user: &str, vhost: &str) -> Result<Undertaking, AdminError> {
        let mut changing = self.change_parameters();
        changing.clear(of_broker(PERMISSION, &format!("{user}\0{vhost}")), || {
            if let Some(user) = self.users.get(user) {
                user.change(|profile| drop(profile.permissions.remove(vhost)));
            }
            self.permissions_changed();
        })
    }

    /// Sets with which keys a user may write to and read from a topic exchange.
    ///
    /// # Errors
    /// As [`Broker::set_permissions`].
    pub fn set_topic_permissions(
        &self,
        user: &str,
        vhost: &str,
        exchange: &str,
        [write, read]: [&str; 2],
    ) -> Result<Undertaking, AdminError> {
        check_name(exchange)?;
        let permission = TopicPermission::new(user, vhost, write, read);
        let permission = permission.map_err(|error| AdminError::Invalid(error.to_string()))?;
        let mut changing = self.change_parameters();
        let user = self.user_of(user, vhost)?;
        let mut value = TableBuf::new();
        value
            .insert("write", Field::LongStr(write.as_bytes()))
            .insert("read", Field::LongStr(read.as_bytes()));
        let name = format!("{}\0{vhost}\0{exchange}", user.name);
        Ok(changing.set(of_broker(TOPIC_PERMISSION, &name), value.as_table(), || {
            set_topic(&user, vhost, exchange, &permission);
            self.permissions_changed();
        }))
    }

    /// A user may use every key again: at one exchange, or at all of the virtual host.
    ///
    /// # Errors
    /// [`AdminError::NotFound`].
    pub fn clear_topic_permissions(
        &self,
        user: &str,
        vhost: &str,
        exchange: Option<&str>,
    ) -> Result<Undertaking, AdminError> {
        let mut changing = self.change_parameters();
        let prefix = format!("{user}\0{vhost}\0");
        let is_meant = |kept: &Kept| exchange.is_none_or(|name| kept.names().last() == Some(&name));
        let found: Vec<_> =
            self.parameters.of("", TOPIC_PERMISSION, &prefix).into_iter().filter(is_meant).collect();
        let mut last = Err(AdminError::NotFound);
        for kept in found {
            last = changing.clear(of_broker(TOPIC_PERMISSION, &kept.name), || {
                if let (Some(user), Some(exchange)) = (self.users.get(user), kept.names().last()) {
                    user.change(|profile| {
                        profile.topics.entry(vhost.to_owned()).or_default().clear(exchange);
                    });
                }
                self.permissions_changed();
            });
        }
        last
    }

    /// What connections have found to be allowed is asked again.
    pub(super) fn permissions_changed(&self) {
        self.vhosts.iter().for_each(|vhost| vhost.routes_changed());
    }

    fn user_of(&self, user: &str, vhost: &str) -> Result<Arc<User>, AdminError> {
        let known = self.vhost(vhost).filter(|vhost| !vhost.is_closing()).and_then(|_| self.users.get(user));
        known.ok_or_else(|| AdminError::Invalid("vhost_or_user_not_found".to_owned()))
    }

    pub(super) fn restore_permissions(&self, kept: &Kept) {
        let [user, vhost] = kept.names()[..] else { return };
        let text = |name| text(kept.value(), name);
        let permissions = Permissions::new(&text("configure"), &text("write"), &text("read"));
        match (self.users.get(user), permissions) {
            (Some(user), Ok(permissions)) => {
                user.change(|profile| {
                    drop(profile.permissions.insert(vhost.to_owned(), permissions.clone()))
                });
            }
            (_, Err(error)) => tracing::error!(user, vhost, %error, "permissions are left out"),
            (None, Ok(_)) => {}
        }
    }

    pub(super) fn restore_topic_permissions(&self, kept: &Kept) {
        let [user, vhost, exchange] = kept.names()[..] else { return };
        let text = |name| text(kept.value(), name);
        match (self.users.get(user), TopicPermission::new(user, vhost, &text("write"), &text("read"))) {
            (Some(user), Ok(permission)) => set_topic(&user, vhost, exchange, &permission),
            // A user who may do too much is worse than one who may do nothing.
            (Some(owner), Err(error)) => {
                tracing::error!(user, vhost, exchange, %error, "topic permissions are unknown: nothing is allowed there");
                owner.change(|profile| drop(profile.permissions.remove(vhost)));
            }
            (None, _) => {}
        }
    }
}

fn set_topic(user: &User, vhost: &str, exchange: &str, permission: &TopicPermission) {
    user.change(|profile| {
        profile.topics.entry(vhost.to_owned()).or_default().set(exchange, permission.clone());
    });
}

fn text(table: Table<'_>, name: &str) -> String {
    match table.get(name) {
        Some(Field::LongStr(text)) => String::from_utf8_lossy(text).into_owned(),
        _ => String::new(),
    }
}
