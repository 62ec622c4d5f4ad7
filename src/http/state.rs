//! What the handlers work with. Made once, by the node; a handler takes only what it needs.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::api::Api;
use super::dicomweb::{MetadataMemory, PartBuffers};
use super::health::Dependency;
use crate::auth::Keys;
use crate::config::LimitsConfig;
use crate::index::Index;
use crate::ingest::Ingest;
use crate::spool::Spool;

/// Asks the node how database and destinations are, for readiness.
pub type Probe = Arc<dyn Fn() -> BoxFuture<'static, Vec<Dependency>> + Send + Sync>;

pub struct HttpState {
    pub ingest: Ingest,
    pub index: Index,
    pub spool: Spool,
    pub keys: Keys,
    pub api: Api,
    /// What clients call this node, without a trailing slash; URLs in answers start with it,
    /// because `Host` is the client's claim.
    pub public_url: String,
    /// What requests to destinations bear: one that comes here was sent by this node.
    pub instance: Arc<str>,
    pub limits: LimitsConfig,
    pub part_buffers: PartBuffers,
    pub metadata: MetadataMemory,
    /// Dependencies other than the log, which readiness asks itself.
    pub dependencies: Probe,
}

impl HttpState {
    /// Base of the DICOMweb resources (PS3.18 §8.2).
    pub fn dicomweb_url(&self) -> String {
        format!("{}/dicom-web", self.public_url.trim_end_matches('/'))
    }
}
