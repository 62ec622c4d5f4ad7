//! API keys.

use serde::{Deserialize, Serialize};

use super::{Admin, AdminError};
use crate::auth::{KeyInfo, Scope, key_name};
use crate::clock::{Millis, rfc3339};

#[derive(Debug, Serialize, Deserialize)]
pub struct NewKey {
    pub name: String,
    pub scopes: Vec<Scope>,
    #[serde(with = "rfc3339::option")]
    pub expires_at: Option<Millis>,
}

/// A key as it is listed: without its secret.
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

impl Admin {
    /// Oldest first, those that are revoked too.
    pub async fn keys(&self) -> Result<Vec<KeyLine>, AdminError> {
        Ok(self.keys.list().await?.into_iter().map(KeyLine::from).collect())
    }

    /// The key itself: its only copy.
    pub async fn add_key(&self, new: &NewKey) -> Result<String, AdminError> {
        if new.scopes.is_empty() {
            return Err(AdminError::invalid("INVALID_KEY", "a key needs a scope"));
        }
        key_name(&new.name).map_err(|why| AdminError::invalid("INVALID_KEY", why))?;
        Ok(self.keys.add(&new.name, &new.scopes, new.expires_at).await?)
    }

    pub async fn revoke_key(&self, id: &str) -> Result<(), AdminError> {
        match self.keys.revoke(id).await? {
            true => Ok(()),
            false => Err(AdminError::not_found(format!("no key has the id {id}"))),
        }
    }
}
