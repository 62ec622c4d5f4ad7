//! Storage (PS3.4 annex B): C-STORE. The data set goes to ingest as it arrives, and success is
//! answered only with a receipt in hand: what was acknowledged is durable.

use std::pin::pin;
use std::time::Instant;

use crate::dicom::Uid;
use crate::dicom::status::Status;
use crate::dimse::command::Command;
use crate::dimse::message::MessageStream;
use crate::dimse::pdu::PduError;
use crate::ingest::{Form, Ingest, Offer, Receipt, Refusal};
use crate::spool::Origin;
use crate::telemetry::metrics;

use super::association::Association;
use super::negotiation::{Context, Service};

pub async fn c_store(
    association: &mut Association,
    context: &Context,
    request: &Command,
) -> Result<(), PduError> {
    let form = match form(context, request) {
        Ok(form) => form,
        Err((status, comment)) => {
            metrics::received("dimse", "COMMAND", 0);
            return refuse(association, context, request, status, comment).await;
        }
    };
    let mut fragments = Fragments { messages: &mut association.messages, complete: None, failure: None };
    let taken = offer(&association.scp.ingest, association.peer.origin(), form, &mut fragments).await;
    let Fragments { complete, failure, .. } = fragments;
    // Nobody is left to be answered; what was gathered is dropped.
    if let Some(failure) = failure {
        return Err(failure);
    }
    match taken {
        Ok(_receipt) => {
            crate::failpoint::pass("before_answer");
            association.respond(context, "C-STORE", request.response(Status::SUCCESS)).await?;
            association.objects += 1;
            if let Some(complete) = complete {
                metrics::ack_seconds("dimse", complete.elapsed().as_secs_f64());
            }
            Ok(())
        }
        Err(refusal) => {
            tracing::warn!(
                peer = %association.peer.address,
                calling_ae_title = ?association.peer.calling_ae_title,
                code = refusal.code(),
                reason = %refusal,
                "object refused"
            );
            refuse(association, context, request, refusal.dimse_status(), &refusal.to_string()).await
        }
    }
}

/// What the command set says of the object, or the status that refuses it (PS3.7 §9.1.1.1.9).
fn form(context: &Context, request: &Command) -> Result<Form, (Status, &'static str)> {
    let missing = |what| (Status::CANNOT_UNDERSTAND, what);
    if context.service != Service::Storage {
        return Err((Status::SOP_CLASS_NOT_SUPPORTED, "the context is not for storage"));
    }
    if !request.has_data_set {
        return Err((Status::PROCESSING_FAILURE, "the command announces no data set"));
    }
    let sop_class_uid = request.affected_sop_class_uid.as_deref();
    let sop_class_uid = sop_class_uid.ok_or(missing("Affected SOP Class UID is missing"))?;
    let sop_instance_uid = request.affected_sop_instance_uid.as_deref();
    let sop_instance_uid = sop_instance_uid
        .filter(|uid| !uid.is_empty())
        .ok_or(missing("Affected SOP Instance UID is missing"))?;
    let affected_sop_class_uid = Uid::parse(sop_class_uid)
        .ok()
        .filter(|uid| uid.as_str() == context.abstract_syntax)
        .ok_or((Status::SOP_CLASS_NOT_SUPPORTED, "the SOP class is not the context's"))?;
    let affected_sop_instance_uid = Uid::parse(sop_instance_uid)
        .map_err(|_| (Status::INVALID_SOP_INSTANCE, "Affected SOP Instance UID is not a UID"))?;
    Ok(Form::DataSet {
        affected_sop_class_uid,
        affected_sop_instance_uid,
        transfer_syntax: context.transfer_syntax,
    })
}

/// The data set as ingest reads it, and how its reading ended.
struct Fragments<'a> {
    messages: &'a mut MessageStream,
    /// When the last fragment came.
    complete: Option<Instant>,
    failure: Option<PduError>,
}

impl Fragments<'_> {
    async fn next(&mut self) -> Option<std::io::Result<bytes::Bytes>> {
        if self.complete.is_some() || self.failure.is_some() {
            return None;
        }
        match self.messages.next_fragment().await {
            Ok(Some(fragment)) => Some(Ok(fragment)),
            Ok(None) => {
                self.complete = Some(Instant::now());
                None
            }
            Err(error) => {
                let broken = std::io::Error::new(std::io::ErrorKind::ConnectionAborted, error.to_string());
                self.failure = Some(error);
                Some(Err(broken))
            }
        }
    }
}

async fn offer(
    ingest: &Ingest,
    origin: Origin,
    form: Form,
    fragments: &mut Fragments<'_>,
) -> Result<Receipt, Refusal> {
    let stream = futures_util::stream::unfold(fragments, |fragments| async move {
        fragments.next().await.map(|chunk| (chunk, fragments))
    });
    let mut stream = pin!(stream);
    ingest.accept(Offer { origin, form, bytes: stream.as_mut(), expected_length: None }).await
}

/// Reads over what is left of the data set, because many senders look for an answer only after
/// their last fragment, and answers.
async fn refuse(
    association: &mut Association,
    context: &Context,
    request: &Command,
    status: Status,
    comment: &str,
) -> Result<(), PduError> {
    association.drain().await?;
    association.respond(context, "C-STORE", request.response(status).with_comment(comment)).await
}
