//! Clients of other protocols on our port: what they speak, by the first bytes they send.

use crate::broker::Broker;
use crate::clock::Now;

/// What is shown of what they sent, in bytes.
const SHOWN_BYTES: usize = 8;
/// What HTTP requests begin with.
const HTTP: [&[u8]; 9] =
    [b"GET ", b"HEAD ", b"POST ", b"PUT ", b"DELETE ", b"OPTIONS ", b"PATCH ", b"CONNECT ", b"PRI * "];
/// MQTT's name, behind a fixed header of two octets and a length.
const MQTT: &[u8] = b"\0\x04MQTT";
/// A TLS record of a handshake, of any version since SSL 3.
const TLS: &[u8] = &[0x16, 3];
/// AMQP 1.0, without or behind a layer of security.
const AMQP_1: [&[u8]; 3] = [b"AMQP\x00\x01", b"AMQP\x02\x01", b"AMQP\x03\x01"];

/// Says in the log what this client speaks, if there is a line for it.
pub(super) fn tell(broker: &Broker, first_bytes: &[u8], now: Now) {
    if let Some(left_out) = broker.complaints.allow(now.instant) {
        let speaks = name(first_bytes);
        let first_bytes = first_bytes.get(..SHOWN_BYTES).unwrap_or(first_bytes).escape_ascii();
        tracing::warn!(%first_bytes, left_out, "not a protocol we speak: {speaks}");
    }
}

/// What this client speaks, for the log.
fn name(first_bytes: &[u8]) -> &'static str {
    let begins_with = |start: &&[u8]| first_bytes.starts_with(start);
    if HTTP.iter().any(begins_with) {
        "HTTP on the port of AMQP"
    } else if first_bytes.starts_with(TLS) {
        "TLS on the port of AMQP without: it has ports of its own (tls.listeners)"
    } else if AMQP_1.iter().any(begins_with) {
        "AMQP 1.0: only 0-9-1 is spoken here"
    } else if first_bytes.starts_with(b"AMQP") {
        "another version of AMQP: only 0-9-1 is spoken here"
    } else if first_bytes.starts_with(b"PROXY ") || first_bytes.starts_with(b"\r\n\r\n\0\r\n") {
        "a PROXY header, from where none is taken (proxy_protocol_from)"
    } else if first_bytes.get(2..).is_some_and(|rest| rest.starts_with(MQTT)) {
        "MQTT: it is not spoken here"
    } else {
        "not AMQP"
    }
}

#[cfg(test)]
mod tests {
    use super::name;

    #[test]
    fn what_is_too_short_or_strange_is_named_too() {
        for (first_bytes, said) in [
            (b"GET /api".as_slice(), "HTTP on"),
            (b"\x16\x03\x01", "TLS on"),
            (b"AMQP\x03\x01\x00\x00", "AMQP 1.0"),
            (b"AMQP\x01\x01\x08\x01", "another version"),
            (b"PROXY TCP4 ", "a PROXY header"),
            (b"\r\n\r\n\0\r\n", "a PROXY header"),
            (b"PRI * HTTP/2.0", "HTTP on"),
            (b"\x10\x10\x00\x04MQTT", "MQTT"),
            (b"G", "not AMQP"),
            (b"", "not AMQP"),
        ] {
            assert!(name(first_bytes).starts_with(said), "{first_bytes:?}");
        }
    }
}
