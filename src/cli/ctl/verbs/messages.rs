//! Single messages, those that exchanges delay, and what moves many: nothing of it is RabbitMQ's but the shovels.

use std::thread::sleep;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};

use crate::cli::ctl::api::{Reply, path};
use crate::cli::ctl::ask::Ask;
use crate::cli::ctl::failure::{Code, Failure};
use crate::cli::ctl::options::{Opt, flag, number, text};
use crate::cli::ctl::output::Output;
use crate::cli::ctl::verb::{Verb, verb};
use crate::cli::ctl::verbs::lists::{Column, list, rows};

const BROWSE: &[Opt] = &[
    number("offset", None),
    number("limit", None),
    text("after", None),
    text("exchange", None),
    text("routing-key", None),
    text("message-id", None),
    text("header", None),
    number("truncate", None),
];
const TO: &[Opt] = &[text("to-queue", None), text("to-exchange", None), text("to-routing-key", None)];
const REDRIVE: &[Opt] = &[
    text("to-queue", None),
    text("to-exchange", None),
    text("to-routing-key", None),
    number("rate", None),
    number("limit", None),
    text("reason", None),
    text("from-queue", None),
    text("exchange", None),
    text("routing-key", None),
    text("header", None),
    flag("no-wait", None),
];

#[rustfmt::skip]
pub(in crate::cli::ctl) const VERBS: &[Verb] = &[
    verb("browse_messages", (1, 1), "<queue> [--offset <n>] [--limit <n>] [--after <id>] [--exchange <name>] [--routing-key <key>] [--message-id <id>] [--header <name>=<value>]", "Shows messages that wait in a queue, and changes nothing", browse).with(BROWSE),
    verb("delete_message", (2, 2), "[--vhost <vhost>] <queue> <id>", "Deletes one message of a queue", delete),
    verb("move_message", (2, 2), "<queue> <id> --to-queue <queue> | --to-exchange <name> --to-routing-key <key>", "Moves one message to another queue, or by an exchange", put_elsewhere).with(TO),
    verb("list_delayed_messages", (1, 1), "<exchange> [--offset <n>] [--limit <n>] [--after <id>] [--routing-key <key>] [--message-id <id>] [--header <name>=<value>]", "Shows messages that an exchange delays", delayed).with(BROWSE),
    verb("cancel_delayed_message", (2, 2), "[--vhost <vhost>] <exchange> <id>", "Cancels one message that an exchange delays", cancel_delayed),
    verb("redrive", (1, 1), "<queue> [--to-queue <queue> | --to-exchange <name> [--to-routing-key <key>]] [--rate <n>] [--limit <n>] [--reason <reason>] [--from-queue <queue>] [--exchange <name>] [--routing-key <key>] [--header <name>=<value>] [--dry-run] [--no-wait]", "Moves dead letters back to where they died, or messages elsewhere", redrive).with(REDRIVE),
    verb("list_transfers", (0, 0), "[--no-table-headers]", "Lists what redrive moves and has moved", transfers),
    verb("cancel_transfer", (1, 1), "<id>", "Ends a transfer: what is moved is moved", cancel_transfer),
    verb("shovel_status", (0, 0), "[--no-table-headers]", "Displays status of Shovel on a node", shovels),
    verb("restart_shovel", (1, 1), "[--vhost <vhost>] <name>", "Restarts a dynamic Shovel", restart_shovel),
    verb("delete_shovel", (1, 1), "[--vhost <vhost>] <name>", "Deletes a Shovel", delete_shovel),
];

/// How often a transfer is looked at.
const LOOK_AFTER: Duration = Duration::from_millis(200);

const MESSAGES: &[Column] = &[
    ("id", "id"),
    ("exchange", "exchange"),
    ("routing_key", "routing_key"),
    ("redelivered", "redelivered"),
    ("payload_bytes", "payload_bytes"),
    ("payload", "payload"),
];
const DELAYED: &[Column] = &[
    ("id", "id"),
    ("routing_key", "routing_key"),
    ("due", "due"),
    ("payload_bytes", "payload_bytes"),
    ("payload", "payload"),
];
const TRANSFERS: &[Column] = &[
    ("id", "id"),
    ("vhost", "vhost"),
    ("queue", "queue"),
    ("state", "state"),
    ("total", "total"),
    ("looked_at", "looked_at"),
    ("moved", "moved"),
    ("skipped", "skipped"),
    ("failed", "failed"),
    ("error", "error"),
];
const SHOVELS: &[Column] =
    &[("name", "name"), ("vhost", "vhost"), ("type", "type"), ("state", "state"), ("reason", "reason")];

