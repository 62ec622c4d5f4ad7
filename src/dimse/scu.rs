//! The outgoing association: echo, store, find, get, N-ACTION; and reports that come back on it. Used
//! by the transports of `forward` and by the commands for commissioning. One operation at a time
//! (no asynchronous operations window). Whatever fails in a way that leaves the association
//! unusable has aborted it: a peer never takes a cut-off object for whole.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;
use tokio::time::{Instant, timeout_at};

use crate::dicom::sop_class::VERIFICATION;
use crate::dicom::status::Status;
use crate::dicom::{AeTitle, TransferSyntax, Uid};

use super::command::{Command, field};
use super::message::{MessageStream, Received, SendError, Side};
use super::pdu::{AbortReason, PduError};

mod connect;
mod get;

pub use get::Retrieved;

/// Largest data set that is taken in memory: an identifier of C-FIND, a report.
const MAX_DATA_SET: usize = 1 << 20;
/// Requests of the peer that may come while we wait for a response.
const MOST_EARLY_REQUESTS: usize = 4;

/// How to reach a peer.
#[derive(Debug, Clone)]
pub struct Peer {
    pub host: String,
    pub port: u16,
    pub called_ae_title: AeTitle,
    pub calling_ae_title: AeTitle,
    pub timeout: Duration,
    /// Where the node itself listens, if it must not be the peer.
    pub never: Arc<[SocketAddr]>,
}

/// One presentation context to propose: one abstract syntax, the transfer syntaxes in order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Proposal {
    pub abstract_syntax: String,
    /// UIDs; private ones too, so not `'static`.
    pub transfer_syntaxes: Vec<String>,
    /// Propose the SCP role for ourselves too (PS3.7 §D.3.3.4): storage commitment on the same association.
    pub scp_role: bool,
}

#[derive(Debug, Error)]
pub enum ScuError {
    #[error("{host} can't be resolved or connected: {source}")]
    Connect {
        host: String,
        #[source]
        source: std::io::Error,
    },
    /// A-ASSOCIATE-RJ, in plain words with what to do (PS3.8 §9.3.4).
    #[error("association rejected: {0}")]
    Rejected(String),
    #[error("aborted by the peer")]
    Aborted,
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    #[error("no presentation context was accepted for {0}")]
    NoContext(String),
    #[error("protocol: {0}")]
    Protocol(#[from] PduError),
    /// Our own source of bytes failed.
    #[error("reading the object: {0}")]
    Source(String),
}

impl ScuError {
    /// The A-ABORT that this error calls for, if any.
    fn abort_reason(&self) -> Option<AbortReason> {
        match self {
            Self::Protocol(error) => error.abort_reason(),
            Self::TimedOut(_) | Self::Source(_) => Some(AbortReason::SERVICE_USER),
            Self::Connect { .. } | Self::Rejected(_) | Self::Aborted | Self::NoContext(_) => None,
        }
    }
}

/// An accepted presentation context.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Accepted {
    id: u8,
    abstract_syntax: String,
    transfer_syntax: String,
}

/// A request of the peer that came while we waited for a response.
#[derive(Debug)]
struct EarlyRequest {
    presentation_context_id: u8,
    command: Command,
    data_set: Option<Bytes>,
}

/// An established outgoing association.
#[derive(Debug)]
pub struct Association {
    messages: MessageStream,
    contexts: Vec<Accepted>,
    timeout: Duration,
    last_message_id: u16,
    early: VecDeque<EarlyRequest>,
    /// Data set of the request that [`Association::next_request`] took from `early`.
    early_data_set: Option<Option<Bytes>>,
    /// Aborted, by whichever side.
    ended: bool,
}

impl Association {
    fn new(messages: MessageStream, contexts: Vec<Accepted>, timeout: Duration) -> Self {
        Self {
            messages,
            contexts,
            timeout,
            last_message_id: 0,
            early: VecDeque::new(),
            early_data_set: None,
            ended: false,
        }
    }

    /// The accepted context for this SOP class and transfer syntax.
    pub fn context(&self, abstract_syntax: &str, transfer_syntax: &str) -> Option<u8> {
        let fits = |context: &&Accepted| {
            context.abstract_syntax == abstract_syntax && context.transfer_syntax == transfer_syntax
        };
        self.contexts.iter().find(fits).map(|context| context.id)
    }

    /// The accepted context for this abstract syntax, with the transfer syntax that was chosen.
    pub fn any_context(&self, abstract_syntax: &str) -> Option<(u8, &'static TransferSyntax)> {
        let mut fitting = self.contexts.iter().filter(|context| context.abstract_syntax == abstract_syntax);
        fitting.find_map(|context| Some((context.id, TransferSyntax::by_uid(&context.transfer_syntax)?)))
    }

    fn context_of(&self, abstract_syntax: &str) -> Result<u8, ScuError> {
        let context = self.any_context(abstract_syntax);
        context.map(|(id, _)| id).ok_or_else(|| ScuError::NoContext(abstract_syntax.to_owned()))
    }

