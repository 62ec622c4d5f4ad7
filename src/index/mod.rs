//! What is there: a projection of the log in SQL, rebuilt from it at any time. The doors ask it;
//! only its [`indexer`] writes. A search that comes after an acknowledgement finds the object.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{Notify, watch};

mod cache;
pub mod catalogue;
mod columns;
mod compared;
mod history;
mod indexer;
mod predicate;
mod rebuild;
mod rows;
pub mod search;

use crate::dicom::{InstanceKey, Uid};
use crate::lifecycle::Stage;
use crate::query::{Matches, Query};
use crate::spool::{EntryId, LogPosition, Spool};
use crate::store::{Store, StoreError};

/// Cheap to clone.
#[derive(Clone)]
pub struct Index {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    spool: Spool,
    options: IndexOptions,
    cache: cache::QueryCache,
    progress: Arc<Progress>,
}

/// How far the indexer has come, for those who wait for it.
struct Progress {
    position: watch::Sender<LogPosition>,
    /// Somebody waits: the indexer need not gather more.
    wanted: Notify,
    /// When the oldest fact that it fetched and has not committed was fetched; 0: none waits.
    behind_since: AtomicU64,
}

#[derive(Debug, Clone)]
pub struct IndexOptions {
    /// Memory for answers kept.
    pub cache_bytes: u64,
    /// Most rows of one answer, whatever the query asks for.
    pub max_rows: usize,
    /// How long a search waits for the index to pass what was acknowledged before it.
    pub patience: Duration,
}

impl Default for IndexOptions {
    fn default() -> Self {
        IndexOptions { cache_bytes: 8 << 20, max_rows: 10_000, patience: Duration::from_secs(2) }
    }
}

#[derive(Debug, Error)]
pub enum IndexError {
    #[error("the database does not answer: {0}")]
    Unavailable(String),
    #[error("{keyword} can't be matched")]
    NotMatchable { keyword: &'static str },
}

impl From<StoreError> for IndexError {
    fn from(error: StoreError) -> Self {
        IndexError::Unavailable(error.to_string())
    }
}

/// Part of the tree of studies.
#[derive(Debug, Clone)]
pub struct Scope {
    pub study_instance_uid: Uid,
    pub series_instance_uid: Option<Uid>,
    pub sop_instance_uid: Option<Uid>,
}

/// Where an indexed instance is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    pub entry: EntryId,
    pub key: InstanceKey,
    pub sop_class_uid: Uid,
    pub transfer_syntax_uid: String,
    /// Its bytes were freed after delivery; this names where it went.
    pub freed: Option<String>,
}

impl Index {
    /// Follows the log as a task of `stage`, from where the database says it stands. Does not
    /// wait for the database.
    pub fn start(store: Store, spool: Spool, options: IndexOptions, stage: &Stage) -> Index {
        let progress = Arc::new(Progress {
            position: watch::Sender::new(LogPosition::default()),
            wanted: Notify::new(),
            behind_since: AtomicU64::new(0),
        });
        let cache = cache::QueryCache::new(options.cache_bytes);
        let indexer = indexer::Indexer::new(store.clone(), spool.clone(), progress.clone(), cache.clone());
        let shutdown = stage.shutdown();
        stage.spawn(async move { indexer.run(shutdown.soft).await });
        Index { inner: Arc::new(Inner { store, spool, options, cache, progress }) }
    }

    /// Waits, briefly and bounded, until the index has passed the log's position at arrival, so
    /// that every door reads its own writes; then answers, from the cache where it can.
    pub async fn search(&self, query: &Query) -> Result<Arc<Matches>, IndexError> {
        let is_current = self.catch_up().await;
        let mut query = query.clone();
        query.page.limit = query.page.limit.min(self.inner.options.max_rows);
        let search = search::search(&self.inner.store, &query);
        if !is_current {
            // What is kept is as old as the index. Of a database that is down, say so instead.
            return search.await.map(Arc::new);
        }
        self.inner.cache.get(&query, search).await
    }

    /// Instances under `scope`, in series and instance order; conflicts held for a person are
    /// left out. At most `limit`, after `after` when given (for streaming large studies).
    pub async fn instances(
        &self,
        scope: &Scope,
        after: Option<EntryId>,
        limit: usize,
    ) -> Result<Vec<Located>, IndexError> {
        self.catch_up().await;
        search::instances(&self.inner.store, scope, after, limit).await
    }

    /// Drops the rows of held objects and reads the log anew; rows of freed objects stay. Also
    /// from another process than the node's: its indexer notices.
    pub async fn reindex(&self) -> Result<(), StoreError> {
        // The log may have dropped what was purged already; that is known here once it is read.
        self.catch_up().await;
        reindex(&self.inner.store).await
    }

    /// For how long the oldest fact that the index lacks has waited for it; zero when it lacks
    /// none.
    pub fn lag(&self) -> Duration {
        let now = crate::clock::Clock::now(&crate::clock::SystemClock);
        match self.inner.progress.behind_since.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => now.since(crate::clock::Millis(since)),
        }
    }

    /// Whether the database answers.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.inner.store.ping().await
    }

    /// Whether it did, in time; one that did not answers with what it has.
    async fn catch_up(&self) -> bool {
        let target = self.inner.spool.durable_position();
        let mut position = self.inner.progress.position.subscribe();
        if *position.borrow() < target {
            self.inner.progress.wanted.notify_one();
        }
        let passed = position.wait_for(|position| *position >= target);
        tokio::time::timeout(self.inner.options.patience, passed).await.is_ok_and(|passed| passed.is_ok())
    }
}

/// As [`Index::reindex`], without a running index.
pub async fn reindex(store: &Store) -> Result<(), StoreError> {
    let mut tx = store.begin_write().await?;
    rebuild::wipe_held(&mut tx).await?;
    Ok(tx.commit().await?)
}
