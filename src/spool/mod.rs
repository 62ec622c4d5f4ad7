//! The single place of durability: an append-only log with its committer, and the projection
//! (queue, duplicates, places) derived from it. Only [`crate::ingest`] stages objects; doors never
//! come here but to read. `docs/decisions/` tells why it is a log.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use thiserror::Error;

pub mod entry;

pub use entry::{Delivery, DeliveryState, Digest, EntryId, Fact, LogPosition, Origin, Outcome, SpoolEntry};

use crate::clock::Millis;

/// Cheap to clone; every clone speaks to the same log.
#[derive(Clone)]
pub struct Spool {}

#[derive(Debug, Clone)]
pub struct SpoolOptions {
    pub dir: PathBuf,
    /// Largest object kept in the log itself; longer ones get a file of their own.
    pub inline_limit: u64,
    pub segment_size: u64,
    pub high_watermark: f64,
    pub critical_watermark: f64,
    /// `false` is `durability = "relaxed"`: answers do not wait for the sync.
    pub sync: bool,
    /// Permits tmpfs, overlayfs and network file systems.
    pub any_file_system: bool,
}

#[derive(Debug, Error)]
pub enum SpoolError {
    #[error("another process holds the spool {0}")]
    Locked(PathBuf),
    #[error("spool {path}: {source}")]
    Io {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("no space: {0}")]
    Full(String),
    /// A sync failed: the node stops (exit 75); nothing of the batch was acknowledged.
    #[error("the spool is closed after a storage failure: {0}")]
    Failed(String),
    #[error("entry {0} is not in the spool")]
    Unknown(EntryId),
    #[error("the bytes of entry {0} were freed after delivery")]
    Freed(EntryId),
    #[error("entry {id} is damaged: {detail}")]
    Damaged { id: EntryId, detail: String },
}

/// Who follows the log; segments are recycled only below the slowest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cursor {
    Index,
    Route,
}

/// How soon a fact must be on disk when [`Spool::append`] returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Synced.
    Synced,
    /// With the next sync, a fraction of a second at most. Losing it means doing something twice.
    Soon,
}

/// A fact and the position after it: what a follower stores as its cursor.
#[derive(Debug, Clone)]
pub struct Followed {
    pub fact: Arc<Fact>,
    pub after: LogPosition,
}

impl Spool {
    /// Facts after `from`, oldest first, durable ones only; waits until there is at least one, at
    /// most `limit`. Cancel-safe.
    pub async fn follow(&self, _from: LogPosition, _limit: usize) -> Result<Vec<Followed>, SpoolError> {
        todo!()
    }

    /// The position after the last durable fact.
    pub fn durable_position(&self) -> LogPosition {
        todo!()
    }

    /// A follower has durably dealt with everything before `position`.
    pub fn report_cursor(&self, _cursor: Cursor, _position: LogPosition) {
        todo!()
    }

    /// Appends facts about entries (never `Received`, which only staging makes), in order.
    pub async fn append(
        &self,
        _facts: Vec<Fact>,
        _durability: Durability,
    ) -> Result<LogPosition, SpoolError> {
        todo!()
    }

    /// The entry, also when its bytes were freed, as long as the log remembers it.
    pub async fn entry(&self, _id: EntryId) -> Result<Arc<SpoolEntry>, SpoolError> {
        todo!()
    }

    /// Opens an entry's bytes; they stay readable while the reader lives.
    pub async fn open(&self, _id: EntryId) -> Result<ObjectReader, SpoolError> {
        todo!()
    }

    /// Held entries with this SOP Instance UID, oldest first (conflicts included).
    pub async fn with_sop_instance_uid(
        &self,
        _uid: &crate::dicom::Uid,
    ) -> Result<Vec<Arc<SpoolEntry>>, SpoolError> {
        todo!()
    }

    /// Deliveries of a destination that may be tried at `now` (Queued and Deferred), by due time,
    /// then oldest first.
    pub async fn due(
        &self,
        _destination: &str,
        _now: Millis,
        _limit: usize,
    ) -> Result<Vec<Delivery>, SpoolError> {
        todo!()
    }

    /// Deliveries of a destination in one state, oldest first, starting after `after`.
    pub async fn deliveries(
        &self,
        _destination: &str,
        _state: DeliveryState,
        _after: Option<EntryId>,
        _limit: usize,
    ) -> Result<Vec<Delivery>, SpoolError> {
        todo!()
    }

    /// All deliveries of an entry.
    pub async fn deliveries_of(&self, _id: EntryId) -> Result<Vec<Delivery>, SpoolError> {
        todo!()
    }

    /// Storage commitment transactions that were requested and not closed.
    pub async fn open_commitments(&self) -> Result<Vec<OpenCommitment>, SpoolError> {
        todo!()
    }
}

#[derive(Debug, Clone)]
pub struct OpenCommitment {
    pub transaction_uid: crate::dicom::Uid,
    pub destination: String,
    pub entries: Vec<EntryId>,
    pub requested_at: Millis,
}

/// Reads the Part 10 bytes of one entry, from its segment or its large file, without copying
/// the whole.
pub struct ObjectReader {
    pub entry: Arc<SpoolEntry>,
}

impl ObjectReader {
    /// Length of the whole Part 10 file (prefix and data set).
    pub fn len(&self) -> u64 {
        u64::from(self.entry.prefix_length) + self.entry.data_set_length
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Up to `max` bytes at `offset` of the Part 10 file; fewer only at its end. Reads on a
    /// blocking thread.
    pub async fn read_at(&self, _offset: u64, _max: usize) -> Result<Bytes, SpoolError> {
        todo!()
    }
}
