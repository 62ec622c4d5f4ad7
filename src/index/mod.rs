//! What is there: a projection of the log in SQL, rebuilt from it at any time. The doors ask it;
//! only its [`indexer`] writes. A search that comes after an acknowledgement finds the object.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::{Notify, watch};

mod cache;
pub mod catalogue;
mod columns;
mod compared;
mod conflicts;
mod history;
mod indexer;
mod inquiry;
mod predicate;
pub mod rebuild;
mod rows;
pub mod search;

use crate::clock::{Clock, Millis};
use crate::dicom::{InstanceKey, Uid};
use crate::lifecycle::Stage;
use crate::query::{Matches, Query};
use crate::spool::{EntryId, LogPosition, Spool};
use crate::store::{Store, StoreError};

/// How long a rebuild waits for the index to have read all of the log.
const REINDEX_PATIENCE: Duration = Duration::from_secs(60);

/// Cheap to clone.
#[derive(Clone)]
pub struct Index {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    spool: Spool,
    clock: Arc<dyn Clock>,
    options: IndexOptions,
    cache: cache::QueryCache,
    progress: Arc<Progress>,
}

/// How far the indexer has come, for those who wait for it.
struct Progress {
    position: watch::Sender<LogPosition>,
    /// Whether the rows were asked what only they know to be missing.
    inquired: watch::Sender<bool>,
    /// Somebody waits: the indexer need not gather more.
    wanted: Notify,
    backlog: Mutex<Option<Backlog>>,
}

/// Facts that the index lacks.
#[derive(Clone, Copy)]
struct Backlog {
    /// When it was first seen to lack them.
    since: Millis,
    until: LogPosition,
}

impl Progress {
    /// How long it has been seen, at `now`, to lack a fact before `durable`. What keeps it from
    /// getting on does not matter: this looks at how far it got.
    fn lag(&self, now: Millis, durable: LogPosition) -> Duration {
        let position = *self.position.borrow();
        let mut backlog = self.backlog.lock();
        if position >= durable {
            *backlog = None;
            return Duration::ZERO;
        }
        let waiting = backlog.filter(|backlog| position < backlog.until);
        let waiting = waiting.unwrap_or(Backlog { since: now, until: durable });
        *backlog = Some(waiting);
        now.since(waiting.since)
    }
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

/// As the embedded configuration has it.
impl Default for IndexOptions {
    fn default() -> Self {
        IndexOptions { cache_bytes: 4 << 20, max_rows: 5_000, patience: Duration::from_secs(2) }
    }
}

#[derive(Debug, Error)]
pub enum IndexError {
    #[error("the database does not answer: {0}")]
    Unavailable(String),
    #[error("{keyword} can't be matched")]
    NotMatchable { keyword: &'static str },
}

/// Why the index is not rebuilt.
#[derive(Debug, Error)]
pub enum ReindexError {
    #[error(
        "the index has not read all of the log yet, which must come first so that no row of a freed object \
         is lost; nothing was changed: try again when relaypacs_index_lag_seconds is 0"
    )]
    Behind,
    #[error(
        "the index is still being asked what the log lost together with its queue, which must come first; nothing was \
         changed: if it stays so, the node's log says what keeps the index from going on"
    )]
    Inquiring,
    #[error(transparent)]
    Store(#[from] StoreError),
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
    pub fn start(
        store: Store,
        spool: Spool,
        clock: Arc<dyn Clock>,
        options: IndexOptions,
        stage: &Stage,
    ) -> Index {
        let progress = Arc::new(Progress {
            position: watch::Sender::new(LogPosition::default()),
            inquired: watch::Sender::new(false),
            wanted: Notify::new(),
            backlog: Mutex::default(),
        });
        let cache = cache::QueryCache::new(options.cache_bytes);
        let indexer = indexer::Indexer {
            store: store.clone(),
            spool: spool.clone(),
            clock: clock.clone(),
            progress: progress.clone(),
            cache: cache.clone(),
        };
        let shutdown = stage.shutdown();
        stage.spawn(async move { indexer.run(shutdown.soft).await });
        Index { inner: Arc::new(Inner { store, spool, clock, options, cache, progress }) }
    }

    /// Waits, briefly and bounded, until the index has passed the log's position at arrival, so
    /// that every door reads its own writes; then answers, from the cache where it can.
    pub async fn search(&self, query: &Query) -> Result<Arc<Matches>, IndexError> {
        let is_current = self.catch_up(self.inner.options.patience).await;
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
        self.catch_up(self.inner.options.patience).await;
        search::instances(&self.inner.store, scope, after, limit).await
    }

    /// Drops the rows of held objects and reads the log anew; rows of freed objects stay.
    ///
    /// First the index must know of all that was freed: the log drops an object's record together
    /// with its bytes, so a row that does not say yet that it was freed could not be made again. And what only the rows
    /// know to be missing must have been named.
    pub async fn reindex(&self) -> Result<(), ReindexError> {
        let mut inquired = self.inner.progress.inquired.subscribe();
        let inquired = tokio::time::timeout(REINDEX_PATIENCE, inquired.wait_for(|inquired| *inquired));
        if !self.catch_up(REINDEX_PATIENCE).await {
            return Err(ReindexError::Behind);
        }
        if !inquired.await.is_ok_and(|inquired| inquired.is_ok()) {
            return Err(ReindexError::Inquiring);
        }
        let mut tx = self.inner.store.begin_write().await?;
        rebuild::wipe_held(&mut tx).await?;
        Ok(tx.commit().await.map_err(StoreError::from)?)
    }

    /// For how long the oldest fact that the index lacks has been seen to wait for it; zero when
    /// it lacks none.
    pub fn lag(&self) -> Duration {
        self.inner.progress.lag(self.inner.clock.now(), self.inner.spool.durable_position())
    }

    /// Whether the database answers.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.inner.store.ping().await
    }

    /// What was found to be wrong with the database's file.
    pub fn damage(&self) -> Option<String> {
        self.inner.store.damage()
    }

    /// Whether it did, in time; one that did not answers with what it has.
    async fn catch_up(&self, patience: Duration) -> bool {
        let target = self.inner.spool.durable_position();
        let mut position = self.inner.progress.position.subscribe();
        if *position.borrow() < target {
            self.inner.progress.wanted.notify_one();
        }
        let passed = position.wait_for(|position| *position >= target);
        tokio::time::timeout(patience, passed).await.is_ok_and(|passed| passed.is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lag_grows_while_nothing_is_indexed_and_ends_when_all_is() {
        let (position, inquired, wanted, backlog) = Default::default();
        let progress = Progress { position, inquired, wanted, backlog };
        let lag = |now, durable| progress.lag(Millis(now), LogPosition(durable)).as_millis();
        assert_eq!(lag(1000, 0), 0);
        assert_eq!(lag(2000, 10), 0);
        assert_eq!(lag(5000, 10), 3000);
        // Newer facts do not hide how long the older ones wait, nor do some that were indexed.
        progress.position.send_replace(LogPosition(9));
        assert_eq!(lag(6000, 20), 4000);
        // Those of before are through: others have waited since they were seen.
        progress.position.send_replace(LogPosition(10));
        assert_eq!(lag(7000, 20), 0);
        assert_eq!(lag(8000, 30), 1000);
        progress.position.send_replace(LogPosition(30));
        assert_eq!(lag(9000, 30), 0);
        assert_eq!(lag(10_000, 31), 0);
    }
}
