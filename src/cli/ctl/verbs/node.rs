//! The node: what it is, whether it runs, and starting and stopping it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cli::ctl::api::Place;
use crate::cli::ctl::ask::Ask;
use crate::cli::ctl::failure::{Code, Failure};
use crate::cli::ctl::options::text;
use crate::cli::ctl::output::Output;
use crate::cli::ctl::verb::{LOOKS, Needs, Tool, Verb, verb};
use crate::cli::ctl::verbs::health;
use crate::cli::ctl::verbs::lists::list;
use crate::clock::Now;

#[rustfmt::skip]
pub(in crate::cli::ctl) const VERBS: &[Verb] = &[
    verb("version", (0, 0), "", "Displays CLI tools version", version).of(LOOKS).needs(Needs::Nothing),
    verb("await_startup", (0, 0), "", "Waits for the RabbitMQ application to start on the target node", await_startup).needs(Needs::Process),
    verb("await_online_nodes", (1, 1), "<count>", "Waits for <count> nodes to join the cluster: there is one", await_startup).needs(Needs::Process),
    verb("wait", (0, 1), "[<pidfile>] [--pid|-P <pid>]", "Waits for the broker to start", await_startup).needs(Needs::Process).with(&[text("pid", Some('P'))]).of(LOOKS),
    verb("ping", (0, 0), "[--timeout <timeout>]", "Checks that the node OS process is up", ping).of(LOOKS).needs(Needs::Process),
    verb("status", (0, 0), "[--unit <unit>] [--timeout <timeout>]", "Displays status of a node", status).of(LOOKS).with(&[text("unit", None)]),
    verb("cluster_status", (0, 0), "", "Displays all the nodes in the cluster", cluster_status).of(LOOKS),
    verb("report", (0, 0), "", "Generate a server status report containing a concatenation of all server status information for support purposes", report),
    verb("node_health_check", (0, 0), "[--timeout <timeout>]", "DEPRECATED. Checks that there are no alarms", health_check).of(LOOKS),
    verb("stop", (0, 1), "[<pidfile>]", "Stops RabbitMQ and its process", stop).needs(Needs::Process),
    verb("shutdown", (0, 0), "[--wait]", "Stops RabbitMQ and its process", stop).needs(Needs::Process),
    verb("stop_app", (0, 0), "", "Stops the RabbitMQ application, leaving the process running", stop_app).needs(Needs::Process),
    verb("start_app", (0, 0), "", "Starts the RabbitMQ application but leaves the process running", start_app).needs(Needs::Process),
    verb("reset", (0, 0), "", "Instructs a RabbitMQ node to return to its virgin state", reset).needs(Needs::Stopped),
    verb("force_reset", (0, 0), "", "Forcefully returns a RabbitMQ node to its virgin state", reset).needs(Needs::Stopped),
];

/// Between two looks at whether what was asked for has happened.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// How long `await_startup` waits when nobody says.
const STARTUP_TIMEOUT: Duration = Duration::from_secs(300);

fn version(_: &Ask) -> Result<Output, Failure> {
    let version = env!("CARGO_PKG_VERSION");
    Ok(Output::Text(format!("{version}\n"), json!({"result": "ok", "value": {"version": version}})))
}

/// Whether the broker runs; nothing when nobody answers.
fn is_running(ask: &Ask) -> Result<bool, Failure> {
    let state = ask.api.get("/api/process")?;
    Ok(state.get("running").and_then(Value::as_bool).unwrap_or(true))
}

fn await_startup(ask: &Ask) -> Result<Output, Failure> {
    let deadline = Now::read().instant + ask.line.timeout().unwrap_or(STARTUP_TIMEOUT);
    until(deadline, || is_running(ask).map(|is_running| is_running.then_some(Output::Done)))
}

