//! `/metadata` of studies, series and instances (PS3.18 §10.4.1.1.2): each data set converted as
//! its bytes are read, a few at a time, so that a large study costs no more than they do.
//! Pixels are not read, so an object's SHA-256 is not checked here: an object that is known to be
//! damaged is refused, and the scrub reads them all.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use poem::http::{Method, StatusCode, header};
use poem::{Body, Response};

use super::accept::{self, DICOM_JSON, DICOM_XML_PARTS, JSON};
use super::multipart::Framing;
use super::resource::{ReadError, Resource, Survey, begun, partial_content};
use crate::dicom::metadata::MetadataReader;
use crate::dicom::transfer_syntax::{self, Encoding};
use crate::dicom::{Dataset, ScanLimits, TransferSyntax, json, xml};
use crate::http::body::streamed;
use crate::http::error::ApiError;
use crate::http::router::Call;
use crate::http::state::HttpState;
use crate::index::Located;
use crate::spool::{CheckBy, ObjectReader, SpoolError};

/// Bytes of an object read at once: of most, what stands before the pixels, which are passed over.
const CHUNK: usize = 16 * 1024;
/// Objects converted at the same time.
const AHEAD: usize = 4;
/// Bytes from which a piece of the answer is sent.
const PIECE: usize = 64 * 1024;

/// `GET …/metadata`
pub async fn retrieve(call: Call) -> Result<Response, ApiError> {
    let offers = [DICOM_JSON, JSON, DICOM_XML_PARTS];
    let representation = accept::choose(&accept::ranges(&call.request), &offers)?;
    let resource = Resource::of(&call)?;
    let survey = resource.survey(&call.state.index, |_| true).await?;
    let form = if representation == DICOM_XML_PARTS { Form::Xml(Framing::new()) } else { Form::Json };
    let content_type = match &form {
        Form::Xml(framing) => framing.content_type("application/dicom+xml"),
        Form::Json => representation.to_string(),
    };
    let mut response = Response::builder()
        .status(StatusCode::OK)
        .content_type(content_type)
        .header(header::VARY, "Accept")
        .finish();
    if survey.is_partial() {
        partial_content(&mut response, &survey);
    }
    if call.request.method() != Method::HEAD {
        response.set_body(body(&call, resource, survey, form).await?);
    }
    Ok(response)
}

/// The syntax that a held object is encoded in. One that is not registered was configured as
/// private, and those are Explicit VR Little Endian.
pub fn syntax_of(located: &Located) -> TransferSyntax {
    let registered = TransferSyntax::by_uid(&located.transfer_syntax_uid).copied();
    registered.unwrap_or(TransferSyntax {
        uid: transfer_syntax::EXPLICIT_LITTLE_ENDIAN,
        name: "private",
        encoding: Encoding::ExplicitLittleEndian,
    })
}

pub fn scan_limits(state: &HttpState) -> ScanLimits {
    let limits = &state.limits;
    ScanLimits { depth: limits.depth, elements: limits.elements, non_pixel_bytes: limits.non_pixel }
}

/// How data sets are written and joined.
enum Form {
    Json,
    Xml(Framing),
}

impl Form {
    fn add(&self, body: &mut Vec<u8>, text: &[u8], is_first: bool) {
        match self {
            Form::Json => body.push(if is_first { b'[' } else { b',' }),
            Form::Xml(framing) => {
                body.extend_from_slice(&framing.open("Content-Type: application/dicom+xml\r\n"));
            }
        }
        body.extend_from_slice(text);
    }

    fn end(&self, body: &mut Vec<u8>) {
        match self {
            Form::Json => body.push(b']'),
            Form::Xml(framing) => body.extend_from_slice(&framing.close()),
        }
    }
}

async fn body(call: &Call, resource: Resource, survey: Survey, form: Form) -> Result<Body, ApiError> {
    let state = call.state.clone();
    let is_json = matches!(form, Form::Json);
    let stall = state.limits.http_stall;
    let held = resource.held(&state, survey.first);
    let texts = held.map_ok(move |located| text_of(state.clone(), located, is_json)).try_buffered(AHEAD);
    let mut texts = begun(texts).await?;
    Ok(streamed(stall, move |sink| async move {
        let (mut is_first, mut body) = (true, Vec::new());
        while let Some(text) = texts.next().await {
            let Ok(text) = text else { return sink.fail("the metadata of an object can't be made").await };
            form.add(&mut body, &text, is_first);
            is_first = false;
            if body.len() >= PIECE && sink.send(std::mem::take(&mut body).into()).await.is_err() {
                return;
            }
        }
        form.end(&mut body);
        let _ = sink.send(body.into()).await;
    }))
}

async fn text_of(state: Arc<HttpState>, located: Located, is_json: bool) -> Result<Bytes, ApiError> {
    let entry = located.entry;
    let answer = |error: ReadError| error.answer(entry);
    if !is_json {
        return convert(&state, located, xml::document).await.map_err(answer);
    }
    if let Some(text) = state.metadata.get(entry).await {
        return Ok(text);
    }
    let object = |dataset: &Dataset| json::object(dataset).to_string();
    let text = convert(&state, located, object).await.map_err(answer)?;
    state.metadata.keep(entry, text.clone()).await;
    Ok(text)
}

async fn convert(
    state: &HttpState,
    located: Located,
    write: fn(&Dataset) -> String,
) -> Result<Bytes, ReadError> {
    let uri = format!("{}/bulkdata", located.url(&state.dicomweb_url()));
    let reader = MetadataReader::new(&syntax_of(&located), scan_limits(state), &uri);
    let object = state.spool.open(located.entry, CheckBy::Crc32c).await?;
    // Of its own length, by which it is weighed when it is kept.
    let exactly = |text: String| Bytes::from(text.into_boxed_str().into_boxed_bytes());
    let converted = tokio::task::spawn_blocking(move || Ok(exactly(write(&read(&object, reader)?))));
    converted
        .await
        .unwrap_or_else(|ended| Err(SpoolError::Failed(format!("a conversion ended: {ended}")).into()))
}

/// Blocks.
fn read(object: &ObjectReader, mut reader: MetadataReader) -> Result<Dataset, ReadError> {
    let length = object.entry.data_set_length;
    let mut at = 0;
    while at < length {
        let useless = reader.useless().min(length - at);
        if useless > 0 {
            reader.pass_over(useless);
            at += useless;
            continue;
        }
        let chunk = object.read_data_set(at, CHUNK)?;
        at += chunk.len() as u64;
        reader.push(&chunk)?;
    }
    Ok(reader.finish()?)
}
