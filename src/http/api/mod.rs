//! The REST API, `/api/v1`: poem-openapi reads requests and describes them, [`crate::admin`] does what they ask. The
//! router in front of it knows every operation by [`operations`], finds the caller, and words the errors.

use poem::endpoint::BoxEndpoint;
use poem::error::{MethodNotAllowedError, NotFoundError, ResponseError};
use poem::http::StatusCode;
use poem::{Endpoint, EndpointExt, IntoResponse, Response, Route};
use poem_openapi::error::{ContentTypeError, ParseParamError, ParsePathError, ParseRequestPayloadError};
use poem_openapi::registry::{MetaResponses, Registry};
use poem_openapi::{ApiResponse, OpenApiService, Tags};

mod destinations;
pub mod document;
mod keys;
mod operations;
mod peers;
mod system;

pub use operations::OPERATIONS;

use super::body;
use super::error::ApiError;
use super::router::{Call, trace_id};
use crate::admin::{Admin, AdminError, AdminErrorKind};
use crate::dicom::AeTitle;

/// Where all of it is.
pub const BASE: &str = "/api/v1";
/// Said by every answer, as `API-Version`.
pub const VERSION: &str = "1.0";
/// Bytes of a request body.
const BODY_LIMIT: u64 = 1 << 20;

#[derive(Tags)]
enum Tag {
    /// How the node is.
    System,
    /// Who may open associations with it.
    Peers,
    /// Where it delivers what it receives.
    Destinations,
    /// Credentials of machines.
    Keys,
}

type Parts = (system::SystemApi, peers::PeersApi, destinations::DestinationsApi, keys::KeysApi);

fn service() -> OpenApiService<Parts, ()> {
    let parts = (system::SystemApi, peers::PeersApi, destinations::DestinationsApi, keys::KeysApi);
    OpenApiService::new(parts, "RelayPACS", VERSION).server(BASE)
}

/// The endpoint behind every operation.
pub struct Api {
    endpoint: BoxEndpoint<'static>,
}

impl Api {
    pub fn new(admin: Admin) -> Api {
        Api { endpoint: Route::new().nest(BASE, service().data(admin)).boxed() }
    }
}

/// Answers one operation.
pub async fn answer(call: Call) -> Result<Response, ApiError> {
    let Call { mut request, state, principal } = call;
    let body = body::read(request.take_body(), BODY_LIMIT, state.limits.http_stall).await?;
    request.set_body(body);
    if let Some(principal) = principal {
        request.extensions_mut().insert(principal);
    }
    state.api.endpoint.call(request).await.map_err(|error| match error.downcast::<ApiError>() {
        Ok(error) => error,
        Err(error) => explained(&error),
    })
}

impl ResponseError for ApiError {
    fn status(&self) -> StatusCode {
        self.status
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        self.into_problem(&trace_id())
    }
}

/// What every operation may answer is said once, by [`document`].
impl ApiResponse for ApiError {
    fn meta() -> MetaResponses {
        MetaResponses { responses: Vec::new() }
    }

    fn register(_: &mut Registry) {}
}

/// What poem-openapi found wrong with a request.
fn explained(error: &poem::Error) -> ApiError {
    if let Some(error) = error.downcast_ref::<ParseParamError>() {
        let detail = format!("The parameter {} can't be read: {}.", error.name, error.reason);
        return ApiError::bad_request("INVALID_PARAMETER", detail);
    }
    if let Some(error) = error.downcast_ref::<ParsePathError>() {
        let detail = format!("The path's {} can't be read: {}.", error.name, error.reason);
        return ApiError::bad_request("INVALID_PARAMETER", detail);
    }
    if let Some(error) = error.downcast_ref::<ParseRequestPayloadError>() {
        return ApiError::bad_request("INVALID_BODY", format!("The body can't be read: {}.", error.reason));
    }
    if error.is::<ContentTypeError>() {
        return ApiError::unsupported_media_type("The body must be application/json.");
    }
    if error.is::<NotFoundError>() || error.is::<MethodNotAllowedError>() {
        return ApiError::not_found();
    }
    tracing::error!(%error, "the API failed");
    ApiError::internal()
}

fn ae_title(text: &str) -> Result<AeTitle, ApiError> {
    text.parse().map_err(|error| {
        ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "INVALID_AE_TITLE", format!("{text:?}: {error}."))
    })
}

impl From<AdminError> for ApiError {
    fn from(error: AdminError) -> Self {
        let status = match error.kind {
            AdminErrorKind::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
            AdminErrorKind::NotFound => StatusCode::NOT_FOUND,
            AdminErrorKind::Refused => StatusCode::CONFLICT,
            AdminErrorKind::Unavailable => {
                tracing::warn!(%error, "the database does not answer");
                return ApiError::unavailable(error.code, "The database does not answer at the moment.");
            }
            AdminErrorKind::Storage | AdminErrorKind::Failed => {
                tracing::error!(%error, "an order of an administrator failed");
                return ApiError::internal();
            }
        };
        ApiError::new(status, error.code, error.message)
    }
}
