//! The binary as a person meets it: what they type, what they are told, and the exit code.

#[allow(dead_code, clippy::indexing_slicing)]
#[path = "../chaos/client.rs"]
mod client;
mod ctl;
mod errors;
mod log;
mod rabbitmq;
mod reload;
mod supervisor;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Once, mpsc};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

/// A process that says nothing for so long, and should, has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The binary with no environment but what a test sets.
pub(crate) fn sluicemq(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluicemq"));
    command.args(arguments).env_clear().env("SLUICEMQ_DATA_DIR", fresh_dir());
    // Tests run side by side, and beside other brokers.
    command.env("SLUICEMQ_MGMT", "none").env("SLUICEMQ_PROMETHEUS", "none");
    command
}

/// A directory of its own for each process, which no other test uses. What earlier runs have left goes before the first:
/// it may be wanted until then, and is a few GiB.
pub(crate) fn fresh_dir() -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    static SWEPT: Once = Once::new();
    SWEPT.call_once(sweep);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("cli-{}-{number}", std::process::id()));
    let _not_there = fs::remove_dir_all(&dir);
    dir
}

/// Removes the directories of processes that have ended.
fn sweep() {
    let found = fs::read_dir(env!("CARGO_TARGET_TMPDIR")).expect("cargo makes it");
    for entry in found.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix("cli-").and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            // Another run may sweep at the same time.
            let _gone = fs::remove_dir_all(entry.path()).or_else(|_| fs::remove_file(entry.path()));
        }
    }
}

fn output(arguments: &[&str]) -> Output {
    sluicemq(arguments).output().expect("the binary runs")
}

/// Checks the exit code and the one sentence on stderr.
pub(crate) fn check_refused(command: &mut Command, code: i32, sentence: &str) {
    let output = command.output().expect("the binary runs");
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{told}");
    assert!(told.contains(sentence), "told: {told}\nexpected: {sentence}");
    assert!(output.stdout.is_empty());
}

struct ConfigFile {
    _dir: TempDir,
    path: PathBuf,
}

fn config_file(text: &str, mode: u32) -> ConfigFile {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("sluicemq.toml");
    fs::write(&path, text).expect("a file");
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("its mode");
    ConfigFile { _dir: dir, path }
}

impl ConfigFile {
    fn argument(&self) -> &str {
        self.path.to_str().expect("a path of ours is text")
    }
}

/// A broker, or its load, in a process of its own, killed when the test ends early. What it says is always read: one
/// whose log nobody reads stands still.
pub(crate) struct Broker {
    pub(crate) process: Child,
    pub(crate) lines: mpsc::Receiver<String>,
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What a broker of the tests is told unless its test says otherwise: small files, and no alarm on a disk that is nearly
/// full.
const SMALL: [(&str, &str); 2] =
    [("SLUICEMQ_STORAGE_SLOT_BYTES", "1MiB"), ("SLUICEMQ_STORAGE_DISK_FREE_LIMIT", "1MiB")];

impl Broker {
    pub(crate) fn start(command: &mut Command) -> Self {
        for (variable, value) in SMALL {
            if command.get_envs().all(|(set, _)| set != variable) {
                command.env(variable, value);
            }
        }
        let started = command.stderr(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut process = started.expect("the binary starts");
        let log = BufReader::new(process.stderr.take().expect("piped"));
        let (line, lines) = mpsc::channel();
        thread::spawn(move || {
            log.lines().map(|line| line.expect("the log is text")).try_for_each(|told| line.send(told))
        });
        Self { process, lines }
    }

    /// The log up to the line with this text.
    pub(crate) fn log_until(&mut self, text: &str) -> Vec<String> {
        let mut lines = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            lines.push(line);
            if lines.last().is_some_and(|line| line.contains(text)) {
                return lines;
            }
        }
        panic!("the log ended, or stood still, without {text:?}: {lines:#?}");
    }

    /// Where a client connects, once it can.
    pub(crate) fn url(&mut self) -> String {
        let log = self.log_until("Server startup complete");
        let address = log.iter().find_map(|line| line.split_once("address=")).expect("the port is logged").1;
        format!("amqp://guest:guest@{}/%2f", address.trim())
    }

    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.process.id().to_string()]).status();
        assert!(sent.expect("kill runs").success());
    }
}

