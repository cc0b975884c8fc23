//! Where the broker is that is spoken to: what the options say, then the environment, then this machine's usual place.

use std::fs;
use std::path::PathBuf;

use crate::cli::args::Settings;
use crate::cli::ctl::api::Place;
use crate::cli::ctl::failure::{Code, Failure};
use crate::cli::ctl::options::Line;
use crate::cli::ctl::verb::Verb;
use crate::cli::load::load;
use crate::config::{LocalSocket, Secret};
use crate::transfer::uri::without_secrets;

/// A file with a password has no more, in bytes.
const PASSWORD_FILE_BYTES_MAX: u64 = 4096;
/// What names a broker elsewhere.
const URL: &str = "SLUICEMQ_CTL_URL";
const USER: &str = "SLUICEMQ_CTL_USER";
const PASSWORD_FILE: &str = "SLUICEMQ_CTL_PASSWORD_FILE";

/// None is spoken to.
pub(super) fn none() -> Place {
    Place::Unknown("this verb speaks to no broker".to_owned())
}

/// The one that is meant.
pub(super) fn find(verb: &Verb, line: &Line) -> Result<Place, Failure> {
    let is_near = ["socket", "data-dir", "config"].iter().any(|name| line.has(name));
    let url = line.get("url").map(str::to_owned).or_else(|| variable(URL).filter(|_| !is_near));
    match url {
        Some(url) => elsewhere(verb, line, &url),
        None => here(line),
    }
}

fn elsewhere(verb: &Verb, line: &Line, url: &str) -> Result<Place, Failure> {
    let wrong =
        |why: &str| Failure::plain(Code::Usage, format!("Error: --url {}: {why}", without_secrets(url)));
    let rest = url.strip_prefix("http://").ok_or_else(|| wrong("only http://HOST:PORT is understood"))?;
    let rest = rest.trim_end_matches('/').trim_end_matches("/api");
    let (named, address) =
        rest.rsplit_once('@').map_or((None, rest), |(user, address)| (Some(user), address));
    if named.is_some_and(|user| user.contains(':')) {
        return Err(wrong("a password on the command line is seen by all: use --password-file"));
    }
    if address.is_empty() || address.contains('/') {
        return Err(wrong("only http://HOST:PORT is understood"));
    }
    // Some verbs have an option of that name for whom they are about.
    let is_own = verb.options.iter().any(|option| option.name == "user");
    let given = line.get("user").filter(|_| !is_own).or(named).map(str::to_owned);
    let user = given.or_else(|| variable(USER)).ok_or_else(|| wrong("name who asks with --user"))?;
    let file = line.get("password-file").map(str::to_owned).or_else(|| variable(PASSWORD_FILE));
    let file = file.ok_or_else(|| wrong("name the file with the password with --password-file"))?;
    let address = if address.contains(':') { address.to_owned() } else { format!("{address}:15672") };
    Ok(Place::Network { address, user, password: password(&PathBuf::from(file))? })
}

fn password(file: &PathBuf) -> Result<Secret, Failure> {
    let refused =
        |why: String| Failure::plain(Code::Configuration, format!("Error: {}: {why}", file.display()));
    let found = fs::metadata(file).map_err(|error| refused(error.to_string()))?;
    if found.is_file() && found.len() > PASSWORD_FILE_BYTES_MAX {
        return Err(refused("is too long for a password".to_owned()));
    }
    let text = fs::read_to_string(file).map_err(|error| refused(error.to_string()))?;
    Ok(Secret::new(text.trim_end_matches(['\r', '\n'])))
}

/// The socket of the broker that a start with the same configuration would be.
fn here(line: &Line) -> Result<Place, Failure> {
    if let Some(path) = line.get("socket") {
        return Ok(Place::Socket(PathBuf::from(path)));
    }
    let (data_dir, config) = (line.get("data-dir").map(PathBuf::from), line.get("config").map(PathBuf::from));
    let config = config.or_else(|| variable(crate::config::environment::CONFIG_FILE).map(PathBuf::from));
    let loaded = load(&Settings { data_dir, config, ..Settings::default() });
    let config = loaded.map_err(|why| Failure::plain(Code::Configuration, format!("Error: {why}")))?.config;
    let path = config.socket.path(config.data_dir.as_deref());
    Ok(match path {
        Some(path) => Place::Socket(path),
        None if config.socket == LocalSocket::Nowhere => {
            Place::Unknown("the setting socket is none".to_owned())
        }
        None => Place::Unknown("there is no data directory".to_owned()),
    })
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
