//! Accepted properties are relayed as they came, and a change touches nothing but what it names.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluicemq::protocol::properties::{Properties, PropertiesBuf, Property};

fuzz_target!(|raw: &[u8]| {
    let Ok(properties) = Properties::parse(raw) else { return };
    assert_eq!(properties.as_bytes(), raw);

    let mut changed = PropertiesBuf::from(properties);
    changed.reply_to("amq.rabbitmq.reply-to.x").remove(Property::Expiration);
    let bytes = changed.encode();
    let read = Properties::parse(&bytes).expect("a change leaves properties whole");
    assert_eq!(read.reply_to(), Some(b"amq.rabbitmq.reply-to.x".as_slice()));
    assert_eq!(read.expiration(), None);
    assert_eq!(read.content_type(), properties.content_type());
    assert_eq!(read.headers(), properties.headers());
    assert_eq!(read.delivery_mode(), properties.delivery_mode());
    assert_eq!(read.timestamp(), properties.timestamp());
    assert_eq!(read.cluster_id(), properties.cluster_id());

    match properties.reply_to() {
        Some(reply_to) => changed.reply_to(reply_to),
        None => changed.remove(Property::ReplyTo),
    };
    if let Some(expiration) = properties.expiration() {
        changed.expiration(expiration);
    }
    assert_eq!(changed.into_bytes(), raw);
});
