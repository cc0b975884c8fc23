//! The one expression of Erlang that programs have evaluated: Puppet's module asks so whether a password is right.

use serde_json::{Value, json};

use crate::cli::ctl::api::path;
use crate::cli::ctl::ask::Ask;
use crate::cli::ctl::failure::Failure;
use crate::cli::ctl::output::Output;
use crate::cli::ctl::verb::{LOOKS, Verb, verb};
use crate::cli::ctl::verbs::absent::NO_ERLANG;

#[rustfmt::skip]
pub(in crate::cli::ctl) const VERBS: &[Verb] = &[
    verb("eval", (1, 1), "<expression>", "Answers rabbit_access_control:check_user_pass_login/2, and no other expression", eval).of(LOOKS),
];

/// Before a text, which ends with a quote and a parenthesis.
const BINARY: &str = "list_to_binary(\"";

fn eval(ask: &Ask) -> Result<Output, Failure> {
    let (name, password) = login(ask.arg(0)).ok_or_else(|| Failure::absent(format!("eval: {NO_ERLANG}")))?;
    let reply = ask.api.post(&path(&["users", name, "authenticate"]), &json!({"password": password}))?;
    Ask::done(&reply)?;
    if reply.value.get("authenticated") != Some(&Value::Bool(true)) {
        let why = "user '~s' - invalid credentials";
        return Ok(Output::Said(format!("{{refused,<<\"{name}\">>,\"{why}\",[<<\"{name}\">>]}}")));
    }
    let user = ask.user(name)?.unwrap_or_default();
    let tags = user.get("tags").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let tags = tags.collect::<Vec<_>>().join(",");
    Ok(Output::Said(format!(
        "{{ok,{{user,<<\"{name}\">>,[{tags}],[{{rabbit_auth_backend_internal,none}}]}}}}"
    )))
}

/// The user and the password of a login, where that is what the expression is, and no more.
fn login(expression: &str) -> Option<(&str, &str)> {
    let inner = expression.trim().strip_suffix('.')?.trim_end();
    let inner = inner.strip_prefix("rabbit_access_control:check_user_pass_login(")?.strip_suffix(')')?;
    let (name, password) = inner.split_once("\"),")?;
    let name = name.trim().strip_prefix(BINARY)?;
    let password = password.trim().strip_prefix(BINARY)?.strip_suffix("\")")?;
    let is_plain = |text: &str| !text.contains(['"', '\\']);
    (is_plain(name) && is_plain(password)).then_some((name, password))
}
