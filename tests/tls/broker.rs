//! The binary with certificates, in a process of its own.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;

use crate::authority::Files;
use crate::client::PATIENCE;

/// Killed when its test ends.
pub(crate) struct Broker {
    process: Child,
    lines: mpsc::Receiver<String>,
    /// The log up to here.
    pub(crate) log: Vec<String>,
    data_dir: String,
}

/// The binary, which is told these settings of TLS, and keeps its data with these files.
pub(crate) fn command(files: &Files, settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluicemq"));
    command.args(["--listen", "127.0.0.1:0", "--data-dir", &files.path("data")]).env_clear();
    command.env("SLUICEMQ_STORAGE_SLOT_BYTES", "1MiB").env("SLUICEMQ_STORAGE_DISK_FREE_LIMIT", "1MiB");
    command.env("SLUICEMQ_MGMT", "none").env("SLUICEMQ_PROMETHEUS", "none");
    for (key, value) in [("LISTEN", "127.0.0.1:0"), ("MGMT", "none"), ("PROMETHEUS", "none")] {
        command.env(format!("SLUICEMQ_TLS_{key}"), value);
    }
    for name in ["certificate", "key"] {
        let file = if name == "key" { "server.key" } else { "server.pem" };
        command.env(format!("SLUICEMQ_TLS_{}", name.to_uppercase()), files.path(file));
    }
    for (key, value) in settings {
        command.env(format!("SLUICEMQ_{key}"), value);
    }
    command
}

impl Broker {
    /// Starts it with these settings, beside those of [`command`].
    pub(crate) fn start(files: &Files, settings: &[(&str, &str)]) -> Self {
        Self::of(command(files, settings), files)
    }

    /// Starts this one.
    pub(crate) fn of(mut command: Command, files: &Files) -> Self {
        let started = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn();
        let mut process = started.expect("the binary starts");
        let log = BufReader::new(process.stderr.take().expect("piped"));
        let (line, lines) = mpsc::channel();
        thread::spawn(move || log.lines().map_while(Result::ok).try_for_each(|told| line.send(told)));
        let mut broker = Self { process, lines, log: Vec::new(), data_dir: files.path("data") };
        broker.log_until("Server startup complete");
        broker
    }

    /// Reads its log up to the next line with this text.
    pub(crate) fn log_until(&mut self, text: &str) -> String {
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            self.log.push(line.clone());
            if line.contains(text) {
                return line;
            }
        }
        panic!("the log ended, or stood still, without {text:?}: {:#?}", self.log);
    }

    /// What it said it listens on by this name.
    pub(crate) fn address(&self, name: &str) -> SocketAddr {
        let start = format!(" {name}=");
        let found = self.log.iter().find_map(|line| line.split_once(&start)).expect("it is logged").1;
        found.split_whitespace().next().and_then(|address| address.parse().ok()).expect("an address")
    }

    pub(crate) fn amqp(&self) -> SocketAddr {
        self.address("tls_address")
    }

    pub(crate) fn hang_up(&self) {
        let sent = Command::new("kill").args(["-HUP", &self.process.id().to_string()]).status();
        assert!(sent.expect("kill runs").success());
    }

    pub(crate) fn ctl(&self, words: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sluicemq"));
        command.args(["ctl", "--data-dir", &self.data_dir]).args(words).env_clear();
        command.output().expect("the binary runs")
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
