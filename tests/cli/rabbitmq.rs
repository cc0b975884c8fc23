//! Who comes from RabbitMQ with its files and variables finds what they say.

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::{Broker, check_refused, fresh_dir, sluicemq};

const DEFINITIONS: &str = r#"{
    "users": [{"name": "shop", "password": "secret", "tags": ["administrator"]}],
    "vhosts": [{"name": "orders"}],
    "permissions": [{"user": "shop", "vhost": "orders", "configure": ".*", "write": ".*", "read": ".*"}],
    "queues": [{"name": "paid", "vhost": "orders", "durable": true, "auto_delete": false, "arguments": {}}]
}"#;

fn files(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().expect("in the directory")).expect("a directory");
        fs::write(path, text).expect("a file");
    }
    dir
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of ours is text")
}

fn ctl(data_dir: &Path, words: &[&str]) -> String {
    let output =
        sluicemq(&["ctl"]).args(words).env("SLUICEMQ_DATA_DIR", data_dir).output().expect("the binary runs");
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// Runs a broker to its end, which `look` sees before; its log.
fn run(command: &mut Command, look: impl FnOnce()) -> Vec<String> {
    let mut broker = Broker::start(command);
    let mut log = broker.log_until("Server startup complete");
    look();
    broker.signal("-TERM");
    log.extend(broker.log_until("stopped"));
    log
}

#[test]
fn its_files_are_read_and_what_means_nothing_is_told_once() {
    let dir = files(&[
        (
            "rabbitmq.conf",
            "listeners.tcp.default = 127.0.0.1:0\ndefault_user = one\ncluster_formation.x = y\n",
        ),
        ("conf.d/10-user.conf", "default_user = two\ndefault_pass = secret\ncluster_formation.x = z\n"),
        ("conf.d/20-log.conf", "log.console.formatter = json\n"),
        ("conf.d/README", "no settings\n"),
        ("other.d/10-other.conf", "no settings\n"),
        ("other.d/20-other.conf", "log.console.level = info\n"),
        ("advanced.config", "[].\n"),
    ]);
    let (conf, data_dir) = (dir.path().join("rabbitmq.conf"), fresh_dir());
    let by_flag = ["--config", text(&conf)];
    let by_variables = [
        ("RABBITMQ_CONFIG_FILE", dir.path().join("rabbitmq")),
        ("RABBITMQ_CONFIG_FILES", dir.path().join("other.d/2*.conf")),
    ];
    let commands = [sluicemq(&by_flag), {
        let mut command = sluicemq(&[]);
        command.envs(by_variables);
        command
    }];
    for mut command in commands {
        let log = run(command.env("SLUICEMQ_DATA_DIR", &data_dir), || {
            let users = ctl(&data_dir, &["list_users", "-q"]);
            assert!(users.contains("two\t[administrator]") && !users.contains("guest"), "{users}");
        });
        let lines = |mark: &str| log.iter().filter(|line| line.contains(mark)).count();
        assert!(log.iter().all(|line| line.starts_with('{')), "{log:#?}");
        assert_eq!(lines("mean nothing here and are ignored: cluster_formation.x\""), 1, "{log:#?}");
        assert_eq!(lines("advanced.config is not read"), 1, "{log:#?}");
    }
}

#[test]
fn they_are_printed_as_ours() {
    let dir = files(&[("rabbitmq.conf", "heartbeat = 17\ndefault_pass = hidden\n")]);
    let conf = dir.path().join("rabbitmq.conf");
    let printed = sluicemq(&["config", "--from", text(&conf)]).env("RABBITMQ_NODE_PORT", "5673").output();
    let printed = printed.expect("the binary runs");
    let told = String::from_utf8_lossy(&printed.stdout);
    assert!(
        told.contains("heartbeat_seconds = 17") && told.contains("listeners = [\"0.0.0.0:5673\"]"),
        "{told}"
    );
    assert!(!told.contains("hidden"));
    let warned = String::from_utf8_lossy(&printed.stderr);
    assert!(warned.contains("holds passwords and others can read it"), "{warned}");
}

#[test]
fn a_mistake_in_them_is_one_sentence() {
    let dir = files(&[("rabbitmq.conf", ""), ("conf.d/1.conf", "\nheartbeat = often\n")]);
    let conf = dir.path().join("rabbitmq.conf");
    check_refused(
        &mut sluicemq(&["--config", text(&conf)]),
        2,
        "conf.d/1.conf: line 2: heartbeat: expected a duration",
    );
    let mut command = sluicemq(&[]);
    check_refused(command.env("RABBITMQ_NODE_PORT", "x"), 2, "environment variable RABBITMQ_NODE_PORT: ");
    let missing = dir.path().join("none/nowhere.conf");
    check_refused(sluicemq(&[]).env("RABBITMQ_CONFIG_FILE", &missing), 2, "cannot read ");
}

#[test]
fn each_start_adds_the_definitions_and_their_users_are_instead_of_the_first() {
    let dir = files(&[("definitions.json", DEFINITIONS)]);
    let (definitions, data_dir) = (dir.path().join("definitions.json"), fresh_dir());
    let command = || {
        let mut command = sluicemq(&["--listen", "127.0.0.1:0"]);
        command.env("SLUICEMQ_DATA_DIR", &data_dir).env("SLUICEMQ_DEFINITIONS", &definitions);
        command
    };
    run(&mut command(), || {
        assert_eq!(ctl(&data_dir, &["list_users", "-q", "--no-table-headers"]), "shop\t[administrator]\n");
        assert_eq!(ctl(&data_dir, &["list_queues", "-p", "orders", "-q", "--no-table-headers"]), "paid\t0\n");
        ctl(&data_dir, &["delete_queue", "-p", "orders", "paid"]);
        ctl(&data_dir, &["add_user", "other", "secret"]);
    });
    run(&mut command(), || {
        let users = ctl(&data_dir, &["list_users", "-q", "--no-table-headers"]);
        assert!(users.contains("shop\t") && users.contains("other\t"), "{users}");
        assert_eq!(ctl(&data_dir, &["list_queues", "-p", "orders", "-q", "--no-table-headers"]), "paid\t0\n");
    });
}

#[test]
fn definitions_that_cannot_be_are_no_start() {
    let unknown = r#"{"queues": [{"name": "lost", "vhost": "nowhere"}]}"#;
    let dir = files(&[
        ("no.json", "[1]"),
        ("unknown.json", unknown),
        ("all/1.json", "{}"),
        ("all/2.json", unknown),
    ]);
    let at = |name: &str| {
        let mut command = sluicemq(&["--listen", "127.0.0.1:0"]);
        command.env("SLUICEMQ_DEFINITIONS", dir.path().join(name));
        command
    };
    for (name, code, told) in [
        ("missing.json", 2, "cannot read the definitions in "),
        ("no.json", 2, "no.json: invalid type"),
        ("unknown.json", 1, "unknown.json: queues[0]: "),
        ("all", 1, "all/2.json: queues[0]: "),
    ] {
        let output = at(name).output().expect("the binary runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(told), "{said}");
    }
}
