//! `/health/live` and `/health/ready`: open to everyone, so they say how the node and the
//! destinations it is configured with are, and nothing of objects, peers or people.

use poem::http::StatusCode;
use poem::{Body, Response};
use serde::Serialize;

use super::error::ApiError;
use super::router::Call;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    Up,
    /// It fails, and the node goes on receiving without it.
    Degraded,
    /// The node can't take objects.
    Down,
}

/// One line of readiness.
#[derive(Debug, Clone, Serialize)]
pub struct Dependency {
    pub name: String,
    pub condition: Condition,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

#[derive(Serialize)]
struct Readiness {
    status: Condition,
    dependencies: Vec<Dependency>,
}

/// The process runs and its runtime turns.
pub async fn live(_call: Call) -> Result<Response, ApiError> {
    Ok(json(StatusCode::OK, &serde_json::json!({ "status": "up" })))
}

/// 200 as long as the node takes objects, also when SQL or a destination is down: what it
/// receives waits in the log. 503 when it can't.
pub async fn ready(call: Call) -> Result<Response, ApiError> {
    let mut dependencies = vec![match call.state.ingest.ready() {
        Ok(()) => Dependency { name: "log".into(), condition: Condition::Up, detail: None },
        Err(refusal) => Dependency {
            name: "log".into(),
            condition: Condition::Down,
            detail: Some(refusal.code().to_owned()),
        },
    }];
    dependencies.extend((call.state.dependencies)().await);
    let status = overall(&dependencies);
    let code = if status == Condition::Down { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    Ok(json(code, &Readiness { status, dependencies }))
}

fn overall(dependencies: &[Dependency]) -> Condition {
    let any = |condition| dependencies.iter().any(|dependency| dependency.condition == condition);
    if any(Condition::Down) {
        Condition::Down
    } else if any(Condition::Degraded) {
        Condition::Degraded
    } else {
        Condition::Up
    }
}

fn json(status: StatusCode, value: &impl Serialize) -> Response {
    Response::builder()
        .status(status)
        .content_type("application/json")
        .header("cache-control", "no-store")
        .body(Body::from_vec(serde_json::to_vec(value).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_dependency_decides() {
        let line = |condition| Dependency { name: "x".into(), condition, detail: None };
        assert_eq!(overall(&[line(Condition::Up)]), Condition::Up);
        assert_eq!(overall(&[line(Condition::Up), line(Condition::Degraded)]), Condition::Degraded);
        assert_eq!(overall(&[line(Condition::Down), line(Condition::Degraded)]), Condition::Down);
    }
}
