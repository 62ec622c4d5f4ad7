//! The single way in: [`Ingest::accept`] turns an [`Offer`] of either door into a [`Receipt`] or
//! a [`Refusal`]. `admission` asks whether there is room and the SOP class is storable, `arrival`
//! reads the bytes once (scanning, hashing and staging as they come), `validation` whether the
//! object is what the offer claims; the spool makes it durable.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

mod admission;
mod arrival;
pub mod outcome;
mod validation;

pub use outcome::{Receipt, ReceiptOutcome, Refusal};

use crate::clock::Clock;
use crate::dicom::{ScanLimits, TransferSyntax, TransferSyntaxes, Uid, part10};
use crate::dimse::Chunks;
use crate::spool::{
    Delivery, DeliveryState, Digest, Durability, EntryId, Fact, Origin, Outcome, Spool, SpoolEntry, Verdict,
};
use crate::telemetry::metrics;
use arrival::Arrival;

/// What a door offers: one object and where it came from.
pub struct Offer<'a> {
    pub origin: Origin,
    pub form: Form,
    /// An error among them, and nothing is kept.
    pub bytes: Chunks<'a>,
    /// Total bytes to come, when the door knows: refused at once when over the limit.
    pub expected_length: Option<u64>,
}

/// What the bytes are.
pub enum Form {
    /// A bare data set (PS3.7 §9.1.1): the command set names it.
    DataSet {
        affected_sop_class_uid: Uid,
        affected_sop_instance_uid: Uid,
        transfer_syntax: &'static TransferSyntax,
    },
    /// A Part 10 file (PS3.10 §7): its file meta names it. `study_instance_uid`, when given, is
    /// the study that the request's path demands (PS3.18 §10.5.1).
    Part10 { study_instance_uid: Option<Uid> },
}

#[derive(Debug, Clone, Default)]
pub struct IngestOptions {
    pub scan: ScanLimits,
    /// Longest object, in bytes of its data set.
    pub object_limit: u64,
    /// Whether storage SOP classes that no dictionary lists are taken.
    pub unknown_sop_classes: bool,
    /// Those that an object may come in.
    pub transfer_syntaxes: TransferSyntaxes,
}

/// How long after a proof a resend asks for no new one: long enough that a modality stuck in a loop
/// costs an archive nothing to speak of, short enough for a person who sends again what can't be
/// found.
pub const PROOF_HOLDS: Duration = Duration::from_secs(300);

/// Cheap to clone.
#[derive(Clone)]
pub struct Ingest {
    spool: Spool,
    clock: Arc<dyn Clock>,
    options: Arc<IngestOptions>,
    rule_set: Arc<AtomicU64>,
}

impl Ingest {
    pub fn new(spool: Spool, clock: Arc<dyn Clock>, options: IngestOptions) -> Ingest {
        Ingest { spool, clock, options: Arc::new(options), rule_set: Arc::default() }
    }

    /// Those that an object may come in.
    pub fn transfer_syntaxes(&self) -> &TransferSyntaxes {
        &self.options.transfer_syntaxes
    }

    /// The version of the routing rules that entries are stamped with from now on.
    pub fn set_rule_set(&self, version: u64) {
        self.rule_set.store(version, Ordering::Release);
    }

    /// Takes one object. The receipt exists only after its bytes are durable.
    pub async fn accept(&self, offer: Offer<'_>) -> Result<Receipt, Refusal> {
        crate::failpoint::pass("offer_begun");
        let door = offer.origin.door();
        let taken = self.take(offer).await;
        match &taken {
            Ok(receipt) => metrics::received(door, receipt.outcome.name(), receipt.size),
            Err(refusal) => metrics::received(door, refusal.code(), 0),
        }
        taken
    }

    async fn take(&self, offer: Offer<'_>) -> Result<Receipt, Refusal> {
        self.ready()?;
        let limit = self.options.object_limit;
        if offer.expected_length.is_some_and(|length| length > limit) {
            return Err(Refusal::TooLarge { limit });
        }
        let Offer { origin, form, bytes, .. } = offer;
        let arrival = Arrival::receive(self, form, bytes).await?;
        let entry = SpoolEntry {
            id: EntryId(0),
            key: arrival.header.key,
            sop_class_uid: arrival.header.sop_class_uid,
            transfer_syntax_uid: arrival.transfer_syntax.uid.to_owned(),
            data_set_sha256: Digest([0; 32]),
            data_set_length: 0,
            prefix_length: 0,
            origin,
            received_at: self.clock.now(),
            attributes: arrival.header.attributes,
            rule_set: self.rule_set.load(Ordering::Acquire),
            conflict_with: None,
        };
        let (key, sop_class_uid) = (entry.key.clone(), entry.sop_class_uid.clone());
        let (digest, size) = (arrival.staged.digest, arrival.staged.length);
        let prefix = part10::prefix(
            &entry.sop_class_uid,
            &key.sop_instance_uid,
            &entry.transfer_syntax_uid,
            entry.origin.source_ae_title(),
        );
        let committed = self.spool.commit(entry, prefix, arrival.staged).await?;
        let outcome = match committed.verdict {
            Verdict::New => ReceiptOutcome::New,
            Verdict::Duplicate(_) => ReceiptOutcome::Duplicate,
            Verdict::Conflict(_) => ReceiptOutcome::Conflict,
        };
        if outcome == ReceiptOutcome::Duplicate {
            self.rearm(committed.id).await;
        }
        Ok(Receipt { entry: committed.id, key, sop_class_uid, data_set_sha256: digest, size, outcome })
    }

    /// A sender who sends again misses it somewhere: what was given up is tried anew, what was proven
    /// is to be proven again. It was held already, so a failure here does not concern the sender.
    async fn rearm(&self, id: EntryId) {
        let deliveries = match self.spool.deliveries_of(id).await {
            Ok(deliveries) => deliveries,
            Err(error) => {
                tracing::warn!(%error, entry = %id, "whether a resent object is to be delivered again can't be told");
                return;
            }
        };
        let at = self.clock.now();
        let outcome = |delivery: &Delivery| match delivery.state {
            DeliveryState::Poisoned | DeliveryState::Cancelled => Some(Outcome::Requeued),
            // A sender that repeats itself in a loop must not make us ask the archive in a loop.
            DeliveryState::Verified if at.since(delivery.since) >= PROOF_HOLDS => {
                self.spool.is_verified_at(&delivery.destination).then_some(Outcome::Resent)
            }
            _ => None,
        };
        let fact = |delivery: Delivery| {
            let outcome = outcome(&delivery)?;
            Some(Fact::Delivery { entry: id, destination: delivery.destination, outcome, at })
        };
        let facts: Vec<Fact> = deliveries.into_iter().filter_map(fact).collect();
        if facts.is_empty() {
            return;
        }
        if let Err(error) = self.spool.append(facts, Durability::Soon).await {
            tracing::warn!(%error, entry = %id, "a resent object's deliveries could not be queued again");
        }
    }
}

#[cfg(test)]
mod tests;
