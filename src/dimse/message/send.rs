//! Sending messages: fragments within the peer's maximum length, few writes, and an eye on what
//! the peer says meanwhile.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use thiserror::Error;
use tokio::time::timeout;

use super::{MessageStream, Received};
use crate::dimse::Chunks;
use crate::dimse::command::Command;
use crate::dimse::pdu::{DataValue, PduError, Wire};

/// What we announce as requestor, and the most we send even to a peer without limit: larger PDUs gain nothing.
pub const LARGEST_PDU: u32 = 128 << 10;
/// Room for a value's header and ten bytes. No peer that announces less could take any command.
const SMALLEST_PDU: u32 = 16;
/// Header of a presentation data value within its PDU.
const VALUE_HEADER: usize = 6;
/// About how much goes into one write.
const WRITE: usize = 256 << 10;
/// How long to look for the A-ABORT of a peer that no longer takes our bytes.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Our limit for outgoing P-DATA-TF, from the Maximum Length that the peer announced (PS3.8 §D.1:
/// 0 is without limit).
pub fn outgoing_pdu_length(announced_by_peer: u32) -> u32 {
    match announced_by_peer {
        0 => LARGEST_PDU,
        length => length.clamp(SMALLEST_PDU, LARGEST_PDU),
    }
}

/// Why a message could not be sent.
#[derive(Debug, Error)]
pub enum SendError {
    #[error(transparent)]
    Pdu(#[from] PduError),
    /// Our own source of bytes failed: the data set is incomplete, so the association must be
    /// aborted lest the peer take it for whole.
    #[error("reading the data set: {0}")]
    Source(std::io::Error),
}

impl<W: Wire> MessageStream<W> {
    /// Sends a message: command, then the data set when given. Small messages take one write.
    pub async fn send(
        &mut self,
        context_id: u8,
        command: &Command,
        data_set: Option<&[u8]>,
    ) -> Result<(), PduError> {
        // Whether a data set follows is said by what is sent (PS3.7 §E.1, Command Data Set Type).
        let command = Command { has_data_set: data_set.is_some(), ..command.clone() };
        let mut values = self.command_values(context_id, &command);
        for fragment in fragments(data_set.map(Bytes::copy_from_slice), self.payload()) {
            values.push(DataValue { presentation_context_id: context_id, is_command: false, ..fragment });
        }
        let per_write = (WRITE / self.payload()).max(1);
        for batch in values.chunks(per_write) {
            self.write(batch).await?;
        }
        Ok(())
    }

    /// Sends a command and its data set as the bytes come, holding about one PDU. An answer that
    /// comes early waits for its turn; an abort ends the sending.
    pub async fn send_streamed(
        &mut self,
        context_id: u8,
        command: &Command,
        mut data_set: Chunks<'_>,
    ) -> Result<(), SendError> {
        let payload = self.payload();
        let mut values = self.command_values(context_id, command);
        let mut held = Held::default();
        while let Some(chunk) = data_set.next().await {
            held.push(chunk.map_err(SendError::Source)?);
            // Something is kept back always: the last fragment is marked as such.
            while held.length > payload {
                values.push(data_value(context_id, false, held.take(payload)));
                self.write(&values).await?;
                values.clear();
                self.heed_abort()?;
            }
        }
        let rest = held.length;
        values.push(data_value(context_id, true, held.take(rest)));
        self.write(&values).await?;
        Ok(())
    }

    /// Bytes of message in one PDU. Even: fragments of odd length are an error to many peers.
    fn payload(&self) -> usize {
        (self.limits.max_outgoing_pdu.max(SMALLEST_PDU) as usize - VALUE_HEADER) & !1
    }

    fn command_values(&self, context_id: u8, command: &Command) -> Vec<DataValue> {
        let fragments = fragments(Some(Bytes::from(command.encode())), self.payload());
        let on_context = |fragment| DataValue { presentation_context_id: context_id, ..fragment };
        fragments.into_iter().map(on_context).collect()
    }

    /// A peer that aborts closes at once, and writing fails before its A-ABORT was read.
    async fn write(&mut self, values: &[DataValue]) -> Result<(), PduError> {
        let Err(error) = self.pdus.send_data(values).await else { return Ok(()) };
        let may_have_aborted = matches!(error, PduError::Io(_)) && self.data_set_context.is_none();
        if may_have_aborted && let Ok(Ok(Received::Aborted)) = timeout(LAST_WORDS, self.receive()).await {
            return Err(PduError::Aborted);
        }
        Err(error)
    }

    /// Reads ahead what the peer said while we send.
    fn heed_abort(&mut self) -> Result<(), PduError> {
        self.read_ahead()?;
        if matches!(self.queued, Some(Received::Aborted)) { Err(PduError::Aborted) } else { Ok(()) }
    }
}

/// Command fragments of at most `payload` bytes.
fn fragments(message: Option<Bytes>, payload: usize) -> Vec<DataValue> {
    let Some(mut rest) = message else { return Vec::new() };
    let mut values = Vec::with_capacity(rest.len() / payload + 1);
    loop {
        let data = rest.split_to(rest.len().min(payload));
        let is_last = rest.is_empty();
        values.push(DataValue { presentation_context_id: 0, is_command: true, is_last, data });
        if is_last {
            return values;
        }
    }
}

fn data_value(presentation_context_id: u8, is_last: bool, data: Bytes) -> DataValue {
    DataValue { presentation_context_id, is_command: false, is_last, data }
}

/// Bytes on their way into fragments.
#[derive(Default)]
struct Held {
    chunks: std::collections::VecDeque<Bytes>,
    length: usize,
}

impl Held {
    fn push(&mut self, chunk: Bytes) {
        self.length += chunk.len();
        self.chunks.push_back(chunk);
    }

    /// The first `length` bytes; copied only when they lie in several chunks.
    fn take(&mut self, length: usize) -> Bytes {
        self.length -= length;
        if let Some(first) = self.chunks.front_mut()
            && first.len() >= length
        {
            return first.split_to(length);
        }
        let mut joined = BytesMut::with_capacity(length);
        while joined.len() < length {
            let Some(mut chunk) = self.chunks.pop_front() else { break };
            let taken = chunk.split_to(chunk.len().min(length - joined.len()));
            joined.extend_from_slice(&taken);
            if !chunk.is_empty() {
                self.chunks.push_front(chunk);
            }
        }
        joined.freeze()
    }
}
