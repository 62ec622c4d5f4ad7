//! The DICOM door: accepts associations, negotiates them, and serves what they ask, one service
//! class a file. It parses, calls inward once per message, and answers; what an object must be,
//! what is durable and what matches is decided behind [`crate::ingest`] and [`crate::index`].

use std::sync::Arc;

use crate::config::{DicomConfig, LimitsConfig};
use crate::forward::Forward;
use crate::index::Index;
use crate::ingest::Ingest;

mod answer;
mod association;
mod commitment;
mod connection;
mod echo;
mod find;
pub mod gate;
mod identifier;
mod listener;
pub mod negotiation;
pub mod peers;
mod store;

pub use listener::Scp;
pub use peers::PeerTable;

use gate::Gate;
use negotiation::Negotiator;

/// What the DICOM door needs of the node. Cheap to clone; the limits are those of the node, so all
/// its listeners share one context.
#[derive(Clone)]
pub struct ScpContext {
    ingest: Ingest,
    index: Index,
    forward: Forward,
    peers: PeerTable,
    limits: Arc<LimitsConfig>,
    negotiator: Arc<Negotiator>,
    gate: Gate,
}

impl ScpContext {
    pub fn new(
        ingest: Ingest,
        index: Index,
        forward: Forward,
        peers: PeerTable,
        config: Arc<DicomConfig>,
        limits: Arc<LimitsConfig>,
    ) -> Self {
        let max_pdu = limits.pdu.min(u64::from(u32::MAX)) as u32;
        let negotiator = Arc::new(Negotiator::new(config, ingest.transfer_syntaxes().clone(), max_pdu));
        let gate = Gate::new(limits.clone());
        Self { ingest, index, forward, peers, limits, negotiator, gate }
    }
}
