//! rabbitmq-diagnostics: whether the node is well, and what it says of itself.

use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::ctl::api::path;
use crate::cli::ctl::ask::Ask;
use crate::cli::ctl::failure::{Code, Failure};
use crate::cli::ctl::options::{number, text};
use crate::cli::ctl::output::{Output, pairs};
use crate::cli::ctl::verb::{DIAGNOSTICS, Needs, Tool, Verb, verb};
use crate::cli::ctl::verbs::lists::list;

const WITH_QUEUES: &[Tool] = &[Tool::Diagnostics, Tool::Queues];

#[rustfmt::skip]
pub(in crate::cli::ctl) const VERBS: &[Verb] = &[
    verb("check_running", (0, 0), "", "Health check that exits with a non-zero code if the RabbitMQ app on the target node is not running", check_running).of(DIAGNOSTICS).needs(Needs::Process),
    verb("is_running", (0, 0), "", "Checks if RabbitMQ is fully booted and running on the target node", is_running).of(DIAGNOSTICS).needs(Needs::Process),
    verb("is_booting", (0, 0), "", "Checks if RabbitMQ is still booting on the target node", is_booting).of(DIAGNOSTICS).needs(Needs::Process),
    verb("check_alarms", (0, 0), "", "Health check that exits with a non-zero code if the target node reports any alarms, local or cluster-wide.", check_alarms).of(DIAGNOSTICS),
    verb("check_local_alarms", (0, 0), "", "Health check that exits with a non-zero code if the target node reports any local alarms", check_local_alarms).of(DIAGNOSTICS),
    verb("alarms", (0, 0), "", "Lists resource alarms (local or cluster-wide) in effect on the target node", alarms).of(DIAGNOSTICS),
    verb("check_port_connectivity", (0, 0), "[--timeout <timeout>]", "Basic TCP connectivity health check for each listener's port on the target node", check_connectivity).of(DIAGNOSTICS),
    verb("check_port_listener", (1, 1), "<port> [--timeout <timeout>]", "Health check that exits with a non-zero code if target node does not have an active listener for given port", check_port).of(DIAGNOSTICS),
    verb("check_protocol_listener", (1, 1), "<protocol> [--timeout <timeout>]", "Health check that exits with a non-zero code if target node does not have an active listener for given protocol", check_protocol).of(DIAGNOSTICS),
    verb("check_virtual_hosts", (0, 0), "", "Health check that checks if all vhosts are running in the target node", check_vhosts).of(DIAGNOSTICS),
    verb("check_if_node_is_quorum_critical", (0, 0), "", "Health check that exits with a non-zero code if there are queues with minimum online quorum", quorum_critical).of(WITH_QUEUES),
    verb("check_if_node_is_mirror_sync_critical", (0, 0), "", "Health check that exits with a non-zero code if there are classic mirrored queues without online synchronised mirrors", mirror_critical).of(WITH_QUEUES),
    verb("check_certificate_expiration", (0, 0), "--within <period> [--unit <unit>]", "Checks the expiration date on the certificates for every listener configured to use TLS", check_certificates).of(DIAGNOSTICS).with(&[text("unit", None), number("within", None)]),
    verb("certificates", (0, 0), "", "Displays certificates (public keys) for every listener on target node that is configured to use TLS", certificates).of(DIAGNOSTICS),
    verb("listeners", (0, 0), "", "Lists active connection listeners (bound interface, port, protocol) on the target node", show_listeners).of(DIAGNOSTICS),
    verb("memory_breakdown", (0, 0), "[--unit <unit>]", "Provides a memory usage breakdown on the target node", memory).of(DIAGNOSTICS).with(&[text("unit", None)]),
    verb("server_version", (0, 0), "", "Displays server version on the target node", server_version).of(DIAGNOSTICS),
    verb("erlang_version", (0, 0), "", "Displays Erlang/OTP version on the target node: there is none", erlang_version).of(DIAGNOSTICS).needs(Needs::Process),
    verb("log_location", (0, 0), "[--all]", "Shows log file location(s) on target node", log_location).of(DIAGNOSTICS),
    verb("log_tail", (0, 0), "[--number|-N <number>]", "Prints the last lines of the log: none is kept", log_tail).of(DIAGNOSTICS).with(&[number("number", Some('N'))]),
    verb("log_tail_stream", (0, 0), "[--duration|-d <seconds>]", "Streams the log: none is kept", log_tail).of(DIAGNOSTICS).with(&[number("duration", Some('d'))]),
];

