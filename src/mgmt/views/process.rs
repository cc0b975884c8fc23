//! /api/process: what an operator does to a running broker. Nothing of it outlives the process, as in RabbitMQ.

use serde_json::{Value, json};

use crate::clock::Now;
use crate::config::unit::parse_size;
use crate::config::{LogLevel, Watermark};
use crate::message::place::Lsn;
use crate::mgmt::answer::{Answer, Refusal};
use crate::mgmt::call::Call;
use crate::mgmt::control::{Ask, Control};

/// Whether the broker runs: whoever answers this says yes.
pub(crate) fn show(call: &Call<'_>) -> Result<Answer, Refusal> {
    let started = call.mgmt.broker.started.instant;
    Ok(Answer::json(&json!({
        "running": true,
        "node": call.mgmt.node,
        "os_pid": std::process::id(),
        "uptime_ms": Now::read().instant.saturating_duration_since(started).as_millis() as u64,
    })))
}

/// The configuration in effect, without secrets: as values, and as the file that would say it.
pub(crate) fn environment(call: &Call<'_>) -> Result<Answer, Refusal> {
    let text = call.mgmt.broker.in_effect.load().to_commented_toml();
    let values: Value = toml::from_str(&text).unwrap_or_default();
    Ok(Answer::json(&json!({"values": values, "toml": text})))
}

/// Moves the memory watermark: a share of memory, or bytes with or without a unit.
pub(crate) fn put_memory_watermark(call: &Call<'_>) -> Result<Answer, Refusal> {
    let watermark = match value(call)? {
        // Nobody publishes.
        Value::Number(none) if none.as_f64() == Some(0.0) => Ok(Watermark::Bytes(0)),
        Value::Number(share) if share.as_f64().is_some_and(|share| share <= 1.0) => share.to_string().parse(),
        Value::Number(bytes) => parse_size(&bytes.to_string()).map(Watermark::Bytes),
        Value::String(text) => text.parse(),
        other => Err(format!("the value cannot be {other}")),
    };
    let watermark = watermark.map_err(Refusal::bad_request)?;
    call.mgmt.broker.set_memory_watermark(watermark, Now::read().instant);
    Ok(Answer::done(Lsn::default()))
}

/// Moves the limit of what must be free on the disk: bytes with or without a unit, or times the memory.
pub(crate) fn put_disk_free_limit(call: &Call<'_>) -> Result<Answer, Refusal> {
    let body = call.object()?;
    let bytes = match (body.get("value"), body.get("mem_relative").and_then(Value::as_f64)) {
        (Some(Value::Number(bytes)), None) => parse_size(&bytes.to_string()),
        (Some(Value::String(text)), None) => parse_size(text),
        (None, Some(times)) if times >= 0.0 => {
            Ok((call.mgmt.broker.node.memory.usable_bytes.read() as f64 * times) as u64)
        }
        _ => Err("a body has a value, or mem_relative, which is no less than 0".to_owned()),
    };
    let bytes = bytes.map_err(Refusal::bad_request)?;
    call.mgmt.broker.set_disk_free_limit(bytes, Now::read().instant);
    Ok(Answer::done(Lsn::default()))
}

/// Changes the least important level that is logged.
pub(crate) fn put_log_level(call: &Call<'_>) -> Result<Answer, Refusal> {
    let level: LogLevel = match value(call)? {
        Value::String(word) => word.parse().map_err(Refusal::bad_request)?,
        other => return Err(Refusal::bad_request(format!("the level cannot be {other}"))),
    };
    (control(call)?.log_level)(level);
    Ok(Answer::done(Lsn::default()))
}

/// Reads anew what can be, while it serves.
pub(crate) fn reload(call: &Call<'_>) -> Result<Answer, Refusal> {
    (control(call)?.reload)().map_err(Refusal::bad_request)?;
    Ok(Answer::done(Lsn::default()))
}

/// Ends the process.
pub(crate) fn stop(call: &Call<'_>) -> Result<Answer, Refusal> {
    ask(call, Ask::Stop)
}

/// Ends the broker, and not the process.
pub(crate) fn stop_app(call: &Call<'_>) -> Result<Answer, Refusal> {
    ask(call, Ask::StopApp)
}

/// Starts the broker: it runs already.
pub(crate) fn start_app(_: &Call<'_>) -> Result<Answer, Refusal> {
    Ok(Answer::done(Lsn::default()))
}

fn ask(call: &Call<'_>, ask: Ask) -> Result<Answer, Refusal> {
    control(call)?.ask(ask)?;
    Ok(Answer::done(Lsn::default()))
}

fn control<'a>(call: &'a Call<'_>) -> Result<&'a Control, Refusal> {
    call.mgmt.control.get().ok_or_else(Refusal::unavailable)
}

fn value(call: &Call<'_>) -> Result<Value, Refusal> {
    let value = call.object()?.remove("value");
    value.ok_or_else(|| Refusal::bad_request("[{key_missing,value}]"))
}
