//! The control socket: what the command line asks of a running node, over HTTP/1 on
//! `data_dir/control.sock`, which only the node's user can open. The same routes serve the
//! command line when no node runs, called in its own process under the spool's lock, so that a
//! command does the same either way. Routes change or show what the node keeps; they never take
//! or deliver objects.

use std::sync::Arc;

use poem::http::StatusCode;
use poem::{Endpoint, EndpointExt, Response, Route, delete, get, post};
use serde::{Deserialize, Serialize};

use crate::auth::Keys;
use crate::clock::Clock;
use crate::config::Config;
use crate::forward::Forward;
use crate::index::Index;
use crate::ingest::Ingest;
use crate::lifecycle::Exit;
use crate::scp::PeerTable;
use crate::spool::Spool;
use crate::store::{Routing, Store};

mod keys;
mod routing;
pub mod socket;
mod spool;
mod state;

pub use keys::{KeyLine, NewKey};
pub use routing::InForce;
pub use spool::{EntryLine, VerifyLine};
pub use state::Readiness;

/// What the routes work on. Cheap to clone.
#[derive(Clone)]
pub struct Control {
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

/// Every route.
pub fn routes(control: Control) -> impl Endpoint<Output = Response> {
    Route::new()
        .at("/health", get(state::health))
        .at("/reindex", post(state::reindex))
        .at("/spool", get(spool::status))
        .at("/spool/entries", get(spool::list))
        .at("/spool/entries/:id/content", get(spool::content))
        .at("/spool/verify", post(spool::verify))
        .at("/destinations", get(routing::list_destinations).post(routing::add_destination))
        .at("/destinations/:name", delete(routing::remove_destination))
        .at("/destinations/:name/echo", post(routing::echo_destination))
        .at("/destinations/:name/pause", post(routing::pause_destination))
        .at("/destinations/:name/resume", post(routing::resume_destination))
        .at("/destinations/:name/backfill", post(routing::backfill_destination))
        .at("/destinations/:name/requeue", post(routing::requeue_destination))
        .at("/destinations/:name/cancel", post(routing::cancel_destination))
        .at("/peers", get(routing::list_peers).post(routing::add_peer))
        .at("/peers/:ae_title", delete(routing::remove_peer))
        .at("/keys", get(keys::list).post(keys::add))
        .at("/keys/:id", delete(keys::revoke))
        .data(control)
        .map_to_response()
}

/// Why a command failed, as the command line prints it and exits.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct ControlError {
    status: StatusCode,
    message: String,
    exit: Exit,
}

/// The body of a [`ControlError`] on the socket.
#[derive(Debug, Serialize, Deserialize)]
pub struct ErrorBody {
    pub error: String,
    pub exit: u8,
}

impl ControlError {
    pub fn refused(message: impl ToString) -> Self {
        Self { status: StatusCode::CONFLICT, message: message.to_string(), exit: Exit::Failed }
    }

    pub fn not_found(message: impl ToString) -> Self {
        Self { status: StatusCode::NOT_FOUND, message: message.to_string(), exit: Exit::Failed }
    }

    pub fn failed(message: impl ToString) -> Self {
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, message: message.to_string(), exit: Exit::Failed }
    }

    fn storage(message: impl ToString) -> Self {
        Self { exit: Exit::Storage, ..Self::failed(message) }
    }

    /// Needs what only a running node has.
    fn not_running() -> Self {
        Self::refused("no node runs on this data folder; start it with `relaypacs serve`")
    }
}

impl poem::error::ResponseError for ControlError {
    fn status(&self) -> StatusCode {
        self.status
    }

    fn as_response(&self) -> Response {
        let body = ErrorBody { error: self.message.clone(), exit: self.exit as u8 };
        json(self.status, &body)
    }
}

impl From<crate::spool::SpoolError> for ControlError {
    fn from(error: crate::spool::SpoolError) -> Self {
        use crate::spool::SpoolError;
        match error {
            SpoolError::Unknown(_) | SpoolError::Freed(_) => Self::not_found(error),
            SpoolError::Io { .. } | SpoolError::Failed(_) | SpoolError::Full(_) => Self::storage(error),
            other => Self::failed(other),
        }
    }
}

impl From<crate::store::RoutingError> for ControlError {
    fn from(error: crate::store::RoutingError) -> Self {
        use crate::store::RoutingError;
        match error {
            RoutingError::Unknown(_) => Self::not_found(error),
            RoutingError::Exists(_) => Self::refused(error),
            other => Self::failed(other),
        }
    }
}

impl From<crate::forward::ForwardError> for ControlError {
    fn from(error: crate::forward::ForwardError) -> Self {
        use crate::forward::ForwardError;
        match error {
            ForwardError::UnknownDestination(_) => Self::not_found(error),
            ForwardError::Refused(_) => Self::refused(error),
            ForwardError::Spool(error) => error.into(),
        }
    }
}

impl From<crate::auth::AuthError> for ControlError {
    fn from(error: crate::auth::AuthError) -> Self {
        Self::failed(error)
    }
}

type Answer = Result<Response, ControlError>;

fn json(status: StatusCode, value: &impl Serialize) -> Response {
    let body = serde_json::to_vec(value).unwrap_or_default();
    Response::builder().status(status).content_type("application/json").body(body)
}

/// One JSON object a line: how lists are answered, whatever their length.
fn lines<T: Serialize>(items: impl IntoIterator<Item = T>) -> Response {
    let mut body = Vec::new();
    for item in items {
        if serde_json::to_writer(&mut body, &item).is_ok() {
            body.push(b'\n');
        }
    }
    Response::builder().content_type("application/x-ndjson").body(body)
}

/// As [`lines`], while they are found; an error ends the list as a line of its own.
fn streamed<T, S>(items: S) -> Response
where
    T: Serialize + 'static,
    S: futures_util::Stream<Item = Result<T, ControlError>> + Send + 'static,
{
    use futures_util::StreamExt;
    let lines = items.map(|item| {
        let line = match item {
            Ok(item) => serde_json::to_vec(&item),
            Err(error) => serde_json::to_vec(&ErrorBody { error: error.message, exit: error.exit as u8 }),
        };
        let mut line = line.map_err(std::io::Error::other)?;
        line.push(b'\n');
        Ok::<_, std::io::Error>(line)
    });
    Response::builder().content_type("application/x-ndjson").body(poem::Body::from_bytes_stream(lines))
}
