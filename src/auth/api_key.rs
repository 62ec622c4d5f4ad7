//! API keys: `rp_<id>_<secret>`, 256 random bits. They can't be guessed, so a plain SHA-256 is
//! what is kept and compared, and a check costs no more than that.
//!
//! Lookups are cached. A cached key is asked for again every [`FRESH`]; while the database does
//! not answer, what was known stays good, so that an outage of SQL does not stop receiving.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use moka::future::Cache;
use rand::RngCore;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::{Principal, Scope};
use crate::clock::{Clock, Millis};
use crate::store::StoreError;
use crate::store::keys::{KeyRow, KeyRows};
use crate::telemetry::metrics;

/// How long a lookup is believed before the database is asked again (a key that another process
/// revoked works no longer than that).
const FRESH: Duration = Duration::from_secs(15);
/// How long a lookup outlives an outage of the database.
const STALE: Duration = Duration::from_secs(12 * 3600);
/// How long a request waits for the database.
const PATIENCE: Duration = Duration::from_secs(3);
/// After a failure, known keys are served without asking for so long.
const OUTAGE_PAUSE: Duration = Duration::from_secs(5);
/// Keys remembered, unknown ones included.
const REMEMBERED: u64 = 10_000;

#[derive(Debug, Error)]
pub enum AuthError {
    /// Unknown, revoked, expired or malformed: a caller can't tell which.
    #[error("the key is not valid")]
    Invalid,
    #[error("keys can't be checked: {0}")]
    Unavailable(String),
}

/// A key as people list it; nothing of the secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyInfo {
    pub id: String,
    pub name: String,
    pub scopes: Vec<Scope>,
    pub created_at: Millis,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Millis>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<Millis>,
}

/// Cheap to clone; every clone shares one cache.
#[derive(Clone)]
pub struct Keys {
    inner: Arc<Inner>,
}

struct Inner {
    rows: KeyRows,
    clock: Arc<dyn Clock>,
    known: Cache<String, Lookup>,
    /// Until then (by the clock) the database is not asked for what is known.
    outage_until: AtomicU64,
}

/// What the database said about an id, and when.
#[derive(Clone)]
struct Lookup {
    row: Option<Arc<KeyRow>>,
    at: Millis,
}

/// What a key may be called.
pub fn key_name(text: &str) -> Result<String, String> {
    if (1..=64).contains(&text.chars().count()) && !text.contains(char::is_control) {
        return Ok(text.to_owned());
    }
    Err("a name has 1 to 64 characters, none of them a control character".to_owned())
}

impl Keys {
    pub fn new(rows: KeyRows, clock: Arc<dyn Clock>) -> Self {
        let known = Cache::builder().max_capacity(REMEMBERED).time_to_live(STALE).build();
        Self { inner: Arc::new(Inner { rows, clock, known, outage_until: AtomicU64::new(0) }) }
    }

    /// A new key. The text returned is the only copy of it.
    pub async fn add(
        &self,
        name: &str,
        scopes: &[Scope],
        expires_at: Option<Millis>,
    ) -> Result<String, AuthError> {
        let (id, key) = generate();
        let scopes: Vec<&str> = scopes.iter().map(|scope| scope.as_str()).collect();
        let row = KeyRow {
            id,
            name: name.to_owned(),
            sha256: fingerprint(&key),
            scopes: scopes.join(" "),
            created_at: self.inner.clock.now(),
            expires_at,
            revoked_at: None,
        };
        self.inner.rows.insert(&row).await.map_err(unavailable)?;
        self.inner.known.invalidate(&row.id).await;
        Ok(key)
    }

    pub async fn list(&self) -> Result<Vec<KeyInfo>, AuthError> {
        let rows = self.inner.rows.list().await.map_err(unavailable)?;
        Ok(rows.into_iter().map(info).collect())
    }

    /// Whether there was such a key. It stops working before this returns.
    pub async fn revoke(&self, id: &str) -> Result<bool, AuthError> {
        let now = self.inner.clock.now();
        let revoked = self.inner.rows.revoke(id, now).await.map_err(unavailable)?;
        self.inner.known.invalidate(id).await;
        Ok(revoked)
    }

    /// The caller that holds `key`.
    pub async fn authenticate(&self, key: &str) -> Result<Principal, AuthError> {
        let id = id_of(key).ok_or(AuthError::Invalid)?;
        let row = self.lookup(id).await?.ok_or(AuthError::Invalid)?;
        let expired = row.expires_at.is_some_and(|at| at <= self.inner.clock.now());
        if row.sha256 != fingerprint(key) || row.revoked_at.is_some() || expired {
            return Err(AuthError::Invalid);
        }
        Ok(Principal { id: row.id.clone(), scopes: scopes_of(&row.scopes) })
    }

    async fn lookup(&self, id: &str) -> Result<Option<Arc<KeyRow>>, AuthError> {
        let now = self.inner.clock.now();
        let known = self.inner.known.get(id).await;
        let in_outage = now.0 < self.inner.outage_until.load(Ordering::Relaxed);
        if let Some(lookup) = &known
            && (now.since(lookup.at) < FRESH || in_outage)
        {
            metrics::cache("keys", true);
            return Ok(lookup.row.clone());
        }
        metrics::cache("keys", false);
        match self.ask(id).await {
            Ok(row) => {
                let row = row.map(Arc::new);
                self.inner.known.insert(id.to_owned(), Lookup { row: row.clone(), at: now }).await;
                Ok(row)
            }
            Err(error) => {
                self.inner.outage_until.store(now.plus(OUTAGE_PAUSE).0, Ordering::Relaxed);
                known.map(|lookup| lookup.row).ok_or(error)
            }
        }
    }