/// A connection to a listener of this machine takes no longer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

fn process_runs(ask: &Ask) -> Result<bool, Failure> {
    Ok(ask.api.get("/api/process")?.get("running").and_then(Value::as_bool).unwrap_or(true))
}

fn check_running(ask: &Ask) -> Result<Output, Failure> {
    let node = ask.process_node()?;
    ask.say(format!("Checking if RabbitMQ is running on node {node} ..."));
    match process_runs(ask)? {
        true => Ok(Output::Said(format!("RabbitMQ on node {node} is fully booted and running"))),
        false => Err(Failure::refused(format!(
            "RabbitMQ on node {node} is not running or has not fully booted yet (check with is_booting)"
        ))),
    }
}

fn is_running(ask: &Ask) -> Result<Output, Failure> {
    let node = ask.process_node()?;
    ask.say(format!("Asking node {node} for its status ..."));
    Ok(Output::Said(match process_runs(ask)? {
        true => format!("RabbitMQ on node {node} is fully booted and running"),
        false => format!(
            "RabbitMQ on node {node} is not running or has not fully booted yet (check with is_booting)"
        ),
    }))
}

fn is_booting(ask: &Ask) -> Result<Output, Failure> {
    let node = ask.process_node()?;
    ask.say(format!("Asking node {node} for its boot status ..."));
    Ok(Output::Said(format!(
        "RabbitMQ on node {node} is fully booted (check with is_running), stopped or has not started booting yet"
    )))
}

/// The alarms that are raised, as RabbitMQ describes them.
pub(super) fn raised(node: &Value) -> Vec<String> {
    let name = node.get("name").and_then(Value::as_str).unwrap_or_default();
    let alarms = [("mem_alarm", "Memory"), ("disk_free_alarm", "Free disk space")];
    let is_raised = |key: &str| node.get(key).and_then(Value::as_bool).unwrap_or(false);
    let raised = alarms.into_iter().filter(|(key, _)| is_raised(key));
    raised.map(|(_, resource)| format!("{resource} alarm on node {name}")).collect()
}

fn check_alarms(ask: &Ask) -> Result<Output, Failure> {
    check_no_alarms(ask, "no alarms, local or clusterwide")
}

fn check_local_alarms(ask: &Ask) -> Result<Output, Failure> {
    check_no_alarms(ask, "no local alarms")
}

fn check_no_alarms(ask: &Ask, well: &str) -> Result<Output, Failure> {
    let (name, node) = (ask.node()?, ask.node_state()?);
    ask.say(format!("Asking node {name} to report any local resource alarms ..."));
    match raised(&node) {
        none if none.is_empty() => Ok(Output::Said(format!("Node {name} reported {well}"))),
        alarms => Err(Failure::plain(
            Code::Unavailable,
            format!("Error:\nNode {name} reported the following alarms:\n\n{}\n", alarms.join("\n")),
        )),
    }
}

fn alarms(ask: &Ask) -> Result<Output, Failure> {
    let (name, node) = (ask.node()?, ask.node_state()?);
    ask.say(format!("Asking node {name} to report any known resource alarms ..."));
    let alarms = raised(&node);
    let text = match alarms.is_empty() {
        true => format!("Node {name} reported no alarms, local or clusterwide\n"),
        false => format!("{}\n", alarms.join("\n")),
    };
    Ok(Output::Text(text, json!({"alarms": alarms, "node": name, "result": "ok"})))
}

