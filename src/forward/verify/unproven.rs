//! What one destination still has to prove: objects sent and not yet asked for, transactions that
//! wait for their report. In memory; at start it is filled from the log's projection.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::VerificationPolicy;
use crate::dicom::Uid;
use crate::spool::EntryId;

/// Entries remembered at most; beyond that they are found again by the next look into the spool.
const MOST_WAITING: usize = 100_000;

/// Associations kept open at a time for a report to come on them.
const MOST_KEPT_ASSOCIATIONS: usize = 4;

#[derive(Debug)]
pub struct Unproven {
    state: Mutex<State>,
    added: Notify,
    closing: Notify,
    kept_associations: Arc<Semaphore>,
}

impl Default for Unproven {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            added: Notify::default(),
            closing: Notify::default(),
            kept_associations: Arc::new(Semaphore::new(MOST_KEPT_ASSOCIATIONS)),
        }
    }
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<EntryId>,
    /// When the first of `waiting` came.
    since: Option<Instant>,
    /// To be asked for again at a later time.
    later: BTreeSet<(Instant, EntryId)>,
    open: HashMap<Uid, Transaction>,
    /// How often a destination did not list it, in a row.
    misses: HashMap<EntryId, u32>,
    /// How often a report did not come in time.
    missed_reports: HashMap<EntryId, u32>,
    /// How often it was lost there and sent again.
    losses: HashMap<EntryId, u32>,
    /// Sent, and without any way to prove it.
    unprovable: HashSet<EntryId>,
    /// Some were turned away for lack of room.
    overflowed: bool,
    /// Until then, storage commitment is not asked for: the destination does not offer it.
    no_commitment_until: Option<Instant>,
    /// Why nothing can be asked for now.
    trouble: Option<String>,
    /// The destination has no way to prove anything.
    offers_nothing: bool,
}

#[derive(Debug, Clone)]
pub struct Transaction {
    pub entries: Vec<EntryId>,
    pub deadline: Instant,
}

/// What a report has settled of a transaction.
pub struct Reported {
    pub entries: Vec<EntryId>,
    pub is_closed: bool,
}

impl Unproven {
    pub fn add(&self, entry: EntryId) {
        let mut state = self.state.lock();
        if state.waiting.len() >= MOST_WAITING {
            state.overflowed = true;
            return;
        }
        state.since.get_or_insert_with(Instant::now);
        state.waiting.push_back(entry);
        drop(state);
        self.added.notify_one();
    }

    pub fn add_later(&self, entries: impl IntoIterator<Item = EntryId>, after: Duration) {
        let at = Instant::now() + after;
        let mut state = self.state.lock();
        for entry in entries {
            if state.later.len() >= MOST_WAITING {
                state.overflowed = true;
                return;
            }
            state.later.insert((at, entry));
        }
        drop(state);
        self.added.notify_one();
    }

    /// What waits here in any way, so that a look into the spool need not add it.
    pub fn known(&self) -> HashSet<EntryId> {
        let state = self.state.lock();
        let open = state.open.values().flat_map(|transaction| transaction.entries.iter());
        let later = state.later.iter().map(|(_, entry)| entry);
        state.waiting.iter().chain(open).chain(later).chain(&state.unprovable).copied().collect()
    }

    /// The next objects to ask for: a batch, or fewer once the first has waited long enough.
    /// Empty after `longest`.
    pub async fn gather(&self, policy: &VerificationPolicy, longest: Duration) -> Vec<EntryId> {
        let until = Instant::now() + longest;
        loop {
            let added = self.added.notified();
            let now = Instant::now();
            let wait = match self.take(policy, now) {
                Ok(batch) => return batch,
                Err(_) if now >= until => return Vec::new(),
                Err(wait) => wait.min(until - now),
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = added => {}
            }
        }
    }

