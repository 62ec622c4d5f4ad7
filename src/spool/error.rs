//! Why the spool did not do what it was asked for.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::entry::EntryId;
use super::queue::QueueError;

#[derive(Debug, Error)]
pub enum SpoolError {
    #[error("another process holds the spool {0}")]
    Locked(PathBuf),
    #[error("the spool can't be on this file system ({why}); set spool.any_file_system to allow it")]
    Unfit { why: &'static str },
    #[error("spool {path}: {source}")]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("no space: {0}")]
    Full(String),
    /// A sync failed: the node stops (exit 75); nothing of the batch was acknowledged.
    #[error("the spool is closed: {0}")]
    Failed(String),
    #[error("entry {0} is not in the spool")]
    Unknown(EntryId),
    #[error("the bytes of entry {0} were freed after delivery")]
    Freed(EntryId),
    #[error("entry {id} is damaged: {detail}")]
    Damaged { id: EntryId, detail: String },
    #[error("a fact can't be encoded: {0}")]
    Unwritable(String),
    #[error(transparent)]
    Queue(#[from] QueueError),
}

impl SpoolError {
    pub(super) fn from_io(path: PathBuf, source: io::Error) -> SpoolError {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                SpoolError::Full(format!("{}: {source}", path.display()))
            }
            _ => SpoolError::Io { path, source },
        }
    }
}
