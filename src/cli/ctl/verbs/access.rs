//! What users may do: permissions, and topic permissions.

use serde_json::json;

use crate::cli::ctl::api::path;
use crate::cli::ctl::ask::Ask;
use crate::cli::ctl::failure::{Code, Failure};
use crate::cli::ctl::output::Output;
use crate::cli::ctl::verb::{LOOKS, Verb, verb};
use crate::cli::ctl::verbs::lists::{list, whole_rows};

#[rustfmt::skip]
pub(in crate::cli::ctl) const VERBS: &[Verb] = &[
    verb("set_permissions", (4, 4), "[--vhost <vhost>] <username> <conf> <write> <read>", "Sets user permissions for a vhost", set),
    verb("clear_permissions", (1, 1), "[--vhost <vhost>] <username>", "Revokes user permissions for a vhost", clear),
    verb("list_permissions", (0, 0), "[--vhost <vhost>] [--no-table-headers] [--timeout <timeout>]", "Lists user permissions in a virtual host", of_vhost).of(LOOKS),
    verb("list_user_permissions", (1, 1), "[--no-table-headers] <username> [--timeout <timeout>]", "Lists permissions of a user across all virtual hosts", of_user).of(LOOKS),
    verb("set_topic_permissions", (4, 4), "[--vhost <vhost>] <username> <exchange> <write> <read>", "Sets user topic permissions for an exchange", set_topics),
    verb("clear_topic_permissions", (1, 2), "[--vhost <vhost>] <username> [<exchange>]", "Clears user topic permissions for a vhost or exchange", clear_topics),
    verb("list_topic_permissions", (0, 0), "[--vhost <vhost>] [--no-table-headers] [--timeout <timeout>]", "Lists topic permissions in a virtual host", topics_of_vhost).of(LOOKS),
    verb("list_user_topic_permissions", (1, 1), "[--no-table-headers] <username> [--timeout <timeout>]", "Lists user topic permissions", topics_of_user).of(LOOKS).headless(),
];

fn set(ask: &Ask) -> Result<Output, Failure> {
    let (user, vhost) = (ask.filled(0, "user")?, ask.vhost());
    ask.say(format!("Setting permissions for user \"{user}\" in vhost \"{vhost}\" ..."));
    check_user(ask, user)?;
    check_vhost(ask)?;
    let body = json!({"configure": ask.arg(1), "write": ask.arg(2), "read": ask.arg(3)});
    Ask::done(&ask.api.put(&path(&["permissions", vhost, user]), &body)?)?;
    Ok(Output::Done)
}

fn clear(ask: &Ask) -> Result<Output, Failure> {
    let (user, vhost) = (ask.arg(0), ask.vhost());
    ask.say(format!("Clearing permissions for user \"{user}\" in vhost \"{vhost}\" ..."));
    check_user(ask, user)?;
    check_vhost(ask)?;
    forget(ask, &path(&["permissions", vhost, user]))
}

fn of_vhost(ask: &Ask) -> Result<Output, Failure> {
    ask.say(format!("Listing permissions for vhost \"{}\" ...", ask.vhost()));
    ask.check_vhost()?;
    let found = list(&ask.api.get(&path(&["permissions", ask.vhost()]))?);
    let columns = ["user", "configure", "write", "read"].map(|name| (name, name));
    Ok(whole_rows(&columns, &found))
}

fn of_user(ask: &Ask) -> Result<Output, Failure> {
    ask.say(format!("Listing permissions for user \"{}\" ...", ask.arg(0)));
    let columns = ["vhost", "configure", "write", "read"].map(|name| (name, name));
    let found = kept(ask, "permissions")?;
    Ok(whole_rows(&columns, &found))
}

fn set_topics(ask: &Ask) -> Result<Output, Failure> {
    let (user, exchange, vhost) = (ask.arg(0), ask.arg(1), ask.vhost());
    ask.say(format!(
        "Setting topic permissions on \"{exchange}\" for user \"{user}\" in vhost \"{vhost}\" ..."
    ));
    check_user(ask, user)?;
    check_vhost(ask)?;
    let body = json!({"exchange": exchange, "write": ask.arg(2), "read": ask.arg(3)});
    Ask::done(&ask.api.put(&path(&["topic-permissions", vhost, user]), &body)?)?;
    Ok(Output::Done)
}

fn clear_topics(ask: &Ask) -> Result<Output, Failure> {
    let (user, vhost) = (ask.arg(0), ask.vhost());
    let exchange = ask.args.get(1);
    let on = exchange.map(|exchange| format!("on \"{exchange}\" ")).unwrap_or_default();
    ask.say(format!("Clearing topic permissions {on}for user \"{user}\" in vhost \"{vhost}\" ..."));
    check_user(ask, user)?;
    check_vhost(ask)?;
    match exchange {
        Some(exchange) => forget(ask, &path(&["topic-permissions", vhost, user, exchange])),
        None => forget(ask, &path(&["topic-permissions", vhost, user])),
    }
}

fn topics_of_vhost(ask: &Ask) -> Result<Output, Failure> {
    ask.say(format!("Listing topic permissions for vhost \"{}\" ...", ask.vhost()));
    ask.check_vhost()?;
    let found = list(&ask.api.get(&path(&["topic-permissions", ask.vhost()]))?);
    let columns = ["user", "exchange", "write", "read"].map(|name| (name, name));
    Ok(whole_rows(&columns, &found))
}

fn topics_of_user(ask: &Ask) -> Result<Output, Failure> {
    ask.say(format!("Listing topic permissions for user \"{}\" ...", ask.arg(0)));
    let columns = ["vhost", "exchange", "write", "read"].map(|name| (name, name));
    let found = kept(ask, "topic-permissions")?;
    Ok(whole_rows(&columns, &found))
}

fn kept(ask: &Ask, what: &str) -> Result<Vec<serde_json::Value>, Failure> {
    let user = ask.arg(0);
    let found = ask.api.find(&path(&["users", user, what]))?;
    let found = found.ok_or_else(|| Failure::refused(format!("{{:no_such_user, \"{user}\"}}")))?;
    Ok(list(&found))
}

/// What is not there is forgotten already.
fn forget(ask: &Ask, at: &str) -> Result<Output, Failure> {
    let reply = ask.api.delete(at, &[])?;
    if reply.status != 404 {
        Ask::done(&reply)?;
    }
    Ok(Output::Done)
}

fn check_user(ask: &Ask, name: &str) -> Result<(), Failure> {
    match ask.user(name)? {
        Some(_) => Ok(()),
        None => Err(Failure::told(Code::NoUser, format!("User {name} does not exist"))),
    }
}

fn check_vhost(ask: &Ask) -> Result<(), Failure> {
    let missing = || Failure::refused(format!("Virtual host {} does not exist", ask.vhost()));
    ask.api.find(&path(&["vhosts", ask.vhost()]))?.map(drop).ok_or_else(missing)
}
