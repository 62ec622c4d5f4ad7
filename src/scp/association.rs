//! An established association: reads messages, gives each to its service, and says how it ended.
//! The handshake before it is [`super::connection`]'s.

use std::net::IpAddr;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::dicom::AeTitle;
use crate::dicom::status::Status;
use crate::dimse::command::{Command, field};
use crate::dimse::message::{MessageStream, Received};
use crate::dimse::pdu::{AbortReason, PduError};
use crate::spool::Origin;
use crate::telemetry::metrics;

use super::negotiation::Context;
use super::{ScpContext, commitment, echo, find, store};

/// A node that stops waits so long for the next message of an association: a sender's pause between
/// two objects is shorter.
const STOPPING_PATIENCE: Duration = Duration::from_secs(3);

/// Who is at the other end.
#[derive(Debug, Clone)]
pub struct Caller {
    pub calling_ae_title: AeTitle,
    pub called_ae_title: AeTitle,
    pub address: IpAddr,
    /// Its title, when it is configured, else `unknown`.
    pub label: String,
}

impl Caller {
    pub fn origin(&self) -> Origin {
        Origin::Dimse {
            calling_ae_title: self.calling_ae_title.clone(),
            called_ae_title: self.called_ae_title.clone(),
            peer: self.address,
        }
    }
}

/// How an association ended, when nothing failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Released,
    Aborted,
    /// The node is stopping, and the peer asked for nothing for a while.
    Idle,
}

/// One association, for its services.
pub struct Association {
    pub messages: MessageStream,
    pub peer: Caller,
    pub contexts: Vec<Context>,
    pub scp: ScpContext,
    /// Objects acknowledged, for the closing log line.
    pub objects: u64,
}

impl Association {
    /// Serves until the peer releases or aborts, or is idle once `stopping`.
    pub async fn serve(&mut self, stopping: &CancellationToken) -> Result<End, PduError> {
        loop {
            let idle = async {
                stopping.cancelled().await;
                tokio::time::sleep(STOPPING_PATIENCE).await;
            };
            let received = tokio::select! {
                received = self.messages.next() => received?,
                () = idle => return Ok(End::Idle),
            };
            match received {
                Received::ReleaseRequested => return Ok(End::Released),
                Received::Aborted => return Ok(End::Aborted),
                Received::Command { presentation_context_id, command } => {
                    self.perform(presentation_context_id, command).await?;
                }
            }
        }
    }

    async fn perform(&mut self, context_id: u8, request: Command) -> Result<(), PduError> {
        let Some(context) = self.contexts.iter().find(|context| context.id == context_id).cloned() else {
            return Err(protocol("a message came on a presentation context that was not accepted"));
        };
        if request.message_id.is_none() {
            return Err(protocol("a request has no Message ID"));
        }
        match request.command_field {
            field::C_ECHO_RQ => echo::c_echo(self, &context, &request).await,
            field::C_STORE_RQ => store::c_store(self, &context, &request).await,
            field::C_FIND_RQ => find::c_find(self, &context, &request).await,
            field::N_EVENT_REPORT_RQ => commitment::n_event_report(self, &context, &request).await,
            response if is_response(response) => Err(protocol("a response came to no request of ours")),
            _ => self.unrecognized(&context, &request).await,
        }
    }

    /// A request for an operation that this node does not perform (PS3.7 §C.5.21).
    async fn unrecognized(&mut self, context: &Context, request: &Command) -> Result<(), PduError> {
        self.drain().await?;
        let response = request.response(Status::UNRECOGNIZED_OPERATION);
        let response = response.with_comment("this node does not perform that operation");
        self.respond(context, "other", response).await
    }

    /// Sends a final response and counts it.
    pub async fn respond(
        &mut self,
        context: &Context,
        service: &'static str,
        response: Command,
    ) -> Result<(), PduError> {
        self.messages.send(context.id, &response, None).await?;
        metrics::dimse_request(service, response.status.unwrap_or(Status::SUCCESS).0);
        Ok(())
    }

    /// Reads over the rest of the message's data set; no longer than an object may be.
    pub async fn drain(&mut self) -> Result<(), PduError> {
        let mut left = self.scp.limits.object;
        while let Some(fragment) = self.messages.next_fragment().await? {
            left = left
                .checked_sub(fragment.len() as u64)
                .ok_or(protocol("a refused data set is longer than any object may be"))?;
        }
        Ok(())
    }
}

/// The responses of PS3.7 §E.1-1. Anything else with their bit is as unknown as without.
fn is_response(command_field: u16) -> bool {
    const REQUESTS: [u16; 11] =
        [0x0001, 0x0010, 0x0020, 0x0021, 0x0030, 0x0100, 0x0110, 0x0120, 0x0130, 0x0140, 0x0150];
    command_field & field::RESPONSE != 0 && REQUESTS.contains(&(command_field & !field::RESPONSE))
}

fn protocol(what: &'static str) -> PduError {
    PduError::Protocol { what, abort: AbortReason::INVALID_PARAMETER }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_standard_s_responses_are_responses() {
        assert!(is_response(field::C_STORE_RSP));
        assert!(is_response(0x8150));
        assert!(!is_response(0x9999));
        assert!(!is_response(field::C_FIND_RQ));
    }
}
