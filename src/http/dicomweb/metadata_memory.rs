//! What answers with metadata may take of memory, all together; and metadata that was made lately, as JSON: who looks at a
//! study asks for that of all its objects, and seldom does so alone. An object never changes, so what is kept stays
//! right; whether it is still held, the index says first.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use moka::future::Cache;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::spool::EntryId;
use crate::telemetry::metrics;

/// Bytes kept, of some thousand objects.
const KEPT: u64 = 16 << 20;
/// How long it is kept while nobody asks: a viewer comes back within a reading, and memory that nobody uses is given
/// back.
const IDLE: Duration = Duration::from_secs(300);
/// About what keeping one takes besides.
const OVERHEAD: usize = 256;
/// Answers at the same time; each takes up to four times [`SHORT`].
const ANSWERS: usize = 48;
/// What the metadata of an object may take to be made ahead of its turn: most take a tenth of it.
pub const SHORT: u64 = 1 << 20;
/// For all that take more than [`SHORT`], in the units in which they take it.
const LONG: u64 = 256 << 20;
const UNIT: u64 = 1 << 20;

pub struct MetadataMemory {
    kept: Cache<EntryId, Bytes>,
    answers: Arc<Semaphore>,
    long: Arc<Semaphore>,
}

/// Held while an answer, or the metadata of one object, is in memory.
pub type Room = OwnedSemaphorePermit;

impl Default for MetadataMemory {
    fn default() -> Self {
        let weight = |_: &EntryId, text: &Bytes| u32::try_from(text.len() + OVERHEAD).unwrap_or(u32::MAX);
        Self {
            kept: Cache::builder().max_capacity(KEPT).weigher(weight).time_to_idle(IDLE).build(),
            answers: Arc::new(Semaphore::new(ANSWERS)),
            long: Arc::new(Semaphore::new((LONG / UNIT) as usize)),
        }
    }
}

impl MetadataMemory {
    pub async fn get(&self, entry: EntryId) -> Option<Bytes> {
        let kept = self.kept.get(&entry).await;
        metrics::cache("metadata", kept.is_some());
        kept
    }

    pub async fn keep(&self, entry: EntryId, text: Bytes) {
        self.kept.insert(entry, text).await;
    }

    /// Room for one more answer; `None` when none came free for so long.
    pub async fn answer(&self, patience: Duration) -> Option<Room> {
        tokio::time::timeout(patience, self.answers.clone().acquire_owned()).await.ok()?.ok()
    }

    /// Whether there is ever room for metadata that takes about so many bytes.
    pub fn is_too_long(cost: u64) -> bool {
        cost > LONG
    }

    /// Room for metadata that takes about so many bytes; `None` when none came free for so long.
    pub async fn long(&self, cost: u64, patience: Duration) -> Option<Room> {
        let units = u32::try_from(cost.div_ceil(UNIT)).ok()?;
        tokio::time::timeout(patience, self.long.clone().acquire_many_owned(units)).await.ok()?.ok()
    }
}