/// Looks again until something is there, or time is up: then it is told what the last look has told.
fn until(deadline: Instant, look: impl Fn() -> Result<Option<Output>, Failure>) -> Result<Output, Failure> {
    loop {
        let is_late = Now::read().instant >= deadline;
        match look() {
            Ok(Some(found)) => return Ok(found),
            Ok(None) if is_late => {
                return Err(Failure::plain(Code::TemporaryFailure, "Error: operation timed out"));
            }
            Err(failure) if is_late => return Err(failure),
            _ => std::thread::sleep(LOOK_INTERVAL),
        }
    }
}

fn ping(ask: &Ask) -> Result<Output, Failure> {
    let seconds = ask.line.get("timeout").and_then(|seconds| seconds.parse::<f64>().ok()).unwrap_or(60.0);
    // The node is named where it can be known.
    let state = ask.api.get("/api/process");
    let node = state.as_ref().ok().and_then(|state| state.get("node")?.as_str());
    ask.say(format!(
        "Will ping {}. This only checks if the OS process is running and registered with epmd. Timeout: {} ms.",
        node.unwrap_or("the node"),
        (seconds * 1000.0) as u64
    ));
    let told = "Ping succeeded";
    state.map(|_| Output::Text(format!("{told}\n"), json!({"message": told})))
}

fn status(ask: &Ask) -> Result<Output, Failure> {
    let unit = health::unit(ask)?;
    let node = ask.node_state()?;
    let overview = ask.api.get("/api/overview")?;
    let name = node.get("name").and_then(Value::as_str).unwrap_or_default();
    ask.say(format!("Status of node {name} ..."));
    let get = |key: &str| node.get(key).cloned().unwrap_or_default();
    let number = |key: &str| get(key).as_u64().unwrap_or(0);
    let sized = |key: &str| health::in_unit(number(key), unit);
    let totals = |key: &str| overview.pointer(&format!("/object_totals/{key}")).and_then(Value::as_u64);
    let listeners = health::listeners(&overview);
    let version = overview.get("rabbitmq_version").and_then(Value::as_str).unwrap_or_default();
    let alarms = health::raised(&node);
    let files = list(&get("config_files"));
    let shown = if alarms.is_empty() { "(none)".to_owned() } else { alarms.join("\n") };
    let bold = |title: &str| format!("\u{1b}[1m{title}\u{1b}[0m\n");
    let text = [
        bold("Runtime"),
        format!("OS PID: {}", get("os_pid").as_str().unwrap_or_default()),
        format!("OS: {}", std::env::consts::OS),
        format!("Uptime (seconds): {}", number("uptime") / 1000),
        "Is under maintenance?: false".to_owned(),
        format!("RabbitMQ version: {version}"),
        format!("SluiceMQ version: {}", env!("CARGO_PKG_VERSION")),
        format!("Node name: {name}\n"),
        bold("Plugins"),
        "Enabled plugin file: (none)\nEnabled plugins:\n".to_owned(),
        bold("Data directory"),
        format!("Node data directory: {}\n", get("db_dir").as_str().unwrap_or_default()),
        bold("Config files"),
        format!("{}\n", named(&files)),
        bold("Log file(s)"),
        " * <stderr>\n".to_owned(),
        bold("Alarms"),
        format!("{shown}\n"),
        bold("Memory"),
        format!("Total memory used: {}", sized("mem_used")),
        "Calculation strategy: rss".to_owned(),
        format!("Memory high watermark setting: computed to: {}\n", sized("mem_limit")),
        bold("File Descriptors"),
        format!("Total: {}, limit: {}\n", number("fd_used"), number("fd_total")),
        bold("Free Disk Space"),
        format!("Low free disk space watermark: {}", sized("disk_free_limit")),
        format!("Free disk space: {}\n", sized("disk_free")),
        bold("Totals"),
        format!("Connection count: {}", totals("connections").unwrap_or(0)),
        format!("Queue count: {}", totals("queues").unwrap_or(0)),
        format!("Virtual host count: {}\n", list(&ask.api.get("/api/vhosts?columns=name")?).len()),
        bold("Listeners"),
        listeners.iter().map(health::listener_line).collect::<Vec<_>>().join("\n"),
    ];
    let value = json!({
        "pid": get("os_pid").as_str().and_then(|pid| pid.parse::<u64>().ok()),
        "os": std::env::consts::OS,
        "uptime": number("uptime") / 1000,
        "is_under_maintenance": false,
        "rabbitmq_version": version,
        "sluicemq_version": env!("CARGO_PKG_VERSION"),
        "erlang_version": "",
        "data_directory": get("db_dir"),
        "config_files": files,
        "log_files": ["<stderr>"],
        "enabled_plugin_file": "",
        "active_plugins": [],
        "alarms": alarms,
        "memory": {"total": {"rss": number("mem_used")}, "strategy": "rss"},
        "vm_memory_high_watermark_limit": number("mem_limit"),
        "vm_memory_calculation_strategy": "rss",
        "disk_free": number("disk_free"),
        "disk_free_limit": number("disk_free_limit"),
        "file_descriptors": {"total_used": number("fd_used"), "total_limit": number("fd_total")},
        "totals": {"connection_count": totals("connections"), "queue_count": totals("queues")},
        "listeners": listeners,
    });
    Ok(Output::Text(format!("{}\n", text.join("\n")), value))
}

