//! `sluicemq ctl`, and what RabbitMQ calls rabbitmqctl, rabbitmq-diagnostics, rabbitmq-queues and rabbitmq-plugins: an
//! operator's words for a running broker, by RabbitMQ's names, with its output and exit codes.
//!
//! ```text
//! options   the line, taken apart
//! verb      the table: which verb that is, what it takes and needs     (a mistake: help, failure)
//! ask       the verb as it is asked for, which says what it is about to do
//! verbs/..  what it asks the broker (api), and the rows that it makes of the answer
//! output    a table, JSON or CSV on standard output
//! ```
//!
//! A new verb is a line in the table of the file in `verbs` that is about the same things, and a function beside it that
//! asks the management API: it never knows how it is reached. A new file of verbs has a line in [`verb::all`]. What
//! RabbitMQ's tools have not, single messages and what moves many, is in `verbs::messages`; what they have and these have
//! not has a line in `verbs::absent`.

mod api;
mod ask;
mod erlang;
mod failure;
mod help;
mod options;
mod output;
mod place;
mod verb;
mod verbs;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;

use crate::cli::ctl::api::{Api, Place};
use crate::cli::ctl::ask::Ask;
use crate::cli::ctl::failure::Failure;
use crate::cli::ctl::options::{COMMON, Line};
pub(super) use crate::cli::ctl::verb::Tool;
use crate::cli::ctl::verb::{Needs, Verb};

/// How long an answer may take when nobody says.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Does what a command line says, and tells what it came to.
pub(super) fn run(tool: Tool, words: &[String]) -> ExitCode {
    match attempt(tool, words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Nobody is left to be told when stderr is closed.
            let _ = writeln!(io::stderr(), "{}", failure.text);
            ExitCode::from(failure.code as u8)
        }
    }
}

/// The tool that a program of this name is, if it is one.
pub(super) fn tool_of(program: &str) -> Option<Tool> {
    Tool::from_name(program.rsplit('/').next().unwrap_or(program))
}

fn attempt(tool: Tool, words: &[String]) -> Result<(), Failure> {
    // Letters mean what they mean to the verb that is there.
    let own = words.iter().find_map(|word| verb::find(tool, word)).into_iter();
    let others = COMMON.iter().chain(verb::all().flat_map(|verb| verb.options));
    let options = own.flat_map(|verb| verb.options).chain(others);
    let mut line = Line::parse(words, &options);
    let mut args = std::mem::take(&mut line.words);
    if args.is_empty() {
        return match line.has("help") {
            true => print(&help::of_tool(tool)),
            false => Err(Failure::plain(failure::Code::Usage, help::of_tool(tool))),
        };
    }
    let name = args.remove(0);
    if name == "help" {
        return help(tool, args.first().map(String::as_str));
    }
    let unknown = || Failure::plain(failure::Code::Usage, help::unknown(tool, &name));
    let verb = verb::find(tool, &name).ok_or_else(unknown)?;
    if line.has("help") {
        return print(&help::of_verb(tool, verb));
    }
    let done = check(verb, &line, &args).and_then(|()| {
        let place = if verb.needs == Needs::Nothing { place::none() } else { place::find(verb, &line)? };
        let api = Api::new(place, line.timeout().filter(|timeout| !timeout.is_zero()).unwrap_or(TIMEOUT));
        let ask = Ask { verb, args, line, api };
        check_state(&ask)?;
        output::show(&ask, &(verb.run)(&ask)?)
    });
    done.map_err(|failure| match failure.with_usage {
        true => {
            let (given, usage) = (words.join(" "), help::usage(tool, verb));
            let text = format!("{}\nArguments given:\n\t{given}\n\n{usage}", failure.text);
            Failure { text, ..failure }
        }
        false => failure,
    })
}

fn check(verb: &Verb, line: &Line, args: &[String]) -> Result<(), Failure> {
    line.check(verb.options)?;
    output::check_formatter(line.get("formatter").unwrap_or("table"))?;
    match args.len() {
        few if few < verb.args.0 => Err(Failure::usage("not enough arguments.")),
        many if many > verb.args.1 => Err(Failure::usage("too many arguments.")),
        _ => Ok(()),
    }
}

/// Whether the broker is in the state that the verb needs.
fn check_state(ask: &Ask) -> Result<(), Failure> {
    let wanted = match ask.verb.needs {
        Needs::Nothing | Needs::Process => return Ok(()),
        // A broker that answers from elsewhere runs: only the socket is there without one.
        Needs::Broker if matches!(ask.api.place(), Place::Network { .. }) => return Ok(()),
        Needs::Broker => true,
        Needs::Stopped => false,
    };
    let is_running = ask.api.get("/api/process")?.get("running").and_then(Value::as_bool).unwrap_or(true);
    match (wanted, is_running) {
        (true, false) => Err(Failure::state(
            "this command requires the 'rabbit' app to be running on the target node. Start it with 'rabbitmqctl start_app'.",
        )),
        (false, true) => Err(Failure::state(
            "this command requires the 'rabbit' app to be stopped on the target node. Stop it with 'rabbitmqctl stop_app'.",
        )),
        _ => Ok(()),
    }
}

fn help(tool: Tool, name: Option<&str>) -> Result<(), Failure> {
    let Some(name) = name else { return print(&help::of_tool(tool)) };
    match verb::find(tool, name) {
        Some(verb) => print(&help::of_verb(tool, verb)),
        None => Err(Failure::told(failure::Code::Usage, format!("\nCommand '{name}' not found."))),
    }
}

fn print(text: &str) -> Result<(), Failure> {
    writeln!(io::stdout(), "{text}").map_err(|error| Failure::told(failure::Code::Software, error))
}
