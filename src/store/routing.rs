//! Destinations and peers that were added at run time, and which destinations a person paused.
//! The node merges them with those of the configuration file, which are never written here; a
//! name can't be in both, and whoever adds one checks that.
//!
//! What was last read is kept in a file beside the database too, so that a node can start, and go
//! on receiving and forwarding, while its database is down.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sqlx::Row;
use thiserror::Error;

use super::{Sql, Store, StoreError};
use crate::clock::Millis;
use crate::config::{DestinationConfig, PeerConfig};

/// Cheap to clone.
#[derive(Clone)]
pub struct Routing {
    store: Store,
    snapshot: PathBuf,
}

/// Everything that is kept here.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Kept {
    /// By name.
    pub destinations: Vec<DestinationConfig>,
    /// By AE title.
    pub peers: Vec<PeerConfig>,
    /// Names of paused destinations.
    pub paused: Vec<String>,
}

#[derive(Debug, Error)]
pub enum RoutingError {
    #[error("{0} exists already")]
    Exists(String),
    #[error("{0} does not exist, or is not one that was added at run time")]
    Unknown(String),
    /// A newer version, or a hand, wrote what this one does not understand.
    #[error("the database's row of {name} can't be read: {source}")]
    Row {
        name: String,
        #[source]
        source: serde_json::Error,
    },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for RoutingError {
    fn from(error: sqlx::Error) -> Self {
        RoutingError::Store(error.into())
    }
}

impl Kept {
    /// What was last read of the database, from the file that stands in for it.
    pub fn last_known(data_dir: &Path) -> Option<Kept> {
        Self::read(&snapshot(data_dir))
    }

    fn read(snapshot: &Path) -> Option<Kept> {
        serde_json::from_slice(&std::fs::read(snapshot).ok()?).ok()
    }
}

fn snapshot(data_dir: &Path) -> PathBuf {
    data_dir.join("routing.json")
}

impl Routing {
    /// Keeps a file in `data_dir` that stands in for the database while it is down.
    pub fn new(store: Store, data_dir: &Path) -> Self {
        Self { store, snapshot: snapshot(data_dir) }
    }

    /// Whether a start could do without the database.
    pub fn has_snapshot(&self) -> bool {
        self.snapshot.exists()
    }

    /// Everything, from the database, or while that is down as it was last read.
    pub async fn kept(&self) -> Result<Kept, RoutingError> {
        match self.read().await {
            Ok(kept) => {
                if let Err(error) = self.write_snapshot(&kept) {
                    tracing::warn!(%error, "destinations and peers can't be kept for a start without the database");
                }
                Ok(kept)
            }
            Err(RoutingError::Store(StoreError::Unavailable(error))) => {
                let Some(kept) = Kept::read(&self.snapshot) else {
                    return Err(StoreError::Unavailable(error).into());
                };
                tracing::warn!(%error, "the database does not answer; destinations and peers are as last known");
                Ok(kept)
            }
            Err(error) => Err(error),
        }
    }

    async fn read(&self) -> Result<Kept, RoutingError> {
        Ok(Kept {
            destinations: self.destinations().await?,
            peers: self.peers().await?,
            paused: self.paused().await?,
        })
    }

    /// A few lines, at start and after a change: not worth a thread of its own.
    fn write_snapshot(&self, kept: &Kept) -> std::io::Result<()> {
        let text = serde_json::to_vec_pretty(kept)?;
        if std::fs::read(&self.snapshot).is_ok_and(|old| old == text) {
            return Ok(());
        }
        let new = self.snapshot.with_extension("new");
        std::fs::write(&new, text)?;
        std::fs::rename(new, &self.snapshot)
    }

    /// Brings what was last known back into a database that is new: losing the file must not leave
    /// what is received without a destination.
    pub async fn restore(&self, at: Millis) -> Result<(), RoutingError> {
        let Some(kept) = Kept::read(&self.snapshot) else { return Ok(()) };
        for destination in &kept.destinations {
            self.add_destination(destination, at).await?;
        }
        for peer in &kept.peers {
            self.add_peer(peer, at).await?;
        }
        for name in &kept.paused {
            self.set_paused(name, Some(at)).await?;
        }
        tracing::warn!(
            destinations = kept.destinations.len(),
            peers = kept.peers.len(),
            "the database is new; destinations and peers are those last known. API keys are lost: see `relaypacs key add`"
        );
        Ok(())
    }

