//! Applies facts to the queue: the one writer of the projection. Recovery and the running node
//! use the same code.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sled::Batch;

use super::OpenCommitment;
use super::entry::{Delivery, DeliveryState, EntryId, Fact, LogPosition};
use super::queue::{self, Queue, QueueError};
use super::state::{EntryState, Place};

/// A durable record on its way into the projection.
#[derive(Debug, Clone)]
pub struct Published {
    pub fact: Arc<Fact>,
    pub sequence: u64,
    pub place: Place,
    pub after: LogPosition,
    pub large: Option<String>,
    /// Set when the record is a copy: the state it carried forward.
    pub copied: Option<EntryState>,
}

/// How much is held and how deliveries stand; kept up to date with every batch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub objects: u64,
    pub bytes: u64,
    pub unrouted: u64,
    pub conflicts: u64,
    pub deliveries: BTreeMap<String, BTreeMap<String, u64>>,
}

impl Counts {
    pub fn of(&self, destination: &str, state: DeliveryState) -> u64 {
        let states = self.deliveries.get(destination);
        states.and_then(|states| states.get(state_name(state))).copied().unwrap_or(0)
    }

    fn change(&mut self, state: &EntryState, add: bool) {
        let step = |count: &mut u64, by: u64| {
            *count = if add { *count + by } else { count.saturating_sub(by) };
        };
        step(&mut self.objects, 1);
        step(&mut self.bytes, state.size);
        if state.conflict {
            step(&mut self.conflicts, 1);
        }
        if state.routed && state.deliveries.is_empty() {
            step(&mut self.unrouted, 1);
        }
        for delivery in &state.deliveries {
            let states = self.deliveries.entry(delivery.destination.clone()).or_default();
            step(states.entry(state_name(delivery.state).to_owned()).or_default(), 1);
        }
    }
}

/// The key of a delivery: destination, state, and when it is due.
pub struct DeliveryKey;

impl DeliveryKey {
    pub fn prefix(destination: &str, state: DeliveryState) -> Vec<u8> {
        let mut key = b"d".to_vec();
        key.extend(destination.as_bytes());
        key.push(0);
        key.push(state_code(state));
        key
    }

    pub fn of(delivery: &Delivery) -> Vec<u8> {
        let due = match delivery.state {
            DeliveryState::Queued | DeliveryState::Deferred => delivery.due.0,
            _ => 0,
        };
        let mut key = Self::prefix(&delivery.destination, delivery.state);
        key.extend(due.to_be_bytes());
        key.extend(delivery.entry.0.to_be_bytes());
        key
    }
}

fn state_code(state: DeliveryState) -> u8 {
    match state {
        DeliveryState::Queued => b'q',
        DeliveryState::Sent => b's',
        DeliveryState::Verified => b'v',
        DeliveryState::Deferred => b'f',
        DeliveryState::Poisoned => b'p',
        DeliveryState::Cancelled => b'c',
    }
}

fn state_name(state: DeliveryState) -> &'static str {
    match state {
        DeliveryState::Queued => "queued",
        DeliveryState::Sent => "sent",
        DeliveryState::Verified => "verified",
        DeliveryState::Deferred => "deferred",
        DeliveryState::Poisoned => "poisoned",
        DeliveryState::Cancelled => "cancelled",
    }
}

/// What a batch has changed so far: the state before it, and after.
#[derive(Default)]
struct Overlay {
    before: HashMap<EntryId, Option<EntryState>>,
    after: HashMap<EntryId, Option<EntryState>>,
}

impl Overlay {
    fn state(&mut self, queue: &Queue, id: EntryId) -> Result<&mut Option<EntryState>, QueueError> {
        if !self.after.contains_key(&id) {
            let state = queue.state(id)?;
            self.before.insert(id, state.clone());
            self.after.insert(id, state);
        }
        Ok(self.after.entry(id).or_default())
    }
}

