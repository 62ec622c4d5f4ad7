//! How the node is, and the order to rebuild the index.

use std::time::Duration;

use poem::handler;
use poem::http::StatusCode;
use poem::web::Data;
use serde::{Deserialize, Serialize};

use super::{Answer, Control, ControlError, json};
use crate::index::{Index, IndexOptions, ReindexError};
use crate::lifecycle::Stage;

/// For a transaction under way to end.
const INDEXER_GRACE: Duration = Duration::from_secs(5);

/// What `healthcheck` learns: whether the node takes objects.
#[derive(Debug, Serialize, Deserialize)]
pub struct Readiness {
    pub ready: bool,
    /// Why it does not.
    pub reason: Option<String>,
    pub database: bool,
}

#[handler]
pub async fn health(Data(control): Data<&Control>) -> Answer {
    let Some(running) = &control.running else { return Err(ControlError::not_running()) };
    let refusal = running.ingest.ready().err();
    let readiness = Readiness {
        ready: refusal.is_none(),
        reason: refusal.map(|refusal| refusal.to_string()),
        database: control.store.ping().await.is_ok(),
    };
    Ok(json(StatusCode::OK, &readiness))
}

/// Empties the index of held objects, once it has read all of the log; the indexer, here or at the
/// next start, reads the log from its start.
#[handler]
pub async fn reindex(Data(control): Data<&Control>) -> Answer {
    let rebuilt = match &control.running {
        Some(running) => running.index.reindex().await,
        None => reindex_without_node(control).await,
    };
    rebuilt.map_err(ControlError::failed)?;
    Ok(json(StatusCode::OK, &serde_json::json!({ "reindexing": control.running.is_some() })))
}

async fn reindex_without_node(control: &Control) -> Result<(), ReindexError> {
    let stage = Stage::default();
    let Control { store, spool, clock, .. } = control.clone();
    let index = Index::start(store, spool, clock, IndexOptions::default(), &stage);
    let rebuilt = index.reindex().await;
    stage.drain(tokio::time::Instant::now() + INDEXER_GRACE).await;
    rebuilt
}
