//! /api/parameters, /api/global-parameters and /api/vhost-limits.

use serde_json::{Map, Value, json};

use crate::broker::admin::parameters::{
    GLOBAL, Kept, LIMITS, OPERATOR_POLICY, POLICY, SHOVEL, VHOST_LIMITS, global_value,
};
use crate::message::fact::Parameter;
use crate::mgmt::answer::{Answer, Refusal};
use crate::mgmt::call::Call;
use crate::mgmt::change;
use crate::mgmt::views::shovels;
use crate::mgmt::{json, listing};
use crate::transfer::shovel;

/// Parameters of virtual hosts that the user may see; policies are told elsewhere.
pub(crate) fn list(call: &Call<'_>) -> Result<Answer, Refusal> {
    list_these(call, |_| true)
}

/// Those of a component.
pub(crate) fn list_of_component(call: &Call<'_>) -> Result<Answer, Refusal> {
    list_these(call, |kept| *kept.component == *call.part("component"))
}

/// Those of a component in a virtual host.
pub(crate) fn list_of_vhost(call: &Call<'_>) -> Result<Answer, Refusal> {
    let vhost = call.vhost()?;
    list_these(call, |kept| *kept.component == *call.part("component") && *kept.vhost == **vhost.name())
}

fn list_these(call: &Call<'_>, is_meant: impl Fn(&Kept) -> bool) -> Result<Answer, Refusal> {
    let vhosts = call.visible_vhosts();
    let mut all = call.mgmt.broker.parameters.of_vhosts();
    let is_visible = |kept: &Kept| vhosts.iter().any(|vhost| **vhost.name() == *kept.vhost);
    all.retain(|kept| {
        ![POLICY, OPERATOR_POLICY].contains(&&*kept.component) && is_visible(kept) && is_meant(kept)
    });
    listing::list(call, all, |kept| kept.name.to_string(), shown)
}

/// A parameter as definitions have it.
pub(crate) fn shown(kept: &Kept) -> Value {
    json!({
        "vhost": &*kept.vhost,
        "component": &*kept.component,
        "name": &*kept.name,
        "value": json::table(shovel::said(kept.value()).as_table().as_bytes()),
    })
}

/// One of them.
pub(crate) fn show(call: &Call<'_>) -> Result<Answer, Refusal> {
    let Parameter { vhost, component, name } = named(call);
    let kept = call.mgmt.broker.parameters.get(vhost, component, name).ok_or_else(Refusal::not_found)?;
    Ok(listing::one(call, &shown(&kept)))
}

fn named<'a>(call: &'a Call<'_>) -> Parameter<'a> {
    Parameter { vhost: call.part("vhost"), component: call.part("component"), name: call.part("name") }
}

/// Limits are for administrators, whatever way they are set.
fn check_limits(call: &Call<'_>) -> Result<(), Refusal> {
    match call.part("component") == VHOST_LIMITS {
        true if !call.is_administrator() => Err(Refusal::not_authorised("Not administrator user")),
        true if call.part("name") != LIMITS => Err(Refusal::not_found()),
        _ => Ok(()),
    }
}

/// Makes or changes one.
pub(crate) fn put(call: &Call<'_>) -> Result<Answer, Refusal> {
    check_limits(call)?;
    let body = call.object()?;
    let Some(Value::Object(value)) = body.get("value") else {
        return Err(Refusal::bad_request("[{key_missing,value}]"));
    };
    let Parameter { vhost, component, name } = named(call);
    if component == SHOVEL {
        let shovel = shovels::check(call, vhost, name, value)?;
        shovel.check_user(call.user()?).map_err(Refusal::bad_request)?;
    }
    set(call, vhost, component, name, value)
}

/// Makes or changes one, whoever it comes from.
pub(crate) fn set(
    call: &Call<'_>,
    vhost: &str,
    component: &str,
    name: &str,
    value: &Map<String, Value>,
) -> Result<Answer, Refusal> {
    if component == SHOVEL {
        return change::done(call, Ok(shovels::set(call, vhost, name, value)?));
    }
    let value = json::to_table(value)?;
    change::done(call, call.mgmt.broker.set_parameter(vhost, component, name, value.as_table()))
}

/// Forgets one.
pub(crate) fn delete(call: &Call<'_>) -> Result<Answer, Refusal> {
    check_limits(call)?;
    let Parameter { vhost, component, name } = named(call);
    change::done(call, call.mgmt.broker.clear_parameter(vhost, component, name))
}

/// Values of the whole broker.
pub(crate) fn list_global(call: &Call<'_>) -> Result<Answer, Refusal> {
    let all = call.mgmt.broker.parameters.of("", GLOBAL, "");
    listing::list(call, all, |kept| kept.name.to_string(), shown_global)
}

/// One of them.
pub(crate) fn show_global(call: &Call<'_>) -> Result<Answer, Refusal> {
    let kept =
        call.mgmt.broker.parameters.get("", GLOBAL, call.part("name")).ok_or_else(Refusal::not_found)?;
    Ok(listing::one(call, &shown_global(&kept)))
}

/// A value of the whole broker as definitions have it.
pub(crate) fn shown_global(kept: &Kept) -> Value {
    json!({"name": &*kept.name, "value": json::value(global_value(kept))})
}

/// Makes or changes one.
pub(crate) fn put_global(call: &Call<'_>) -> Result<Answer, Refusal> {
    let body = call.object()?;
    let value = body.get("value").ok_or_else(|| Refusal::bad_request("[{key_missing,value}]"))?;
    json::with_field(value, |value| {
        change::done(call, call.mgmt.broker.set_global_parameter(call.part("name"), value))
    })?
}

/// Forgets one.
pub(crate) fn delete_global(call: &Call<'_>) -> Result<Answer, Refusal> {
    change::done(call, call.mgmt.broker.clear_global_parameter(call.part("name")))
}

/// Limits of all virtual hosts that the user may see.
pub(crate) fn list_limits(call: &Call<'_>) -> Result<Answer, Refusal> {
    let vhosts = call.visible_vhosts();
    let limits = |vhost: &str| call.mgmt.broker.parameters.get(vhost, VHOST_LIMITS, LIMITS);
    let all = vhosts.iter().filter_map(|vhost| limits(vhost.name())).collect();
    listing::list(call, all, |kept: &Kept| kept.vhost.to_string(), shown_limits)
}

/// Limits of one.
pub(crate) fn show_limits(call: &Call<'_>) -> Result<Answer, Refusal> {
    let vhost = call.vhost()?;
    if !call.sees(&vhost) {
        return Err(Refusal::not_authorised("User not authorised to access virtual host"));
    }
    let limits = call.mgmt.broker.parameters.get(vhost.name(), VHOST_LIMITS, LIMITS);
    listing::list(call, limits.into_iter().collect(), |kept: &Kept| kept.vhost.to_string(), shown_limits)
}

fn shown_limits(kept: &Kept) -> Value {
    json!({"vhost": &*kept.vhost, "value": json::table(kept.value().as_bytes())})
}

/// Sets one limit.
pub(crate) fn put_limit(call: &Call<'_>) -> Result<Answer, Refusal> {
    let value = change::limit(call)?;
    let set = call.mgmt.broker.set_vhost_limit(call.part("vhost"), call.part("name"), Some(value));
    change::done(call, set).map(Answer::into_change)
}

/// Clears one limit.
pub(crate) fn delete_limit(call: &Call<'_>) -> Result<Answer, Refusal> {
    let cleared = call.mgmt.broker.set_vhost_limit(call.part("vhost"), call.part("name"), None);
    change::done(call, cleared).map(Answer::into_change)
}
