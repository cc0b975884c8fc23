//! What a delayed-message exchange is told: how it routes in the end, and how long a message waits before.
//!
//! It has the table of the kind that its `x-delayed-type` names. Where messages wait is not a table's business.

use crate::protocol::field::Field;
use crate::protocol::properties::Properties;
use crate::protocol::table::Table;
use crate::routing::{ExchangeKind, RoutingError};

const TYPE_ARGUMENT: &str = "x-delayed-type";
/// The header that says how long a message is to wait, in milliseconds.
pub const DELAY_HEADER: &str = "x-delay";
/// The longest delay: a longer one is none, as with RabbitMQ's plugin.
const DELAY_MS_MAX: i64 = u32::MAX as i64;

/// How an exchange with these arguments routes.
///
/// # Errors
/// The type is missing, unknown, or that of an exchange that delays.
pub fn inner_kind(arguments: Table<'_>) -> Result<ExchangeKind, RoutingError> {
    let Some(Field::LongStr(name)) = arguments.get(TYPE_ARGUMENT) else {
        return Err(RoutingError::NoDelayedType);
    };
    match std::str::from_utf8(name).ok().and_then(|name| name.parse().ok()) {
        Some(ExchangeKind::Delayed) => Err(RoutingError::DelayedTwice),
        Some(kind) => Ok(kind),
        None => Err(RoutingError::UnknownKind { name: String::from_utf8_lossy(name).into_owned() }),
    }
}

/// How long a message is to wait, in milliseconds; `None` when it is to be routed at once.
pub fn delay_ms(properties: Properties<'_>) -> Option<u64> {
    let delay = properties.headers()?.get(DELAY_HEADER)?;
    let delay = match delay {
        Field::LongStr(text) => std::str::from_utf8(text).ok()?.parse().ok()?,
        Field::F32(number) => number as i64,
        Field::F64(number) => number as i64,
        number => number.as_int()?,
    };
    (1..=DELAY_MS_MAX).contains(&delay).then_some(delay.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::{delay_ms, inner_kind};
    use crate::protocol::field::Field;
    use crate::protocol::properties::PropertiesBuf;
    use crate::protocol::table::{Table, TableBuf};
    use crate::routing::{ExchangeKind, RoutingError};

    #[test]
    fn a_delay_is_a_positive_number_of_milliseconds() {
        for (value, expected) in [
            (Field::I32(5000), Some(5000)),
            (Field::U8(1), Some(1)),
            (Field::I64(4_294_967_295), Some(4_294_967_295)),
            (Field::LongStr(b"250"), Some(250)),
            (Field::F64(2.9), Some(2)),
            (Field::I32(0), None),
            (Field::I32(-5), None),
            (Field::I64(4_294_967_296), None),
            (Field::LongStr(b"soon"), None),
            (Field::Bool(true), None),
        ] {
            let mut headers = TableBuf::new();
            headers.insert("x-delay", value);
            let mut properties = PropertiesBuf::new();
            properties.headers(headers.as_table());
            assert_eq!(delay_ms(properties.as_properties()), expected, "{value:?}");
        }
        assert_eq!(delay_ms(PropertiesBuf::new().as_properties()), None);
    }

    #[test]
    fn the_type_must_be_one_that_does_not_delay() {
        let kind_of = |name: &[u8]| {
            let mut arguments = TableBuf::new();
            arguments.insert("x-delayed-type", Field::LongStr(name));
            inner_kind(arguments.as_table())
        };
        assert_eq!(kind_of(b"topic"), Ok(ExchangeKind::Topic));
        assert_eq!(kind_of(b"x-delayed-message"), Err(RoutingError::DelayedTwice));
        assert!(matches!(kind_of(b"none"), Err(RoutingError::UnknownKind { .. })));
        assert_eq!(inner_kind(Table::EMPTY), Err(RoutingError::NoDelayedType));
    }
}
