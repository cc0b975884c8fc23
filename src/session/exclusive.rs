//! The queues that die with a connection, by their names.
//!
//! One that goes before, for it has expired, tells nobody: whenever one comes, two of the others are looked for.

use std::collections::BTreeSet;
use std::ops::Bound;

/// Names that are looked for when one comes.
const LOOKED_FOR: usize = 2;

/// Names of exclusive queues, twice as many as there are at most.
#[derive(Debug, Default)]
pub struct ExclusiveQueues {
    names: BTreeSet<Box<str>>,
    /// The last one that was looked for.
    looked_for: Box<str>,
}

impl ExclusiveQueues {
    /// A queue was declared, perhaps again. Of the others some are forgotten that are not there any more.
    pub fn insert(&mut self, name: &str, is_there: impl Fn(&str) -> bool) {
        if self.names.contains(name) {
            return;
        }
        for _ in 0..LOOKED_FOR {
            let behind = (Bound::Excluded(&*self.looked_for), Bound::Unbounded);
            let Some(next) = self.names.range::<str, _>(behind).next().cloned() else {
                self.looked_for = Box::default();
                break;
            };
            if !is_there(&next) {
                self.names.remove(&next);
            }
            self.looked_for = next;
        }
        self.names.insert(name.into());
    }

    /// A queue was deleted; whether it was one of them.
    pub fn remove(&mut self, name: &str) -> bool {
        self.names.remove(name)
    }

    /// How many names there are.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// All of them.
    pub fn into_names(self) -> Vec<Box<str>> {
        self.names.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::ExclusiveQueues;

    #[test]
    fn names_of_queues_that_are_gone_are_forgotten() {
        let mut queues = ExclusiveQueues::default();
        queues.insert("kept", |_| true);
        for number in 0..10_000 {
            queues.insert(&format!("gone {number}"), |name| name == "kept");
        }
        assert!(queues.len() < 10, "{}", queues.len());
        assert!(queues.into_names().contains(&"kept".into()));
    }
}
