//! What a verb answers, and how it is shown: a table for scripts, a pretty one for people, JSON and CSV for others.

use std::io::{self, Write};

use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use serde_json::{Map, Value, json};

use crate::cli::ctl::ask::Ask;
use crate::cli::ctl::erlang;
use crate::cli::ctl::failure::{Code, Failure};

/// What RabbitMQ's formatters are called here; what it calls `erlang` is for Erlang alone.
const FORMATTERS: [&str; 6] = ["table", "pretty_table", "json", "json_stream", "csv", "string"];

/// An answer.
#[derive(Debug)]
pub(super) enum Output {
    /// It is done, and there is nothing to say.
    Done,
    /// A sentence.
    Said(String),
    /// Text as it is, and the same for programs.
    Text(String, Value),
    /// Rows, of which a table shows nothing where there are none, or an empty line.
    Rows { columns: Vec<&'static str>, rows: Vec<Vec<Value>>, is_streamed: bool },
}

/// Checks that what is shown can be shown so.
///
/// # Errors
/// There is no such formatter.
pub(super) fn check_formatter(name: &str) -> Result<(), Failure> {
    match FORMATTERS.contains(&name) {
        true => Ok(()),
        false => {
            Err(Failure::usage(format!("unknown formatter {name}: choose of {}", FORMATTERS.join(", "))))
        }
    }
}

/// Shows an answer.
///
/// # Errors
/// It cannot be written.
pub(super) fn show(ask: &Ask, output: &Output) -> Result<(), Failure> {
    let text = text(ask, output);
    match io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()) {
        Ok(()) => Ok(()),
        // Who reads no more has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Failure::told(Code::Software, error)),
    }
}

fn text(ask: &Ask, output: &Output) -> String {
    let formatter = ask.formatter();
    let is_json = formatter.starts_with("json");
    match output {
        Output::Done if is_json => line(&json!({"status": "ok"}).to_string()),
        Output::Done => String::new(),
        Output::Said(sentence) if is_json => line(&json!({"status": "ok", "message": sentence}).to_string()),
        Output::Said(sentence) => line(sentence),
        Output::Text(_, value) if is_json => line(&value.to_string()),
        Output::Text(text, _) => text.clone(),
        Output::Rows { columns, rows, .. } if formatter == "json" => json_rows(columns, rows),
        Output::Rows { columns, rows, .. } if formatter == "json_stream" => {
            rows.iter().map(|row| line(&object(columns, row))).collect()
        }
        Output::Rows { columns, rows, .. } if formatter == "csv" => csv(columns, rows),
        Output::Rows { columns, rows, .. } if formatter == "pretty_table" => pretty(columns, rows),
        Output::Rows { rows, is_streamed, .. } if rows.is_empty() => {
            if *is_streamed {
                String::new()
            } else {
                line("")
            }
        }
        Output::Rows { columns, rows, .. } => {
            let head = ask.has_headers().then(|| line(&columns.join("\t")));
            let cells = |row: &Vec<Value>| row.iter().map(erlang::cell).collect::<Vec<_>>().join("\t");
            head.into_iter().chain(rows.iter().map(|row| line(&cells(row)))).collect()
        }
    }
}

fn line(text: &str) -> String {
    format!("{text}\n")
}

fn object(columns: &[&str], row: &[Value]) -> String {
    // The order of the columns is the one that was asked for.
    let fields = columns.iter().zip(row);
    let fields = fields.map(|(name, value)| format!("{}:{}", json!(name), erlang::typed(value)));
    format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
}

fn json_rows(columns: &[&str], rows: &[Vec<Value>]) -> String {
    let rows: Vec<_> = rows.iter().map(|row| line(&object(columns, row))).collect();
    format!("[\n{}]\n", rows.join(","))
}

fn csv(columns: &[&str], rows: &[Vec<Value>]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let mut writer = csv::WriterBuilder::new().quote_style(csv::QuoteStyle::Always).from_writer(Vec::new());
    // Writing to memory cannot fail.
    let _ = writer.write_record(columns);
    for row in rows {
        let _ = writer.write_record(row.iter().map(erlang::cell));
    }
    String::from_utf8_lossy(&writer.into_inner().unwrap_or_default()).into_owned()
}

fn pretty(columns: &[&str], rows: &[Vec<Value>]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).set_header(columns);
    table.add_rows(rows.iter().map(|row| row.iter().map(erlang::cell).collect::<Vec<_>>()));
    line(&table.to_string())
}

/// Names and values as lines, and as an object.
pub(super) fn pairs(pairs: Vec<(String, Value)>, shown: impl Fn(&str, &Value) -> String) -> Output {
    let text = pairs.iter().map(|(name, value)| line(&shown(name, value))).collect();
    Output::Text(text, Value::Object(pairs.into_iter().collect::<Map<_, _>>()))
}