    fn take(&self, policy: &VerificationPolicy, now: Instant) -> Result<Vec<EntryId>, Duration> {
        const LONGEST_WAIT: Duration = Duration::from_secs(60);
        let mut state = self.state.lock();
        while let Some((at, entry)) = state.later.first().copied().filter(|(at, _)| *at <= now) {
            state.later.remove(&(at, entry));
            // It has waited already.
            state.since.get_or_insert(at.checked_sub(policy.linger).unwrap_or(at));
            state.waiting.push_back(entry);
        }
        let waited = state.since.map(|since| now.saturating_duration_since(since));
        let ripe = waited.is_some_and(|waited| waited >= policy.linger);
        if state.waiting.len() < policy.batch && !ripe {
            let linger = waited.map_or(LONGEST_WAIT, |waited| policy.linger.saturating_sub(waited));
            let next_later = state.later.first().map(|(at, _)| at.saturating_duration_since(now));
            let wait = linger.min(next_later.unwrap_or(LONGEST_WAIT));
            return Err(wait.max(Duration::from_millis(1)));
        }
        let count = state.waiting.len().min(policy.batch);
        let batch = state.waiting.drain(..count).collect();
        state.since = (!state.waiting.is_empty()).then_some(now);
        Ok(batch)
    }

    pub fn opened(&self, transaction_uid: Uid, transaction: Transaction) {
        self.state.lock().open.insert(transaction_uid, transaction);
    }

    /// Takes a transaction out: whoever gets it deals with it, alone.
    pub fn close(&self, transaction_uid: &Uid) -> Option<Transaction> {
        let transaction = self.state.lock().open.remove(transaction_uid);
        self.closing.notify_waiters();
        transaction
    }

    /// Takes what a report names out of a transaction; with the last of it the transaction is
    /// closed. `None` when it is not open.
    pub fn report(&self, transaction_uid: &Uid, named: &HashSet<EntryId>) -> Option<Reported> {
        let mut state = self.state.lock();
        let open = state.open.get_mut(transaction_uid)?;
        let (taken, left): (Vec<_>, Vec<_>) = open.entries.drain(..).partition(|entry| named.contains(entry));
        open.entries = left;
        let is_closed = open.entries.is_empty();
        if is_closed {
            state.open.remove(transaction_uid);
            self.closing.notify_waiters();
        }
        Some(Reported { entries: taken, is_closed })
    }

    /// The entries of an open transaction.
    pub fn entries_of(&self, transaction_uid: &Uid) -> Option<Vec<EntryId>> {
        self.state.lock().open.get(transaction_uid).map(|open| open.entries.clone())
    }

    /// Resolves once the transaction is not open any more.
    pub async fn closed(&self, transaction_uid: &Uid) {
        loop {
            let closing = self.closing.notified();
            if !self.is_open(transaction_uid) {
                return;
            }
            closing.await;
        }
    }

    pub fn is_open(&self, transaction_uid: &Uid) -> bool {
        self.state.lock().open.contains_key(transaction_uid)
    }

    /// Transactions whose report did not come in time, taken out.
    pub fn expired(&self, now: Instant) -> Vec<(Uid, Transaction)> {
        self.state.lock().open.extract_if(|_, open| open.deadline <= now).collect()
    }

    /// Counts that it was not listed; returns how often so far.
    pub fn missed(&self, entry: EntryId) -> u32 {
        count(&mut self.state.lock().misses, entry)
    }

    pub fn miss_report(&self, entry: EntryId) {
        count(&mut self.state.lock().missed_reports, entry);
    }

    pub fn reports_missed(&self, entry: EntryId) -> u32 {
        self.state.lock().missed_reports.get(&entry).copied().unwrap_or(0)
    }

    /// Counts that it was lost and goes again; returns how often so far.
    pub fn lost(&self, entry: EntryId) -> u32 {
        self.forget(entry);
        count(&mut self.state.lock().losses, entry)
    }

    /// Begins anew with it.
    pub fn forget(&self, entry: EntryId) {
        let mut state = self.state.lock();
        state.misses.remove(&entry);
        state.missed_reports.remove(&entry);
        state.unprovable.remove(&entry);
    }

    pub fn proven(&self, entry: EntryId) {
        self.forget(entry);
        self.state.lock().losses.remove(&entry);
    }

