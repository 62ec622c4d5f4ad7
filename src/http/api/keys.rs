//! Credentials of machines.

use poem::http::StatusCode;
use poem::web::Data;
use poem_openapi::param::Path;
use poem_openapi::payload::Json;
use poem_openapi::types::Example;
use poem_openapi::{ApiResponse, Object, OpenApi};

use super::Tag;
use crate::admin::{self, Admin, KeyLine};
use crate::auth::Scope;
use crate::clock::Millis;
use crate::http::error::ApiError;

pub struct KeysApi;

/// A key, as it is asked for.
#[derive(Object)]
#[oai(deny_unknown_fields, example)]
struct NewKey {
    /// What it is for.
    #[oai(validator(min_length = 1, max_length = 64))]
    name: String,
    /// `dicomweb:read`, `dicomweb:write`, `api:read`, `api:write`, `admin`; none implies another.
    #[oai(validator(min_items = 1, unique_items))]
    scopes: Vec<String>,
    /// RFC 3339; left out, it never ends.
    #[oai(skip_serializing_if_is_none)]
    expires_at: Option<String>,
}

impl Example for NewKey {
    fn example() -> Self {
        NewKey {
            name: "viewer".into(),
            scopes: vec!["dicomweb:read".into()],
            expires_at: Some("2030-01-31T00:00:00Z".into()),
        }
    }
}

impl TryFrom<&NewKey> for admin::NewKey {
    type Error = ApiError;

    fn try_from(new: &NewKey) -> Result<Self, ApiError> {
        let invalid = |detail: String| ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "INVALID_KEY", detail);
        let scope =
            |text: &String| text.parse::<Scope>().map_err(|error| invalid(format!("{text:?}: {error}.")));
        let expires_at = match &new.expires_at {
            None => None,
            Some(text) => {
                Some(Millis::parse(text).ok_or_else(|| invalid("expires_at is not a time.".to_owned()))?)
            }
        };
        let scopes = new.scopes.iter().map(scope).collect::<Result<_, _>>()?;
        Ok(admin::NewKey { name: new.name.clone(), scopes, expires_at })
    }
}

/// A key, without its secret.
#[derive(Object)]
struct Key {
    id: String,
    name: String,
    scopes: Vec<String>,
    created_at: String,
    #[oai(skip_serializing_if_is_none)]
    expires_at: Option<String>,
    #[oai(skip_serializing_if_is_none)]
    revoked_at: Option<String>,
}

impl From<KeyLine> for Key {
    fn from(line: KeyLine) -> Self {
        let time = |at: Option<Millis>| at.map(|at| at.to_string());
        Self {
            id: line.id,
            name: line.name,
            scopes: line.scopes.iter().map(ToString::to_string).collect(),
            created_at: line.created_at.to_string(),
            expires_at: time(line.expires_at),
            revoked_at: time(line.revoked_at),
        }
    }
}

#[derive(Object)]
struct Keys {
    items: Vec<Key>,
}

/// The key itself.
#[derive(Object)]
struct Secret {
    key: String,
}

#[derive(ApiResponse)]
enum Added {
    /// The key: this is the only time that it is shown.
    #[oai(status = 201)]
    Key(Json<Secret>),
}

#[derive(ApiResponse)]
enum Revoked {
    /// It is valid no more.
    #[oai(status = 204)]
    Done,
}

#[OpenApi(tag = "Tag::Keys")]
impl KeysApi {
    /// All keys, also those that were revoked, oldest first.
    #[oai(path = "/keys", method = "get", operation_id = "list_keys")]
    async fn list(&self, admin: Data<&Admin>) -> Result<Json<Keys>, ApiError> {
        Ok(Json(Keys { items: admin.keys().await?.into_iter().map(Key::from).collect() }))
    }

    /// Makes a key.
    #[oai(path = "/keys", method = "post", operation_id = "add_key")]
    async fn add(&self, admin: Data<&Admin>, new: Json<NewKey>) -> Result<Added, ApiError> {
        let key = admin.add_key(&admin::NewKey::try_from(&new.0)?).await?;
        Ok(Added::Key(Json(Secret { key })))
    }

    /// Ends a key's validity.
    #[oai(path = "/keys/:id", method = "delete", operation_id = "revoke_key")]
    async fn revoke(&self, admin: Data<&Admin>, id: Path<String>) -> Result<Revoked, ApiError> {
        admin.revoke_key(&id.0).await?;
        Ok(Revoked::Done)
    }
}
