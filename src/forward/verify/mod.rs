//! SENT becomes VERIFIED by proof: storage commitment, or the destination's own answer to a query.
//! One verifier per destination, beside its senders: it never holds a delivery up, and what it
//! can't reach it asks again later.
//!
//! A UID is evidence of our bytes only if no other object with it was ever held here, and the
//! destination neither listed it before our first attempt nor said that it had one; otherwise the
//! object is fetched and compared.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::task::TaskTracker;

pub mod catalogue;
pub mod commitment;
mod comparison;
mod content;
mod data_set;
pub mod find;
pub mod qido;
mod retrieval;
mod unproven;
mod wado;

pub use commitment::{CommitmentReport, ReportOutcome};
pub use unproven::Unproven;

use catalogue::Unanswered;

use super::destination::{Failure, Reach};
use super::lane::Lane;
use crate::config::Verify;
use crate::dicom::Uid;
use crate::spool::{Delivery, DeliveryState, Durability, EntryId, Fact, Outcome, SpoolEntry, SpoolError};
use crate::telemetry::metrics;

/// Why an answer of 0111 is no proof.
pub const ALREADY_THERE: &str = "the destination says that it holds an object with this UID already; whether it is this one is not proven";
/// Why its success is no proof either.
pub const LISTED_BEFORE: &str = "the destination listed an object with this UID before ours was first sent; whether it holds ours is not proven";
pub const NOT_ANSWERED: &str = "the destination did not say, when ours was first sent, whether it lists an object with this UID; whether it holds ours is not proven";
const PROVEN_BY_COMPARISON: &str = "what the destination holds under this UID must be compared again";
const OTHER_HERE: &str = "another object with this UID was received here; a UID alone proves nothing";
const OTHER_THERE: &str = "the destination holds other bytes under this UID";

/// When to ask, and how often.
#[derive(Debug, Clone, Copy)]
pub struct VerificationPolicy {
    /// Objects asked for together; so many are asked for at once.
    pub batch: usize,
    /// How long the first of fewer waits for company.
    pub linger: Duration,
    /// How long an association is kept for the report to come on it.
    pub report_wait: Duration,
    /// Queries that must not find an object before it counts as lost, and the first wait between.
    pub tries: u32,
    pub between_tries: Duration,
    /// How long a destination that offers no commitment is not asked for it again.
    pub without_commitment: Duration,
    /// How often the spool is looked through for objects that nobody asks for.
    pub look: Duration,
}

impl Default for VerificationPolicy {
    fn default() -> Self {
        Self {
            batch: 200,
            linger: Duration::from_secs(2),
            report_wait: Duration::from_secs(10),
            tries: 4,
            between_tries: Duration::from_secs(5),
            without_commitment: Duration::from_secs(3600),
            look: Duration::from_secs(600),
        }
    }
}

/// What asking for some objects came to.
enum Asked {
    /// A report will come.
    Pending,
    /// The destination holds these of them, and not the others.
    Present(HashSet<Uid>),
    /// It does not offer this way of asking.
    NotOffered(String),
}

impl Asked {
    fn of(listed: Result<HashSet<Uid>, Unanswered>) -> Result<Asked, Trouble> {
        match listed {
            Ok(present) => Ok(Asked::Present(present)),
            Err(Unanswered::NotOffered(reason)) => Ok(Asked::NotOffered(reason)),
            Err(Unanswered::Failed(reason)) => Err(Trouble::Failed(reason)),
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("{0}")]
    Failed(String),
    #[error(transparent)]
    Spool(#[from] SpoolError),
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Trouble::Failed(failure.reason)
    }
}

pub fn start(lane: &Arc<Lane>, tasks: &TaskTracker) {
    if lane.destination.verify != Verify::None {
        tasks.spawn(Verifier { lane: Arc::clone(lane), tasks: tasks.clone(), failures: 0 }.run());
    }
}

struct Verifier {
    lane: Arc<Lane>,
    tasks: TaskTracker,
    /// In a row: the verifier backs off for itself, so that a query service that is down does not
    /// stop what is being sent.
    failures: u32,
}

impl Verifier {
    async fn run(mut self) {
        let lane = Arc::clone(&self.lane);
        tokio::select! {
            () = self.work() => {}
            () = lane.stopping.cancelled() => {}
        }
    }

    async fn work(&mut self) {
        let mut looked: Option<Instant> = None;
        loop {
            let overdue = looked.is_none_or(|at| at.elapsed() >= self.lane.verification.look);
            if overdue || self.lane.unproven.take_overflow() {
                match look(&self.lane, looked.is_none()).await {
                    Ok(()) => looked = Some(Instant::now()),
                    Err(error) => self.back_off(&error.into()).await,
                }
            }
            if self.lane.is_paused() {
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            }
            let longest = self.lane.destination.verify_deadline.clamp(MOMENT, Duration::from_secs(5));
            let batch = self.lane.unproven.gather(&self.lane.verification, longest).await;
            if let Err(error) = self.one_round(&batch).await {
                // Everything that has not been settled is asked for again.
                self.lane.unproven.add_later(batch, MOMENT);
                self.back_off(&error).await;
            }
        }
    }

