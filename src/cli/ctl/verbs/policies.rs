//! Policies, those of operators, and parameters.

use serde_json::{Value, json};

use crate::cli::ctl::api::{Reply, path};
use crate::cli::ctl::ask::Ask;
use crate::cli::ctl::failure::Failure;
use crate::cli::ctl::options::{Opt, number, text};
use crate::cli::ctl::output::Output;
use crate::cli::ctl::verb::{LOOKS, Verb, verb};
use crate::cli::ctl::verbs::lists::{list, whole_rows};

const POLICY_USAGE: &str =
    "[--vhost <vhost>] [--priority <priority>] [--apply-to <apply-to>] <name> <pattern> <definition>";
const POLICY_OPTIONS: &[Opt] = &[number("priority", None), text("apply-to", None)];

#[rustfmt::skip]
pub(in crate::cli::ctl) const VERBS: &[Verb] = &[
    verb("set_policy", (3, 3), POLICY_USAGE, "Sets or updates a policy", set_policy).with(POLICY_OPTIONS),
    verb("clear_policy", (1, 1), "[--vhost <vhost>] <name>", "Clears (removes) a policy", clear_policy),
    verb("list_policies", (0, 0), "[--vhost <vhost>] [--no-table-headers]", "Lists all policies in a virtual host", policies).of(LOOKS),
    verb("set_operator_policy", (3, 3), POLICY_USAGE, "Sets an operator policy that overrides a subset of arguments in user policies", set_operator_policy).with(POLICY_OPTIONS),
    verb("clear_operator_policy", (1, 1), "[--vhost <vhost>] <name>", "Clears an operator policy", clear_operator_policy),
    verb("list_operator_policies", (0, 0), "[--vhost <vhost>] [--no-table-headers]", "Lists operator policy overrides for a virtual host", operator_policies).of(LOOKS),
    verb("set_parameter", (3, 3), "[--vhost <vhost>] <component_name> <name> <value>", "Sets a runtime parameter.", set_parameter),
    verb("clear_parameter", (2, 2), "[--vhost <vhost>] <component_name> <name>", "Clears a runtime parameter.", clear_parameter),
    verb("list_parameters", (0, 0), "[--vhost <vhost>] [--no-table-headers]", "Lists runtime parameters for a virtual host", parameters).of(LOOKS),
    verb("set_global_parameter", (2, 2), "<name> <value>", "Sets a runtime parameter.", set_global),
    verb("clear_global_parameter", (1, 1), "<name>", "Clears a global runtime parameter", clear_global),
    verb("list_global_parameters", (0, 0), "[--no-table-headers]", "Lists global runtime parameters", globals).of(LOOKS),
];

fn set_policy(ask: &Ask) -> Result<Output, Failure> {
    set(ask, "policies", "policy")
}

fn set_operator_policy(ask: &Ask) -> Result<Output, Failure> {
    set(ask, "operator-policies", "operator policy override")
}

fn set(ask: &Ask, kind: &str, called: &str) -> Result<Output, Failure> {
    let (name, pattern, vhost) = (ask.arg(0), ask.arg(1), ask.vhost());
    let priority = ask.line.get("priority").unwrap_or("0");
    let wrong = |_| Failure::usage(format!("Invalid options for this command:\n--priority : {priority}"));
    let whole: i64 = priority.parse().map_err(wrong)?;
    ask.say(format!(
        "Setting {called} \"{name}\" for pattern \"{pattern}\" to \"{}\" with priority \"{priority}\" for vhost \
         \"{vhost}\" ...",
        ask.arg(2)
    ));
    ask.check_vhost()?;
    let body = json!({
        "pattern": pattern,
        "definition": ask.json(2)?,
        "priority": whole,
        "apply-to": ask.line.get("apply-to").unwrap_or("all"),
    });
    validated(&ask.api.put(&path(&[kind, vhost, name]), &body)?)
}

fn clear_policy(ask: &Ask) -> Result<Output, Failure> {
    ask.say(format!("Clearing policy \"{}\" on vhost \"{}\" ...", ask.arg(0), ask.vhost()));
    clear(ask, &path(&["policies", ask.vhost(), ask.arg(0)]))
}