/// What applying a batch asks the caller to do outside the queue.
#[derive(Debug, Default)]
pub struct Consequences {
    /// Large files whose entries were purged.
    pub freed_files: Vec<String>,
}

/// Applies records in log order as one atomic batch. Before the caller lets the position move past
/// a purge, it removes the files named in the consequences: `before_commit` does that.
pub fn apply(
    queue: &Queue,
    records: &[Published],
    before_commit: impl FnOnce(&Consequences) -> std::io::Result<()>,
) -> Result<(), QueueError> {
    let Some(last) = records.last() else { return Ok(()) };
    let mut overlay = Overlay::default();
    let mut batch = Batch::default();
    let mut consequences = Consequences::default();
    for record in records {
        apply_one(queue, record, &mut overlay, &mut batch, &mut consequences)?;
    }
    let mut counts = queue.counts();
    for (id, after) in &overlay.after {
        let before = overlay.before.get(id).and_then(Option::as_ref);
        write_difference(&mut batch, before, after.as_ref())?;
        before.into_iter().for_each(|state| counts.change(state, false));
        after.iter().for_each(|state| counts.change(state, true));
    }
    before_commit(&consequences)?;
    queue.commit(batch, counts, last.after, last.sequence)
}

fn apply_one(
    queue: &Queue,
    record: &Published,
    overlay: &mut Overlay,
    batch: &mut Batch,
    consequences: &mut Consequences,
) -> Result<(), QueueError> {
    match &*record.fact {
        Fact::Received(entry) => {
            let state = overlay.state(queue, entry.id)?;
            match (state.as_mut(), &record.copied) {
                // A copy moves the entry; what happened to it is known already.
                (Some(known), _) => known.place = record.place,
                (None, Some(copied)) => {
                    *state = Some(EntryState { place: record.place, ..copied.clone() });
                }
                (None, None) => {
                    *state = Some(EntryState::received(entry, record.place, record.large.clone()))
                }
            }
        }
        Fact::Routed { entry, destinations, at } => {
            if let Some(state) = overlay.state(queue, *entry)? {
                state.route(destinations, *at);
            }
        }
        Fact::Delivery { entry, destination, outcome, at } => {
            if let Some(state) = overlay.state(queue, *entry)? {
                state.outcome(destination, outcome, *at);
            }
        }
        Fact::Unlisted { entries, destination, .. } => {
            for entry in entries {
                if let Some(state) = overlay.state(queue, *entry)? {
                    state.unlisted(destination);
                }
            }
        }
        Fact::CommitmentRequested { transaction_uid, destination, entries, at } => {
            let open = OpenCommitment {
                transaction_uid: transaction_uid.clone(),
                destination: destination.clone(),
                entries: entries.clone(),
                requested_at: *at,
            };
            batch.insert(queue::commitment_key(transaction_uid), serde_json::to_vec(&open)?);
        }
        Fact::CommitmentClosed { transaction_uid, .. } => {
            batch.remove(queue::commitment_key(transaction_uid))
        }
        Fact::Compared { entry, finding, .. } => {
            if let Some(state) = overlay.state(queue, *entry)? {
                state.finding = Some(finding.clone());
            }
        }
        Fact::Purged { entry, .. } => {
            let purged = overlay.state(queue, *entry)?.take();
            consequences.freed_files.extend(purged.and_then(|state| state.large));
        }
    }
    Ok(())
}

fn write_difference(
    batch: &mut Batch,
    before: Option<&EntryState>,
    after: Option<&EntryState>,
) -> Result<(), QueueError> {
    let before = before.map(queue::rows).transpose()?.unwrap_or_default();
    let after = after.map(queue::rows).transpose()?.unwrap_or_default();
    for key in before.keys().filter(|key| !after.contains_key(*key)) {
        batch.remove(key.as_slice());
    }
    for (key, value) in after {
        if before.get(&key) != Some(&value) {
            batch.insert(key, value);
        }
    }
    Ok(())
}
