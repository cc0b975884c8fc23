//! Parse, encode, parse: what is understood means the same when we say it.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use sluicemq::protocol::methods::Method;

fuzz_target!(|payload: &[u8]| {
    match Method::parse(payload) {
        Ok(method) => {
            let mut encoded = BytesMut::new();
            method.encode(&mut encoded);
            assert_eq!(Method::parse(&encoded), Ok(method));
            assert_eq!(Method::peek_id(payload), Some(method.id()));
        }
        Err(error) => drop(error.to_string()),
    }
});
