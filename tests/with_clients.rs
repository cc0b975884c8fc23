//! Stock client libraries against the broker, one test a client, as far as this machine can install them.
//!
//! What a client is, how it is installed and what it does, `conformance/` says; here it is only run. A client that
//! cannot be installed is left out, and the reason is printed.
//!
//! Clients take minutes where everything else takes seconds: cargo runs its tests in the order of their names, and this
//! name is the last one.

use std::io::Write;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// The runner's exit codes beside zero.
const NOT_INSTALLABLE: i32 = 3;

/// One client at a time: some cases watch heartbeats, and a compiler next to them takes both cores.
static TURN: Mutex<()> = Mutex::new(());

fn run(client: &str) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let begun = Instant::now();
    say(client, "runs");
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
        Some(0) => say(client, &format!("passed in {} s", begun.elapsed().as_secs())),
        Some(NOT_INSTALLABLE) => {
            let reason = told.lines().chain(shown.lines()).find(|line| line.contains("left out"));
            left_out(client, reason.unwrap_or("the runner did not say why"));
        }
        _ => {
            say(client, &format!("failed after {} s", begun.elapsed().as_secs()));
            panic!("{client} failed\n{told}\n{shown}")
        }
    }
}

fn left_out(client: &str, reason: &str) {
    say(client, &format!("was left out: {reason}"));
}

/// Written past the test runner's capture: who waits must see what runs, and what was not tested.
fn say(client: &str, what: &str) {
    writeln!(std::io::stderr(), "conformance: {client} {what}").expect("stderr is open");
}

#[test]
fn pika() {
    run("pika");
}

#[test]
fn amqp_client() {
    run("amqp-client");
}

#[test]
fn amqplib() {
    run("amqplib");
}

#[test]
fn celery() {
    run("celery");
}

#[test]
fn kombu() {
    run("kombu");
}

#[test]
fn librabbitmq() {
    run("librabbitmq");
}

#[test]
fn lapin() {
    run("lapin");
}

#[test]
fn operators() {
    run("operators");
}

#[test]
fn rabbitmq_c() {
    run("rabbitmq-c");
}

#[test]
fn rabbitmq_java() {
    run("rabbitmq-java");
}
