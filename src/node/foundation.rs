//! What is on disk: the spool, the database and what is kept in it. Opening it takes the lock of the
//! data folder and then the spool's, so that a node and a command, or two nodes, never work on one
//! of them, wherever they are.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::time::Instant;

use super::folder_lock::FolderLock;
use crate::admin::{Admin, Running};
use crate::auth::Keys;
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, ConfigError, SpoolDurability, secret};
use crate::lifecycle::Stage;
use crate::spool::{Spool, SpoolOptions};
use crate::store::keys::KeyRows;
use crate::store::{Routing, Store, StoreError};

/// How long a first start waits for a database that does not answer yet, as after a common boot.
const DATABASE_PATIENCE: Duration = Duration::from_secs(60);
const DATABASE_PAUSE: Duration = Duration::from_secs(1);
const BACKGROUND_GRACE: Duration = Duration::from_secs(1);
const OUT_OF_DATE: &str =
    "database.migrate_on_start: the tables are not up to date; run `relaypacs migrate up`";

pub struct Foundation {
    pub config: Arc<Config>,
    pub clock: Arc<dyn Clock>,
    pub store: Store,
    pub spool: Spool,
    pub keys: Keys,
    pub routing: Routing,
    /// What is made up for later.
    background: Stage,
    _lock: FolderLock,
}

impl Foundation {
    pub async fn open(config: Config) -> anyhow::Result<Foundation> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let lock = FolderLock::take(&config.node.data_dir).await?;
        let spool = open_spool(&config, clock.clone()).await?;
        let store = open_store(&config).await?;
        let keys = Keys::new(KeyRows::new(store.clone()), clock.clone());
        let routing = Routing::new(store.clone(), &config.node.data_dir);
        let (config, background) = (Arc::new(config), Stage::default());
        let foundation = Foundation { config, clock, store, spool, keys, routing, background, _lock: lock };
        foundation.prepare_tables().await?;
        Ok(foundation)
    }

    pub fn admin(&self, running: Option<Running>) -> Admin {
        Admin {
            config: self.config.clone(),
            clock: self.clock.clone(),
            store: self.store.clone(),
            spool: self.spool.clone(),
            keys: self.keys.clone(),
            routing: self.routing.clone(),
            running,
        }
    }

    /// A database that is down does not keep a node from starting that has started before: it
    /// receives and forwards, and the tables are looked after once there are any.
    async fn prepare_tables(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + DATABASE_PATIENCE;
        loop {
            match bring_up_to_date(&self.config, &self.store).await {
                Ok(Tables::New) => return Ok(self.routing.restore(self.clock.now()).await?),
                Err(StoreError::Unavailable(error)) if self.routing.has_snapshot() => {
                    tracing::warn!(%error, "the database does not answer; starting without it");
                    self.prepare_tables_later();
                    return Ok(());
                }
                Err(StoreError::Unavailable(error)) if Instant::now() < deadline => {
                    tracing::warn!(%error, "the database does not answer yet");
                    tokio::time::sleep(DATABASE_PAUSE).await;
                }
                Ok(Tables::UpToDate) => return Ok(()),
                Ok(Tables::OutOfDate) => return Err(ConfigError::new(OUT_OF_DATE).into()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn prepare_tables_later(&self) {
        let (config, store, stop) =
            (self.config.clone(), self.store.clone(), self.background.shutdown().soft);
        let prepare = async move {
            loop {
                match bring_up_to_date(&config, &store).await {
                    Err(StoreError::Unavailable(_)) => tokio::time::sleep(DATABASE_PAUSE).await,
                    Ok(Tables::UpToDate | Tables::New) => return tracing::info!("the database answers"),
                    Ok(Tables::OutOfDate) => return tracing::error!("{OUT_OF_DATE}"),
                    Err(error) => return tracing::error!(%error, "the tables can't be brought up to date"),
                }
            }
        };
        self.background.spawn(async move {
            stop.run_until_cancelled(prepare).await;
        });
    }

    /// The log is closed last.
    pub async fn close(&self) {
        self.background.drain(Instant::now() + BACKGROUND_GRACE).await;
        self.store.close().await;
        let spool = self.spool.clone();
        if tokio::task::spawn_blocking(move || spool.close()).await.is_err() {
            tracing::error!("the spool did not close in good order; the next start replays its log");
        }
    }
}

async fn open_spool(config: &Config, clock: Arc<dyn Clock>) -> anyhow::Result<Spool> {
    let options = SpoolOptions {
        dir: config.spool.dir.clone(),
        inline_limit: config.spool.inline_limit,
        segment_size: config.spool.segment_size,
        retention: config.spool.retention,
        high_watermark: config.spool.high_watermark,
        critical_watermark: config.spool.critical_watermark,
        sync: config.spool.durability == SpoolDurability::Sync,
        any_file_system: config.spool.any_file_system,
    };
    let opened = tokio::task::spawn_blocking(move || Spool::start(options, clock)).await;
    Ok(opened.context("opening the spool ended early")??)
}

/// The database, without bringing its tables up to date.
pub async fn open_store(config: &Config) -> anyhow::Result<Store> {
    let database = &config.database;
    let password = match &database.password_file {
        Some(file) => Some(
            secret::read(file).map_err(|why| ConfigError::new(format!("database.password_file: {why}")))?,
        ),
        None => None,
    };
    Ok(Store::open(&database.url, password.as_deref(), database.max_connections).await?)
}

enum Tables {
    /// There were none.
    New,
    UpToDate,
    OutOfDate,
}

async fn bring_up_to_date(config: &Config, store: &Store) -> Result<Tables, StoreError> {
    let before = store.migration_status().await?;
    let is_new = before.iter().all(|step| !step.applied);
    if config.database.migrate_on_start {
        store.migrate_up().await?;
        return Ok(if is_new { Tables::New } else { Tables::UpToDate });
    }
    let up_to_date = before.iter().all(|step| step.applied);
    Ok(if up_to_date { Tables::UpToDate } else { Tables::OutOfDate })
}
