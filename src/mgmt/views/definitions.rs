//! /api/definitions: all that is declared and said, out and in again, as RabbitMQ writes it.
//!
//! What comes in is checked as a whole before any of it is made, as far as that can be told beforehand; then it is added
//! to what is there, in an order in which each thing finds what it needs.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::auth::permissions::Permissions;
use crate::auth::topics::TopicPermission;
use crate::broker::admin::parameters::{
    GLOBAL, OPERATOR_POLICY, PERMISSION, POLICY, SHOVEL, TOPIC_PERMISSION, USER, VHOST,
};
use crate::broker::policy::Author;
use crate::broker::vhost::Vhost;
use crate::message::place::Lsn;
use crate::mgmt::answer::{Answer, Refusal};
use crate::mgmt::call::Call;
use crate::mgmt::change::{self, text};
use crate::mgmt::json;
use crate::mgmt::views::{
    bindings, exchanges, parameters, permissions, policies, queues, shovels, users, vhosts,
};

/// Definitions of one import.
const OBJECTS_MAX: usize = 1_000_000;

/// Everything.
pub(crate) fn export(call: &Call<'_>) -> Result<Answer, Refusal> {
    let broker = &call.mgmt.broker;
    let of_broker = |component| broker.parameters.of("", component, "");
    let vhosts = broker.vhosts();
    let mut shown = head(call);
    shown.insert("users".to_owned(), of_broker(USER).iter().map(|user| users::shown(call, user)).collect());
    shown.insert("vhosts".to_owned(), of_broker(VHOST).iter().map(vhosts::defined).collect());
    shown.insert("permissions".to_owned(), of_broker(PERMISSION).iter().map(permissions::shown).collect());
    shown.insert(
        "topic_permissions".to_owned(),
        of_broker(TOPIC_PERMISSION).iter().map(permissions::shown).collect(),
    );
    shown.insert(
        "global_parameters".to_owned(),
        of_broker(GLOBAL).iter().map(parameters::shown_global).collect(),
    );
    shown.extend(contents(call, &vhosts, false));
    Ok(Answer::json(&Value::Object(shown)))
}

/// What is in one virtual host, without its name, so that it can be made in another.
pub(crate) fn export_vhost(call: &Call<'_>) -> Result<Answer, Refusal> {
    let vhost = call.vhost()?;
    let mut shown = head(call);
    shown.insert("rabbitmq_definition_format".to_owned(), json!("single_virtual_host"));
    shown.insert("original_vhost_name".to_owned(), json!(&**vhost.name()));
    shown.extend(contents(call, &[vhost], true));
    Ok(Answer::json(&Value::Object(shown)))
}

fn head(call: &Call<'_>) -> Map<String, Value> {
    let identity = &call.mgmt.broker.config.identity;
    json::entries(json!({
        "rabbit_version": identity.version,
        "rabbitmq_version": identity.version,
        "product_name": identity.product,
        "product_version": identity.version,
    }))
}

fn contents(call: &Call<'_>, vhosts: &[Arc<Vhost>], is_single: bool) -> Map<String, Value> {
    let cut = |mut value: Value| {
        if is_single && let Value::Object(entries) = &mut value {
            entries.remove("vhost");
        }
        value
    };
    let of_all = |of_one: &dyn Fn(&Arc<Vhost>) -> Vec<Value>| -> Value {
        vhosts.iter().flat_map(of_one).map(cut).collect()
    };
    let kept = call.mgmt.broker.parameters.of_vhosts();
    let is_here = |name: &str| vhosts.iter().any(|vhost| **vhost.name() == *name);
    let is_parameter = |component: &str| component != POLICY;
    let parameters = kept.iter().filter(|kept| is_here(&kept.vhost) && is_parameter(&kept.component));
    let policies = |vhost: &Arc<Vhost>| {
        vhost.policies().of(Author::User).iter().map(|policy| policies::shown(vhost.name(), policy)).collect()
    };
    json::entries(json!({
        "parameters": parameters.map(parameters::shown).map(cut).collect::<Value>(),
        "policies": of_all(&policies),
        "queues": of_all(&queues::defined),
        "exchanges": of_all(&exchanges::defined),
        "bindings": of_all(&bindings::defined),
    }))
}

/// Adds definitions to what is there.
pub(crate) fn import(call: &Call<'_>) -> Result<Answer, Refusal> {
    Import { call, vhost: None, after: Lsn::default() }.run()
}

/// Adds definitions to a virtual host, whatever one they are from.
pub(crate) fn import_vhost(call: &Call<'_>) -> Result<Answer, Refusal> {
    let vhost = call.vhost()?;
    Import { call, vhost: Some(vhost.name().to_string()), after: Lsn::default() }.run()
}

