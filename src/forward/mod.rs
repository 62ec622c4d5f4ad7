//! Delivers what was received: rules decide where to, the scheduler when, a transport how.
//! SENT becomes VERIFIED only by proof from the destination (storage commitment or query).
//!
//! `router` follows the log and decides; every destination has a `lane` with its own workers
//! (`scheduler`) and its own verifier (`verify`). The log keeps what must survive a crash: routing
//! decisions, outcomes, commitment transactions. Nothing here frees space or touches SQL.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use sha2::{Digest as _, Sha256};
use thiserror::Error;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

mod attempts;
mod breaker;
pub mod destination;
mod dimse;
mod http;
mod lane;
mod orders;
mod own_doors;
mod progress;
pub mod retry;
mod router;
pub mod rule;
mod scheduler;
mod stow;
mod stow_answer;
mod stow_body;
pub mod verify;

pub use orders::Which;
pub use own_doors::{INSTANCE, OwnDoors};
pub use retry::RetryPolicy;
pub use stow_answer::StowAnswer;
pub use verify::{CommitmentReport, ReportOutcome, VerificationPolicy};

use crate::clock::{Clock, Millis};
use crate::config::{DestinationConfig, RuleConfig, Verify};
use crate::dicom::AeTitle;
use crate::spool::{Counts, DeliveryPolicy, DeliveryState, EntryId, Spool};
use destination::Destination;
use lane::Lane;
use rule::Rules;

/// Cheap to clone.
#[derive(Clone)]
pub struct Forward {
    inner: Arc<Inner>,
}

/// What does not change while the node runs.
pub struct ForwardOptions {
    /// The node's own AE title: calls destinations that name no other.
    pub ae_title: AeTitle,
    /// Never a destination.
    pub own_doors: OwnDoors,
    pub clock: Arc<dyn Clock>,
    pub retry: RetryPolicy,
    pub verification: VerificationPolicy,
}

impl ForwardOptions {
    pub fn new(ae_title: AeTitle, clock: Arc<dyn Clock>) -> Self {
        let own_doors = OwnDoors::new([]);
        let (retry, verification) = (RetryPolicy::default(), VerificationPolicy::default());
        Self { ae_title, own_doors, clock, retry, verification }
    }
}

/// Destinations and rules, those of the file and those of SQL together.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    pub destinations: Vec<ConfiguredDestination>,
    pub rules: Vec<RuleConfig>,
}

#[derive(Debug, Clone)]
pub struct ConfiguredDestination {
    pub config: DestinationConfig,
    pub from_file: bool,
    pub paused: bool,
}

/// A destination as `destination list` and the API show it.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
pub struct DestinationStatus {
    pub name: String,
    /// `dimse`, `stow`, or `gone`: not configured any more.
    pub kind: String,
    pub address: String,
    pub from_file: bool,
    pub paused: bool,
    pub up: bool,
    /// Why it is down, and when it is tried next.
    pub reason: Option<String>,
    #[serde(with = "crate::clock::rfc3339::option")]
    pub next_try: Option<Millis>,
    pub queued: u64,
    pub sent: u64,
    pub verified: u64,
    pub deferred: u64,
    pub poisoned: u64,
}

/// States in which an object waits for a destination.
const OPEN: [DeliveryState; 4] =
    [DeliveryState::Queued, DeliveryState::Sent, DeliveryState::Deferred, DeliveryState::Poisoned];

impl DestinationStatus {
    /// What waits for destinations that are not `known`.
    pub fn gone(counts: &Counts, known: impl Fn(&str) -> bool) -> Vec<DestinationStatus> {
        let unknown = counts.deliveries.keys().filter(|name| !known(name));
        let awaited = unknown.filter(|name| OPEN.iter().any(|state| counts.of(name, *state) > 0));
        let gone = awaited.map(|name| DestinationStatus {
            kind: "gone".to_owned(),
            address: "not configured".to_owned(),
            reason: Some(format!(
                "configure it again, or give up what waits for it: `relaypacs destination cancel {name} --all`"
            )),
            ..DestinationStatus::default().counted(name, counts)
        });
        gone.collect()
    }

