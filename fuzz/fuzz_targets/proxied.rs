//! The beginning of a connection by a proxy: a header ends where it says, and what is behind it changes nothing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluicemq::net::proxied::parse;

fuzz_target!(|bytes: &[u8]| {
    match parse(bytes) {
        Ok(Some(header)) => {
            let (own, _behind) = bytes.split_at(header.bytes);
            assert_eq!(parse(own).ok().flatten(), Some(header));
            assert!(parse(&own[..own.len() - 1]).is_ok_and(|part| part.is_none()));
        }
        Ok(None) => assert!(bytes.len() < 2048),
        Err(refused) => drop(refused.to_string()),
    }
});