#[test]
fn help_shows_the_flags_and_their_defaults() {
    for arguments in [&["--help"][..], &["serve", "--help"]] {
        let help = output(arguments);
        assert!(help.status.success());
        let text = String::from_utf8_lossy(&help.stdout);
        for expected in ["--listen", "127.0.0.1:5672", "--mgmt", "--data-dir", "--config", "SLUICEMQ_LISTEN"]
        {
            assert!(text.contains(expected), "{expected} in {text}");
        }
    }
    assert!(String::from_utf8_lossy(&output(&["bench", "--help"]).stdout).contains("[default: 16]"));
    assert!(String::from_utf8_lossy(&output(&["--version"]).stdout).starts_with("sluicemq "));
}

#[test]
fn what_shells_complete_and_the_manual_page_are_printed() {
    for (arguments, expected) in [
        (&["completions", "bash"][..], "_sluicemq()"),
        (&["completions", "zsh"], "#compdef sluicemq"),
        (&["man"], ".TH sluicemq 1"),
    ] {
        let printed = output(arguments);
        assert!(printed.status.success());
        let text = String::from_utf8_lossy(&printed.stdout);
        assert!(text.contains(expected) && text.replace('\\', "").contains("--data-dir"), "{text}");
    }
    check_refused(&mut sluicemq(&["completions", "dos"]), 2, "invalid value 'dos'");
}

#[test]
fn config_prints_what_is_in_effect_with_comments() {
    let file =
        config_file("vhosts = [\"/\", \"orders\"]\nlimits.channel_max = 5\nlog.level = \"debug\"\n", 0o600);
    let printed = sluicemq(&["config", "--config", file.argument(), "--listen", "127.0.0.1:7"])
        .env("SLUICEMQ_LISTEN", "127.0.0.1:8")
        .env("SLUICEMQ_LIMITS_CHANNEL_MAX", "6")
        .env("SLUICEMQ_PORT", "tcp://10.0.0.1:5672")
        .output()
        .expect("the binary runs");
    assert!(printed.status.success());
    let text = String::from_utf8_lossy(&printed.stdout);
    for expected in [
        "listeners = [\"127.0.0.1:7\"]",
        "channel_max = 6",
        "vhosts = [\"/\", \"orders\"]",
        "level = \"debug\"",
        "# Largest message body, in bytes.",
        "message_bytes_max = \"128MiB\"",
    ] {
        assert!(text.contains(expected), "{expected} in {text}");
    }
    let told = String::from_utf8_lossy(&printed.stderr);
    assert_eq!(told, "sluicemq: environment variable SLUICEMQ_PORT means nothing and is ignored\n");
}

#[test]
fn what_the_pages_show_of_a_configuration_is_one() {
    let pages = [
        include_str!("../../README.md"),
        include_str!("../../src/tls/README.md"),
        include_str!("../../src/net/README.md"),
    ];
    let blocks: Vec<_> = pages
        .iter()
        .flat_map(|page| page.split("```toml\n").skip(1))
        .filter_map(|rest| rest.split("```").next())
        .collect();
    assert!(blocks.len() >= 2, "{blocks:?}");
    for block in blocks {
        let file = config_file(block, 0o600);
        let printed = output(&["config", "--config", file.argument()]);
        assert!(printed.status.success(), "{block}{}", String::from_utf8_lossy(&printed.stderr));
    }
}

#[test]
fn the_file_can_be_named_by_the_environment() {
    let file = config_file("limits.channel_max = 5\n", 0o600);
    let printed = sluicemq(&["config"]).env("SLUICEMQ_CONFIG", &file.path).output().expect("the binary runs");
    assert!(String::from_utf8_lossy(&printed.stdout).contains("channel_max = 5"));
}