    async fn destinations(&self) -> Result<Vec<DestinationConfig>, RoutingError> {
        let rows = Sql::new("SELECT name, definition FROM destinations ORDER BY name");
        definitions(rows.fetch_all(self.store.reader()).await?)
    }

    pub async fn add_destination(
        &self,
        destination: &DestinationConfig,
        at: Millis,
    ) -> Result<(), RoutingError> {
        let mut sql = Sql::new("INSERT INTO destinations (name, definition, added_at) VALUES ");
        sql.push("(").bind(&destination.name).push(", ").bind(definition(&destination.name, destination)?);
        sql.push(", ").bind(at).push(") ON CONFLICT DO NOTHING");
        self.add(&destination.name, sql).await
    }

    /// Also forgets that it was paused.
    pub async fn remove_destination(&self, name: &str) -> Result<(), RoutingError> {
        let mut sql = Sql::new("DELETE FROM destinations WHERE name = ");
        sql.bind(name);
        self.remove(name, sql).await?;
        self.set_paused(name, None).await
    }

    async fn peers(&self) -> Result<Vec<PeerConfig>, RoutingError> {
        let rows = Sql::new("SELECT ae_title AS name, definition FROM peers ORDER BY ae_title");
        definitions(rows.fetch_all(self.store.reader()).await?)
    }

    pub async fn add_peer(&self, peer: &PeerConfig, at: Millis) -> Result<(), RoutingError> {
        let name = peer.ae_title.as_str();
        let mut sql = Sql::new("INSERT INTO peers (ae_title, definition, added_at) VALUES ");
        sql.push("(").bind(name).push(", ").bind(definition(name, peer)?);
        sql.push(", ").bind(at).push(") ON CONFLICT DO NOTHING");
        self.add(name, sql).await
    }

    pub async fn remove_peer(&self, ae_title: &str) -> Result<(), RoutingError> {
        let mut sql = Sql::new("DELETE FROM peers WHERE ae_title = ");
        sql.bind(ae_title);
        self.remove(ae_title, sql).await
    }

    async fn paused(&self) -> Result<Vec<String>, RoutingError> {
        let rows = Sql::new("SELECT name FROM paused_destinations ORDER BY name");
        let rows = rows.fetch_all(self.store.reader()).await?;
        Ok(rows.iter().map(|row| row.try_get("name")).collect::<Result<_, _>>()?)
    }

    /// `Some` pauses since then, `None` resumes; either may be said again.
    pub async fn set_paused(&self, name: &str, since: Option<Millis>) -> Result<(), RoutingError> {
        let sql = match since {
            Some(at) => {
                let mut sql = Sql::new("INSERT INTO paused_destinations (name, paused_at) VALUES (");
                sql.bind(name).push(", ").bind(at).push(") ON CONFLICT DO NOTHING");
                sql
            }
            None => {
                let mut sql = Sql::new("DELETE FROM paused_destinations WHERE name = ");
                sql.bind(name);
                sql
            }
        };
        self.write(sql).await.map(drop)
    }

    async fn add(&self, name: &str, sql: Sql) -> Result<(), RoutingError> {
        match self.write(sql).await? {
            0 => Err(RoutingError::Exists(name.to_owned())),
            _ => Ok(()),
        }
    }

    async fn remove(&self, name: &str, sql: Sql) -> Result<(), RoutingError> {
        match self.write(sql).await? {
            0 => Err(RoutingError::Unknown(name.to_owned())),
            _ => Ok(()),
        }
    }

