//! Parameters as they were said: one snapshot that anyone may read, changed one at a time.

use std::sync::Arc;

use arc_swap::ArcSwap;
use imbl::OrdMap;
use parking_lot::{Mutex, MutexGuard};

use crate::broker::Broker;
use crate::broker::admin::{AdminError, Undertaking, check_name};
use crate::message::fact::{Definition, Fact, Parameter};
use crate::protocol::field::Field;
use crate::protocol::table::{Table, TableBuf};
use crate::stats::{Charge, Gauge};

/// A user: their password's hash and their tags.
pub const USER: &str = "user";
/// What a user may do in a virtual host.
pub const PERMISSION: &str = "permission";
/// With which keys a user may do it at an exchange.
pub const TOPIC_PERMISSION: &str = "topic_permission";
/// How much a user may open.
pub const USER_LIMITS: &str = "user-limits";
/// A virtual host.
pub const VHOST: &str = "vhost";
/// Anything that operators keep, of the whole broker.
pub const GLOBAL: &str = "global";
/// A policy.
pub const POLICY: &str = "policy";
/// An operator's policy.
pub const OPERATOR_POLICY: &str = "operator_policy";
/// How much there may be in a virtual host.
pub const VHOST_LIMITS: &str = "vhost-limits";
/// What there is of [`VHOST_LIMITS`] and such has one name.
pub const LIMITS: &str = "limits";
/// Messages that the broker moves itself: `transfer` acts on it.
pub const SHOVEL: &str = "shovel";
/// How many connections there may be, of a virtual host or a user.
pub(super) const CONNECTIONS_MAX: &str = "max-connections";
/// How many queues there may be in a virtual host.
pub(super) const QUEUES_MAX: &str = "max-queues";
/// Under this key lies a value that is no table.
const VALUE: &str = "value";

/// What a parameter takes in memory beside its name and value, in bytes.
const PARAMETER_BYTES: usize = 160;
/// A value is no longer.
const VALUE_BYTES_MAX: usize = 64 * 1024;

type Key = (Box<str>, Box<str>, Box<str>);
type Map = OrdMap<Key, Arc<[u8]>>;

/// All parameters.
#[derive(Debug)]
pub struct Parameters {
    snapshot: ArcSwap<Map>,
    /// Held by who changes something, until all of it is changed.
    changing: Mutex<Charge>,
}

/// One parameter of a snapshot.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Its virtual host; empty for the whole broker's.
    pub vhost: Box<str>,
    /// Its component.
    pub component: Box<str>,
    /// Its name.
    pub name: Box<str>,
    value: Arc<[u8]>,
}

impl Kept {
    /// What it says.
    pub fn value(&self) -> Table<'_> {
        Table::unchecked(&self.value)
    }

    /// The two or three names of which its name is made.
    pub fn names(&self) -> Vec<&str> {
        self.name.split('\0').collect()
    }
}

impl Parameters {
    /// None; what they take is on this gauge.
    pub(in crate::broker) fn new(gauge: &Arc<Gauge>) -> Self {
        Self { snapshot: ArcSwap::default(), changing: Mutex::new(Charge::new(gauge, 0)) }
    }

    /// One of them.
    pub fn get(&self, vhost: &str, component: &str, name: &str) -> Option<Kept> {
        let key = (Box::from(vhost), Box::from(component), Box::from(name));
        let value = Arc::clone(self.snapshot.load().get(&key)?);
        let (vhost, component, name) = key;
        Some(Kept { vhost, component, name, value })
    }

    /// Those of a component in a virtual host whose names begin with `prefix`, in order of their names.
    pub fn of(&self, vhost: &str, component: &str, prefix: &str) -> Vec<Kept> {
        let snapshot = self.snapshot.load_full();
        let first = (Box::from(vhost), Box::from(component), Box::from(prefix));
        let all = snapshot.range(first.clone()..);
        all.take_while(|((of_vhost, of_component, name), _)| {
            (of_vhost, of_component) == (&first.0, &first.1) && name.starts_with(prefix)
        })
        .map(|(key, value)| Kept::new(key, value))
        .collect()
    }

    /// Those of virtual hosts, whatever their components are.
    pub fn of_vhosts(&self) -> Vec<Kept> {
        let snapshot = self.snapshot.load_full();
        snapshot
            .iter()
            .filter(|((vhost, ..), _)| !vhost.is_empty())
            .map(|(key, value)| Kept::new(key, value))
            .collect()
    }

