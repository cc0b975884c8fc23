//! How connections come in: the binary with certificates, clients that look at them, and proxies.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod authority;
mod broker;
mod client;
mod logins;
mod proxies;
mod reload;
mod strangers;
mod web;

use std::io::{Read, Write};
use std::process::Command;

use authority::{Authority, Files, over};
use broker::{Broker, command};
use client::{Client, Trust, socket};
use rustls::ProtocolVersion;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::version::{TLS12, TLS13};

const HOST: &str = "localhost";
const GUEST: &[u8] = b"\0guest\0guest";

/// An authority, and the files of a broker that it knows as localhost.
pub(crate) fn server() -> (Authority, Files) {
    let (authority, files) = (Authority::new("an authority"), Files::new());
    files.put_pair("server", &authority.sign("a server", &[HOST]));
    files.put("ca.pem", &authority.pem);
    (authority, files)
}

#[test]
fn a_client_that_knows_the_authority_speaks_amqp() {
    let (authority, files) = server();
    let broker = Broker::start(&files, &[("TLS_MGMT", "127.0.0.1:0"), ("TLS_PROMETHEUS", "127.0.0.1:0")]);
    let trust = Trust::of(&authority.pem);
    for (spoken, version, shown) in
        [(&TLS13, ProtocolVersion::TLSv1_3, "tlsv1.3"), (&TLS12, ProtocolVersion::TLSv1_2, "tlsv1.2")]
    {
        let stream = trust.clone().speaking(spoken).connect(broker.amqp(), HOST).unwrap();
        assert_eq!(stream.conn.protocol_version(), Some(version));
        let (client, offered) = Client::begin(stream).unwrap();
        assert_eq!(offered, "PLAIN AMQPLAIN");
        let mut client = client.log_in("PLAIN", GUEST).unwrap();
        client.ask().unwrap();
        let told = get(
            &trust,
            &broker,
            "/api/connections?columns=ssl,ssl_protocol,ssl_cipher,ssl_hash,peer_cert_subject",
        );
        for expected in [shown, "\"ssl\":true", "\"ssl_hash\":\"aead\"", "\"peer_cert_subject\":null"] {
            assert!(told.contains(expected), "{expected} in {told}");
        }
    }
    let listeners = get(&trust, &broker, "/api/overview");
    for protocol in ["amqp", "amqp/ssl", "https", "https/prometheus"] {
        assert!(listeners.contains(&format!("\"protocol\":\"{protocol}\"")), "{protocol} in {listeners}");
    }
    let metrics = ask_over(&trust, &broker, "prometheus_tls", "/metrics");
    assert!(metrics.contains("rabbitmq_connections "), "{metrics}");
}

/// What the API answers, over TLS.
fn get(trust: &Trust, broker: &Broker, path: &str) -> String {
    ask_over(trust, broker, "mgmt_tls", path)
}

