//! Virtual hosts, and their limits.

use serde_json::{Map, Value, json};

use crate::cli::ctl::api::path;
use crate::cli::ctl::ask::Ask;
use crate::cli::ctl::failure::Failure;
use crate::cli::ctl::options::{flag, text};
use crate::cli::ctl::output::Output;
use crate::cli::ctl::verb::{LOOKS, MANY, Verb, verb};
use crate::cli::ctl::verbs::lists::{columns, list, rows, whole_rows};
use crate::cli::ctl::verbs::users::with_text;

#[rustfmt::skip]
pub(in crate::cli::ctl) const VERBS: &[Verb] = &[
    verb("add_vhost", (1, 1), "<vhost> [--description <description> --tags \"<tag1>,<tag2>,<...>\" --default-queue-type <quorum|classic|stream>]", "Creates a virtual host", add).with(&[text("description", None), text("tags", None), text("default-queue-type", None)]),
    verb("delete_vhost", (1, 1), "<vhost>", "Deletes a virtual host", delete),
    verb("list_vhosts", (0, MANY), "[--no-table-headers] [<column> ...] [--timeout <timeout>]", "Lists virtual hosts", list_vhosts).of(LOOKS),
    verb("set_vhost_tags", (1, MANY), "<vhost> <tag> [...]", "Sets virtual host tags", set_tags),
    verb("restart_vhost", (0, 0), "[--vhost <vhost>]", "Restarts a failed virtual host: none ever fails alone", restart),
    verb("trace_on", (0, 1), "[--vhost <vhost>]", "Sends copies of all messages to the exchange amq.rabbitmq.trace", trace_on),
    verb("trace_off", (0, 1), "[--vhost <vhost>]", "Ends that", trace_off),
    verb("set_vhost_limits", (1, 1), "[--vhost <vhost>] <definition>", "Sets virtual host limits", set_limits),
    verb("clear_vhost_limits", (0, 0), "[--vhost <vhost>]", "Clears virtual host limits", clear_limits),
    verb("list_vhost_limits", (0, 0), "[--vhost <vhost>] [--global] [--no-table-headers]", "Displays configured virtual host limits", list_limits).of(LOOKS).with(&[flag("global", None)]),
];

const LIMITS: [&str; 2] = ["max-connections", "max-queues"];
const COLUMNS: &[(&str, &str)] = &[
    ("name", "name"),
    ("tracing", "tracing"),
    ("description", "description"),
    ("tags", "tags"),
    ("default_queue_type", "default_queue_type"),
    ("cluster_state", "cluster_state"),
];

fn add(ask: &Ask) -> Result<Output, Failure> {
    let name = ask.filled(0, "vhost")?;
    ask.say(format!("Adding vhost \"{name}\" ..."));
    let at = path(&["vhosts", name]);
    let mut body = Map::new();
    for (option, key) in
        [("description", "description"), ("tags", "tags"), ("default-queue-type", "default_queue_type")]
    {
        body.extend(ask.line.get(option).map(|value| (key.to_owned(), Value::from(value))));
    }
    // What is there already stays as it is, unless something is said about it.
    if body.is_empty() && ask.api.find(&at)?.is_some() {
        return Ok(Output::Done);
    }
    Ask::done(&ask.api.put(&at, &Value::Object(body))?)?;
    Ok(Output::Done)
}

fn delete(ask: &Ask) -> Result<Output, Failure> {
    let name = ask.arg(0);
    ask.say(format!("Deleting vhost \"{name}\" ..."));
    let reply = ask.api.delete(&path(&["vhosts", name]), &[])?;
    if reply.status == 404 {
        return Err(Failure::no_vhost(name));
    }
    Ask::done(&reply)?;
    Ok(Output::Done)
}

fn list_vhosts(ask: &Ask) -> Result<Output, Failure> {
    let columns = columns(ask, COLUMNS, &["name"])?;
    ask.say("Listing vhosts ...");
    let found = list(&ask.api.get("/api/vhosts")?);
    Ok(rows(&columns, &found))
}

