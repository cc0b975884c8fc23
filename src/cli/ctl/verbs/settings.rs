//! What is set in a running broker, until its process ends; and what it was started with.

use serde_json::{Value, json};

use crate::cli::ctl::ask::Ask;
use crate::cli::ctl::failure::{Code, Failure};
use crate::cli::ctl::options::flag;
use crate::cli::ctl::output::Output;
use crate::cli::ctl::verb::{LOOKS, MANY, Needs, Tool, Verb, verb};
use crate::cli::ctl::verbs::lists::{columns, list, rows};
use crate::config::unit::parse_size;

#[rustfmt::skip]
pub(in crate::cli::ctl) const VERBS: &[Verb] = &[
    verb("set_vm_memory_high_watermark", (1, 2), "<fraction> | absolute <value>", "Sets the vm_memory_high_watermark setting", watermark),
    verb("set_disk_free_limit", (1, 2), "<disk_limit> | mem_relative <fraction>", "Sets the disk_free_limit setting", disk_limit),
    verb("reload", (0, 0), "", "Reads certificates, limits, watermarks and the log's level anew; no connection is closed", reload),
    verb("set_log_level", (1, 1), "<log_level>", "Sets log level in the running node", log_level),
    verb("rotate_logs", (0, 0), "", "Does nothing: the log goes to standard error", rotate),
    verb("environment", (0, 0), "", "Displays the configuration in effect", environment).of(LOOKS),
    verb("list_feature_flags", (0, MANY), "[<column> ...] [--timeout <timeout>]", "Lists feature flags", flags).of(LOOKS),
    verb("enable_feature_flag", (1, 1), "<all | feature_flag>", "Enables a feature flag or all supported feature flags on the target node", enable_flag).with(&[flag("experimental", None)]),
    verb("set_cluster_name", (1, 1), "<name>", "Sets the cluster name: it is the setting identity.cluster_name", cluster_name),
    verb("list", (0, 1), "[pattern] [--verbose] [--minimal] [--enabled] [--implicitly-enabled]", "Lists plugins and their state", plugins).of(PLUGINS).with(&[flag("minimal", Some('m')), flag("verbose", Some('v')), flag("enabled", Some('E')), flag("implicitly-enabled", Some('e'))]).needs(Needs::Nothing),
    verb("enable", (0, MANY), "<plugin1> [ <plugin2>] | --all [--offline] [--online]", "Enables one or more plugins: what is there is always enabled", no_plugins).of(PLUGINS).with(SWITCH).needs(Needs::Nothing),
    verb("disable", (0, MANY), "<plugin1> [ <plugin2>] | --all [--offline] [--online]", "Disables one or more plugins: there are none", no_plugins).of(PLUGINS).with(SWITCH).needs(Needs::Nothing),
    verb("set", (0, MANY), "[<plugin>] [--offline] [--online]", "Enables one or more plugins, disables the rest: there are none", no_plugins).of(PLUGINS).with(SWITCH).needs(Needs::Nothing),
    verb("is_enabled", (1, MANY), "<plugin1> [ <plugin2>] [--offline] [--online]", "Health check that exits with a non-zero code if provided plugins are not enabled on target node", is_enabled).of(PLUGINS).with(SWITCH).needs(Needs::Nothing),
];

const PLUGINS: &[Tool] = &[Tool::Plugins];
const SWITCH: &[crate::cli::ctl::options::Opt] =
    &[flag("all", None), flag("offline", None), flag("online", None)];

/// RabbitMQ's plugins whose work this broker does without any.
const BUILT_IN: [&str; 6] = [
    "rabbitmq_consistent_hash_exchange",
    "rabbitmq_delayed_message_exchange",
    "rabbitmq_management",
    "rabbitmq_prometheus",
    "rabbitmq_random_exchange",
    "rabbitmq_recent_history_exchange",
];

fn watermark(ask: &Ask) -> Result<Output, Failure> {
    let value = match (ask.arg(0), ask.args.get(1)) {
        ("absolute", None) => return Err(Failure::usage("not enough arguments.")),
        ("absolute", Some(size)) => json!(parse_size(size).map_err(|_| Failure::bad_argument("."))?),
        (_, Some(_)) => return Err(Failure::usage("too many arguments.")),
        (share, None) => {
            let share: f64 = share.parse().map_err(|_| Failure::bad_argument("."))?;
            if !(0.0..=1.0).contains(&share) {
                return Err(Failure::bad_argument(
                    ": The threshold should be a fraction between 0.0 and 1.0",
                ));
            }
            json!(share)
        }
    };
    let shown = ask.args.get(1).map_or_else(|| ask.arg(0).to_owned(), |size| format!("{size} bytes"));
    ask.say(format!("Setting memory threshold on {} to {shown} ...", ask.node()?));
    // A size is told with its unit: without one it could be a share.
    let value = if ask.args.len() > 1 { json!(format!("{value}B")) } else { value };
    Ask::done(&ask.api.put("/api/process/memory-watermark", &json!({"value": value}))?)?;
    Ok(Output::Done)
}

