//! PDUs (PS3.8 §9.3): what may arrive in which phase, how long it may be, and how its bytes are
//! read. Bytes come and go through [`PduStream`]. P-DATA-TF is framed here so that fragments are
//! never copied; association PDUs are read and written by [`super::associate`], and `dicom_ul`
//! lends the type [`Pdu`] and reads and writes the releases.
//! Nothing is allocated from a length that a peer declared.

use bytes::{Buf, Bytes};
use dicom_ul::pdu::{AbortRQSource, Pdu, read_pdu};
use thiserror::Error;

use super::associate::{AssociateAccept, AssociateRequest};

mod stream;

pub use stream::{PduStream, Wire};

/// Largest association PDU taken (A-ASSOCIATE-RQ with 128 contexts and many syntaxes).
pub const MAX_ASSOCIATION_PDU: u32 = 1 << 20;

/// PDU type and reserved byte, then the length of what follows (PS3.8 §9.3.1).
const HEADER: usize = 6;

/// PDU types (PS3.8 §9.3.1).
mod pdu_type {
    pub const ASSOCIATE_RQ: u8 = 1;
    pub const ASSOCIATE_AC: u8 = 2;
    pub const ASSOCIATE_RJ: u8 = 3;
    pub const DATA_TF: u8 = 4;
    pub const RELEASE_RQ: u8 = 5;
    pub const RELEASE_RP: u8 = 6;
    pub const ABORT: u8 = 7;
}

/// One presentation data value (PS3.8 §9.3.5.1), its bytes shared with the read buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataValue {
    pub presentation_context_id: u8,
    pub is_command: bool,
    pub is_last: bool,
    pub data: Bytes,
}

/// The values of one P-DATA-TF, checked as a whole and taken apart one by one: a PDU of tiny
/// values costs no more memory than its bytes.
#[derive(Debug, Clone, Default)]
pub struct DataValues {
    rest: Bytes,
}

impl DataValues {
    /// Takes the variable field of a P-DATA-TF; `Err` says what is wrong with it.
    fn check(body: Bytes) -> Result<Self, &'static str> {
        let mut at = &body[..];
        if at.is_empty() {
            return Err("P-DATA-TF without a value");
        }
        while !at.is_empty() {
            let Some(&[a, b, c, d]) = at.first_chunk::<4>() else {
                return Err("a presentation data value is cut short");
            };
            let length = u32::from_be_bytes([a, b, c, d]) as usize;
            if length < 2 || length > at.len() - 4 {
                return Err("the length of a presentation data value is wrong");
            }
            at = &at[4 + length..];
        }
        Ok(Self { rest: body })
    }
}

impl Iterator for DataValues {
    type Item = DataValue;

    fn next(&mut self) -> Option<DataValue> {
        if self.rest.is_empty() {
            return None;
        }
        let length = self.rest.get_u32() as usize;
        let mut value = self.rest.split_to(length);
        let presentation_context_id = value.get_u8();
        // Bits 2 to 7 are reserved and not to be checked (PS3.8 §E.2).
        let control = value.get_u8();
        Some(DataValue {
            presentation_context_id,
            is_command: control & 1 != 0,
            is_last: control & 2 != 0,
            data: value,
        })
    }
}

#[derive(Debug)]
pub enum Incoming {
    Data(DataValues),
    AssociateRequest(AssociateRequest),
    AssociateAccept(AssociateAccept),
    /// Result, source and reason of an A-ASSOCIATE-RJ (PS3.8 §9.3.4), reserved values included.
    AssociateReject {
        result: u8,
        source: u8,
        reason: u8,
    },
    /// A-RELEASE-RQ, A-RELEASE-RP or A-ABORT.
    Other(Pdu),
}

impl Incoming {
    pub fn is_abort(&self) -> bool {
        matches!(self, Incoming::Other(Pdu::AbortRQ { .. }))
    }
}

