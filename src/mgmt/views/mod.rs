//! Handlers, and how each kind of object is shown: a file for each.

pub(crate) mod bindings;
pub(crate) mod browse;
pub(crate) mod channels;
pub(crate) mod connections;
pub(crate) mod consumers;
pub(crate) mod counts;
pub(crate) mod definitions;
pub(crate) mod exchanges;
pub(crate) mod health;
pub(crate) mod messages;
pub(crate) mod metrics;
pub(crate) mod metrics_of;
pub(crate) mod node;
pub(crate) mod odds;
pub(crate) mod overview;
pub(crate) mod parameters;
pub(crate) mod permissions;
pub(crate) mod policies;
pub(crate) mod process;
pub(crate) mod queues;
pub(crate) mod shovels;
pub(crate) mod transfers;
pub(crate) mod users;
pub(crate) mod vhosts;
