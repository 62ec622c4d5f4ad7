//! API keys.

use poem::handler;
use poem::http::StatusCode;
use poem::web::{Data, Json, Path};

use super::{Answer, json, lines};
use crate::admin::{Admin, NewKey};

#[handler]
pub async fn list(Data(admin): Data<&Admin>) -> Answer {
    Ok(lines(admin.keys().await?))
}

#[handler]
pub async fn add(Data(admin): Data<&Admin>, Json(new): Json<NewKey>) -> Answer {
    let key = admin.add_key(&new).await?;
    Ok(json(StatusCode::CREATED, &serde_json::json!({ "key": key })))
}

#[handler]
pub async fn revoke(Data(admin): Data<&Admin>, Path(id): Path<String>) -> Answer {
    admin.revoke_key(&id).await?;
    Ok(json(StatusCode::OK, &serde_json::json!({ "revoked": id })))
}