fn browse(ask: &Ask) -> Result<Output, Failure> {
    let (queue, vhost) = (ask.arg(0), ask.vhost());
    ask.say(format!("Browsing messages of queue '{queue}' in vhost '{vhost}' ..."));
    page(ask, &path(&["queues", vhost, queue, "messages"]), MESSAGES)
}

fn delayed(ask: &Ask) -> Result<Output, Failure> {
    let (exchange, vhost) = (ask.arg(0), ask.vhost());
    ask.say(format!("Listing messages that exchange '{exchange}' in vhost '{vhost}' delays ..."));
    page(ask, &path(&["delayed", vhost, exchange]), DELAYED)
}

fn page(ask: &Ask, at: &str, columns: &[Column]) -> Result<Output, Failure> {
    let mut query = form_urlencoded::Serializer::new(String::new());
    for name in ["offset", "limit", "after", "exchange", "routing-key", "message-id", "truncate"] {
        if let Some(value) = ask.line.get(name) {
            query.append_pair(&name.replace('-', "_"), value);
        }
    }
    if let Some((name, value)) = header(ask)? {
        query.append_pair(&format!("header.{name}"), value);
    }
    let found = ask.api.get(&format!("{at}?{}", query.finish()))?;
    Ok(rows(columns, &list(found.get("items").unwrap_or(&Value::Null))))
}

fn header(ask: &Ask) -> Result<Option<(&str, &str)>, Failure> {
    let Some(header) = ask.line.get("header") else { return Ok(None) };
    header.split_once('=').map(Some).ok_or_else(|| Failure::bad_argument(": a header is NAME=VALUE"))
}

fn delete(ask: &Ask) -> Result<Output, Failure> {
    let (queue, id) = (ask.arg(0), ask.arg(1));
    ask.say(format!("Deleting message {id} of queue '{queue}' in vhost '{}' ...", ask.vhost()));
    done(&ask.api.delete(&path(&["queues", ask.vhost(), queue, "messages", id]), &[])?)
}

fn cancel_delayed(ask: &Ask) -> Result<Output, Failure> {
    let (exchange, id) = (ask.arg(0), ask.arg(1));
    ask.say(format!("Cancelling message {id} of exchange '{exchange}' in vhost '{}' ...", ask.vhost()));
    done(&ask.api.delete(&path(&["delayed", ask.vhost(), exchange, id]), &[])?)
}

fn put_elsewhere(ask: &Ask) -> Result<Output, Failure> {
    let (queue, id) = (ask.arg(0), ask.arg(1));
    let to = to(ask)?.ok_or_else(|| Failure::bad_argument(": where to? --to-queue or --to-exchange"))?;
    ask.say(format!("Moving message {id} of queue '{queue}' in vhost '{}' ...", ask.vhost()));
    done(&ask.api.post(&path(&["queues", ask.vhost(), queue, "messages", id, "move"]), &to)?)
}

/// Where messages are to go, if that is said.
fn to(ask: &Ask) -> Result<Option<Value>, Failure> {
    match (ask.line.get("to-queue"), ask.line.get("to-exchange"), ask.line.get("to-routing-key")) {
        (None, None, None) => Ok(None),
        (Some(queue), None, None) => Ok(Some(json!({"queue": queue}))),
        (None, Some(exchange), Some(key)) => Ok(Some(json!({"exchange": exchange, "routing_key": key}))),
        (None, Some(exchange), None) => Ok(Some(json!({"exchange": exchange}))),
        _ => Err(Failure::bad_argument(": --to-queue, or --to-exchange and perhaps --to-routing-key")),
    }
}

