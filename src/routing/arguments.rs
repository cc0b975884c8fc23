//! Binding arguments in the one form that is compared: as RabbitMQ does, sorted by key, duplicates in order.

use crate::protocol::table::{Table, TableBuf};

/// The arguments in canonical form. `raw` was validated where it came in; what is no table has no entries.
pub fn canonical(raw: &[u8]) -> TableBuf {
    let mut table = TableBuf::new();
    let Ok(arguments) = Table::parse(raw) else { return table };
    let mut entries: Vec<_> = arguments.iter().collect();
    entries.sort_by_key(|(key, _)| *key);
    for (key, field) in entries {
        table.insert_bytes(key, field);
    }
    table
}
