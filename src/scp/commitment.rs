//! Storage Commitment as its SCU (PS3.4 annex J): N-EVENT-REPORT on an association that the archive
//! opened to report. What a report proves is decided by [`crate::forward`].

use crate::dicom::status::Status;
use crate::dimse::command::Command;
use crate::dimse::commitment_report::{FAILURES_EXIST, LIMIT, Report, SOP_INSTANCE, SUCCESSFUL, parse};
use crate::dimse::pdu::PduError;
use crate::forward::{CommitmentReport, ReportOutcome};

use super::association::Association;
use super::negotiation::{Context, Service};

pub async fn n_event_report(
    association: &mut Association,
    context: &Context,
    request: &Command,
) -> Result<(), PduError> {
    let response = match report(association, context, request).await? {
        Ok(report) => {
            take(association, report).await;
            request.response(Status::SUCCESS)
        }
        Err((status, comment)) => request.response(status).with_comment(comment),
    };
    association.respond(context, "N-EVENT-REPORT", response).await
}

async fn report(
    association: &mut Association,
    context: &Context,
    request: &Command,
) -> Result<Result<Report, (Status, &'static str)>, PduError> {
    if let Err(refused) = check(context, request) {
        association.drain().await?;
        return Ok(Err(refused));
    }
    let Some(data_set) = association.messages.read_data_set(LIMIT).await? else {
        return Ok(Err((Status::RESOURCE_LIMITATION, "the report is longer than 4 MiB")));
    };
    Ok(parse(&data_set, context.transfer_syntax).map_err(|what| (Status::INVALID_ARGUMENT_VALUE, what)))
}

/// Status codes of PS3.7 §10.1.1.1.8.
fn check(context: &Context, request: &Command) -> Result<(), (Status, &'static str)> {
    if context.service != Service::CommitmentReport {
        return Err((Status::NO_SUCH_SOP_CLASS, "the context is not for storage commitment"));
    }
    if request.affected_sop_class_uid.as_deref() != Some(context.abstract_syntax.as_str()) {
        return Err((Status::NO_SUCH_SOP_CLASS, "the SOP class is not the context's"));
    }
    if request.affected_sop_instance_uid.as_deref() != Some(SOP_INSTANCE) {
        return Err((Status::NO_SUCH_SOP_INSTANCE, "not the well-known instance of storage commitment"));
    }
    if !matches!(request.event_type_id, Some(SUCCESSFUL | FAILURES_EXIST)) {
        return Err((Status::NO_SUCH_EVENT_TYPE, "storage commitment reports events 1 and 2"));
    }
    if !request.has_data_set {
        return Err((Status::NO_SUCH_ARGUMENT, "the report has no data set"));
    }
    Ok(())
}

/// A report of no open transaction is answered with success too: that confirms its arrival, and
/// an archive whose first confirmation got lost must be able to stop repeating it. It changes
/// nothing.
async fn take(association: &Association, report: Report) {
    let peer = &association.peer;
    let (committed, failed) = (report.committed.len(), report.failed.len());
    let report = CommitmentReport {
        from: peer.calling_ae_title.clone(),
        peer: peer.address,
        transaction_uid: report.transaction_uid,
        committed: report.committed,
        failed: report.failed,
    };
    match association.scp.forward.commitment_report(report).await {
        ReportOutcome::Taken => {}
        ReportOutcome::Unknown => tracing::warn!(
            address = %peer.address,
            calling_ae_title = ?peer.calling_ae_title,
            committed,
            failed,
            advice = "harmless when repeated; otherwise somebody reports what was not asked for",
            "storage commitment report of no open transaction; it changes nothing"
        ),
    }
}
