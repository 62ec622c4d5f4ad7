//! How the node is, and the order to rebuild the index.

use poem::handler;
use poem::http::StatusCode;
use poem::web::Data;

use super::{Answer, json};
use crate::admin::Admin;

/// What `healthcheck` asks.
#[handler]
pub async fn health(Data(admin): Data<&Admin>) -> Answer {
    Ok(json(StatusCode::OK, &admin.readiness().await?))
}

#[handler]
pub async fn reindex(Data(admin): Data<&Admin>) -> Answer {
    Ok(json(StatusCode::OK, &serde_json::json!({ "reindexing": admin.reindex().await? })))
}
