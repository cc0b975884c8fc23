//! Who is let in by a certificate, and who by none.

use rustls::version::{TLS12, TLS13};

use crate::authority::{Authority, Files, Pair, over};
use crate::broker::Broker;
use crate::client::{Client, Secured, Trust};
use crate::{GUEST, HOST, server};

/// A broker that asks for certificates in this way.
fn asking(files: &Files, verify: &str, more: &[(&str, &str)]) -> Broker {
    let ca = files.path("ca.pem");
    let own = [("TLS_VERIFY", verify), ("TLS_CLIENT_CA", &ca), ("TLS_LOGIN_FROM", "common_name")];
    Broker::start(files, &[&own[..], more].concat())
}

/// What became of the login of who shows this certificate. With TLS 1.3 it hears that it is refused when it reads.
fn begin(
    authority: &Authority,
    broker: &Broker,
    pair: Option<&Pair>,
) -> std::io::Result<(Client<Secured>, String)> {
    let trust = Trust::of(&authority.pem);
    let trust = match pair {
        Some(pair) => trust.with(pair),
        None => trust,
    };
    Client::begin(trust.connect(broker.amqp(), HOST)?)
}

#[test]
fn a_certificate_names_the_user() {
    let (authority, files) = server();
    let broker = asking(&files, "optional", &[("TLS_MGMT", "127.0.0.1:0")]);
    let (client, offered) = begin(&authority, &broker, Some(&authority.sign("guest", &[]))).unwrap();
    assert_eq!(offered, "PLAIN AMQPLAIN EXTERNAL");
    client.log_in("EXTERNAL", b"").unwrap().ask().unwrap();

    // A password is as good.
    let (client, _) = begin(&authority, &broker, Some(&authority.sign("guest", &[]))).unwrap();
    let mut client = client.log_in("PLAIN", GUEST).unwrap();
    client.ask().unwrap();
    let told = crate::get(&Trust::of(&authority.pem), &broker, "/api/connections");
    for expected in [
        "\"peer_cert_subject\":\"CN=guest\"",
        "\"peer_cert_issuer\":\"CN=an authority\"",
        "\"peer_cert_validity\":\"1975-01-01T00:00:00Z - 4096-01-01T00:00:00Z\"",
    ] {
        assert!(told.contains(expected), "{expected} in {told}");
    }
}

#[test]
fn a_certificate_that_names_nobody_lets_nobody_in() {
    let (authority, files) = server();
    let mut broker = asking(&files, "required", &[("LIMITS_AUTH_FAILURE_DELAY_MS", "0")]);
    let (client, _) = begin(&authority, &broker, Some(&authority.sign("a stranger", &[]))).unwrap();
    assert!(client.log_in("EXTERNAL", b"guest").is_err(), "what it says itself is not asked");
    let line = broker.log_until("login refused");
    assert!(line.contains("unknown user") && line.contains("a stranger"), "{line}");
}

#[test]
fn without_a_certificate_external_is_not_there() {
    let (authority, files) = server();
    let broker = asking(&files, "optional", &[("LIMITS_AUTH_FAILURE_DELAY_MS", "0")]);
    let (client, offered) = begin(&authority, &broker, None).unwrap();
    assert_eq!(offered, "PLAIN AMQPLAIN");
    client.log_in("PLAIN", GUEST).unwrap().ask().unwrap();
    let (client, _) = begin(&authority, &broker, None).unwrap();
    assert!(client.log_in("EXTERNAL", b"guest").is_err());
}

#[test]
fn who_must_show_a_certificate_and_has_none_that_is_good_is_refused() {
    let (authority, files) = server();
    let mut broker = asking(&files, "required", &[]);
    let other = Authority::new("another");
    let late = authority.sign_with("guest", &[], over);
    for (pair, why) in [
        (None, "peer sent no certificates"),
        (Some(other.sign("guest", &[])), "invalid peer certificate: UnknownIssuer"),
        (Some(late), "invalid peer certificate: certificate expired"),
    ] {
        for version in [&TLS12, &TLS13] {
            let trust = Trust::of(&authority.pem).speaking(version);
            let trust = pair.iter().fold(trust, Trust::with);
            assert!(trust.connect(broker.amqp(), HOST).and_then(Client::begin).is_err(), "{why}");
            broker.log_until(why);
        }
    }
    begin(&authority, &broker, Some(&authority.sign("guest", &[]))).unwrap();
}

#[test]
fn a_revoked_certificate_is_refused_and_others_are_not() {
    let (authority, files) = server();
    files.put("crl.pem", &authority.revoke(&[7]));
    let crl = files.path("crl.pem");
    let mut broker = asking(&files, "required", &[("TLS_CRL", &crl)]);
    let numbered =
        |number: u64| authority.sign_with("guest", &[], |params| params.serial_number = Some(number.into()));
    assert!(begin(&authority, &broker, Some(&numbered(7))).is_err());
    broker.log_until("invalid peer certificate: Revoked");
    let good = numbered(8);
    begin(&authority, &broker, Some(&good)).unwrap().0.log_in("EXTERNAL", b"").unwrap();
    files.put("crl.pem", &authority.revoke(&[7, 8]));
    broker.hang_up();
    broker.log_until("certificates are reloaded");
    assert!(begin(&authority, &broker, Some(&good)).is_err());
}

#[test]
fn who_says_nothing_is_whom_the_configuration_takes_it_for() {
    let (authority, files) = server();
    let broker = Broker::start(&files, &[("ANONYMOUS_LOGIN_USER", "guest")]);
    let (client, offered) = begin(&authority, &broker, None).unwrap();
    assert_eq!(offered, "PLAIN AMQPLAIN ANONYMOUS");
    client.log_in("ANONYMOUS", b"whoever").unwrap().ask().unwrap();
}
