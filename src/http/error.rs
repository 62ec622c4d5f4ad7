//! [`ApiError`]: how this door says no, as `application/problem+json` (RFC 9457). Details are
//! written by us and never quote a data set, a path or an error text of the database.

use std::borrow::Cow;

use poem::http::{HeaderName, HeaderValue, StatusCode, header};
use poem::{Body, Response};
use serde::Serialize;

use crate::index::IndexError;
use crate::ingest::Refusal;
use crate::spool::SpoolError;

/// An answer that is not success. `code` is stable; texts may change.
#[derive(Debug, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct ApiError {
    pub status: StatusCode,
    pub code: &'static str,
    pub detail: Cow<'static, str>,
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

/// RFC 9457 §3.1, with our two members `code` and `trace_id`.
#[derive(Serialize)]
struct Problem<'a> {
    r#type: String,
    title: String,
    status: u16,
    detail: &'a str,
    instance: String,
    code: &'a str,
    trace_id: &'a str,
}

impl ApiError {
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { status, code, detail: detail.into(), headers: Vec::new() }
    }

    pub fn bad_request(code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }

    pub fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "NOT_FOUND", "There is nothing at this address.")
    }

    /// Of what was held once.
    pub fn freed() -> Self {
        Self::new(StatusCode::GONE, "INSTANCE_FREED", "Its bytes were freed after delivery to the archive.")
    }

    pub fn unauthorized(detail: &'static str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", detail)
            .with(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"relaypacs\""))
            .with(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static("Basic realm=\"relaypacs\", charset=\"UTF-8\""),
            )
    }

    pub fn not_acceptable(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::NOT_ACCEPTABLE, "NOT_ACCEPTABLE", detail)
    }

    pub fn unsupported_media_type(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UNSUPPORTED_MEDIA_TYPE", detail)
    }

    pub fn too_large(limit: u64) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "BODY_TOO_LARGE",
            format!("The request body is longer than the limit of {limit} bytes."),
        )
    }

    /// For the moment only: says when to try again.
    pub fn unavailable(code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail)
            .with(header::RETRY_AFTER, HeaderValue::from_static("30"))
    }

    pub fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "INTERNAL",
            "The request failed inside the node; its log has more under this trace id.",
        )
    }

    pub fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// The answer; `trace_id` finds what the log says of it.
    pub fn into_problem(self, trace_id: &str) -> Response {
        let problem = Problem {
            r#type: format!("urn:relaypacs:problem:{}", self.code.to_ascii_lowercase().replace('_', "-")),
            title: title(self.code),
            status: self.status.as_u16(),
            detail: &self.detail,
            instance: format!("urn:relaypacs:request:{trace_id}"),
            code: self.code,
            trace_id,
        };
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        let mut response = Response::builder()
            .status(self.status)
            .content_type("application/problem+json")
            .body(Body::from_vec(body));
        for (name, value) in self.headers {
            response.headers_mut().append(name, value);
        }
        response
    }
}

/// "INSTANCE_FREED" → "Instance freed": one title per type, as RFC 9457 §3.1.3 wants.
fn title(code: &str) -> String {
    let mut title = code.replace('_', " ").to_ascii_lowercase();
    if let Some(first) = title.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    title
}

impl From<IndexError> for ApiError {
    fn from(error: IndexError) -> Self {
        match error {
            IndexError::NotMatchable { keyword } => Self::new(
                StatusCode::BAD_REQUEST,
                "ATTRIBUTE_NOT_MATCHABLE",
                format!("{keyword} can be returned but not matched."),
            ),
            IndexError::Unavailable(reason) => {
                tracing::warn!(%reason, "index unavailable");
                Self::unavailable("DATABASE_UNAVAILABLE", "The index does not answer; receiving goes on.")
            }
        }
    }
}

impl From<SpoolError> for ApiError {
    fn from(error: SpoolError) -> Self {
        match error {
            // The index has it as held: freed this moment, or lost and seen to.
            SpoolError::Freed(_) => {
                Self::new(StatusCode::GONE, "INSTANCE_GONE", "Its bytes are not held here any more.")
            }
            SpoolError::Unknown(_) => Self::not_found(),
            other => {
                tracing::error!(error = %other, "spool failed a retrieve");
                Self::internal()
            }
        }
    }
}

impl From<Refusal> for ApiError {
    /// For refusals that concern the request as a whole.
    fn from(refusal: Refusal) -> Self {
        let code = refusal.code();
        match refusal {
            Refusal::OutOfResources(_) => {
                Self::unavailable(code, "The node has no room for more objects at the moment.")
            }
            Refusal::TooLarge { limit } => Self::too_large(limit),
            other => Self::new(StatusCode::CONFLICT, code, other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_problem_names_code_and_trace() {
        let response = ApiError::not_acceptable("no").into_problem("abc");
        assert_eq!(response.status(), StatusCode::NOT_ACCEPTABLE);
        assert_eq!(response.content_type(), Some("application/problem+json"));
        let body: serde_json::Value = response.into_body().into_json().await.unwrap();
        assert_eq!(body["code"], "NOT_ACCEPTABLE");
        assert_eq!(body["title"], "Not acceptable");
        assert_eq!(body["type"], "urn:relaypacs:problem:not-acceptable");
        assert_eq!(body["trace_id"], "abc");
        assert_eq!(body["status"], 406);
    }

    #[test]
    fn an_unauthorized_answer_challenges_for_both_schemes() {
        let error = ApiError::unauthorized("who?");
        let schemes: Vec<_> =
            error.headers.iter().map(|(_, value)| value.to_str().unwrap_or_default()).collect();
        assert!(schemes[0].starts_with("Bearer") && schemes[1].starts_with("Basic"));
    }
}
