//! `list_*` of what comes and goes: queues, exchanges, bindings, connections, channels and consumers.

use serde_json::Value;

use crate::cli::ctl::api::path;
use crate::cli::ctl::ask::Ask;
use crate::cli::ctl::failure::Failure;
use crate::cli::ctl::options::{Opt, flag};
use crate::cli::ctl::output::Output;
use crate::cli::ctl::verb::{LOOKS, MANY, Verb, verb};

/// What a column is called, and where the API tells it; parts of a path are behind dots.
pub(super) type Column = (&'static str, &'static str);

const COLUMNS_USAGE: &str = "[--vhost <vhost>] [--no-table-headers] [<column> ...] [--timeout <timeout>]";
const QUEUES_USAGE: &str = "[--vhost <vhost>] [--online] [--offline] [--local] [--no-table-headers] [<column>, ...] [--timeout <timeout>]";
const WHERE: &[Opt] = &[flag("online", None), flag("offline", None), flag("local", None)];

#[rustfmt::skip]
pub(in crate::cli::ctl) const VERBS: &[Verb] = &[
    verb("list_queues", (0, MANY), QUEUES_USAGE, "Lists queues and their properties", queues).of(LOOKS).with(WHERE),
    verb("list_exchanges", (0, MANY), COLUMNS_USAGE, "Lists exchanges", exchanges).of(LOOKS),
    verb("list_bindings", (0, MANY), COLUMNS_USAGE, "Lists all bindings on a vhost", bindings).of(LOOKS),
    verb("list_connections", (0, MANY), "[--no-table-headers] [<column> ...] [--timeout <timeout>]", "Lists AMQP 0.9.1 connections for the node", connections).of(LOOKS),
    verb("list_channels", (0, MANY), "[--no-table-headers] [<column> ...] [--timeout <timeout>]", "Lists all channels in the node", channels).of(LOOKS),
    verb("list_consumers", (0, MANY), "[--vhost <vhost>] [--no-table-headers] [<column> ...] [--timeout <timeout>]", "Lists all consumers for a vhost", consumers).of(LOOKS),
    verb("list_unresponsive_queues", (0, MANY), "[--local] [--queue-timeout <milliseconds>] [<column> ...] [--no-table-headers]", "Lists queues that do not answer: none, for they are read without asking them", unresponsive).of(LOOKS),
];

