//! What RabbitMQ's tools do and these do not: each says in a line why, and exits as unavailable.

use crate::cli::ctl::ask::Ask;
use crate::cli::ctl::failure::Failure;
use crate::cli::ctl::output::Output;
use crate::cli::ctl::verb::{MANY, Needs, Tool, Verb, verb};

const ANY: &[Tool] = &[Tool::Ctl, Tool::Diagnostics, Tool::Queues];
pub(super) const NO_ERLANG: &str = "there is no Erlang here to do it";
const ONE_NODE: &str = "there is one node, and no cluster to join, leave or change";
const NO_MIRRORS: &str = "there are no mirrors: a queue has one member, this node";

macro_rules! absent {
    ($($name:literal: $why:expr;)+) => {
        pub(in crate::cli::ctl) const VERBS: &[Verb] = &[$({
            fn refuse(_: &Ask) -> Result<Output, Failure> {
                Err(Failure::absent(concat!($name, ": ").to_owned() + $why))
            }
            verb($name, (0, MANY), "", "Not here", refuse).of(ANY).needs(Needs::Nothing)
        }),+];
    };
}

absent! {
    "eval_file": NO_ERLANG;
    "exec": NO_ERLANG;
    "rpc": NO_ERLANG;
    "remote_shell": NO_ERLANG;
    "observer": NO_ERLANG;
    "force_gc": NO_ERLANG;
    "hipe_compile": NO_ERLANG;
    "encode": "values of the configuration are not encrypted";
    "decode": "values of the configuration are not encrypted";
    "schema_info": "there is no Mnesia here";
    "join_cluster": ONE_NODE;
    "forget_cluster_node": ONE_NODE;
    "change_cluster_node_type": ONE_NODE;
    "rename_cluster_node": ONE_NODE;
    "update_cluster_nodes": ONE_NODE;
    "force_boot": ONE_NODE;
    "grow": ONE_NODE;
    "shrink": ONE_NODE;
    "add_member": ONE_NODE;
    "delete_member": ONE_NODE;
    "rebalance": ONE_NODE;
    "sync_queue": NO_MIRRORS;
    "cancel_sync_queue": NO_MIRRORS;
    "suspend_listeners": "listeners go with the broker: stop_app closes them, and start_app opens them again";
    "resume_listeners": "listeners go with the broker: stop_app closes them, and start_app opens them again";
}