    /// With its name, and how its deliveries stand.
    pub fn counted(self, name: &str, counts: &Counts) -> DestinationStatus {
        let count = |state| counts.of(name, state);
        DestinationStatus {
            name: name.to_owned(),
            queued: count(DeliveryState::Queued),
            sent: count(DeliveryState::Sent),
            verified: count(DeliveryState::Verified),
            deferred: count(DeliveryState::Deferred),
            poisoned: count(DeliveryState::Poisoned),
            ..self
        }
    }
}

#[derive(Debug, Error)]
pub enum ForwardError {
    #[error("no destination is called {0}")]
    UnknownDestination(String),
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Spool(#[from] crate::spool::SpoolError),
}

/// What a destination whose settings change may finish with its old ones.
const GRACE: Duration = Duration::from_secs(10);

struct Inner {
    spool: Spool,
    clock: Arc<dyn Clock>,
    options: ForwardOptions,
    rules: RwLock<Rules>,
    /// Version of rules and destinations, for the entries acknowledged under them.
    rule_set: AtomicU64,
    lanes: RwLock<BTreeMap<String, Running>>,
    /// One change of the setup at a time; also held by who gives a destination deliveries by hand.
    changing: tokio::sync::Mutex<()>,
    /// Held from a decision of the rules until the projection has it: a destination is found to be
    /// without deliveries only while none is on its way to it.
    deciding: tokio::sync::Mutex<()>,
    unrouted: AtomicU64,
    stopping: CancellationToken,
    router: TaskTracker,
}

#[derive(Clone)]
struct Running {
    lane: Arc<Lane>,
    tasks: TaskTracker,
}

impl Inner {
    fn lane(&self, name: &str) -> Result<Arc<Lane>, ForwardError> {
        let lanes = self.lanes.read();
        let running = lanes.get(name).ok_or_else(|| ForwardError::UnknownDestination(name.to_owned()))?;
        Ok(Arc::clone(&running.lane))
    }

    fn all(&self) -> Vec<Running> {
        self.lanes.read().values().cloned().collect()
    }

    fn wake(&self, names: &BTreeSet<String>) {
        let lanes = self.lanes.read();
        for running in names.iter().filter_map(|name| lanes.get(name)) {
            running.lane.wake();
        }
    }

    fn prove_again(&self, name: &str, entry: EntryId) {
        let lanes = self.lanes.read();
        if let Some(running) =
            lanes.get(name).filter(|running| running.lane.destination.verify != Verify::None)
        {
            running.lane.unproven.add(entry);
        }
    }

    fn count_unrouted(&self) {
        self.unrouted.fetch_add(1, Ordering::Relaxed);
    }

    fn start_lane(&self, wanted: Wanted) -> Running {
        let Wanted { destination, from_file, paused } = wanted;
        let (lane, settling) = Lane::new(self.spool.clone(), &self.options, destination, from_file, paused);
        let tasks = TaskTracker::new();
        tasks.spawn(Arc::clone(&lane).settle(settling));
        scheduler::start(&lane, &tasks);
        verify::start(&lane, &tasks);
        Running { lane, tasks }
    }
}

impl Running {
    /// Attempts under way may end within `grace`; then they are broken off.
    async fn stop(&self, grace: Duration) {
        self.lane.stopping.cancel();
        self.tasks.close();
        if tokio::time::timeout(grace, self.tasks.wait()).await.is_err() {
            self.lane.cut_off.cancel();
            let _ = tokio::time::timeout(Duration::from_secs(2), self.tasks.wait()).await;
        }
    }
}

impl Forward {
    /// Begins to route and deliver. Refuses a setup that does not make sense.
    pub async fn start(spool: Spool, options: ForwardOptions, setup: Setup) -> Result<Forward, ForwardError> {
        let position = spool.route_cursor();
        let inner = Arc::new(Inner {
            clock: Arc::clone(&options.clock),
            spool,
            options,
            rules: RwLock::default(),
            rule_set: AtomicU64::new(0),
            lanes: RwLock::default(),
            changing: tokio::sync::Mutex::default(),
            deciding: tokio::sync::Mutex::default(),
            unrouted: AtomicU64::new(0),
            stopping: CancellationToken::new(),
            router: TaskTracker::new(),
        });
        let forward = Forward { inner };
        forward.replace(setup).await?;
        for gone in forward.gone() {
            tracing::warn!(
                destination = gone.name,
                "deliveries wait for a destination that is not configured"
            );
        }
        forward.inner.router.spawn(router::run(Arc::clone(&forward.inner), position));
        forward.inner.router.close();
        Ok(forward)
    }

