//! A lane is everything that belongs to one destination at run time: its work, its breaker, its
//! records. Lanes share nothing but the spool, so one that is stuck slows no other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::attempts::Attempts;
use super::breaker::{Admission, Breaker, Change};
use super::destination::{Destination, Failure, Verdict};
use super::retry::{Patience, RetryPolicy};
use super::verify::Unproven;
use super::verify::catalogue::Lists;
use super::{ForwardOptions, verify};
use crate::clock::{Clock, Millis};
use crate::config::Verify;
use crate::spool::{
    Delivery, Durability, EntryId, Fact, LogPosition, Outcome, Spool, SpoolEntry, SpoolError,
};
use crate::telemetry::metrics;

/// The longest a worker sleeps without looking: a lost wake-up costs this, never an object.
const POLL: Duration = Duration::from_secs(1);
const SHORTEST_NAP: Duration = Duration::from_millis(5);
/// How often deliveries are looked for that a wrong clock has put off.
const LOOK_AHEAD: Duration = Duration::from_secs(30);
/// How often a worker that may not work looks whether it may.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// Outcomes that wait for the projection; more, and the senders wait too.
const MOST_UNSETTLED: usize = 2000;

mod listing;

pub use listing::Course;
use listing::Listing;

pub struct Lane {
    pub destination: Destination,
    pub from_file: bool,
    pub spool: Spool,
    pub clock: Arc<dyn Clock>,
    pub retry: RetryPolicy,
    pub verification: verify::VerificationPolicy,
    pub unproven: Unproven,
    pub lists: Lists,
    /// Nothing new is begun.
    pub stopping: CancellationToken,
    /// What is under way is broken off.
    pub cut_off: CancellationToken,
    paused: AtomicBool,
    attempts: Mutex<Attempts>,
    breaker: Mutex<Breaker>,
    listing: Mutex<Listing>,
    why_down: Mutex<Option<String>>,
    wake: watch::Sender<()>,
    /// One search for work at a time, so that two workers don't find the same.
    searching: tokio::sync::Mutex<()>,
    looked_ahead: Mutex<Option<Instant>>,
    answered: mpsc::Sender<Answered>,
    /// Position after the newest outcome.
    last_answer: AtomicU64,
}

/// An object whose outcome is in the log but perhaps not yet in the projection: it stays in hand
/// until then, or a search for work would find it again.
pub struct Answered {
    work: Taken,
    position: LogPosition,
    sent: bool,
}

/// An object in a worker's hand; dropping it puts it back.
pub struct Taken {
    lane: Arc<Lane>,
    pub delivery: Delivery,
    pub entry: Arc<SpoolEntry>,
    /// Why its UID will be no evidence once it is sent.
    pub doubt: Option<&'static str>,
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.lane.attempts.lock().finish(self.delivery.entry);
    }
}

/// Leave to attempt something; a probe goes alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    Full,
    Probe,
}

impl Lane {
    pub fn new(
        spool: Spool,
        options: &ForwardOptions,
        destination: Destination,
        from_file: bool,
        paused: bool,
    ) -> (Arc<Lane>, mpsc::Receiver<Answered>) {
        let (answered, settling) = mpsc::channel(MOST_UNSETTLED);
        let lane = Arc::new(Lane {
            destination,
            from_file,
            spool,
            clock: Arc::clone(&options.clock),
            retry: options.retry,
            verification: options.verification,
            unproven: Unproven::default(),
            lists: Lists::default(),
            stopping: CancellationToken::new(),
            cut_off: CancellationToken::new(),
            paused: AtomicBool::new(paused),
            attempts: Mutex::new(Attempts::new(options.retry, Instant::now())),
            breaker: Mutex::new(Breaker::new(options.retry)),
            listing: Mutex::default(),
            why_down: Mutex::new(None),
            wake: watch::Sender::new(()),
            searching: tokio::sync::Mutex::new(()),
            looked_ahead: Mutex::new(None),
            answered,
            last_answer: AtomicU64::new(0),
        });
        (lane, settling)
    }

    /// Lets objects out of hand once the projection knows what became of them.
    pub async fn settle(self: Arc<Self>, mut settling: mpsc::Receiver<Answered>) {
        loop {
            let answered = tokio::select! {
                answered = settling.recv() => answered,
                () = self.stopping.cancelled() => return,
            };
            let Some(Answered { work, position, sent }) = answered else { return };
            if self.spool.applied(position).await.is_err() {
                return;
            }
            if sent && self.destination.verify != Verify::None {
                self.unproven.add(work.delivery.entry);
            }
            // Not while a search looks at an older projection.
            let _searching = self.searching.lock().await;
            drop(work);
        }
    }

