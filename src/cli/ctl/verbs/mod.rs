//! The verbs, by what they are about.

pub(super) mod absent;
pub(super) mod access;
pub(super) mod eval;
pub(super) mod health;
pub(super) mod lists;
pub(super) mod messages;
pub(super) mod node;
pub(super) mod operations;
pub(super) mod policies;
pub(super) mod settings;
pub(super) mod users;
pub(super) mod vhosts;
