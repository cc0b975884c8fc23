//! What a person is told about the verbs, and which one they meant.

use std::fmt::Write;

use crate::cli::ctl::options::COMMON;
use crate::cli::ctl::verb::{Tool, Verb, all};

/// As alike as a verb must be to be proposed: from 0, nothing in common, to 1.
const ALIKE_MIN: f64 = 0.8;
const BOLD_USAGE: &str = "\u{1b}[1mUsage\u{1b}[0m";

/// The usage of a verb in a line.
pub(super) fn usage(tool: Tool, verb: &Verb) -> String {
    let line =
        format!("{} [--node <node>] [--longnames] [--quiet] {} {}", tool.name(), verb.name, verb.usage);
    format!("{BOLD_USAGE}\n\n{}", line.trim_end())
}

/// A verb, with all it takes.
pub(super) fn of_verb(tool: Tool, verb: &Verb) -> String {
    let mut text = format!("\n{}\n\n{}\n\n", usage(tool, verb), verb.about);
    let options = verb.options.iter().chain(COMMON).map(|option| match option.short {
        Some(short) => format!("--{}, -{short}", option.name),
        None => format!("--{}", option.name),
    });
    let _ = writeln!(text, "Options: {}", options.collect::<Vec<_>>().join("; "));
    text
}

/// All verbs of a tool.
pub(super) fn of_tool(tool: Tool) -> String {
    let name = tool.name();
    let mut text = format!(
        "\n{BOLD_USAGE}\n\n{name} [--node <node>] [--timeout <timeout>] [--longnames] [--quiet] <command> [<command options>]\n\n\
         Available commands:\n\n"
    );
    let verbs: Vec<_> = all().filter(|verb| verb.tools.contains(&tool)).collect();
    let width = verbs.iter().map(|verb| verb.name.len()).max().unwrap_or(0);
    for verb in verbs {
        let _ = writeln!(text, "   {:width$}  {}", verb.name, verb.about);
    }
    let _ = write!(
        text,
        "\nThe broker is found by --socket, --data-dir or --config on this machine, and from elsewhere by --url, --user and\n\
         --password-file (SLUICEMQ_CTL_URL, SLUICEMQ_CTL_USER, SLUICEMQ_CTL_PASSWORD_FILE).\n\n\
         Use '{name} help <command>' to learn more about a specific command"
    );
    text
}

/// A word that is no verb of this tool.
pub(super) fn unknown(tool: Tool, word: &str) -> String {
    let rated = all().filter(|verb| verb.tools.contains(&tool));
    let rated = rated.map(|verb| (strsim::jaro(word, verb.name), verb.name));
    let best = rated.max_by(|(one, _), (other, _)| one.total_cmp(other));
    let head = format!("\nCommand '{word}' not found. \n");
    match best.filter(|(alike, _)| *alike >= ALIKE_MIN) {
        Some((_, name)) => format!("{head}Did you mean '{name}'? \n"),
        None => format!("{head}{}", of_tool(tool)),
    }
}