#[test]
fn a_mistake_is_one_sentence_and_exit_code_2() {
    let unknown = config_file("[limits]\nframes = 1\n", 0o600);
    let place = format!("sluicemq: {}: line 2: limits.frames: unknown key `frames`", unknown.argument());
    check_refused(&mut sluicemq(&["--config", unknown.argument()]), 2, &place);
    check_refused(&mut sluicemq(&["serve", "--config", unknown.argument()]), 2, &place);

    let unit = config_file("\n[limits]\nframe_max_bytes = \"10s\"\n", 0o600);
    let sentence =
        "line 3: limits.frame_max_bytes: expected a size such as \"64KiB\" or a whole number of bytes";
    check_refused(&mut sluicemq(&["config", "--config", unit.argument()]), 2, sentence);

    check_refused(
        &mut sluicemq(&["--config", "/nowhere.toml"]),
        2,
        "cannot read /nowhere.toml: No such file",
    );
    check_refused(
        &mut sluicemq(&["--listen", "5672"]),
        2,
        "expected an address and port such as \"127.0.0.1:5672\"",
    );
    check_refused(&mut sluicemq(&["--frobnicate"]), 2, "unexpected argument '--frobnicate'");
    check_refused(
        sluicemq(&["config"]).env("SLUICEMQ_MEMORY_WATERMARK", "lots"),
        2,
        "environment variable SLUICEMQ_MEMORY_WATERMARK: expected a share of memory",
    );
    for (load, told) in [
        ("--ack-every 10 --prefetch 5", "no delivery would ever"),
        ("--exchange topic --queues 2", "take one queue"),
        ("--get --consumers 0", "need --consumers"),
        ("--idle 5 --churn channel", "are two runs"),
        ("--idle 5 --rate 10", "cannot be used with"),
        ("--churn channel --confirms", "cannot be used with"),
        ("--idle 5 --apart", "cannot be used with"),
        ("--publish-for-parent one --rate 10", "cannot be used with"),
        ("--publish-for-parent two", "invalid value 'two'"),
        ("--messages 0", "0 is not in"),
        ("--queue-arg x-max-length", "is to be KEY=VALUE"),
        ("--dead-letters --auto-ack", "cannot be used with"),
        ("--dead-letters --consumers 0", "needs --consumers"),
        ("--queues 1000 --size 1048576", "of a producer's memory"),
        ("--bindings 5", "--exchange"),
    ] {
        check_refused(sluicemq(&["bench"]).args(load.split(' ')), 2, told);
    }
}

#[test]
fn the_data_directory_has_a_default() {
    let home = fresh_dir();
    let printed = |name: &str| {
        let mut command = sluicemq(&["config"]);
        let run = command.env_remove("SLUICEMQ_DATA_DIR").env(name, &home).output().expect("the binary runs");
        String::from_utf8_lossy(&run.stdout).into_owned()
    };
    let home_shown = home.display();
    assert!(printed("HOME").contains(&format!("data_dir = \"{home_shown}/.local/state/sluicemq\"")));
    assert!(printed("XDG_STATE_HOME").contains(&format!("data_dir = \"{home_shown}/sluicemq\"")));
    check_refused(sluicemq(&[]).env_remove("SLUICEMQ_DATA_DIR"), 2, "nowhere to keep what is durable");

    let dir = home.to_str().expect("a path of ours is text");
    let mut broker = Broker::start(&mut sluicemq(&["--listen", "127.0.0.1:0", "--data-dir", dir]));
    let log = broker.log_until("Server startup complete");
    assert!(log.iter().any(|line| line.contains(dir)), "{log:?}");
}

#[test]
fn a_durability_that_loses_confirmed_messages_is_warned_about() {
    let file = config_file("[storage]\ndurability = \"os\"\n", 0o600);
    let told = output(&["config", "--config", file.argument()]);
    assert!(String::from_utf8_lossy(&told.stderr).contains("a power cut loses confirmed messages"));
    assert!(String::from_utf8_lossy(&told.stdout).contains("durability = \"os\""));
}

#[test]
fn a_file_with_passwords_that_others_can_read_is_warned_about() {
    let text = "[[users]]\nname = \"a\"\npassword = \"12345\"\n";
    for (mode, warned) in [(0o600, false), (0o644, true)] {
        let file = config_file(text, mode);
        let output = output(&["config", "--config", file.argument()]);
        assert!(output.status.success());
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(told.contains("holds passwords and others can read it"), warned, "{told}");
        assert!(!String::from_utf8_lossy(&output.stdout).contains("12345"));
    }
}

