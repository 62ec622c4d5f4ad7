//! PDUs over a byte stream (PS3.8 §9.3): framing, length caps, one write per PDU.

use bytes::Bytes;
use dicom_ul::pdu::Pdu;
use thiserror::Error;
use tokio::net::TcpStream;

use super::associate::AssociateRequest;

/// Largest association PDU taken (A-ASSOCIATE-RQ with 128 contexts and many syntaxes).
pub const MAX_ASSOCIATION_PDU: u32 = 1 << 20;

/// One presentation data value (PS3.8 §9.3.5.1), its bytes shared with the read buffer.
#[derive(Debug, Clone)]
pub struct DataValue {
    pub presentation_context_id: u8,
    pub is_command: bool,
    pub is_last: bool,
    pub data: Bytes,
}

#[derive(Debug)]
pub enum Incoming {
    Data(Vec<DataValue>),
    /// A-ASSOCIATE-RQ, read by `AssociateRequest::decode`; what it can't read is a protocol error.
    AssociateRequest(AssociateRequest),
    /// Anything else.
    Other(Pdu),
}

/// What went wrong while reading; `abort` says with which A-ABORT to answer it (PS3.8 §9.3.8).
#[derive(Debug, Error)]
pub enum PduError {
    #[error("the peer closed the connection")]
    Closed,
    #[error("no PDU within the time limit")]
    TimedOut,
    #[error("{what}")]
    Protocol { what: &'static str, abort: AbortReason },
    #[error("connection failed: {0}")]
    Io(#[from] std::io::Error),
}

/// Source and reason of an A-ABORT (PS3.8 §9.3.8, table 9-26).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AbortReason {
    pub source: u8,
    pub reason: u8,
}

impl AbortReason {
    /// Before an association exists (AA-1).
    pub const SERVICE_USER: Self = Self { source: 0, reason: 0 };
    pub const UNRECOGNIZED_PDU: Self = Self { source: 2, reason: 1 };
    pub const UNEXPECTED_PDU: Self = Self { source: 2, reason: 2 };
    pub const INVALID_PARAMETER: Self = Self { source: 2, reason: 6 };
}

/// Frames PDUs on a stream. Receiving re-arms `TCP_QUICKACK` before each read; see
/// `docs/decisions/` for what that is worth.
pub struct PduStream {
    _io: TcpStream,
}

impl PduStream {
    /// Sets `TCP_NODELAY`. `max_pdu_length` caps incoming P-DATA-TF PDUs, once announced.
    pub fn new(_io: TcpStream, _max_pdu_length: u32) -> std::io::Result<Self> {
        todo!()
    }

    /// The next PDU. Cancel-safe: what was read stays buffered. Memory grows with bytes received,
    /// never with lengths declared.
    pub async fn receive(&mut self) -> Result<Incoming, PduError> {
        todo!()
    }

    /// Encodes and writes one PDU with one write.
    pub async fn send(&mut self, _pdu: &Pdu) -> Result<(), PduError> {
        todo!()
    }

    /// One P-DATA-TF PDU with the given values, in one write.
    pub async fn send_data(&mut self, _values: &[DataValue]) -> Result<(), PduError> {
        todo!()
    }

    /// A-ABORT, then close; waits for the peer at most a moment.
    pub async fn abort(&mut self, _reason: AbortReason) {
        todo!()
    }
}
