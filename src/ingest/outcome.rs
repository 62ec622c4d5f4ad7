//! What becomes of an offer, and how each door says it: the one table from [`Refusal`] to DIMSE
//! status and STOW failure reason.

use crate::dicom::status::Status;
use crate::dicom::{InstanceKey, ScanError, Uid};
use crate::spool::{Digest, EntryId, SpoolError};

/// Proof that an object is durable. Only ingest makes one, so a door can't answer success
/// without it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Receipt {
    pub entry: EntryId,
    pub key: InstanceKey,
    pub sop_class_uid: Uid,
    pub data_set_sha256: Digest,
    /// Bytes of the data set.
    pub size: u64,
    pub outcome: ReceiptOutcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReceiptOutcome {
    New,
    /// The same object was held already; no second copy was made.
    Duplicate,
    /// Same SOP Instance UID, other content: both kept, this one held for a person.
    Conflict,
}

impl ReceiptOutcome {
    /// For logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            ReceiptOutcome::New => "new",
            ReceiptOutcome::Duplicate => "duplicate",
            ReceiptOutcome::Conflict => "conflict",
        }
    }
}

/// Why an object was not taken. An outcome that its sender hears, not an error of ours.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("SOP class {0} is not a storage class that this node accepts")]
    UnsupportedSopClass(Uid),
    #[error("the transfer syntax is unknown to this node")]
    UnsupportedTransferSyntax,
    #[error("SOP Instance UID of command and data set differ")]
    SopInstanceMismatch,
    #[error("SOP Class UID of command and data set differ")]
    SopClassMismatch,
    #[error("the object belongs to another study than the request names")]
    StudyMismatch,
    /// The data set is damaged, or lacks what identifies an instance.
    #[error("cannot understand the data set: {0}")]
    CannotUnderstand(#[from] ScanError),
    #[error("not a DICOM Part 10 file: {0}")]
    NotPart10(String),
    #[error("the object is longer than the limit of {limit} bytes")]
    TooLarge { limit: u64 },
    #[error("{0}")]
    OutOfResources(String),
    /// The sender broke off; there is nobody to answer, or the request as a whole fails.
    #[error("the sender broke off: {0}")]
    Interrupted(#[source] std::io::Error),
}

impl Refusal {
    /// Stable code for logs, metrics and problem bodies.
    pub fn code(&self) -> &'static str {
        match self {
            Refusal::UnsupportedSopClass(_) => "UNSUPPORTED_SOP_CLASS",
            Refusal::UnsupportedTransferSyntax => "UNSUPPORTED_TRANSFER_SYNTAX",
            Refusal::SopInstanceMismatch => "SOP_INSTANCE_MISMATCH",
            Refusal::SopClassMismatch => "SOP_CLASS_MISMATCH",
            Refusal::StudyMismatch => "STUDY_MISMATCH",
            Refusal::CannotUnderstand(_) => "CANNOT_UNDERSTAND",
            Refusal::NotPart10(_) => "NOT_PART10",
            Refusal::TooLarge { .. } => "TOO_LARGE",
            Refusal::OutOfResources(_) => "OUT_OF_RESOURCES",
            Refusal::Interrupted(_) => "INTERRUPTED",
        }
    }

    /// C-STORE-RSP status (PS3.4 §B.2.3, PS3.7 §9.1.1.1.9).
    pub fn dimse_status(&self) -> Status {
        match self {
            Refusal::UnsupportedSopClass(_) => Status::SOP_CLASS_NOT_SUPPORTED,
            Refusal::SopInstanceMismatch | Refusal::SopClassMismatch | Refusal::StudyMismatch => {
                Status::DATA_SET_MISMATCH
            }
            Refusal::UnsupportedTransferSyntax | Refusal::CannotUnderstand(_) | Refusal::NotPart10(_) => {
                Status::CANNOT_UNDERSTAND
            }
            Refusal::TooLarge { .. } | Refusal::OutOfResources(_) => Status::OUT_OF_RESOURCES,
            Refusal::Interrupted(_) => Status::PROCESSING_FAILURE,
        }
    }

    /// FailureReason (0008,1197) of STOW-RS (PS3.18 §I.2.2): the DIMSE status but for the
    /// transfer syntax, which has a code of its own there.
    pub fn stow_failure_reason(&self) -> u16 {
        match self {
            Refusal::UnsupportedTransferSyntax => 0xC122,
            other => other.dimse_status().0,
        }
    }
}

/// The spool refuses an object only for want of room, because it is closed, or because the disk
/// fails: each time the sender shall keep it and come back. What exactly failed is not for peers.
impl From<SpoolError> for Refusal {
    fn from(error: SpoolError) -> Refusal {
        let said = match &error {
            SpoolError::Full(_) => "the spool has no room",
            SpoolError::Failed(_) => "the spool is closed",
            _ => {
                tracing::error!(%error, "an object was refused");
                "the spool's disk fails"
            }
        };
        Refusal::OutOfResources(said.to_owned())
    }
}