/// A line for each file, or that there is none.
fn named(files: &[Value]) -> String {
    match files.is_empty() {
        true => "(none)".to_owned(),
        false => files
            .iter()
            .filter_map(Value::as_str)
            .map(|file| format!(" * {file}"))
            .collect::<Vec<_>>()
            .join("\n"),
    }
}

fn cluster_status(ask: &Ask) -> Result<Output, Failure> {
    let overview = ask.api.get("/api/overview")?;
    let node = ask.node_state()?;
    let name = node.get("name").and_then(Value::as_str).unwrap_or_default();
    ask.say(format!("Cluster status of node {name} ..."));
    let cluster = overview.get("cluster_name").and_then(Value::as_str).unwrap_or_default();
    let version = overview.get("rabbitmq_version").and_then(Value::as_str).unwrap_or_default();
    let (listeners, alarms) = (health::listeners(&overview), health::raised(&node));
    let flags = list(&ask.api.get("/api/feature-flags")?);
    let bold = |title: &str| format!("\u{1b}[1m{title}\u{1b}[0m\n\n");
    let or_none = |lines: Vec<String>| if lines.is_empty() { "(none)".to_owned() } else { lines.join("\n") };
    let shown_listeners: Vec<_> = listeners
        .iter()
        .map(|listener| format!("Node: {name}, {}", health::listener_line(listener).replacen('I', "i", 1)))
        .collect();
    let shown_flags: Vec<_> = flags
        .iter()
        .map(|flag| {
            format!("Flag: {}, state: enabled", flag.get("name").and_then(Value::as_str).unwrap_or_default())
        })
        .collect();
    let parts = [
        format!("{}Cluster name: {cluster}", bold("Basics")),
        format!("{}{name}", bold("Disk Nodes")),
        format!("{}{name}", bold("Running Nodes")),
        format!("{}{name}: RabbitMQ {version} on no Erlang", bold("Versions")),
        format!("{}Node: {name}, status: not under maintenance", bold("Maintenance status")),
        format!("{}{}", bold("Alarms"), or_none(alarms.clone())),
        format!("{}(none)", bold("Network Partitions")),
        format!("{}{}", bold("Listeners"), or_none(shown_listeners)),
        format!("{}{}", bold("Feature flags"), or_none(shown_flags)),
    ];
    let value = json!({
        "cluster_name": cluster,
        "disk_nodes": [name],
        "ram_nodes": [],
        "running_nodes": [name],
        "partitions": {},
        "alarms": alarms,
        "listeners": {name: listeners},
        "maintenance_status": {name: "not under maintenance"},
        "versions": {name: {"rabbitmq_version": version, "erlang_version": ""}},
        "feature_flags": flags,
    });
    Ok(Output::Text(format!("{}\n", parts.join("\n\n")), value))
}

