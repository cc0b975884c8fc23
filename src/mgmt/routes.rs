//! The table: every route, who may ask, what it is about, and which handler answers. What is not in it does not exist.
//!
//! A new route is a line here. Its description goes into the API's own (`openapi`).

use crate::mgmt::access::{Who, Within};
use crate::mgmt::answer::{Answer, Refusal};
use crate::mgmt::call::Call;
use crate::mgmt::openapi;
use crate::mgmt::places::Work;
use crate::mgmt::views::{
    bindings, browse, channels, connections, consumers, definitions, exchanges, health, messages, metrics,
    node, odds, overview, parameters, permissions, policies, process, queues, shovels, transfers, users,
    vhosts,
};

/// What a body may have, in bytes, where a route says nothing else.
const BODY_BYTES_MAX: usize = 1 << 20;

/// What definitions may have.
const DEFINITIONS_BYTES_MAX: usize = 20 << 20;

/// What answers.
type Handler = fn(&Call<'_>) -> Result<Answer, Refusal>;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    /// Reading, which changes nothing.
    Get,
    /// Something is made, or changed.
    Put,
    /// Something happens.
    Post,
    /// Something goes.
    Delete,
}

impl Verb {
    /// HTTP's name for it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Put => "PUT",
            Self::Post => "POST",
            Self::Delete => "DELETE",
        }
    }
}

/// One line of the table.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) verb: Verb,
    /// Parts in braces are told to the handler.
    pub(crate) path: &'static str,
    pub(crate) who: Who,
    pub(crate) within: Within,
    pub(crate) handler: Handler,
    pub(crate) body_bytes_max: usize,
    /// Whose turns it takes.
    pub(crate) work: Work,
    /// What it is, for the description.
    pub(crate) about: &'static str,
}

const fn route(
    verb: Verb,
    path: &'static str,
    who: Who,
    within: Within,
    handler: Handler,
    about: &'static str,
) -> Route {
    let work = if matches!(verb, Get) { Work::Reading } else { Work::Changing };
    Route { verb, path, who, within, handler, body_bytes_max: BODY_BYTES_MAX, work, about }
}

/// A route by which messages come and go.
const fn messaging(path: &'static str, handler: Handler, about: &'static str) -> Route {
    Route { work: Work::Messaging, ..route(Post, path, Management, Vhost, handler, about) }
}

use Verb::{Delete, Get, Post, Put};
use Who::{Administrator, Everyone, Management, Monitoring, Policymaker};
use Within::{Node, Vhost};

