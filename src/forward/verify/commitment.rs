//! Storage commitment as SCU (PS3.4 Annex J): N-ACTION asks, N-EVENT-REPORT answers, on the same
//! association or on one that the destination opens to us, minutes or a restart later.
//!
//! A transaction is durable before it is asked for. A report counts only for an open transaction,
//! from the configured peer.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use dicom_dictionary_std::tags;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::task::TaskTracker;

use super::data_set::Writer;
use super::unproven::Transaction;
use super::{Asked, Trouble, close, doubt, lost, still_sent, verified};
use crate::dicom::status::Status;
use crate::dicom::transfer_syntax::{EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN};
use crate::dicom::{AeTitle, TransferSyntax, Uid};
use crate::dimse::command::{Command, field};
use crate::dimse::commitment_report::{self, FAILURES_EXIST, LIMIT, SOP_CLASS, SOP_INSTANCE, SUCCESSFUL};
use crate::dimse::message::Received;
use crate::dimse::scu::{Association, Peer, Proposal, ScuError};
use crate::forward::destination::Reach;
use crate::forward::lane::Lane;
use crate::spool::{Durability, EntryId, Fact, SpoolEntry, SpoolError};

/// Request Storage Commitment (PS3.4 §J.3.2.1.1).
const REQUEST_STORAGE_COMMITMENT: u16 = 1;