#[test]
fn a_broker_serves_until_it_is_told_to_stop() {
    for (command, signal) in [(&["serve"][..], "-TERM"), (&[], "-INT")] {
        let mut broker = Broker::start(sluicemq(command).env("SLUICEMQ_LISTEN", "127.0.0.1:0"));
        broker.log_until("Server startup complete");
        broker.signal(signal);
        assert!(broker.process.wait().expect("it ends").success());
    }
}

#[test]
fn the_log_can_be_json() {
    let mut broker = Broker::start(
        sluicemq(&["--listen", "127.0.0.1:0"])
            .env("SLUICEMQ_LOG_FORMAT", "json")
            .env("SLUICEMQ_LOG_LEVEL", "info"),
    );
    let lines = broker.log_until("Server startup complete");
    for line in &lines {
        let parsed: serde_json::Value = serde_json::from_str(line).expect("each line is an object");
        assert!(parsed.get("message").is_some(), "{line}");
    }
}

#[test]
fn bench_loads_a_broker_and_checks_what_comes_back() {
    let mut broker = Broker::start(&mut sluicemq(&["--listen", "127.0.0.1:0"]));
    let url = broker.url();
    for load in [
        "--auto-ack --size 16 --seconds 1",
        "--confirms --persistent --producers 2 --consumers 3 --queues 2 --size 5000 --seconds 1",
        "--rate 500 --ack-every 1 --queues 3 --size 0 --seconds 1",
        "--messages 1000 --queues 7 --size 16,300,70000 --max-waiting 50",
        "--messages 1000 --backlog --exchange direct --bindings 100",
        "--messages 1000 --exchange topic --bindings 100 --auto-ack",
        "--messages 100 --get --backlog",
        "--messages 100 --get --auto-ack",
        "--messages 1000 --queue-arg x-message-ttl=600000 --queue-arg x-overflow=drop-head",
        "--messages 1000 --queue-arg x-max-priority=10 --priority 1,5,9",
        "--messages 1000 --dead-letters --queues 3 --consumers 2",
    ] {
        let report = run_bench(&url, load);
        assert_eq!(report["published"], report["received"], "{load}: {report}");
        assert!(report["published"].as_u64() > Some(0), "{load}: {report}");
        check_passed(&report);
    }
    let report = run_bench(&url, "--messages 1000 --exchange fanout --queues 5 --producers 2");
    assert_eq!((report["published"].as_u64(), report["received"].as_u64()), (Some(1000), Some(5000)));
    check_passed(&report);
}

#[test]
fn bench_publishes_from_a_process_of_its_own() {
    let mut broker = Broker::start(&mut sluicemq(&["--listen", "127.0.0.1:0"]));
    let url = broker.url();
    for load in [
        "--apart --confirms --max-waiting 500 --messages 20000 --producers 3 --queues 2",
        "--apart --confirm-window 1 --messages 100 --max-waiting 1 --persistent",
        "--apart --confirms --rate 500 --seconds 1 --size 16,300",
        "--apart --confirms --messages 1000 --backlog --exchange direct --bindings 100",
        "--apart --confirms --messages 100 --get --size 16",
    ] {
        let report = run_bench(&url, load);
        check_passed(&report);
        assert!(report["published"].as_u64() > Some(0), "{load}: {report}");
        assert_eq!(report["published"], report["received"], "{load}: {report}");
        assert_eq!(report["published"], report["confirmed"], "{load}: {report}");
        assert_eq!(report["nacked"], 0, "{load}: {report}");
        for latency in ["latency", "confirm_latency"] {
            let us = report[latency]["p50_us"].as_f64().expect("a latency");
            assert!((1.0..6e7).contains(&us), "one clock: {load}: {report}");
        }
    }
    let report = run_bench(&url, "--apart --messages 1000 --exchange fanout --queues 5 --producers 2");
    assert_eq!((report["published"].as_u64(), report["received"].as_u64()), (Some(1000), Some(5000)));
    check_passed(&report);
}

