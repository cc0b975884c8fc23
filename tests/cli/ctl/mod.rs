//! `sluicemq ctl`, against what RabbitMQ's own tools print and exit with, and by the socket that only its owner opens.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::thread;
use std::time::Instant;

use serde_json::Value;

use crate::client::Client;
use crate::{Broker, PATIENCE, check_refused, fresh_dir, sluicemq};

/// What RabbitMQ says.
const RECORDED: &str = include_str!("rabbitmqctl.txt");
const DEFINITIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli/ctl/definitions.json");

/// A broker, and its tools.
struct Node {
    broker: Broker,
    dir: PathBuf,
    url: String,
    /// Where the management API is, if it is anywhere.
    mgmt: Option<String>,
}

impl Node {
    fn start() -> Self {
        Self::start_with(|_| {})
    }

    fn start_with(change: impl FnOnce(&mut Command)) -> Self {
        let dir = fresh_dir();
        let mut command = sluicemq(&["--listen", "127.0.0.1:0"]);
        command.env("SLUICEMQ_DATA_DIR", &dir);
        change(&mut command);
        let mut broker = Broker::start(&mut command);
        let log = broker.log_until("Server startup complete");
        let at = |mark: &str| log.iter().find_map(|line| Some(line.split_once(mark)?.1.trim().to_owned()));
        let url = format!("amqp://guest:guest@{}/%2f", at(" address=").expect("the port is logged"));
        Self { broker, dir, url, mgmt: at(" mgmt=") }
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("ctl.sock")
    }

    fn address(&self) -> SocketAddr {
        let address = self.url.trim_start_matches("amqp://guest:guest@").trim_end_matches("/%2f");
        address.parse().expect("an address")
    }

    fn port(&self) -> &str {
        self.url.trim_end_matches("/%2f").rsplit(':').next().expect("a port")
    }

    /// One of the tools by its name, as RabbitMQ's is called.
    fn tool(&self, name: &str, words: &[&str]) -> Output {
        let link = self.dir.join(name);
        if !link.exists() {
            symlink(env!("CARGO_BIN_EXE_sluicemq"), &link).expect("a link");
        }
        let mut command = Command::new(link);
        command.args(words).env_clear().env("SLUICEMQ_DATA_DIR", &self.dir);
        command.output().expect("the binary runs")
    }

    fn ctl(&self, words: &[&str]) -> Output {
        sluicemq(&["ctl"]).args(words).env("SLUICEMQ_DATA_DIR", &self.dir).output().expect("the binary runs")
    }

    /// What a verb prints that is done.
    fn done(&self, words: &[&str]) -> String {
        let output = self.ctl(words);
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{words:?}: {told}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// Asks until the answer is right.
    fn until(&self, words: &[&str], is_right: impl Fn(&str) -> bool) -> String {
        let start = Instant::now();
        loop {
            let told = self.done(words);
            if is_right(&told) {
                return told;
            }
            assert!(start.elapsed() < PATIENCE, "{words:?} stays {told}");
            thread::yield_now();
        }
    }
}

/// A command, and what is printed.
struct Recorded<'a> {
    command: &'a str,
    stdout: Vec<String>,
    stderr: Vec<String>,
    code: i32,
}

fn recorded<'a>() -> Vec<Recorded<'a>> {
    let parts = RECORDED.split("\n\n$ ").skip(1);
    parts
        .map(|part| {
            let (command, rest) = part.split_once('\n').expect("a command and more");
            let of = |mark: &str| {
                let lines = rest.lines().filter_map(|line| line.strip_prefix(mark));
                lines.map(str::to_owned).collect::<Vec<_>>()
            };
            let code = of("= ").first().and_then(|code| code.parse().ok()).expect("an exit code");
            Recorded { command, stdout: of("| "), stderr: of("! "), code }
        })
        .collect()
}

/// Words as a shell has them, with single quotes.
fn words(command: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (place, part) in command.split('\'').enumerate() {
        match place % 2 {
            1 => words.push(part.to_owned()),
            _ => words.extend(part.split_whitespace().map(str::to_owned)),
        }
    }
    words
}