    /// Destinations that the file does not name any more and that deliveries still wait for. They hold their objects.
    fn gone(&self) -> Vec<DestinationStatus> {
        let counts = self.inner.spool.counts();
        let lanes = self.inner.lanes.read();
        DestinationStatus::gone(&counts, |name| lanes.contains_key(name))
    }

    /// Puts another setup in force. Destinations whose settings did not change keep their
    /// connections. A destination with open deliveries can't be left out.
    pub async fn replace(&self, setup: Setup) -> Result<(), ForwardError> {
        let inner = &self.inner;
        let _alone = inner.changing.lock().await;
        let version = setup.version();
        let rules = setup.rules()?;
        let mut wanted = setup.checked(&inner.options)?;
        let deciding = inner.deciding.lock().await;
        for running in inner.all() {
            if !wanted.contains_key(running.lane.name()) {
                self.refuse_if_open(&running.lane).await?;
            }
        }
        // From here on it succeeds: nothing new is routed to what goes, then it stops.
        *inner.rules.write() = rules;
        drop(deciding);
        inner.rule_set.store(version, Ordering::Relaxed);
        inner
            .spool
            .set_policies(wanted.iter().map(|(name, wanted)| (name.clone(), wanted.policy())).collect());
        for running in inner.all() {
            let name = running.lane.name().to_owned();
            if wanted.get(&name).is_some_and(|wanted| wanted.is(&running.lane)) {
                wanted.remove(&name);
                continue;
            }
            inner.lanes.write().remove(&name);
            running.stop(GRACE).await;
            running.lane.settled().await?;
        }
        for (name, wanted) in wanted {
            let running = inner.start_lane(wanted);
            inner.lanes.write().insert(name, running);
        }
        Ok(())
    }

    async fn refuse_if_open(&self, lane: &Lane) -> Result<(), ForwardError> {
        let sent_is_open = lane.destination.verify != Verify::None;
        for state in OPEN.into_iter().filter(|state| sent_is_open || *state != DeliveryState::Sent) {
            if !self.inner.spool.deliveries(lane.name(), state, None, 1).await?.is_empty() {
                return Err(ForwardError::Refused(format!(
                    "destination {:?} has open deliveries; let them finish, or give them up with `relaypacs destination cancel {} --all`",
                    lane.name(),
                    lane.name()
                )));
            }
        }
        Ok(())
    }

    /// Stops routing and delivering. Attempts under way may end within `grace`.
    pub async fn stop(&self, grace: Duration) {
        self.inner.stopping.cancel();
        let lanes = self.inner.all();
        let stops = lanes.iter().map(|running| running.stop(grace));
        futures_util::future::join_all(stops).await;
        self.inner.router.wait().await;
    }

    pub fn own_doors(&self) -> &OwnDoors {
        &self.inner.options.own_doors
    }

    /// Names the rules and destinations in force; the same setup has the same number.
    pub fn rule_set(&self) -> u64 {
        self.inner.rule_set.load(Ordering::Relaxed)
    }

    /// Objects since the start that no destination took.
    pub fn unrouted(&self) -> u64 {
        self.inner.unrouted.load(Ordering::Relaxed)
    }

    /// A destination's report about a transaction; matched to our open ones.
    pub async fn commitment_report(&self, report: CommitmentReport) -> ReportOutcome {
        for running in self.inner.all() {
            if running.lane.destination.ae_title() == Some(&report.from)
                && verify::commitment::take_report(&running.lane, &report).await == ReportOutcome::Taken
            {
                return ReportOutcome::Taken;
            }
        }
        ReportOutcome::Unknown
    }

