//! SQL, for all that keep rows. One set of statements and migrations serves SQLite and
//! PostgreSQL; what differs between the two is in [`dialect`], and dynamic statements are built
//! by [`sql::Sql`] alone. Parts that keep rows (index, keys, routing) come here for a connection;
//! nobody else names sqlx. Never between the last byte of an object and its answer.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::{Any, AnyPool, ConnectOptions, Transaction};
use thiserror::Error;
use tokio::sync::Notify;

pub mod dialect;
pub mod keys;
mod migrations;
pub mod routing;
mod soundness;
pub mod sql;

pub use dialect::Dialect;
pub use migrations::MigrationStatus;
pub use routing::{Kept, Routing, RoutingError};
pub use sql::Sql;

/// How long a statement waits for a connection before the database counts as unavailable.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);

/// Cheap to clone; every clone uses the same connections.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    dialect: Dialect,
    /// SQLite: one connection, so that writers queue here instead of failing there.
    writer: AnyPool,
    reader: AnyPool,
    /// The database file of SQLite.
    file: Option<PathBuf>,
    /// For connections that look through it.
    look_with: Option<AnyConnectOptions>,
    damage: Mutex<Option<String>>,
    /// Something was decided and stands in the write-ahead log only.
    unfolded: Notify,
}

#[derive(Debug, Error)]
pub enum StoreError {
    #[error("database.url: {0}")]
    Url(String),
    /// The database can't be reached now; trying again later may help.
    #[error("the database does not answer: {0}")]
    Unavailable(#[source] sqlx::Error),
    #[error("database: {0}")]
    Database(#[source] sqlx::Error),
    #[error("database file {path}: {source}")]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("migrations: {0}")]
    Migration(#[from] sqlx::migrate::MigrateError),
    #[error("another process is migrating {0}")]
    MigrationLocked(PathBuf),
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        if is_outage(&error) { StoreError::Unavailable(error) } else { StoreError::Database(error) }
    }
}

impl StoreError {
    /// Whether the database refused the values themselves, so that trying again can't help.
    pub fn is_about_values(&self) -> bool {
        let StoreError::Database(sqlx::Error::Database(error)) = self else { return false };
        let Some(code) = error.code() else { return false };
        if code.len() == 5 {
            // PostgreSQL error classes: 22 data, 23 constraints, 54 program limits.
            return ["22", "23", "54"].iter().any(|class| code.starts_with(class));
        }
        // SQLite: TOOBIG, CONSTRAINT, MISMATCH, in the low byte of the extended code.
        code.parse::<u32>().is_ok_and(|code| [18, 19, 20].contains(&(code & 0xff)))
    }
}

/// Whether the server, not the statement, is what failed.
fn is_outage(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        // PostgreSQL error classes: 08 connection, 53 resources, 57P shutdown and start-up.
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            ["08", "53", "57P"].iter().any(|class| code.len() == 5 && code.starts_with(class))
        }),
        _ => false,
    }
}

impl Store {
    /// Opens `sqlite://PATH` (creating the file) or `postgres://USER@HOST/DATABASE`. PostgreSQL
    /// is only connected to when first used: the node receives and forwards while it is down.
    pub async fn open(url: &str, password: Option<&str>, max_connections: u32) -> Result<Store, StoreError> {
        sqlx::any::install_default_drivers();
        let dialect = Dialect::of_url(url)?;
        let mut options: AnyConnectOptions =
            url.parse().map_err(|error: sqlx::Error| StoreError::Url(error.to_string()))?;
        // Statements carry placeholders only, but they are noise at any level.
        options = options.disable_statement_logging();
        match dialect {
            Dialect::Sqlite => Self::open_sqlite(url, options, max_connections).await,
            Dialect::Postgres => Self::open_postgres(options, password, max_connections),
        }
    }

    async fn open_sqlite(
        url: &str,
        mut options: AnyConnectOptions,
        max_connections: u32,
    ) -> Result<Store, StoreError> {
        let file = dialect::sqlite_file(url)?;
        dialect::create_sqlite_file(&file)?;
        options.database_url.set_query(Some("mode=rw"));
        let writer =
            pool(Dialect::Sqlite, 1, dialect::SQLITE_WRITER_PRAGMAS).connect_with(options.clone()).await?;
        // Readers are cheap but each keeps a page cache and a thread.
        let readers = max_connections.clamp(1, 4);
        let reader =
            pool(Dialect::Sqlite, readers, dialect::SQLITE_READER_PRAGMAS).connect_lazy_with(options.clone());
        let (look_with, damage, unfolded) = (Some(options), Mutex::default(), Notify::new());
        let inner =
            Inner { dialect: Dialect::Sqlite, writer, reader, file: Some(file), look_with, damage, unfolded };
        Ok(Store { inner: Arc::new(inner) })
    }

    fn open_postgres(
        mut options: AnyConnectOptions,
        password: Option<&str>,
        max_connections: u32,
    ) -> Result<Store, StoreError> {
        if password.is_some() && options.database_url.set_password(password).is_err() {
            return Err(StoreError::Url("it names no host that a password could be for".into()));
        }
        // The indexer keeps one connection busy; with a single one it would starve searches.
        let pool = pool(Dialect::Postgres, max_connections.max(2), "").connect_lazy_with(options);
        let (writer, reader, damage, unfolded) = (pool.clone(), pool, Mutex::default(), Notify::new());
        let inner = Inner {
            dialect: Dialect::Postgres,
            writer,
            reader,
            file: None,
            look_with: None,
            damage,
            unfolded,
        };
        Ok(Store { inner: Arc::new(inner) })
    }

    pub fn dialect(&self) -> Dialect {
        self.inner.dialect
    }

    /// Connections for statements that change nothing.
    pub fn reader(&self) -> &AnyPool {
        &self.inner.reader
    }

    /// A transaction that holds the write lock from its start, so that what it reads first stays
    /// true until it commits. Dropping it rolls back.
    pub async fn begin_write(&self) -> Result<Transaction<'static, Any>, StoreError> {
        Ok(self.inner.writer.begin_with(self.inner.dialect.begin_write()).await?)
    }

    /// Whether the database answers, for readiness.
    pub async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT 1").execute(self.reader()).await?;
        Ok(())
    }

    /// Closes all connections; SQLite folds its write-ahead log into the database.
    pub async fn close(&self) {
        self.inner.reader.close().await;
        self.inner.writer.close().await;
    }
}

fn pool(dialect: Dialect, connections: u32, pragmas: &'static str) -> AnyPoolOptions {
    let options = AnyPoolOptions::new().max_connections(connections).acquire_timeout(ACQUIRE_TIMEOUT);
    match dialect {
        Dialect::Sqlite => {
            options.test_before_acquire(false).idle_timeout(None).max_lifetime(None).after_connect(
                move |connection, _| {
                    Box::pin(async move {
                        sqlx::raw_sql(pragmas).execute(connection).await?;
                        Ok(())
                    })
                },
            )
        }
        Dialect::Postgres => options,
    }
}