    async fn one_round(&mut self, batch: &[EntryId]) -> Result<(), Trouble> {
        commitment::expire(&self.lane).await?;
        if batch.is_empty() {
            return Ok(());
        }
        self.verify(batch).await?;
        if self.failures > 0 {
            self.failures = 0;
            self.lane.unproven.set_trouble(None);
            tracing::info!(destination = self.lane.name(), "verification goes on");
        }
        Ok(())
    }

    async fn back_off(&mut self, trouble: &Trouble) {
        self.failures = self.failures.saturating_add(1);
        if self.failures == 1 {
            tracing::warn!(destination = self.lane.name(), reason = %trouble, "verification waits");
        }
        self.lane.unproven.set_trouble(Some(trouble.to_string()));
        tokio::time::sleep(self.lane.retry.random_wait(self.failures)).await;
    }

    async fn verify(&self, batch: &[EntryId]) -> Result<(), Trouble> {
        let lane = &self.lane;
        let mut by_commitment = Vec::new();
        let mut by_query = Vec::new();
        let offered = lane.destination.verify == Verify::Commitment
            && matches!(lane.destination.reach, Reach::Dimse(_))
            && lane.unproven.may_ask_for_commitment();
        for id in batch {
            let Some((entry, delivery)) = still_sent(lane, *id).await? else { continue };
            if let Some(reason) = doubt(lane, &entry, &delivery).await? {
                compare(lane, &entry, reason).await?;
            } else if offered && lane.unproven.reports_missed(*id) < REPORTS_MISSED {
                by_commitment.push(entry);
            } else {
                by_query.push(entry);
            }
        }
        if !by_commitment.is_empty() {
            let asked = commitment::ask(lane, &self.tasks, &by_commitment).await?;
            if let Asked::NotOffered(_) = asked {
                lane.unproven.commitment_is_not_offered(lane.verification.without_commitment);
                by_query.append(&mut by_commitment);
            }
        }
        if by_query.is_empty() {
            return Ok(());
        }
        let asked = match &lane.destination.query {
            Some(peer) => qido::ask(peer, &lane.lists, &by_query).await?,
            None => find::ask(lane, &by_query).await?,
        };
        settle(lane, &by_query, asked).await
    }
}

/// Reports that may fail to come before an object is asked for by query.
const REPORTS_MISSED: u32 = 2;
const MOMENT: Duration = Duration::from_millis(100);

/// The entry, if its delivery still waits for proof.
async fn still_sent(lane: &Lane, id: EntryId) -> Result<Option<(Arc<SpoolEntry>, Delivery)>, SpoolError> {
    let deliveries = match lane.spool.deliveries_of(id).await {
        Ok(deliveries) => deliveries,
        Err(SpoolError::Unknown(_) | SpoolError::Freed(_)) => Vec::new(),
        Err(error) => return Err(error),
    };
    let ours = deliveries.into_iter().find(|delivery| delivery.destination == lane.name());
    let Some(delivery) = ours.filter(|delivery| delivery.state == DeliveryState::Sent) else {
        lane.unproven.forget(id);
        return Ok(None);
    };
    match lane.spool.entry(id).await {
        Ok(entry) => Ok(Some((entry, delivery))),
        // Its bytes can't be compared, and it must not hold up the proof of others.
        Err(SpoolError::Damaged { .. }) => {
            lane.unproven.cannot_be_proven(id);
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Why this object's UID is no evidence of its bytes.
async fn doubt(lane: &Lane, entry: &SpoolEntry, delivery: &Delivery) -> Result<Option<String>, SpoolError> {
    if let Some(reason) = &delivery.reason {
        return Ok(Some(reason.clone()));
    }
    if delivery.doubted {
        return Ok(Some(PROVEN_BY_COMPARISON.into()));
    }
    for other in lane.spool.with_sop_instance_uid(&entry.key.sop_instance_uid).await? {
        if other == entry.id {
            continue;
        }
        match lane.spool.entry(other).await {
            Ok(other) if other.data_set_sha256 != entry.data_set_sha256 => {
                return Ok(Some(OTHER_HERE.into()));
            }
            Ok(_) | Err(SpoolError::Unknown(_) | SpoolError::Freed(_)) => {}
            Err(SpoolError::Damaged { .. }) => return Ok(Some(OTHER_HERE.into())),
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Fetches what the destination holds under a doubtful UID, where it can be fetched.
async fn compare(lane: &Lane, entry: &SpoolEntry, doubt: String) -> Result<(), Trouble> {
    use comparison::Compared;
    let compared = match (&lane.destination.query, &lane.destination.reach) {
        (Some(peer), _) => wado::compare(peer, &lane.spool, entry).await?,
        (None, Reach::Dimse(peer)) => retrieval::compare(peer, &lane.spool, entry).await?,
        (None, Reach::Stow(_)) => Compared::Impossible,
    };
    let reason = match compared {
        Compared::Same => return verified(lane, entry, "comparison").await,
        Compared::Absent => return absent(lane, entry).await,
        Compared::Different => OTHER_THERE.to_owned(),
        Compared::Impossible => doubt,
        // One object on which an archive dies must not hold up the proof of the others.
        Compared::BrokenOff(why) if lane.unproven.missed(entry.id) >= lane.verification.tries => {
            format!("{doubt}; it could not be fetched: {why}")
        }
        Compared::BrokenOff(_) => {
            lane.unproven.add_later([entry.id], lane.verification.between_tries);
            return Ok(());
        }
    };
    lane.append(entry.id, Outcome::SentUnproven { reason }).await?;
    lane.unproven.cannot_be_proven(entry.id);
    Ok(())
}

/// Draws the conclusions from an answer to a query.
async fn settle(lane: &Lane, entries: &[Arc<SpoolEntry>], asked: Asked) -> Result<(), Trouble> {
    match asked {
        Asked::Pending => Ok(()),
        Asked::Present(present) => {
            for entry in entries {
                if present.contains(&entry.key.sop_instance_uid) {
                    verified(lane, entry, "query").await?;
                } else {
                    absent(lane, entry).await?;
                }
            }
            Ok(())
        }
        Asked::NotOffered(reason) => {
            // Commitment may still come; otherwise a person sees that nothing proves these.
            let again = lane.destination.verify_deadline.max(Duration::from_secs(1));
            for entry in entries {
                lane.unproven.forget(entry.id);
                lane.unproven.cannot_be_proven(entry.id);
            }
            lane.unproven.add_later(entries.iter().map(|entry| entry.id), again);
            if lane.unproven.offers_nothing(true) {
                let destination = lane.name();
                tracing::warn!(
                    destination,
                    reason,
                    "neither storage commitment nor a query: nothing is proven"
                );
            }
            Ok(())
        }
    }
}

async fn verified(lane: &Lane, entry: &SpoolEntry, by: &str) -> Result<(), Trouble> {
    lane.unproven.proven(entry.id);
    lane.unproven.offers_nothing(false);
    lane.append(entry.id, Outcome::Verified { by: by.to_owned() }).await?;
    let took = lane.clock.now().since(entry.received_at);
    metrics::delivery_seconds(lane.name(), "verified", took.as_secs_f64());
    Ok(())
}

/// The destination does not list it: it may be slow to, so it is asked a few times.
async fn absent(lane: &Lane, entry: &SpoolEntry) -> Result<(), Trouble> {
    let misses = lane.unproven.missed(entry.id);
    if misses < lane.verification.tries {
        let wait = lane.verification.between_tries.saturating_mul(1 << (misses - 1).min(6));
        lane.unproven.add_later([entry.id], wait);
        return Ok(());
    }
    lost(lane, entry.id, "does not hold it").await
}

/// An acknowledged object is not there: it is sent again, each time later.
async fn lost(lane: &Lane, entry: EntryId, why: &str) -> Result<(), Trouble> {
    let losses = lane.unproven.lost(entry);
    if losses == 1 {
        tracing::warn!(destination = lane.name(), %entry, why, "acknowledged, but not kept; it is sent again");
    }
    metrics::delivery_attempt(lane.name(), "lost");
    lane.hold_lost(entry, losses);
    lane.append(entry, Outcome::Requeued).await?;
    Ok(())
}

/// Looks through the spool for what is sent and not proven. At start that is everything,
/// transactions that wait for their report included.
async fn look(lane: &Lane, at_start: bool) -> Result<(), SpoolError> {
    const PAGE: usize = 1000;
    if at_start {
        commitment::restore(lane).await?;
    }
    let known = lane.unproven.known();
    let mut after = None;
    loop {
        let page = lane.spool.deliveries(lane.name(), DeliveryState::Sent, after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(last.entry);
        for delivery in page.iter().filter(|delivery| !known.contains(&delivery.entry)) {
            lane.unproven.add(delivery.entry);
        }
    }
}

/// Closes a transaction in the log.
async fn close(lane: &Lane, transaction_uid: Uid) -> Result<(), SpoolError> {
    let fact = Fact::CommitmentClosed { transaction_uid, at: lane.clock.now() };
    lane.spool.append(vec![fact], Durability::Soon).await?;
    Ok(())
}
