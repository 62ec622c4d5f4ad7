//! The node as a whole, and the only file that sees all of its parts. `relaypacs serve` and the
//! tests start a [`Node`]; commands that find no running node open its [`Foundation`] alone.
//! Parts start in flow order against it (the log before its followers, those before the doors)
//! and drain along it: doors, deliveries, index, log.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::time::Instant;

mod folder_lock;
mod foundation;
mod observe;

pub use folder_lock::{FolderInUse, FolderLock};
pub use foundation::{Foundation, open_store};

use crate::admin::{InForce, Running};
use crate::config::{Config, ConfigError, UnknownSopClasses, secret};
use crate::control;
use crate::dicom::{ScanLimits, TransferSyntaxes};
use crate::forward::{Forward, ForwardError, ForwardOptions, OwnDoors};
use crate::http::{self, HttpState};
use crate::index::{Index, IndexOptions};
use crate::ingest::{Ingest, IngestOptions};
use crate::lifecycle::{Exit, Lifecycle, Stage, StopReason};
use crate::scp::{PeerTable, Scp, ScpContext};
use crate::telemetry::listener;

/// What followers and side doors get at the end of a drain, whatever the doors took of it.
const FOLLOWERS_GRACE: Duration = Duration::from_secs(5);

/// A node that runs.
pub struct Node {
    pub addresses: Addresses,
    pub foundation: Foundation,
    pub running: Running,
    pub lifecycle: Lifecycle,
    stages: Stages,
}

/// Where it listens, with the ports that the system chose.
#[derive(Debug, Clone, Default)]
pub struct Addresses {
    pub dicom: Vec<SocketAddr>,
    pub http: Vec<SocketAddr>,
    pub telemetry: Option<SocketAddr>,
    pub public_url: String,
}

/// What drains together.
#[derive(Default)]
struct Stages {
    doors: Stage,
    index: Stage,
    side: Stage,
}

impl Stages {
    fn abort(&self) {
        for stage in [&self.doors, &self.index, &self.side] {
            stage.abort();
        }
    }
}

struct Listeners {
    dicom: Vec<TcpListener>,
    http: Vec<TcpListener>,
    telemetry: Option<TcpListener>,
}

impl Node {
    /// When this returns, every door is open.
    pub async fn start(config: Config) -> anyhow::Result<Node> {
        let foundation = Foundation::open(config).await?;
        observe::report_recovery(&foundation.spool);
        let listeners = Listeners::bind(&foundation.config).await?;
        let addresses = listeners.addresses(&foundation.config)?;
        let stages = Stages::default();
        let running = start_parts(&foundation, &stages).await?;
        let node = Node { addresses, foundation, running, lifecycle: Lifecycle::default(), stages };
        node.open_side_doors(listeners.telemetry)?;
        node.open_doors(listeners.dicom, listeners.http);
        node.watch_storage();
        node.watch_database();
        Ok(node)
    }

    fn open_doors(&self, dicom: Vec<TcpListener>, http: Vec<TcpListener>) {
        let Foundation { config, .. } = &self.foundation;
        let Running { ingest, index, forward, peers } = self.running.clone();
        let instance = forward.own_doors().instance.clone();
        let (dicom_config, limits) = (Arc::new(config.dicom.clone()), Arc::new(config.limits.clone()));
        let scp = ScpContext::new(ingest.clone(), index.clone(), forward, peers, dicom_config, limits);
        for listener in dicom {
            self.stages.doors.spawn(Scp::serve(listener, scp.clone(), self.stages.doors.shutdown()));
        }
        let state = Arc::new(HttpState {
            ingest,
            index,
            spool: self.foundation.spool.clone(),
            keys: self.foundation.keys.clone(),
            api: http::Api::new(self.foundation.admin(Some(self.running.clone()))),
            public_url: self.addresses.public_url.clone(),
            instance,
            limits: config.limits.clone(),
            part_buffers: http::PartBuffers::default(),
            metadata: http::MetadataMemory::default(),
            dependencies: observe::dependencies(&self.foundation, &self.running),
        });
        for listener in http {
            self.stages.doors.spawn(http::serve(listener, state.clone(), self.stages.doors.shutdown()));
        }
    }

    /// The control socket and the telemetry listener.
    fn open_side_doors(&self, telemetry: Option<TcpListener>) -> anyhow::Result<()> {
        let config = &self.foundation.config;
        let path = control::socket::path(&config.node.data_dir);
        let socket = control::socket::bind(&path).map_err(|error| match error.kind() {
            // Too long: a socket's path has some hundred bytes at most.
            io::ErrorKind::InvalidInput => {
                anyhow::Error::new(ConfigError::new(format!("node.data_dir: {}: {error}", path.display())))
            }
            _ => anyhow::Error::new(error).context(path.display().to_string()),
        })?;
        let routes = control::routes(self.foundation.admin(Some(self.running.clone())));
        self.stages.side.spawn(control::socket::serve(socket, path, routes, self.stages.side.shutdown()));
        let Some(telemetry) = telemetry else { return Ok(()) };
        let token = config.telemetry.token_file.as_deref().map(read_token).transpose()?;
        let gauges = observe::gauges(&self.foundation, &self.running);
        self.stages.side.spawn(listener::serve(telemetry, token, gauges, self.stages.side.shutdown()));
        Ok(())
    }

    fn watch_database(&self) {
        let (store, shutdown) = (self.foundation.store.clone(), self.stages.side.shutdown());
        self.stages.side.spawn(async move {
            shutdown.soft.run_until_cancelled(store.watch()).await;
        });
    }

