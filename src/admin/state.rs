//! How the node is, and the order to rebuild the index.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Admin, AdminError};
use crate::index::{Index, IndexOptions, ReindexError};
use crate::lifecycle::Stage;

/// For a transaction under way to end.
const INDEXER_GRACE: Duration = Duration::from_secs(5);

/// Whether the node takes objects.
#[derive(Debug, Serialize, Deserialize)]
pub struct Readiness {
    pub ready: bool,
    /// Why it does not.
    pub reason: Option<String>,
    pub database: bool,
}

impl Admin {
    pub async fn readiness(&self) -> Result<Readiness, AdminError> {
        let refusal = self.running()?.ingest.ready().err();
        Ok(Readiness {
            ready: refusal.is_none(),
            reason: refusal.map(|refusal| refusal.to_string()),
            database: self.store.ping().await.is_ok(),
        })
    }

    /// Empties the index of held objects, once it has read all of the log; the indexer, here or at the
    /// next start, reads the log from its start. Whether it does so now.
    pub async fn reindex(&self) -> Result<bool, AdminError> {
        let rebuilt = match &self.running {
            Some(running) => running.index.reindex().await,
            None => self.reindex_without_node().await,
        };
        rebuilt.map_err(AdminError::failed)?;
        Ok(self.running.is_some())
    }

    async fn reindex_without_node(&self) -> Result<(), ReindexError> {
        let stage = Stage::default();
        let Admin { store, spool, clock, .. } = self.clone();
        let index = Index::start(store, spool, clock, IndexOptions::default(), &stage);
        let rebuilt = index.reindex().await;
        stage.drain(tokio::time::Instant::now() + INDEXER_GRACE).await;
        rebuilt
    }
}
