//! Values of field tables as JSON, as RabbitMQ shows them, and JSON as field tables.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::mgmt::answer::Refusal;
use crate::protocol::field::Field;
use crate::protocol::table::{ArrayBuf, TABLE_DEPTH_MAX, Table, TableBuf};

/// Keys of field tables are short strings, in bytes.
const KEY_BYTES_MAX: usize = 255;

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

/// A field.
pub(crate) fn value(field: Field<'_>) -> Value {
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

/// The `arguments` of a body, which may have none.
///
/// # Errors
/// They are no object, or cannot be a field table.
pub(crate) fn arguments(body: &Map<String, Value>) -> Result<TableBuf, Refusal> {
    match body.get("arguments") {
        None | Some(Value::Null) => Ok(TableBuf::new()),
        Some(Value::Object(arguments)) => to_table(arguments),
        // Some libraries say nothing by an empty list.
        Some(Value::Array(none)) if none.is_empty() => Ok(TableBuf::new()),
        Some(_) => Err(Refusal::bad_request("arguments are no object")),
    }
}

/// An object as a field table.
///
/// # Errors
/// A key that is too long, or objects in objects beyond what clients may send.
pub(crate) fn to_table(object: &Map<String, Value>) -> Result<TableBuf, Refusal> {
    checked(table_at(object, 0)?)
}

fn table_at(object: &Map<String, Value>, depth: usize) -> Result<TableBuf, Refusal> {
    if depth >= TABLE_DEPTH_MAX {
        return Err(Refusal::bad_request("objects are too deep in each other"));
    }
    let mut table = TableBuf::new();
    for (key, value) in object {
        if key.len() > KEY_BYTES_MAX {
            return Err(Refusal::bad_request(format!("a key of more than {KEY_BYTES_MAX} bytes")));
        }
        field_at(value, depth, &mut |field| {
            table.insert(key, field);
        })?;
    }
    Ok(table)
}

/// What clients may not send is not taken from others either.
fn checked(table: TableBuf) -> Result<TableBuf, Refusal> {
    match Table::parse(table.as_table().as_bytes()) {
        Ok(_) => Ok(table),
        Err(error) => Err(Refusal::bad_request(error.to_string())),
    }
}

/// Shows a value as a field.
///
/// # Errors
/// As [`to_table`].
pub(crate) fn with_field<T>(value: &Value, mut show: impl FnMut(Field<'_>) -> T) -> Result<T, Refusal> {
    let mut shown = None;
    field_at(value, 0, &mut |field| shown = Some(show(field)))?;
    shown.ok_or_else(|| Refusal::bad_request("there is no value"))
}

fn field_at(value: &Value, depth: usize, show: &mut dyn FnMut(Field<'_>)) -> Result<(), Refusal> {
    match value {
        Value::Null => show(Field::Void),
        Value::Bool(value) => show(Field::Bool(*value)),
        Value::Number(number) => match number.as_i64() {
            Some(number) => show(Field::I64(number)),
            None => show(Field::F64(number.as_f64().unwrap_or_default())),
        },
        Value::String(text) => show(Field::LongStr(text.as_bytes())),
        Value::Object(object) => show(Field::Table(table_at(object, depth + 1)?.as_table())),
        Value::Array(_) if depth >= TABLE_DEPTH_MAX => {
            return Err(Refusal::bad_request("lists are too deep in each other"));
        }
        Value::Array(items) => {
            let mut array = ArrayBuf::new();
            for item in items {
                field_at(item, depth + 1, &mut |field| {
                    array.push(field);
                })?;
            }
            show(Field::Array(array.as_array()));
        }
    }
    Ok(())
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
            .insert("decimal", Field::Decimal { scale: 2, value: 272 })
            .insert("nothing", Field::Void)
            .insert("table", Field::Table(inner.as_table()));
        let expected = json!({
            "text": "é", "octets": "\u{fffd}", "number": -5, "decimal": 2.72, "nothing": null, "table": {"deep": true},
        });
        assert_eq!(table(fields.as_table().as_bytes()), expected);
    }
}