#[test]
fn bench_says_what_befell_a_producer() {
    let serve = &["--listen", "127.0.0.1:0"];
    let mut narrow = Broker::start(sluicemq(serve).env("SLUICEMQ_LIMITS_MESSAGE_BYTES_MAX", "1KiB"));
    let narrow = narrow.url();
    let mut full = Broker::start(sluicemq(serve).env("SLUICEMQ_LIMITS_CONNECTIONS_MAX", "1"));
    let full = full.url();
    for apart in [&[][..], &["--apart"]] {
        let bench = |url| {
            let mut command = sluicemq(&["bench", "--size", "5000", "--url", url]);
            command.args(apart);
            command
        };
        check_refused(&mut bench(&narrow), 1, "sluicemq: a producer: the broker closed the channel: ");
        check_refused(&mut bench(&full), 1, "sluicemq: cannot connect to 127.0.0.1:");
    }
}

#[test]
fn bench_stops_a_process_of_its_own() {
    let mut broker = Broker::start(&mut sluicemq(&["--listen", "127.0.0.1:0"]));
    let url = broker.url();
    let apart = ["bench", "--json", "--url", &url, "--apart", "--max-waiting", "1000", "--seconds", "3600"];

    // Ctrl-C reaches every process of the terminal.
    let mut interrupted = Broker::start(sluicemq(&apart).process_group(0));
    interrupted.log_until("published");
    let group = format!("-{}", interrupted.process.id());
    assert!(Command::new("kill").args(["-INT", "--", &group]).status().expect("kill runs").success());
    let mut report = String::new();
    interrupted
        .process
        .stdout
        .take()
        .expect("piped")
        .read_to_string(&mut report)
        .expect("the report is text");
    assert!(interrupted.process.wait().expect("it ends").success());
    check_passed(&serde_json::from_str(&report).expect("the report is JSON"));

    // Both write to the same stderr, which ends with the last of them.
    let mut killed = Broker::start(&mut sluicemq(&apart));
    killed.log_until("published");
    killed.process.kill().expect("it runs");
    let end = loop {
        if let Err(end) = killed.lines.recv_timeout(PATIENCE) {
            break end;
        }
    };
    assert_eq!(end, mpsc::RecvTimeoutError::Disconnected, "stderr ends");
}

#[test]
fn bench_opens_connections_and_draws_a_run() {
    let mut broker = Broker::start(&mut sluicemq(&["--listen", "127.0.0.1:0"]));
    let url = broker.url();
    assert_eq!(run_bench(&url, "--idle 100 --queues 3 --seconds 1")["done"], 100);
    for churn in ["--churn connection --producers 2 --seconds 1", "--churn channel --seconds 1"] {
        assert!(run_bench(&url, churn)["done"].as_u64() > Some(0), "{churn}");
    }
    let dir = fresh_dir();
    let file = dir.with_extension("svg");
    run_bench(&url, &format!("--seconds 1 --plot {}", file.display()));
    let nowhere = dir.join("nowhere").join("run.svg").display().to_string();
    check_refused(&mut sluicemq(&["bench", "--url", &url, "--plot", &nowhere]), 1, "cannot draw");
    assert!(fs::read_to_string(&file).expect("the picture").contains("</svg>"));
}

/// Runs the load tool, which must succeed, and reads its report.
fn run_bench(url: &str, load: &str) -> serde_json::Value {
    let run = sluicemq(&["bench", "--json", "--url", url]).args(load.split(' ')).output();
    let run = run.expect("the binary runs");
    assert!(run.status.success(), "{load}: {}", String::from_utf8_lossy(&run.stderr));
    serde_json::from_slice(&run.stdout).expect("the report is JSON")
}

fn check_passed(report: &serde_json::Value) {
    let passed = report.pointer("/check/result").and_then(serde_json::Value::as_str).expect("a result");
    assert!(["passed", "count_passed"].contains(&passed), "{report}");
}

#[test]
fn bench_says_why_it_cannot_run() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    drop(taken);
    let url = format!("amqp://guest:secret@{address}");
    check_refused(&mut sluicemq(&["bench", "--url", &url]), 1, "Connection refused");
    check_refused(&mut sluicemq(&["bench", "--url", "http://secret"]), 2, "--url must start with amqp://");
}
