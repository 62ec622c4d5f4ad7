//! C-GET (PS3.7 §9.1.3): what is asked for comes as C-STORE of the peer, on the same association.

use super::{Association, ScuError};
use crate::dicom::Uid;
use crate::dicom::status::Status;
use crate::dimse::command::{Command, field};
use crate::dimse::message::Received;
use crate::dimse::pdu::PduError;

/// What became of the one instance that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retrieved {
    /// Its data set came to its end.
    Whole,
    /// It did not come; the final status of the operation.
    Nothing(Status),
    /// It was not wanted to its end: the association is to be aborted.
    BrokenOff,
}

impl Association {
    /// C-GET of one instance: `take` is given its data set, as it comes on `store_context`; `false`
    /// breaks off. Other instances are refused. Nothing is held; the time is for the caller to bound.
    pub async fn get(
        &mut self,
        abstract_syntax: &str,
        identifier: &[u8],
        (store_context, sop_instance_uid): (u8, &Uid),
        take: impl FnMut(&[u8]) -> bool + Send,
    ) -> Result<Retrieved, ScuError> {
        let context_id = self.context_of(abstract_syntax)?;
        let command = Command::c_get_rq(self.next_message_id(), abstract_syntax);
        let wanted = |context: u8, request: &Command| {
            context == store_context
                && request.affected_sop_instance_uid.as_deref() == Some(sop_instance_uid.as_str())
        };
        let got = match self.send(context_id, &command, Some(identifier)).await {
            Ok(()) => self.sub_operations(&command, wanted, take).await,
            Err(error) => Err(error),
        };
        self.settle(got).await
    }

    async fn sub_operations(
        &mut self,
        command: &Command,
        wanted: impl Fn(u8, &Command) -> bool + Send,
        mut take: impl FnMut(&[u8]) -> bool + Send,
    ) -> Result<Retrieved, ScuError> {
        let mut whole = false;
        loop {
            let (context, request) = match self.messages.next().await.map_err(|error| self.told(error))? {
                Received::Command { presentation_context_id, command } => (presentation_context_id, command),
                Received::Aborted => return Err(ScuError::Aborted),
                Received::ReleaseRequested => {
                    self.messages.answer_release().await?;
                    return Err(ScuError::Protocol(PduError::Closed));
                }
            };
            if request.is_response() {
                match final_status(command, &request)? {
                    None => continue,
                    Some(_) if whole => return Ok(Retrieved::Whole),
                    Some(status) => return Ok(Retrieved::Nothing(status)),
                }
            }
            let status = if request.command_field != field::C_STORE_RQ {
                Status::UNRECOGNIZED_OPERATION
            } else if whole || !wanted(context, &request) {
                Status::INVALID_SOP_INSTANCE
            } else if self.hand_on(&mut take).await? {
                whole = true;
                Status::SUCCESS
            } else {
                return Ok(Retrieved::BrokenOff);
            };
            // What was not wanted must be read before it is answered.
            self.data_set(0).await?;
            self.send(context, &request.response(status), None).await?;
        }
    }

    /// Gives the current data set to `take`; `false` when it has had enough.
    async fn hand_on(&mut self, take: &mut (impl FnMut(&[u8]) -> bool + Send)) -> Result<bool, ScuError> {
        while let Some(fragment) = self.messages.next_fragment().await.map_err(|error| self.told(error))? {
            if !take(&fragment) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The status that ends the operation; `None` while it goes on.
fn final_status(request: &Command, response: &Command) -> Result<Option<Status>, PduError> {
    if response.message_id_being_responded_to != request.message_id {
        return Err(PduError::invalid("a response to another message"));
    }
    let status = response.status.ok_or_else(|| PduError::invalid("a response without status"))?;
    Ok((!status.is_pending()).then_some(status))
}
