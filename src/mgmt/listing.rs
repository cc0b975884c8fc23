//! Lists: filtered by name, sorted, cut into pages, and only as much of each item as was asked for.
//!
//! An item is shown only when it is on the page, unless the list is sorted by something that only showing tells.

use std::cmp::Ordering;

use regex::RegexBuilder;
use serde_json::{Map, Value, json};

use crate::mgmt::answer::{Answer, Refusal};
use crate::mgmt::call::Call;

/// Items on a page when nobody says how many, and at most.
const PAGE_SIZE_DEFAULT: usize = 100;
const PAGE_SIZE_MAX: usize = 500;
/// What a pattern may take, in bytes, before it is refused.
const PATTERN_BYTES_MAX: usize = 1 << 20;
/// Columns that are looked at.
const COLUMNS_MAX: usize = 200;

/// Which page is asked for.
#[derive(Clone, Copy, Debug)]
struct Page {
    number: usize,
    size: usize,
}

/// Answers with these items, which are in the order they have when nobody asks for another; `name` is what they are
/// searched by.
///
/// # Errors
/// Parameters that make no sense.
pub(crate) fn list<T>(
    call: &Call<'_>,
    mut items: Vec<T>,
    name: impl Fn(&T) -> String,
    show: impl Fn(&T) -> Value,
) -> Result<Answer, Refusal> {
    let page = page(call)?;
    let total = items.len();
    if page.is_some() {
        filter(call, &mut items, &name)?;
    }
    let columns = columns(call);
    let sort = call.asked("sort").filter(|sort| !sort.is_empty());
    let mut sorted: Vec<&T> = match sort {
        None => items.iter().collect(),
        Some(key) => {
            // Of each only what it is sorted by is kept: many together are large.
            let keyed = items.iter().map(|item| (at(&show(item), key).cloned(), item));
            let mut keyed: Vec<_> = keyed.collect();
            keyed.sort_by(|(one, _), (two, _)| compare(one.as_ref(), two.as_ref()));
            keyed.into_iter().map(|(_, item)| item).collect()
        }
    };
    if call.wants("sort_reverse") {
        sorted.reverse();
    }
    let filtered = sorted.len();
    let range = page.map_or(Ok(0..filtered), |page| page.range(filtered))?;
    let mut body = Vec::new();
    for item in sorted.drain(range.clone()) {
        body.push(if body.is_empty() { b'[' } else { b',' });
        let value = show(item);
        let cut = if columns.is_empty() { value } else { only(&value, &columns) };
        body.extend_from_slice(cut.to_string().as_bytes());
    }
    body.extend_from_slice(if body.is_empty() { b"[]" } else { b"]" });
    let Some(page) = page else { return Ok(Answer::json_bytes(body)) };
    let envelope = json!({
        "filtered_count": filtered,
        "item_count": range.len(),
        "page": page.number,
        "page_count": filtered.div_ceil(page.size),
        "page_size": page.size,
        "total_count": total,
    });
    let mut whole = envelope.to_string().into_bytes();
    whole.pop();
    whole.extend_from_slice(b",\"items\":");
    whole.append(&mut body);
    whole.push(b'}');
    Ok(Answer::json_bytes(whole))
}

/// Answers with one value, or what was asked for of it.
pub(crate) fn one(call: &Call<'_>, value: &Value) -> Answer {
    let columns = columns(call);
    if columns.is_empty() { Answer::json(value) } else { Answer::json(&only(value, &columns)) }
}

impl Page {
    fn range(self, length: usize) -> Result<std::ops::Range<usize>, Refusal> {
        let start = (self.number - 1).saturating_mul(self.size);
        if start >= length && self.number > 1 {
            let reason =
                format!("Page out of range, page: {} page size: {}, len: {length}", self.number, self.size);
            return Err(Refusal::bad("page_out_of_range", reason));
        }
        Ok(start..length.min(start + self.size))
    }
}

fn page(call: &Call<'_>) -> Result<Option<Page>, Refusal> {
    let (number, size) = (call.asked("page"), call.asked("page_size"));
    if number.is_none() && size.is_none() && !call.wants("pagination") {
        return Ok(None);
    }
    let told = |text: Option<&str>| text.unwrap_or("undefined").chars().take(20).collect::<String>();
    let refused = || {
        let reason =
            format!("Invalid pagination parameters: page number {}, page size {}", told(number), told(size));
        Refusal::bad("invalid_pagination_parameters", reason)
    };
    let read = |text: Option<&str>, usual: usize| match text {
        None | Some("") => Ok(usual),
        Some(text) => text.parse().map_err(|_| refused()),
    };
    let page = Page { number: read(number, 1)?, size: read(size, PAGE_SIZE_DEFAULT)? };
    if page.number == 0 || page.size == 0 || page.size > PAGE_SIZE_MAX {
        return Err(refused());
    }
    Ok(Some(page))
}

/// Keeps those whose name contains what was asked for, or matches it.
fn filter<T>(call: &Call<'_>, items: &mut Vec<T>, name: impl Fn(&T) -> String) -> Result<(), Refusal> {
    let Some(wanted) = call.asked("name").filter(|name| !name.is_empty()) else { return Ok(()) };
    if call.wants("use_regex") {
        let pattern = RegexBuilder::new(wanted).case_insensitive(true).size_limit(PATTERN_BYTES_MAX).build();
        let pattern = pattern.map_err(|_| Refusal::bad_request("Pagination parameters are invalid"))?;
        items.retain(|item| pattern.is_match(&name(item)));
        return Ok(());
    }
    let wanted = wanted.to_lowercase();
    items.retain(|item| name(item).to_lowercase().contains(&wanted));
    Ok(())
}

fn columns<'a>(call: &'a Call<'_>) -> Vec<&'a str> {
    let asked = call.asked("columns").unwrap_or_default().split(',').map(str::trim);
    asked.filter(|column| !column.is_empty()).take(COLUMNS_MAX).collect()
}

/// What these paths lead to, and nothing else.
fn only(value: &Value, columns: &[&str]) -> Value {
    let mut kept = Map::new();
    for column in columns {
        copy(value, column, &mut kept);
    }
    Value::Object(kept)
}

fn copy(from: &Value, path: &str, to: &mut Map<String, Value>) {
    if let Some(found) = from.get(path) {
        to.insert(path.to_owned(), found.clone());
        return;
    }
    let Some((first, rest)) = path.split_once('.') else { return };
    let Some(found) = from.get(first).filter(|found| found.is_object()) else { return };
    let inner = to.entry(first).or_insert_with(|| Value::Object(Map::new()));
    if let Value::Object(inner) = inner {
        copy(found, rest, inner);
    }
}

fn at<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    value.get(path).or_else(|| path.split('.').try_fold(value, |value, name| value.get(name)))
}

/// What is not there comes first, then what is no number, by its text.
fn compare(one: Option<&Value>, two: Option<&Value>) -> Ordering {
    let (Some(one), Some(two)) = (one, two) else { return one.is_some().cmp(&two.is_some()) };
    match (one, two) {
        (Value::Number(one), Value::Number(two)) => {
            one.as_f64().partial_cmp(&two.as_f64()).unwrap_or(Ordering::Equal)
        }
        (Value::String(one), Value::String(two)) => one.cmp(two),
        (Value::Number(_), _) => Ordering::Greater,
        (_, Value::Number(_)) => Ordering::Less,
        (one, two) => one.to_string().cmp(&two.to_string()),
    }
}
