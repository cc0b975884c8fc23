use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use super::{AdminError, PasswordChange, PolicyRequest, Undertaking, VhostRequest};
use crate::auth::password::{Hashing, PasswordHash};
use crate::auth::permissions::Access;
use crate::auth::sasl::Credentials;
use crate::broker::Broker;
use crate::broker::error::ResourceKind;
use crate::broker::memory::Memory;
use crate::broker::policy::Author;
use crate::broker::vhost::{Actor, BindingRequest, ExchangeRequest, QueueRequest};
use crate::broker::wakes::Wakes;
use crate::clock::Now;
use crate::config::{Config, Secret};
use crate::protocol::field::Field;
use crate::protocol::table::{Table, TableBuf};
use crate::storage::disk::simulated::SimulatedDisk;
use crate::storage::log::LogOptions;

fn open(disk: &Arc<SimulatedDisk>) -> Broker {
    open_with(disk, Config::default())
}

fn open_with(disk: &Arc<SimulatedDisk>, config: Config) -> Broker {
    let (config, memory) = (Arc::new(config), Memory::new(u64::MAX, u64::MAX));
    let options = LogOptions { epoch_seed: Some(7), slot_bytes: 1 << 20, ..LogOptions::default() };
    Broker::open(config, Arc::<SimulatedDisk>::clone(disk), options, memory).unwrap().0
}

/// The broker that a crash leaves, when everything that was answered was durable.
fn crashed(broker: Broker, disk: &Arc<SimulatedDisk>) -> Broker {
    while broker.node.log.durable() < broker.node.log.end() {
        broker.commit().unwrap();
    }
    drop(broker);
    open(disk)
}

fn finish(broker: &Broker, undertaking: Result<Undertaking, AdminError>) -> Undertaking {
    let mut undertaking = undertaking.unwrap();
    let mut wakes = Wakes::default();
    while !undertaking.step(broker, &mut wakes) {
        wakes.begin_turn(0);
    }
    undertaking
}

fn may_log_in(broker: &Broker, user: &str) -> bool {
    let credentials = Credentials::by_password(user, Secret::new("test12"));
    broker.login(&credentials, IpAddr::V4(Ipv4Addr::LOCALHOST), Now::read().instant).is_some()
}

fn actor(broker: &Broker) -> Actor {
    Actor { user: broker.users.get("guest").unwrap(), connection: broker.connect().connection() }
}

fn declare(broker: &Broker, name: &str) {
    let request =
        QueueRequest { name, durable: true, exclusive: false, auto_delete: false, arguments: Table::EMPTY };
    broker.vhost("/").unwrap().declare_queue(&actor(broker), &request).unwrap();
}

