//! A DICOM door on a free port over a real spool, index and ingest in a temporary folder.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use relaypacs::clock::SystemClock;
use relaypacs::config::Config;
use relaypacs::dicom::{TransferSyntaxes, Uid};
use relaypacs::forward::{ConfiguredDestination, Forward, ForwardOptions, Setup};
use relaypacs::index::{Index, IndexOptions};
use relaypacs::ingest::{Ingest, IngestOptions};
use relaypacs::lifecycle::{Shutdown, Stage};
use relaypacs::scp::{PeerTable, Scp, ScpContext};
use relaypacs::spool::{Spool, SpoolOptions};
use relaypacs::store::{Store, dialect::sqlite_url};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::support::spool_options;

pub struct Door {
    pub address: SocketAddr,
    pub spool: Spool,
    pub shutdown: Shutdown,
    pub serving: JoinHandle<()>,
    index: Stage,
    _dir: tempfile::TempDir,
}

impl Drop for Door {
    fn drop(&mut self) {
        self.shutdown.abort();
        self.index.abort();
        self.spool.close();
    }
}

/// Opens a door with the embedded defaults and what `toml` changes of them.
pub async fn open(toml: &str) -> Door {
    open_until(toml, 1.0).await
}

/// As [`open`], with a spool that takes nothing once this share of its file system is used.
pub async fn open_until(toml: &str, critical_watermark: f64) -> Door {
    let config = Config::from_toml(toml).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(SystemClock);
    let options =
        SpoolOptions { high_watermark: critical_watermark, critical_watermark, ..spool_options(dir.path()) };
    let spool = {
        let clock = clock.clone();
        tokio::task::spawn_blocking(move || Spool::start(options, clock)).await.unwrap().unwrap()
    };
    let store = Store::open(&sqlite_url(&dir.path().join("index.db")), None, 2).await.unwrap();
    store.migrate_up().await.unwrap();
    let index_stage = Stage::default();
    let index = Index::start(store, spool.clone(), clock.clone(), IndexOptions::default(), &index_stage);
    let ingest = Ingest::new(
        spool.clone(),
        clock.clone(),
        IngestOptions {
            object_limit: 64 << 20,
            unknown_sop_classes: true,
            transfer_syntaxes: TransferSyntaxes::with_private(&config.dicom.private_transfer_syntaxes),
            ..IngestOptions::default()
        },
    );
    let destinations = config.destinations.iter().cloned();
    let destinations =
        destinations.map(|config| ConfiguredDestination { config, from_file: true, paused: true }).collect();
    let forward = Forward::start(
        spool.clone(),
        ForwardOptions::new(config.dicom.ae_title[0].clone(), clock),
        Setup { destinations, rules: config.rules.clone() },
    )
    .await
    .unwrap();
    let peers = PeerTable::new(&config.dicom.peers).unwrap();
    let context =
        ScpContext::new(ingest, index, forward, peers, Arc::new(config.dicom), Arc::new(config.limits));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = Shutdown::default();
    let serving = tokio::spawn(Scp::serve(listener, context, shutdown.clone()));
    Door { address, spool, shutdown, serving, index: index_stage, _dir: dir }
}

impl Door {
    /// How often the spool holds the object.
    pub async fn held(&self, sop_instance_uid: &str) -> usize {
        let uid = Uid::parse(sop_instance_uid).unwrap();
        self.spool.with_sop_instance_uid(&uid).await.unwrap().len()
    }
}

/// Waits until `condition` holds; panics with `what` when it does not within a generous time.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