    pub fn name(&self) -> &str {
        &self.destination.name
    }

    /// There may be work. A hint: workers look by themselves, only later.
    pub fn wake(&self) {
        self.wake.send_replace(());
    }

    pub fn watch(&self) -> watch::Receiver<()> {
        self.wake.subscribe()
    }

    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    pub fn set_paused(&self, paused: bool) {
        self.paused.store(paused, Ordering::Relaxed);
        self.wake();
    }

    /// Whether work may go on, between two objects.
    pub fn may_go_on(&self) -> bool {
        !self.stopping.is_cancelled() && !self.is_paused()
    }

    /// Waits until an attempt may start; `None` when the lane is stopping.
    pub async fn leave(&self) -> Option<Leave> {
        while !self.stopping.is_cancelled() {
            let wait = match self.may_attempt(Instant::now()) {
                Ok(leave) => return Some(leave),
                Err(wait) => wait,
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.stopping.cancelled() => {}
            }
        }
        None
    }

    fn may_attempt(&self, now: Instant) -> Result<Leave, Duration> {
        if self.is_paused() {
            return Err(LOOK_AGAIN);
        }
        match self.breaker.lock().admit(now) {
            Admission::Go => Ok(Leave::Full),
            Admission::Probe => Ok(Leave::Probe),
            // In steps, so that an operator's `echo` that succeeds is noticed soon.
            Admission::WaitUntil(until) => Err(until.saturating_duration_since(now).min(LOOK_AGAIN)),
            Admission::WaitForProbe => Err(LOOK_AGAIN),
        }
    }

    /// A probe found nothing to do.
    pub fn leave_unused(&self, leave: Leave) {
        if leave == Leave::Probe {
            self.breaker.lock().probe_unused(Instant::now());
        }
    }

    /// Takes up to `most` due objects in hand, oldest first.
    pub async fn take(self: &Arc<Self>, most: usize) -> Result<Vec<Taken>, SpoolError> {
        let _searching = self.searching.lock().await;
        // All of them, or what is new would wait behind what is held. `Attempts` bounds it.
        let wanted = most + self.attempts.lock().passed_over();
        let mut due = self.put_off_by_clock(wanted).await?;
        let put_off = !due.is_empty();
        due.extend(self.spool.due(self.name(), self.clock.now(), wanted).await?);
        let mut taken: Vec<Taken> = Vec::new();
        for delivery in due {
            if taken.len() >= most {
                break;
            }
            if let Some(work) = self.take_one(delivery).await? {
                taken.push(work);
            }
        }
        if put_off && !taken.is_empty() {
            // There may be more.
            *self.looked_ahead.lock() = None;
        }
        Ok(self.leave_loners(taken))
    }

    /// Deliveries due so late that no back-off of ours explains it: the clock was set back since
    /// they were written. Looked for now and then.
    async fn put_off_by_clock(&self, most: usize) -> Result<Vec<Delivery>, SpoolError> {
        {
            let mut looked = self.looked_ahead.lock();
            if looked.is_some_and(|at| at.elapsed() < LOOK_AHEAD) {
                return Ok(Vec::new());
            }
            *looked = Some(Instant::now());
        }
        let horizon = self.clock.now().plus(self.retry.longest.saturating_mul(2));
        self.spool.due_after(self.name(), horizon, most).await
    }

    async fn take_one(self: &Arc<Self>, delivery: Delivery) -> Result<Option<Taken>, SpoolError> {
        if !self.attempts.lock().start(delivery.entry, Instant::now()) {
            return Ok(None);
        }
        let entry = self.spool.entry(delivery.entry).await;
        let id = delivery.entry;
        match entry {
            Ok(entry) => Ok(Some(Taken { lane: Arc::clone(self), delivery, entry, doubt: None })),
            Err(error) => {
                // One entry that can't be described must not stop the others.
                self.attempts.lock().finish(id);
                self.attempts.lock().hold(id, Instant::now());
                match error {
                    SpoolError::Unknown(_) | SpoolError::Freed(_) => Ok(None),
                    SpoolError::Damaged { detail, .. } => {
                        metrics::delivery_attempt(self.name(), "unreadable");
                        tracing::error!(destination = self.name(), entry = %id, detail, "an object can't be read for delivery");
                        self.append(id, Outcome::Poisoned { reason: detail }).await?;
                        Ok(None)
                    }
                    error => Err(error),
                }
            }
        }
    }

