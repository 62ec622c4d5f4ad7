//! What is there: a projection of the log in SQL, rebuilt from it at any time.

use std::sync::Arc;

use thiserror::Error;

use crate::dicom::{InstanceKey, Uid};
use crate::query::{Matches, Query};
use crate::spool::EntryId;

/// Cheap to clone.
#[derive(Clone)]
pub struct Index {}

#[derive(Debug, Error)]
pub enum IndexError {
    #[error("the database does not answer: {0}")]
    Unavailable(String),
    #[error("too many matches: more than {limit}")]
    TooMany { limit: usize },
}

/// Part of the tree of studies.
#[derive(Debug, Clone)]
pub struct Scope {
    pub study_instance_uid: Uid,
    pub series_instance_uid: Option<Uid>,
    pub sop_instance_uid: Option<Uid>,
}

/// Where an indexed instance is.
#[derive(Debug, Clone)]
pub struct Located {
    pub entry: EntryId,
    pub key: InstanceKey,
    pub sop_class_uid: Uid,
    pub transfer_syntax_uid: String,
    /// Its bytes were freed after delivery; this names where it went.
    pub freed: Option<String>,
}

impl Index {
    /// Waits, briefly and bounded, until the index has passed the log's position at arrival, so
    /// that every door reads its own writes; then answers, from the cache where it can.
    pub async fn search(&self, _query: &Query) -> Result<Arc<Matches>, IndexError> {
        todo!()
    }

    /// Instances under `scope`, in series and instance order; conflicts held for a person are
    /// left out. At most `limit`, after `after` when given (for streaming large studies).
    pub async fn instances(
        &self,
        _scope: &Scope,
        _after: Option<EntryId>,
        _limit: usize,
    ) -> Result<Vec<Located>, IndexError> {
        todo!()
    }
}
