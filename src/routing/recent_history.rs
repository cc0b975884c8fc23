//! What a recent-history exchange is told: how many messages it remembers, and which it does not.
//!
//! It routes as a fanout exchange does, each message once. What it remembers, and for whom, is not a table's business.

use crate::protocol::field::Field;
use crate::protocol::table::Table;
use crate::routing::RoutingError;
use crate::routing::term::Term;

/// The most messages that one exchange may be told to remember.
pub const LENGTH_MAX: usize = 10_000;
/// So many are remembered when nothing is said.
const LENGTH_DEFAULT: usize = 20;

const LENGTH_ARGUMENT: &str = "x-recent-history-length";
const NO_STORE_HEADER: &str = "x-recent-history-no-store";

/// How many messages an exchange with these arguments remembers.
///
/// # Errors
/// The length is no positive integer, or larger than any may be.
pub fn length(arguments: Table<'_>) -> Result<usize, RoutingError> {
    let Some(field) = arguments.get(LENGTH_ARGUMENT) else { return Ok(LENGTH_DEFAULT) };
    let positive = field.as_int().filter(|length| *length > 0);
    let wanted = positive.ok_or_else(|| RoutingError::HistoryLength { value: Term(field).to_string() })?;
    let too_long = RoutingError::HistoryTooLong { length: wanted, length_max: LENGTH_MAX };
    usize::try_from(wanted).ok().filter(|length| *length <= LENGTH_MAX).ok_or(too_long)
}

/// Whether a message with these headers is to be remembered.
pub fn is_stored(headers: Table<'_>) -> bool {
    headers.get(NO_STORE_HEADER) != Some(Field::Bool(true))
}
