//! DIMSE messages over an established association: commands are assembled, data sets streamed
//! fragment by fragment with back-pressure (PS3.8 annex E, PS3.7 §6.3.1).

use bytes::Bytes;
use std::time::Duration;

use super::command::Command;
use super::pdu::{PduError, PduStream};

/// What comes next on an association between messages.
#[derive(Debug)]
pub enum Received {
    Command { presentation_context_id: u8, command: Command },
    ReleaseRequested,
    Aborted,
}

/// Both directions of an established association.
pub struct MessageStream {
    _pdus: PduStream,
}

/// What an established association agreed on that the message layer must respect.
#[derive(Debug, Clone)]
pub struct MessageLimits {
    /// Accepted presentation context ids; a value on another is a protocol error.
    pub presentation_context_ids: Vec<u8>,
    /// Largest P-DATA-TF we may send: the peer's Maximum Length, clamped to ours; never 0.
    pub max_outgoing_pdu: u32,
    /// Longest wait for the next PDU between messages, and for progress inside one.
    pub idle: Duration,
}

impl MessageStream {
    pub fn new(_pdus: PduStream, _limits: MessageLimits) -> Self {
        todo!()
    }

    /// Waits for the next message. A data set left unread from the last one is drained first.
    pub async fn next(&mut self) -> Result<Received, PduError> {
        todo!()
    }

    /// The next fragment of the current message's data set; `None` after its last. Cancel-safe.
    pub async fn next_fragment(&mut self) -> Result<Option<Bytes>, PduError> {
        todo!()
    }

    /// The whole data set of the current message, at most `limit` bytes; `Ok(None)` if longer
    /// (the rest is drained).
    pub async fn read_data_set(&mut self, _limit: usize) -> Result<Option<Bytes>, PduError> {
        todo!()
    }

    /// A C-CANCEL-RQ for `message_id`, release or abort that has arrived meanwhile, without
    /// waiting: lets a service look between its responses.
    pub async fn poll_cancel(&mut self, _message_id: u16) -> Result<bool, PduError> {
        todo!()
    }

    /// Sends a message: command, then the data set when given. Small messages take one write.
    pub async fn send(
        &mut self,
        _context_id: u8,
        _command: &Command,
        _data_set: Option<&[u8]>,
    ) -> Result<(), PduError> {
        todo!()
    }

    /// Gives the PDU stream back, for release and abort.
    pub fn pdus(&mut self) -> &mut PduStream {
        todo!()
    }
}
