//! Stock client libraries against the broker, one test a client, as far as this machine can install them.
//!
//! What a client is, how it is installed and what it does, `conformance/` says; here it is only run. A client that
//! cannot be installed is left out, and the reason is printed.

use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// The runner's exit codes beside zero.
const NOT_INSTALLABLE: i32 = 3;

/// One client at a time: some cases watch heartbeats, and a compiler next to them takes both cores.
static TURN: Mutex<()> = Mutex::new(());

fn run(client: &str) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let runner = concat!(env!("CARGO_MANIFEST_DIR"), "/conformance/run");
    let broker = env!("CARGO_BIN_EXE_sluicemq");
    let mut command = Command::new("python3");
    command.args([runner, "--client", client, "--broker", "sluicemq", "--sluicemq", broker]);
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => return left_out(client, &format!("python3 cannot be run: {error}")),
    };
    let (told, shown) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    match output.status.code() {
        Some(0) => {}
        Some(NOT_INSTALLABLE) => {
            let reason = told.lines().chain(shown.lines()).find(|line| line.contains("left out"));
            left_out(client, reason.unwrap_or("the runner did not say why"));
        }
        _ => panic!("{client} failed\n{told}\n{shown}"),
    }
}

/// Written past the test runner's capture: what was not tested must be seen.
fn left_out(client: &str, reason: &str) {
    use std::io::Write;
    writeln!(std::io::stderr(), "conformance: {client} was left out: {reason}").expect("stderr is open");
}

#[test]
fn pika() {
    run("pika");
}

#[test]
fn amqplib() {
    run("amqplib");
}

#[test]
fn lapin() {
    run("lapin");
}

#[test]
fn rabbitmq_c() {
    run("rabbitmq-c");
}

#[test]
fn rabbitmq_java() {
    run("rabbitmq-java");
}
