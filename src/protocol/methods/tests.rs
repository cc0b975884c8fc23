//! Every method through encode, parse and encode again; known wire bytes; every error.

use bytes::BytesMut;
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof, proptest};

use super::{
    BasicAck, BasicDeliver, BasicPublish, ChannelOpen, ConnectionClose, Method, MethodError, QueueDeclare,
    TxSelect,
};
use crate::protocol::field::Field;
use crate::protocol::table::{Table, TableBuf, TableError};

/// Values for fields by wire type, handed out round after round.
pub(super) struct Samples<'a> {
    number: u64,
    text: &'a str,
    bytes: &'a [u8],
    table: Table<'a>,
}

impl<'a> Samples<'a> {
    fn next(&mut self) -> u64 {
        self.number = self.number.rotate_left(7) ^ 0x9E37_79B9_7F4A_7C15;
        self.number
    }

    pub(super) fn bit(&mut self) -> bool {
        self.next() & 1 == 1
    }

    pub(super) fn octet(&mut self) -> u8 {
        self.next() as u8
    }

    pub(super) fn short(&mut self) -> u16 {
        self.next() as u16
    }

    pub(super) fn long(&mut self) -> u32 {
        self.next() as u32
    }

    pub(super) fn longlong(&mut self) -> u64 {
        self.next()
    }

    pub(super) fn shortstr(&mut self) -> &'a str {
        self.text
    }

    pub(super) fn shortbytes(&mut self) -> &'a [u8] {
        self.bytes
    }

    pub(super) fn longstr(&mut self) -> &'a [u8] {
        self.bytes
    }

    pub(super) fn table(&mut self) -> Table<'a> {
        self.table
    }
}

fn encoded(method: &Method<'_>) -> BytesMut {
    let mut out = BytesMut::new();
    method.encode(&mut out);
    out
}

fn tables() -> impl Strategy<Value = TableBuf> {
    let field = prop_oneof![
        any::<i64>().prop_map(|value| (value, None)),
        "\\PC{0,20}".prop_map(|text| (0, Some(text))),
    ];
    vec(("[a-z-]{0,12}", field), 0..5).prop_map(|entries| {
        let mut table = TableBuf::new();
        for (key, (number, text)) in &entries {
            let text = text.as_ref().map(|text| Field::LongStr(text.as_bytes()));
            table.insert(key, text.unwrap_or(Field::I64(*number)));
        }
        table
    })
}

proptest! {
    #[test]
    fn every_method_survives_the_wire(
        number in any::<u64>(),
        text in prop_oneof![Just(String::new()), "\\PC{0,60}"],
        bytes in vec(any::<u8>(), 0..255),
        table in tables(),
    ) {
        let mut samples = Samples { number, text: &text, bytes: &bytes, table: table.as_table() };
        for method in Method::samples(&mut samples) {
            let wire = encoded(&method);
            assert_eq!(Method::parse(&wire), Ok(method));
            assert_eq!(Method::peek_id(&wire), Some(method.id()));
        }
    }

    #[test]
    fn cut_or_overlong_arguments_are_undecodable(number in any::<u64>(), cut in any::<usize>()) {
        let mut samples = Samples { number, text: "text", bytes: b"bytes", table: Table::EMPTY };
        for method in Method::samples(&mut samples) {
            let mut wire = encoded(&method);
            let short = &wire[..cut % wire.len()];
            assert!(matches!(Method::parse(short), Err(MethodError::Undecodable { .. })), "{method:?}");
            wire.extend_from_slice(&[0]);
            assert!(matches!(Method::parse(&wire), Err(MethodError::Undecodable { .. })), "{method:?}");
        }
    }

    #[test]
    fn any_bytes_are_judged_without_panic(payload in vec(any::<u8>(), 0..200)) {
        if let Ok(method) = Method::parse(&payload) {
            assert_eq!(Method::parse(&encoded(&method)), Ok(method));
        }
    }
}

