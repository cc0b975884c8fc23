//! Virtual hosts come and go, and what they are limited to.

use std::sync::Arc;

use crate::broker::Broker;
use crate::broker::admin::parameters::{
    CONNECTIONS_MAX, Kept, LIMITS, PERMISSION, QUEUES_MAX, TOPIC_PERMISSION, VHOST, VHOST_LIMITS,
    check_value, check_vhost_limits, limit, of_broker, with_limit,
};
use crate::broker::admin::{AdminError, Rest, Undertaking, check_name};
use crate::broker::vhost::Vhost;
use crate::broker::vhost::removal::Removal;
use crate::broker::wakes::Wakes;
use crate::message::fact::Parameter;
use crate::message::place::Lsn;
use crate::protocol::field::Field;
use crate::protocol::table::{ArrayBuf, Table, TableBuf};
use crate::queue::settings::QueueKind;

/// So many objects of a virtual host that goes are ended in one step.
const ENDED_PER_STEP: usize = 100;

/// What a virtual host is to be.
#[derive(Clone, Debug, Default)]
pub struct VhostRequest<'a> {
    /// What it is for.
    pub description: &'a str,
    /// Words for those who look for it.
    pub tags: Vec<String>,
    /// The kind of a queue that is declared without one.
    pub default_queue_type: Option<&'a str>,
}

impl VhostRequest<'_> {
    /// What is kept of a virtual host that this describes, if there can be one of this name.
    ///
    /// # Errors
    /// A name, a tag or a kind of queue that cannot be.
    pub fn checked(&self, name: &str) -> Result<TableBuf, AdminError> {
        check_name(name)?;
        self.tags.iter().try_for_each(|tag| check_name(tag))?;
        let kind = self.default_queue_type.unwrap_or_default();
        let mut tags = ArrayBuf::new();
        for tag in &self.tags {
            tags.push(Field::LongStr(tag.as_bytes()));
        }
        let mut value = TableBuf::new();
        value
            .insert("description", Field::LongStr(self.description.as_bytes()))
            .insert("tags", Field::Array(tags.as_array()))
            .insert("default_queue_type", Field::LongStr(kind.as_bytes()));
        check_value(value.as_table())?;
        match kind {
            "" | "classic" | "quorum" | "undefined" => Ok(value),
            _ => Err(AdminError::Invalid(format!("unsupported queue type '{kind}'"))),
        }
    }
}

/// A virtual host that is being deleted.
#[derive(Debug)]
pub(super) struct Leaving {
    vhost: Arc<Vhost>,
    removal: Removal,
}

impl Broker {
    /// Every virtual host, in order of their names.
    pub fn vhosts(&self) -> Vec<Arc<Vhost>> {
        let mut vhosts: Vec<_> = self.vhosts.iter().map(|vhost| Arc::clone(&vhost)).collect();
        vhosts.sort_by(|one, other| one.name().cmp(other.name()));
        vhosts
    }

    /// Makes a virtual host, or changes what is said about it.
    ///
    /// # Errors
    /// A name, a tag or a kind of queue that cannot be, or that it is just being deleted.
    pub fn put_vhost(&self, name: &str, request: &VhostRequest<'_>) -> Result<Undertaking, AdminError> {
        let value = request.checked(name)?;
        let mut changing = self.change_parameters();
        if self.vhost(name).is_some_and(|vhost| vhost.is_closing()) {
            return Err(AdminError::Invalid(format!("vhost '{name}' is being deleted")));
        }
        Ok(changing
            .set(of_broker(VHOST, name), value.as_table(), || self.apply_vhost(name, value.as_table())))
    }

    /// Deletes a virtual host with all that is in it, when all of the undertaking is done. Nothing new comes in from now
    /// on.
    ///
    /// # Errors
    /// [`AdminError::NotFound`].
    pub fn delete_vhost(&self, name: &str) -> Result<Undertaking, AdminError> {
        let vhost = self.vhost(name).ok_or(AdminError::NotFound)?;
        let _changing = self.change_parameters();
        vhost.close();
        let leaving = Leaving { vhost, removal: Removal::default() };
        Ok(Undertaking { rest: Some(Rest::Leaving(Box::new(leaving))), ..Undertaking::default() })
    }

    /// Sets how much there may be in a virtual host; `max-queues` and `max-connections`.
    ///
    /// # Errors
    /// A limit that is not one of these or no number, or [`AdminError::NotFound`].
    pub fn set_vhost_limits(&self, name: &str, limits: Table<'_>) -> Result<Undertaking, AdminError> {
        check_vhost_limits(limits)?;
        let mut changing = self.change_parameters();
        let vhost = self.vhost(name).ok_or(AdminError::NotFound)?;
        Ok(changing.set(limits_of(name), limits, || apply_limits(&vhost, limits)))
    }

