//! The API's own description, made of the table of routes: what is not described there is not served.

use axum::http::HeaderValue;
use serde_json::{Map, Value, json};

use crate::mgmt::access::{Who, Within};
use crate::mgmt::answer::{Answer, Refusal};
use crate::mgmt::call::Call;
use crate::mgmt::json::put;
use crate::mgmt::routes::{ROUTES, Route, Verb};

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The description. It is made once.
pub(crate) fn show(call: &Call<'_>) -> Result<Answer, Refusal> {
    let text = call.mgmt.description.get_or_init(|| describe().to_string().into_bytes());
    Ok(Answer::bytes(JSON, text.clone()))
}

fn describe() -> Value {
    let mut paths = Map::new();
    for route in ROUTES {
        let path = paths.entry(route.path).or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(path) = path {
            path.insert(verb(route.verb).to_owned(), operation(route));
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "SluiceMQ's management API",
            "description": "The endpoints and fields of RabbitMQ 3.13's, as far as they are there",
            "version": env!("CARGO_PKG_VERSION"),
        },
        "paths": paths,
        "components": {"securitySchemes": {"basic": {"type": "http", "scheme": "basic"}}},
    })
}

fn operation(route: &Route) -> Value {
    let mut answers =
        json!({"200": {"description": "As asked"}, "404": {"description": "There is no such thing"}});
    if route.who != Who::Everyone {
        put(&mut answers, "401", json!({"description": format!("For {}", whom(route))}));
    }
    let parts = route.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let parameters: Vec<_> = parts
        .map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}))
        .collect();
    let security = if route.who == Who::Everyone { json!([]) } else { json!([{"basic": []}]) };
    json!({"summary": route.about, "parameters": parameters, "responses": answers, "security": security})
}

fn whom(route: &Route) -> String {
    let who = match route.who {
        Who::Everyone => "everyone",
        Who::Management => "users with one of the tags management, policymaker, monitoring and administrator",
        Who::Policymaker => "users with the tag policymaker or administrator",
        Who::Monitoring => "users with the tag monitoring or administrator",
        Who::Administrator => "users with the tag administrator",
    };
    match route.within {
        Within::Node => who.to_owned(),
        Within::Vhost => format!("{who}, who may open the virtual host"),
    }
}

fn verb(verb: Verb) -> &'static str {
    match verb {
        Verb::Get => "get",
        Verb::Put => "put",
        Verb::Post => "post",
        Verb::Delete => "delete",
    }
}