    /// C-ECHO (PS3.7 §9.1.5).
    pub async fn echo(&mut self) -> Result<Status, ScuError> {
        let context_id = self.context_of(VERIFICATION)?;
        let command = Command::c_echo_rq(self.next_message_id());
        self.exchange(context_id, &command, None).await
    }

    /// C-STORE (PS3.7 §9.1.1). `data_set` yields the bytes in the negotiated syntax; memory use is
    /// bounded by one PDU and one chunk. If it fails, the association is aborted.
    pub async fn store(
        &mut self,
        sop_class_uid: &Uid,
        sop_instance_uid: &Uid,
        transfer_syntax_uid: &str,
        data_set: super::Chunks<'_>,
    ) -> Result<Status, ScuError> {
        let context_id = self.context(sop_class_uid.as_str(), transfer_syntax_uid).ok_or_else(|| {
            ScuError::NoContext(format!("SOP class {sop_class_uid} in {transfer_syntax_uid}"))
        })?;
        let command = Command::c_store_rq(self.next_message_id(), sop_class_uid, sop_instance_uid);
        let sent = self.messages.send_streamed(context_id, &command, data_set).await;
        let answered = match sent {
            Ok(()) => self.final_response(&command).await,
            Err(SendError::Pdu(error)) => Err(self.told(error)),
            Err(SendError::Source(error)) => Err(ScuError::Source(error.to_string())),
        };
        self.settle(answered).await
    }

    /// C-FIND (PS3.7 §9.1.2): calls `each` with every identifier, encoded in the context's syntax;
    /// `false` cancels. Returns the final status.
    pub async fn find(
        &mut self,
        abstract_syntax: &str,
        identifier: &[u8],
        each: impl FnMut(&[u8]) -> bool + Send,
    ) -> Result<Status, ScuError> {
        let context_id = self.context_of(abstract_syntax)?;
        let command = Command::c_find_rq(self.next_message_id(), abstract_syntax);
        let found = self.matches(context_id, &command, identifier, each).await;
        self.settle(found).await
    }

    async fn matches(
        &mut self,
        context_id: u8,
        command: &Command,
        identifier: &[u8],
        mut each: impl FnMut(&[u8]) -> bool + Send,
    ) -> Result<Status, ScuError> {
        self.send(context_id, command, Some(identifier)).await?;
        let mut cancelled_at: Option<Instant> = None;
        loop {
            let status = self.response(command).await?;
            if !status.is_pending() {
                return Ok(status);
            }
            let Some(found) = self.data_set(MAX_DATA_SET).await? else {
                return Err(PduError::invalid("an identifier of more than 1 MiB").into());
            };
            match cancelled_at {
                // A peer may still send what was under way, but not for ever.
                Some(at) if at.elapsed() > self.timeout => return Err(ScuError::TimedOut(self.timeout)),
                Some(_) => {}
                None if each(&found) => {}
                None => {
                    let message_id = command.message_id.unwrap_or_default();
                    self.send(context_id, &Command::c_cancel_rq(message_id), None).await?;
                    cancelled_at = Some(Instant::now());
                }
            }
        }
    }

    /// N-ACTION (PS3.7 §10.1.4) with an action information data set.
    pub async fn action(
        &mut self,
        sop_class_uid: &str,
        sop_instance_uid: &str,
        action_type_id: u16,
        information: &[u8],
    ) -> Result<Status, ScuError> {
        let context_id = self.context_of(sop_class_uid)?;
        let message_id = self.next_message_id();
        let command = Command::n_action_rq(message_id, sop_class_uid, sop_instance_uid, action_type_id);
        self.exchange(context_id, &command, Some(information)).await
    }

    /// Waits up to `wait` for a request from the peer (an N-EVENT-REPORT on the same association);
    /// `None` when it did not come. A release that the peer asks for is answered, and ends the
    /// association. Cancel-safe.
    pub async fn next_request(&mut self, wait: Duration) -> Result<Option<Received>, ScuError> {
        self.early_data_set = None;
        if let Some(EarlyRequest { presentation_context_id, command, data_set }) = self.early.pop_front() {
            self.early_data_set = Some(data_set);
            return Ok(Some(Received::Command { presentation_context_id, command }));
        }
        let deadline = Instant::now() + wait;
        let received = loop {
            match timeout_at(deadline, self.messages.next()).await {
                // The peer has longer to report than to answer.
                Ok(Err(PduError::TimedOut)) => {}
                Ok(received) => break received,
                Err(_) => return Ok(None),
            }
        };
        let received = match received {
            Ok(Received::Command { command, .. }) if command.is_response() => {
                Err(PduError::invalid("a response to no request").into())
            }
            Ok(Received::ReleaseRequested) => {
                self.ended = true;
                let answered = self.messages.answer_release().await;
                answered.map(|()| Some(Received::ReleaseRequested)).map_err(ScuError::from)
            }
            Ok(received) => Ok(Some(received)),
            Err(error) => Err(self.told(error)),
        };
        self.settle(received).await
    }