/// A storage commitment report (N-EVENT-REPORT, PS3.4 §J.3.3) as a door received it.
#[derive(Debug, Clone)]
pub struct CommitmentReport {
    pub from: AeTitle,
    pub peer: IpAddr,
    pub transaction_uid: Uid,
    pub committed: Vec<Uid>,
    /// SOP Instance UID and FailureReason (0008,1197).
    pub failed: Vec<(Uid, u16)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportOutcome {
    Taken,
    /// No open transaction of that peer has this UID: audited, changes nothing.
    Unknown,
}

/// Asks for the commitment of these objects.
pub(super) async fn ask(
    lane: &Arc<Lane>,
    tasks: &TaskTracker,
    entries: &[Arc<SpoolEntry>],
) -> Result<Asked, Trouble> {
    let Reach::Dimse(peer) = &lane.destination.reach else {
        return Ok(Asked::NotOffered("not a DIMSE destination".into()));
    };
    let not_offered = || Asked::NotOffered("no storage commitment".into());
    let mut association = match Association::connect(peer, &[proposal()]).await {
        Ok(association) => association,
        Err(ScuError::NoContext(_)) => return Ok(not_offered()),
        Err(error) => return Err(Trouble::Failed(error.to_string())),
    };
    let writer = association.any_context(SOP_CLASS).and_then(|(_, syntax)| Writer::new(syntax.encoding));
    let Some(writer) = writer else {
        association.release().await;
        return Ok(not_offered());
    };
    let transaction_uid = open(lane, entries).await?;
    crate::failpoint::pass("commitment_requested");
    let information = action_information(writer, &transaction_uid, entries);
    let asked = association.action(SOP_CLASS, SOP_INSTANCE, REQUEST_STORAGE_COMMITMENT, &information).await;
    match asked {
        Ok(status) if status == Status::SUCCESS || status.is_warning() => {
            match lane.unproven.keep_association() {
                Some(kept) => await_report(lane, tasks, association, kept, transaction_uid),
                None => association.release().await,
            }
            Ok(Asked::Pending)
        }
        Ok(status) => {
            association.release().await;
            withdraw(lane, transaction_uid).await?;
            match status {
                Status::PROCESSING_FAILURE | Status::RESOURCE_LIMITATION => {
                    Err(Trouble::Failed(format!("storage commitment was answered {status}")))
                }
                _ => Ok(not_offered()),
            }
        }
        Err(error) => {
            association.abort().await;
            withdraw(lane, transaction_uid).await?;
            Err(Trouble::Failed(error.to_string()))
        }
    }
}

fn proposal() -> Proposal {
    Proposal {
        abstract_syntax: SOP_CLASS.to_owned(),
        transfer_syntaxes: vec![EXPLICIT_LITTLE_ENDIAN.to_owned(), IMPLICIT_LITTLE_ENDIAN.to_owned()],
        scp_role: true,
    }
}

/// Makes a transaction durable and known, before anybody hears of it.
async fn open(lane: &Lane, entries: &[Arc<SpoolEntry>]) -> Result<Uid, SpoolError> {
    let transaction_uid = Uid::generate();
    let ids: Vec<_> = entries.iter().map(|entry| entry.id).collect();
    let fact = Fact::CommitmentRequested {
        transaction_uid: transaction_uid.clone(),
        destination: lane.name().to_owned(),
        entries: ids.clone(),
        at: lane.clock.now(),
    };
    lane.spool.append(vec![fact], Durability::Synced).await?;
    let deadline = Instant::now() + lane.destination.verify_deadline;
    lane.unproven.opened(transaction_uid.clone(), Transaction { entries: ids, deadline });
    Ok(transaction_uid)
}

async fn withdraw(lane: &Lane, transaction_uid: Uid) -> Result<(), SpoolError> {
    lane.unproven.close(&transaction_uid);
    close(lane, transaction_uid).await
}

/// Action information (PS3.4 table J.3-1).
fn action_information(writer: Writer, transaction_uid: &Uid, entries: &[Arc<SpoolEntry>]) -> Vec<u8> {
    writer
        .uid(tags::TRANSACTION_UID, transaction_uid.as_str())
        .sequence(tags::REFERENCED_SOP_SEQUENCE, entries, |item, entry| {
            item.uid(tags::REFERENCED_SOP_CLASS_UID, entry.sop_class_uid.as_str())
                .uid(tags::REFERENCED_SOP_INSTANCE_UID, entry.key.sop_instance_uid.as_str())
        })
        .finish()
}

/// Keeps the association a while for a report to come on it, without holding up the next request.
fn await_report(
    lane: &Arc<Lane>,
    tasks: &TaskTracker,
    association: Association,
    kept: OwnedSemaphorePermit,
    transaction_uid: Uid,
) {
    let lane = Arc::clone(lane);
    tasks.spawn(async move {
        let _kept = kept;
        let mut association = association;
        match report_on(&lane, &mut association, &transaction_uid).await {
            // A peer in the middle of its report answers a release only after ours to that, which
            // a stopping node does not wait for: the report is asked for again at the next start.
            Ok(()) if lane.stopping.is_cancelled() => association.abort().await,
            Ok(()) => association.release().await,
            // Nothing is lost: the report may come on another association, or is asked for again.
            Err(error) => {
                tracing::debug!(destination = lane.name(), %error, "no report on the requesting association");
                association.abort().await;
            }
        }
    });
}

/// Serves the association until the transaction has its report, from wherever.
async fn report_on(
    lane: &Arc<Lane>,
    association: &mut Association,
    transaction_uid: &Uid,
) -> Result<(), ScuError> {
    let wait = lane.verification.report_wait;
    loop {
        let received = tokio::select! {
            received = association.next_request(wait) => received?,
            () = lane.unproven.closed(transaction_uid) => return Ok(()),
            () = lane.stopping.cancelled() => return Ok(()),
        };
        let Some(Received::Command { presentation_context_id, command }) = received else { return Ok(()) };
        let status = match command.command_field {
            field::N_EVENT_REPORT_RQ => report(lane, association, &command).await?,
            _ => Status::UNRECOGNIZED_OPERATION,
        };
        association.respond(presentation_context_id, &command.response(status)).await?;
    }
}

async fn report(
    lane: &Arc<Lane>,
    association: &mut Association,
    command: &Command,
) -> Result<Status, ScuError> {
    let syntax = association.any_context(SOP_CLASS).map(|(_, syntax)| syntax);
    let Some(data_set) = association.read_data_set(LIMIT).await? else {
        return Ok(Status::RESOURCE_LIMITATION);
    };
    let Some(syntax) = syntax else { return Ok(Status::NO_SUCH_SOP_CLASS) };
    Ok(take_event(lane, command, &data_set, syntax).await)
}

/// A report on the association that we opened ourselves: the peer is the one we connected.
async fn take_event(lane: &Lane, command: &Command, data_set: &[u8], syntax: &TransferSyntax) -> Status {
    if !matches!(command.event_type_id, Some(SUCCESSFUL | FAILURES_EXIST)) {
        return Status::NO_SUCH_EVENT_TYPE;
    }
    let Ok(report) = commitment_report::parse(data_set, syntax) else {
        return Status::INVALID_ARGUMENT_VALUE;
    };
    // Success says that it arrived, also where it belongs to no open transaction: it must be
    // possible to stop repeating it.
    take(lane, &report.transaction_uid, report.committed, report.failed).await;
    Status::SUCCESS
}

/// A report that the destination brought on an association of its own. The caller has matched the
/// AE title; the address must be the destination's too.
pub async fn take_report(lane: &Lane, report: &CommitmentReport) -> ReportOutcome {
    let Reach::Dimse(peer) = &lane.destination.reach else { return ReportOutcome::Unknown };
    if !lane.unproven.is_open(&report.transaction_uid) || !is_at(peer, report.peer).await {
        return ReportOutcome::Unknown;
    }
    take(lane, &report.transaction_uid, report.committed.clone(), report.failed.clone()).await
}

async fn is_at(peer: &Peer, address: IpAddr) -> bool {
    let address = address.to_canonical();
    if let Ok(host) = peer.host.parse::<IpAddr>() {
        return host.to_canonical() == address;
    }
    let resolved = tokio::net::lookup_host((peer.host.as_str(), peer.port)).await;
    resolved.is_ok_and(|mut found| found.any(|found| found.ip().to_canonical() == address))
}

/// What a report does not name waits on for one that does, until the deadline: a wrong or partial
/// report must not spoil the right one.
async fn take(
    lane: &Lane,
    transaction_uid: &Uid,
    committed: Vec<Uid>,
    failed: Vec<(Uid, u16)>,
) -> ReportOutcome {
    let Some(asked_for) = lane.unproven.entries_of(transaction_uid) else { return ReportOutcome::Unknown };
    let report = Named { committed: committed.into_iter().collect(), failed: failed.into_iter().collect() };
    let named = report.entries(lane, &asked_for).await;
    let Some(reported) = lane.unproven.report(transaction_uid, &named) else { return ReportOutcome::Unknown };
    if let Err(error) = conclude(lane, &reported.entries, &report).await {
        tracing::error!(destination = lane.name(), %error, "a storage commitment report could not be recorded");
        lane.unproven.add_later(reported.entries, lane.verification.between_tries);
    }
    if reported.is_closed
        && let Err(error) = close(lane, transaction_uid.clone()).await
    {
        tracing::error!(destination = lane.name(), %error, "a storage commitment could not be closed");
    }
    ReportOutcome::Taken
}

/// What a report names.
struct Named {
    committed: HashSet<Uid>,
    failed: HashMap<Uid, u16>,
}

impl Named {
    /// Those of the entries that it names, and those that need no report any more.
    async fn entries(&self, lane: &Lane, asked_for: &[EntryId]) -> HashSet<EntryId> {
        let mut named = HashSet::new();
        for id in asked_for {
            let uid = match lane.spool.state(*id).await {
                Ok(state) => state.sop_instance_uid,
                Err(_) => {
                    named.insert(*id);
                    continue;
                }
            };
            if self.committed.contains(&uid) || self.failed.contains_key(&uid) {
                named.insert(*id);
            }
        }
        named
    }
}

/// What is committed is verified, what failed is sent again.
async fn conclude(lane: &Lane, entries: &[EntryId], report: &Named) -> Result<(), Trouble> {
    for id in entries {
        let Some((entry, delivery)) = still_sent(lane, *id).await? else { continue };
        let uid = &entry.key.sop_instance_uid;
        if let Some(reason) = report.failed.get(uid) {
            lost(lane, *id, &format!("storage commitment failed with reason {reason:04X}")).await?;
        } else if doubt(lane, &entry, &delivery).await?.is_none() {
            verified(lane, &entry, "commitment").await?;
        } else {
            lane.unproven.add_later([*id], lane.verification.between_tries);
        }
    }
    Ok(())
}

/// Transactions whose report did not come by the deadline are given up; their objects are asked
/// for again.
pub(super) async fn expire(lane: &Lane) -> Result<(), Trouble> {
    for (transaction_uid, transaction) in lane.unproven.expired(Instant::now()) {
        for entry in &transaction.entries {
            lane.unproven.miss_report(*entry);
        }
        lane.unproven.add_later(transaction.entries, std::time::Duration::ZERO);
        close(lane, transaction_uid).await?;
    }
    Ok(())
}

/// Transactions of an earlier run: a report that comes late still counts.
pub(super) async fn restore(lane: &Lane) -> Result<(), SpoolError> {
    let now = lane.clock.now();
    let open = lane.spool.open_commitments().await?;
    for transaction in open.into_iter().filter(|open| open.destination == lane.name()) {
        let waited = now.since(transaction.requested_at);
        let deadline = Instant::now() + lane.destination.verify_deadline.saturating_sub(waited);
        let open = Transaction { entries: transaction.entries, deadline };
        lane.unproven.opened(transaction.transaction_uid, open);
    }
    Ok(())
}
