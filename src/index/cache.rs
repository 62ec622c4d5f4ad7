//! Answers kept until the index changes. The indexer empties it at each commit.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use moka::future::Cache;

use super::IndexError;
use crate::query::{Matches, Query};
use crate::telemetry::metrics;

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct QueryCache {
    answers: Cache<Arc<str>, Arc<Matches>>,
    /// Counts the changes of the index, so that an answer found under an earlier state is never
    /// given for a later one, even when it comes in late.
    generation: Arc<AtomicU64>,
}

impl QueryCache {
    pub fn new(bytes: u64) -> QueryCache {
        let answers = Cache::builder().max_capacity(bytes).weigher(weight).build();
        QueryCache { answers, generation: Arc::default() }
    }

    /// The kept answer, or that of `search`, which runs once for all who ask the same meanwhile.
    pub async fn get(
        &self,
        query: &Query,
        search: impl Future<Output = Result<Matches, IndexError>>,
    ) -> Result<Arc<Matches>, IndexError> {
        let key = self.key(query);
        let answer = self.answers.entry(key).or_try_insert_with(async { search.await.map(Arc::new) }).await;
        let answer = answer.map_err(|error: Arc<IndexError>| match &*error {
            IndexError::Unavailable(why) => IndexError::Unavailable(why.clone()),
            IndexError::NotMatchable { keyword } => IndexError::NotMatchable { keyword },
        })?;
        metrics::cache("queries", !answer.is_fresh());
        Ok(answer.into_value())
    }

    pub fn empty(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        self.answers.invalidate_all();
    }

    /// The same for every way to write the same question.
    fn key(&self, query: &Query) -> Arc<str> {
        let mut keys: Vec<String> =
            query.keys.iter().map(|key| format!("{}{:?}", key.attribute.keyword, key.matching)).collect();
        keys.sort_unstable();
        keys.dedup();
        let generation = self.generation.load(Ordering::SeqCst);
        let (limit, offset) = (query.page.limit, query.page.offset);
        format!("{generation} {:?} {limit} {offset} {}", query.level, keys.join(" ")).into()
    }
}

/// About what an answer takes in memory.
fn weight(key: &Arc<str>, answer: &Arc<Matches>) -> u32 {
    const NODE: usize = 48;
    let texts = answer.rows.iter().flat_map(|row| row.attributes.iter()).map(|(_, text)| NODE + text.len());
    let bytes = texts.sum::<usize>() + key.len() + 256;
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
