//! How long one message may look for its way through patterns.
//!
//! A topic exchange's trie is walked in nodes × words at most, and whoever may bind decides how many nodes that is; a
//! consistent-hash exchange asks each of its targets, which is cheap and counts little. What a message finds is not
//! counted here: a fan-out to a hundred thousand queues is honest work.

use thiserror::Error;

/// The most steps one message may take through the tries of all topic exchanges it passes. A step is a few cache misses
/// in a large trie, up to a microsecond: so much is some 20 to 50 ms. Honest messages take ten, or a few thousand with
/// as many keys as CC allows. Where other keys or headers decide as well, a message is looked up twice.
pub const MATCH_STEPS_MAX: usize = 50_000;

/// The steps through patterns that are left to one message.
#[derive(Debug)]
pub struct MatchBudget {
    left: usize,
}

impl Default for MatchBudget {
    fn default() -> Self {
        Self { left: MATCH_STEPS_MAX }
    }
}

/// A message would take more steps than any may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("more than {MATCH_STEPS_MAX} steps through patterns")]
pub struct TooManySteps;

impl MatchBudget {
    /// Takes one step.
    ///
    /// # Errors
    /// [`TooManySteps`] when none is left.
    pub(crate) fn step(&mut self) -> Result<(), TooManySteps> {
        self.take(1)
    }

    /// Takes so many steps.
    ///
    /// # Errors
    /// [`TooManySteps`] when fewer are left.
    pub(crate) fn take(&mut self, steps: usize) -> Result<(), TooManySteps> {
        self.left = self.left.checked_sub(steps).ok_or(TooManySteps)?;
        Ok(())
    }
}
