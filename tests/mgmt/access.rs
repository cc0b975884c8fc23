//! Every route as everybody: what the table of this file says must hold, and every route must be in it.

use std::collections::BTreeSet;

use crate::client::Client;
use crate::node::{Node, PASSWORD};

/// Whom a route lets in. What is let in is answered with something else than 401.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum For {
    Everyone,
    /// Any of the four tags.
    Tagged,
    /// Any of the four tags, and the virtual host `/`; administrators see what is in it without.
    InVhost,
    /// Any of the four tags, and permissions in the virtual host.
    Acting,
    /// Who monitors, and administrators; others as far as it is their own, which it is not here.
    Monitoring,
    /// Policymakers and administrators.
    Policymaker,
    /// Those of them who may open the virtual host.
    PolicymakerInVhost,
    Administrator,
    /// Administrators who may open the virtual host.
    AdministratorInVhost,
}

const USERS: [&str; 7] =
    ["plain", "elsewhere", "ruler", "management", "policymaker", "monitoring", "administrator"];

impl For {
    fn lets_in(self, user: &str) -> bool {
        match self {
            Self::Everyone => true,
            Self::Tagged => user != "plain",
            Self::InVhost if user == "ruler" => true,
            Self::InVhost | Self::Acting => !["plain", "elsewhere", "ruler"].contains(&user),
            Self::Monitoring => ["monitoring", "administrator", "ruler"].contains(&user),
            Self::Policymaker | Self::PolicymakerInVhost => {
                ["policymaker", "administrator", "ruler"].contains(&user)
            }
            Self::Administrator | Self::AdministratorInVhost => ["administrator", "ruler"].contains(&user),
        }
    }

    /// An administrator without permissions there changes nothing, for whatever reason comes first.
    fn leaves_to_permissions(self, user: &str, method: &str) -> bool {
        self == Self::InVhost && user == "ruler" && method != "get"
    }
}

use For::{
    Acting, Administrator, AdministratorInVhost, Everyone, InVhost, Monitoring, Policymaker,
    PolicymakerInVhost, Tagged,
};

