//! /api/definitions: all that is declared and said, out and in again, as RabbitMQ writes it.

mod check;
mod import;

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::broker::admin::parameters::{GLOBAL, PERMISSION, POLICY, TOPIC_PERMISSION, USER, VHOST};
use crate::broker::policy::Author;
use crate::broker::vhost::Vhost;
use crate::mgmt::answer::{Answer, Refusal};
use crate::mgmt::call::Call;
use crate::mgmt::json;
use crate::mgmt::views::{bindings, exchanges, parameters, permissions, policies, queues, users, vhosts};

pub(crate) use import::{import, import_these, import_vhost};

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
