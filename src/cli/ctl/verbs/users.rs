//! Users: who they are, their passwords, tags and limits.

use serde_json::{Value, json};

use crate::auth::password::PasswordHash;
use crate::cli::ctl::api::path;
use crate::cli::ctl::ask::Ask;
use crate::cli::ctl::failure::{Code, Failure};
use crate::cli::ctl::options::{flag, text};
use crate::cli::ctl::output::Output;
use crate::cli::ctl::verb::{LOOKS, MANY, Needs, Verb, verb};
use crate::cli::ctl::verbs::lists::{list, whole_rows};

#[rustfmt::skip]
pub(in crate::cli::ctl) const VERBS: &[Verb] = &[
    verb("add_user", (1, 2), "<username> <password>", "Creates a new user in the internal database. This user will have no permissions for any virtual hosts by default.", add).with(&[flag("pre-hashed-password", None)]),
    verb("authenticate_user", (1, 2), "<username> <password>", "Attempts to authenticate a user. Exits with a non-zero code if authentication fails.", authenticate),
    verb("change_password", (1, 2), "<username> <password>", "Changes the user password", change_password),
    verb("clear_password", (1, 1), "<username>", "Clears (resets) password and disables password login for a user", clear_password),
    verb("delete_user", (1, 1), "<username>", "Removes a user from the internal database", delete),
    verb("set_user_tags", (1, MANY), "<username> <tag> [...]", "Sets user tags", set_tags),
    verb("list_users", (0, 0), "[--no-table-headers] [--timeout <timeout>]", "List user names and tags", list_users).of(LOOKS),
    verb("set_user_limits", (2, 2), "<username> <definition>", "Sets user limits", set_limits),
    verb("clear_user_limits", (2, 2), "<username> <limit_type> | all", "Clears user connection/channel limits", clear_limits),
    verb("list_user_limits", (0, 0), "[--user <username>] [--global]", "Displays configured user limits", list_limits).of(LOOKS).with(&[text("user", None), flag("global", None)]),
    verb("hash_password", (0, 1), "<cleartext_password>", "Hashes a plaintext password", hash).needs(Needs::Nothing),
];

const LIMITS: [&str; 2] = ["max-connections", "max-channels"];

fn add(ask: &Ask) -> Result<Output, Failure> {
    let name = ask.filled(0, "user")?;
    ask.say(format!("Adding user \"{name}\" ..."));
    let password = ask.arg_or_input(1, "Password")?;
    if ask.user(name)?.is_some() {
        return Err(Failure::told(Code::Software, format!("User \"{name}\" already exists")));
    }
    let is_hash = ask.line.has("pre-hashed-password");
    let body = match is_hash {
        true => json!({"password_hash": password, "tags": []}),
        false => json!({"password": password, "tags": []}),
    };
    Ask::done(&ask.api.put(&path(&["users", name]), &body)?)?;
    let done = "Done. Don't forget to grant the user permissions to some virtual hosts! See 'rabbitmqctl help \
                set_permissions' to learn more.";
    Ok(if ask.line.has("quiet") || ask.line.has("silent") {
        Output::Done
    } else {
        Output::Said(done.to_owned())
    })
}

fn authenticate(ask: &Ask) -> Result<Output, Failure> {
    let name = ask.arg(0);
    ask.say(format!("Authenticating user \"{name}\" ..."));
    let password = ask.arg_or_input(1, "Password")?;
    let reply = ask.api.post(&path(&["users", name, "authenticate"]), &json!({"password": password}))?;
    Ask::done(&reply)?;
    if reply.value.get("authenticated") == Some(&Value::Bool(true)) {
        return Ok(Output::Said("Success".to_owned()));
    }
    let why = format!("Error: failed to authenticate user \"{name}\"\nuser '{name}' - invalid credentials");
    Err(Failure::told(Code::Data, why))
}

fn change_password(ask: &Ask) -> Result<Output, Failure> {
    let name = ask.arg(0);
    ask.say(format!("Changing password for user \"{name}\" ..."));
    let password = ask.arg_or_input(1, "Password")?;
    existing(ask, name)?;
    change(ask, name, "password", &json!({"password": password}))
}

fn clear_password(ask: &Ask) -> Result<Output, Failure> {
    let name = ask.arg(0);
    ask.say(format!("Clearing password for user \"{name}\" ..."));
    ask.user(name)?.ok_or_else(|| no_such_user(name))?;
    change(ask, name, "password", &json!({"password_hash": ""}))
}

fn delete(ask: &Ask) -> Result<Output, Failure> {
    let name = ask.arg(0);
    ask.say(format!("Deleting user \"{name}\" ..."));
    existing(ask, name)?;
    Ask::done(&ask.api.delete(&path(&["users", name]), &[])?)?;
    Ok(Output::Done)
}

