//! Values as RabbitMQ's tables show them: Erlang's terms, which scripts have learnt to read.

use serde_json::{Value, json};

/// A value in a cell of its own: texts are bare, and what is not there is empty.
pub(super) fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => visible(text),
        Value::Array(items) => {
            // Lists of names, such as tags.
            let items = items.iter().map(|item| item.as_str().map_or_else(|| term(item), visible));
            format!("[{}]", items.collect::<Vec<_>>().join(", "))
        }
        other => term(other),
    }
}

/// A text for a terminal, which is told nothing by it: whatever clients put into their messages and names is a line of a
/// table.
fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for char in text.chars() {
        match char.is_control() {
            true => shown.push_str(&format!("\\{:03o}", u32::from(char))),
            false => shown.push(char),
        }
    }
    shown
}

/// A value within another one.
fn term(value: &Value) -> String {
    match value {
        Value::Null => "undefined".to_owned(),
        Value::String(text) => {
            format!("\"{}\"", visible(&text.replace('\\', "\\\\").replace('"', "\\\"")))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(term).collect::<Vec<_>>().join(",")),
        Value::Object(entries) => {
            let entries =
                entries.iter().map(|(name, value)| format!("{{\"{}\",{}}}", visible(name), term(value)));
            format!("[{}]", entries.collect::<Vec<_>>().join(","))
        }
        plain => plain.to_string(),
    }
}

/// A value as RabbitMQ's JSON has it, where a field table is a list of names, types and values.
pub(super) fn typed(value: &Value) -> Value {
    match value {
        Value::Null => json!(""),
        Value::Object(entries) => {
            entries.iter().map(|(name, value)| json!([name, kind(value), typed(value)])).collect()
        }
        other => other.clone(),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "void",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "double",
        Value::Number(_) => "long",
        Value::String(_) => "longstr",
        Value::Array(_) => "array",
        Value::Object(_) => "table",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{cell, typed};

    #[test]
    fn a_terminal_is_told_nothing_by_what_clients_have_written() {
        assert_eq!(cell(&json!("a\u{1b}[2Jb\nü")), "a\\033[2Jb\\012ü");
        assert_eq!(cell(&json!({"\t": "\u{9b}"})), "[{\"\\011\",\"\\233\"}]");
    }

    #[test]
    fn a_table_is_a_list_of_pairs_and_tags_are_bare() {
        let table = json!({"x-max-length": 10, "x-overflow": "drop-\"head", "deep": {"yes": true}});
        assert_eq!(
            cell(&table),
            r#"[{"deep",[{"yes",true}]},{"x-max-length",10},{"x-overflow","drop-\"head"}]"#
        );
        assert_eq!(typed(&json!({"a": 1})), json!([["a", "long", 1]]));
        assert_eq!(cell(&json!(["administrator", "monitoring"])), "[administrator, monitoring]");
        assert_eq!(
            (cell(&json!(null)), cell(&json!(5)), cell(&json!({}))),
            (String::new(), "5".into(), "[]".into())
        );
    }
}
