//! What is done to queues, connections and definitions.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::ctl::api::path;
use crate::cli::ctl::ask::Ask;
use crate::cli::ctl::failure::{Code, Failure};
use crate::cli::ctl::options::{flag, number, text};
use crate::cli::ctl::output::{Output, pairs};
use crate::cli::ctl::verb::{Tool, Verb, verb};
use crate::cli::ctl::verbs::lists::list;

#[rustfmt::skip]
pub(in crate::cli::ctl) const VERBS: &[Verb] = &[
    verb("purge_queue", (1, 1), "<queue> [--vhost <vhost>]", "Purges a queue (removes all messages in it)", purge),
    verb("delete_queue", (1, 1), "<queue_name> [--if-empty|-e] [--if-unused|-u] [--timeout <timeout>]", "Deletes a queue", delete).with(&[flag("if-empty", Some('e')), flag("if-unused", Some('u'))]),
    verb("peek", (2, 2), "[--vhost <vhost>] <queue> <position> [--timeout <timeout>]", "Peeks at the given position of a queue", peek).of(&[Tool::Queues]),
    verb("quorum_status", (1, 1), "[--vhost <vhost>] <queue>", "Displays quorum status of a quorum queue", quorum_status).of(&[Tool::Queues]),
    verb("close_connection", (2, 2), "<connection pid> <explanation>", "Instructs the broker to close the connection associated with the Erlang process id", close),
    verb("close_all_connections", (1, 1), "[--vhost <vhost> --limit <limit>] [-n <node> --global] [--per-connection-delay <delay>] <explanation>", "Instructs the broker to close all connections for the specified vhost or entire RabbitMQ node", close_all).with(&[flag("global", None), number("limit", None), number("per-connection-delay", None)]),
    verb("close_all_user_connections", (2, 2), "<username> <explanation>", "Instructs the broker to close all connections of the specified user", close_of_user),
    verb("export_definitions", (1, 1), "<file_path | \"-\"> [--format <json | erlang>] [--timeout <timeout>]", "Exports definitions in JSON.", export).with(&[text("format", None)]),
    verb("import_definitions", (0, 1), "<file_path | \"-\"> [--format <json | erlang>] [--skip-if-unchanged] [--timeout <timeout>]", "Imports definitions in JSON.", import).with(&[text("format", None), flag("skip-if-unchanged", None)]),
];

/// A message's position that can be asked for: as many are taken out, looked at and put back.
const POSITION_MAX: u64 = 10_000;

/// A file that is made is read and written by its owner, and nobody else.
const OWNERS_ONLY: u32 = 0o600;

fn purge(ask: &Ask) -> Result<Output, Failure> {
    let (queue, vhost) = (ask.arg(0), ask.vhost());
    ask.say(format!("Purging queue '{queue}' in vhost '{vhost}' ..."));
    let reply = ask.api.delete(&path(&["queues", vhost, queue, "contents"]), &[])?;
    if reply.status == 404 {
        return Err(Failure::refused("not_found"));
    }
    Ask::done(&reply)?;
    Ok(Output::Done)
}

fn delete(ask: &Ask) -> Result<Output, Failure> {
    let (queue, vhost) = (ask.arg(0), ask.vhost());
    let (if_empty, if_unused) = (ask.line.has("if-empty"), ask.line.has("if-unused"));
    let conditions: Vec<_> = [(if_empty, "if queue is empty "), (if_unused, "if queue is unused ")]
        .into_iter()
        .filter_map(|(is_asked, words)| is_asked.then_some(words))
        .collect();
    ask.say(format!("Deleting queue '{queue}' on vhost '{vhost}' {}...", conditions.join("and ")));
    let at = path(&["queues", vhost, queue]);
    let missing = || Failure::told(Code::Usage, "Queue not found");
    let found = ask.api.find(&at)?.ok_or_else(missing)?;
    let query = format!("{at}?if-empty={if_empty}&if-unused={if_unused}");
    let reply = ask.api.delete(&query, &[])?;
    if reply.status == 404 {
        return Err(missing());
    }
    if !reply.is_good() {
        let why = reply.reason();
        return Err(Failure::told(Code::Usage, why));
    }
    let ready = found.get("messages_ready").and_then(Value::as_u64).unwrap_or(0);
    Ok(Output::Said(format!("Queue was successfully deleted with {ready} ready messages")))
}

