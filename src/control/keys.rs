//! API keys: added, listed, revoked. The secret is shown once, in the answer to `add`.

use poem::handler;
use poem::http::StatusCode;
use poem::web::{Data, Json, Path};
use serde::{Deserialize, Serialize};

use super::{Answer, Control, ControlError, json, lines};
use crate::auth::{KeyInfo, Scope, key_name};
use crate::clock::{Millis, rfc3339};

#[derive(Debug, Serialize, Deserialize)]
pub struct NewKey {
    pub name: String,
    pub scopes: Vec<Scope>,
    #[serde(with = "rfc3339::option")]
    pub expires_at: Option<Millis>,
}

/// A key as `key list` shows it.
#[derive(Serialize, Deserialize)]
pub struct KeyLine {
    pub id: String,
    pub name: String,
    pub scopes: Vec<Scope>,
    #[serde(with = "rfc3339")]
    pub created_at: Millis,
    #[serde(with = "rfc3339::option")]
    pub expires_at: Option<Millis>,
    #[serde(with = "rfc3339::option")]
    pub revoked_at: Option<Millis>,
}

impl From<KeyInfo> for KeyLine {
    fn from(key: KeyInfo) -> Self {
        let KeyInfo { id, name, scopes, created_at, expires_at, revoked_at } = key;
        Self { id, name, scopes, created_at, expires_at, revoked_at }
    }
}

#[handler]
pub async fn list(Data(control): Data<&Control>) -> Answer {
    Ok(lines(control.keys.list().await?.into_iter().map(KeyLine::from)))
}

#[handler]
pub async fn add(Data(control): Data<&Control>, Json(new): Json<NewKey>) -> Answer {
    if new.scopes.is_empty() {
        return Err(ControlError::refused("a key needs a scope"));
    }
    key_name(&new.name).map_err(ControlError::refused)?;
    let key = control.keys.add(&new.name, &new.scopes, new.expires_at).await?;
    Ok(json(StatusCode::CREATED, &serde_json::json!({ "key": key })))
}

#[handler]
pub async fn revoke(Data(control): Data<&Control>, Path(id): Path<String>) -> Answer {
    if !control.keys.revoke(&id).await? {
        return Err(ControlError::not_found(format!("no key has the id {id}")));
    }
    Ok(json(StatusCode::OK, &serde_json::json!({ "revoked": id })))
}
