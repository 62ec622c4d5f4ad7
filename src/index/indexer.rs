//! Follows the log and keeps the rows up to date: many facts in one transaction, together with
//! the position after them. While the database is down it tries again and again from the same
//! place; the log keeps what it has not dealt with.

use std::sync::Arc;
use std::time::Duration;

use sqlx::{Any, Transaction};
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use super::cache::QueryCache;
use super::inquiry::Inquiry;
use super::{Progress, catalogue, rebuild};
use crate::clock::Clock;
use crate::spool::{Cursor, EntryId, Followed, LogPosition, Missing, Spool, SpoolError};
use crate::store::{Store, StoreError};

/// Facts in one transaction: one sync of the database for all of them.
const BATCH: usize = 512;
/// Between two transactions, unless a search waits: their syncs would take from the log's, which
/// stands between an object and its answer.
const PACE: Duration = Duration::from_millis(250);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

pub(super) struct Indexer {
    pub store: Store,
    pub spool: Spool,
    pub clock: Arc<dyn Clock>,
    pub progress: Arc<Progress>,
    pub cache: QueryCache,
}

/// Why the rows could not be compared with what is held.
#[derive(Debug, Error)]
enum IndexerError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Spool(#[from] SpoolError),
}

/// What became of a batch.
enum Applied {
    At(LogPosition),
    /// The stored position is another than the one that the batch follows: somebody began a
    /// rebuild, or another process moved it.
    Elsewhere(LogPosition),
}