fn peek(ask: &Ask) -> Result<Output, Failure> {
    let (queue, vhost) = (ask.arg(0), ask.vhost());
    let position = ask.arg(1).parse::<u64>().ok().filter(|position| (1..=POSITION_MAX).contains(position));
    let position =
        position.ok_or_else(|| Failure::bad_argument(": position value must be a positive integer"))?;
    ask.say(format!("Peeking at quorum queue {queue} at position {position} on node {} ...", ask.node()?));
    let at = path(&["queues", vhost, queue]);
    if ask.api.find(&at)?.is_none() {
        return Err(Failure::refused(format!("Target queue was not found in virtual host '{vhost}'")));
    }
    let body = json!({"count": position, "ackmode": "reject_requeue_true", "encoding": "auto"});
    let reply = ask.api.post(&format!("{at}/get"), &body)?;
    Ask::done(&reply)?;
    let index = usize::try_from(position - 1).unwrap_or(usize::MAX);
    let message = reply.value.get(index).and_then(Value::as_object).cloned();
    let missing = || Failure::refused(format!("There is no message at position {position}"));
    let message = message.ok_or_else(missing)?;
    Ok(pairs(message.into_iter().collect(), |name, value| match value {
        Value::String(text) => format!("{name}\t{text}"),
        other => format!("{name}\t{other}"),
    }))
}

fn quorum_status(ask: &Ask) -> Result<Output, Failure> {
    let (queue, vhost) = (ask.arg(0), ask.vhost());
    ask.say(format!("Status of quorum queue {queue} on node {} ...", ask.node()?));
    let found = ask.api.find(&path(&["queues", vhost, queue]))?;
    let found = found.ok_or_else(|| Failure::refused("not_found"))?;
    let Some(members) = found.get("members").and_then(Value::as_array) else {
        return Err(Failure::refused("Cannot get quorum status of a classic queue"));
    };
    let columns = vec!["Node Name", "Raft State"];
    let rows = members.iter().map(|member| vec![member.clone(), json!("leader")]).collect();
    Ok(Output::Rows { columns, rows, is_streamed: false })
}

fn close(ask: &Ask) -> Result<Output, Failure> {
    let (pid, reason) = (ask.arg(0), ask.arg(1));
    ask.say(format!("Closing connection {pid}, reason: {reason}..."));
    if !pid.starts_with('<') || !pid.contains('@') {
        let why = format!("Error:\n{{:invalid_pid_syntax, \"{pid}\"}}");
        return Err(Failure::refused(why));
    }
    let open = list(&ask.api.get("/api/connections?columns=name,pid")?);
    // One that is closed already is what was wanted.
    if let Some(found) = open.iter().find(|found| found.get("pid").is_some_and(|own| own == pid)) {
        close_one(ask, found, reason)?;
    }
    Ok(Output::Done)
}

fn close_one(ask: &Ask, connection: &Value, reason: &str) -> Result<(), Failure> {
    let name = connection.get("name").and_then(Value::as_str).unwrap_or_default();
    // A header has no others.
    let reason: String = reason.chars().filter(|c| (' '..='~').contains(c)).collect();
    let reply = ask.api.delete(&path(&["connections", name]), &[("X-Reason", &reason)])?;
    if reply.status == 404 { Ok(()) } else { Ask::done(&reply) }
}