fn check(method: &Method<'_>, wire: &[u8]) {
    assert_eq!(encoded(method), wire);
    assert_eq!(Method::parse(wire).as_ref(), Ok(method));
}

#[test]
fn known_bytes() {
    check(
        &Method::QueueDeclare(QueueDeclare {
            queue: "task",
            passive: false,
            durable: true,
            exclusive: false,
            auto_delete: true,
            nowait: false,
            arguments: Table::EMPTY,
        }),
        b"\x00\x32\x00\x0a\x00\x00\x04task\x0a\x00\x00\x00\x00",
    );
    check(
        &Method::BasicPublish(BasicPublish {
            exchange: b"",
            routing_key: b"task\xff",
            mandatory: true,
            immediate: false,
        }),
        b"\x00\x3c\x00\x28\x00\x00\x00\x05task\xff\x01",
    );
    check(
        &Method::BasicDeliver(BasicDeliver {
            consumer_tag: "ctag1.0",
            delivery_tag: 258,
            redelivered: true,
            exchange: b"x",
            routing_key: b"k",
        }),
        b"\x00\x3c\x00\x3c\x07ctag1.0\x00\x00\x00\x00\x00\x00\x01\x02\x01\x01x\x01k",
    );
    check(
        &Method::BasicAck(BasicAck { delivery_tag: 1, multiple: true }),
        b"\x00\x3c\x00\x50\x00\x00\x00\x00\x00\x00\x00\x01\x01",
    );
    check(&Method::ChannelOpen(ChannelOpen), b"\x00\x14\x00\x0a\x00");
    check(&Method::TxSelect(TxSelect), b"\x00\x5a\x00\x0a");
}

#[test]
fn ids_names_and_count_are_those_of_rabbitmq() {
    let mut samples = Samples { number: 0, text: "", bytes: b"", table: Table::EMPTY };
    let methods = Method::samples(&mut samples);
    assert_eq!(methods.len(), 66);
    let name_of = |id| methods.iter().find(|method| method.id() == id).unwrap().name();
    assert_eq!(name_of((40, 51)), "exchange.unbind-ok");
    assert_eq!(name_of((60, 120)), "basic.nack");
    let with_content: Vec<_> =
        methods.iter().filter(|method| method.has_content()).map(Method::name).collect();
    assert_eq!(with_content, ["basic.publish", "basic.return", "basic.deliver", "basic.get-ok"]);
}

#[test]
fn a_long_shortstr_is_cut_between_characters() {
    let text = format!("x{}", "é".repeat(200));
    let close = ConnectionClose { reply_code: 541, reply_text: &text, class_id: 0, method_id: 0 };
    let wire = encoded(&Method::ConnectionClose(close));
    let cut = ConnectionClose { reply_text: &text[..255], ..close };
    assert_eq!(Method::parse(&wire), Ok(Method::ConnectionClose(cut)));
}

#[test]
fn errors_speak_as_rabbitmq() {
    let message = |payload: &[u8]| Method::parse(payload).unwrap_err().to_string();
    assert_eq!(message(b"\x00\x3c\x00\x50\x00\x01"), "cannot decode <<0,1>>");
    assert_eq!(message(b"\x00\x5a\x00\x0aA"), "cannot decode <<65>>");
    assert_eq!(message(b"\x00"), "cannot decode <<0>>");
    assert_eq!(message(b"\x00\x3c\x00\x1e\x01\xff\x00"), "Malformed UTF-8 in shortstr");
    assert_eq!(message(b"\x00\x3c\x00\xc8\x00"), "unknown method 60.200");

    let bad_table = b"\x00\x32\x00\x0a\x00\x00\x00\x00\x00\x00\x00\x03\x01kU";
    assert_eq!(Method::parse(bad_table), Err(MethodError::Table(TableError::UnknownType(b'U'))));
}
