//! What an administrator does to a node: the verbs behind the control socket and the REST API, so that a command and a
//! request do the same. They change or show what the node keeps; they never take or deliver objects.

use std::sync::Arc;

use thiserror::Error;

use crate::auth::{AuthError, Keys};
use crate::clock::Clock;
use crate::config::Config;
use crate::forward::{Forward, ForwardError};
use crate::index::Index;
use crate::ingest::Ingest;
use crate::scp::PeerTable;
use crate::spool::{Spool, SpoolError};
use crate::store::{Routing, RoutingError, Store};

mod destinations;
mod in_force;
mod keys;
mod peers;
mod state;

pub use in_force::{InForce, PeerLine};
pub use keys::{KeyLine, NewKey};
pub use state::Readiness;

/// What the verbs work on. Cheap to clone.
#[derive(Clone)]
pub struct Admin {
    pub config: Arc<Config>,
    pub clock: Arc<dyn Clock>,
    pub store: Store,
    pub spool: Spool,
    pub keys: Keys,
    pub routing: Routing,
    /// Only in a running node.
    pub running: Option<Running>,
}

/// The parts that move.
#[derive(Clone)]
pub struct Running {
    pub ingest: Ingest,
    pub index: Index,
    pub forward: Forward,
    pub peers: PeerTable,
}

impl Admin {
    fn running(&self) -> Result<&Running, AdminError> {
        self.running.as_ref().ok_or_else(|| {
            AdminError::refused(
                "NOT_RUNNING",
                "no node runs on this data folder; start it with `relaypacs serve`",
            )
        })
    }
}

/// Why something was not done.
#[derive(Debug, Error)]
#[error("{message}")]
pub struct AdminError {
    pub kind: AdminErrorKind,
    /// Stable: what programs tell it by.
    pub code: &'static str,
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdminErrorKind {
    /// The values can't be, alone or together.
    Invalid,
    NotFound,
    /// It can be done only once something else has changed.
    Refused,
    /// The database does not answer now.
    Unavailable,
    /// The disk failed.
    Storage,
    Failed,
}

impl AdminError {
    fn new(kind: AdminErrorKind, code: &'static str, message: impl ToString) -> Self {
        Self { kind, code, message: message.to_string() }
    }

    pub fn invalid(code: &'static str, message: impl ToString) -> Self {
        Self::new(AdminErrorKind::Invalid, code, message)
    }

    pub fn not_found(message: impl ToString) -> Self {
        Self::new(AdminErrorKind::NotFound, "NOT_FOUND", message)
    }

    pub fn refused(code: &'static str, message: impl ToString) -> Self {
        Self::new(AdminErrorKind::Refused, code, message)
    }

    pub fn failed(message: impl ToString) -> Self {
        Self::new(AdminErrorKind::Failed, "INTERNAL", message)
    }

    fn unavailable(message: impl ToString) -> Self {
        Self::new(AdminErrorKind::Unavailable, "DATABASE_UNAVAILABLE", message)
    }
}

impl From<SpoolError> for AdminError {
    fn from(error: SpoolError) -> Self {
        match error {
            SpoolError::Unknown(_) | SpoolError::Freed(_) => Self::not_found(error),
            SpoolError::Io { .. } | SpoolError::Failed(_) | SpoolError::Full(_) => {
                Self::new(AdminErrorKind::Storage, "STORAGE_FAILED", error)
            }
            other => Self::failed(other),
        }
    }
}

impl From<RoutingError> for AdminError {
    fn from(error: RoutingError) -> Self {
        match error {
            RoutingError::Unknown(_) => Self::not_found(error),
            RoutingError::Exists(_) => Self::refused("EXISTS", error),
            RoutingError::Store(crate::store::StoreError::Unavailable(_)) => Self::unavailable(error),
            other => Self::failed(other),
        }
    }
}

impl From<ForwardError> for AdminError {
    fn from(error: ForwardError) -> Self {
        match error {
            ForwardError::UnknownDestination(_) => Self::not_found(error),
            ForwardError::Refused(_) => Self::refused("REFUSED", error),
            ForwardError::Spool(error) => error.into(),
        }
    }
}

impl From<AuthError> for AdminError {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::Unavailable(_) => Self::unavailable(error),
            AuthError::Invalid => Self::failed(error),
        }
    }
}