#[rustfmt::skip]
const ROUTES: &[(&str, &str, For)] = &[
    ("get", "/api/overview", Tagged),
    ("get", "/api/cluster-name", Tagged),
    ("get", "/api/whoami", Tagged),
    ("get", "/api/extensions", Tagged),
    ("get", "/api/feature-flags", Administrator),
    ("get", "/api/deprecated-features", Administrator),
    ("get", "/api/deprecated-features/used", Administrator),
    ("get", "/api/auth", Everyone),
    ("get", "/api/auth/hash_password/{password}", Tagged),
    ("get", "/api/auth/attempts/{node}", Monitoring),
    ("get", "/api/version", Tagged),
    ("get", "/api/openapi.json", Tagged),
    ("post", "/api/rebalance/queues", Administrator),
    ("delete", "/api/reset", Administrator),
    ("delete", "/api/reset/{node}", Administrator),
    ("get", "/api/nodes", Monitoring),
    ("get", "/api/nodes/{node}", Monitoring),
    ("get", "/api/nodes/{node}/memory", Monitoring),
    ("get", "/api/connections", Tagged),
    ("get", "/api/connections/{name}", Monitoring),
    ("get", "/api/connections/{name}/channels", Monitoring),
    ("get", "/api/connections/username/{user}", Tagged),
    ("get", "/api/vhosts/{vhost}/connections", InVhost),
    ("get", "/api/channels", Tagged),
    ("get", "/api/channels/{name}", Monitoring),
    ("get", "/api/vhosts/{vhost}/channels", InVhost),
    ("get", "/api/consumers", Tagged),
    ("get", "/api/consumers/{vhost}", Tagged),
    ("get", "/api/vhosts", Tagged),
    ("get", "/api/vhosts/{vhost}", InVhost),
    ("get", "/api/exchanges", Tagged),
    ("get", "/api/exchanges/{vhost}", InVhost),
    ("get", "/api/exchanges/{vhost}/{name}", InVhost),
    ("get", "/api/exchanges/{vhost}/{name}/bindings/source", InVhost),
    ("get", "/api/exchanges/{vhost}/{name}/bindings/destination", InVhost),
    ("get", "/api/queues", Tagged),
    ("get", "/api/queues/detailed", Tagged),
    ("get", "/api/queues/{vhost}", InVhost),
    ("get", "/api/queues/{vhost}/{name}", InVhost),
    ("get", "/api/queues/{vhost}/{name}/bindings", InVhost),
    ("get", "/api/queues/{vhost}/{name}/messages", Acting),
    ("get", "/api/queues/{vhost}/{name}/messages/{id}", Acting),
    ("get", "/api/delayed/{vhost}/{exchange}", Acting),
    ("get", "/api/delayed/{vhost}/{exchange}/{id}", Acting),
    ("get", "/api/bindings", Tagged),
    ("get", "/api/bindings/{vhost}", InVhost),
    ("get", "/api/bindings/{vhost}/e/{source}/{kind}/{destination}", InVhost),
    ("get", "/api/bindings/{vhost}/e/{source}/{kind}/{destination}/{props}", InVhost),
    ("get", "/api/aliveness-test/{vhost}", Acting),
    ("get", "/api/healthchecks/node", Tagged),
    ("get", "/api/healthchecks/node/{node}", Tagged),
    ("get", "/api/health/checks/alarms", Tagged),
    ("get", "/api/health/checks/local-alarms", Tagged),
    ("get", "/api/health/checks/certificate-expiration/{within}/{unit}", Tagged),
    ("get", "/api/health/checks/port-listener/{port}", Tagged),
    ("get", "/api/health/checks/protocol-listener/{protocol}", Tagged),
    ("get", "/api/health/checks/virtual-hosts", Tagged),
    ("get", "/api/health/checks/node-is-mirror-sync-critical", Tagged),
    ("get", "/api/health/checks/node-is-quorum-critical", Tagged),
    ("get", "/api/health/checks/is-in-service", Tagged),
    ("get", "/api/health/checks/ready-to-serve-clients", Tagged),
    ("get", "/api/health/checks/below-node-connection-limit", Tagged),
    ("get", "/api/vhosts/{vhost}/permissions", Administrator),
    ("get", "/api/vhosts/{vhost}/topic-permissions", Administrator),
    ("get", "/api/users", Administrator),
    ("get", "/api/users/without-permissions", Administrator),
    ("get", "/api/users/{user}", Administrator),
    ("get", "/api/users/{user}/permissions", Administrator),
    ("get", "/api/users/{user}/topic-permissions", Administrator),
    ("get", "/api/user-limits", Administrator),
    ("get", "/api/user-limits/{user}", Administrator),
    ("get", "/api/permissions", Administrator),
    ("get", "/api/permissions/{vhost}", Administrator),
    ("get", "/api/permissions/{vhost}/{user}", Administrator),
    ("get", "/api/topic-permissions", Administrator),
    ("get", "/api/topic-permissions/{vhost}", Administrator),
    ("get", "/api/topic-permissions/{vhost}/{user}", Administrator),
    ("get", "/api/policies", Tagged),
    ("get", "/api/policies/{vhost}", InVhost),
    ("get", "/api/policies/{vhost}/{name}", InVhost),
    ("get", "/api/operator-policies", Tagged),
    ("get", "/api/operator-policies/{vhost}", InVhost),
    ("get", "/api/operator-policies/{vhost}/{name}", InVhost),
    ("get", "/api/parameters", Policymaker),
    ("get", "/api/parameters/{component}", Policymaker),
    ("get", "/api/parameters/{component}/{vhost}", PolicymakerInVhost),
    ("get", "/api/parameters/{component}/{vhost}/{name}", PolicymakerInVhost),
    ("get", "/api/global-parameters", Policymaker),
    ("get", "/api/global-parameters/{name}", Policymaker),
    ("get", "/api/shovels", Monitoring),
    ("get", "/api/shovels/{vhost}", Monitoring),
    ("get", "/api/shovels/vhost/{vhost}/{name}", Monitoring),
    ("get", "/api/federation-links", Monitoring),
    ("get", "/api/federation-links/{vhost}", Monitoring),
    ("get", "/api/transfers", Tagged),
    ("get", "/api/transfers/{id}", Tagged),
    ("get", "/api/vhost-limits", Tagged),
    ("get", "/api/vhost-limits/{vhost}", InVhost),
    ("get", "/api/definitions", Administrator),
    ("get", "/api/definitions/{vhost}", AdministratorInVhost),
    ("get", "/metrics", Monitoring),
    ("get", "/metrics/per-object", Monitoring),
    ("get", "/metrics/memory-breakdown", Monitoring),
    ("get", "/metrics/detailed", Monitoring),
    ("put", "/api/vhosts/{vhost}", Administrator),
    ("delete", "/api/vhosts/{vhost}", Administrator),
    ("post", "/api/vhosts/{vhost}/start/{node}", Administrator),
    ("put", "/api/exchanges/{vhost}/{name}", InVhost),
    ("delete", "/api/exchanges/{vhost}/{name}", InVhost),
    ("post", "/api/exchanges/{vhost}/{name}/publish", InVhost),
    ("put", "/api/queues/{vhost}/{name}", InVhost),
    ("delete", "/api/queues/{vhost}/{name}", InVhost),
    ("delete", "/api/queues/{vhost}/{name}/contents", InVhost),
    ("post", "/api/queues/{vhost}/{name}/get", InVhost),
    ("delete", "/api/queues/{vhost}/{name}/messages/{id}", InVhost),
    ("post", "/api/queues/{vhost}/{name}/messages/{id}/move", InVhost),
    ("delete", "/api/delayed/{vhost}/{exchange}/{id}", InVhost),
    ("post", "/api/queues/{vhost}/{name}/redrive", InVhost),
    ("delete", "/api/transfers/{id}", Tagged),
    ("delete", "/api/shovels/vhost/{vhost}/{name}", PolicymakerInVhost),
    ("delete", "/api/shovels/vhost/{vhost}/{name}/restart", Monitoring),
    ("post", "/api/bindings/{vhost}/e/{source}/{kind}/{destination}", InVhost),
    ("delete", "/api/bindings/{vhost}/e/{source}/{kind}/{destination}/{props}", InVhost),
    ("post", "/api/users/bulk-delete", Administrator),
    ("put", "/api/users/{user}", Administrator),
    ("put", "/api/users/{user}/tags", Administrator),
    ("put", "/api/users/{user}/password", Administrator),
    ("delete", "/api/users/{user}", Administrator),
    ("put", "/api/user-limits/{user}/{name}", Administrator),
    ("delete", "/api/user-limits/{user}/{name}", Administrator),
    ("put", "/api/permissions/{vhost}/{user}", Administrator),
    ("delete", "/api/permissions/{vhost}/{user}", Administrator),
    ("put", "/api/topic-permissions/{vhost}/{user}", Administrator),
    ("delete", "/api/topic-permissions/{vhost}/{user}", Administrator),
    ("delete", "/api/topic-permissions/{vhost}/{user}/{exchange}", Administrator),
    ("put", "/api/policies/{vhost}/{name}", PolicymakerInVhost),
    ("delete", "/api/policies/{vhost}/{name}", PolicymakerInVhost),
    ("put", "/api/operator-policies/{vhost}/{name}", AdministratorInVhost),
    ("delete", "/api/operator-policies/{vhost}/{name}", AdministratorInVhost),
    ("put", "/api/parameters/{component}/{vhost}/{name}", PolicymakerInVhost),
    ("delete", "/api/parameters/{component}/{vhost}/{name}", PolicymakerInVhost),
    ("put", "/api/global-parameters/{name}", Policymaker),
    ("delete", "/api/global-parameters/{name}", Policymaker),
    ("put", "/api/vhost-limits/{vhost}/{name}", Administrator),
    ("delete", "/api/vhost-limits/{vhost}/{name}", Administrator),
    ("post", "/api/definitions", Administrator),
    ("post", "/api/definitions/{vhost}", AdministratorInVhost),
    ("put", "/api/feature-flags/{name}/enable", Administrator),
    ("get", "/api/process", Administrator),
    ("get", "/api/process/environment", Administrator),
    ("put", "/api/process/memory-watermark", Administrator),
    ("put", "/api/process/disk-free-limit", Administrator),
    ("put", "/api/process/log-level", Administrator),
    ("post", "/api/process/reload", Administrator),
    ("post", "/api/process/stop", Administrator),
    ("post", "/api/process/stop-app", Administrator),
    ("post", "/api/process/start-app", Administrator),
    ("post", "/api/users/{user}/authenticate", Administrator),
    // Last, for they close what the others ask for.
    ("delete", "/api/connections/{name}", Administrator),
    ("delete", "/api/connections/username/{user}", Administrator),
];

