//! Delivers what was received: rules decide where to, the scheduler when, a transport how.
//! SENT becomes VERIFIED only by proof from the destination (storage commitment or query).

use thiserror::Error;

use crate::clock::Millis;
use crate::dicom::{AeTitle, Uid};

/// Cheap to clone.
#[derive(Clone)]
pub struct Forward {}

/// A storage commitment report (N-EVENT-REPORT, PS3.4 §J.3.3) as a door received it.
#[derive(Debug, Clone)]
pub struct CommitmentReport {
    pub from: AeTitle,
    pub peer: std::net::IpAddr,
    pub transaction_uid: Uid,
    pub committed: Vec<Uid>,
    /// SOP Instance UID and FailureReason (0008,1197).
    pub failed: Vec<(Uid, u16)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportOutcome {
    Taken,
    /// No open transaction of that peer has this UID: audited, changes nothing.
    Unknown,
}

/// A destination as `destination list` and the API show it.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct DestinationStatus {
    pub name: String,
    pub kind: String,
    pub address: String,
    pub from_file: bool,
    pub paused: bool,
    pub up: bool,
    /// Why it is down, and when it is tried next.
    pub reason: Option<String>,
    pub next_try: Option<Millis>,
    pub queued: u64,
    pub sent: u64,
    pub verified: u64,
    pub deferred: u64,
    pub poisoned: u64,
}

#[derive(Debug, Error)]
pub enum ForwardError {
    #[error("no destination is called {0}")]
    UnknownDestination(String),
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Spool(#[from] crate::spool::SpoolError),
}

impl Forward {
    /// A destination's report about a transaction; matched to our open ones.
    pub async fn commitment_report(&self, _report: CommitmentReport) -> ReportOutcome {
        todo!()
    }

    /// Whether this AE title is a destination of ours that may open an association to report
    /// storage commitment.
    pub fn may_report(&self, _ae_title: &AeTitle) -> bool {
        todo!()
    }

    pub fn destinations(&self) -> Vec<DestinationStatus> {
        todo!()
    }

    pub fn pause(&self, _name: &str) -> Result<(), ForwardError> {
        todo!()
    }

    pub fn resume(&self, _name: &str) -> Result<(), ForwardError> {
        todo!()
    }

    /// Queues what was received since `since` and never went to `name`; returns how many.
    pub async fn backfill(&self, _name: &str, _since: Millis) -> Result<u64, ForwardError> {
        todo!()
    }

    /// Connects and asks for nothing (C-ECHO, or QIDO with limit=0): `Ok` says how it went.
    pub async fn echo(&self, _name: &str) -> Result<String, ForwardError> {
        todo!()
    }
}
