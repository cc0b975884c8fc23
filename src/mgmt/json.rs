//! Values of field tables as JSON, as RabbitMQ shows them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::protocol::field::Field;
use crate::protocol::table::Table;

/// A field table that was checked before, as an object; of entries with one name the first.
pub(crate) fn table(bytes: &[u8]) -> Value {
    object(Table::unchecked(bytes))
}

fn object(table: Table<'_>) -> Value {
    let mut shown = Map::new();
    for (name, field) in table.iter() {
        shown.entry(text(name)).or_insert_with(|| value(field));
    }
    Value::Object(shown)
}

fn value(field: Field<'_>) -> Value {
    match field {
        Field::Bool(value) => json!(value),
        Field::F32(value) => json!(value),
        Field::F64(value) => json!(value),
        Field::Decimal { scale, value } => json!(f64::from(value) / 10f64.powi(i32::from(scale))),
        Field::LongStr(bytes) => json!(text(bytes)),
        Field::Bytes(bytes) => json!(STANDARD.encode(bytes)),
        Field::Timestamp(seconds) => json!(seconds),
        Field::Table(table) => object(table),
        Field::Array(array) => array.iter().map(value).collect(),
        Field::Void => Value::Null,
        number => number.as_int().map_or(Value::Null, |number| json!(number)),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The entries of a `json!` object.
pub(crate) fn entries(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(entries) => entries,
        _ => Map::new(),
    }
}

/// One more entry of a `json!` object.
pub(crate) fn put(object: &mut Value, name: &str, value: Value) {
    if let Value::Object(entries) = object {
        entries.insert(name.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::table;
    use crate::protocol::field::Field;
    use crate::protocol::table::TableBuf;

    #[test]
    fn a_table_is_an_object_and_of_duplicates_the_first_counts() {
        let mut inner = TableBuf::new();
        inner.insert("deep", Field::Bool(true));
        let mut fields = TableBuf::new();
        fields
            .insert("text", Field::LongStr("é".as_bytes()))
            .insert("octets", Field::LongStr(&[0xff]))
            .insert("number", Field::I64(-5))
            .insert("number", Field::I64(6))
            .insert("decimal", Field::Decimal { scale: 2, value: 314 })
            .insert("nothing", Field::Void)
            .insert("table", Field::Table(inner.as_table()));
        let expected = json!({
            "text": "é", "octets": "\u{fffd}", "number": -5, "decimal": 3.14, "nothing": null, "table": {"deep": true},
        });
        assert_eq!(table(fields.as_table().as_bytes()), expected);
    }
}
