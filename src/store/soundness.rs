//! Whether SQLite's file holds what was written. A page that the disk lost is met only by who reads it, and one lost in the
//! write-ahead log takes all commits after it along, so that nobody meets it. PostgreSQL looks after its own.

use std::time::Duration;

use sqlx::any::AnyConnectOptions;
use sqlx::{Any, ConnectOptions, Connection, Row, Transaction};

use super::{Dialect, Store, StoreError};

/// Between two looks.
const ROUND: Duration = Duration::from_secs(24 * 3600);
/// How long who decides something waits for readers of what was before.
const PATIENCE: &str = "PRAGMA busy_timeout = 500";
/// As `SQLITE_WRITER_PRAGMAS` has it.
const USUAL_PATIENCE: &str = "PRAGMA busy_timeout = 5000";
/// Between two tries to fold what they were in the way of.
const TRY_AGAIN: Duration = Duration::from_secs(5);

impl Store {
    /// What was found to be wrong with the database's file.
    pub fn damage(&self) -> Option<String> {
        self.inner.damage.lock().clone()
    }

    /// Looks through the file now and once a day, and folds in what could not be folded at once; for ever.
    pub async fn watch(&self) {
        let Some(options) = &self.inner.look_with else { return };
        tokio::join!(self.look_daily(options), self.fold_later());
    }

    async fn look_daily(&self, options: &AnyConnectOptions) {
        loop {
            match look_through(options).await {
                Ok(found) => self.note(found),
                Err(error) => {
                    tracing::warn!(%error, "the database could not be looked through; tomorrow again")
                }
            }
            tokio::time::sleep(ROUND).await;
        }
    }

    async fn fold_later(&self) {
        loop {
            self.inner.unfolded.notified().await;
            while !matches!(self.fold().await, Ok(true)) {
                tokio::time::sleep(TRY_AGAIN).await;
            }
        }
    }

    fn note(&self, found: Option<String>) {
        if let Some(damage) = &found {
            tracing::error!(
                damage,
                "the database is damaged; see \"When the disk fails\" in docs/operations.md"
            );
        }
        *self.inner.damage.lock() = found;
    }

    /// Commits what people decided (who may come in, where to send), and has it in the database's file itself, at once or
    /// as soon as nobody reads what was before: what a lost page of the write-ahead log takes along, the log of objects
    /// does not bring back.
    pub async fn commit_for_good(&self, transaction: Transaction<'static, Any>) -> Result<(), StoreError> {
        transaction.commit().await?;
        if self.inner.dialect != Dialect::Sqlite {
            return Ok(());
        }
        match self.fold().await {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(%error, "SQLite's write-ahead log can't be folded into the database; it is tried again");
            }
        }
        self.inner.unfolded.notify_one();
        Ok(())
    }

    /// Folds SQLite's write-ahead log into the database and empties it; whether nobody was in the way.
    async fn fold(&self) -> Result<bool, StoreError> {
        let mut writer = self.inner.writer.acquire().await?;
        sqlx::query(PATIENCE).execute(&mut *writer).await?;
        let folded = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").fetch_one(&mut *writer).await;
        sqlx::query(USUAL_PATIENCE).execute(&mut *writer).await?;
        // 1: somebody still reads what was before.
        Ok(folded?.try_get::<i64, _>(0)? == 0)
    }
}

/// On a connection of its own: it takes as long as the disk takes to read the file.
async fn look_through(options: &AnyConnectOptions) -> Result<Option<String>, StoreError> {
    let looked = async {
        let mut connection = options.connect().await?;
        let row = sqlx::query("PRAGMA quick_check(1)").fetch_one(&mut connection).await?;
        connection.close().await?;
        row.try_get::<String, _>(0)
    };
    match looked.await {
        Ok(found) => Ok((found != "ok").then_some(found)),
        Err(sqlx::Error::Database(error)) if is_damage(error.code().as_deref()) => {
            Ok(Some(error.to_string()))
        }
        Err(error) => Err(error.into()),
    }
}

/// SQLITE_CORRUPT and SQLITE_NOTADB, in the low byte of the extended code.
fn is_damage(code: Option<&str>) -> bool {
    code.and_then(|code| code.parse::<u32>().ok()).is_some_and(|code| [11, 26].contains(&(code & 0xff)))
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::super::dialect::sqlite_url;
    use super::*;

    #[tokio::test]
    async fn a_lost_page_is_found_before_anybody_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("relaypacs.db");
        let store = Store::open(&sqlite_url(&file), None, 2).await.unwrap();
        store.migrate_up().await.unwrap();
        let options = store.inner.look_with.clone().unwrap();
        assert_eq!(look_through(&options).await.unwrap(), None);
        store.close().await;
        let whole = std::fs::read(&file).unwrap();
        assert!(whole.len() > 20 * 4096);
        for page in 1..whole.len() / 4096 {
            let mut bytes = whole.clone();
            bytes[page * 4096..][..4096].fill(0);
            std::fs::write(&file, bytes).unwrap();
            assert!(look_through(&options).await.unwrap().is_some(), "page {page}");
        }
    }

    #[tokio::test]
    async fn what_people_decide_is_folded_in_at_once_or_when_nobody_reads_what_was_before() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("relaypacs.db");
        let store = Store::open(&sqlite_url(&file), None, 2).await.unwrap();
        store.migrate_up().await.unwrap();
        let unfolded = || std::fs::metadata(dir.path().join("relaypacs.db-wal")).unwrap().len() > 0;
        let pause = async |name: &'static str| {
            let mut transaction = store.begin_write().await.unwrap();
            let sql = "INSERT INTO paused_destinations (name, paused_at) VALUES ($1, 0)";
            sqlx::query(sql).bind(name).execute(&mut *transaction).await.unwrap();
            store.commit_for_good(transaction).await.unwrap();
        };
        pause("a").await;
        assert!(!unfolded());
        let mut reads = store.reader().begin().await.unwrap();
        sqlx::query("SELECT name FROM paused_destinations").fetch_all(&mut *reads).await.unwrap();
        pause("b").await;
        assert!(unfolded(), "somebody reads what was before");
        let watch = tokio::spawn({
            let store = store.clone();
            async move { store.watch().await }
        });
        reads.rollback().await.unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while unfolded() {
            assert!(Instant::now() < deadline);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        watch.abort();
    }
}