/// What stands in a report, one verb after the other.
const REPORTED: [&str; 12] = [
    "status",
    "cluster_status",
    "environment",
    "list_connections",
    "list_channels",
    "list_vhosts",
    "list_queues",
    "list_exchanges",
    "list_bindings",
    "list_users",
    "list_permissions",
    "list_policies",
];

fn report(ask: &Ask) -> Result<Output, Failure> {
    ask.say(format!("Reporting server status of node {} ...\n", ask.node()?));
    for name in REPORTED {
        if let Some(verb) = crate::cli::ctl::verb::find(Tool::Ctl, name) {
            crate::cli::ctl::output::show(ask, &(verb.run)(ask)?)?;
            ask.say("");
        }
    }
    Ok(Output::Done)
}

fn health_check(ask: &Ask) -> Result<Output, Failure> {
    ask.say(
        "This command is DEPRECATED and will be removed in a future version.\n\
         It performs intrusive, opinionated health checks and requires a fully booted node.\n\
         Use one of the options covered in https://www.rabbitmq.com/monitoring.html#health-checks instead.",
    );
    let seconds = ask.line.get("timeout").unwrap_or("70");
    ask.say(format!("Timeout: {seconds} seconds ..."));
    ask.say(format!("Checking health of node {} ...", ask.node()?));
    match health::raised(&ask.node_state()?) {
        none if none.is_empty() => Ok(Output::Said("Health check passed".to_owned())),
        alarms => {
            Err(Failure::told(Code::Software, format!("resource alarm(s) in effect: {}", alarms.join(", "))))
        }
    }
}

fn stop(ask: &Ask) -> Result<Output, Failure> {
    ask.say(format!("Stopping and halting node {} ...", ask.process_node()?));
    Ask::done(&ask.api.post("/api/process/stop", &Value::Null)?)?;
    // It is over when nobody answers.
    until(Now::read().instant + STARTUP_TIMEOUT, || Ok(is_running(ask).is_err().then_some(Output::Done)))
}

fn stop_app(ask: &Ask) -> Result<Output, Failure> {
    ask.say(format!("Stopping rabbit application on node {} ...", ask.process_node()?));
    Ask::done(&ask.api.post("/api/process/stop-app", &Value::Null)?)?;
    let is_elsewhere = matches!(ask.api.place(), Place::Network { .. });
    until(Now::read().instant + STARTUP_TIMEOUT, || match is_running(ask) {
        Ok(false) => Ok(Some(Output::Done)),
        // The API's port is closed with the broker: only the socket is there without one.
        Err(failure) if is_elsewhere && failure.code == Code::Unavailable => Ok(Some(Output::Done)),
        looked => looked.map(|_| None),
    })
}

fn start_app(ask: &Ask) -> Result<Output, Failure> {
    ask.say(format!("Starting node {} ...", ask.process_node()?));
    if is_running(ask)? {
        return Ok(Output::Done);
    }
    Ask::done(&ask.api.post("/api/process/start-app", &Value::Null)?)?;
    let deadline = Now::read().instant + STARTUP_TIMEOUT;
    loop {
        let state = ask.api.get("/api/process")?;
        match (state.get("running").and_then(Value::as_bool), state.get("reason").and_then(Value::as_str)) {
            (Some(true), _) => return Ok(Output::Done),
            (_, Some(why)) => return Err(Failure::refused(why)),
            _ if Now::read().instant >= deadline => {
                return Err(Failure::plain(Code::TemporaryFailure, "Error: operation timed out"));
            }
            _ => std::thread::sleep(LOOK_INTERVAL),
        }
    }
}

fn reset(_: &Ask) -> Result<Output, Failure> {
    Err(Failure::absent("a broker is reset by stopping its process and removing its data directory"))
}
