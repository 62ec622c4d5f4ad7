//! The header of a data set: what identifies, indexes and routes it; read by a push scanner that
//! also checks the structure of the whole data set, in constant memory.

use thiserror::Error;

use super::{Attributes, InstanceKey, TransferSyntax, Uid};

/// Limits of a data set (reliability: lengths, depth and counts are the sender's claims).
#[derive(Debug, Clone, Copy)]
pub struct ScanLimits {
    /// Sequence nesting.
    pub depth: usize,
    /// Elements and items in all.
    pub elements: u64,
    /// Bytes outside Pixel Data and the like (inflated, where deflated).
    pub non_pixel_bytes: u64,
}

impl Default for ScanLimits {
    fn default() -> Self {
        Self { depth: 64, elements: 1_000_000, non_pixel_bytes: 64 << 20 }
    }
}

/// Why a data set can't be taken. Never carries a value of the data set.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ScanError {
    #[error("the data set ends inside an element at byte {at}")]
    Truncated { at: u64 },
    #[error("structure broken at byte {at}: {what}")]
    Malformed { at: u64, what: &'static str },
    #[error("more than {limit} {what}")]
    Limit { what: &'static str, limit: u64 },
    #[error("{keyword} is missing or invalid")]
    Identifier { keyword: &'static str },
}

/// What ingest needs of a data set.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    pub sop_class_uid: Uid,
    pub key: InstanceKey,
    pub attributes: Attributes,
}

/// Push scanner: give it the bytes of the data set as they arrive, then finish it.
pub struct HeaderScanner {}

impl HeaderScanner {
    pub fn new(_transfer_syntax: &'static TransferSyntax, _limits: ScanLimits) -> Self {
        todo!()
    }

    /// Takes the next bytes; an error is final.
    pub fn push(&mut self, _bytes: &[u8]) -> Result<(), ScanError> {
        todo!()
    }

    /// The data set is complete.
    pub fn finish(self) -> Result<Header, ScanError> {
        todo!()
    }
}
