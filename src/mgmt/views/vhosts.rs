//! GET /api/vhosts.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::broker::vhost::Vhost;
use crate::clock::Now;
use crate::mgmt::answer::{Answer, Refusal};
use crate::mgmt::call::Call;
use crate::mgmt::json::entries;
use crate::mgmt::listing;
use crate::mgmt::rates::Subject;
use crate::mgmt::views::counts::{LENGTHS, MESSAGE_STATS};

/// All that the user may see.
pub(crate) fn list(call: &Call<'_>) -> Result<Answer, Refusal> {
    listing::list(call, call.visible_vhosts(), |vhost| vhost.name().to_string(), |vhost| shown(call, vhost))
}

/// One of them.
pub(crate) fn show(call: &Call<'_>) -> Result<Answer, Refusal> {
    Ok(listing::one(call, &shown(call, &call.vhost()?)))
}

fn shown(call: &Call<'_>, vhost: &Arc<Vhost>) -> Value {
    let mut shown = entries(json!({
        "name": &**vhost.name(),
        "description": "",
        "tags": [],
        "metadata": {"description": "", "tags": []},
        "default_queue_type": "classic",
        "tracing": false,
        "cluster_state": {call.mgmt.node.as_str(): "running"},
    }));
    let rated = call.mgmt.rates.of(Subject::Vhost(Arc::downgrade(vhost)), Now::read().instant);
    rated.put(&LENGTHS, &mut shown);
    let mut stats = Map::new();
    rated.put(&MESSAGE_STATS, &mut stats);
    shown.insert("message_stats".to_owned(), Value::Object(stats));
    Value::Object(shown)
}