struct Import<'a> {
    call: &'a Call<'a>,
    /// Where all goes, if that is one virtual host.
    vhost: Option<String>,
    after: Lsn,
}

type Object = Map<String, Value>;

impl Import<'_> {
    fn run(mut self) -> Result<Answer, Refusal> {
        let body = self.call.object()?;
        self.check(&body)?;
        if self.vhost.is_none() {
            self.each(&body, "users", |import, user| users::put_this(import.call, name(user)?, user))?;
            self.each(&body, "vhosts", |import, vhost| vhosts::put_this(import.call, name(vhost)?, vhost))?;
            self.each(&body, "permissions", Self::permission)?;
            self.each(&body, "topic_permissions", Self::topic_permission)?;
            self.each(&body, "global_parameters", Self::global_parameter)?;
        }
        self.each(&body, "policies", |import, policy| import.policy(Author::User, policy))?;
        self.each(&body, "parameters", Self::parameter)?;
        self.each(&body, "queues", |import, queue| {
            let (vhost, name) = (import.vhost(queue)?, name(queue)?);
            // It was somebody's who will declare another one.
            if queues::is_made_up(name) {
                return Ok(Answer::done(Lsn::default()));
            }
            queues::put_this(import.call, &change::importer(import.call, &vhost)?, &vhost, name, queue)
        })?;
        self.each(&body, "exchanges", |import, exchange| {
            let (vhost, name) = (import.vhost(exchange)?, name(exchange)?);
            exchanges::put_this(import.call, &change::importer(import.call, &vhost)?, &vhost, name, exchange)
        })?;
        self.each(&body, "bindings", |import, binding| {
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

    /// Whatever can be refused without making anything is refused before anything is made.
    fn check(&self, body: &Object) -> Result<(), Refusal> {
        let keys = [
            "users",
            "vhosts",
            "permissions",
            "topic_permissions",
            "global_parameters",
            "policies",
            "parameters",
            "queues",
            "exchanges",
            "bindings",
        ];
        let mut total = 0;
        for key in keys {
            for (number, item) in objects(body, key)?.enumerate() {
                let checked = item.and_then(|item| self.check_one(key, item));
                checked.map_err(|refusal| refusal.of_item(key, number))?;
                total += 1;
            }
        }
        if total > OBJECTS_MAX {
            return Err(Refusal::bad_request(format!("{total} definitions are more than {OBJECTS_MAX}")));
        }
        Ok(())
    }

    fn check_one(&self, key: &str, item: &Object) -> Result<(), Refusal> {
        match key {
            "users" => users::read(item).map(|_| ()),
            "permissions" => {
                Permissions::new(text(item, "configure")?, text(item, "write")?, text(item, "read")?)
                    .map_err(|error| Refusal::bad_request(error.to_string()))?;
                text(item, "vhost").and(text(item, "user")).map(|_| ())
            }
            "topic_permissions" => {
                TopicPermission::new("", "", text(item, "write")?, text(item, "read")?)
                    .map_err(|error| Refusal::bad_request(error.to_string()))?;
                text(item, "vhost").and(text(item, "user")).and(text(item, "exchange")).map(|_| ())
            }
            "queues" => queues::check(&self.vhost(item)?, name(item)?, item),
            "exchanges" => self.vhost(item).and(exchanges::read(item).map(|_| ())),
            "bindings" => self.vhost(item).and(bindings::read(item).map(|_| ())),
            "policies" => self.vhost(item).and(policies::check(Author::User, name(item)?, item)),
            "parameters" => self.check_parameter(item),
            _ => Ok(()),
        }?;
        if key == "permissions" || key == "topic_permissions" || key == "bindings" {
            Ok(())
        } else {
            name(item).map(|_| ())
        }
    }

    fn check_parameter(&self, item: &Object) -> Result<(), Refusal> {
        let vhost = self.vhost(item)?;
        match (text(item, "component")?, item.get("value")) {
            (SHOVEL, Some(Value::Object(value))) => {
                shovels::check(self.call, &vhost, name(item)?, value).map(|_| ())
            }
            _ => Ok(()),
        }
    }

    fn vhost(&self, item: &Object) -> Result<String, Refusal> {
        match &self.vhost {
            Some(vhost) => Ok(vhost.clone()),
            None => text(item, "vhost").map(str::to_owned),
        }
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

fn name(item: &Object) -> Result<&str, Refusal> {
    text(item, "name")
}

fn objects<'a>(
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