    /// An object that must go in a request of its own goes first, alone, or waits for its turn.
    fn leave_loners(&self, mut taken: Vec<Taken>) -> Vec<Taken> {
        let attempts = self.attempts.lock();
        let alone = |work: &Taken| attempts.goes_alone(work.delivery.entry);
        let keep = match taken.first() {
            Some(first) if alone(first) => 1,
            _ => taken.iter().position(alone).unwrap_or(taken.len()),
        };
        let put_back = taken.split_off(keep);
        drop(attempts);
        drop(put_back);
        taken
    }

    /// Waits, when the lane has stopped, until the projection knows all that it did: who takes its
    /// place must not do it again.
    pub async fn settled(&self) -> Result<(), SpoolError> {
        self.spool.applied(LogPosition(self.last_answer.load(Ordering::Acquire))).await
    }

    /// How long an idle worker may sleep.
    pub fn nap(&self) -> Duration {
        let now = Instant::now();
        let release = self.attempts.lock().next_release(now);
        let until = release.map_or(POLL, |at| at.saturating_duration_since(now));
        until.clamp(SHORTEST_NAP, POLL)
    }

    /// Records what became of one object. `false`: leave the rest alone, the destination is down.
    pub async fn record(&self, work: Taken, verdict: Verdict) -> Result<bool, SpoolError> {
        let entry = work.delivery.entry;
        let now = Instant::now();
        match verdict {
            Verdict::Taken => {
                let outcome = match work.doubt {
                    Some(reason) => Outcome::SentUnproven { reason: reason.to_owned() },
                    None => Outcome::Sent,
                };
                self.delivered(work, outcome, "sent").await?;
            }
            Verdict::AlreadyThere => {
                let reason = verify::ALREADY_THERE.to_owned();
                self.delivered(work, Outcome::SentUnproven { reason }, "duplicate").await?;
            }
            Verdict::Later(reason) => {
                metrics::delivery_attempt(self.name(), "transient");
                let held = self.attempts.lock().hold(entry, now);
                let change = match held {
                    true => self.breaker.lock().object_failed(now),
                    false => self.breaker.lock().failed(now, None),
                };
                self.tell(change, &reason);
                return Ok(self.breaker.lock().next_try().is_none());
            }
            Verdict::Refused(reason) => return self.refused(work, reason).await,
            Verdict::SendAlone => self.attempts.lock().send_alone(entry),
            // A passing error of the disk: neither the object's fault nor the destination's.
            Verdict::Unreadable(reason) if !self.spool.is_damaged(entry) => {
                tracing::warn!(destination = self.name(), %entry, reason, "an object can't be read just now");
                self.attempts.lock().hold(entry, now);
            }
            Verdict::Unreadable(reason) => {
                metrics::delivery_attempt(self.name(), "unreadable");
                self.attempts.lock().forget(entry);
                tracing::error!(destination = self.name(), %entry, reason, "an object can't be read for delivery");
                self.answered(work, Outcome::Poisoned { reason }).await?;
            }
        }
        Ok(true)
    }

    pub async fn delivered(
        &self,
        work: Taken,
        outcome: Outcome,
        result: &'static str,
    ) -> Result<(), SpoolError> {
        self.attempts.lock().taken(work.delivery.entry, Instant::now());
        self.works();
        metrics::delivery_attempt(self.name(), result);
        let took = self.clock.now().since(work.entry.received_at);
        metrics::delivery_seconds(self.name(), "sent", took.as_secs_f64());
        self.answered(work, outcome).await
    }

    async fn refused(&self, work: Taken, reason: String) -> Result<bool, SpoolError> {
        metrics::delivery_attempt(self.name(), "refused");
        let entry = work.delivery.entry;
        let before = work.delivery.attempts;
        let took_others = self.attempts.lock().refused(entry, before, Instant::now());
        let patience = self.retry.after_refusal(before, took_others);
        let attempts = match patience {
            Patience::Poison => {
                self.attempts.lock().forget(entry);
                tracing::warn!(destination = self.name(), %entry, reason, "object held for a person: refused repeatedly");
                self.answered(work, Outcome::Poisoned { reason }).await?;
                return Ok(true);
            }
            Patience::Defer { attempts } | Patience::BlameDestination { attempts } => attempts,
        };
        let due = self.clock.now().plus(self.retry.random_wait(attempts));
        self.answered(work, Outcome::Deferred { due, attempts, reason: reason.clone() }).await?;
        if let Patience::BlameDestination { .. } = patience {
            self.failed(&Failure::new(format!("refuses every object: {reason}")), None);
            return Ok(false);
        }
        // It talks to us, so what it does not like is the object.
        self.works();
        Ok(true)
    }

