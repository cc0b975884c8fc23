//! A broker with its management API on free ports, and a client that asks it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use sluicemq::config::{Config, Secret, UserConfig};
use sluicemq::mgmt::{self, Listening};
use sluicemq::net::Server;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use ureq::Agent;

/// What does not come true in this time never will.
const PATIENCE: Duration = Duration::from_secs(30);
/// Each user's password.
pub(crate) const PASSWORD: &str = "secret";

/// A running broker.
pub(crate) struct Node {
    pub(crate) amqp: SocketAddr,
    pub(crate) http: SocketAddr,
    pub(crate) metrics: SocketAddr,
    agent: Agent,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What was answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) challenge: Option<String>,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }
}

impl Node {
    /// One with the virtual hosts `/` and `other`, and a user for each tag in the first: `plain` has none. `elsewhere` and
    /// `ruler`, an administrator, have the other virtual host only.
    pub(crate) fn start() -> Self {
        let user = |name: &str, tag: &str, vhost: &str| UserConfig {
            name: name.to_owned(),
            password: Secret::new(PASSWORD),
            vhosts: vec![vhost.to_owned()],
            tags: if tag.is_empty() { Vec::new() } else { vec![tag.to_owned()] },
        };
        let mut config = Config {
            listeners: vec!["127.0.0.1:0".parse().expect("an address")],
            mgmt: "127.0.0.1:0".parse().expect("an address"),
            prometheus: "127.0.0.1:0".parse().expect("an address"),
            vhosts: vec!["/".to_owned(), "other".to_owned()],
            ..Config::default()
        };
        config.users.extend([
            user("plain", "", "/"),
            user("management", "management", "/"),
            user("policymaker", "policymaker", "/"),
            user("monitoring", "monitoring", "/"),
            user("administrator", "administrator", "/"),
            user("elsewhere", "management", "other"),
            user("ruler", "administrator", "other"),
        ]);
        let (told, addresses) = std::sync::mpsc::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async move {
                let config = Arc::new(config);
                let server = Server::bind(Arc::clone(&config)).expect("free ports");
                let amqp = Listening { amqp: server.addresses(), ..Listening::default() };
                let api = mgmt::server::Server::bind(&config, server.transfers(), amqp, None);
                let api = api.expect("free ports");
                told.send((server.addresses()[0], api.listening().clone())).expect("somebody waits");
                let cancel = CancellationToken::new();
                let api = tokio::spawn(api.run(cancel.clone()));
                let ended = server.run(async { drop(stopped.await) }).await;
                cancel.cancel();
                api.await.expect("it does not panic");
                ended.expect("nothing fails");
            });
        });
        let (amqp, listening) = addresses.recv().expect("it starts");
        let config = Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE));
        Self {
            amqp,
            http: listening.mgmt[0],
            metrics: listening.prometheus[0],
            agent: config.build().into(),
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// The binary in a process of its own, on this data directory; whoever kills it may start another one there.
    pub(crate) fn spawn(data_dir: &Path) -> (Self, Child) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sluicemq"));
        let everywhere = ["--listen", "127.0.0.1:0", "--mgmt", "127.0.0.1:0", "--prometheus", "127.0.0.1:0"];
        command.env_clear().args(everywhere).arg("--data-dir").arg(data_dir);
        let mut child = command.stderr(Stdio::piped()).spawn().expect("the binary starts");
        let mut lines = BufReader::new(child.stderr.take().expect("its log")).lines();
        let mut found = BTreeMap::new();
        while found.len() < 3 {
            let line = lines.next().expect("it goes on").expect("a line");
            for name in ["address", "mgmt", "prometheus"] {
                let value = line.split(&format!(" {name}=")).nth(1);
                let value = value.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
                found.extend(value.map(|address: SocketAddr| (name, address)));
            }
        }
        // It must not wait for somebody to read.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        let config = Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE));
        let (amqp, http, metrics) = (found["address"], found["mgmt"], found["prometheus"]);
        (Self { amqp, http, metrics, agent: config.build().into(), stop: None, thread: None }, child)
    }

    /// Asks as an administrator, and expects an answer.
    pub(crate) fn get(&self, path: &str) -> Value {
        let answer = self.ask("GET", path, Some("guest:guest"));
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
        answer.json()
    }

    /// Asks as somebody (name and password), or as nobody.
    pub(crate) fn ask(&self, method: &str, path: &str, login: Option<&str>) -> Answer {
        self.ask_at(self.http, method, path, login, &[])
    }

    /// Likewise at an address, with headers.
    pub(crate) fn ask_at(
        &self,
        address: SocketAddr,
        method: &str,
        path: &str,
        login: Option<&str>,
        headers: &[(&str, &str)],
    ) -> Answer {
        self.ask_with(address, method, path, login, headers, "")
    }

    /// Changes something as an administrator: the status, and what was said.
    pub(crate) fn change(&self, method: &str, path: &str, body: &Value) -> (u16, String) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = self.ask_with(self.http, method, path, Some("guest:guest"), &[], &body);
        (answer.status, answer.text)
    }

    pub(crate) fn ask_with(
        &self,
        address: SocketAddr,
        method: &str,
        path: &str,
        login: Option<&str>,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        let mut request =
            ureq::http::Request::builder().method(method).uri(format!("http://{address}{path}"));
        if let Some(login) = login {
            request = request.header("authorization", format!("Basic {}", STANDARD.encode(login)));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body.to_owned()).expect("a request");
        let mut response = self.agent.run(request).unwrap_or_else(|error| panic!("{method} {path}: {error}"));
        let challenge = response.headers().get("www-authenticate");
        Answer {
            status: response.status().as_u16(),
            challenge: challenge.map(|challenge| challenge.to_str().expect("text").to_owned()),
            text: response.body_mut().with_config().limit(64 << 20).read_to_string().expect("a body"),
        }
    }

    /// Asks until the answer is right, for what clients cause is seen a moment later.
    pub(crate) fn until(&self, path: &str, is_right: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let value = self.get(path);
            if is_right(&value) {
                return value;
            }
            assert!(Instant::now() < deadline, "{path} stays {value}");
            std::thread::yield_now();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the broker panicked");
        }
    }
}
