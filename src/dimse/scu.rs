//! The outgoing association: echo, store, find, N-ACTION; and reports that come back on it.

use std::time::Duration;

use thiserror::Error;

use crate::dicom::status::Status;
use crate::dicom::{AeTitle, TransferSyntax, Uid};

use super::message::Received;
use super::pdu::PduError;

/// How to reach a peer.
#[derive(Debug, Clone)]
pub struct Peer {
    pub host: String,
    pub port: u16,
    pub called_ae_title: AeTitle,
    pub calling_ae_title: AeTitle,
    pub timeout: Duration,
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

/// An established outgoing association.
pub struct Association {}

impl Association {
    /// Proposes at most 128 contexts (ids 1, 3 … 255).
    pub async fn connect(_peer: &Peer, _proposals: &[Proposal]) -> Result<Self, ScuError> {
        todo!()
    }

    /// The accepted context for this SOP class and transfer syntax.
    pub fn context(&self, _abstract_syntax: &str, _transfer_syntax: &str) -> Option<u8> {
        todo!()
    }

    /// The accepted context for this abstract syntax, with the transfer syntax that was chosen.
    pub fn any_context(&self, _abstract_syntax: &str) -> Option<(u8, &'static TransferSyntax)> {
        todo!()
    }

    /// C-ECHO (PS3.7 §9.1.5).
    pub async fn echo(&mut self) -> Result<Status, ScuError> {
        todo!()
    }

    /// C-STORE (PS3.7 §9.1.1). `data_set` yields the bytes in the negotiated syntax; memory use is
    /// bounded by one PDU.
    pub async fn store(
        &mut self,
        _sop_class_uid: &Uid,
        _sop_instance_uid: &Uid,
        _transfer_syntax_uid: &str,
        _data_set: crate::ingest::Chunks<'_>,
    ) -> Result<Status, ScuError> {
        todo!()
    }

    /// C-FIND (PS3.7 §9.1.2): calls `each` with every identifier, encoded in the context's syntax;
    /// `false` cancels. Returns the final status.
    pub async fn find(
        &mut self,
        _abstract_syntax: &str,
        _identifier: &[u8],
        _each: impl FnMut(&[u8]) -> bool + Send,
    ) -> Result<Status, ScuError> {
        todo!()
    }

    /// N-ACTION (PS3.7 §10.1.4) with an action information data set.
    pub async fn action(
        &mut self,
        _sop_class_uid: &str,
        _sop_instance_uid: &str,
        _action_type_id: u16,
        _information: &[u8],
    ) -> Result<Status, ScuError> {
        todo!()
    }

    /// Waits up to `wait` for a request from the peer (an N-EVENT-REPORT on the same association);
    /// `None` when it did not come.
    pub async fn next_request(&mut self, _wait: Duration) -> Result<Option<Received>, ScuError> {
        todo!()
    }

    /// The data set of the request that [`Association::next_request`] returned, at most `limit`
    /// bytes; `Ok(None)` if longer.
    pub async fn read_data_set(&mut self, _limit: usize) -> Result<Option<bytes::Bytes>, ScuError> {
        todo!()
    }

    /// Answers that request.
    pub async fn respond(
        &mut self,
        _presentation_context_id: u8,
        _response: &super::command::Command,
    ) -> Result<(), ScuError> {
        todo!()
    }

    /// A-RELEASE (PS3.8 §7.2); a peer that does not answer in time is aborted.
    pub async fn release(self) {
        todo!()
    }

    /// A-ABORT.
    pub async fn abort(self) {
        todo!()
    }
}
