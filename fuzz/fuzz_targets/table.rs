//! An accepted table keeps the budgets, is walked to its last byte, and is rebuilt to the same entries.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluicemq::protocol::field::Field;
use sluicemq::protocol::table::{Array, TABLE_DEPTH_MAX, TABLE_ENTRIES_MAX, Table, TableBuf};

fuzz_target!(|raw: &[u8]| {
    let Ok(table) = Table::parse(raw) else { return };
    assert!(entries(table, 0) <= TABLE_ENTRIES_MAX);
    assert_eq!(table.is_empty(), table.len() == 0);
    let _ = Field::Table(table).to_string();

    let mut rebuilt = TableBuf::new();
    for (key, field) in table.iter() {
        rebuilt.insert_bytes(key, field);
    }
    // Only the spelling of a true bool and of a long may differ, never the length.
    assert_eq!(rebuilt.as_table().as_bytes().len(), raw.len());
    assert_eq!(Table::parse(rebuilt.as_table().as_bytes()), Ok(rebuilt.as_table()));
});

fn entries(table: Table<'_>, depth: usize) -> usize {
    assert!(depth <= TABLE_DEPTH_MAX);
    table.iter().map(|(_, field)| 1 + below(field, depth)).sum()
}

fn elements(array: Array<'_>, depth: usize) -> usize {
    assert!(depth <= TABLE_DEPTH_MAX);
    array.iter().map(|field| 1 + below(field, depth)).sum()
}

fn below(field: Field<'_>, depth: usize) -> usize {
    match field {
        Field::Table(table) => entries(table, depth + 1),
        Field::Array(array) => elements(array, depth + 1),
        _ => 0,
    }
}
