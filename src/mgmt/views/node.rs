//! GET /api/nodes: this node, for there is one.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::auth::sasl::Mechanism;
use crate::broker::alarms::Shortage;
use crate::clock::Now;
use crate::config::Verify;
use crate::mgmt::answer::{Answer, Refusal};
use crate::mgmt::call::Call;
use crate::mgmt::json::{entries, put};
use crate::mgmt::rates::Subject;
use crate::mgmt::views::counts::CHURN;
use crate::mgmt::views::overview::{contexts, exchange_types};
use crate::mgmt::{Mgmt, listing, process};

/// All nodes.
pub(crate) fn list(call: &Call<'_>) -> Result<Answer, Refusal> {
    listing::list(call, vec![()], |()| call.mgmt.node.clone(), |()| shown(call.mgmt))
}

/// A node by its name; with `memory=true` also what its memory holds.
pub(crate) fn show(call: &Call<'_>) -> Result<Answer, Refusal> {
    check_name(call)?;
    let mut shown = shown(call.mgmt);
    if call.wants("memory") {
        put(&mut shown, "memory", breakdown(call.mgmt));
    }
    Ok(listing::one(call, &shown))
}

/// What a node's memory holds.
pub(crate) fn memory(call: &Call<'_>) -> Result<Answer, Refusal> {
    check_name(call)?;
    Ok(listing::one(call, &json!({"memory": breakdown(call.mgmt)})))
}

fn check_name(call: &Call<'_>) -> Result<(), Refusal> {
    if call.part("node") == call.mgmt.node { Ok(()) } else { Err(Refusal::not_found()) }
}

fn shown(mgmt: &Mgmt) -> Value {
    let broker = &mgmt.broker;
    let now = Now::read();
    let (alarms, limits) = (&broker.node.alarms, broker.node.limits());
    let log = &broker.node.log.counters;
    let rated = mgmt.rates.of(Subject::Node(Arc::downgrade(broker)), now.instant);
    let mechanisms = Mechanism::ALL.iter().map(|mechanism| {
        let is_enabled = match mechanism {
            Mechanism::Plain | Mechanism::AmqPlain => true,
            Mechanism::External => broker.config.tls.verify != Verify::None,
            Mechanism::Anonymous => broker.config.anonymous_login_user.is_some(),
        };
        json!({"name": mechanism.name(), "description": format!("SASL {mechanism} authentication mechanism"),
               "enabled": is_enabled})
    });
    let mut shown = entries(json!({
        "name": mgmt.node,
        "type": "disc",
        "running": true,
        "being_drained": false,
        "uptime": now.instant.saturating_duration_since(broker.started.instant).as_millis() as u64,
        "os_pid": std::process::id().to_string(),
        "processors": std::thread::available_parallelism().map_or(1, usize::from),
        "partitions": [],
        "cluster_links": [],
        "rates_mode": "basic",
        "enabled_plugins": ["rabbitmq_management", "rabbitmq_prometheus"],
        "applications": [
            {"name": "sluicemq", "description": "SluiceMQ", "version": env!("CARGO_PKG_VERSION")},
            {"name": "rabbit", "description": broker.config.identity.product, "version": broker.config.identity.version},
        ],
        "exchange_types": exchange_types(),
        "auth_mechanisms": mechanisms.collect::<Value>(),
        "contexts": contexts(mgmt),
        "db_dir": broker.config.data_dir.as_ref().map(|dir| dir.display().to_string()),
        "log_files": ["<stderr>"],
        "config_files": broker.config.file.iter().map(|file| file.display().to_string()).collect::<Value>(),
        "net_ticktime": 60,
    }));
    shown.extend(entries(json!({
        "mem_used": process::resident_bytes(),
        "mem_limit": broker.node.memory.watermark_bytes(),
        "mem_alarm": alarms.is_raised(Shortage::Memory),
        "mem_calculation_strategy": "rss",
        "disk_free": broker.disk_free_bytes.read(),
        "disk_free_limit": broker.disk_free_limit_bytes.read(),
        "disk_free_alarm": alarms.is_raised(Shortage::Disk),
        "fd_used": process::open_files(),
        "fd_total": process::files_max(),
        "sockets_used": broker.connections(),
        "sockets_total": sockets_max(limits.connections_max),
        "proc_used": process::threads(),
        "proc_total": process::threads_max(),
        "run_queue": 0,
        "io_sync_count": log.syncs.read(),
        "io_write_count": log.batches.read(),
        "io_write_bytes": log.bytes.read(),
    })));
    for name in ["mem_used", "disk_free", "fd_used", "sockets_used", "proc_used"] {
        shown.insert(format!("{name}_details"), json!({"rate": 0.0}));
    }
    rated.put(&CHURN, &mut shown);
    Value::Object(shown)
}

/// How many connections there may be. Where no limit is set the files are one: who watches divides by it.
pub(crate) fn sockets_max(connections_max: usize) -> u64 {
    match connections_max {
        0 => process::files_max(),
        limit => limit as u64,
    }
}

/// What takes memory in RabbitMQ and is not here, or is counted with something else; clients that read a breakdown expect
/// all of it.
const NOT_HERE: [&str; 21] = [
    "connection_readers",
    "connection_writers",
    "queue_slave_procs",
    "quorum_queue_procs",
    "quorum_queue_dlx_procs",
    "stream_queue_procs",
    "stream_queue_replica_reader_procs",
    "stream_queue_coordinator_procs",
    "plugins",
    "metadata_store",
    "other_proc",
    "metrics",
    "mgmt_db",
    "quorum_ets",
    "metadata_store_ets",
    "other_ets",
    "msg_index",
    "code",
    "atom",
    "allocated_unused",
    "reserved_unallocated",
];

/// Bytes by what holds them: ours, and RabbitMQ's names for what is alike.
pub(crate) fn breakdown(mgmt: &Mgmt) -> Value {
    let memory = &mgmt.broker.node.memory;
    let resident = process::resident_bytes();
    let read = |gauge: &crate::stats::Gauge| gauge.read();
    let parts = [
        ("connection_other", read(&memory.partial_bodies) + read(&memory.returns) + read(&memory.routes)),
        ("connection_channels", read(&memory.unacked) + read(&memory.consumers)),
        ("queue_procs", read(&memory.index)),
        ("binary", read(&memory.messages)),
        ("mnesia", read(&memory.definitions)),
    ];
    let counted: u64 = parts.iter().map(|(_, bytes)| bytes).sum();
    let mut shown = entries(json!({
        "total": {"rss": resident, "allocated": resident, "erlang": 0},
        "strategy": "rss",
        "other_system": resident.saturating_sub(counted),
    }));
    shown.extend(parts.map(|(name, bytes)| (name.to_owned(), json!(bytes))));
    shown.extend(NOT_HERE.map(|name| (name.to_owned(), json!(0))));
    Value::Object(shown)
}