#[rustfmt::skip]
const QUEUES: &[Column] = &[
    ("name", "name"), ("durable", "durable"), ("auto_delete", "auto_delete"), ("exclusive", "exclusive"),
    ("arguments", "arguments"), ("policy", "policy"), ("operator_policy", "operator_policy"),
    ("effective_policy_definition", "effective_policy_definition"), ("type", "type"), ("state", "state"), ("pid", "leader"),
    ("messages", "messages"), ("messages_ready", "messages_ready"), ("messages_unacknowledged", "messages_unacknowledged"),
    ("messages_ram", "messages_ram"), ("messages_persistent", "messages_persistent"),
    ("message_bytes", "message_bytes"), ("message_bytes_ready", "message_bytes_ready"),
    ("message_bytes_unacknowledged", "message_bytes_unacknowledged"), ("message_bytes_ram", "message_bytes_ram"),
    ("message_bytes_persistent", "message_bytes_persistent"), ("head_message_timestamp", "head_message_timestamp"),
    ("consumers", "consumers"), ("consumer_utilisation", "consumer_utilisation"), ("consumer_capacity", "consumer_capacity"),
    ("memory", "memory"), ("leader", "leader"), ("members", "members"), ("online", "online"),
    ("owner_pid", "owner_pid_details.name"), ("exclusive_consumer_pid", "exclusive_consumer_pid"),
    ("exclusive_consumer_tag", "exclusive_consumer_tag"), ("single_active_consumer_tag", "single_active_consumer_tag"),
    ("slave_pids", "slave_pids"), ("synchronised_slave_pids", "slave_pids"), ("recoverable_slaves", "recoverable_slaves"),
    ("mirror_pids", "slave_pids"), ("synchronised_mirror_pids", "slave_pids"), ("disk_reads", "disk_reads"),
    ("disk_writes", "disk_writes"), ("vhost", "vhost"),
];
#[rustfmt::skip]
const EXCHANGES: &[Column] = &[
    ("name", "name"), ("type", "type"), ("durable", "durable"), ("auto_delete", "auto_delete"), ("internal", "internal"),
    ("arguments", "arguments"), ("policy", "policy"),
];
#[rustfmt::skip]
const BINDINGS: &[Column] = &[
    ("source_name", "source"), ("source_kind", "source_kind"), ("destination_name", "destination"),
    ("destination_kind", "destination_type"), ("routing_key", "routing_key"), ("arguments", "arguments"),
];
#[rustfmt::skip]
const CONNECTIONS: &[Column] = &[
    ("pid", "pid"), ("name", "name"), ("port", "port"), ("host", "host"), ("peer_port", "peer_port"),
    ("peer_host", "peer_host"), ("ssl", "ssl"), ("ssl_protocol", "ssl_protocol"), ("ssl_key_exchange", "ssl_key_exchange"),
    ("ssl_cipher", "ssl_cipher"), ("ssl_hash", "ssl_hash"), ("peer_cert_subject", "peer_cert_subject"),
    ("peer_cert_issuer", "peer_cert_issuer"), ("peer_cert_validity", "peer_cert_validity"), ("state", "state"),
    ("channels", "channels"), ("protocol", "protocol"), ("auth_mechanism", "auth_mechanism"), ("user", "user"),
    ("vhost", "vhost"), ("timeout", "timeout"), ("frame_max", "frame_max"), ("channel_max", "channel_max"),
    ("client_properties", "client_properties"), ("recv_oct", "recv_oct"), ("recv_cnt", "recv_cnt"), ("send_oct", "send_oct"),
    ("send_cnt", "send_cnt"), ("send_pend", "send_pend"), ("connected_at", "connected_at"), ("node", "node"),
    ("user_who_performed_action", "user_who_performed_action"),
];
#[rustfmt::skip]
const CHANNELS: &[Column] = &[
    ("pid", "pid"), ("connection", "connection_details.name"), ("name", "name"), ("number", "number"), ("user", "user"),
    ("vhost", "vhost"), ("transactional", "transactional"), ("confirm", "confirm"), ("consumer_count", "consumer_count"),
    ("messages_unacknowledged", "messages_unacknowledged"), ("messages_uncommitted", "messages_uncommitted"),
    ("acks_uncommitted", "acks_uncommitted"), ("messages_unconfirmed", "messages_unconfirmed"),
    ("prefetch_count", "prefetch_count"), ("global_prefetch_count", "global_prefetch_count"), ("state", "state"),
    ("user_who_performed_action", "user_who_performed_action"),
];
#[rustfmt::skip]
const CONSUMERS: &[Column] = &[
    ("queue_name", "queue.name"), ("channel_pid", "channel_details.pid"), ("consumer_tag", "consumer_tag"),
    ("ack_required", "ack_required"), ("prefetch_count", "prefetch_count"), ("active", "active"),
    ("activity_status", "activity_status"), ("arguments", "arguments"),
];

fn queues(ask: &Ask) -> Result<Output, Failure> {
    let columns = columns(ask, QUEUES, &["name", "messages"])?;
    let seconds = ask.line.get("timeout").and_then(|seconds| seconds.parse::<f64>().ok()).unwrap_or(60.0);
    ask.say(format!("Timeout: {seconds:.1} seconds ..."));
    ask.say(format!("Listing queues for vhost {} ...", ask.vhost()));
    // Every queue is where it is asked for.
    let is_elsewhere = ask.line.has("offline") && !ask.line.has("online") && !ask.line.has("local");
    if is_elsewhere {
        return Ok(rows(&columns, &[]));
    }
    let found = in_vhost(ask, "queues")?;
    Ok(rows(&columns, &found))
}

fn exchanges(ask: &Ask) -> Result<Output, Failure> {
    let columns = columns(ask, EXCHANGES, &["name", "type"])?;
    ask.say(format!("Listing exchanges for vhost {} ...", ask.vhost()));
    let found = in_vhost(ask, "exchanges")?;
    Ok(rows(&columns, &found))
}