fn close_all(ask: &Ask) -> Result<Output, Failure> {
    let (vhost, reason) = (ask.vhost(), ask.arg(0));
    let is_global = ask.line.has("global") && !ask.line.has("vhost");
    match is_global {
        true => ask.say(format!(
            "Closing all connections to node {} (across all vhosts), reason: {reason}...",
            ask.node()?
        )),
        false => ask.say(format!("Closing all connections in vhost {vhost}, reason: {reason}...")),
    }
    let mut open = list(&ask.api.get("/api/connections?columns=name,vhost")?);
    open.retain(|found| is_global || found.get("vhost").is_some_and(|own| own == vhost));
    let whole = |name: &str| ask.line.get(name).and_then(|number| number.parse::<f64>().ok()).unwrap_or(0.0);
    let (limit, pause) =
        (whole("limit") as usize, Duration::from_millis(whole("per-connection-delay") as u64));
    if limit > 0 {
        open.truncate(limit);
    }
    for connection in &open {
        close_one(ask, connection, reason)?;
        std::thread::sleep(pause);
    }
    Ok(Output::Said(format!("Closed {} connections", open.len())))
}

fn close_of_user(ask: &Ask) -> Result<Output, Failure> {
    let (user, reason) = (ask.arg(0), ask.arg(1));
    ask.say(format!("Closing connections of user {user}, reason: {reason}..."));
    let open = list(&ask.api.get("/api/connections?columns=name,user")?);
    for connection in open.iter().filter(|found| found.get("user").is_some_and(|own| own == user)) {
        close_one(ask, connection, reason)?;
    }
    Ok(Output::Done)
}

fn export(ask: &Ask) -> Result<Output, Failure> {
    let file = ask.arg(0);
    check_format(ask)?;
    ask.say(format!("Exporting definitions in JSON to a file at \"{file}\" ..."));
    let definitions = ask.api.get("/api/definitions")?;
    if file == "-" {
        return Ok(Output::Text(format!("{definitions}\n"), definitions));
    }
    let refused = |error: io::Error| Failure::told(Code::Data, format!("cannot write {file}: {error}"));
    // Hashes of passwords are in it, and passwords of shovels.
    let made = OpenOptions::new().write(true).create(true).truncate(true).mode(OWNERS_ONLY).open(file);
    made.and_then(|mut made| made.write_all(definitions.to_string().as_bytes())).map_err(refused)?;
    Ok(Output::Done)
}

fn import(ask: &Ask) -> Result<Output, Failure> {
    check_format(ask)?;
    let text = match ask.arg(0) {
        "" | "-" => {
            ask.say("Importing definitions in JSON from standard input ...");
            let mut text = String::new();
            let read = io::stdin().read_to_string(&mut text);
            read.map(|_| text).map_err(|error| Failure::told(Code::Data, error))?
        }
        file => {
            if !std::path::Path::new(file).exists() {
                return Err(Failure::bad_argument(format!(": File {file} does not exist")));
            }
            ask.say(format!("Importing definitions in JSON from a file at \"{file}\" ..."));
            fs::read_to_string(file).map_err(|error| Failure::told(Code::Data, error))?
        }
    };
    let body: Value = serde_json::from_str(&text).map_err(|error| {
        Failure::told(Code::Data, format!("Failed to deserialise input (format: JSON) (error: {error})"))
    })?;
    let reply = ask.api.post("/api/definitions", &body)?;
    if !reply.is_good() {
        return Err(Failure::told(Code::Data, reply.reason()));
    }
    Ok(Output::Said("Successfully imported the definitions.".to_owned()))
}

fn check_format(ask: &Ask) -> Result<(), Failure> {
    match ask.line.get("format").unwrap_or("json") {
        "json" | "JSON" => Ok(()),
        "erlang" => Err(Failure::absent("Erlang's terms cannot be had here: choose --format json")),
        _ => Err(Failure::bad_argument(": Format should be either json or erlang")),
    }
}