fn redrive(ask: &Ask) -> Result<Output, Failure> {
    let (queue, vhost) = (ask.arg(0), ask.vhost());
    ask.say(format!("Redriving messages of queue '{queue}' in vhost '{vhost}' ..."));
    let mut body = Map::new();
    body.insert("dry_run".to_owned(), json!(ask.line.has("dry-run")));
    body.extend(to(ask)?.map(|to| ("to".to_owned(), to)));
    for name in ["rate", "limit"] {
        body.extend(ask.line.get(name).map(|value| (name.to_owned(), Value::from(value))));
    }
    let mut filter = Map::new();
    let options = [
        ("reason", "reason"),
        ("from-queue", "queue"),
        ("exchange", "exchange"),
        ("routing-key", "routing_key"),
    ];
    for (option, name) in options {
        filter.extend(ask.line.get(option).map(|value| (name.to_owned(), Value::from(value))));
    }
    if let Some((name, text)) = header(ask)? {
        // What is no JSON is a text.
        let value = serde_json::from_str(text).unwrap_or_else(|_| Value::from(text));
        filter.insert("header".to_owned(), json!({name: value}));
    }
    body.insert("filter".to_owned(), Value::Object(filter));
    let begun = ask.api.post(&path(&["queues", vhost, queue, "redrive"]), &Value::Object(body))?;
    if !begun.is_good() {
        return Err(refused(&begun));
    }
    let ended = if ask.line.has("no-wait") { begun.value } else { wait_for(ask, begun.value)? };
    Ok(rows(TRANSFERS, &[ended]))
}

/// Shows how far a transfer has got, until it is over.
fn wait_for(ask: &Ask, begun: Value) -> Result<Value, Failure> {
    let is_silent = ask.line.has("quiet") || ask.line.has("silent");
    let bar = if is_silent { ProgressBar::hidden() } else { ProgressBar::no_length() };
    let style = ProgressStyle::with_template("{wide_bar} {pos} of {len}, {eta} left");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let text = |transfer: &Value, name: &str| {
        transfer.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let count = |transfer: &Value, name: &str| transfer.get(name).and_then(Value::as_u64).unwrap_or(0);
    let at = path(&["transfers", &text(&begun, "id")]);
    let mut transfer = begun;
    loop {
        bar.set_length(count(&transfer, "total"));
        bar.set_position(count(&transfer, "looked_at"));
        match text(&transfer, "state").as_str() {
            "starting" | "running" => sleep(LOOK_AFTER),
            "failed" => {
                let why = format!("the transfer has failed: {}", text(&transfer, "error"));
                return Err(Failure::told(Code::Software, why));
            }
            _ => break,
        }
        transfer = ask.api.get(&at)?;
    }
    bar.finish_and_clear();
    Ok(transfer)
}

fn transfers(ask: &Ask) -> Result<Output, Failure> {
    ask.say("Listing transfers ...");
    Ok(rows(TRANSFERS, &list(&ask.api.get("/api/transfers")?)))
}

fn cancel_transfer(ask: &Ask) -> Result<Output, Failure> {
    ask.say(format!("Cancelling transfer {} ...", ask.arg(0)));
    done(&ask.api.delete(&path(&["transfers", ask.arg(0)]), &[])?)
}

fn shovels(ask: &Ask) -> Result<Output, Failure> {
    ask.say(format!("Shovel status on node {}", ask.node()?));
    Ok(rows(SHOVELS, &list(&ask.api.get("/api/shovels")?)))
}

fn restart_shovel(ask: &Ask) -> Result<Output, Failure> {
    ask.say(format!("Restarting dynamic Shovel {} in virtual host {}...", ask.arg(0), ask.vhost()));
    done(&ask.api.delete(&path(&["shovels", "vhost", ask.vhost(), ask.arg(0), "restart"]), &[])?)
}

fn delete_shovel(ask: &Ask) -> Result<Output, Failure> {
    ask.say(format!("Deleting shovel {} in vhost {}", ask.arg(0), ask.vhost()));
    done(&ask.api.delete(&path(&["shovels", "vhost", ask.vhost(), ask.arg(0)]), &[])?)
}

fn done(reply: &Reply) -> Result<Output, Failure> {
    if reply.is_good() { Ok(Output::Done) } else { Err(refused(reply)) }
}

fn refused(reply: &Reply) -> Failure {
    match reply.status {
        404 => Failure::told(Code::Data, "there is no such thing"),
        _ => Failure::refused(reply.reason()),
    }
}