fn bindings(ask: &Ask) -> Result<Output, Failure> {
    let all: Vec<_> = BINDINGS.iter().map(|(name, _)| *name).collect();
    let columns = columns(ask, BINDINGS, &all)?;
    ask.say(format!("Listing bindings for vhost {}...", ask.vhost()));
    let mut found = in_vhost(ask, "bindings")?;
    for binding in &mut found {
        // Only exchanges are bound to.
        binding["source_kind"] = Value::from("exchange");
    }
    Ok(rows(&columns, &found))
}

fn connections(ask: &Ask) -> Result<Output, Failure> {
    let columns = columns(ask, CONNECTIONS, &["user", "peer_host", "peer_port", "state"])?;
    ask.say("Listing connections ...");
    let found = list(&ask.api.get("/api/connections")?);
    Ok(rows(&columns, &found))
}

fn channels(ask: &Ask) -> Result<Output, Failure> {
    let columns = columns(ask, CHANNELS, &["pid", "user", "consumer_count", "messages_unacknowledged"])?;
    ask.say("Listing channels ...");
    let found = list(&ask.api.get("/api/channels")?);
    Ok(rows(&columns, &found))
}

fn consumers(ask: &Ask) -> Result<Output, Failure> {
    let all: Vec<_> = CONSUMERS.iter().map(|(name, _)| *name).collect();
    let columns = columns(ask, CONSUMERS, &all)?;
    ask.say(format!("Listing consumers in vhost {} ...", ask.vhost()));
    let found = in_vhost(ask, "consumers")?;
    Ok(rows(&columns, &found))
}

fn unresponsive(ask: &Ask) -> Result<Output, Failure> {
    ask.say(format!("Listing unresponsive queues for vhost {} ...", ask.vhost()));
    Ok(rows(&[("name", "name")], &[]))
}

/// Those that are asked for, or the usual ones.
pub(super) fn columns(ask: &Ask, known: &[Column], usual: &[&str]) -> Result<Vec<Column>, Failure> {
    let asked: Vec<_> = ask.args.iter().map(|word| word.trim_end_matches(',')).collect();
    let asked = if asked.is_empty() { usual.to_vec() } else { asked };
    let find = |name: &&str| known.iter().find(|(own, _)| own == name);
    let unknown: Vec<_> = asked.iter().filter(|name| find(name).is_none()).copied().collect();
    if !unknown.is_empty() {
        return Err(Failure::usage(format!("Info key(s) {} are not supported", unknown.join(","))));
    }
    Ok(asked.iter().filter_map(|name| find(name).copied()).collect())
}

/// What the API lists of a virtual host; of one that is not there, nothing.
fn in_vhost(ask: &Ask, what: &str) -> Result<Vec<Value>, Failure> {
    let found = ask.api.find(&path(&[what, ask.vhost()]))?;
    Ok(found.map(|found| list(&found)).unwrap_or_default())
}

/// The items of a list.
pub(super) fn list(found: &Value) -> Vec<Value> {
    found.as_array().cloned().unwrap_or_default()
}

/// Rows of these columns, which a table shows as they come.
pub(super) fn rows(columns: &[Column], items: &[Value]) -> Output {
    let row = |item: &Value| columns.iter().map(|(_, path)| at(item, path)).collect();
    let rows = items.iter().map(row).collect();
    Output::Rows { columns: columns.iter().map(|(name, _)| *name).collect(), rows, is_streamed: true }
}

/// Rows of these columns, of which a table shows an empty line where there are none.
pub(super) fn whole_rows(columns: &[Column], items: &[Value]) -> Output {
    match rows(columns, items) {
        Output::Rows { columns, rows, .. } => Output::Rows { columns, rows, is_streamed: false },
        other => other,
    }
}

/// What a path leads to.
fn at(item: &Value, path: &str) -> Value {
    path.split('.').try_fold(item, |item, name| item.get(name)).cloned().unwrap_or_default()
}
