//! Definitions that come in: checked as a whole before any of them is made, as far as that can be told beforehand; then
//! added to what is there, in an order in which each thing finds what it needs. A queue or an exchange that is there
//! already stays as it is.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::broker::admin::parameters::OPERATOR_POLICY;
use crate::broker::policy::Author;
use crate::broker::vhost::Vhost;
use crate::message::place::Lsn;
use crate::mgmt::answer::{Answer, Refusal};
use crate::mgmt::call::Call;
use crate::mgmt::change::{self, text};
use crate::mgmt::json;
use crate::mgmt::views::definitions::check;
use crate::mgmt::views::{bindings, exchanges, parameters, policies, queues, users, vhosts};

/// Adds definitions to what is there.
pub(crate) fn import(call: &Call<'_>) -> Result<Answer, Refusal> {
    import_these(call, &call.object()?)
}

/// Adds these to what is there.
pub(crate) fn import_these(call: &Call<'_>, definitions: &Object) -> Result<Answer, Refusal> {
    Import { call, vhost: None, after: Lsn::default() }.run(definitions)
}

/// Adds definitions to a virtual host, whatever one they are from.
pub(crate) fn import_vhost(call: &Call<'_>) -> Result<Answer, Refusal> {
    let vhost = call.vhost()?;
    let import = Import { call, vhost: Some(vhost.name().to_string()), after: Lsn::default() };
    import.run(&call.object()?)
}

struct Import<'a> {
    call: &'a Call<'a>,
    /// Where all goes, if that is one virtual host.
    vhost: Option<String>,
    after: Lsn,
}

/// One definition, and all of them.
pub(super) type Object = Map<String, Value>;

impl Import<'_> {
    fn run(mut self, body: &Object) -> Result<Answer, Refusal> {
        check::check(self.call, self.vhost.as_deref(), body)?;
        if self.vhost.is_none() {
            self.each(body, "users", |import, user| users::put_this(import.call, name(user)?, user))?;
            self.each(body, "vhosts", |import, vhost| vhosts::put_this(import.call, name(vhost)?, vhost))?;
            self.each(body, "permissions", Self::permission)?;
            self.each(body, "topic_permissions", Self::topic_permission)?;
            self.each(body, "global_parameters", Self::global_parameter)?;
        }
        self.each(body, "policies", |import, policy| import.policy(Author::User, policy))?;
        self.each(body, "parameters", Self::parameter)?;
        self.each(body, "queues", |import, queue| {
            let (vhost, name) = (import.vhost(queue)?, name(queue)?);
            // It was somebody's who will declare another one.
            if queues::is_made_up(name) || import.at(&vhost)?.queue(name).is_some() {
                return Ok(Answer::done(Lsn::default()));
            }
            queues::put_this(import.call, &change::importer(import.call, &vhost)?, &vhost, name, queue)
        })?;
        self.each(body, "exchanges", |import, exchange| {
            let (vhost, name) = (import.vhost(exchange)?, name(exchange)?);
            if import.at(&vhost)?.exchange(name).is_some() {
                return Ok(Answer::done(Lsn::default()));
            }
            exchanges::put_this(import.call, &change::importer(import.call, &vhost)?, &vhost, name, exchange)
        })?;
        self.each(body, "bindings", |import, binding| {
            let vhost = import.vhost(binding)?;
            let is_to_queue = binding.get("destination_type").is_some_and(|kind| kind == "queue");
            if is_to_queue && queues::is_made_up(text(binding, "destination")?) {
                return Ok(Answer::done(Lsn::default()));
            }
            bindings::put_this(import.call, &change::importer(import.call, &vhost)?, &vhost, binding)
        })?;
        Ok(Answer::done(self.after))
    }

    fn each(
        &mut self,
        body: &Object,
        key: &str,
        make: impl Fn(&Self, &Object) -> Result<Answer, Refusal>,
    ) -> Result<(), Refusal> {
        for (number, item) in objects(body, key)?.enumerate() {
            let made = item.and_then(|item| make(self, item));
            let answer = made.map_err(|refusal| refusal.of_item(key, number))?;
            self.after = self.after.max(answer.after);
        }
        Ok(())
    }

    fn vhost(&self, item: &Object) -> Result<String, Refusal> {
        match &self.vhost {
            Some(vhost) => Ok(vhost.clone()),
            None => text(item, "vhost").map(str::to_owned),
        }
    }

    fn at(&self, vhost: &str) -> Result<Arc<Vhost>, Refusal> {
        self.call.mgmt.broker.vhost(vhost).ok_or_else(Refusal::not_found)
    }

    fn permission(&self, item: &Object) -> Result<Answer, Refusal> {
        let patterns = [text(item, "configure")?, text(item, "write")?, text(item, "read")?];
        let broker = &self.call.mgmt.broker;
        change::done(self.call, broker.set_permissions(text(item, "user")?, text(item, "vhost")?, patterns))
    }

    fn topic_permission(&self, item: &Object) -> Result<Answer, Refusal> {
        let (user, vhost, exchange) = (text(item, "user")?, text(item, "vhost")?, text(item, "exchange")?);
        let patterns = [text(item, "write")?, text(item, "read")?];
        change::done(self.call, self.call.mgmt.broker.set_topic_permissions(user, vhost, exchange, patterns))
    }

    fn global_parameter(&self, item: &Object) -> Result<Answer, Refusal> {
        let (name, value) = (name(item)?, item.get("value").unwrap_or(&Value::Null));
        json::with_field(value, |value| {
            change::done(self.call, self.call.mgmt.broker.set_global_parameter(name, value))
        })?
    }

    fn policy(&self, author: Author, item: &Object) -> Result<Answer, Refusal> {
        let vhost = self.vhost(item)?;
        change::done(self.call, policies::set(&self.call.mgmt.broker, author, &vhost, name(item)?, item)?)
    }

    fn parameter(&self, item: &Object) -> Result<Answer, Refusal> {
        let (component, vhost) = (text(item, "component")?, self.vhost(item)?);
        let Some(Value::Object(value)) = item.get("value") else {
            return Err(Refusal::bad_request("[{key_missing,value}]"));
        };
        if component == OPERATOR_POLICY {
            let set = policies::set(&self.call.mgmt.broker, Author::Operator, &vhost, name(item)?, value)?;
            return change::done(self.call, set);
        }
        parameters::set(self.call, &vhost, component, name(item)?, value)
    }
}

pub(super) fn name(item: &Object) -> Result<&str, Refusal> {
    text(item, "name")
}

/// The definitions of a list, of which each should be an object.
pub(super) fn objects<'a>(
    body: &'a Object,
    key: &str,
) -> Result<impl Iterator<Item = Result<&'a Object, Refusal>>, Refusal> {
    let items = match body.get(key) {
        None | Some(Value::Null) => &[],
        Some(Value::Array(items)) => items.as_slice(),
        Some(_) => return Err(Refusal::bad_request(format!("{key} is no list"))),
    };
    Ok(items.iter().map(|item| item.as_object().ok_or_else(|| Refusal::bad_request("it is no object"))))
}