    /// Leave to keep an association for its report.
    pub fn keep_association(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.kept_associations).try_acquire_owned().ok()
    }

    /// Notes whether the destination has a way to prove what it holds; `true` if that is news.
    pub fn offers_nothing(&self, nothing: bool) -> bool {
        std::mem::replace(&mut self.state.lock().offers_nothing, nothing) != nothing
    }

    pub fn set_trouble(&self, trouble: Option<String>) {
        self.state.lock().trouble = trouble;
    }

    pub fn cannot_be_proven(&self, entry: EntryId) {
        let mut state = self.state.lock();
        if state.unprovable.len() < MOST_WAITING {
            state.unprovable.insert(entry);
        }
    }

    pub fn commitment_is_not_offered(&self, pause: Duration) {
        self.state.lock().no_commitment_until = Some(Instant::now() + pause);
    }

    pub fn may_ask_for_commitment(&self) -> bool {
        let until = self.state.lock().no_commitment_until;
        until.is_none_or(|until| until <= Instant::now())
    }

    /// Whether some were turned away since the last time this was asked.
    pub fn take_overflow(&self) -> bool {
        std::mem::take(&mut self.state.lock().overflowed)
    }

    /// For people, when something can't be proven.
    pub fn remark(&self) -> Option<String> {
        let state = self.state.lock();
        if let Some(trouble) = &state.trouble {
            return Some(format!("verification waits: {trouble}"));
        }
        let count = state.unprovable.len();
        (count > 0).then(|| format!("{count} sent objects can't be proven to be there as we sent them"))
    }
}

/// Counts, in bounded memory: forgetting means asking once more.
fn count(counts: &mut HashMap<EntryId, u32>, entry: EntryId) -> u32 {
    if counts.len() >= MOST_WAITING {
        counts.clear();
    }
    let count = counts.entry(entry).or_default();
    *count = count.saturating_add(1);
    *count
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(batch: usize) -> VerificationPolicy {
        VerificationPolicy { batch, linger: Duration::from_secs(2), ..VerificationPolicy::default() }
    }

    #[test]
    fn a_batch_goes_at_once_and_less_than_that_after_a_while() {
        let unproven = Unproven::default();
        let now = Instant::now();
        assert!(unproven.take(&policy(3), now).is_err());
        unproven.add(EntryId(1));
        unproven.add(EntryId(2));
        assert!(unproven.take(&policy(3), now).unwrap_err() <= Duration::from_secs(2));
        assert_eq!(unproven.take(&policy(2), now).unwrap(), [EntryId(1), EntryId(2)]);
        unproven.add(EntryId(3));
        let later = Instant::now() + Duration::from_secs(3);
        assert_eq!(unproven.take(&policy(2), later).unwrap(), [EntryId(3)]);
    }

    #[test]
    fn what_was_put_off_comes_back_in_its_time() {
        let unproven = Unproven::default();
        unproven.add_later([EntryId(1), EntryId(2)], Duration::from_secs(5));
        assert!(unproven.take(&policy(200), Instant::now()).is_err());
        let later = Instant::now() + Duration::from_secs(6);
        assert_eq!(unproven.take(&policy(200), later).unwrap(), [EntryId(1), EntryId(2)]);
    }

    #[test]
    fn a_report_about_others_or_some_leaves_the_rest_of_the_transaction_open() {
        let unproven = Unproven::default();
        let uid = Uid::parse("2.25.1").unwrap();
        let entries = vec![EntryId(1), EntryId(2)];
        unproven.opened(uid.clone(), Transaction { entries, deadline: Instant::now() });
        let nobody = unproven.report(&uid, &HashSet::new()).unwrap();
        assert!(nobody.entries.is_empty() && !nobody.is_closed);
        let one = unproven.report(&uid, &HashSet::from([EntryId(2), EntryId(9)])).unwrap();
        assert!(one.entries == [EntryId(2)] && !one.is_closed);
        let rest = unproven.report(&uid, &HashSet::from([EntryId(1)])).unwrap();
        assert!(rest.entries == [EntryId(1)] && rest.is_closed);
        assert!(unproven.report(&uid, &HashSet::new()).is_none());
    }

    #[test]
    fn a_transaction_is_dealt_with_once() {
        let unproven = Unproven::default();
        let uid = Uid::parse("2.25.1").unwrap();
        let deadline = Instant::now();
        unproven.opened(uid.clone(), Transaction { entries: vec![EntryId(1)], deadline });
        assert!(unproven.known().contains(&EntryId(1)));
        assert_eq!(unproven.expired(deadline).len(), 1);
        assert!(unproven.close(&uid).is_none());
    }
}