fn ask_over(trust: &Trust, broker: &Broker, place: &str, path: &str) -> String {
    let mut stream = trust.connect(broker.address(place), HOST).unwrap();
    let head = "Host: localhost\r\nConnection: close\r\nAuthorization: Basic Z3Vlc3Q6Z3Vlc3Q=\r\n\r\n";
    stream.write_all(format!("GET {path} HTTP/1.1\r\n{head}").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    answer
}

#[test]
fn alpn_is_answered_and_not_demanded() {
    let (authority, files) = server();
    let broker = Broker::start(&files, &[]);
    for (speaks, answered) in
        [(&["amqp"][..], Some("amqp")), (&["x", "amqp"], Some("amqp")), (&["h2"], None), (&[], None)]
    {
        let mut trust = Trust::of(&authority.pem);
        trust.speaks = speaks.iter().map(|name| name.as_bytes().to_vec()).collect();
        let stream = trust.connect(broker.amqp(), HOST).unwrap();
        assert_eq!(stream.conn.alpn_protocol(), answered.map(str::as_bytes), "{speaks:?}");
        Client::begin(stream).unwrap();
    }
}

#[test]
fn a_client_refuses_another_name_and_an_authority_that_it_does_not_know() {
    let (authority, files) = server();
    let mut broker = Broker::start(&files, &[]);
    let told = |trust: &Trust, host| trust.connect(broker.amqp(), host).err().unwrap().to_string();
    let other = told(&Trust::of(&authority.pem), "mq.example.com");
    assert!(other.contains("not valid for name"), "{other}");
    let unknown = told(&Trust::of(&Authority::new("another").pem), HOST);
    assert!(unknown.contains("UnknownIssuer"), "{unknown}");
    broker.log_until("TLS handshake failed: ");
}

#[test]
fn who_asks_for_a_name_is_shown_its_certificate() {
    let (authority, files) = server();
    files.put_pair("named", &authority.sign("named", &["mq.example.com"]));
    let names = format!(
        "[{{ name = \"mq.example.com\", certificate = {:?}, key = {:?} }}]",
        files.path("named.pem"),
        files.path("named.key")
    );
    let broker = Broker::start(&files, &[("TLS_NAMES", &names)]);
    let trust = Trust::of(&authority.pem);
    let shown =
        |host| trust.connect(broker.amqp(), host).unwrap().conn.peer_certificates().unwrap()[0].clone();
    let of = |file| CertificateDer::from_pem_file(files.path(file)).unwrap();
    assert_eq!(shown("mq.example.com"), of("named.pem"));
    assert_eq!(shown(HOST), of("server.pem"));
}

#[test]
fn large_messages_come_and_go_in_both_directions() {
    let (authority, files) = server();
    let broker = Broker::start(&files, &[]);
    let stream = Trust::of(&authority.pem).connect(broker.amqp(), HOST).unwrap();
    let mut client = Client::begin(stream).unwrap().0.log_in("PLAIN", GUEST).unwrap();
    client.ask().unwrap();
    for size in [0, 1, 16_384, 65_536, 1_000_000, 5_000_000] {
        let body: Vec<u8> = (0..size).map(|at: usize| (at % 251) as u8).collect();
        client.publish(&body).unwrap();
        assert!(client.get().unwrap() == body, "{size} bytes");
    }
}

#[test]
fn a_mistake_is_one_sentence_and_the_broker_does_not_start() {
    let (authority, files) = server();
    files.put_pair("other", &authority.sign("other", &[HOST]));
    files.put_pair("over", &authority.sign_with("over", &[HOST], over));
    files.put("empty.pem", "");
    let large = std::fs::File::create(files.path("large.key")).unwrap();
    large.set_len(16 * 1024 * 1024 + 1).unwrap();
    let made = Command::new("mkfifo").arg(files.path("pipe")).status();
    assert!(made.unwrap().success());
    files.put("broken.pem", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n");
    files.put(
        "secret.key",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
    );
    let client = [("TLS_VERIFY", "required".to_owned()), ("TLS_CLIENT_CA", files.path("ca.pem"))];
    for (changed, sentence) in [
        (vec![("TLS_CERTIFICATE", files.path("nowhere"))], "tls.certificate: /"),
        (vec![("TLS_CERTIFICATE", files.path("nowhere"))], "nowhere cannot be read: No such file"),
        (vec![("TLS_CERTIFICATE", files.path("."))], "tls.certificate: /"),
        (vec![("TLS_CERTIFICATE", files.path("."))], "/. is no file"),
        (vec![("TLS_KEY", files.path("pipe"))], "pipe is no file"),
        (vec![("TLS_KEY", files.path("large.key"))], "large.key is larger than 16MiB"),
        (vec![("TLS_CERTIFICATE", files.path("empty.pem"))], "empty.pem has no certificate in it"),
        (vec![("TLS_CERTIFICATE", files.path("broken.pem"))], "broken.pem cannot be understood"),
        (vec![("TLS_KEY", files.path("other.key"))], "other.key is not the key of the certificate in /"),
        (vec![("TLS_KEY", files.path("ca.pem"))], "ca.pem has no key in it"),
        (vec![("TLS_KEY", files.path("secret.key"))], "secret.key is encrypted"),
        (
            vec![("TLS_CERTIFICATE", files.path("over.pem")), ("TLS_KEY", files.path("over.key"))],
            "over.pem has expired: it was valid until 2020-01-01T00:00:00Z",
        ),
        (
            vec![client[0].clone(), ("TLS_CLIENT_CA", files.path("empty.pem"))],
            "empty.pem has no certificate in it",
        ),
        (
            [&client[..], &[("TLS_CRL", files.path("ca.pem"))]].concat(),
            "has no list of revoked certificates in it",
        ),
        (vec![client[0].clone()], "tls.verify: certificates of clients need authorities"),
    ] {
        let changed: Vec<_> = changed.iter().map(|(key, value)| (*key, value.as_str())).collect();
        let ended = command(&files, &changed).output().unwrap();
        let told = String::from_utf8_lossy(&ended.stderr);
        assert!(!ended.status.success(), "{changed:?}");
        let last = told.lines().last().unwrap_or_default();
        assert!(last.starts_with("sluicemq: ") && last.contains(sentence), "{sentence} in {told}");
    }
}

#[test]
fn keys_are_read_in_each_of_their_forms() {
    let (authority, files) = server();
    let openssl = |words: &[&str]| {
        let run = Command::new("openssl").args(words).output();
        run.is_ok_and(|run| run.status.success())
    };
    // As `openssl` writes them: SEC1 with its parameters before it, and PKCS#1.
    let sec1 = openssl(&["ec", "-in", &files.path("server.key"), "-out", &files.path("sec1.key")]);
    if sec1 {
        let broker = Broker::start(&files, &[("TLS_KEY", &files.path("sec1.key"))]);
        Trust::of(&authority.pem).connect(broker.amqp(), HOST).unwrap();
    }
    let rsa = ["rsa.key", "rsa.pem", "pkcs1.key"].map(|name| files.path(name));
    let rsa = rsa.each_ref().map(String::as_str);
    let subject = ["-subj", "/CN=rsa", "-addext", "subjectAltName=DNS:localhost", "-days", "2"];
    let made = openssl(
        &[
            &["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", rsa[0], "-out", rsa[1]][..],
            &subject,
        ]
        .concat(),
    ) && openssl(&["rsa", "-traditional", "-in", rsa[0], "-out", rsa[2]]);
    if made {
        let broker = Broker::start(&files, &[("TLS_CERTIFICATE", rsa[1]), ("TLS_KEY", rsa[2])]);
        let stream = socket(broker.amqp()).unwrap();
        drop(stream);
        assert!(openssl(&[
            "s_client",
            "-connect",
            &broker.amqp().to_string(),
            "-CAfile",
            rsa[1],
            "-verify_return_error"
        ]));
    }
    assert!(sec1 == made, "openssl does both or none");
}

#[test]
fn the_load_tool_comes_by_tls_and_trusts_whom_it_is_told_to() {
    let (_authority, files) = server();
    files.put("other.pem", &Authority::new("another").pem);
    let broker = Broker::start(&files, &[]);
    let url = format!("amqps://guest:guest@localhost:{}/%2f", broker.amqp().port());
    let load = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sluicemq"));
        command.args(["bench", "--json", "--messages", "200", "--url", &url]).args(words).env_clear();
        let output = command.output().unwrap();
        (
            output.status.success(),
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let ca = files.path("ca.pem");
    for words in [&["--size", "100000", "--apart"][..], &["--confirms", "--persistent"]] {
        let (is_done, told, errors) = load(&[&["--ca", &ca], words].concat());
        assert!(is_done && told.contains("\"received\": 200,"), "{told} {errors}");
    }
    let (is_done, _, told) = load(&["--ca", &files.path("other.pem")]);
    assert!(!is_done && told.contains("UnknownIssuer"), "{told}");
    let (is_done, _, told) = load(&[]);
    assert!(!is_done && told.contains("needs --ca"), "{told}");
}