fn table(entries: &[(&str, Field<'_>)]) -> TableBuf {
    let mut table = TableBuf::new();
    for (key, value) in entries {
        table.insert(key, *value);
    }
    table
}

#[test]
fn what_was_said_survives_a_crash_and_what_was_taken_back_does_not() {
    let disk = Arc::new(SimulatedDisk::new());
    let broker = open(&disk);
    assert!(broker.users.get("guest").unwrap().has_tag("administrator"), "an empty directory begins with it");
    let password = PasswordChange::Set(PasswordHash::hash(b"secret").unwrap());
    assert!(finish(&broker, broker.put_vhost("v", &VhostRequest::default())).is_new);
    assert!(finish(&broker, broker.put_user("alice", &password, &["monitoring".to_owned()])).is_new);
    assert!(!finish(&broker, broker.put_user("alice", &PasswordChange::Keep, &[])).is_new);
    finish(&broker, broker.put_user("bob", &password, &[]));
    finish(&broker, broker.set_permissions("alice", "v", ["^c", "^w", "^r"]));
    finish(&broker, broker.set_permissions("bob", "v", [".*"; 3]));
    finish(&broker, broker.set_topic_permissions("alice", "v", "x", ["^a", "^b"]));
    finish(&broker, broker.set_user_limits("alice", table(&[("max-channels", Field::I64(3))]).as_table()));
    finish(&broker, broker.set_vhost_limits("v", table(&[("max-queues", Field::I64(2))]).as_table()));
    finish(&broker, broker.set_global_parameter("cluster_name", Field::LongStr(b"here")));
    finish(&broker, broker.delete_user("bob"));
    let broker = crashed(broker, &disk);
    let alice = broker.users.get("alice").unwrap();
    assert!(alice.profile().password.as_ref().unwrap().verify(b"secret") && !alice.has_tag("monitoring"));
    assert!(alice.allows("v", Access::Read, "r1") && !alice.allows("v", Access::Read, "x"));
    assert!(
        alice.allows_topic("v", Access::Write, "x", "a") && !alice.allows_topic("v", Access::Write, "x", "b")
    );
    assert_eq!(alice.profile().channels_max, Some(3));
    assert_eq!(broker.vhost("v").unwrap().limits().queues_max, Some(2));
    assert!(broker.parameters.get("", "global", "cluster_name").is_some());
    assert!(broker.users.get("bob").is_none());
    // The next one of that name begins with nothing.
    finish(&broker, broker.put_user("bob", &password, &[]));
    let broker = crashed(broker, &disk);
    assert!(!broker.users.get("bob").unwrap().may_open("v"));
}

#[test]
fn who_is_not_there_is_told_so() {
    let broker = open(&Arc::new(SimulatedDisk::new()));
    let refused = |result: Result<Undertaking, AdminError>| result.unwrap_err().to_string();
    assert_eq!(refused(broker.set_permissions("nobody", "/", [".*"; 3])), "vhost_or_user_not_found");
    assert_eq!(refused(broker.set_permissions("guest", "nowhere", [".*"; 3])), "vhost_or_user_not_found");
    assert_eq!(refused(broker.delete_user("nobody")), "Not Found");
    assert_eq!(refused(broker.clear_permissions("guest", "nowhere")), "Not Found");
    assert_eq!(refused(broker.clear_policy(Author::User, "/", "none")), "Not Found");
    let component = broker.set_parameter("/", "foo", "x", Table::EMPTY);
    assert_eq!(refused(component), "Validation failed\n\ncomponent foo not found\n");
}

#[test]
fn the_policy_of_the_highest_priority_applies_to_queues_that_are_there_and_that_come() {
    let disk = Arc::new(SimulatedDisk::new());
    let broker = open(&disk);
    declare(&broker, "orders.old");
    let set = |author, name: &str, priority, key: &str, value| {
        let definition = table(&[(key, Field::I64(value))]);
        let definition = definition.as_table();
        let request = PolicyRequest { name, pattern: "^orders", apply_to: "queues", priority, definition };
        finish(&broker, broker.set_policy(author, "/", &request));
    };
    set(Author::User, "low", 1, "max-length", 1);
    set(Author::User, "high", 2, "max-length", 9);
    set(Author::Operator, "limit", 0, "max-length", 7);
    declare(&broker, "orders.new");
    declare(&broker, "other");
    let told = |broker: &Broker, name: &str| {
        let queue = broker.vhost("/").unwrap().queue(name).unwrap();
        let policies = queue.policies();
        let user =
            policies.as_ref().and_then(|applied| applied.user.as_ref().map(|policy| policy.name.to_string()));
        (user, queue.lock().settings.length_max)
    };
    let expected = (Some("high".to_owned()), Some(7));
    assert_eq!(told(&broker, "orders.old"), expected);
    assert_eq!(told(&broker, "orders.new"), expected);
    assert_eq!(told(&broker, "other"), (None, None));
    finish(&broker, broker.clear_policy(Author::User, "/", "high"));
    assert_eq!(told(&broker, "orders.old"), (Some("low".to_owned()), Some(1)));
    let broker = crashed(broker, &disk);
    assert_eq!(told(&broker, "orders.old"), (Some("low".to_owned()), Some(1)));
    finish(&broker, broker.clear_policy(Author::User, "/", "low"));
    finish(&broker, broker.clear_policy(Author::Operator, "/", "limit"));
    assert_eq!(told(&broker, "orders.old"), (None, None));
}

#[test]
fn a_policy_that_says_what_a_kind_does_not_know_does_not_apply_to_it() {
    let broker = open(&Arc::new(SimulatedDisk::new()));
    declare(&broker, "q");
    let definition = table(&[("delivery-limit", Field::I64(5)), ("max-length", Field::I64(5))]);
    let definition = definition.as_table();
    let request = PolicyRequest { name: "p", pattern: "", apply_to: "all", priority: 0, definition };
    finish(&broker, broker.set_policy(Author::User, "/", &request));
    assert!(broker.vhost("/").unwrap().queue("q").unwrap().policies().is_none());
    let wrong = PolicyRequest { pattern: "(", apply_to: "nothing", definition: Table::EMPTY, ..request };
    let told = broker.set_policy(Author::User, "/", &wrong).unwrap_err().to_string();
    assert_eq!(
        told,
        "Validation failed\n\nno policy provided\napply-to 'nothing' unrecognised; should be 'queues', \
         'classic_queues', 'quorum_queues', 'streams', 'exchanges' or 'all'\npattern should be regular expression \
         but is invalid: unclosed group\n"
    );
}

#[test]
fn a_virtual_host_goes_with_all_that_is_in_it() {
    let disk = Arc::new(SimulatedDisk::new());
    let broker = open(&disk);
    finish(&broker, broker.put_vhost("v", &VhostRequest::default()));
    finish(&broker, broker.set_permissions("guest", "v", [".*"; 3]));
    finish(&broker, broker.set_vhost_limits("v", table(&[("max-queues", Field::I64(1000))]).as_table()));
    let vhost = broker.vhost("v").unwrap();
    let guest = actor(&broker);
    let declare = |name: &str| {
        let (durable, exclusive, auto_delete, arguments) = (true, false, false, Table::EMPTY);
        vhost.declare_queue(&guest, &QueueRequest { name, durable, exclusive, auto_delete, arguments })
    };
    (0..300).for_each(|number| drop(declare(&format!("q{number}")).unwrap()));
    let delayed = table(&[("x-delayed-type", Field::LongStr(b"direct"))]);
    let exchange = ExchangeRequest {
        name: "x",
        kind: "x-delayed-message",
        durable: true,
        auto_delete: false,
        internal: false,
        arguments: delayed.as_table(),
    };
    vhost.declare_exchange(&guest, &exchange).unwrap();
    let mut leaving = broker.delete_vhost("v").unwrap();
    assert!(declare("late").is_err(), "nothing new comes in");
    let mut wakes = Wakes::default();
    let mut turns = 1;
    while !leaving.step(&broker, &mut wakes) {
        wakes.begin_turn(0);
        turns += 1;
    }
    assert!(turns < 20, "{turns} turns");
    assert!(broker.vhost("v").is_none() && !broker.users.get("guest").unwrap().may_open("v"));
    let broker = crashed(broker, &disk);
    assert!(broker.vhost("v").is_none() && !broker.users.get("guest").unwrap().may_open("v"));
    assert!(broker.parameters.of_vhosts().is_empty());
}

#[test]
fn a_deleted_virtual_host_stays_away_and_spares_the_next_of_its_name() {
    let disk = Arc::new(SimulatedDisk::new());
    let broker = open(&disk);
    finish(&broker, broker.put_vhost("v", &VhostRequest::default()));
    finish(&broker, broker.set_permissions("guest", "v", [".*"; 3]));
    // A binding between what is not declared.
    let (source, destination, key, arguments) = ("amq.direct", "amq.fanout", "k", Table::EMPTY);
    let binding = BindingRequest { source, kind: ResourceKind::Exchange, destination, key, arguments };
    broker.vhost("v").unwrap().bind(&actor(&broker), &binding).unwrap();
    // Twice at once, and the second one is slow.
    let slow = broker.delete_vhost("v");
    finish(&broker, broker.delete_vhost("v"));
    let broker = crashed(broker, &disk);
    assert!(broker.vhost("v").is_none(), "it is not made by what was in it");
    drop(slow);
    finish(&broker, broker.put_vhost("v", &VhostRequest::default()));
    let slow = broker.delete_vhost("v");
    finish(&broker, broker.delete_vhost("v"));
    finish(&broker, broker.put_vhost("v", &VhostRequest::default()));
    finish(&broker, slow);
    assert!(broker.vhost("v").is_some_and(|vhost| !vhost.is_closing()));
    assert!(crashed(broker, &disk).vhost("v").is_some());
}

#[test]
fn of_equal_priority_the_same_policy_applies_after_a_restart() {
    let disk = Arc::new(SimulatedDisk::new());
    let broker = open(&disk);
    declare(&broker, "q");
    for (name, length) in [("b", 1), ("a", 2)] {
        let definition = table(&[("max-length", Field::I64(length))]);
        let definition = definition.as_table();
        let request = PolicyRequest { name, pattern: "", apply_to: "all", priority: 0, definition };
        finish(&broker, broker.set_policy(Author::User, "/", &request));
    }
    let told = |broker: &Broker| broker.vhost("/").unwrap().queue("q").unwrap().lock().settings.length_max;
    assert_eq!(told(&broker), Some(2));
    assert_eq!(told(&crashed(broker, &disk)), Some(2));
}

#[test]
fn md5_is_taken_where_that_is_set() {
    let hash = PasswordHash::from_base64(Hashing::Md5, "kI3GChNpte2FApYFXScl+0dIluk=").unwrap();
    let password = PasswordChange::Set(hash);
    let disk = Arc::new(SimulatedDisk::new());
    let broker = open(&disk);
    let refused = broker.put_user("old", &password, &[]).unwrap_err();
    assert_eq!(refused.to_string(), "MD5 hashes are taken where md5_passwords is set");
    drop(broker);
    let broker = open_with(&disk, Config { md5_passwords: true, ..Config::default() });
    finish(&broker, broker.put_user("old", &password, &[]));
    assert!(may_log_in(&broker, "old"));
    let broker = crashed(broker, &disk);
    assert!(!may_log_in(&broker, "old"), "it is not set any more");
    finish(&broker, broker.put_user("old", &PasswordChange::Keep, &["monitoring".to_owned()]));
    assert!(broker.users.get("old").unwrap().profile().password.is_some(), "what is kept is kept");
}