fn set_tags(ask: &Ask) -> Result<Output, Failure> {
    let name = ask.arg(0);
    let tags: Vec<_> = ask.args.iter().skip(1).flat_map(|word| word.split(',')).collect();
    ask.say(format!("Setting tags for user \"{name}\" to [{}] ...", tags.join(", ")));
    existing(ask, name)?;
    change(ask, name, "tags", &json!({"tags": tags}))
}

fn list_users(ask: &Ask) -> Result<Output, Failure> {
    ask.say("Listing users ...");
    let found = list(&ask.api.get("/api/users")?);
    Ok(whole_rows(&[("user", "name"), ("tags", "tags")], &found))
}

fn set_limits(ask: &Ask) -> Result<Output, Failure> {
    let (name, definition) = (ask.arg(0), ask.arg(1));
    ask.say(format!("Setting user limits to \"{definition}\" for user \"{name}\" ..."));
    let limits = ask.json(1)?;
    ask.user(name)?.ok_or_else(|| no_such_user(name))?;
    let named =
        limits.as_object().ok_or_else(|| Failure::refused(format!("user-limits not a list {limits}")))?;
    let unknown = |limit: &&String| !LIMITS.contains(&limit.as_str());
    if let Some(limit) = named.keys().find(unknown) {
        let value = limits.get(limit).cloned().unwrap_or_default();
        return Err(Failure::refused(format!(
            "Unrecognised terms [{{<<\"{limit}\">>,{value}}}] in user-limits"
        )));
    }
    // One that is not named stays as it is.
    for (limit, value) in LIMITS.iter().filter_map(|limit| Some((limit, limits.get(limit)?))) {
        Ask::done(&ask.api.put(&path(&["user-limits", name, limit]), &json!({"value": value}))?)?;
    }
    Ok(Output::Done)
}

fn clear_limits(ask: &Ask) -> Result<Output, Failure> {
    let (name, which) = (ask.arg(0), ask.arg(1));
    match which {
        "all" => ask.say(format!("Clearing all limits for user \"{name}\" ...")),
        limit => ask.say(format!("Clearing \"{limit}\" limit for user \"{name}\" ...")),
    }
    ask.user(name)?.ok_or_else(|| no_such_user(name))?;
    for limit in LIMITS.iter().filter(|limit| which == "all" || which == **limit) {
        Ask::done(&ask.api.delete(&path(&["user-limits", name, limit]), &[])?)?;
    }
    Ok(Output::Done)
}

fn list_limits(ask: &Ask) -> Result<Output, Failure> {
    if ask.line.has("global") {
        ask.say("Listing limits for all users ...");
        let found = with_text(list(&ask.api.get("/api/user-limits")?));
        return Ok(whole_rows(&[("user", "user"), ("limits", "value")], &found));
    }
    let name = ask.line.get("user").unwrap_or("guest");
    ask.say(format!("Listing limits for user \"{name}\" ..."));
    ask.user(name)?.ok_or_else(|| no_such_user(name))?;
    let found = with_text(list(&ask.api.get(&path(&["user-limits", name]))?));
    let limits = found.first().and_then(|found| found.get("value")?.as_str()).unwrap_or("{}");
    Ok(Output::Text(format!("{limits}\n"), json!({"result": "ok", "value": limits})))
}

/// Limits are texts of JSON in tables.
pub(super) fn with_text(mut found: Vec<Value>) -> Vec<Value> {
    found.retain(|item| item.get("value").is_some_and(|value| value != &json!({})));
    for item in &mut found {
        let text = item.get("value").map(Value::to_string).unwrap_or_default();
        item["value"] = Value::from(text);
    }
    found
}

fn hash(ask: &Ask) -> Result<Output, Failure> {
    let password = ask.arg_or_input(0, "Password")?;
    ask.say("Will hash password");
    if password.is_empty() {
        return Err(Failure::bad_argument(": Password cannot be empty"));
    }
    let hash = PasswordHash::hash(password.as_bytes());
    let hash = hash.map_err(|error| Failure::told(Code::Software, error))?.to_base64();
    Ok(Output::Said(hash))
}

fn change(ask: &Ask, name: &str, what: &str, body: &Value) -> Result<Output, Failure> {
    Ask::done(&ask.api.put(&path(&["users", name, what]), body)?)?;
    Ok(Output::Done)
}

fn existing(ask: &Ask, name: &str) -> Result<Value, Failure> {
    let missing = || Failure::told(Code::NoUser, format!("User \"{name}\" does not exist"));
    ask.user(name)?.ok_or_else(missing)
}

fn no_such_user(name: &str) -> Failure {
    Failure::refused(format!("{{:no_such_user, \"{name}\"}}"))
}
