//! Small answers.

use serde_json::json;

use crate::auth::password::PasswordHash;
use crate::message::place::Lsn;
use crate::mgmt::answer::{Answer, Refusal};
use crate::mgmt::call::Call;

/// What RabbitMQ 3.13 can do that tools ask for, and that this broker does as well.
const FEATURE_FLAGS: [&str; 20] = [
    "classic_mirrored_queue_version",
    "classic_queue_type_delivery_support",
    "direct_exchange_routing_v2",
    "drop_unroutable_metric",
    "empty_basic_get_metric",
    "feature_flags_v2",
    "implicit_default_bindings",
    "listener_records_in_ets",
    "maintenance_mode_status",
    "message_containers",
    "quorum_queue",
    "quorum_queue_non_voters",
    "restart_streams",
    "stream_queue",
    "stream_sac_coordinator_unblock_group",
    "stream_single_active_consumer",
    "tracking_records_in_ets",
    "user_limits",
    "virtual_host_metadata",
    "stream_update_config_command",
];

/// The cluster's name.
pub(crate) fn cluster_name(call: &Call<'_>) -> Result<Answer, Refusal> {
    Ok(Answer::json(&json!({"name": call.mgmt.broker.config.identity.cluster_name})))
}

/// Who asks.
pub(crate) fn whoami(call: &Call<'_>) -> Result<Answer, Refusal> {
    let user = call.user()?;
    Ok(Answer::json(&json!({"name": user.name, "tags": user.profile().tags})))
}

/// None.
pub(crate) fn extensions(_: &Call<'_>) -> Result<Answer, Refusal> {
    Ok(Answer::json(&json!([])))
}

/// One that is known is enabled already.
pub(crate) fn enable_feature_flag(call: &Call<'_>) -> Result<Answer, Refusal> {
    match FEATURE_FLAGS.contains(&call.part("name")) {
        true => Ok(Answer::done(Lsn::default())),
        false => Err(Refusal::bad_request("unsupported")),
    }
}

/// All of them are enabled: there is nothing to switch.
pub(crate) fn feature_flags(_: &Call<'_>) -> Result<Answer, Refusal> {
    let shown = |name: &&str| {
        json!({"name": name, "state": "enabled", "stability": "stable", "provided_by": "rabbit", "desc": "",
               "doc_url": ""})
    };
    Ok(Answer::json(&FEATURE_FLAGS.iter().map(shown).collect()))
}

/// None.
pub(crate) fn deprecated_features(_: &Call<'_>) -> Result<Answer, Refusal> {
    Ok(Answer::json(&json!([])))
}

/// With a name and a password, and nothing else.
pub(crate) fn auth(_: &Call<'_>) -> Result<Answer, Refusal> {
    Ok(Answer::json(&json!({"oauth_enabled": false})))
}

/// The hash of a password, for definitions.
pub(crate) fn hash_password(call: &Call<'_>) -> Result<Answer, Refusal> {
    let hash = PasswordHash::hash(call.part("password").as_bytes());
    let hash = hash.map_err(|error| Refusal::bad_request(error.to_string()))?;
    Ok(Answer::json(&json!({"ok": hash.to_base64()})))
}

/// Logins by protocol.
pub(crate) fn attempts(call: &Call<'_>) -> Result<Answer, Refusal> {
    if call.part("node") != call.mgmt.node {
        return Err(Refusal::not_found());
    }
    let churn = &call.mgmt.broker.node.churn;
    let shown = |protocol: &str, succeeded: u64, failed: u64| {
        json!({
            "protocol": protocol,
            "auth_attempts": succeeded + failed,
            "auth_attempts_succeeded": succeeded,
            "auth_attempts_failed": failed,
        })
    };
    Ok(Answer::json(&json!([
        shown("amqp091", churn.logins.read(), churn.logins_refused.read()),
        shown("http", churn.http_logins.read(), churn.http_logins_refused.read()),
    ])))
}

/// The version that clients are told.
pub(crate) fn version(call: &Call<'_>) -> Result<Answer, Refusal> {
    Ok(Answer::json(&json!(call.mgmt.broker.config.identity.version)))
}

/// What is asked for is so already.
pub(crate) fn nothing_to_do(_: &Call<'_>) -> Result<Answer, Refusal> {
    Ok(Answer::done(Lsn::default()))
}
