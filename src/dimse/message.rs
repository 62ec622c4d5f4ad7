//! DIMSE messages over an established association: commands are assembled, data sets streamed
//! fragment by fragment with back-pressure (PS3.8 annex E, PS3.7 §6.3.1). The service of the
//! acceptor and the requestor in [`super::scu`] both stand on this. At most one PDU, one command
//! set and one queued message are held.

use bytes::{Bytes, BytesMut};
use dicom_ul::pdu::Pdu;
use futures_util::FutureExt;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::command::{Command, field};
use super::pdu::{DataValue, DataValues, Incoming, PduError, PduStream, Wire};

mod release;
mod send;

pub use release::Side;
pub use send::{LARGEST_PDU, SendError, outgoing_pdu_length};

/// Real command sets have some hundred bytes.
const MAX_COMMAND_SET: usize = 16 << 10;

/// What comes next on an association between messages.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one at a time, and almost always a command")]
pub enum Received {
    Command { presentation_context_id: u8, command: Command },
    ReleaseRequested,
    Aborted,
}

/// What an established association agreed on that the message layer must respect.
#[derive(Debug, Clone)]
pub struct MessageLimits {
    /// Accepted presentation context ids; a value on another is a protocol error.
    pub presentation_context_ids: Vec<u8>,
    /// Largest P-DATA-TF we may send, from [`outgoing_pdu_length`]; never 0.
    pub max_outgoing_pdu: u32,
    /// Longest wait for the next PDU between messages, and for progress inside one.
    pub idle: Duration,
}

/// Both directions of an established association.
#[derive(Debug)]
pub struct MessageStream<W = TcpStream> {
    pdus: PduStream<W>,
    limits: MessageLimits,
    /// What is left of the last P-DATA-TF.
    pending: DataValues,
    /// A command set that is not complete yet, with its context.
    partial: Option<(u8, Vec<u8>)>,
    /// Context of the data set that is being received.
    data_set_context: Option<u8>,
    /// What was read ahead of its turn, by [`MessageStream::poll_cancel`] or while sending.
    queued: Option<Received>,
    /// Since when we wait for the peer without progress.
    waiting_since: Option<Instant>,
}

/// One step of what arrives.
enum Step {
    Value(DataValue),
    ReleaseRequested,
    Aborted,
}

impl<W: Wire> MessageStream<W> {
    /// Takes over a stream on which A-ASSOCIATE-AC has passed.
    pub fn new(mut pdus: PduStream<W>, limits: MessageLimits) -> Self {
        pdus.set_write_limit(limits.idle);
        Self {
            pdus,
            limits,
            pending: DataValues::default(),
            partial: None,
            data_set_context: None,
            queued: None,
            waiting_since: None,
        }
    }

    /// Waits for the next message. A data set left unread from the last one is drained first.
    /// A C-CANCEL-RQ that comes when there is nothing to cancel is passed over (PS3.7 §9.3.2.3).
    /// Cancel-safe.
    pub async fn next(&mut self) -> Result<Received, PduError> {
        match self.drain().await {
            Err(PduError::Aborted) => return Ok(Received::Aborted),
            drained => drained?,
        }
        loop {
            let received = match self.queued.take() {
                Some(queued) => queued,
                None => self.receive().await?,
            };
            if let Received::Command { presentation_context_id, command } = &received {
                if command.command_field == field::C_CANCEL_RQ {
                    continue;
                }
                self.data_set_context = command.has_data_set.then_some(*presentation_context_id);
            }
            return Ok(received);
        }
    }

    async fn drain(&mut self) -> Result<(), PduError> {
        while self.next_fragment().await?.is_some() {}
        Ok(())
    }

    /// The next fragment of the current message's data set, never empty; `None` after its last.
    /// Cancel-safe. The fragment shares the read buffer: who keeps many should copy them.
    pub async fn next_fragment(&mut self) -> Result<Option<Bytes>, PduError> {
        while let Some(context) = self.data_set_context {
            let value = match self.step().await? {
                Step::Value(value) => value,
                Step::ReleaseRequested => return Err(PduError::unexpected("a release within a message")),
                Step::Aborted => return Err(PduError::Aborted),
            };
            if value.is_command || value.presentation_context_id != context {
                return Err(PduError::invalid("another message within a data set"));
            }
            if value.is_last {
                self.data_set_context = None;
            }
            if !value.data.is_empty() {
                return Ok(Some(value.data));
            }
        }
        Ok(None)
    }