    async fn ask(&self, id: &str) -> Result<Option<KeyRow>, AuthError> {
        match tokio::time::timeout(PATIENCE, self.inner.rows.find(id)).await {
            Ok(found) => found.map_err(unavailable),
            Err(_) => Err(AuthError::Unavailable("the database does not answer".into())),
        }
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys")
    }
}

fn unavailable(error: StoreError) -> AuthError {
    AuthError::Unavailable(error.to_string())
}

/// Id and whole text of a new key.
fn generate() -> (String, String) {
    let mut random = [0_u8; 40];
    rand::rng().fill_bytes(&mut random);
    let (id, secret) = random.split_at(8);
    let id = hex::encode(id);
    let key = format!("rp_{id}_{}", hex::encode(secret));
    (id, key)
}

/// The id within a key of the right shape; other text is refused without a lookup.
fn id_of(key: &str) -> Option<&str> {
    let (id, secret) = key.strip_prefix("rp_")?.split_once('_')?;
    let well_formed = id.len() == 16
        && secret.len() == 64
        && key.bytes().skip(3).all(|byte| byte == b'_' || byte.is_ascii_hexdigit());
    well_formed.then_some(id)
}

fn fingerprint(key: &str) -> String {
    hex::encode(Sha256::digest(key.as_bytes()))
}

/// A scope that this version does not know grants nothing.
fn scopes_of(text: &str) -> Vec<Scope> {
    text.split_whitespace().filter_map(|scope| scope.parse().ok()).collect()
}

fn info(row: KeyRow) -> KeyInfo {
    KeyInfo {
        scopes: scopes_of(&row.scopes),
        id: row.id,
        name: row.name,
        created_at: row.created_at,
        expires_at: row.expires_at,
        revoked_at: row.revoked_at,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::store::Store;
    use crate::store::dialect::sqlite_url;

    struct Fixture {
        keys: Keys,
        clock: Arc<ManualClock>,
        rows: KeyRows,
        store: Store,
        _dir: tempfile::TempDir,
    }

    async fn fixture() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&sqlite_url(&dir.path().join("keys.db")), None, 2).await.unwrap();
        store.migrate_up().await.unwrap();
        let rows = KeyRows::new(store.clone());
        let clock = Arc::new(ManualClock::default());
        Fixture { keys: Keys::new(rows.clone(), clock.clone()), clock, rows, store, _dir: dir }
    }

    #[tokio::test]
    async fn a_key_is_shown_once_and_kept_as_a_hash() {
        let fixture = fixture().await;
        let key = fixture.keys.add("modality", &[Scope::DicomwebWrite], None).await.unwrap();
        let principal = fixture.keys.authenticate(&key).await.unwrap();
        assert!(principal.may(Scope::DicomwebWrite) && !principal.may(Scope::DicomwebRead));
        let row = fixture.rows.find(&principal.id).await.unwrap().unwrap();
        assert_eq!(row.sha256, fingerprint(&key));
        assert!(!format!("{row:?}").contains(key.rsplit('_').next().unwrap()));
        assert_eq!(fixture.keys.list().await.unwrap()[0].name, "modality");
    }

    #[tokio::test]
    async fn a_wrong_secret_is_refused() {
        let fixture = fixture().await;
        let key = fixture.keys.add("a", &[Scope::Admin], None).await.unwrap();
        let (head, _) = key.rsplit_once('_').unwrap();
        for wrong in [format!("{head}_{}", "0".repeat(64)), head.to_owned(), String::new(), format!("{key}0")]
        {
            assert!(matches!(fixture.keys.authenticate(&wrong).await, Err(AuthError::Invalid)), "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_revoked_key_stops_at_once() {
        let fixture = fixture().await;
        let key = fixture.keys.add("a", &[Scope::Admin], None).await.unwrap();
        let id = fixture.keys.authenticate(&key).await.unwrap().id;
        assert!(fixture.keys.revoke(&id).await.unwrap());
        assert!(matches!(fixture.keys.authenticate(&key).await, Err(AuthError::Invalid)));
        assert!(!fixture.keys.revoke(&id).await.unwrap(), "revoked already");
    }

    #[tokio::test]
    async fn a_key_revoked_elsewhere_stops_soon() {
        let fixture = fixture().await;
        let key = fixture.keys.add("a", &[Scope::Admin], None).await.unwrap();
        let id = fixture.keys.authenticate(&key).await.unwrap().id;
        fixture.rows.revoke(&id, Millis(1)).await.unwrap();
        assert!(fixture.keys.authenticate(&key).await.is_ok(), "still cached");
        fixture.clock.advance(FRESH);
        assert!(matches!(fixture.keys.authenticate(&key).await, Err(AuthError::Invalid)));
    }

    #[tokio::test]
    async fn an_expired_key_is_refused() {
        let fixture = fixture().await;
        let key = fixture.keys.add("a", &[Scope::Admin], Some(Millis(1000))).await.unwrap();
        assert!(fixture.keys.authenticate(&key).await.is_ok());
        fixture.clock.advance(Duration::from_secs(1));
        assert!(matches!(fixture.keys.authenticate(&key).await, Err(AuthError::Invalid)));
    }

    #[tokio::test]
    async fn known_keys_work_while_the_database_is_down() {
        let fixture = fixture().await;
        let known = fixture.keys.add("a", &[Scope::Admin], None).await.unwrap();
        let unknown = fixture.keys.add("b", &[Scope::Admin], None).await.unwrap();
        fixture.keys.authenticate(&known).await.unwrap();
        fixture.store.close().await;
        fixture.clock.advance(FRESH * 2);
        assert!(fixture.keys.authenticate(&known).await.is_ok());
        assert!(matches!(fixture.keys.authenticate(&unknown).await, Err(AuthError::Unavailable(_))));
    }
}