fn disk_limit(ask: &Ask) -> Result<Output, Failure> {
    let (body, shown) = match (ask.arg(0), ask.args.get(1)) {
        ("mem_relative", None) => return Err(Failure::usage("not enough arguments.")),
        ("mem_relative", Some(times)) => {
            let times: f64 = times.parse().map_err(|_| Failure::bad_argument("."))?;
            if times < 0.0 {
                return Err(Failure::bad_argument("."));
            }
            (json!({"mem_relative": times}), format!("{times} times the total RAM"))
        }
        (_, Some(_)) => return Err(Failure::usage("too many arguments.")),
        (size, None) => {
            let bytes = parse_size(size).map_err(|_| Failure::bad_argument("."))?;
            (json!({"value": bytes}), format!("{size} bytes"))
        }
    };
    ask.say(format!("Setting disk free limit on {} to {shown} ...", ask.node()?));
    Ask::done(&ask.api.put("/api/process/disk-free-limit", &body)?)?;
    Ok(Output::Done)
}

fn log_level(ask: &Ask) -> Result<Output, Failure> {
    let given = ask.arg(0);
    let level = match given {
        "debug" | "info" | "error" | "trace" => given,
        "warning" | "warn" => "warn",
        "critical" | "none" => "error",
        _ => {
            return Err(Failure::refused(format!(
                "level {given} is not supported. Try one of debug, info, warning, error, critical, none"
            )));
        }
    };
    ask.say(format!("Setting log level to \"{given}\" ..."));
    Ask::done(&ask.api.put("/api/process/log-level", &json!({"value": level}))?)?;
    Ok(Output::Done)
}

fn reload(ask: &Ask) -> Result<Output, Failure> {
    ask.say(format!("Reloading certificates of node {} ...", ask.node()?));
    Ask::done(&ask.api.post("/api/process/reload", &Value::Null)?)?;
    Ok(Output::Done)
}

fn rotate(_: &Ask) -> Result<Output, Failure> {
    Err(Failure::refused("This command does not rotate logs anymore [deprecated]"))
}

fn environment(ask: &Ask) -> Result<Output, Failure> {
    ask.say(format!("Application environment of node {} ...", ask.node()?));
    let found = ask.api.get("/api/process/environment")?;
    let text = found.get("toml").and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok(Output::Text(text, found.get("values").cloned().unwrap_or_default()))
}

fn flags(ask: &Ask) -> Result<Output, Failure> {
    let known = ["name", "state", "stability", "provided_by", "desc", "doc_url"].map(|name| (name, name));
    let columns = columns(ask, &known, &["name", "state"])?;
    ask.say("Listing feature flags ...");
    let mut found = list(&ask.api.get("/api/feature-flags")?);
    found.sort_by_key(|flag| flag.get("name").map(Value::to_string));
    Ok(rows(&columns, &found))
}

fn enable_flag(ask: &Ask) -> Result<Output, Failure> {
    let name = ask.arg(0);
    if name == "all" {
        ask.say("Enabling all feature flags ...");
        return Ok(Output::Done);
    }
    ask.say(format!("Enabling feature flag \"{name}\" ..."));
    let known = list(&ask.api.get("/api/feature-flags")?);
    if known.iter().any(|flag| flag.get("name").is_some_and(|own| own == name)) {
        return Ok(Output::Done);
    }
    let why = format!("This feature flag is not supported by node {}", ask.node()?);
    Err(Failure::told(Code::Usage, why))
}

fn cluster_name(_: &Ask) -> Result<Output, Failure> {
    Err(Failure::absent(
        "the cluster's name is a setting: identity.cluster_name, or SLUICEMQ_IDENTITY_CLUSTER_NAME",
    ))
}

fn plugins(ask: &Ask) -> Result<Output, Failure> {
    ask.say(format!(
        "Listing plugins with pattern \"{}\" ...",
        ask.args.first().map_or(".*", String::as_str)
    ));
    ask.say(" Configured: E = explicitly enabled; e = implicitly enabled\n | Status: * = running on this node\n |/");
    let pattern =
        regex::Regex::new(ask.arg(0)).map_err(|_| Failure::bad_argument(": the pattern is wrong"))?;
    let version = env!("CARGO_PKG_VERSION");
    let names: Vec<_> = BUILT_IN.into_iter().filter(|name| pattern.is_match(name)).collect();
    let shown = |name: &&str| match ask.line.has("minimal") {
        true => format!("{name}\n"),
        false => format!("[E*] {name:33} {version}\n"),
    };
    let text = names.iter().map(shown).collect();
    let entry =
        |name: &&str| json!({"name": name, "enabled": "enabled", "running": true, "version": version});
    let entries: Vec<_> = names.iter().map(entry).collect();
    Ok(Output::Text(text, json!({"format": "normal", "plugins": entries})))
}

fn no_plugins(ask: &Ask) -> Result<Output, Failure> {
    ask.say("There are no plugins: what this broker can is always enabled.");
    Ok(Output::Done)
}

fn is_enabled(ask: &Ask) -> Result<Output, Failure> {
    ask.say(format!(
        "Asking if {} {} enabled ...",
        ask.args.join(", "),
        if ask.args.len() > 1 { "are" } else { "is" }
    ));
    let missing: Vec<_> = ask.args.iter().filter(|name| !BUILT_IN.contains(&name.as_str())).collect();
    match missing.first() {
        None if ask.args.len() > 1 => {
            Ok(Output::Said(format!("Plugins {} are enabled", ask.args.join(", "))))
        }
        None => Ok(Output::Said(format!("Plugin {} is enabled", ask.arg(0)))),
        Some(name) => Err(Failure::refused(format!("Plugin {name} is not enabled"))),
    }
}
