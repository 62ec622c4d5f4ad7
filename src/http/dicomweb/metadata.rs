//! `/metadata` of studies, series and instances (PS3.18 §10.4.1.1.2): each data set converted as
//! its bytes are read, one after the other, so that a large study costs no more than one object.

use poem::http::{Method, StatusCode, header};
use poem::{Body, Response};
use thiserror::Error;

use super::accept::{self, DICOM_JSON, DICOM_XML_PARTS, JSON};
use super::multipart::Framing;
use super::resource::{Page, Resource, Survey, partial_content, report_unreadable};
use crate::dicom::metadata::MetadataReader;
use crate::dicom::transfer_syntax::{self, Encoding};
use crate::dicom::{Dataset, ScanError, ScanLimits, TransferSyntax, json, xml};
use crate::http::body::{BodySink, ClientGone, streamed};
use crate::http::error::ApiError;
use crate::http::router::Call;
use crate::http::state::HttpState;
use crate::index::Located;
use crate::spool::{EntryId, SpoolError};

/// Bytes of an object read at once.
const CHUNK: usize = 64 * 1024;

/// `GET …/metadata`
pub async fn retrieve(call: Call) -> Result<Response, ApiError> {
    let offers = [DICOM_JSON, JSON, DICOM_XML_PARTS];
    let representation = accept::choose(&accept::ranges(&call.request), &offers)?;
    let resource = Resource::of(&call)?;
    let survey = resource.survey(&call.state.index, |_| true).await?;
    survey.check()?;
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
        response.set_body(body(&call, resource, survey, form));
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

/// Why a stored data set could not be read again.
#[derive(Debug, Error)]
pub enum ReadError {
    #[error(transparent)]
    Spool(#[from] SpoolError),
    #[error(transparent)]
    Scan(#[from] ScanError),
}

pub fn scan_limits(state: &HttpState) -> ScanLimits {
    let limits = &state.limits;
    ScanLimits { depth: limits.depth, elements: limits.elements, non_pixel_bytes: limits.non_pixel }
}

impl ReadError {
    pub fn report(&self, entry: EntryId) {
        match self {
            ReadError::Spool(error) => report_unreadable(entry, error),
            ReadError::Scan(error) => tracing::error!(%entry, %error, "a stored data set can't be walked"),
        }
    }
}

/// How data sets are joined.
enum Form {
    Json,
    Xml(Framing),
}

impl Form {
    fn entry(&self, dataset: &Dataset, is_first: bool) -> Vec<u8> {
        match self {
            Form::Json => {
                let separator = if is_first { '[' } else { ',' };
                format!("{separator}{}", json::object(dataset)).into_bytes()
            }
            Form::Xml(framing) => {
                let mut part = framing.open("Content-Type: application/dicom+xml\r\n").to_vec();
                part.extend_from_slice(xml::document(dataset).as_bytes());
                part
            }
        }
    }

    fn end(&self) -> bytes::Bytes {
        match self {
            Form::Json => bytes::Bytes::from_static(b"]"),
            Form::Xml(framing) => framing.close(),
        }
    }
}

fn body(call: &Call, resource: Resource, survey: Survey, form: Form) -> Body {
    let state = call.state.clone();
    streamed(state.limits.http_stall, move |sink| async move {
        let (mut page, mut is_first) = (Some(survey.first), true);
        while let Some(Page { rows, next }) = page {
            for located in rows.iter().filter(|located| located.freed.is_none()) {
                if send(&state, located, &form, is_first, &sink).await.is_err() {
                    return;
                }
                is_first = false;
            }
            page = match resource.page_after(&state.index, next).await {
                Ok(page) => page,
                Err(_) => return sink.fail("the index does not answer").await,
            };
        }
        let _ = sink.send(form.end()).await;
    })
}

async fn send(
    state: &HttpState,
    located: &Located,
    form: &Form,
    is_first: bool,
    sink: &BodySink,
) -> Result<(), ClientGone> {
    match convert(state, located).await {
        Ok(dataset) => sink.send(form.entry(&dataset, is_first).into()).await,
        Err(error) => {
            error.report(located.entry);
            sink.fail("the metadata of an object can't be made").await;
            Err(ClientGone)
        }
    }
}

async fn convert(state: &HttpState, located: &Located) -> Result<Dataset, ReadError> {
    let object = state.spool.open(located.entry).await?;
    let syntax = syntax_of(located);
    let uri = format!("{}/bulkdata", located.url(&state.dicomweb_url()));
    let mut reader = MetadataReader::new(&syntax, scan_limits(state), &uri);
    let mut at = u64::from(object.entry.prefix_length);
    while at < object.len() {
        let chunk = object.read_at(at, CHUNK).await?;
        at += chunk.len() as u64;
        reader.push(&chunk)?;
    }
    Ok(reader.finish()?)
}