fn set_tags(ask: &Ask) -> Result<Output, Failure> {
    let name = ask.arg(0);
    let tags: Vec<_> = ask.args.iter().skip(1).flat_map(|word| word.split(',')).collect();
    ask.say(format!("Setting tags for vhost \"{name}\" to [{}] ...", tags.join(", ")));
    let at = path(&["vhosts", name]);
    let found = ask.api.find(&at)?.ok_or_else(|| Failure::no_vhost(name))?;
    let description = found.get("description").cloned().unwrap_or_default();
    Ask::done(&ask.api.put(&at, &json!({"description": description, "tags": tags.join(",")}))?)?;
    Ok(Output::Done)
}

fn restart(ask: &Ask) -> Result<Output, Failure> {
    ask.say(format!("Trying to restart vhost '{}' ...", ask.vhost()));
    ask.check_vhost()?;
    Ok(Output::Said(format!("Vhost '{}' is already running", ask.vhost())))
}

fn trace_on(ask: &Ask) -> Result<Output, Failure> {
    trace(ask, true, ["Starting", "enabled"])
}

fn trace_off(ask: &Ask) -> Result<Output, Failure> {
    trace(ask, false, ["Stopping", "disabled"])
}

fn trace(ask: &Ask, on: bool, [begins, done]: [&str; 2]) -> Result<Output, Failure> {
    ask.say(format!("{begins} tracing for vhost \"{}\" ...", ask.vhost()));
    ask.check_vhost()?;
    Ask::done(&ask.api.put(&path(&["vhosts", ask.vhost()]), &json!({"tracing": on}))?)?;
    Ok(Output::Said(format!("Trace {done} for vhost {}", ask.vhost())))
}

fn set_limits(ask: &Ask) -> Result<Output, Failure> {
    let vhost = ask.vhost();
    ask.say(format!("Setting vhost limits to \"{}\" for vhost \"{vhost}\" ...", ask.arg(0)));
    ask.check_vhost()?;
    let limits = ask.json(0)?;
    let named = limits.as_object().ok_or_else(|| Failure::refused(format!("limits not a list {limits}")))?;
    let unknown = |limit: &&String| !LIMITS.contains(&limit.as_str());
    if let Some(limit) = named.keys().find(unknown) {
        let value = limits.get(limit).cloned().unwrap_or_default();
        return Err(Failure::refused(format!(
            "Validation failed\n\nUnrecognised terms [{{<<\"{limit}\">>,{value}}}] in limits\n"
        )));
    }
    for limit in LIMITS {
        let at = path(&["vhost-limits", vhost, limit]);
        let reply = match limits.get(limit) {
            Some(value) => ask.api.put(&at, &json!({"value": value}))?,
            None => ask.api.delete(&at, &[])?,
        };
        Ask::done(&reply)?;
    }
    Ok(Output::Done)
}

fn clear_limits(ask: &Ask) -> Result<Output, Failure> {
    let vhost = ask.vhost();
    ask.say(format!("Clearing vhost \"{vhost}\" limits ..."));
    if ask.api.find(&path(&["vhosts", vhost]))?.is_none() {
        return Err(Failure::refused("Parameter does not exist"));
    }
    for limit in LIMITS {
        Ask::done(&ask.api.delete(&path(&["vhost-limits", vhost, limit]), &[])?)?;
    }
    Ok(Output::Done)
}

fn list_limits(ask: &Ask) -> Result<Output, Failure> {
    if ask.line.has("global") {
        ask.say("Listing limits for all vhosts ...");
        let found = with_text(list(&ask.api.get("/api/vhost-limits")?));
        return Ok(whole_rows(&[("vhost", "vhost"), ("limits", "value")], &found));
    }
    ask.say(format!("Listing limits for vhost \"{}\" ...", ask.vhost()));
    ask.check_vhost()?;
    let found = with_text(list(&ask.api.get(&path(&["vhost-limits", ask.vhost()]))?));
    let limits = found.first().and_then(|found| found.get("value")?.as_str()).unwrap_or_default();
    Ok(Output::Text(format!("{limits}\n"), json!({"result": "ok", "value": limits})))
}
