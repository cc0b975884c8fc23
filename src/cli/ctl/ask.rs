//! A verb as it is asked for: its arguments and options, the broker, and what is said before it is done.

use std::fmt::Display;
use std::io::{self, Write};

use serde_json::Value;

use crate::cli::ctl::api::{Api, Reply, path};
use crate::cli::ctl::failure::{Code, Failure};
use crate::cli::ctl::options::Line;
use crate::cli::ctl::verb::Verb;

/// A verb, asked for.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) verb: &'static Verb,
    pub(super) args: Vec<String>,
    pub(super) line: Line,
    pub(super) api: Api,
}

impl Ask {
    /// An argument; one that is not given is empty.
    pub(super) fn arg(&self, number: usize) -> &str {
        self.args.get(number).map_or("", String::as_str)
    }

    /// An argument that must say something.
    pub(super) fn filled(&self, number: usize, what: &str) -> Result<&str, Failure> {
        match self.arg(number) {
            "" => Err(Failure::bad_argument(format!(": {what} cannot be an empty string"))),
            some => Ok(some),
        }
    }

    /// The virtual host that it is about.
    pub(super) fn vhost(&self) -> &str {
        self.line.get("vhost").unwrap_or("/")
    }

    /// What rows and values are shown as.
    pub(super) fn formatter(&self) -> &str {
        self.line.get("formatter").unwrap_or("table")
    }

    /// Whether what is shown is for people: others want nothing but what they asked for.
    fn is_for_people(&self) -> bool {
        ["table", "pretty_table", "string"].contains(&self.formatter())
    }

    /// Whether there is to be a row of names above a table.
    pub(super) fn has_headers(&self) -> bool {
        !self.verb.is_headless && !self.line.has("silent") && !self.line.has("no-table-headers")
    }

    /// Says what is about to be done, to whoever wants to know.
    pub(super) fn say(&self, what: impl Display) {
        if self.is_for_people() && !self.line.has("quiet") && !self.line.has("silent") {
            // Who reads no more has heard enough.
            let _ = writeln!(io::stdout(), "{what}");
        }
    }

    /// What the node is called.
    pub(super) fn node(&self) -> Result<String, Failure> {
        let overview = self.api.get("/api/overview?columns=node")?;
        Ok(overview.get("node").and_then(Value::as_str).unwrap_or_default().to_owned())
    }

    /// The same, also while the broker is stopped.
    pub(super) fn process_node(&self) -> Result<String, Failure> {
        let state = self.api.get("/api/process")?;
        Ok(state.get("node").and_then(Value::as_str).unwrap_or_default().to_owned())
    }

    /// What the node says of itself.
    pub(super) fn node_state(&self) -> Result<Value, Failure> {
        let nodes = self.api.get("/api/nodes")?;
        Ok(nodes.get(0).cloned().unwrap_or_default())
    }

    /// An argument as JSON.
    pub(super) fn json(&self, number: usize) -> Result<Value, Failure> {
        serde_json::from_str(self.arg(number))
            .map_err(|_| Failure::refused("JSON decoding error. Reason: badarg"))
    }

    /// That it is done, or what the broker has refused.
    pub(super) fn done(reply: &Reply) -> Result<(), Failure> {
        if reply.is_good() { Ok(()) } else { Err(Failure::refused(reply.reason())) }
    }

    /// That there is such a virtual host.
    pub(super) fn check_vhost(&self) -> Result<(), Failure> {
        match self.api.find(&path(&["vhosts", self.vhost()]))? {
            Some(_) => Ok(()),
            None => Err(Failure::no_vhost(self.vhost())),
        }
    }

    /// The user of this name, who must be there.
    pub(super) fn user(&self, name: &str) -> Result<Option<Value>, Failure> {
        self.api.find(&path(&["users", name]))
    }

    /// A text that is given as an argument, or on standard input.
    pub(super) fn arg_or_input(&self, number: usize, what: &str) -> Result<String, Failure> {
        if let Some(given) = self.args.get(number) {
            return Ok(given.clone());
        }
        self.say("Password: ");
        let mut line = String::new();
        let read = io::stdin().read_line(&mut line);
        match (read, line.trim_end_matches(['\r', '\n'])) {
            (Ok(_), "") | (Err(_), _) => {
                Err(Failure::told(Code::Data, format!("{what} is not provided via argument or stdin")))
            }
            (Ok(_), line) => Ok(line.to_owned()),
        }
    }
}