    /// Sets one limit of a virtual host, or takes it away.
    ///
    /// # Errors
    /// As [`Broker::set_vhost_limits`].
    pub fn set_vhost_limit(
        &self,
        name: &str,
        limit: &str,
        value: Option<i64>,
    ) -> Result<Undertaking, AdminError> {
        let mut changing = self.change_parameters();
        let vhost = self.vhost(name).ok_or(AdminError::NotFound)?;
        let limits = with_limit(self.parameters.get(name, VHOST_LIMITS, LIMITS).as_ref(), limit, value);
        check_vhost_limits(limits.as_table())?;
        changing.replace(limits_of(name), limits.as_table(), || apply_limits(&vhost, limits.as_table()))
    }

    /// A virtual host has no limits any more.
    ///
    /// # Errors
    /// [`AdminError::NotFound`] when there were none.
    pub fn clear_vhost_limits(&self, name: &str) -> Result<Undertaking, AdminError> {
        let mut changing = self.change_parameters();
        let vhost = self.vhost(name).ok_or(AdminError::NotFound)?;
        changing.clear(limits_of(name), || apply_limits(&vhost, Table::EMPTY))
    }

    fn apply_vhost(&self, name: &str, value: Table<'_>) {
        let kind = match value.get("default_queue_type") {
            Some(Field::LongStr(b"quorum")) => QueueKind::Quorum,
            _ => QueueKind::Classic,
        };
        self.vhost_or_new(name).change_limits(|limits| limits.default_queue_kind = kind);
    }

    pub(super) fn restore_vhost(&self, kept: &Kept) {
        self.apply_vhost(&kept.name, kept.value());
    }

    pub(super) fn restore_vhost_limits(&self, vhost: &Vhost) {
        if let Some(kept) = self.parameters.get(vhost.name(), VHOST_LIMITS, LIMITS) {
            apply_limits(vhost, kept.value());
        }
    }
}

fn limits_of(vhost: &str) -> Parameter<'_> {
    Parameter { vhost, component: VHOST_LIMITS, name: LIMITS }
}

fn apply_limits(vhost: &Vhost, value: Table<'_>) {
    vhost.change_limits(|limits| {
        limits.queues_max = limit(value, QUEUES_MAX);
        limits.connections_max = limit(value, CONNECTIONS_MAX);
    });
}

impl Leaving {
    /// Ends some of what is in it, and when there is nothing more the virtual host itself. Whether it is gone.
    pub(super) fn step(&mut self, broker: &Broker, wakes: &mut Wakes, after: &mut Lsn) -> bool {
        while !wakes.is_turn_over() {
            let mut steps = 1000;
            let is_finished = self.removal.step(&self.vhost, wakes, &mut steps);
            wakes.count(1000 - steps);
            if !is_finished {
                continue;
            }
            *after = (*after).max(self.removal.after());
            match self.vhost.end_some(ENDED_PER_STEP) {
                Some(removal) => self.removal = removal,
                None => {
                    *after = (*after).max(broker.forget_vhost(&self.vhost));
                    return true;
                }
            }
        }
        false
    }
}

impl Broker {
    /// The end of a virtual host in which nothing is left: what was said about it goes, and last it itself. Somebody else
    /// may have deleted it as well, and there may be another of its name.
    fn forget_vhost(&self, vhost: &Arc<Vhost>) -> Lsn {
        let (name, mut changing) = (&**vhost.name(), self.change_parameters());
        if !self.vhost(name).is_some_and(|registered| Arc::ptr_eq(&registered, vhost)) {
            return Lsn::default();
        }
        let of_vhost = self.parameters.of_vhosts().into_iter().filter(|kept| *kept.vhost == *name);
        for kept in of_vhost {
            let parameter = Parameter { vhost: name, component: &kept.component, name: &kept.name };
            drop(changing.clear(parameter, || {}));
        }
        for component in [PERMISSION, TOPIC_PERMISSION] {
            for kept in self.parameters.of("", component, "") {
                let names = kept.names();
                if names.get(1) != Some(&name) {
                    continue;
                }
                drop(changing.clear(of_broker(component, &kept.name), || {
                    if let Some(user) = names.first().and_then(|user| self.users.get(user)) {
                        user.change(|profile| {
                            profile.permissions.remove(name);
                            profile.topics.remove(name);
                        });
                    }
                }));
            }
        }
        let gone = changing.clear(of_broker(VHOST, name), || {});
        self.vhosts.remove(name);
        gone.map(|gone| gone.after).unwrap_or_default()
    }
}