/// Lists come in no order, and JSON's commas stand before each line but the first.
fn comparable(command: &str, mut lines: Vec<String>) -> Vec<String> {
    if command.contains("list_") {
        for line in &mut lines {
            *line = line.trim_start_matches(",{").trim_start_matches('{').to_owned();
        }
        lines.sort();
    }
    lines
}

#[test]
fn verbs_print_what_rabbitmqs_do_and_exit_as_they_do() {
    let node = Node::start();
    node.done(&["import_definitions", DEFINITIONS]);
    let told = node.done(&["ping"]);
    let name = told.split_whitespace().nth(2).expect("the node's name").trim_end_matches('.').to_owned();
    let mut wrong = Vec::new();
    for Recorded { command, stdout, stderr, code } in recorded() {
        let told = |line: String| line.replace("{node}", &name).replace("{port}", node.port());
        let mut words = words(&told(command.to_owned()));
        let tool = match words.first().is_some_and(|word| word.starts_with("rabbitmq-")) {
            true => words.remove(0),
            false => "rabbitmqctl".to_owned(),
        };
        let output = node.tool(&tool, &words.iter().map(String::as_str).collect::<Vec<_>>());
        let lines = |bytes: &[u8]| -> Vec<String> {
            let text = String::from_utf8_lossy(bytes).into_owned();
            let text =
                text.split("\u{1b}[1mUsage").next().unwrap_or_default().trim_end_matches('\n').to_owned();
            text.split('\n').filter(|_| !text.is_empty()).map(str::to_owned).collect()
        };
        let found = (
            comparable(command, String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()),
            lines(&output.stderr),
            output.status.code(),
        );
        let expected = (
            comparable(command, stdout.into_iter().map(told).collect()),
            stderr.into_iter().map(told).collect::<Vec<_>>(),
            Some(code),
        );
        if found != expected {
            wrong.push(format!("$ {command}\n   found {found:?}\nexpected {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}\n{} differ", wrong.join("\n"), wrong.len());
}

#[test]
fn the_socket_is_its_owners_and_goes_with_the_broker() {
    let mut node = Node::start();
    let found = fs::symlink_metadata(node.socket()).expect("a socket");
    assert!(found.file_type().is_socket());
    assert_eq!(found.mode() & 0o777, 0o600);
    assert_eq!(found.uid(), fs::metadata(&node.dir).expect("a directory").uid());
    node.done(&["stop"]);
    assert!(node.broker.process.wait().expect("it ends").success());
    assert!(!node.socket().exists());
}

#[test]
fn what_a_killed_broker_has_left_is_replaced_and_what_answers_is_not() {
    let dir = fresh_dir();
    let start = |log: &str| {
        let mut command = sluicemq(&["--listen", "127.0.0.1:0"]);
        let mut broker = Broker::start(command.env("SLUICEMQ_DATA_DIR", &dir));
        let lines = broker.log_until("Server startup complete");
        assert!(lines.iter().any(|line| line.contains(log)), "{lines:#?}");
        broker
    };
    drop(start("this machine's administrator"));
    assert!(dir.join("ctl.sock").exists(), "it was killed");
    drop(start("this machine's administrator"));
    fs::remove_file(dir.join("ctl.sock")).expect("the one that was left");
    let _answering = UnixListener::bind(dir.join("ctl.sock")).expect("a socket of somebody else");
    drop(start("another process answers there"));
    check_refused(
        sluicemq(&["--listen", "127.0.0.1:0", "--socket"]).arg(dir.join("ctl.sock")),
        1,
        "another process answers there",
    );
}

#[test]
fn a_socket_where_others_can_write_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("its mode");
    let path = dir.path().join("ctl.sock");
    let mut command = sluicemq(&["--listen", "127.0.0.1:0", "--socket"]);
    check_refused(command.arg(&path), 1, "others can write in");
    let node = Node::start_with(|command| {
        command.args(["--socket", "none"]);
    });
    assert!(!node.socket().exists());
    assert_eq!(node.ctl(&["ping"]).status.code(), Some(69));
}

#[test]
fn a_connection_is_listed_and_closed_as_the_java_clients_tests_do() {
    let node = Node::start();
    let _client = Client::connect(node.address()).expect("a connection");
    let list = ["list_connections", "-q", "pid", "peer_port", "client_properties"];
    let told = node.until(&list, |told| told.lines().count() == 2);
    let row: Vec<_> = told.lines().nth(1).expect("a row").split('\t').collect();
    assert!(row[1].parse::<u16>().is_ok(), "{told}");
    assert!(row[2].starts_with('['), "{told}");
    node.done(&["close_connection", row[0], "enough"]);
    node.until(&["list_connections", "-q"], str::is_empty);
}

#[test]
fn messages_are_looked_at_deleted_moved_and_redriven() {
    let node = Node::start();
    node.done(&["import_definitions", DEFINITIONS]);
    let other = "queue with a, comma and é";
    let mut client = Client::connect(node.address()).expect("a connection");
    for body in [b"one", b"two", b"six"] {
        client.push_publish("", "orders", true, body);
    }
    client.flush().expect("it goes out");
    node.until(&["list_queues", "-q", "name", "messages"], |told| told.contains("orders\t3"));
    let browsed = node.done(&["browse_messages", "-q", "orders", "--no-table-headers"]);
    let rows: Vec<Vec<_>> = browsed.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!(rows.iter().map(|row| row[5]).collect::<Vec<_>>(), ["one", "two", "six"], "{browsed}");
    node.done(&["delete_message", "orders", rows[0][0]]);
    node.done(&["move_message", "orders", rows[2][0], "--to-queue", other]);
    let gone = node.ctl(&["delete_message", "-q", "orders", rows[2][0]]);
    assert_eq!(gone.status.code(), Some(65));
    let dry = node.done(&["redrive", "-q", "orders", "--to-queue", other, "--dry-run", "--no-table-headers"]);
    assert!(dry.contains("completed\t1\t1\t0"), "{dry}");
    let moved = node.done(&["redrive", "-q", "orders", "--to-queue", other, "--no-table-headers"]);
    assert!(moved.contains("completed\t1\t1\t1"), "{moved}");
    let left = node.done(&["browse_messages", "-q", other, "--no-table-headers", "--formatter", "json"]);
    let left: Value = serde_json::from_str(&left).expect("JSON");
    assert_eq!((&left[0]["payload"], &left[1]["payload"]), (&"six".into(), &"two".into()), "{left}");
    assert_eq!(node.done(&["list_transfers", "-q", "--no-table-headers"]).lines().count(), 2);
}

#[test]
fn the_broker_stops_and_starts_in_its_process_and_what_is_durable_is_there() {
    let node = Node::start();
    node.done(&["import_definitions", DEFINITIONS]);
    node.done(&["stop_app"]);
    assert_eq!(node.ctl(&["list_queues"]).status.code(), Some(64));
    assert_eq!(node.tool("rabbitmq-diagnostics", &["check_running"]).status.code(), Some(69));
    let address = node.url.trim_start_matches("amqp://guest:guest@").trim_end_matches("/%2f");
    assert!(std::net::TcpStream::connect(address).is_err(), "nothing listens");
    node.done(&["start_app"]);
    assert!(node.done(&["-q", "list_queues", "name"]).contains("orders"));
    std::net::TcpStream::connect(address).expect("it listens at the same place");
}

#[test]
fn a_start_that_failed_is_not_told_of_the_next_one() {
    let node = Node::start_with(|command| {
        command.env("SLUICEMQ_MGMT", "127.0.0.1:0");
    });
    node.done(&["stop_app"]);
    let taken = TcpListener::bind(node.mgmt.as_deref().expect("the port is logged")).expect("it is free");
    let refused = node.ctl(&["start_app"]);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(69) && told.contains("--mgmt"), "{told}");
    drop(taken);
    node.done(&["start_app"]);
    node.done(&["list_queues"]);
}

#[test]
fn alarms_come_and_go_with_the_limits_that_are_set() {
    let node = Node::start();
    let check = ["check_alarms"];
    assert_eq!(node.tool("rabbitmq-diagnostics", &check).status.code(), Some(0));
    for (raise, clear) in [
        (
            ["set_vm_memory_high_watermark", "absolute", "1"],
            ["set_vm_memory_high_watermark", "absolute", "1GiB"],
        ),
        (["set_disk_free_limit", "1000TB", "-q"], ["set_disk_free_limit", "1000", "-q"]),
    ] {
        node.done(&raise);
        assert_eq!(node.tool("rabbitmq-diagnostics", &check).status.code(), Some(69), "{raise:?}");
        node.done(&clear);
        let start = Instant::now();
        while node.tool("rabbitmq-diagnostics", &check).status.code() != Some(0) {
            assert!(start.elapsed() < PATIENCE, "{clear:?}");
        }
    }
}

#[test]
fn a_broker_elsewhere_is_administered_with_a_name_and_a_password() {
    let node = Node::start_with(|command| {
        command.env("SLUICEMQ_MGMT", "127.0.0.1:0").env("SLUICEMQ_SOCKET", "none");
    });
    let file = node.dir.join("password");
    fs::write(&file, "guest\n").expect("a file");
    let file = file.to_str().expect("text");
    let url = format!("http://{}", node.mgmt.as_deref().expect("the port is logged"));
    let words = ["--url", &url, "--user", "guest", "--password-file", file, "-q", "list_users"];
    let output = sluicemq(&["ctl"]).args(words).output().expect("the binary runs");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "user\ttags\nguest\t[administrator]\n");
    let mut stop = words;
    stop[7] = "stop_app";
    let refused = sluicemq(&["ctl"]).args(stop).output().expect("the binary runs");
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(told.contains("no socket") && refused.status.code() == Some(69), "{told}");
    fs::write(file, "wrong").expect("a file");
    assert_eq!(sluicemq(&["ctl"]).args(words).output().expect("the binary runs").status.code(), Some(69));
}

