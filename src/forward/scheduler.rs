//! The workers of one destination: each takes due objects in hand, sends them over its own
//! connection, and records what became of them. As many as the destination takes associations.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::task::TaskTracker;

use super::destination::{Failure, Listed, Reach, Transport};
use super::dimse::DimseTransport;
use super::lane::{Course, Lane, Leave, Taken};
use super::stow::StowTransport;
use super::verify;
use crate::spool::{SpoolEntry, SpoolError};

/// How long an idle worker keeps its connection: the next object of a study needs no new one.
const KEEP_CONNECTION: Duration = Duration::from_secs(2);
/// A wake-up may come a moment before the work can be seen: naps begin short and grow.
const FIRST_NAP: Duration = Duration::from_millis(2);

/// Starts the workers of a lane.
pub fn start(lane: &Arc<Lane>, tasks: &TaskTracker) {
    for _ in 0..lane.destination.associations {
        match &lane.destination.reach {
            Reach::Dimse(peer) => spawn(lane, tasks, DimseTransport::new(Arc::clone(lane), peer.clone())),
            Reach::Stow(peer) => spawn(lane, tasks, StowTransport::new(Arc::clone(lane), peer.clone())),
        }
    }
}

fn spawn(lane: &Arc<Lane>, tasks: &TaskTracker, transport: Result<impl Transport, Failure>) {
    match transport {
        Ok(transport) => drop(tasks.spawn(Worker { lane: Arc::clone(lane), transport }.run())),
        Err(failure) => lane.failed(&failure, None),
    }
}

struct Worker<T> {
    lane: Arc<Lane>,
    transport: T,
}

impl<T: Transport> Worker<T> {
    async fn run(mut self) {
        let mut woken = self.lane.watch();
        let mut idle = Idle::new();
        while let Some(leave) = self.lane.leave().await {
            match self.work(leave).await {
                Ok(true) => idle = Idle::new(),
                Ok(false) => {
                    self.lane.leave_unused(leave);
                    let lane = &self.lane;
                    tokio::select! {
                        () = tokio::time::sleep(idle.nap(lane.nap())) => {}
                        _ = woken.changed() => idle.restart_naps(),
                        () = lane.stopping.cancelled() => {}
                    }
                    if idle.since.elapsed() > KEEP_CONNECTION {
                        self.transport.rest().await;
                    }
                }
                Err(error) => {
                    self.lane.leave_unused(leave);
                    if !self.survive(error).await {
                        break;
                    }
                }
            }
        }
        self.transport.rest().await;
    }

    /// Takes work in hand and does it; `false` when there was none.
    async fn work(&mut self, leave: Leave) -> Result<bool, SpoolError> {
        let appetite = if leave == Leave::Probe { 1 } else { self.transport.appetite() };
        let taken = self.lane.take(appetite).await?;
        if taken.is_empty() {
            return Ok(false);
        }
        self.send(taken, leave).await?;
        Ok(true)
    }

    async fn send(&mut self, mut taken: Vec<Taken>, leave: Leave) -> Result<(), SpoolError> {
        if !self.ask_what_is_there(&mut taken).await? {
            return Ok(());
        }
        let mut taken = self.lane.go_out(taken);
        while !taken.is_empty() {
            if !self.lane.may_go_on() {
                self.lane.leave_unused(leave);
                return Ok(());
            }
            let entries: Vec<Arc<SpoolEntry>> = taken.iter().map(|work| Arc::clone(&work.entry)).collect();
            let verdicts = match self.transport.send(&entries).await {
                Ok(verdicts) => verdicts,
                Err(failure) => {
                    self.lane.attempt_failed(&failure, taken.first());
                    // Who takes them next must know what was not listed before this attempt.
                    self.lane.settled().await?;
                    return Ok(());
                }
            };
            let answered = verdicts.len().clamp(1, taken.len());
            for (work, verdict) in taken.drain(..answered).zip(verdicts) {
                if !self.lane.record(work, verdict).await? {
                    // It went down: it gets its connection back before the wait begins.
                    self.transport.rest().await;
                    return Ok(());
                }
            }
        }
        // Nothing above may have told the breaker, where nothing was said about the destination.
        self.lane.leave_unused(leave);
        Ok(())
    }

    /// Asks, before the first attempt with an object, whether something is listed under its UID: only
    /// then is the UID evidence of it later. And after an attempt that got no answer, whether it has
    /// arrived; then it leaves `taken`. `false`: nothing is to be sent for now.
    async fn ask_what_is_there(&mut self, taken: &mut Vec<Taken>) -> Result<bool, SpoolError> {
        match self.lane.course() {
            Course::Believe => return Ok(true),
            Course::Doubt => {
                let unasked = taken.iter_mut().filter(|work| !work.delivery.unlisted);
                unasked.for_each(|work| work.doubt = Some(verify::NOT_ANSWERED));
                return Ok(true);
            }
            Course::Ask => {}
        }
        let lane = &self.lane;
        let unknown = taken.iter().filter(|work| !work.delivery.unlisted || lane.may_have_arrived(work));
        let entries: Vec<Arc<SpoolEntry>> = unknown.map(|work| Arc::clone(&work.entry)).collect();
        if entries.is_empty() {
            return Ok(true);
        }
        let asked = tokio::select! {
            asked = self.transport.listed(&entries) => asked,
            () = self.lane.cut_off.cancelled() => Err(Failure::new("stopping")),
        };
        match asked {
            Ok(Listed::These(uids)) => {
                self.lane.note_arrived(taken, &uids).await?;
                self.lane.note_listed(taken, &uids).await?;
                Ok(true)
            }
            Ok(Listed::NotOffered(reason)) => {
                self.lane.listing_not_offered(&reason);
                Ok(true)
            }
            Ok(Listed::NoAnswer(reason)) => Ok(self.lane.listing_not_answered(taken, reason)),
            Err(failure) => {
                self.lane.failed(&failure, None);
                Ok(false)
            }
        }
    }

    /// The spool did not answer. A closed one ends the worker; anything else may pass.
    async fn survive(&self, error: SpoolError) -> bool {
        if matches!(error, SpoolError::Failed(_)) {
            return false;
        }
        tracing::error!(destination = self.lane.name(), %error, "deliveries wait for the spool");
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(1)) => true,
            () = self.lane.stopping.cancelled() => false,
        }
    }
}

/// Since when a worker found nothing, and how long it sleeps until it looks again.
struct Idle {
    since: Instant,
    next: Duration,
}

impl Idle {
    fn new() -> Idle {
        Idle { since: Instant::now(), next: FIRST_NAP }
    }

    fn restart_naps(&mut self) {
        self.next = FIRST_NAP;
    }

    fn nap(&mut self, longest: Duration) -> Duration {
        let nap = self.next.min(longest);
        self.next = self.next.saturating_mul(4);
        nap
    }
}