    /// Whether this AE title is a destination of ours that may open an association to report
    /// storage commitment.
    pub fn may_report(&self, ae_title: &AeTitle) -> bool {
        let lanes = self.inner.lanes.read();
        lanes.values().any(|running| {
            let destination = &running.lane.destination;
            destination.verify == Verify::Commitment && destination.ae_title() == Some(ae_title)
        })
    }

    /// Those that are configured, then those that are gone while deliveries wait for them.
    pub fn destinations(&self) -> Vec<DestinationStatus> {
        let configured = self.inner.all();
        configured.iter().map(|running| status(&running.lane)).chain(self.gone()).collect()
    }

    /// Begins nothing new for this destination until it is resumed.
    pub fn pause(&self, name: &str) -> Result<(), ForwardError> {
        self.inner.lane(name)?.set_paused(true);
        Ok(())
    }

    pub fn resume(&self, name: &str) -> Result<(), ForwardError> {
        self.inner.lane(name)?.set_paused(false);
        Ok(())
    }

    /// Connects and asks for nothing (C-ECHO, or QIDO with limit=1): `Ok` says how it went. A
    /// destination that answers is tried again at once.
    pub async fn echo(&self, name: &str) -> Result<String, ForwardError> {
        let lane = self.inner.lane(name)?;
        let answer = match &lane.destination.reach {
            destination::Reach::Dimse(peer) => dimse::echo(peer).await,
            destination::Reach::Stow(peer) => http::echo(peer).await,
        };
        match answer {
            Ok(answer) => {
                lane.works();
                lane.wake();
                Ok(answer)
            }
            Err(failure) => Err(ForwardError::Refused(failure.reason)),
        }
    }
}

fn status(lane: &Lane) -> DestinationStatus {
    let (up, reason, next_try) = lane.health();
    let status = DestinationStatus {
        kind: lane.destination.kind().to_owned(),
        address: lane.destination.address(),
        from_file: lane.from_file,
        paused: lane.is_paused(),
        up,
        reason: reason.or_else(|| lane.unproven.remark()),
        next_try,
        ..DestinationStatus::default()
    };
    status.counted(lane.name(), &lane.spool.counts())
}

/// A destination of a new setup, checked.
struct Wanted {
    destination: Destination,
    from_file: bool,
    paused: bool,
}

impl Wanted {
    /// Whether this lane serves it already.
    fn is(&self, lane: &Lane) -> bool {
        self.from_file == lane.from_file && same_settings(&self.destination.config, &lane.destination.config)
    }

    fn policy(&self) -> DeliveryPolicy {
        DeliveryPolicy {
            required: self.destination.config.required,
            success_is_proof: self.destination.verify == Verify::None,
        }
    }
}

impl Setup {
    fn rules(&self) -> Result<Rules, ForwardError> {
        let names = self.destinations.iter().map(|configured| configured.config.name.clone());
        Rules::new(names.collect(), self.rules.clone()).map_err(ForwardError::Refused)
    }

    fn checked(self, options: &ForwardOptions) -> Result<BTreeMap<String, Wanted>, ForwardError> {
        let mut checked = BTreeMap::new();
        for ConfiguredDestination { config, from_file, paused } in self.destinations {
            let destination = Destination::new(config, &options.ae_title, &options.own_doors)
                .map_err(ForwardError::Refused)?;
            let name = destination.name.clone();
            if checked.insert(name.clone(), Wanted { destination, from_file, paused }).is_some() {
                return Err(ForwardError::Refused(format!("two destinations are called {name:?}")));
            }
        }
        Ok(checked)
    }

    /// The same rules and destinations have the same version, also after a restart.
    fn version(&self) -> u64 {
        let names: Vec<&str> =
            self.destinations.iter().map(|configured| configured.config.name.as_str()).collect();
        let written = serde_json::to_vec(&(names, &self.rules)).unwrap_or_default();
        let digest = Sha256::digest(written);
        let first: [u8; 8] = std::array::from_fn(|at| digest[at]);
        // SQL and JSON readers keep 63 bits at most exactly; 53 survive everywhere.
        u64::from_be_bytes(first) >> 11
    }
}

fn same_settings(one: &DestinationConfig, other: &DestinationConfig) -> bool {
    serde_json::to_value(one).ok() == serde_json::to_value(other).ok()
}
