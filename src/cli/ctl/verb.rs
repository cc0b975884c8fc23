//! The table of verbs: what each is called, takes and needs, and what does it.

use crate::cli::ctl::ask::Ask;
use crate::cli::ctl::failure::Failure;
use crate::cli::ctl::options::Opt;
use crate::cli::ctl::output::Output;
use crate::cli::ctl::verbs;

/// A name that this program answers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Tool {
    Ctl,
    Diagnostics,
    Queues,
    Plugins,
}

/// What the tools are called, as RabbitMQ's are.
const TOOLS: [(Tool, &str); 4] = [
    (Tool::Ctl, "rabbitmqctl"),
    (Tool::Diagnostics, "rabbitmq-diagnostics"),
    (Tool::Queues, "rabbitmq-queues"),
    (Tool::Plugins, "rabbitmq-plugins"),
];

impl Tool {
    /// The tool of this name.
    pub(super) fn from_name(name: &str) -> Option<Self> {
        TOOLS.iter().find(|(_, own)| *own == name).map(|(tool, _)| *tool)
    }

    /// What it is called.
    pub(super) fn name(self) -> &'static str {
        TOOLS.iter().find(|(tool, _)| *tool == self).map_or("rabbitmqctl", |(_, name)| name)
    }
}

/// What a verb needs before it can do anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    /// Not even a process.
    Nothing,
    /// A process, whether the broker in it runs or not.
    Process,
    /// A broker that runs.
    Broker,
    /// A process whose broker is stopped.
    Stopped,
}

/// A line of the table.
#[derive(Debug)]
pub(super) struct Verb {
    pub(super) name: &'static str,
    pub(super) tools: &'static [Tool],
    /// What stands behind the verb in its usage.
    pub(super) usage: &'static str,
    pub(super) about: &'static str,
    /// How many arguments there are, at least and at most.
    pub(super) args: (usize, usize),
    pub(super) options: &'static [Opt],
    pub(super) needs: Needs,
    /// Its table has no row of names above it, as RabbitMQ's has none.
    pub(super) is_headless: bool,
    pub(super) run: fn(&Ask) -> Result<Output, Failure>,
}

/// A verb of rabbitmqctl that needs a broker; others say what they are instead.
pub(super) const fn verb(
    name: &'static str,
    args: (usize, usize),
    usage: &'static str,
    about: &'static str,
    run: fn(&Ask) -> Result<Output, Failure>,
) -> Verb {
    Verb {
        name,
        tools: &[Tool::Ctl],
        usage,
        about,
        args,
        options: &[],
        needs: Needs::Broker,
        is_headless: false,
        run,
    }
}

impl Verb {
    /// The same, of these tools.
    pub(super) const fn of(self, tools: &'static [Tool]) -> Self {
        Self { tools, ..self }
    }

    /// The same, with options of its own.
    pub(super) const fn with(self, options: &'static [Opt]) -> Self {
        Self { options, ..self }
    }

    /// The same, with a table without names.
    pub(super) const fn headless(self) -> Self {
        Self { is_headless: true, ..self }
    }

    /// The same, which needs something else.
    pub(super) const fn needs(self, needs: Needs) -> Self {
        Self { needs, ..self }
    }
}

/// As many arguments as there are.
pub(super) const MANY: usize = usize::MAX;
/// Both tools that look.
pub(super) const LOOKS: &[Tool] = &[Tool::Ctl, Tool::Diagnostics];
/// The health checks' own.
pub(super) const DIAGNOSTICS: &[Tool] = &[Tool::Diagnostics];

/// All verbs, in the order in which help shows them.
pub(super) fn all() -> impl Iterator<Item = &'static Verb> + Clone {
    let chapters: [&'static [Verb]; 12] = [
        verbs::node::VERBS,
        verbs::users::VERBS,
        verbs::access::VERBS,
        verbs::lists::VERBS,
        verbs::policies::VERBS,
        verbs::vhosts::VERBS,
        verbs::operations::VERBS,
        verbs::messages::VERBS,
        verbs::settings::VERBS,
        verbs::health::VERBS,
        verbs::eval::VERBS,
        verbs::absent::VERBS,
    ];
    chapters.into_iter().flatten()
}

/// The verb of this name that this tool has.
pub(super) fn find(tool: Tool, name: &str) -> Option<&'static Verb> {
    all().find(|verb| verb.name == name && verb.tools.contains(&tool))
}