fn clear_operator_policy(ask: &Ask) -> Result<Output, Failure> {
    ask.say(format!("Clearing operator policy \"{}\" on vhost \"{}\" ...", ask.arg(0), ask.vhost()));
    clear(ask, &path(&["operator-policies", ask.vhost(), ask.arg(0)]))
}

fn policies(ask: &Ask) -> Result<Output, Failure> {
    ask.say(format!("Listing policies for vhost \"{}\" ...", ask.vhost()));
    list_these(ask, "policies")
}

fn operator_policies(ask: &Ask) -> Result<Output, Failure> {
    ask.say(format!("Listing operator policy overrides for vhost \"{}\" ...", ask.vhost()));
    list_these(ask, "operator-policies")
}

fn list_these(ask: &Ask, kind: &str) -> Result<Output, Failure> {
    ask.check_vhost()?;
    let found = as_text(list(&ask.api.get(&path(&[kind, ask.vhost()]))?), "definition");
    let columns = ["vhost", "name", "pattern", "apply-to", "definition", "priority"].map(|name| (name, name));
    Ok(whole_rows(&columns, &found))
}

fn set_parameter(ask: &Ask) -> Result<Output, Failure> {
    let (component, name, vhost) = (ask.arg(0), ask.arg(1), ask.vhost());
    ask.say(format!(
        "Setting runtime parameter \"{name}\" for component \"{component}\" to \"{}\" in vhost \"{vhost}\" ...",
        ask.arg(2)
    ));
    ask.check_vhost()?;
    let body = json!({"value": ask.json(2)?});
    validated(&ask.api.put(&path(&["parameters", component, vhost, name]), &body)?)
}

fn clear_parameter(ask: &Ask) -> Result<Output, Failure> {
    let (component, name, vhost) = (ask.arg(0), ask.arg(1), ask.vhost());
    ask.say(format!(
        "Clearing runtime parameter \"{name}\" for component \"{component}\" on vhost \"{vhost}\" ..."
    ));
    clear(ask, &path(&["parameters", component, vhost, name]))
}

fn parameters(ask: &Ask) -> Result<Output, Failure> {
    ask.say(format!("Listing runtime parameters for vhost \"{}\" ...", ask.vhost()));
    ask.check_vhost()?;
    let mut found = as_text(list(&ask.api.get("/api/parameters")?), "value");
    found.retain(|item| item.get("vhost").and_then(Value::as_str) == Some(ask.vhost()));
    Ok(whole_rows(&["component", "name", "value"].map(|name| (name, name)), &found))
}

fn set_global(ask: &Ask) -> Result<Output, Failure> {
    let name = ask.arg(0);
    ask.say(format!("Setting global runtime parameter \"{name}\" to \"{}\" ...", ask.arg(1)));
    let body = json!({"value": ask.json(1)?});
    validated(&ask.api.put(&path(&["global-parameters", name]), &body)?)
}

fn clear_global(ask: &Ask) -> Result<Output, Failure> {
    ask.say(format!("Clearing global runtime parameter \"{}\" ...", ask.arg(0)));
    clear(ask, &path(&["global-parameters", ask.arg(0)]))
}

fn globals(ask: &Ask) -> Result<Output, Failure> {
    ask.say("Listing global runtime parameters ...");
    let found = as_text(list(&ask.api.get("/api/global-parameters")?), "value");
    Ok(whole_rows(&["name", "value"].map(|name| (name, name)), &found))
}

fn clear(ask: &Ask, at: &str) -> Result<Output, Failure> {
    let reply = ask.api.delete(at, &[])?;
    if reply.status == 404 || reply.reason().contains("not found") {
        return Err(Failure::refused("Parameter does not exist"));
    }
    Ask::done(&reply)?;
    Ok(Output::Done)
}

/// Done, or why a value cannot be.
fn validated(reply: &Reply) -> Result<Output, Failure> {
    if reply.is_good() {
        return Ok(Output::Done);
    }
    let reason = reply.reason();
    let reason = reason.trim().strip_prefix("Validation failed").unwrap_or(&reason).trim();
    Err(Failure::refused(format!("Validation failed\n\n{reason}\n")))
}

/// A value is a text of JSON in tables.
fn as_text(mut found: Vec<Value>, key: &str) -> Vec<Value> {
    for item in &mut found {
        let text = item.get(key).map(Value::to_string).unwrap_or_default();
        item[key] = Value::from(text);
    }
    found
}