#[test]
fn every_route_lets_in_whom_it_is_for_and_nobody_else() {
    let node = Node::start();
    let _client = Client::connect(node.amqp).expect("a connection of guest's");
    let connections = node.until("/api/connections", |all| all[0]["channels"] == 1);
    let connection = connections[0]["name"].as_str().expect("a name").replace(' ', "%20").replace('>', "%3E");
    let own = node.get("/api/overview")["node"].as_str().expect("a name").to_owned();
    for (method, route, whom) in ROUTES {
        let name = match *route {
            "/api/channels/{name}" => format!("{connection}%20(1)"),
            route if route.contains("/connections/") => connection.clone(),
            _ => "amq.topic".to_owned(),
        };
        // The others still need this one.
        let vhost = if *route == "/api/vhosts/{vhost}" && *method != "get" { "new" } else { "%2F" };
        let mut path = route.replace("{name}", &name).replace("{vhost}", vhost).replace("{node}", &own);
        for (part, value) in [("{port}", "1"), ("{within}", "1"), ("{unit}", "days"), ("{user}", "nobody")] {
            path = path.replace(part, value);
        }
        path = path.replace(['{', '}'], "");
        let ask = |login: Option<&str>| node.ask(&method.to_uppercase(), &path, login);
        let nobody = ask(None);
        let stranger = ask(Some("guest:wrong"));
        for refused in [&nobody, &stranger] {
            assert_eq!(refused.status == 401, *whom != Everyone, "{method} {path}: {}", refused.text);
            if refused.status == 401 {
                assert_eq!(refused.json()["error"], "not_authorized", "{path}");
                assert!(refused.challenge.as_ref().is_some_and(|text| text.starts_with("Basic ")), "{path}");
            }
        }
        for user in USERS {
            let answer = ask(Some(&format!("{user}:{PASSWORD}")));
            let told = format!("{method} {path} as {user}: {} {}", answer.status, answer.text);
            if whom.leaves_to_permissions(user, method) {
                assert!(answer.status >= 400, "{told}");
            } else {
                assert_eq!(answer.status != 401, whom.lets_in(user), "{told}");
            }
            if answer.status == 401 {
                assert_eq!(answer.json()["error"], "not_authorised", "{told}");
            }
            assert!(answer.status < 500 || answer.status == 503, "{told}");
        }
    }
}