    async fn write(&self, sql: Sql) -> Result<u64, RoutingError> {
        let mut transaction = self.store.begin_write().await?;
        let changed = sql.execute(&mut *transaction).await?;
        self.store.commit_for_good(transaction).await?;
        Ok(changed)
    }
}

fn definition<T: Serialize>(name: &str, value: &T) -> Result<String, RoutingError> {
    serde_json::to_string(value).map_err(|source| RoutingError::Row { name: name.to_owned(), source })
}

fn definitions<T: DeserializeOwned>(rows: Vec<sqlx::any::AnyRow>) -> Result<Vec<T>, RoutingError> {
    rows.iter()
        .map(|row| {
            let (name, text): (String, String) = (row.try_get("name")?, row.try_get("definition")?);
            serde_json::from_str(&text).map_err(|source| RoutingError::Row { name, source })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn routing(dir: &tempfile::TempDir) -> Routing {
        let url = crate::store::dialect::sqlite_url(&dir.path().join("relaypacs.db"));
        let store = Store::open(&url, None, 2).await.unwrap();
        store.migrate_up().await.unwrap();
        Routing::new(store, dir.path())
    }

    fn destination(name: &str) -> DestinationConfig {
        serde_json::from_value(serde_json::json!({
            "name": name, "kind": "dimse", "ae_title": "ORTHANC", "host": "127.0.0.1", "port": 4242
        }))
        .unwrap()
    }

    #[tokio::test]
    async fn a_destination_is_kept_as_it_was_added_until_it_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let routing = routing(&dir).await;
        routing.add_destination(&destination("b"), Millis(1)).await.unwrap();
        routing.add_destination(&destination("a"), Millis(2)).await.unwrap();
        let again = routing.add_destination(&destination("a"), Millis(3)).await;
        assert!(matches!(again, Err(RoutingError::Exists(name)) if name == "a"));
        let kept = routing.destinations().await.unwrap();
        assert_eq!(kept.iter().map(|d| d.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(kept[0].port, Some(4242));
        assert_eq!(kept[0].timeout, destination("a").timeout);
        routing.remove_destination("a").await.unwrap();
        assert!(matches!(routing.remove_destination("a").await, Err(RoutingError::Unknown(_))));
    }

    #[tokio::test]
    async fn a_pause_lasts_until_it_is_resumed_or_its_destination_removed() {
        let dir = tempfile::tempdir().unwrap();
        let routing = routing(&dir).await;
        routing.set_paused("of-the-file", Some(Millis(1))).await.unwrap();
        routing.set_paused("of-the-file", Some(Millis(2))).await.unwrap();
        assert_eq!(routing.paused().await.unwrap(), ["of-the-file"]);
        routing.set_paused("of-the-file", None).await.unwrap();
        routing.add_destination(&destination("a"), Millis(1)).await.unwrap();
        routing.set_paused("a", Some(Millis(1))).await.unwrap();
        routing.remove_destination("a").await.unwrap();
        assert!(routing.paused().await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn while_the_database_is_down_what_was_last_read_stands() {
        let dir = tempfile::tempdir().unwrap();
        let routing = routing(&dir).await;
        routing.add_destination(&destination("a"), Millis(1)).await.unwrap();
        assert_eq!(routing.kept().await.unwrap().destinations.len(), 1);
        // Nobody listens on port 1.
        let down = Store::open("postgres://relaypacs@127.0.0.1:1/none", None, 2).await.unwrap();
        let without = Routing::new(down.clone(), dir.path());
        assert_eq!(without.kept().await.unwrap().destinations[0].name, "a");
        let never_read = Routing::new(down, &dir.path().join("no-such-folder"));
        assert!(matches!(never_read.kept().await, Err(RoutingError::Store(StoreError::Unavailable(_)))));
    }

    #[tokio::test]
    async fn peers_are_kept_by_their_ae_title() {
        let dir = tempfile::tempdir().unwrap();
        let routing = routing(&dir).await;
        let peer: PeerConfig =
            serde_json::from_value(serde_json::json!({"ae_title": "CT_1", "allow": ["10.1.4.0/24"]}))
                .unwrap();
        routing.add_peer(&peer, Millis(1)).await.unwrap();
        assert!(matches!(routing.add_peer(&peer, Millis(1)).await, Err(RoutingError::Exists(_))));
        assert_eq!(routing.peers().await.unwrap()[0].allow, ["10.1.4.0/24"]);
        routing.remove_peer("CT_1").await.unwrap();
        assert!(routing.peers().await.unwrap().is_empty());
    }
}