    fn insert(&self, charge: &mut Charge, parameter: Parameter<'_>, value: &[u8]) -> bool {
        let key = key_of(parameter);
        let bytes = bytes_of(&key, value.len());
        let mut map = Map::clone(&self.snapshot.load());
        let before = map.insert(key.clone(), value.into());
        self.snapshot.store(Arc::new(map));
        charge.grow(bytes);
        if let Some(before) = &before {
            charge.shrink(bytes_of(&key, before.len()));
        }
        before.is_none()
    }

    fn remove(&self, charge: &mut Charge, parameter: Parameter<'_>) {
        let key = key_of(parameter);
        let mut map = Map::clone(&self.snapshot.load());
        if let Some(before) = map.remove(&key) {
            charge.shrink(bytes_of(&key, before.len()));
        }
        self.snapshot.store(Arc::new(map));
    }

    /// One that a start has found.
    pub(super) fn restore(&self, parameter: Parameter<'_>, value: &[u8]) {
        self.insert(&mut self.changing.lock(), parameter, value);
    }
}

impl Kept {
    fn new((vhost, component, name): &Key, value: &Arc<[u8]>) -> Self {
        Self {
            vhost: vhost.clone(),
            component: component.clone(),
            name: name.clone(),
            value: Arc::clone(value),
        }
    }
}

fn key_of(Parameter { vhost, component, name }: Parameter<'_>) -> Key {
    (vhost.into(), component.into(), name.into())
}

fn bytes_of((vhost, component, name): &Key, value_bytes: usize) -> u64 {
    (PARAMETER_BYTES + vhost.len() + component.len() + name.len() + value_bytes) as u64
}

/// One of the whole broker.
pub(super) fn of_broker<'a>(component: &'a str, name: &'a str) -> Parameter<'a> {
    Parameter { vhost: "", component, name }
}

/// The right to change parameters, held by one at a time.
pub(super) struct Changing<'a> {
    broker: &'a Broker,
    charge: MutexGuard<'a, Charge>,
}

impl Changing<'_> {
    /// Sets one: in the log, among the others, and then `apply` makes what it means. Whether it is new, and what the answer
    /// waits for.
    pub(super) fn set(
        &mut self,
        parameter: Parameter<'_>,
        value: Table<'_>,
        apply: impl FnOnce(),
    ) -> Undertaking {
        let definition = Definition::ParameterSet { parameter, value: value.as_bytes() };
        let (logged, _applying) = self.broker.node.log.append_one(&Fact::Defined(definition));
        let is_new = self.broker.parameters.insert(&mut self.charge, parameter, value.as_bytes());
        apply();
        Undertaking::done(is_new, logged.end)
    }

    /// Sets one, or clears it when there is nothing left of it, which it may not be there for.
    pub(super) fn replace(
        &mut self,
        parameter: Parameter<'_>,
        value: Table<'_>,
        apply: impl FnOnce(),
    ) -> Result<Undertaking, AdminError> {
        match value.is_empty() {
            false => Ok(self.set(parameter, value, apply)),
            true => self.clear(parameter, apply).or_else(|error| match error {
                AdminError::NotFound => Ok(Undertaking::default()),
                other => Err(other),
            }),
        }
    }

    /// Clears one that is there, as [`Changing::set`] sets it.
    ///
    /// # Errors
    /// [`AdminError::NotFound`].
    pub(super) fn clear(
        &mut self,
        parameter: Parameter<'_>,
        apply: impl FnOnce(),
    ) -> Result<Undertaking, AdminError> {
        let Parameter { vhost, component, name } = parameter;
        self.broker.parameters.get(vhost, component, name).ok_or(AdminError::NotFound)?;
        let definition = Definition::ParameterCleared { parameter };
        let (logged, _applying) = self.broker.node.log.append_one(&Fact::Defined(definition));
        self.broker.parameters.remove(&mut self.charge, parameter);
        apply();
        Ok(Undertaking::done(false, logged.end))
    }
}

