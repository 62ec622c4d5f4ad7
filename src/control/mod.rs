//! The control socket: what the command line asks of a running node, over HTTP/1 on
//! `data_dir/control.sock`, which only the node's user can open. The same routes serve the
//! command line when no node runs, called in its own process under the spool's lock, so that a
//! command does the same either way. Routes change or show what the node keeps; they never take
//! or deliver objects.

use poem::http::StatusCode;
use poem::{Endpoint, EndpointExt, Response, Route, delete, get, post};
use serde::{Deserialize, Serialize};

use crate::admin::{Admin, AdminError, AdminErrorKind};
use crate::lifecycle::Exit;

mod keys;
mod routing;
pub mod socket;
mod spool;
mod state;

pub use spool::{EntryLine, VerifyLine};

/// Every route.
pub fn routes(admin: Admin) -> impl Endpoint<Output = Response> {
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
        .data(admin)
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
    fn failed(message: impl ToString) -> Self {
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, message: message.to_string(), exit: Exit::Failed }
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

impl From<AdminError> for ControlError {
    fn from(error: AdminError) -> Self {
        let (status, exit) = match error.kind {
            AdminErrorKind::NotFound => (StatusCode::NOT_FOUND, Exit::Failed),
            AdminErrorKind::Invalid | AdminErrorKind::Refused => (StatusCode::CONFLICT, Exit::Failed),
            AdminErrorKind::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, Exit::Failed),
            AdminErrorKind::Storage => (StatusCode::INTERNAL_SERVER_ERROR, Exit::Storage),
            AdminErrorKind::Failed => (StatusCode::INTERNAL_SERVER_ERROR, Exit::Failed),
        };
        Self { status, message: error.message, exit }
    }
}

impl From<crate::spool::SpoolError> for ControlError {
    fn from(error: crate::spool::SpoolError) -> Self {
        AdminError::from(error).into()
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
