//! Rows of API keys. Only [`crate::auth`] uses them; it never sees SQL, and SQL never sees a key.

use sqlx::Row;
use sqlx::any::AnyRow;

use super::{Store, StoreError};
use crate::clock::Millis;

/// One key as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRow {
    pub id: String,
    pub name: String,
    /// SHA-256 of the whole key, in hex.
    pub sha256: String,
    /// Scopes, separated by spaces.
    pub scopes: String,
    pub created_at: Millis,
    pub expires_at: Option<Millis>,
    pub revoked_at: Option<Millis>,
}

/// The table of API keys. Cheap to clone.
#[derive(Clone)]
pub struct KeyRows {
    store: Store,
}

impl KeyRows {
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    pub async fn insert(&self, key: &KeyRow) -> Result<(), StoreError> {
        let mut transaction = self.store.begin_write().await?;
        sqlx::query(
            "INSERT INTO api_keys (id, name, sha256, scopes, created_at, expires_at) \
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(key.id.as_str())
        .bind(key.name.as_str())
        .bind(key.sha256.as_str())
        .bind(key.scopes.as_str())
        .bind(signed(key.created_at))
        .bind(key.expires_at.map(signed))
        .execute(&mut *transaction)
        .await?;
        self.store.commit_for_good(transaction).await
    }

    pub async fn find(&self, id: &str) -> Result<Option<KeyRow>, StoreError> {
        let sql = "SELECT id, name, sha256, scopes, created_at, expires_at, revoked_at \
                   FROM api_keys WHERE id = $1";
        let row = sqlx::query(sql).bind(id).fetch_optional(self.store.reader()).await?;
        row.as_ref().map(read).transpose()
    }

    /// Oldest first, revoked ones included.
    pub async fn list(&self) -> Result<Vec<KeyRow>, StoreError> {
        let sql = "SELECT id, name, sha256, scopes, created_at, expires_at, revoked_at \
                   FROM api_keys ORDER BY created_at, id";
        let rows = sqlx::query(sql).fetch_all(self.store.reader()).await?;
        rows.iter().map(read).collect()
    }

    /// Whether there was such a key, not revoked before.
    pub async fn revoke(&self, id: &str, at: Millis) -> Result<bool, StoreError> {
        let mut transaction = self.store.begin_write().await?;
        let done = sqlx::query("UPDATE api_keys SET revoked_at = $1 WHERE id = $2 AND revoked_at IS NULL")
            .bind(signed(at))
            .bind(id)
            .execute(&mut *transaction)
            .await?;
        self.store.commit_for_good(transaction).await?;
        Ok(done.rows_affected() > 0)
    }
}

fn read(row: &AnyRow) -> Result<KeyRow, StoreError> {
    Ok(KeyRow {
        id: row.try_get("id")?,
        name: row.try_get("name")?,
        sha256: row.try_get("sha256")?,
        scopes: row.try_get("scopes")?,
        created_at: unsigned(row.try_get("created_at")?),
        expires_at: row.try_get::<Option<i64>, _>("expires_at")?.map(unsigned),
        revoked_at: row.try_get::<Option<i64>, _>("revoked_at")?.map(unsigned),
    })
}

fn signed(at: Millis) -> i64 {
    i64::try_from(at.0).unwrap_or(i64::MAX)
}

fn unsigned(at: i64) -> Millis {
    Millis(u64::try_from(at).unwrap_or(0))
}