    /// The whole data set of the current message, at most `limit` bytes; `Ok(None)` if longer
    /// (the rest is drained).
    pub async fn read_data_set(&mut self, limit: usize) -> Result<Option<Bytes>, PduError> {
        let mut whole = BytesMut::new();
        while let Some(fragment) = self.next_fragment().await? {
            if whole.len() + fragment.len() > limit {
                self.drain().await?;
                return Ok(None);
            }
            whole.extend_from_slice(&fragment);
        }
        Ok(Some(whole.freeze()))
    }

    /// Whether the operation with this message id is to stop: its C-CANCEL-RQ has arrived, or a
    /// release or abort, which [`MessageStream::next`] will then return. Does not wait: lets a
    /// service look between its responses. Other messages keep their turn.
    pub async fn poll_cancel(&mut self, message_id: u16) -> Result<bool, PduError> {
        while self.read_ahead()? {
            let Some(Received::Command { command, .. }) = &self.queued else { return Ok(true) };
            if command.command_field != field::C_CANCEL_RQ {
                return Ok(false);
            }
            let is_ours = command.message_id_being_responded_to == Some(message_id);
            self.queued = None;
            if is_ours {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Reads one message ahead if it has arrived and no data set is in the way; whether one is
    /// queued now.
    fn read_ahead(&mut self) -> Result<bool, PduError> {
        if self.queued.is_some() {
            return Ok(true);
        }
        if self.data_set_context.is_some() {
            return Ok(false);
        }
        let received = self.receive().now_or_never();
        // We don't wait for the peer, but it for us.
        self.waiting_since = None;
        self.queued = received.transpose()?;
        Ok(self.queued.is_some())
    }

    /// Assembles the next command, or takes what ends the association.
    async fn receive(&mut self) -> Result<Received, PduError> {
        loop {
            let value = match self.step().await? {
                Step::Value(value) => value,
                Step::ReleaseRequested => return Ok(Received::ReleaseRequested),
                Step::Aborted => return Ok(Received::Aborted),
            };
            if let Some(received) = self.take_command_fragment(&value)? {
                return Ok(received);
            }
        }
    }

    fn take_command_fragment(&mut self, value: &DataValue) -> Result<Option<Received>, PduError> {
        if !value.is_command {
            return Err(PduError::invalid("a data set that no command announced"));
        }
        let (context, bytes) =
            self.partial.get_or_insert_with(|| (value.presentation_context_id, Vec::new()));
        if *context != value.presentation_context_id {
            return Err(PduError::invalid("a command set on two presentation contexts"));
        }
        if bytes.len() + value.data.len() > MAX_COMMAND_SET {
            return Err(PduError::invalid("a command set of more than 16 KiB"));
        }
        bytes.extend_from_slice(&value.data);
        if !value.is_last {
            return Ok(None);
        }
        let command = Command::decode(bytes).map_err(PduError::invalid)?;
        let presentation_context_id = *context;
        self.partial = None;
        Ok(Some(Received::Command { presentation_context_id, command }))
    }

    /// The next value or end. Bytes and the ends of messages count as progress; a peer that sends
    /// empty fragments runs into the limit like one that is silent.
    async fn step(&mut self) -> Result<Step, PduError> {
        loop {
            if let Some(value) = self.pending.next() {
                if !self.limits.presentation_context_ids.contains(&value.presentation_context_id) {
                    return Err(PduError::invalid("a presentation context that was not accepted"));
                }
                if value.is_last || !value.data.is_empty() {
                    self.waiting_since = None;
                }
                return Ok(Step::Value(value));
            }
            let deadline = *self.waiting_since.get_or_insert_with(Instant::now) + self.limits.idle;
            let received = if Instant::now() < deadline {
                timeout_at(deadline, self.pdus.receive()).await.ok()
            } else {
                None
            };
            let Some(incoming) = received else {
                self.waiting_since = None;
                return Err(PduError::TimedOut);
            };
            match incoming? {
                Incoming::Data(values) => self.pending = values,
                Incoming::Other(Pdu::ReleaseRQ) => return Ok(Step::ReleaseRequested),
                Incoming::Other(Pdu::AbortRQ { .. }) => return Ok(Step::Aborted),
                _ => return Err(PduError::unexpected("a PDU that may not come now")),
            }
        }
    }

    /// The PDU stream, for abort.
    pub fn pdus(&mut self) -> &mut PduStream<W> {
        &mut self.pdus
    }
}

#[cfg(test)]
mod tests;