#[test]
fn every_route_is_described_and_in_the_table_of_this_test() {
    let node = Node::start();
    let description = node.get("/api/openapi.json");
    let mut described = BTreeSet::new();
    for (path, operations) in description["paths"].as_object().expect("paths") {
        for (method, operation) in operations.as_object().expect("operations") {
            assert!(operation["summary"].as_str().is_some_and(|text| !text.is_empty()), "{path}");
            described.insert((method.clone(), path.clone()));
        }
    }
    let listed: BTreeSet<_> =
        ROUTES.iter().map(|(method, path, _)| ((*method).to_owned(), (*path).to_owned())).collect();
    assert_eq!(described, listed);
}

#[test]
fn a_user_sees_their_own_and_who_monitors_sees_all() {
    let node = Node::start();
    let _client = Client::connect(node.amqp).expect("a connection of guest's");
    node.until("/api/connections", |all| all[0]["channels"] == 1);
    let seen = |user: &str, path: &str| {
        let answer = node.ask("GET", path, Some(&format!("{user}:{PASSWORD}")));
        answer.json().as_array().expect("a list").len()
    };
    for (path, management, monitoring) in
        [("/api/connections", 0, 1), ("/api/channels", 0, 1), ("/api/vhosts", 1, 2)]
    {
        assert_eq!((seen("management", path), seen("monitoring", path)), (management, monitoring), "{path}");
    }
    let names = |user: &str| {
        let answer = node.ask("GET", "/api/exchanges?columns=vhost", Some(&format!("{user}:{PASSWORD}")));
        let vhosts: BTreeSet<String> = answer
            .json()
            .as_array()
            .expect("a list")
            .iter()
            .map(|exchange| exchange["vhost"].as_str().expect("a name").to_owned())
            .collect();
        vhosts.into_iter().collect::<Vec<_>>()
    };
    assert_eq!(
        (names("elsewhere"), names("monitoring")),
        (vec!["other".to_owned()], vec!["/".to_owned(), "other".to_owned()])
    );
}