#[test]
fn what_is_made_by_the_socket_belongs_to_nobody() {
    let node = Node::start();
    node.done(&["add_vhost", "orders"]);
    assert_eq!(node.done(&["-q", "list_vhosts"]), "name\n/\norders\n");
    assert_eq!(
        node.done(&["-q", "list_permissions", "-p", "orders"]),
        "\n",
        "an empty line, as RabbitMQ prints it"
    );
}

#[test]
fn a_status_names_the_configuration_file() {
    let file = fresh_dir().join("sluicemq.toml");
    fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
    fs::write(&file, "limits.channel_max = 5\n").expect("a file");
    let node = Node::start_with(|command| {
        command.env("SLUICEMQ_CONFIG", &file);
    });
    let status = node.done(&["status"]);
    let (_, files) = status.split_once("Config files\u{1b}[0m\n").expect("a heading");
    assert_eq!(files.trim_start().lines().next(), Some(&*format!("* {}", file.display())));
}

#[test]
fn a_limit_of_a_user_that_is_not_named_stays() {
    let node = Node::start();
    node.done(&["set_user_limits", "guest", r#"{"max-connections":5}"#]);
    node.done(&["set_user_limits", "guest", r#"{"max-channels":6}"#]);
    let limits = node.done(&["-q", "list_user_limits", "--user", "guest"]);
    assert_eq!(limits, "{\"max-channels\":6,\"max-connections\":5}\n");
}

#[test]
fn what_is_no_object_of_limits_changes_none() {
    let node = Node::start();
    let limits = r#"{"max-connections":5}"#;
    node.done(&["set_vhost_limits", limits]);
    for wrong in ["5", "[]", "null", "\"all\""] {
        assert_eq!(node.ctl(&["set_vhost_limits", wrong]).status.code(), Some(69), "{wrong}");
        assert_eq!(node.ctl(&["set_user_limits", "guest", wrong]).status.code(), Some(69), "{wrong}");
    }
    assert_eq!(node.done(&["-q", "list_vhost_limits"]).trim(), limits);
}

#[test]
fn sizes_are_in_the_unit_that_is_asked_for_and_a_check_of_nothing_fails() {
    let node = Node::start();
    let told = node.done(&["-q", "status", "--unit", "bytes"]);
    let used = told.lines().find_map(|line| line.strip_prefix("Total memory used: ")).expect("a line");
    let bytes: u64 = used.strip_suffix(" bytes").expect("its unit").parse().expect("a whole number");
    assert!(bytes > 1_000_000, "{used}");
    let told = node.tool("rabbitmq-diagnostics", &["check_protocol_listener", ""]);
    assert_eq!(told.status.code(), Some(69), "{told:?}");
    node.done(&["await_startup", "--timeout", "1e19"]);
}

#[test]
fn what_is_exported_is_its_owners_and_no_password_is_told() {
    let node = Node::start();
    let file = node.dir.join("exported.json");
    node.done(&["export_definitions", file.to_str().expect("text")]);
    assert_eq!(fs::metadata(&file).expect("a file").mode() & 0o777, 0o600);
    for url in ["http://u:secret@h:1", "http://u:sec/secret@h:1", "https://u:secret@h"] {
        let output = node.ctl(&["--url", url, "list_users"]);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(64) && !told.contains("secret"), "{told}");
    }
}

#[test]
fn a_broker_elsewhere_is_stopped_and_its_listeners_are_looked_for_where_it_is() {
    let mut node = Node::start_with(|command| {
        command.env("SLUICEMQ_MGMT", "127.0.0.2:0");
    });
    let file = node.dir.join("password");
    fs::write(&file, "guest\n").expect("a file");
    let url = format!("http://{}", node.mgmt.as_deref().expect("the port is logged"));
    let place = ["--url", &url, "--user", "guest", "--password-file", file.to_str().expect("text")];
    let ask = |tool, verb| node.tool(tool, &[&place[..], &[verb]].concat());
    let looked = ask("rabbitmq-diagnostics", "check_port_connectivity");
    let told = String::from_utf8_lossy(&looked.stderr).into_owned();
    assert!(
        looked.status.code() == Some(69) && told.contains("protocol: amqp"),
        "only 127.0.0.1 has it: {told}"
    );
    let stopped = ask("rabbitmqctl", "stop_app");
    assert_eq!(stopped.status.code(), Some(0), "{stopped:?}");
    node.done(&["start_app"]);
    node.done(&["stop"]);
    assert!(node.broker.process.wait().expect("it ends").success());
}

#[test]
fn puppets_question_about_a_password_is_answered_as_erlang_would() {
    let node = Node::start();
    let ask = |password: &str| {
        node.ctl(&[
            "eval",
            &format!("rabbit_access_control:check_user_pass_login(list_to_binary(\"guest\"), {password})."),
        ])
    };
    let told = |password: &str| String::from_utf8(ask(password).stdout).expect("text");
    let good = "{ok,{user,<<\"guest\">>,[administrator],[{rabbit_auth_backend_internal,none}]}}\n";
    assert_eq!(told("list_to_binary(\"guest\")"), good);
    let bad = "{refused,<<\"guest\">>,\"user '~s' - invalid credentials\",[<<\"guest\">>]}\n";
    assert_eq!(told("list_to_binary(\"other\")"), bad);
    for other in ["halt()", "list_to_binary(\"a\\\"b\")", "list_to_binary(\"a\"), halt(\"\")"] {
        assert_eq!(ask(other).status.code(), Some(69), "{other}");
    }
}

#[test]
fn what_cannot_be_here_says_so_and_a_slip_is_seen() {
    let node = Node::start();
    for (words, code, told) in [
        (&["eval", "1."][..], 69, "there is no Erlang here"),
        (&["join_cluster", "rabbit@other"], 69, "there is one node"),
        (&["force_gc"], 69, "there is no Erlang here"),
        (&["trace_on", "-p", "none"], 65, "does not exist"),
        (&["list_que"], 64, "Did you mean 'list_queues'?"),
        (&["list_queues", "--formatter", "frob"], 64, "formatter"),
    ] {
        let output = node.ctl(words);
        assert_eq!(output.status.code(), Some(code), "{words:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(told), "{words:?}");
    }
    let stranger = sluicemq(&["ctl", "list_queues"]).output().expect("the binary runs");
    assert_eq!(stranger.status.code(), Some(69), "no broker is there");
    let parsed: Value = serde_json::from_str(&node.done(&["status", "--formatter", "json"])).expect("JSON");
    assert_eq!(parsed["alarms"].as_array().map(Vec::len), Some(0), "{parsed}");
    for words in [&["report"][..], &["environment"], &["cluster_status"], &["help"], &["version"]] {
        assert!(!node.done(words).is_empty(), "{words:?}");
    }
}