/// What is listened on.
pub(super) fn listeners(overview: &Value) -> Vec<Value> {
    let found = overview.get("listeners").map(list).unwrap_or_default();
    let shown = |listener: &Value| {
        let get = |key: &str| listener.get(key).cloned().unwrap_or_default();
        let address = get("ip_address");
        let interface = match address.as_str() {
            Some(address) if address.contains(':') => format!("[{address}]"),
            address => address.unwrap_or_default().to_owned(),
        };
        let protocol = get("protocol");
        let purpose = match protocol.as_str().unwrap_or_default() {
            "amqp" => "AMQP 0-9-1",
            "http" => "HTTP API",
            "http/prometheus" => "Prometheus exporter API over HTTP",
            "amqp/ssl" => "AMQP 0-9-1 over TLS",
            "https" => "HTTP API over TLS (HTTPS)",
            "https/prometheus" => "Prometheus exporter API over HTTPS",
            other => other,
        };
        json!({"interface": interface, "node": get("node"), "port": get("port"), "protocol": protocol, "purpose": purpose})
    };
    found.iter().map(shown).collect()
}

/// A listener in a line.
pub(super) fn listener_line(listener: &Value) -> String {
    let text = |key: &str| match listener.get(key) {
        Some(Value::String(text)) => text.clone(),
        other => other.map(Value::to_string).unwrap_or_default(),
    };
    format!(
        "Interface: {}, port: {}, protocol: {}, purpose: {}",
        text("interface"),
        text("port"),
        text("protocol"),
        text("purpose")
    )
}

fn show_listeners(ask: &Ask) -> Result<Output, Failure> {
    let (node, overview) = (ask.node()?, ask.api.get("/api/overview")?);
    ask.say(format!("Asking node {node} to report its protocol listeners ..."));
    let found = listeners(&overview);
    let text = found.iter().map(|listener| format!("{}\n", listener_line(listener))).collect();
    Ok(Output::Text(text, json!({"listeners": found, "node": node, "result": "ok"})))
}

fn check_connectivity(ask: &Ask) -> Result<Output, Failure> {
    let (node, overview) = (ask.node()?, ask.api.get("/api/overview")?);
    ask.say(format!("Testing TCP connections to all active listeners on node {node} ..."));
    let found = listeners(&overview);
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for listener in &found {
        let interface = listener.get("interface").and_then(Value::as_str).unwrap_or_default();
        let port = listener.get("port").and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok());
        // Addresses of a broker elsewhere are this machine's own here, or nobody's.
        let host = ask.api.host().unwrap_or(interface);
        match port.filter(|port| is_open(host.trim_matches(['[', ']']), *port)) {
            Some(port) => good.push(port.to_string()),
            None => bad.push(listener_line(listener)),
        }
    }
    if bad.is_empty() {
        let ports = good.join(", ");
        return Ok(Output::Said(format!("Successfully connected to ports {ports} on node {node}.")));
    }
    let why = format!("Connection failed to the following listeners on node {node}:\n{}", bad.join("\n"));
    Err(Failure::plain(Code::Unavailable, why))
}

/// Whether somebody accepts connections there.
fn is_open(host: &str, port: u16) -> bool {
    let addresses = (host, port).to_socket_addrs().into_iter().flatten();
    addresses.into_iter().any(|address| TcpStream::connect_timeout(&address, CONNECT_TIMEOUT).is_ok())
}

