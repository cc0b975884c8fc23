//! Policies: what administrators say about queues and exchanges by their names.
//!
//! Of each virtual host's policies one applies to an object: among those that match its name and kind the one of the
//! highest priority. Beside it one operator policy does, which limits what the other and the arguments say. Both, and the
//! arguments, meet in a queue's [`Settings`], which are swapped when policies change ([`crate::broker::admin`]).

mod keys;
mod merge;

use std::cmp::Reverse;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

pub use self::keys::check_definition;
use crate::auth::pattern::Pattern;
use crate::protocol::field::Field;
use crate::protocol::table::{Table, TableBuf};
use crate::queue::settings::{QueueKind, Settings};

/// What a policy applies to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ApplyTo {
    /// Queues of all kinds, and exchanges.
    #[default]
    All,
    /// Queues of all kinds.
    Queues,
    /// Classic queues.
    ClassicQueues,
    /// Quorum queues.
    QuorumQueues,
    /// Streams.
    Streams,
    /// Exchanges.
    Exchanges,
}

impl ApplyTo {
    const ALL: [Self; 6] =
        [Self::All, Self::Queues, Self::ClassicQueues, Self::QuorumQueues, Self::Streams, Self::Exchanges];

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Queues => "queues",
            Self::ClassicQueues => "classic_queues",
            Self::QuorumQueues => "quorum_queues",
            Self::Streams => "streams",
            Self::Exchanges => "exchanges",
        }
    }

    fn is_for_queue(self, kind: QueueKind) -> bool {
        match self {
            Self::All | Self::Queues => true,
            Self::ClassicQueues => kind == QueueKind::Classic,
            Self::QuorumQueues => kind == QueueKind::Quorum,
            Self::Streams | Self::Exchanges => false,
        }
    }

    fn is_for_exchanges(self) -> bool {
        matches!(self, Self::All | Self::Exchanges)
    }
}

impl fmt::Display for ApplyTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ApplyTo {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|apply_to| apply_to.name() == word).ok_or(())
    }
}

/// One policy.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Its name.
    pub name: Box<str>,
    /// Names are searched for with it.
    pub pattern: Pattern,
    /// What it applies to.
    pub apply_to: ApplyTo,
    /// The highest one wins.
    pub priority: i64,
    /// What it says.
    pub definition: TableBuf,
}

impl Policy {
    /// A policy.
    ///
    /// # Errors
    /// A pattern that cannot be compiled within the bounds: why.
    pub fn new(
        name: &str,
        pattern: &str,
        apply_to: ApplyTo,
        priority: i64,
        definition: Table<'_>,
    ) -> Result<Self, String> {
        let pattern = Pattern::new(pattern).map_err(|error| error.to_string())?;
        Ok(Self { name: name.into(), pattern, apply_to, priority, definition: definition.into() })
    }

    /// Reads one as the log has it.
    pub(in crate::broker) fn from_table(name: &str, value: Table<'_>) -> Result<Self, String> {
        let text = |key| match value.get(key) {
            Some(Field::LongStr(text)) => std::str::from_utf8(text).map_err(|error| error.to_string()),
            _ => Err(format!("it has no {key}")),
        };
        let apply_to = text("apply-to")?.parse().unwrap_or_default();
        let priority = value.get("priority").and_then(|priority| priority.as_int()).unwrap_or_default();
        let definition = match value.get("definition") {
            Some(Field::Table(definition)) => definition,
            _ => Table::EMPTY,
        };
        Self::new(name, text("pattern")?, apply_to, priority, definition)
    }

    /// As the log has it.
    pub(in crate::broker) fn to_table(&self) -> TableBuf {
        let mut table = TableBuf::new();
        table
            .insert("pattern", Field::LongStr(self.pattern.as_str().as_bytes()))
            .insert("apply-to", Field::LongStr(self.apply_to.name().as_bytes()))
            .insert("priority", Field::I64(self.priority))
            .insert("definition", Field::Table(self.definition.as_table()));
        table
    }

    /// Whether it applies to a queue: one that says something that this kind of queue does not know does not at all.
    fn is_for_queue(&self, name: &str, kind: QueueKind) -> bool {
        let knows_all = || self.definition.as_table().iter().all(|(key, _)| keys::is_known_to(kind, key));
        self.apply_to.is_for_queue(kind) && self.pattern.is_match(name) && knows_all()
    }

