//! STOW-RS, the Store transaction (PS3.18 §10.5): one offer to ingest for each part, one answer
//! that says of each instance what became of it.
//!
//! What was stored before a request turns out malformed stays stored: each instance stands for
//! itself, and a client that sends it again is told that it is there.

use poem::Response;
use poem::http::header;

use super::accept::{self, DICOM_JSON, DICOM_XML, JSON};
use super::media::MediaType;
use super::multipart::{Reader, boundary};
use super::stow_answer::Answer;
use super::stow_session::Session;
use crate::dicom::Uid;
use crate::http::body::LimitedBody;
use crate::http::error::ApiError;
use crate::http::router::Call;
use crate::spool::Origin;

/// `POST /studies`
pub async fn store(call: Call) -> Result<Response, ApiError> {
    store_under(call, None).await
}

/// `POST /studies/{study}`: instances of other studies fail.
pub async fn store_study(call: Call) -> Result<Response, ApiError> {
    let study = call.uid("study")?;
    store_under(call, Some(study)).await
}

async fn store_under(mut call: Call, study: Option<Uid>) -> Result<Response, ApiError> {
    // Before anything is stored: an answer that nobody takes would help nobody.
    let ranges = accept::ranges(&call.request);
    let representation = accept::choose(&ranges, &[DICOM_JSON, DICOM_XML, JSON])?;
    let boundary = check_content_type(&call)?;
    let limits = &call.state.limits;
    check_length(&call, limits.http_body)?;
    call.state.ingest.ready().map_err(ApiError::from)?;

    let body = LimitedBody::new(call.request.take_body(), limits.http_body, limits.http_stall);
    let origin = Origin::Stow {
        account: call.principal.as_ref().map(|caller| caller.id.clone()).unwrap_or_default(),
        peer: call.peer(),
    };
    let session = Session::new(&call.state, origin, study.clone(), Reader::new(body, &boundary));
    let answer = Answer { study, results: session.run().await? };
    let url = call.state.dicomweb_url();
    crate::failpoint::pass("before_answer");
    Ok(Response::builder()
        .status(answer.status())
        .content_type(representation.to_string())
        .body(answer.render(representation, &url)))
}

/// 415 when it is not what we take; 400 when it is, and can't be read.
fn check_content_type(call: &Call) -> Result<String, ApiError> {
    let text = call.request.header(header::CONTENT_TYPE).unwrap_or_default();
    let unsupported =
        || ApiError::unsupported_media_type("Store takes multipart/related; type=\"application/dicom\".");
    let media = MediaType::parse(text).ok_or_else(unsupported)?;
    if !media.is("multipart", "related") {
        return Err(unsupported());
    }
    match media.parameter("type") {
        Some(kind) if kind.eq_ignore_ascii_case("application/dicom") => {}
        Some(_) => return Err(unsupported()),
        None => return Err(ApiError::bad_request("NO_TYPE", "The Content-Type names no type of its parts.")),
    }
    let lawful = boundary(&media).ok_or_else(|| {
        ApiError::bad_request("BAD_BOUNDARY", "The Content-Type names no boundary of 1 to 70 characters.")
    })?;
    Ok(lawful.to_owned())
}

/// A body that says itself that it is too long is not read.
fn check_length(call: &Call, limit: u64) -> Result<(), ApiError> {
    let claimed = call.request.header(header::CONTENT_LENGTH).and_then(|text| text.parse::<u64>().ok());
    match claimed {
        Some(length) if length > limit => Err(ApiError::too_large(limit)),
        _ => Ok(()),
    }
}