/// The API.
#[rustfmt::skip]
pub(crate) static ROUTES: &[Route] = &[
    route(Get, "/api/overview", Management, Node, overview::show, "What the node is, holds and does"),
    route(Get, "/api/cluster-name", Management, Node, odds::cluster_name, "The cluster's name"),
    route(Get, "/api/whoami", Management, Node, odds::whoami, "Who asks"),
    route(Get, "/api/extensions", Management, Node, odds::extensions, "Extensions of the management pages"),
    route(Get, "/api/feature-flags", Administrator, Node, odds::feature_flags, "Feature flags, all of which are enabled"),
    route(Put, "/api/feature-flags/{name}/enable", Administrator, Node, odds::enable_feature_flag, "Enables a feature flag, which it is"),
    route(Get, "/api/deprecated-features", Administrator, Node, odds::deprecated_features, "Deprecated features"),
    route(Get, "/api/deprecated-features/used", Administrator, Node, odds::deprecated_features, "Those in use"),
    route(Get, "/api/auth", Everyone, Node, odds::auth, "How the management pages log in"),
    route(Get, "/api/auth/hash_password/{password}", Management, Node, odds::hash_password, "A password's hash, for definitions"),
    route(Get, "/api/auth/attempts/{node}", Monitoring, Node, odds::attempts, "Logins by protocol"),
    route(Get, "/api/version", Management, Node, odds::version, "The version of the API"),
    route(Get, "/api/openapi.json", Management, Node, openapi::show, "This description"),
    route(Post, "/api/rebalance/queues", Administrator, Node, odds::nothing_to_do, "Moves leaders of queues: there is one node"),
    route(Delete, "/api/reset", Administrator, Node, odds::nothing_to_do, "Forgets statistics: counters only rise"),
    route(Delete, "/api/reset/{node}", Administrator, Node, odds::nothing_to_do, "Likewise, of one node"),

    route(Get, "/api/nodes", Monitoring, Node, node::list, "The nodes"),
    route(Get, "/api/nodes/{node}", Monitoring, Node, node::show, "A node"),
    route(Get, "/api/nodes/{node}/memory", Monitoring, Node, node::memory, "What a node's memory holds"),

    route(Get, "/api/process", Administrator, Node, process::show, "Whether the broker runs"),
    route(Get, "/api/process/environment", Administrator, Node, process::environment, "The configuration in effect, without secrets"),
    route(Put, "/api/process/memory-watermark", Administrator, Node, process::put_memory_watermark, "Moves the memory watermark until the process ends"),
    route(Put, "/api/process/disk-free-limit", Administrator, Node, process::put_disk_free_limit, "Moves the limit of what must be free on the disk until the process ends"),
    route(Put, "/api/process/log-level", Administrator, Node, process::put_log_level, "Changes what is logged until the process ends"),
    route(Post, "/api/process/reload", Administrator, Node, process::reload, "Reads certificates, limits, watermarks and the log's level anew: a mistake in one changes nothing, and is told"),
    route(Post, "/api/process/stop", Administrator, Node, process::stop, "Ends the process"),
    route(Post, "/api/process/stop-app", Administrator, Node, process::stop_app, "Ends the broker, but not the process, which can start it again"),
    route(Post, "/api/process/start-app", Administrator, Node, process::start_app, "Starts the broker: it runs"),

    route(Get, "/api/connections", Management, Node, connections::list, "Connections: one's own, or all for those who monitor"),
    route(Get, "/api/connections/{name}", Management, Node, connections::show, "A connection"),
    route(Delete, "/api/connections/{name}", Management, Node, connections::close, "Closes a connection; the header X-Reason says why"),
    route(Get, "/api/connections/{name}/channels", Management, Node, connections::channels, "A connection's channels"),
    route(Get, "/api/connections/username/{user}", Management, Node, connections::list_of_user, "A user's connections"),
    route(Delete, "/api/connections/username/{user}", Administrator, Node, connections::close_of_user, "Closes a user's connections"),
    route(Get, "/api/vhosts/{vhost}/connections", Management, Vhost, connections::list_of_vhost, "Connections of a virtual host"),
    route(Get, "/api/channels", Management, Node, channels::list, "Channels: one's own, or all for those who monitor"),
    route(Get, "/api/channels/{name}", Management, Node, channels::show, "A channel"),
    route(Get, "/api/vhosts/{vhost}/channels", Management, Vhost, channels::list_of_vhost, "Channels of a virtual host"),
    route(Get, "/api/consumers", Management, Node, consumers::list, "Consumers"),
    route(Get, "/api/consumers/{vhost}", Management, Node, consumers::list_of_vhost, "Consumers of a virtual host"),

    route(Get, "/api/vhosts", Management, Node, vhosts::list, "Virtual hosts"),
    route(Get, "/api/vhosts/{vhost}", Management, Vhost, vhosts::show, "A virtual host"),
    route(Put, "/api/vhosts/{vhost}", Administrator, Node, vhosts::put, "Makes a virtual host, or changes what is said about it"),
    route(Delete, "/api/vhosts/{vhost}", Administrator, Node, vhosts::delete, "Deletes a virtual host with all that is in it"),
    route(Get, "/api/vhosts/{vhost}/permissions", Administrator, Node, permissions::list_of_vhost, "What users may do in a virtual host"),
    route(Get, "/api/vhosts/{vhost}/topic-permissions", Administrator, Node, permissions::list_topics_of_vhost, "With which keys"),
    route(Post, "/api/vhosts/{vhost}/start/{node}", Administrator, Node, vhosts::start, "Starts a virtual host: all run"),

    route(Get, "/api/exchanges", Management, Node, exchanges::list, "Exchanges"),
    route(Get, "/api/exchanges/{vhost}", Management, Vhost, exchanges::list_of_vhost, "Exchanges of a virtual host"),
    route(Get, "/api/exchanges/{vhost}/{name}", Management, Vhost, exchanges::show, "An exchange"),
    route(Put, "/api/exchanges/{vhost}/{name}", Management, Vhost, exchanges::put, "Declares an exchange"),
    route(Delete, "/api/exchanges/{vhost}/{name}", Management, Vhost, exchanges::delete, "Deletes an exchange"),
    messaging("/api/exchanges/{vhost}/{name}/publish", messages::publish, "Publishes a message"),
    route(Get, "/api/exchanges/{vhost}/{name}/bindings/source", Management, Vhost, bindings::list_from, "Bindings from an exchange"),
    route(Get, "/api/exchanges/{vhost}/{name}/bindings/destination", Management, Vhost, bindings::list_to_exchange, "Bindings to an exchange"),

    route(Get, "/api/queues", Management, Node, queues::list, "Queues"),
    route(Get, "/api/queues/detailed", Management, Node, queues::list, "Queues, with all there is to tell"),
    route(Get, "/api/queues/{vhost}", Management, Vhost, queues::list_of_vhost, "Queues of a virtual host"),
    route(Get, "/api/queues/{vhost}/{name}", Management, Vhost, queues::show, "A queue"),
    route(Put, "/api/queues/{vhost}/{name}", Management, Vhost, queues::put, "Declares a queue"),
    route(Delete, "/api/queues/{vhost}/{name}", Management, Vhost, queues::delete, "Deletes a queue"),
    route(Delete, "/api/queues/{vhost}/{name}/contents", Management, Vhost, queues::purge, "Removes the messages that are ready"),
    Route { work: Work::Getting, ..messaging("/api/queues/{vhost}/{name}/get", messages::get, "Gets messages, to be kept or not") },
    route(Get, "/api/queues/{vhost}/{name}/messages", Management, Vhost, browse::list, "Messages that wait, looked at and left alone"),
    route(Get, "/api/queues/{vhost}/{name}/messages/{id}", Management, Vhost, browse::show, "One of them"),
    route(Delete, "/api/queues/{vhost}/{name}/messages/{id}", Management, Vhost, browse::delete, "Deletes one"),
    messaging("/api/queues/{vhost}/{name}/messages/{id}/move", browse::put_elsewhere, "Moves one to another queue, or by an exchange"),
    route(Post, "/api/queues/{vhost}/{name}/redrive", Management, Vhost, transfers::redrive, "Moves dead letters back to where they died, or messages to another place"),
    route(Get, "/api/queues/{vhost}/{name}/bindings", Management, Vhost, bindings::list_to_queue, "Bindings to a queue"),

    route(Get, "/api/delayed/{vhost}/{exchange}", Management, Vhost, browse::list_delayed, "Messages that an exchange delays"),
    route(Get, "/api/delayed/{vhost}/{exchange}/{id}", Management, Vhost, browse::show_delayed, "One of them"),
    route(Delete, "/api/delayed/{vhost}/{exchange}/{id}", Management, Vhost, browse::cancel_delayed, "Cancels one"),

    route(Get, "/api/bindings", Management, Node, bindings::list, "Bindings"),
    route(Get, "/api/bindings/{vhost}", Management, Vhost, bindings::list_of_vhost, "Bindings of a virtual host"),
    route(Get, "/api/bindings/{vhost}/e/{source}/{kind}/{destination}", Management, Vhost, bindings::list_between, "Bindings from an exchange to a queue (q) or an exchange (e)"),
    route(Post, "/api/bindings/{vhost}/e/{source}/{kind}/{destination}", Management, Vhost, bindings::post, "Binds the two"),
    route(Get, "/api/bindings/{vhost}/e/{source}/{kind}/{destination}/{props}", Management, Vhost, bindings::show, "One of them, by its properties_key"),
    route(Delete, "/api/bindings/{vhost}/e/{source}/{kind}/{destination}/{props}", Management, Vhost, bindings::delete, "Takes one away"),

    route(Get, "/api/users", Administrator, Node, users::list, "Users"),
    route(Get, "/api/users/without-permissions", Administrator, Node, users::list_without_permissions, "Users who may do nothing anywhere"),
    route(Post, "/api/users/bulk-delete", Administrator, Node, users::bulk_delete, "Deletes several users"),
    route(Get, "/api/users/{user}", Administrator, Node, users::show, "A user"),
    route(Put, "/api/users/{user}", Administrator, Node, users::put, "Makes or changes a user"),
    route(Put, "/api/users/{user}/tags", Administrator, Node, users::put_tags, "Changes a user's tags, and nothing else"),
    route(Put, "/api/users/{user}/password", Administrator, Node, users::put_password, "Changes a user's password, and nothing else"),
    route(Delete, "/api/users/{user}", Administrator, Node, users::delete, "Deletes a user and closes their connections"),
    route(Get, "/api/users/{user}/permissions", Administrator, Node, users::permissions, "What a user may do"),
    route(Get, "/api/users/{user}/topic-permissions", Administrator, Node, users::topic_permissions, "With which keys"),
    route(Post, "/api/users/{user}/authenticate", Administrator, Node, users::authenticate, "Whether a password is the user's"),
    route(Get, "/api/user-limits", Administrator, Node, users::list_limits, "Limits of users"),
    route(Get, "/api/user-limits/{user}", Administrator, Node, users::show_limits, "Limits of a user"),
    route(Put, "/api/user-limits/{user}/{name}", Administrator, Node, users::put_limit, "Sets a limit of a user"),
    route(Delete, "/api/user-limits/{user}/{name}", Administrator, Node, users::delete_limit, "Clears a limit of a user"),
    route(Get, "/api/permissions", Administrator, Node, permissions::list, "Permissions"),
    route(Get, "/api/permissions/{vhost}", Administrator, Node, permissions::list_of_vhost, "Permissions in a virtual host"),
    route(Get, "/api/permissions/{vhost}/{user}", Administrator, Node, permissions::show, "What a user may do in a virtual host"),
    route(Put, "/api/permissions/{vhost}/{user}", Administrator, Node, permissions::put, "Sets what a user may do in a virtual host"),
    route(Delete, "/api/permissions/{vhost}/{user}", Administrator, Node, permissions::delete, "A user may do nothing there"),
    route(Get, "/api/topic-permissions", Administrator, Node, permissions::list_topics, "Topic permissions"),
    route(Get, "/api/topic-permissions/{vhost}", Administrator, Node, permissions::list_topics_of_vhost, "Those in a virtual host"),
    route(Get, "/api/topic-permissions/{vhost}/{user}", Administrator, Node, permissions::show_topics, "Those of a user in a virtual host"),
    route(Put, "/api/topic-permissions/{vhost}/{user}", Administrator, Node, permissions::put_topics, "Sets which keys a user may use at an exchange"),
    route(Delete, "/api/topic-permissions/{vhost}/{user}", Administrator, Node, permissions::delete_topics, "A user may use every key there"),
    route(Delete, "/api/topic-permissions/{vhost}/{user}/{exchange}", Administrator, Node, permissions::delete_topics, "A user may use every key at an exchange"),

    route(Get, "/api/policies", Management, Node, policies::list, "Policies"),
    route(Get, "/api/policies/{vhost}", Management, Vhost, policies::list_of_vhost, "Policies of a virtual host"),
    route(Get, "/api/policies/{vhost}/{name}", Management, Vhost, policies::show, "A policy"),
    route(Put, "/api/policies/{vhost}/{name}", Policymaker, Vhost, policies::put, "Sets a policy"),
    route(Delete, "/api/policies/{vhost}/{name}", Policymaker, Vhost, policies::delete, "Takes a policy away"),
    route(Get, "/api/operator-policies", Management, Node, policies::list_operators, "Policies of operators"),
    route(Get, "/api/operator-policies/{vhost}", Management, Vhost, policies::list_operators_of_vhost, "Those of a virtual host"),
    route(Get, "/api/operator-policies/{vhost}/{name}", Management, Vhost, policies::show_operator, "One of them"),
    route(Put, "/api/operator-policies/{vhost}/{name}", Administrator, Vhost, policies::put_operator, "Sets one"),
    route(Delete, "/api/operator-policies/{vhost}/{name}", Administrator, Vhost, policies::delete_operator, "Takes one away"),
    route(Get, "/api/parameters", Policymaker, Node, parameters::list, "Parameters of virtual hosts"),
    route(Get, "/api/parameters/{component}", Policymaker, Node, parameters::list_of_component, "Those of a component"),
    route(Get, "/api/parameters/{component}/{vhost}", Policymaker, Vhost, parameters::list_of_vhost, "Those of a component in a virtual host"),
    route(Get, "/api/parameters/{component}/{vhost}/{name}", Policymaker, Vhost, parameters::show, "One of them"),
    route(Put, "/api/parameters/{component}/{vhost}/{name}", Policymaker, Vhost, parameters::put, "Sets one"),
    route(Delete, "/api/parameters/{component}/{vhost}/{name}", Policymaker, Vhost, parameters::delete, "Forgets one"),
    route(Get, "/api/shovels", Monitoring, Node, shovels::list, "Shovels, and how they fare"),
    route(Get, "/api/shovels/{vhost}", Monitoring, Vhost, shovels::list_of_vhost, "Shovels of a virtual host"),
    route(Get, "/api/shovels/vhost/{vhost}/{name}", Monitoring, Vhost, shovels::show, "A shovel"),
    route(Delete, "/api/shovels/vhost/{vhost}/{name}", Policymaker, Vhost, shovels::delete, "Deletes a shovel"),
    route(Delete, "/api/shovels/vhost/{vhost}/{name}/restart", Monitoring, Vhost, shovels::restart, "Begins a shovel anew"),
    route(Get, "/api/federation-links", Monitoring, Node, shovels::no_links, "Links of federation: there are none"),
    route(Get, "/api/federation-links/{vhost}", Monitoring, Vhost, shovels::no_links, "Likewise, of a virtual host"),
    route(Get, "/api/transfers", Management, Node, transfers::list, "Messages that are moved once, and how far they have got"),
    route(Get, "/api/transfers/{id}", Management, Node, transfers::show, "One such transfer"),
    route(Delete, "/api/transfers/{id}", Management, Node, transfers::cancel, "Ends one: what is moved is moved"),
    route(Get, "/api/global-parameters", Policymaker, Node, parameters::list_global, "Values of the whole broker"),
    route(Get, "/api/global-parameters/{name}", Policymaker, Node, parameters::show_global, "One of them"),
    route(Put, "/api/global-parameters/{name}", Policymaker, Node, parameters::put_global, "Sets one"),
    route(Delete, "/api/global-parameters/{name}", Policymaker, Node, parameters::delete_global, "Forgets one"),
    route(Get, "/api/vhost-limits", Management, Node, parameters::list_limits, "Limits of virtual hosts"),
    route(Get, "/api/vhost-limits/{vhost}", Management, Node, parameters::show_limits, "Limits of a virtual host"),
    route(Put, "/api/vhost-limits/{vhost}/{name}", Administrator, Node, parameters::put_limit, "Sets a limit of a virtual host"),
    route(Delete, "/api/vhost-limits/{vhost}/{name}", Administrator, Node, parameters::delete_limit, "Clears a limit of a virtual host"),

    route(Get, "/api/definitions", Administrator, Node, definitions::export, "All that is declared and said"),
    Route { body_bytes_max: DEFINITIONS_BYTES_MAX, ..route(Post, "/api/definitions", Administrator, Node, definitions::import, "Adds definitions to what is there") },
    route(Get, "/api/definitions/{vhost}", Administrator, Vhost, definitions::export_vhost, "What is declared in a virtual host"),
    Route { body_bytes_max: DEFINITIONS_BYTES_MAX, ..route(Post, "/api/definitions/{vhost}", Administrator, Vhost, definitions::import_vhost, "Adds definitions to a virtual host") },

    Route { work: Work::Messaging, ..route(Get, "/api/aliveness-test/{vhost}", Management, Vhost, health::aliveness, "Whether a message comes through") },
    route(Get, "/api/healthchecks/node", Management, Node, health::alarms, "Whether an alarm is raised"),
    route(Get, "/api/healthchecks/node/{node}", Management, Node, health::alarms, "Whether an alarm is raised"),
    route(Get, "/api/health/checks/alarms", Management, Node, health::alarms, "Whether an alarm is raised"),
    route(Get, "/api/health/checks/local-alarms", Management, Node, health::alarms, "Whether an alarm is raised here"),
    route(Get, "/api/health/checks/certificate-expiration/{within}/{unit}", Management, Node, health::certificates, "Whether a certificate expires soon"),
    route(Get, "/api/health/checks/port-listener/{port}", Management, Node, health::port, "Whether a port is listened on"),
    route(Get, "/api/health/checks/protocol-listener/{protocol}", Management, Node, health::protocol, "Whether a protocol is served"),
    route(Get, "/api/health/checks/virtual-hosts", Management, Node, health::healthy, "Whether all virtual hosts are up"),
    route(Get, "/api/health/checks/node-is-mirror-sync-critical", Management, Node, health::single_node, "Whether mirrors would be lost without this node"),
    route(Get, "/api/health/checks/node-is-quorum-critical", Management, Node, health::single_node, "Whether quorums would be lost without this node"),
    route(Get, "/api/health/checks/is-in-service", Management, Node, health::healthy, "Whether the node serves clients"),
    route(Get, "/api/health/checks/ready-to-serve-clients", Management, Node, health::healthy, "Whether the node serves clients"),
    route(Get, "/api/health/checks/below-node-connection-limit", Management, Node, health::connection_limit, "Whether there is room for another connection"),

    route(Get, "/metrics", Monitoring, Node, metrics::sums, "Metrics for Prometheus"),
    route(Get, "/metrics/per-object", Monitoring, Node, metrics::per_object, "Metrics of each object"),
    route(Get, "/metrics/memory-breakdown", Monitoring, Node, metrics::memory, "Metrics of what memory is held for"),
    route(Get, "/metrics/detailed", Monitoring, Node, metrics::detailed, "Metrics of the families asked for"),
];

/// What scrapers ask for, on a port of its own: without a password, as they do.
#[rustfmt::skip]
pub(crate) static METRICS: &[Route] = &[
    route(Get, "/metrics", Everyone, Node, metrics::sums, "Metrics for Prometheus"),
    route(Get, "/metrics/per-object", Everyone, Node, metrics::per_object, "Metrics of each object"),
    route(Get, "/metrics/memory-breakdown", Everyone, Node, metrics::memory, "Metrics of what memory is held for"),
    route(Get, "/metrics/detailed", Everyone, Node, metrics::detailed, "Metrics of the families asked for"),
];