fn check_port(ask: &Ask) -> Result<Output, Failure> {
    let wrong = || Failure::bad_argument(": Argument must be a positive integer");
    let port: u16 = ask.arg(0).parse().ok().filter(|port| *port > 0).ok_or_else(wrong)?;
    let (node, overview) = (ask.node()?, ask.api.get("/api/overview")?);
    ask.say(format!("Asking node {node} if there's an active listener on port {port} ..."));
    let found = listeners(&overview);
    let ports: Vec<_> = found.iter().filter_map(|listener| listener.get("port")?.as_u64()).collect();
    if ports.contains(&u64::from(port)) {
        return Ok(Output::Said(format!("A listener for port {port} is running on node {node}.")));
    }
    let ports: Vec<_> = ports.iter().map(u64::to_string).collect();
    let why = format!(
        "No listener for port {port} is active on node {node}. Found listeners that use the following ports: {}",
        ports.join(", ")
    );
    Err(Failure::plain(Code::Unavailable, why))
}

fn check_protocol(ask: &Ask) -> Result<Output, Failure> {
    let (node, asked) = (ask.node()?, ask.arg(0));
    ask.say(format!("Asking node {node} if there's an active listener for protocol {asked} ..."));
    let at = path(&["health", "checks", "protocol-listener", asked]);
    let overview = ask.api.get("/api/overview")?;
    if matches!(ask.api.find(&at), Ok(Some(_))) {
        return Ok(Output::Said(format!("A listener for protocol {asked} is running on node {node}.")));
    }
    let mut protocols: Vec<_> = listeners(&overview)
        .iter()
        .filter_map(|listener| Some(listener.get("protocol")?.as_str()?.to_owned()))
        .collect();
    protocols.sort();
    protocols.dedup();
    Err(Failure::refused(format!(
        "No listener for protocol {asked} is active on node {node}. Found listeners for the following protocols: {}",
        protocols.join(", ")
    )))
}

fn check_vhosts(ask: &Ask) -> Result<Output, Failure> {
    let node = ask.node()?;
    ask.say(format!("Checking if all vhosts are running on node {node} ..."));
    ask.api.get("/api/health/checks/virtual-hosts")?;
    Ok(Output::Said(format!("Node {node} reported all vhosts as running")))
}

fn quorum_critical(ask: &Ask) -> Result<Output, Failure> {
    single(ask, "quorum of any quorum queues")
}

fn mirror_critical(ask: &Ask) -> Result<Output, Failure> {
    single(ask, "data safety of any classic mirrored queues")
}

fn single(ask: &Ask, what: &str) -> Result<Output, Failure> {
    let node = ask.node()?;
    ask.say(format!("Checking if node {node} is critical for {what} ..."));
    Ok(Output::Said(format!(
        "Node {node} seems to be the only one in a single node cluster, the check does not apply"
    )))
}

fn check_certificates(ask: &Ask) -> Result<Output, Failure> {
    let missing = || Failure::usage("not enough arguments.");
    let within = ask.line.get("within").ok_or_else(missing)?;
    ask.say(format!("Checking certificate expiration on node {} ...", ask.node()?));
    let unit = ask.line.get("unit").unwrap_or("weeks");
    match expiring(ask, within, unit)? {
        none if none.is_empty() => {
            Ok(Output::Said(format!("No certificates are expiring within {within} {unit}.")))
        }
        some => Err(Failure::refused(format!(
            "Certificates are expiring within {within} {unit}:\n{}",
            certificate_lines(&some)
        ))),
    }
}

/// Who asks for a time that no certificate outlives is told all of them.
const EVER: (&str, &str) = ("100000", "years");

fn certificates(ask: &Ask) -> Result<Output, Failure> {
    ask.say(format!("Certificates of node {} ...", ask.node()?));
    let (within, unit) = EVER;
    let found = expiring(ask, within, unit)?;
    let text = match found.is_empty() {
        true => "There are none: nothing is served with TLS\n".to_owned(),
        false => certificate_lines(&found),
    };
    Ok(Output::Text(text, Value::Array(found)))
}

fn expiring(ask: &Ask, within: &str, unit: &str) -> Result<Vec<Value>, Failure> {
    let reply = ask.api.check(&path(&["health", "checks", "certificate-expiration", within, unit]))?;
    if !reply.is_good() && reply.value.get("expired").is_none() {
        return Err(Failure::refused(reply.reason()));
    }
    Ok(reply.value.get("expired").map(list).unwrap_or_default())
}

