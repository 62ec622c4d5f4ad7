//! WADO-RS, the Retrieve transaction (PS3.18 §10.4) for studies, series and instances: stored
//! bytes as they came, when Accept admits their transfer syntax. Nothing is held but one chunk,
//! and of a large study one page of its index.

use std::future::ready;

use futures_util::{StreamExt, TryStreamExt};
use poem::http::{HeaderValue, Method, StatusCode, header};
use poem::{Body, Response};

use super::accept;
use super::multipart::Framing;
use super::range::{self, ByteRange};
use super::resource::{ReadError, Resource, Survey, begun, partial_content, same, sound};
use super::syntaxes::{DicomAccept, Syntaxes};
use crate::http::body::{BodySink, ClientGone, streamed};
use crate::http::error::ApiError;
use crate::http::router::Call;
use crate::index::Located;
use crate::spool::{CheckBy, ObjectReader};

/// Bytes of an object read at once; a few times as many wait for the client.
const CHUNK: usize = 128 * 1024;
/// Objects opened: the one that is sent, and the next.
const AHEAD: usize = 2;

/// `GET /studies/{study}` and `GET /studies/{study}/series/{series}`
pub async fn retrieve_many(call: Call) -> Result<Response, ApiError> {
    let resource = Resource::of(&call)?;
    let accept = DicomAccept::of(&accept::ranges(&call.request));
    let survey = resource
        .survey(&call.state.index, |located| accept.multipart.admits(&located.transfer_syntax_uid))
        .await?;
    multipart(&call, resource, survey, accept.multipart).await
}

/// `GET /studies/{study}/series/{series}/instances/{instance}`
pub async fn retrieve_instance(call: Call) -> Result<Response, ApiError> {
    let resource = Resource::of(&call)?;
    let accept = DicomAccept::of(&accept::ranges(&call.request));
    let admits = |located: &Located| {
        let uid = &located.transfer_syntax_uid;
        accept.multipart.admits(uid) || accept.single.admits(uid)
    };
    let survey = resource.survey(&call.state.index, admits).await?;
    match survey.first.rows.first() {
        Some(located) if accept.prefers_single(&located.transfer_syntax_uid) => single(&call, located).await,
        _ => multipart(&call, resource, survey, accept.multipart).await,
    }
}

/// An object that can't be read breaks the response off: to leave it out silently would pass an
/// incomplete study as a whole one.
async fn multipart(
    call: &Call,
    resource: Resource,
    survey: Survey,
    syntaxes: Syntaxes,
) -> Result<Response, ApiError> {
    let framing = Framing::new();
    let mut response = Response::builder()
        .status(StatusCode::OK)
        .content_type(framing.content_type("application/dicom"))
        .header(header::VARY, "Accept")
        .finish();
    if survey.is_partial() {
        partial_content(&mut response, &survey);
    }
    if call.request.method() == Method::HEAD {
        return Ok(response);
    }
    let state = call.state.clone();
    let base = state.dicomweb_url();
    let spool = state.spool.clone();
    let open = move |located: Located| {
        let spool = spool.clone();
        async move {
            let object = same(spool.load(located.entry, CheckBy::Crc32c).await, &located)?;
            Ok((located, object))
        }
    };
    let admits = move |located: &Located| ready(syntaxes.admits(&located.transfer_syntax_uid));
    let held = resource.held(&state, survey.first).try_filter(admits);
    let mut objects = begun(held.map_ok(open).try_buffered(AHEAD)).await?;
    response.set_body(streamed(state.limits.http_stall, move |sink| async move {
        while let Some(object) = objects.next().await {
            let Ok((located, reader)) = object else { return sink.fail("an object can't be read").await };
            if send_part(&reader, &located, &framing, &base, &sink).await.is_err() {
                return;
            }
        }
        let _ = sink.send(framing.close()).await;
    }));
    Ok(response)
}

async fn send_part(
    reader: &ObjectReader,
    located: &Located,
    framing: &Framing,
    base: &str,
    sink: &BodySink,
) -> Result<(), ClientGone> {
    let headers = format!(
        "Content-Type: application/dicom; transfer-syntax={}\r\nContent-Length: {}\r\nContent-Location: {}\r\n",
        located.transfer_syntax_uid,
        reader.len(),
        located.url(base),
    );
    sink.send(framing.open(&headers)).await?;
    let whole = ByteRange { first: 0, last: reader.len().saturating_sub(1) };
    send_bytes(reader, whole, sink).await
}

async fn send_bytes(reader: &ObjectReader, range: ByteRange, sink: &BodySink) -> Result<(), ClientGone> {
    let mut at = range.first;
    while at <= range.last {
        let wanted = (range.last - at + 1).min(CHUNK as u64) as usize;
        match reader.read_at(at, wanted).await {
            Ok(chunk) => {
                at += chunk.len() as u64;
                sink.send(chunk).await?;
            }
            Err(error) => {
                ReadError::from(error).answer(reader.entry.id);
                sink.fail("an object can't be read").await;
                return Err(ClientGone);
            }
        }
    }
    Ok(())
}

/// The instance alone: with a length, a tag and ranges.
async fn single(call: &Call, located: &Located) -> Result<Response, ApiError> {
    sound(&call.state.spool, located)?;
    let reader = same(call.state.spool.open(located.entry, CheckBy::Crc32c).await, located)?;
    let length = reader.len();
    let etag = format!("\"{}-{}\"", reader.entry.data_set_sha256, reader.entry.prefix_length);
    let headers = call.request.headers();
    if range::matches(headers, &etag) {
        return Ok(Response::builder().status(StatusCode::NOT_MODIFIED).header(header::ETAG, etag).finish());
    }
    let range = range::requested(headers, &etag, length)?;
    let sent = range.unwrap_or(ByteRange { first: 0, last: length.saturating_sub(1) });
    let mut response = Response::builder()
        .status(if range.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK })
        .content_type(format!("application/dicom; transfer-syntax={}", located.transfer_syntax_uid))
        .header(header::CONTENT_LENGTH, sent.len())
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::ETAG, etag)
        .header(header::VARY, "Accept")
        .header(
            header::CONTENT_DISPOSITION,
            format!("attachment; filename=\"{}.dcm\"", located.key.sop_instance_uid),
        )
        .finish();
    if range.is_some()
        && let Ok(value) = HeaderValue::from_str(&format!("bytes {}-{}/{length}", sent.first, sent.last))
    {
        response.headers_mut().insert(header::CONTENT_RANGE, value);
    }
    if call.request.method() != Method::HEAD {
        let body: Body = streamed(call.state.limits.http_stall, move |sink| async move {
            let _ = send_bytes(&reader, sent, &sink).await;
        });
        response.set_body(body);
    }
    Ok(response)
}
