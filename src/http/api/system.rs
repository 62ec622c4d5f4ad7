//! How the node is.

use poem::web::Data;
use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};

use super::Tag;
use crate::admin::Admin;
use crate::http::error::ApiError;

pub struct SystemApi;

/// The node.
#[derive(Object)]
struct System {
    name: String,
    version: String,
    /// Whether it takes objects.
    ready: bool,
    /// Why it does not.
    #[oai(skip_serializing_if_is_none)]
    reason: Option<String>,
    /// Whether its database answers.
    database: bool,
    /// Objects that it holds.
    objects: u64,
}

#[OpenApi(tag = "Tag::System")]
impl SystemApi {
    /// The node: its name, its version, whether it takes objects.
    #[oai(path = "/system", method = "get", operation_id = "show_system")]
    async fn show(&self, admin: Data<&Admin>) -> Result<Json<System>, ApiError> {
        let readiness = admin.readiness().await?;
        Ok(Json(System {
            name: admin.config.node.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ready: readiness.ready,
            reason: readiness.reason,
            database: readiness.database,
            objects: admin.spool.counts().objects,
        }))
    }
}