fn certificate_lines(certificates: &[Value]) -> String {
    let line = |certificate: &Value| {
        let text = |at: &str| certificate.pointer(at).and_then(Value::as_str).unwrap_or_default().to_owned();
        format!("{}: {}, until {}\n", text("/certfile"), text("/subject"), text("/certfile_expires_on/0"))
    };
    certificates.iter().map(line).collect()
}

/// Units, and how many bytes each is worth: RabbitMQ's, none of which is a power of two.
const UNITS: [(&str, f64); 5] = [("bytes", 1.0), ("kb", 1e3), ("mb", 1e6), ("gb", 1e9), ("tb", 1e12)];

/// The unit that sizes are to be shown in.
pub(super) fn unit(ask: &Ask) -> Result<&'static str, Failure> {
    let asked = ask.line.get("unit").unwrap_or("gb");
    let known = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(asked));
    let unknown = || format!("\"unit '{asked}' is not supported. Please use one of: bytes, mb, gb\"");
    known.map(|(name, _)| *name).ok_or_else(|| Failure::usage(unknown()))
}

/// Bytes in a unit, as RabbitMQ writes them.
pub(super) fn in_unit(bytes: u64, unit: &str) -> String {
    match UNITS.iter().find(|(name, worth)| *name == unit && *worth > 1.0) {
        Some((_, worth)) => format!("{:?} {unit}", (bytes as f64 / worth * 1e4).round() / 1e4),
        None => format!("{bytes} bytes"),
    }
}

fn memory(ask: &Ask) -> Result<Output, Failure> {
    let (unit, node) = (unit(ask)?, ask.node()?);
    ask.say(format!("Reporting memory breakdown on node {node}..."));
    let found = ask.api.get(&path(&["nodes", &node, "memory"]))?;
    let held = found.get("memory").and_then(Value::as_object).cloned().unwrap_or_default();
    let total = found.pointer("/memory/total/rss").and_then(Value::as_u64).unwrap_or(0).max(1);
    let mut parts: Vec<_> =
        held.iter().filter_map(|(name, bytes)| Some((name.clone(), bytes.as_u64()?))).collect();
    parts.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    let shown = parts.into_iter().map(|(name, bytes)| {
        let percentage = (bytes as f64 / total as f64 * 10_000.0).round() / 100.0;
        (name, json!({"bytes": bytes, "percentage": percentage}))
    });
    Ok(pairs(shown.collect(), |name, value| {
        let bytes = value.get("bytes").and_then(Value::as_u64).unwrap_or(0);
        let percentage = value.get("percentage").and_then(Value::as_f64).unwrap_or(0.0);
        format!("{name}: {} ({percentage:?}%)", in_unit(bytes, unit))
    }))
}

fn server_version(ask: &Ask) -> Result<Output, Failure> {
    ask.say(format!("Asking node {} for its RabbitMQ version...", ask.node()?));
    let version = ask.api.get("/api/version")?;
    Ok(Output::Said(version.as_str().unwrap_or_default().to_owned()))
}

fn erlang_version(ask: &Ask) -> Result<Output, Failure> {
    ask.say(format!("Asking node {} for its Erlang/OTP version...", ask.process_node()?));
    Ok(Output::Said("There is no Erlang here".to_owned()))
}

fn log_location(ask: &Ask) -> Result<Output, Failure> {
    ask.say(format!("Log file location(s) on node {} ...", ask.node()?));
    Ok(Output::Said("<stderr>".to_owned()))
}

fn log_tail(_: &Ask) -> Result<Output, Failure> {
    Err(Failure::absent(
        "the log goes to the process's standard error, and whoever runs it keeps it: see journalctl, or `docker logs`",
    ))
}
