//! /api/permissions and /api/topic-permissions.

use serde_json::{Value, json};

use crate::broker::admin::parameters::{Kept, PERMISSION, TOPIC_PERMISSION};
use crate::mgmt::answer::{Answer, Refusal};
use crate::mgmt::call::Call;
use crate::mgmt::change;
use crate::mgmt::{json, listing};

/// All permissions.
pub(crate) fn list(call: &Call<'_>) -> Result<Answer, Refusal> {
    list_these(call, PERMISSION, |_| true)
}

/// Those of a virtual host.
pub(crate) fn list_of_vhost(call: &Call<'_>) -> Result<Answer, Refusal> {
    list_these(call, PERMISSION, |kept| kept.names().get(1) == Some(&call.part("vhost")))
}

/// All topic permissions.
pub(crate) fn list_topics(call: &Call<'_>) -> Result<Answer, Refusal> {
    list_these(call, TOPIC_PERMISSION, |_| true)
}

/// Those of a virtual host.
pub(crate) fn list_topics_of_vhost(call: &Call<'_>) -> Result<Answer, Refusal> {
    list_these(call, TOPIC_PERMISSION, |kept| kept.names().get(1) == Some(&call.part("vhost")))
}

fn list_these(call: &Call<'_>, component: &str, is_meant: impl Fn(&Kept) -> bool) -> Result<Answer, Refusal> {
    let mut all = call.mgmt.broker.parameters.of("", component, "");
    all.retain(is_meant);
    listing::list(call, all, |kept| kept.name.to_string(), shown)
}

/// Whose they are and where, and what they say.
pub(crate) fn shown(kept: &Kept) -> Value {
    let mut shown = json::entries(json::table(kept.value().as_bytes()));
    for (key, name) in ["user", "vhost", "exchange"].into_iter().zip(kept.names()) {
        shown.insert(key.to_owned(), json!(name));
    }
    Value::Object(shown)
}

/// What a user may do in a virtual host.
pub(crate) fn show(call: &Call<'_>) -> Result<Answer, Refusal> {
    let name = format!("{}\0{}", call.part("user"), call.part("vhost"));
    let kept = call.mgmt.broker.parameters.get("", PERMISSION, &name).ok_or_else(Refusal::not_found)?;
    Ok(listing::one(call, &shown(&kept)))
}

/// With which keys.
pub(crate) fn show_topics(call: &Call<'_>) -> Result<Answer, Refusal> {
    let prefix = format!("{}\0{}\0", call.part("user"), call.part("vhost"));
    let kept = call.mgmt.broker.parameters.of("", TOPIC_PERMISSION, &prefix);
    if kept.is_empty() {
        return Err(Refusal::not_found());
    }
    listing::list(call, kept, |kept| kept.name.to_string(), shown)
}

/// Sets what a user may do in a virtual host.
pub(crate) fn put(call: &Call<'_>) -> Result<Answer, Refusal> {
    let body = call.object()?;
    let patterns =
        [change::text(&body, "configure")?, change::text(&body, "write")?, change::text(&body, "read")?];
    change::done(call, call.mgmt.broker.set_permissions(call.part("user"), call.part("vhost"), patterns))
}

/// A user may do nothing there any more.
pub(crate) fn delete(call: &Call<'_>) -> Result<Answer, Refusal> {
    change::done(call, call.mgmt.broker.clear_permissions(call.part("user"), call.part("vhost")))
}

/// Sets with which keys, at one exchange.
pub(crate) fn put_topics(call: &Call<'_>) -> Result<Answer, Refusal> {
    let body = call.object()?;
    let (user, vhost) = (call.part("user"), call.part("vhost"));
    let exchange = change::text(&body, "exchange")?;
    let patterns = [change::text(&body, "write")?, change::text(&body, "read")?];
    change::done(call, call.mgmt.broker.set_topic_permissions(user, vhost, exchange, patterns))
}

/// Every key is allowed again, at one exchange or at all.
pub(crate) fn delete_topics(call: &Call<'_>) -> Result<Answer, Refusal> {
    let exchange = Some(call.part("exchange")).filter(|name| !name.is_empty());
    change::done(
        call,
        call.mgmt.broker.clear_topic_permissions(call.part("user"), call.part("vhost"), exchange),
    )
}
