//! The schema's steps, up and down, embedded from `migrations/`. Run at start and by
//! `relaypacs migrate`.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sqlx::migrate::{Migrate, Migrator};

use super::{Dialect, Store, StoreError, dialect};

static MIGRATOR: Migrator = sqlx::migrate!("./migrations");

/// How long a start waits for another process that migrates the same SQLite file.
const LOCK_PATIENCE: Duration = Duration::from_secs(30);

/// One step of the schema, as `migrate status` shows it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct MigrationStatus {
    pub version: i64,
    pub description: String,
    pub applied: bool,
}

impl Store {
    /// Applies every step that is missing.
    pub async fn migrate_up(&self) -> Result<(), StoreError> {
        let _lock = self.migration_lock().await?;
        MIGRATOR.run(&self.inner.writer).await.map_err(migration_error)?;
        if self.dialect() == Dialect::Postgres {
            sqlx::raw_sql(dialect::POSTGRES_AFTER_UP).execute(&self.inner.writer).await?;
        }
        Ok(())
    }

    /// Takes back every applied step above `target`; 0 empties the schema.
    pub async fn migrate_down(&self, target: i64) -> Result<(), StoreError> {
        let _lock = self.migration_lock().await?;
        MIGRATOR.undo(&self.inner.writer, target).await.map_err(migration_error)
    }

    /// The versions that this program knows, oldest first.
    pub fn migration_versions() -> impl Iterator<Item = i64> {
        MIGRATOR.iter().filter(|step| step.migration_type.is_up_migration()).map(|step| step.version)
    }

    /// Every step that this program knows, oldest first.
    pub async fn migration_status(&self) -> Result<Vec<MigrationStatus>, StoreError> {
        let mut connection = self.inner.writer.acquire().await?;
        connection.ensure_migrations_table(&MIGRATOR.table_name).await.map_err(migration_error)?;
        let applied =
            connection.list_applied_migrations(&MIGRATOR.table_name).await.map_err(migration_error)?;
        let steps = MIGRATOR.iter().filter(|step| step.migration_type.is_up_migration());
        Ok(steps
            .map(|step| MigrationStatus {
                version: step.version,
                description: step.description.to_string(),
                applied: applied.iter().any(|applied| applied.version == step.version),
            })
            .collect())
    }

    /// sqlx locks PostgreSQL by an advisory lock, and SQLite not at all.
    async fn migration_lock(&self) -> Result<Option<File>, StoreError> {
        let Some(file) = &self.inner.file else { return Ok(None) };
        let mut path = file.clone().into_os_string();
        path.push(".migrate-lock");
        let path = PathBuf::from(path);
        let locked = tokio::task::spawn_blocking(move || lock_file(&path)).await;
        match locked {
            Ok(lock) => lock.map(Some),
            Err(_) => Err(StoreError::MigrationLocked(file.clone())),
        }
    }
}

/// Holds the lock as long as the file stays open.
fn lock_file(path: &Path) -> Result<File, StoreError> {
    let failed = |source| StoreError::File { path: path.to_owned(), source };
    let file = File::options().create(true).append(true).open(path).map_err(failed)?;
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(std::fs::TryLockError::Error(source)) => return Err(failed(source)),
            Err(std::fs::TryLockError::WouldBlock) if Instant::now() >= deadline => {
                return Err(StoreError::MigrationLocked(path.to_owned()));
            }
            Err(std::fs::TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

fn migration_error(error: sqlx::migrate::MigrateError) -> StoreError {
    match error {
        sqlx::migrate::MigrateError::Execute(error) => error.into(),
        other => StoreError::Migration(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_schema_goes_up_and_down_and_up_again() {
        let dir = tempfile::tempdir().unwrap();
        let url = dialect::sqlite_url(&dir.path().join("a b.db"));
        let store = Store::open(&url, None, 4).await.unwrap();
        store.migrate_up().await.unwrap();
        assert!(store.migration_status().await.unwrap().iter().all(|step| step.applied));
        store.migrate_down(0).await.unwrap();
        assert!(store.migration_status().await.unwrap().iter().all(|step| !step.applied));
        store.migrate_up().await.unwrap();
        store.ping().await.unwrap();
        store.close().await;
    }
}