    /// A spool that failed can promise nothing any more: the node stops, to start anew from what
    /// is on the disk, or, when it has just done so, stays for those who read.
    fn watch_storage(&self) {
        let (mut failure, lifecycle) = (self.foundation.spool.failure(), self.lifecycle.clone());
        let shutdown = self.stages.side.shutdown();
        let (spool, forward) = (self.foundation.spool.clone(), self.running.forward.clone());
        self.stages.side.spawn(async move {
            let failed = tokio::select! {
                failed = failure.wait_for(Option::is_some) => failed.ok().and_then(|why| why.clone()),
                () = shutdown.soft.cancelled() => None,
            };
            let Some(why) = failed else { return };
            if spool.failed_before() {
                tracing::error!(why, "the spool failed again; the node takes and sends nothing any more");
                return forward.stop(Duration::ZERO).await;
            }
            tracing::error!(why, "the spool failed; the node stops");
            lifecycle.stop(StopReason::StorageFailed(why));
            lifecycle.abort();
        });
    }

    /// Serves until told to stop, then drains.
    pub async fn run(self) -> Exit {
        let reason = self.lifecycle.stopped().await;
        let drained = self.shutdown().await;
        match reason {
            StopReason::StorageFailed(_) => Exit::Storage,
            StopReason::Asked => {
                tracing::info!(drained, "stopped");
                Exit::Done
            }
        }
    }

    /// Drains along the flow; true when nothing had to be cut off.
    pub async fn shutdown(self) -> bool {
        let grace = self.foundation.config.limits.drain;
        let deadline = Instant::now() + grace;
        let cut_off = async {
            self.lifecycle.aborted().await;
            self.stages.abort();
            self.running.forward.stop(Duration::ZERO).await;
            std::future::pending::<()>().await;
        };
        let drain = async {
            let doors = self.stages.doors.drain(deadline).await;
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_secs(1));
            self.running.forward.stop(left).await;
            let followers = Instant::now() + FOLLOWERS_GRACE;
            doors & self.stages.index.drain(followers).await & self.stages.side.drain(followers).await
        };
        let drained = tokio::select! {
            drained = drain => drained,
            () = cut_off => false,
        };
        self.foundation.close().await;
        drained
    }
}

/// The parts that move, from the log outwards.
async fn start_parts(foundation: &Foundation, stages: &Stages) -> anyhow::Result<Running> {
    let Foundation { config, clock, store, spool, routing, .. } = foundation;
    let index =
        Index::start(store.clone(), spool.clone(), clock.clone(), index_options(config), &stages.index);
    let in_force = InForce::of(config, routing).await?;
    let peers = PeerTable::new(&in_force.peer_configs())
        .map_err(|error| ConfigError::new(format!("dicom.peers: {error}")))?;
    let mut options = ForwardOptions::new(config.dicom.ae_title[0].clone(), clock.clone());
    options.own_doors = OwnDoors::new(config.dicom.listen.iter().chain(&config.http.listen).copied());
    let forward = match Forward::start(spool.clone(), options, in_force.setup).await {
        Err(ForwardError::Refused(why)) => return Err(ConfigError::new(why).into()),
        started => started?,
    };
    let ingest = Ingest::new(spool.clone(), clock.clone(), ingest_options(config));
    ingest.set_rule_set(forward.rule_set());
    Ok(Running { ingest, index, forward, peers })
}

fn index_options(config: &Config) -> IndexOptions {
    IndexOptions {
        cache_bytes: config.cache.queries,
        max_rows: config.limits.query_results,
        ..IndexOptions::default()
    }
}

fn ingest_options(config: &Config) -> IngestOptions {
    let limits = &config.limits;
    IngestOptions {
        scan: ScanLimits {
            depth: limits.depth,
            elements: limits.elements,
            non_pixel_bytes: limits.non_pixel,
        },
        object_limit: limits.object,
        unknown_sop_classes: config.dicom.unknown_sop_classes == UnknownSopClasses::Accept,
        transfer_syntaxes: TransferSyntaxes::with_private(&config.dicom.private_transfer_syntaxes),
    }
}

fn read_token(file: &Path) -> Result<String, ConfigError> {
    secret::read(file).map_err(|why| ConfigError::new(format!("telemetry.token_file: {why}")))
}

impl Listeners {
    async fn bind(config: &Config) -> anyhow::Result<Listeners> {
        Ok(Listeners {
            dicom: bind_all("dicom.listen", &config.dicom.listen).await?,
            http: bind_all("http.listen", &config.http.listen).await?,
            telemetry: bind_all("telemetry.listen", config.telemetry.listen.as_slice()).await?.pop(),
        })
    }

    fn addresses(&self, config: &Config) -> anyhow::Result<Addresses> {
        let of = |listeners: &[TcpListener]| listeners.iter().map(TcpListener::local_addr).collect();
        let (dicom, http): (std::io::Result<Vec<_>>, std::io::Result<Vec<_>>) =
            (of(&self.dicom), of(&self.http));
        let http = http?;
        let public_url = match (config.http.public_url.as_str(), http.first()) {
            ("", Some(first)) => format!("http://{first}"),
            (configured, _) => configured.to_owned(),
        };
        let telemetry = self.telemetry.as_ref().map(TcpListener::local_addr).transpose()?;
        Ok(Addresses { dicom: dicom?, http, telemetry, public_url })
    }
}

async fn bind_all(key: &str, addresses: &[SocketAddr]) -> anyhow::Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    for address in addresses {
        let listener = TcpListener::bind(address).await;
        listeners.push(listener.with_context(|| format!("{key}: {address}"))?);
    }
    Ok(listeners)
}
