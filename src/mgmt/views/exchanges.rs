//! GET /api/exchanges.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::broker::exchange::Exchange;
use crate::mgmt::answer::{Answer, Refusal};
use crate::mgmt::call::Call;
use crate::mgmt::json::put;
use crate::mgmt::{json, listing};

/// What the default exchange is called where a name is needed.
const DEFAULT: &str = "amq.default";

/// All that the user may see.
pub(crate) fn list(call: &Call<'_>) -> Result<Answer, Refusal> {
    let vhosts = call.visible_vhosts();
    list_these(call, vhosts.iter().flat_map(|vhost| vhost.exchanges()).collect())
}

/// Those of a virtual host.
pub(crate) fn list_of_vhost(call: &Call<'_>) -> Result<Answer, Refusal> {
    list_these(call, call.vhost()?.exchanges())
}

fn list_these(call: &Call<'_>, mut exchanges: Vec<Arc<Exchange>>) -> Result<Answer, Refusal> {
    exchanges.sort_by(|one, two| {
        let (one, two) = (&one.properties, &two.properties);
        (&one.vhost, &one.name).cmp(&(&two.vhost, &two.name))
    });
    listing::list(
        call,
        exchanges,
        |exchange| exchange.properties.name.to_string(),
        |exchange| shown(exchange),
    )
}

/// One exchange.
pub(crate) fn show(call: &Call<'_>) -> Result<Answer, Refusal> {
    let exchange = call.vhost()?.exchange(name_of(call.part("name"))).ok_or_else(Refusal::not_found)?;
    let mut shown = shown(&exchange);
    put(&mut shown, "incoming", json!([]));
    put(&mut shown, "outgoing", json!([]));
    Ok(listing::one(call, &shown))
}

/// The name that stands for an exchange in a path.
pub(crate) fn name_of(part: &str) -> &str {
    if part == DEFAULT { "" } else { part }
}

fn shown(exchange: &Exchange) -> Value {
    let properties = &exchange.properties;
    json!({
        "name": &*properties.name,
        "vhost": &*properties.vhost,
        "type": properties.kind.name(),
        "durable": properties.durable,
        "auto_delete": properties.auto_delete,
        "internal": properties.internal,
        "arguments": json::table(&properties.arguments),
        "policy": null,
    })
}