/// What went wrong on the stream; `Protocol` says with which A-ABORT to answer (PS3.8 §9.3.8).
#[derive(Debug, Error)]
pub enum PduError {
    #[error("the peer closed the connection")]
    Closed,
    #[error("the peer aborted the association")]
    Aborted,
    #[error("the peer made no progress within the time limit")]
    TimedOut,
    #[error("{what}")]
    Protocol { what: &'static str, abort: AbortReason },
    #[error("connection failed: {0}")]
    Io(#[from] std::io::Error),
}

impl PduError {
    /// The A-ABORT that this error calls for; `None` when nobody is left to read it.
    pub fn abort_reason(&self) -> Option<AbortReason> {
        match self {
            Self::Closed | Self::Aborted | Self::Io(_) => None,
            Self::TimedOut => Some(AbortReason::SERVICE_USER),
            Self::Protocol { abort, .. } => Some(*abort),
        }
    }

    /// An error of an established association that is answered with 2/6.
    pub(super) fn invalid(what: &'static str) -> Self {
        Self::Protocol { what, abort: AbortReason::INVALID_PARAMETER }
    }

    /// An error of an established association that is answered with 2/2.
    pub(super) fn unexpected(what: &'static str) -> Self {
        Self::Protocol { what, abort: AbortReason::UNEXPECTED_PDU }
    }
}

/// Source and reason of an A-ABORT (PS3.8 §9.3.8, table 9-26).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AbortReason {
    pub source: u8,
    pub reason: u8,
}

impl AbortReason {
    /// Before an association exists (AA-1), and when it is our service that gives up.
    pub const SERVICE_USER: Self = Self { source: 0, reason: 0 };
    pub const UNRECOGNIZED_PDU: Self = Self { source: 2, reason: 1 };
    pub const UNEXPECTED_PDU: Self = Self { source: 2, reason: 2 };
    pub const INVALID_PARAMETER: Self = Self { source: 2, reason: 6 };
}

/// How far the association has come; decides what is expected and how a fault is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Sta2: the acceptor waits for A-ASSOCIATE-RQ. Every fault is answered 0/0 (AA-1).
    AwaitingRequest,
    /// Sta5: the requestor waits for the answer to its A-ASSOCIATE-RQ.
    AwaitingAnswer,
    /// Sta6 and later; P-DATA-TF up to the length that we announced.
    Established { max_pdu_length: u32 },
}

impl Phase {
    fn fault(self, what: &'static str, abort: AbortReason) -> PduError {
        let abort = if self == Self::AwaitingRequest { AbortReason::SERVICE_USER } else { abort };
        PduError::Protocol { what, abort }
    }

    fn invalid(self, what: &'static str) -> PduError {
        self.fault(what, AbortReason::INVALID_PARAMETER)
    }

    /// Whether a PDU of this type may arrive now: known from its first byte.
    fn admit_type(self, pdu_type: u8) -> Result<(), PduError> {
        use pdu_type::{ABORT, ASSOCIATE_AC, ASSOCIATE_RJ, ASSOCIATE_RQ, DATA_TF, RELEASE_RP, RELEASE_RQ};
        let expected = match self {
            Self::AwaitingRequest => matches!(pdu_type, ASSOCIATE_RQ | ABORT),
            Self::AwaitingAnswer => matches!(pdu_type, ASSOCIATE_AC | ASSOCIATE_RJ | ABORT),
            Self::Established { .. } => matches!(pdu_type, DATA_TF | RELEASE_RQ | RELEASE_RP | ABORT),
        };
        if expected {
            return Ok(());
        }
        if (ASSOCIATE_RQ..=ABORT).contains(&pdu_type) {
            return Err(self.fault("a PDU that may not come now", AbortReason::UNEXPECTED_PDU));
        }
        Err(self.fault("not a DICOM PDU", AbortReason::UNRECOGNIZED_PDU))
    }

    /// Whether an admitted PDU may have this length: known before any of it is buffered.
    fn admit_length(self, pdu_type: u8, length: u32) -> Result<(), PduError> {
        let fits = match (pdu_type, self) {
            (pdu_type::DATA_TF, Self::Established { max_pdu_length }) => length <= max_pdu_length,
            (pdu_type::ASSOCIATE_RQ | pdu_type::ASSOCIATE_AC, _) => length <= MAX_ASSOCIATION_PDU,
            _ => length == 4,
        };
        if fits { Ok(()) } else { Err(self.invalid("the length of a PDU is beyond its limit")) }
    }

    /// Reads a whole PDU, header included, that was admitted.
    fn decode(self, mut pdu: Bytes) -> Result<Incoming, PduError> {
        let invalid = |what| self.invalid(what);
        let body = pdu.slice(HEADER..);
        match pdu[0] {
            pdu_type::DATA_TF => Ok(Incoming::Data(DataValues::check(body).map_err(invalid)?)),
            pdu_type::ASSOCIATE_RQ => {
                AssociateRequest::decode(&body).map(Incoming::AssociateRequest).map_err(invalid)
            }
            pdu_type::ASSOCIATE_AC => {
                AssociateAccept::decode(&body).map(Incoming::AssociateAccept).map_err(invalid)
            }
            pdu_type::ASSOCIATE_RJ => {
                let [_, result, source, reason] = *body else {
                    return Err(invalid("a rejection that is cut short"));
                };
                Ok(Incoming::AssociateReject { result, source, reason })
            }
            // An abort is one for whatever reason; reserved reasons make the library fail.
            pdu_type::ABORT => Ok(Incoming::Other(Pdu::AbortRQ { source: AbortRQSource::Reserved })),
            _ => match read_pdu(&mut pdu, MAX_ASSOCIATION_PDU, true) {
                Ok(Some(other)) => Ok(Incoming::Other(other)),
                _ => Err(invalid("a PDU that can't be read")),
            },
        }
    }
}

#[cfg(test)]
mod tests;
