//! The OpenAPI document: what poem-openapi knows of the operations, and what it does not: the credentials, the scope
//! of each operation, and the problems that any of them may answer.

use std::sync::LazyLock;

use poem::Response;
use serde_json::{Value, json};

use super::operations::OPERATIONS;
use super::service;
use crate::auth::Scope;
use crate::http::error::ApiError;
use crate::http::router::Call;

/// As it is served, printed by `relaypacs openapi`, and committed.
pub fn document() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        let mut document: Value = serde_json::from_str(&service().spec()).unwrap_or_default();
        complete(&mut document);
        format!("{document:#}\n")
    });
    &TEXT
}

/// `GET /api/v1/openapi.json`.
pub async fn show(_: Call) -> Result<Response, ApiError> {
    Ok(Response::builder().content_type("application/json").body(document()))
}

fn complete(document: &mut Value) {
    let Some(paths) = document["paths"].as_object_mut() else { return };
    for (path, operations) in paths {
        let Some(operations) = operations.as_object_mut() else { continue };
        for (method, operation) in operations {
            operation["responses"]["default"] = json!({ "$ref": "#/components/responses/Problem" });
            if let Some(scope) = scope_of(method, path) {
                operation["x-scope"] = json!(scope.as_str());
                operation["security"] = json!([{ "bearer": [] }, { "basic": [] }]);
            }
        }
    }
    document["components"]["securitySchemes"] = json!({
        "bearer": { "type": "http", "scheme": "bearer", "description": "An API key." },
        "basic": {
            "type": "http", "scheme": "basic",
            "description": "User: the part of an API key between its underscores; password: the whole key.",
        },
    });
    document["components"]["schemas"]["Problem"] = problem();
    document["components"]["responses"]["Problem"] = json!({
        "description": "Anything but success (RFC 9457). `code` is stable.",
        "content": { "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } } },
    });
}

fn problem() -> Value {
    let text = json!({ "type": "string" });
    json!({
        "type": "object",
        "required": ["type", "title", "status", "detail", "instance", "code", "trace_id"],
        "properties": {
            "type": text, "title": text, "status": { "type": "integer" }, "detail": text,
            "instance": text, "code": text, "trace_id": text,
        },
        "example": {
            "type": "urn:relaypacs:problem:not-found", "title": "Not found", "status": 404,
            "detail": "no destination is called pacs",
            "instance": "urn:relaypacs:request:5f0c29d0e5a94b1f8d7e6c3b2a190807", "code": "NOT_FOUND",
            "trace_id": "5f0c29d0e5a94b1f8d7e6c3b2a190807",
        },
    })
}

/// `path` as the document writes it: `/peers/{ae_title}`.
fn scope_of(method: &str, path: &str) -> Option<Scope> {
    let same = |listed: &str| {
        let names = listed.split('/').map(|part| match part.strip_prefix(':') {
            Some(name) => format!("{{{name}}}"),
            None => part.to_owned(),
        });
        names.collect::<Vec<_>>().join("/") == path
    };
    let found =
        OPERATIONS.iter().find(|(listed, at, _)| listed.as_str().eq_ignore_ascii_case(method) && same(at));
    found.map(|(_, _, scope)| *scope)
}

#[cfg(test)]
mod tests {
    use super::super::BASE;
    use super::*;

    #[test]
    fn every_operation_of_the_document_is_one_that_the_router_knows_and_the_other_way_round() {
        let document: Value = serde_json::from_str(document()).unwrap();
        assert_eq!(document["servers"][0]["url"], BASE);
        let operations: Vec<&Value> = document["paths"]
            .as_object()
            .unwrap()
            .values()
            .flat_map(|operations| operations.as_object().unwrap().values())
            .collect();
        assert_eq!(operations.len(), OPERATIONS.len());
        for operation in operations {
            assert!(operation["x-scope"].is_string(), "{}", operation["operationId"]);
        }
    }
}
