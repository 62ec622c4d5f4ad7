//! Compares what a destination holds under a UID with what was received here: the only proof where a
//! UID is not evidence. The data set must have the SHA-256 that it came with, or say the same where
//! the archive wrote it anew. `wado` and `retrieval` fetch it.

use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::content::ContentDigest;
use crate::dicom::TransferSyntax;
use crate::spool::{CheckBy, Spool, SpoolEntry, SpoolError};

/// Bytes of our own copy read at a time.
const CHUNK: usize = 256 << 10;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compared {
    Same,
    Different,
    Absent,
    /// It can't be fetched as it is stored.
    Impossible,
    /// It could be asked for, and did not come.
    BrokenOff(String),
}

/// At least 1 MiB a second.
pub fn longest(timeout: Duration, entry: &SpoolEntry) -> Duration {
    timeout + Duration::from_secs(entry.data_set_length >> 20)
}

/// What came back, digested while it came.
pub struct Fetched {
    syntax: &'static TransferSyntax,
    bytes: Sha256,
    /// `None` once it can't be read as a data set.
    content: Option<ContentDigest>,
    /// What may still come.
    left: u64,
}

impl Fetched {
    /// Written anew it may be longer by its lengths and delimiters, not twice as long.
    pub fn new(entry: &SpoolEntry, syntax: &'static TransferSyntax) -> Fetched {
        let left = entry.data_set_length.saturating_mul(2).saturating_add(CHUNK as u64);
        Fetched { syntax, bytes: Sha256::new(), content: Some(ContentDigest::new(syntax)), left }
    }

    /// `false` when it is too long to be ours.
    pub fn push(&mut self, bytes: &[u8]) -> bool {
        let Some(left) = self.left.checked_sub(bytes.len() as u64) else { return false };
        self.left = left;
        self.bytes.update(bytes);
        if let Some(content) = &mut self.content
            && content.push(bytes).is_err()
        {
            self.content = None;
        }
        true
    }

    /// It came to its end.
    pub async fn compared(self, spool: &Spool, entry: &SpoolEntry) -> Result<Compared, SpoolError> {
        if <[u8; 32]>::from(self.bytes.finalize()) == entry.data_set_sha256.0 {
            return Ok(Compared::Same);
        }
        let Some(Ok(theirs)) = self.content.map(ContentDigest::finish) else {
            return Ok(Compared::Different);
        };
        let ours = content_of(spool, entry, self.syntax).await?;
        Ok(if ours == Some(theirs) { Compared::Same } else { Compared::Different })
    }
}

/// `None` where our own copy can't be read as a data set.
async fn content_of(
    spool: &Spool,
    entry: &SpoolEntry,
    syntax: &TransferSyntax,
) -> Result<Option<[u8; 32]>, SpoolError> {
    let reader = spool.open(entry.id, CheckBy::Sha256).await?;
    let mut content = ContentDigest::new(syntax);
    let mut at = u64::from(entry.prefix_length);
    while at < reader.len() {
        let bytes = reader.read_at(at, CHUNK).await?;
        if content.push(&bytes).is_err() {
            return Ok(None);
        }
        at += bytes.len() as u64;
    }
    Ok(content.finish().ok())
}