impl Broker {
    pub(super) fn change_parameters(&self) -> Changing<'_> {
        Changing { broker: self, charge: self.parameters.changing.lock() }
    }

    /// Keeps a value of the whole broker that is nothing to it; where it is no table it lies in one.
    ///
    /// # Errors
    /// A name or a value that cannot be.
    pub fn set_global_parameter(&self, name: &str, value: Field<'_>) -> Result<Undertaking, AdminError> {
        let table = checked_global(name, value)?;
        Ok(self.change_parameters().set(of_broker(GLOBAL, name), table.as_table(), || {}))
    }

    /// Forgets a value of the whole broker.
    ///
    /// # Errors
    /// [`AdminError::NotFound`].
    pub fn clear_global_parameter(&self, name: &str) -> Result<Undertaking, AdminError> {
        self.change_parameters().clear(of_broker(GLOBAL, name), || {})
    }

    /// Keeps a parameter of a virtual host.
    ///
    /// # Errors
    /// A component that is not one of these, or a virtual host that is not there.
    pub fn set_parameter(
        &self,
        vhost: &str,
        component: &str,
        name: &str,
        value: Table<'_>,
    ) -> Result<Undertaking, AdminError> {
        check_parameter(component, name, value)?;
        if component == VHOST_LIMITS {
            return self.set_vhost_limits(vhost, value);
        }
        let mut changing = self.change_parameters();
        self.vhost(vhost).filter(|vhost| !vhost.is_closing()).ok_or(AdminError::NotFound)?;
        Ok(changing.set(Parameter { vhost, component, name }, value, || {}))
    }

    /// Forgets a parameter of a virtual host.
    ///
    /// # Errors
    /// [`AdminError::NotFound`].
    pub fn clear_parameter(
        &self,
        vhost: &str,
        component: &str,
        name: &str,
    ) -> Result<Undertaking, AdminError> {
        if component == VHOST_LIMITS {
            return self.clear_vhost_limits(vhost);
        }
        check_component(component)?;
        self.change_parameters().clear(Parameter { vhost, component, name }, || {})
    }
}

/// What [`Broker::set_global_parameter`] was given.
pub fn global_value(kept: &Kept) -> Field<'_> {
    kept.value().get(VALUE).unwrap_or(Field::Void)
}

/// What is kept of a value of the whole broker, if there can be one of this name.
///
/// # Errors
/// A name or a value that cannot be.
pub fn checked_global(name: &str, value: Field<'_>) -> Result<TableBuf, AdminError> {
    check_name(name)?;
    let mut table = TableBuf::new();
    table.insert(VALUE, value);
    check_value(table.as_table())?;
    Ok(table)
}

/// Whether [`Broker::set_parameter`] keeps this in a virtual host that is there.
///
/// # Errors
/// A component that is not one of these, or a name or a value that cannot be.
pub fn check_parameter(component: &str, name: &str, value: Table<'_>) -> Result<(), AdminError> {
    check_component(component)?;
    check_name(name)?;
    check_value(value)?;
    if component == VHOST_LIMITS { check_vhost_limits(value) } else { Ok(()) }
}

pub(super) fn check_value(value: Table<'_>) -> Result<(), AdminError> {
    match value.as_bytes().len() {
        ..=VALUE_BYTES_MAX => Ok(()),
        bytes => {
            Err(AdminError::Invalid(format!("a value of {bytes} bytes is longer than {VALUE_BYTES_MAX}")))
        }
    }
}

fn check_component(component: &str) -> Result<(), AdminError> {
    match component {
        SHOVEL | VHOST_LIMITS => Ok(()),
        POLICY | OPERATOR_POLICY => {
            Err(AdminError::Invalid("policies may not be set using this method".to_owned()))
        }
        _ => Err(AdminError::Invalid(format!("Validation failed\n\ncomponent {component} not found\n"))),
    }
}

/// What a number of a limit says: below zero there is none.
pub(super) fn limit(value: Table<'_>, name: &str) -> Option<u64> {
    value.get(name).and_then(|value| value.as_int()).and_then(|value| u64::try_from(value).ok())
}

/// Limits with this one changed, or taken away.
pub(super) fn with_limit(before: Option<&Kept>, name: &str, value: Option<i64>) -> TableBuf {
    let mut limits = TableBuf::new();
    for (key, other) in before.iter().flat_map(|kept| kept.value().iter()) {
        if key != name.as_bytes() {
            limits.insert_bytes(key, other);
        }
    }
    if let Some(value) = value {
        limits.insert(name, Field::I64(value));
    }
    limits
}

/// Whether these can be a virtual host's limits.
pub(super) fn check_vhost_limits(limits: Table<'_>) -> Result<(), AdminError> {
    check_limits(limits, &[QUEUES_MAX, CONNECTIONS_MAX], "limits")
}

/// Whether all of these are limits of these names.
///
/// # Errors
/// In RabbitMQ's words.
pub(super) fn check_limits(value: Table<'_>, names: &[&str], of: &str) -> Result<(), AdminError> {
    for (key, value) in value.iter() {
        let is_known = names.iter().any(|name| name.as_bytes() == key);
        let key = String::from_utf8_lossy(key);
        if !is_known {
            return Err(AdminError::Invalid(format!(
                "Unrecognised terms [{{<<\"{key}\">>,{value}}}] in {of}"
            )));
        }
        if value.as_int().is_none_or(|limit| limit < -1) {
            return Err(AdminError::Invalid(format!("{key} should be a number greater than or equal to -1")));
        }
    }
    Ok(())
}