impl Indexer {
    /// Until `stop`, or until the log is closed.
    pub async fn run(self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.follow() => {}
        }
    }

    async fn follow(&self) {
        let mut position = self.persist("open", || self.begin()).await;
        self.publish(position);
        let mut inquiry = Inquiry::of(&self.spool);
        self.progress.inquired.send_replace(inquiry.is_none());
        loop {
            inquiry = self.inquire(inquiry, position).await;
            let facts = match self.next(position).await {
                Ok(facts) => facts,
                Err(SpoolError::Failed(_)) => return,
                Err(error) => {
                    tracing::error!(%error, "the index waits for the spool");
                    tokio::time::sleep(LONGEST_PAUSE).await;
                    continue;
                }
            };
            self.progress.lag(self.clock.now(), self.spool.durable_position());
            match self.persist("write", || self.apply(position, &facts)).await {
                Applied::At(after) => position = after,
                Applied::Elsewhere(stored) => {
                    tracing::info!("the index is rebuilt from the log");
                    position = stored;
                }
            }
            // First the answers of before, then the word that there are newer ones.
            self.cache.empty();
            self.publish(position);
            let is_behind = facts.len() == BATCH;
            if !is_behind {
                let _ = tokio::time::timeout(PACE, self.progress.wanted.notified()).await;
            }
        }
    }

    /// The next facts. A rebuild moves the stored position while nothing new comes in, so the
    /// wait is cut now and then to look for it.
    async fn next(&self, position: LogPosition) -> Result<Vec<Followed>, SpoolError> {
        const LOOK: Duration = Duration::from_secs(1);
        loop {
            match tokio::time::timeout(LOOK, self.spool.follow(position, BATCH)).await {
                Ok(facts) => return facts,
                Err(_) => {
                    if self.stored_position().await.is_ok_and(|stored| stored != position) {
                        return Ok(Vec::new());
                    }
                }
            }
        }
    }

    /// Where the index stands; nowhere, when the log is shorter than what the index has seen: it
    /// is another log then, and its entries must not be taken for those of the old one.
    async fn begin(&self) -> Result<LogPosition, IndexerError> {
        let mut tx = self.store.begin_write().await?;
        let mut position = catalogue::position(&mut *tx).await?;
        let recovery = self.spool.recovery();
        let mut is_shorter = self.list_unknown_after(&mut tx, EntryId(recovery.settled_through)).await?;
        is_shorter |= position > self.spool.end_at_start();
        if is_shorter {
            tracing::warn!("the log is not the one that was indexed; the index starts over with it");
            if recovery.asks_rows {
                // With these rows go those that were to be asked later. Better too many than too few.
                self.list_unknown_after(&mut tx, EntryId(0)).await?;
            }
            rebuild::forget_log(&mut tx).await?;
            position = LogPosition::default();
        }
        tx.commit().await.map_err(StoreError::from)?;
        Ok(position)
    }

    /// Lists what counts as held in the rows, and the queue does not know; whether there is anything.
    async fn list_unknown_after(
        &self,
        tx: &mut Transaction<'static, Any>,
        mut entry: EntryId,
    ) -> Result<bool, IndexerError> {
        let mut is_any = false;
        loop {
            let held = catalogue::held_after(&mut **tx, entry).await?;
            let Some(last) = held.last() else { return Ok(is_any) };
            entry = last.entry;
            let missing = self.spool.unknown(held).await?;
            is_any |= !missing.is_empty();
            self.list(missing).await?;
        }
    }

    /// Asks the rows what the log lost while the queue was lost too, as far as the index has come.
    async fn inquire(&self, mut inquiry: Option<Inquiry>, position: LogPosition) -> Option<Inquiry> {
        while let Some(open) = inquiry.take_if(|open| open.is_due(position)) {
            inquiry = self.persist("ask", || self.turn(&open)).await;
            if inquiry.is_none() {
                self.spool.rows_were_asked();
                self.progress.inquired.send_replace(true);
            }
        }
        inquiry
    }

    /// The inquiry about the next page, once what this one found is listed.
    async fn turn(&self, open: &Inquiry) -> Result<Option<Inquiry>, IndexerError> {
        let told = open.ask(&self.store).await?;
        self.list(told.missing).await?;
        Ok(open.turn(told.page, &self.spool).await?)
    }

    /// Lists what the log does not have any more and only the rows knew of.
    async fn list(&self, missing: Vec<Missing>) -> Result<(), IndexerError> {
        if missing.is_empty() {
            return Ok(());
        }
        let objects = missing.len();
        tracing::error!(objects, "acknowledged objects are missing from the log; only the index knew");
        Ok(self.spool.list_missing(missing).await?)
    }

    async fn stored_position(&self) -> Result<LogPosition, StoreError> {
        catalogue::position(self.store.reader()).await
    }

    async fn apply(&self, follows: LogPosition, facts: &[Followed]) -> Result<Applied, StoreError> {
        match self.apply_together(follows, facts).await {
            Err(error) if error.is_about_values() => self.apply_one_by_one(follows, facts).await,
            other => other,
        }
    }

    async fn apply_together(&self, follows: LogPosition, facts: &[Followed]) -> Result<Applied, StoreError> {
        let mut tx = self.store.begin_write().await?;
        let stored = catalogue::position(&mut *tx).await?;
        if stored != follows {
            return Ok(Applied::Elsewhere(stored));
        }
        catalogue::apply(&mut tx, facts).await?;
        tx.commit().await?;
        Ok(Applied::At(facts.last().map_or(follows, |last| last.after)))
    }

    /// One fact that the database will never take must not keep out all that follow it: it is
    /// passed over, and told. The object itself is safe in the log.
    async fn apply_one_by_one(
        &self,
        mut follows: LogPosition,
        facts: &[Followed],
    ) -> Result<Applied, StoreError> {
        for fact in facts {
            match self.apply_together(follows, std::slice::from_ref(fact)).await {
                Ok(Applied::At(after)) => follows = after,
                Ok(elsewhere) => return Ok(elsewhere),
                Err(error) if error.is_about_values() => {
                    tracing::error!(%error, position = fact.after.0, "a fact of the log can't be indexed");
                    let mut tx = self.store.begin_write().await?;
                    catalogue::pass_over(&mut tx, fact).await?;
                    tx.commit().await?;
                    follows = fact.after;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Applied::At(follows))
    }

    fn publish(&self, position: LogPosition) {
        self.spool.report_cursor(Cursor::Index, position);
        self.progress.position.send_replace(position);
    }

    /// Repeats `work` until the database takes it. One line tells that it does not, one that it
    /// does again.
    async fn persist<T, E, F>(&self, what: &'static str, work: impl Fn() -> F) -> T
    where
        E: std::fmt::Display,
        F: Future<Output = Result<T, E>>,
    {
        let mut pause = FIRST_PAUSE;
        let mut told = false;
        loop {
            match work().await {
                Ok(done) => {
                    if told {
                        tracing::info!("the index goes on");
                    }
                    return done;
                }
                Err(error) if !told => {
                    tracing::error!(%error, what, "the index can't go on; it keeps its place and tries again");
                    told = true;
                }
                Err(_) => {}
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}