    /// Writes the outcome of an attempt, and keeps the object in hand until the projection has it.
    async fn answered(&self, work: Taken, outcome: Outcome) -> Result<(), SpoolError> {
        let sent = matches!(outcome, Outcome::Sent | Outcome::SentUnproven { .. });
        let position = self.append(work.delivery.entry, outcome).await?;
        self.last_answer.fetch_max(position.0, Ordering::AcqRel);
        // Nobody listens any more only when the lane has stopped.
        let _ = self.answered.send(Answered { work, position, sent }).await;
        Ok(())
    }

    /// The destination failed as a whole; or perhaps for `blamed`, which was on its way to it.
    pub fn failed(&self, failure: &Failure, blamed: Option<&Taken>) {
        let now = Instant::now();
        metrics::delivery_attempt(self.name(), "failed");
        let blamed = blamed.filter(|_| failure.during_object);
        let held = blamed.is_some_and(|work| self.attempts.lock().hold(work.delivery.entry, now));
        let change = match held {
            // The next one tells which of the two it was.
            true => self.breaker.lock().object_failed(now),
            false => self.breaker.lock().failed(now, failure.retry_after),
        };
        self.tell(change, &failure.reason);
    }

    /// The destination answers.
    pub fn works(&self) {
        let change = self.breaker.lock().succeeded();
        self.tell(change, "");
    }

    /// Holds an object back that was lost and is sent again, longer each time.
    pub fn hold_lost(&self, entry: EntryId, losses: u32) {
        self.attempts.lock().hold_for(entry, losses, Instant::now());
    }

    /// What is known of earlier attempts does not count any more.
    pub fn begin_anew(&self, entry: EntryId) {
        self.attempts.lock().forget(entry);
        self.unproven.forget(entry);
    }

    /// These went out whole, and no answer came.
    pub fn got_no_answer(&self, entries: impl IntoIterator<Item = EntryId>) {
        let mut attempts = self.attempts.lock();
        entries.into_iter().for_each(|entry| attempts.got_no_answer(entry));
    }

    /// Whether the destination may have it although it did not say so.
    pub fn may_have_arrived(&self, work: &Taken) -> bool {
        self.attempts.lock().may_have_arrived(work.delivery.entry)
    }

    /// These are about to be sent: those of them that may go together.
    pub fn go_out(&self, taken: Vec<Taken>) -> Vec<Taken> {
        {
            let mut attempts = self.attempts.lock();
            taken.iter().for_each(|work| attempts.goes_out(work.delivery.entry));
        }
        self.leave_loners(taken)
    }

    /// These go in requests of their own from now on.
    pub fn send_alone(&self, entries: &[Arc<SpoolEntry>]) {
        let mut attempts = self.attempts.lock();
        entries.iter().for_each(|entry| attempts.send_alone(entry.id));
    }

    fn tell(&self, change: Change, reason: &str) {
        let mut why_down = self.why_down.lock();
        match change {
            Change::None if why_down.is_some() && !reason.is_empty() => *why_down = Some(reason.to_owned()),
            Change::None => {}
            Change::WentDown => {
                tracing::warn!(destination = self.name(), reason, "destination is down; its objects wait");
                *why_down = Some(reason.to_owned());
            }
            Change::CameBack => {
                tracing::info!(destination = self.name(), "destination is up again");
                *why_down = None;
            }
        }
    }

    /// Whether it is up, why not, and when it is tried next.
    pub fn health(&self) -> (bool, Option<String>, Option<Millis>) {
        let (up, next_try) = {
            let breaker = self.breaker.lock();
            (breaker.is_up(), breaker.next_try())
        };
        let wait = next_try.map(|at| at.saturating_duration_since(Instant::now()));
        (up, self.why_down.lock().clone(), wait.map(|wait| self.clock.now().plus(wait)))
    }

    /// Notes what became of a delivery. Losing it in a crash means doing something twice.
    pub async fn append(&self, entry: EntryId, outcome: Outcome) -> Result<LogPosition, SpoolError> {
        let destination = self.name().to_owned();
        let fact = Fact::Delivery { entry, destination, outcome, at: self.clock.now() };
        self.spool.append(vec![fact], Durability::Soon).await
    }
}
