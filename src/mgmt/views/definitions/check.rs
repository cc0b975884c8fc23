//! Whether definitions can be made, before any of them is: what each of them says, and that the virtual hosts and users
//! that it needs are there, or come with it.

use std::cell::Cell;
use std::collections::HashSet;

use serde_json::Value;

use crate::auth::permissions::Permissions;
use crate::auth::topics::TopicPermission;
use crate::broker::admin::parameters::{OPERATOR_POLICY, SHOVEL, check_parameter, checked_global};
use crate::broker::policy::Author;
use crate::mgmt::answer::Refusal;
use crate::mgmt::call::Call;
use crate::mgmt::change::{flag, text};
use crate::mgmt::json;
use crate::mgmt::views::definitions::import::{Object, name, objects};
use crate::mgmt::views::{bindings, exchanges, policies, queues, shovels, users, vhosts};

/// Definitions of one import.
const OBJECTS_MAX: usize = 1_000_000;

/// The definitions of one body, by what they are.
const OF_BROKER: [&str; 5] = ["users", "vhosts", "permissions", "topic_permissions", "global_parameters"];
const OF_VHOSTS: [&str; 5] = ["policies", "parameters", "queues", "exchanges", "bindings"];

/// What is there, or comes with the definitions.
struct Check<'a> {
    call: &'a Call<'a>,
    /// Where all goes, if that is one virtual host.
    vhost: Option<&'a str>,
    users: HashSet<&'a str>,
    vhosts: HashSet<&'a str>,
    /// How many shovels come with them.
    shovels: Cell<usize>,
}

/// Whether all of a body can be made, for one virtual host or for all.
///
/// # Errors
/// The first that cannot, with its place.
pub(super) fn check<'a>(call: &'a Call<'a>, vhost: Option<&'a str>, body: &'a Object) -> Result<(), Refusal> {
    let names = |key| -> HashSet<&'a str> {
        let list = body.get(key).and_then(Value::as_array).into_iter().flatten();
        list.filter_map(|item| item.get("name")?.as_str()).collect()
    };
    let check = Check { call, vhost, users: names("users"), vhosts: names("vhosts"), shovels: Cell::new(0) };
    let of_broker = OF_BROKER.iter().filter(|_| vhost.is_none());
    let mut total = 0;
    for key in of_broker.chain(&OF_VHOSTS) {
        for (number, item) in objects(body, key)?.enumerate() {
            let checked = item.and_then(|item| check.one(key, item));
            checked.map_err(|refusal| refusal.of_item(key, number))?;
            total += 1;
        }
    }
    match total {
        ..=OBJECTS_MAX => Ok(()),
        _ => Err(Refusal::bad_request(format!("{total} definitions are more than {OBJECTS_MAX}"))),
    }
}

impl Check<'_> {
    fn one(&self, key: &str, item: &Object) -> Result<(), Refusal> {
        match key {
            "users" => users::check(self.call, name(item)?, item),
            "vhosts" => {
                flag(item, "tracing", false)?;
                Ok(vhosts::read(item).checked(name(item)?).map(drop)?)
            }
            "permissions" => {
                Permissions::new(text(item, "configure")?, text(item, "write")?, text(item, "read")?)
                    .map_err(|error| Refusal::bad_request(error.to_string()))?;
                self.user(item)
            }
            "topic_permissions" => {
                TopicPermission::new("", "", text(item, "write")?, text(item, "read")?)
                    .map_err(|error| Refusal::bad_request(error.to_string()))?;
                text(item, "exchange").and_then(|_| self.user(item))
            }
            "global_parameters" => {
                let value = item.get("value").unwrap_or(&Value::Null);
                json::with_field(value, |value| Ok(checked_global(name(item)?, value).map(drop)?))?
            }
            "policies" => {
                self.vhost(item)?;
                policies::check(Author::User, name(item)?, item)
            }
            "parameters" => self.parameter(item),
            "queues" => queues::check(self.vhost(item)?, name(item)?, item),
            "exchanges" => self.exchange(self.vhost(item)?, name(item)?, item),
            _ => self.vhost(item).and(bindings::read(item).map(drop)),
        }
    }

    fn parameter(&self, item: &Object) -> Result<(), Refusal> {
        let (vhost, name, component) = (self.vhost(item)?, name(item)?, text(item, "component")?);
        let Some(Value::Object(value)) = item.get("value") else {
            return Err(Refusal::bad_request("[{key_missing,value}]"));
        };
        match component {
            OPERATOR_POLICY => policies::check(Author::Operator, name, value),
            SHOVEL => {
                shovels::check(self.call, vhost, name, value)?;
                shovels::check_room(self.call, vhost, name, self.shovels.get())?;
                let is_new = self.call.mgmt.broker.parameters.get(vhost, SHOVEL, name).is_none();
                self.shovels.set(self.shovels.get() + usize::from(is_new));
                Ok(())
            }
            _ => Ok(check_parameter(component, name, json::to_table(value)?.as_table())?),
        }
    }

    /// One that is there stays, whatever is said of it: those that a broker has from the start have names of their own.
    fn exchange(&self, vhost: &str, name: &str, item: &Object) -> Result<(), Refusal> {
        match self.call.mgmt.broker.vhost(vhost).and_then(|vhost| vhost.exchange(name)) {
            Some(_) => Ok(()),
            None => exchanges::check(vhost, name, item),
        }
    }

    /// The virtual host that something is for.
    fn vhost<'b>(&'b self, item: &'b Object) -> Result<&'b str, Refusal> {
        if let Some(vhost) = self.vhost {
            return Ok(vhost);
        }
        let vhost = text(item, "vhost")?;
        let is_there = || self.call.mgmt.broker.vhost(vhost).is_some_and(|vhost| !vhost.is_closing());
        match self.vhosts.contains(vhost) || is_there() {
            true => Ok(vhost),
            false => Err(Refusal::bad_request(format!("vhost '{vhost}' does not exist"))),
        }
    }

    /// Whether the user and the virtual host that permissions are about are there.
    fn user(&self, item: &Object) -> Result<(), Refusal> {
        self.vhost(item)?;
        let user = text(item, "user")?;
        match self.users.contains(user) || self.call.mgmt.broker.users.get(user).is_some() {
            true => Ok(()),
            false => Err(Refusal::bad_request(format!("user '{user}' does not exist"))),
        }
    }
}