    fn is_for_exchange(&self, name: &str) -> bool {
        self.apply_to.is_for_exchanges() && self.pattern.is_match(name)
    }
}

/// The policies of a virtual host: one value that is swapped for the next.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    /// Those of users, the highest priority first.
    users: Vec<Arc<Policy>>,
    /// Those of operators, the highest priority first.
    operators: Vec<Arc<Policy>>,
}

/// Whose a policy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Author {
    /// A user's.
    User,
    /// An operator's: it goes before what users say.
    Operator,
}

impl Policies {
    /// All of them, the highest priority first.
    pub fn of(&self, author: Author) -> &[Arc<Policy>] {
        match author {
            Author::User => &self.users,
            Author::Operator => &self.operators,
        }
    }

    fn of_mut(&mut self, author: Author) -> &mut Vec<Arc<Policy>> {
        match author {
            Author::User => &mut self.users,
            Author::Operator => &mut self.operators,
        }
    }

    /// The same with one more, or with another of that name.
    pub(in crate::broker) fn with(&self, author: Author, policy: Policy) -> Self {
        let mut changed = self.without(author, &policy.name);
        let list = changed.of_mut(author);
        // Of equal priority by name, so that a restart finds the same first.
        let rank = |policy: &Policy| (Reverse(policy.priority), policy.name.clone());
        let place = list.partition_point(|other| rank(other) < rank(&policy));
        list.insert(place, Arc::new(policy));
        changed
    }

    /// The same without the one of that name.
    pub(in crate::broker) fn without(&self, author: Author, name: &str) -> Self {
        let mut changed = self.clone();
        changed.of_mut(author).retain(|policy| *policy.name != *name);
        changed
    }

    /// How many steps it takes to find those that apply to something.
    pub fn steps(&self) -> u32 {
        self.users.iter().chain(&self.operators).map(|policy| policy.pattern.steps()).sum()
    }

    /// Those that apply to a queue.
    pub(in crate::broker) fn for_queue(&self, name: &str, kind: QueueKind) -> Applied {
        let first =
            |list: &[Arc<Policy>]| list.iter().find(|policy| policy.is_for_queue(name, kind)).cloned();
        Applied { user: first(&self.users), operator: first(&self.operators) }
    }

    /// Those that apply to an exchange.
    pub(in crate::broker) fn for_exchange(&self, name: &str) -> Applied {
        let first = |list: &[Arc<Policy>]| list.iter().find(|policy| policy.is_for_exchange(name)).cloned();
        Applied { user: first(&self.users), operator: first(&self.operators) }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.users.len() + self.operators.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The policies that apply to one object.
#[derive(Clone, Debug, Default)]
pub struct Applied {
    /// A user's.
    pub user: Option<Arc<Policy>>,
    /// An operator's.
    pub operator: Option<Arc<Policy>>,
}

impl Applied {
    /// What both say together, before arguments are asked: the lower limit of the two.
    pub fn definition(&self) -> TableBuf {
        let said = |policy: &Option<Arc<Policy>>| policy.as_ref().map(|policy| policy.definition.clone());
        match (said(&self.user), said(&self.operator)) {
            (None, None) => TableBuf::new(),
            (Some(one), None) | (None, Some(one)) => one,
            (Some(user), Some(operator)) => merge::policies(user.as_table(), operator.as_table()),
        }
    }

    /// What a queue with these arguments is told.
    pub(in crate::broker) fn settings(&self, arguments: Table<'_>) -> Settings {
        if self.is_empty() {
            return Settings::of(arguments);
        }
        let definition = self.definition();
        Settings::of(merge::with_arguments(arguments, definition.as_table()).as_table())
    }

    /// The alternate exchange that they give one without the argument.
    pub(in crate::broker) fn alternate(&self) -> Option<Box<str>> {
        match self.definition().as_table().get("alternate-exchange") {
            Some(Field::LongStr(name)) => Some(String::from_utf8_lossy(name).into()),
            _ => None,
        }
    }

    /// Whether nothing applies.
    pub fn is_empty(&self) -> bool {
        self.user.is_none() && self.operator.is_none()
    }
}