    /// The data set of the request that [`Association::next_request`] returned, at most `limit`
    /// bytes; `Ok(None)` if longer.
    pub async fn read_data_set(&mut self, limit: usize) -> Result<Option<Bytes>, ScuError> {
        if let Some(data_set) = self.early_data_set.take() {
            return Ok(data_set.filter(|data_set| data_set.len() <= limit));
        }
        let read = self.data_set(limit).await;
        self.settle(read).await
    }

    /// Answers that request.
    pub async fn respond(&mut self, presentation_context_id: u8, response: &Command) -> Result<(), ScuError> {
        let sent = self.send(presentation_context_id, response, None).await;
        self.settle(sent).await
    }

    /// A-RELEASE (PS3.8 §7.2); a peer that does not answer in time is aborted.
    pub async fn release(mut self) {
        if self.ended {
            return;
        }
        if let Err(error) = self.messages.release(Side::Requestor, self.timeout).await
            && let Some(reason) = error.abort_reason()
        {
            self.messages.pdus().abort(reason).await;
        }
    }

    /// A-ABORT.
    pub async fn abort(mut self) {
        if !self.ended {
            self.messages.pdus().abort(AbortReason::SERVICE_USER).await;
        }
    }

    /// Sends a request and returns the status of its only response.
    async fn exchange(
        &mut self,
        context_id: u8,
        command: &Command,
        data_set: Option<&[u8]>,
    ) -> Result<Status, ScuError> {
        let answered = match self.send(context_id, command, data_set).await {
            Ok(()) => self.final_response(command).await,
            Err(error) => Err(error),
        };
        self.settle(answered).await
    }

    async fn send(
        &mut self,
        context_id: u8,
        command: &Command,
        data_set: Option<&[u8]>,
    ) -> Result<(), ScuError> {
        let sent = self.messages.send(context_id, command, data_set).await;
        sent.map_err(|error| self.told(error))
    }

    async fn data_set(&mut self, limit: usize) -> Result<Option<Bytes>, ScuError> {
        let read = self.messages.read_data_set(limit).await;
        read.map_err(|error| self.told(error))
    }

    async fn final_response(&mut self, request: &Command) -> Result<Status, ScuError> {
        let status = self.response(request).await?;
        if status.is_pending() {
            return Err(PduError::invalid("a pending response to an operation that has only one").into());
        }
        Ok(status)
    }

    /// The next response to `request`; a request of the peer that comes first keeps its turn.
    async fn response(&mut self, request: &Command) -> Result<Status, ScuError> {
        loop {
            let received = self.messages.next().await.map_err(|error| self.told(error))?;
            let (presentation_context_id, command) = match received {
                Received::Command { presentation_context_id, command } => (presentation_context_id, command),
                Received::Aborted => return Err(ScuError::Aborted),
                Received::ReleaseRequested => {
                    self.messages.answer_release().await?;
                    return Err(ScuError::Protocol(PduError::Closed));
                }
            };
            if !command.is_response() {
                self.keep_for_later(presentation_context_id, command).await?;
                continue;
            }
            if command.message_id_being_responded_to != request.message_id {
                return Err(PduError::invalid("a response to another message").into());
            }
            if command.command_field != request.command_field | field::RESPONSE {
                return Err(PduError::invalid("a response of another service").into());
            }
            // Where it names an instance, it is ours (PS3.7 §9.3.1.2).
            let (ours, theirs) = (&request.affected_sop_instance_uid, &command.affected_sop_instance_uid);
            if ours.is_some() && theirs.is_some() && ours != theirs {
                return Err(PduError::invalid("a response about another SOP instance").into());
            }
            return command.status.ok_or_else(|| PduError::invalid("a response without status").into());
        }
    }

    async fn keep_for_later(&mut self, context_id: u8, command: Command) -> Result<(), ScuError> {
        if self.early.len() == MOST_EARLY_REQUESTS {
            return Err(PduError::invalid("too many requests while an answer is due").into());
        }
        let data_set = self.data_set(MAX_DATA_SET).await?;
        self.early.push_back(EarlyRequest { presentation_context_id: context_id, command, data_set });
        Ok(())
    }

    fn next_message_id(&mut self) -> u16 {
        self.last_message_id = self.last_message_id.checked_add(1).unwrap_or(1);
        self.last_message_id
    }

    /// What a failure of the message layer means to our caller.
    fn told(&self, error: PduError) -> ScuError {
        match error {
            PduError::Aborted => ScuError::Aborted,
            PduError::TimedOut => ScuError::TimedOut(self.timeout),
            error => ScuError::Protocol(error),
        }
    }

    /// After an error the association is of no use: it is aborted, unless the peer has gone.
    async fn settle<T>(&mut self, result: Result<T, ScuError>) -> Result<T, ScuError> {
        if let Err(error) = &result {
            self.ended = true;
            if let Some(reason) = error.abort_reason() {
                self.messages.pdus().abort(reason).await;
            }
        }
        result
    }
}

#[cfg(test)]
mod tests;
