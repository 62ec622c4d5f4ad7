//! Metadata that was made lately, as JSON: who looks at a study asks for that of all its objects, and
//! seldom does so alone. An object never changes, so what is kept stays right; whether it is still
//! held, the index says first.

use std::time::Duration;

use bytes::Bytes;
use moka::future::Cache;

use crate::spool::EntryId;
use crate::telemetry::metrics;

/// Bytes kept, of some thousand objects.
const KEPT: u64 = 16 << 20;
/// How long it is kept while nobody asks: a viewer comes back within a reading, and memory that nobody uses is given
/// back.
const IDLE: Duration = Duration::from_secs(300);
/// About what keeping one takes besides.
const OVERHEAD: usize = 256;

pub struct MetadataCache(Cache<EntryId, Bytes>);

impl Default for MetadataCache {
    fn default() -> Self {
        let weight = |_: &EntryId, text: &Bytes| u32::try_from(text.len() + OVERHEAD).unwrap_or(u32::MAX);
        Self(Cache::builder().max_capacity(KEPT).weigher(weight).time_to_idle(IDLE).build())
    }
}

impl MetadataCache {
    pub async fn get(&self, entry: EntryId) -> Option<Bytes> {
        let kept = self.0.get(&entry).await;
        metrics::cache("metadata", kept.is_some());
        kept
    }

    pub async fn keep(&self, entry: EntryId, text: Bytes) {
        self.0.insert(entry, text).await;
    }
}
