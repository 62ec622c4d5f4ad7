//! `/metadata` of studies, series and instances (PS3.18 §10.4.1.1.2): each data set converted as
//! its bytes are read, a few at a time, so that a large study costs no more than they do. One whose metadata are long
//! waits for its turn, and for memory that all such answers share.
//! Pixels are not read, so an object's SHA-256 is not checked here: an object that is known to be
//! damaged is refused, and the scrub reads them all.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt};
use poem::http::{Method, StatusCode, header};
use poem::{Body, Response};

use super::accept::{self, DICOM_JSON, DICOM_XML_PARTS, JSON};
use super::metadata_memory::{MetadataMemory, SHORT};
use super::multipart::Framing;
use super::resource::{ReadError, Resource, Survey, begun, partial_content, same};
use crate::dicom::metadata::MetadataReader;
use crate::dicom::transfer_syntax::{self, Encoding};
use crate::dicom::{Dataset, ScanLimits, TransferSyntax, json, xml};
use crate::http::body::{BodySink, streamed};
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
/// Bytes a second that a client has to take of an answer: others wait for its place …
const LEAST: u64 = 8 * 1024;
/// … and for the memory that long metadata have.
const LEAST_OF_LONG: u64 = 64 * 1024;

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
    /// What stands before a data set.
    fn begin(&self, body: &mut Vec<u8>, is_first: bool) {
        match self {
            Form::Json => body.push(if is_first { b'[' } else { b',' }),
            Form::Xml(framing) => {
                body.extend_from_slice(&framing.open("Content-Type: application/dicom+xml\r\n"));
            }
        }
    }

    fn writer(&self) -> fn(&Dataset) -> String {
        match self {
            Form::Json => json_text,
            Form::Xml(_) => xml::document,
        }
    }

    fn end(&self, body: &mut Vec<u8>) {
        match self {
            Form::Json => body.push(b']'),
            Form::Xml(framing) => body.extend_from_slice(&framing.close()),
        }
    }
}

/// An object's metadata, made ahead of its turn …
enum Made {
    Text(Bytes),
    /// … or not yet: it takes about so many bytes of memory.
    Long(Located, u64),
}

async fn body(call: &Call, resource: Resource, survey: Survey, form: Form) -> Result<Body, ApiError> {
    let state = call.state.clone();
    let stall = state.limits.http_stall;
    let Some(room) = state.metadata.answer(stall).await else { return Err(busy()) };
    let held = resource.held(&state, survey.first);
    let (is_json, makes) = (matches!(form, Form::Json), state.clone());
    let made = held.map_ok(move |located| make(makes.clone(), located, is_json)).try_buffered(AHEAD);
    let made = begun(made).await?;
    Ok(streamed(stall, move |sink| async move {
        let sent = send(&state, form, made, &mut Paced::new(&sink, stall)).await;
        drop(room);
        if let Err(why) = sent {
            sink.fail(why).await;
        }
    }))
}

fn busy() -> ApiError {
    ApiError::unavailable("BUSY", "Too many answers with metadata are under way.")
}

/// An answer on its way to a client that others wait for.
struct Paced<'a> {
    sink: &'a BodySink,
    stall: Duration,
    /// For how long the client let us wait, beyond what it may take for what it has taken.
    behind: Duration,
}

impl<'a> Paced<'a> {
    fn new(sink: &'a BodySink, stall: Duration) -> Self {
        Paced { sink, stall, behind: Duration::ZERO }
    }

    /// Fails when the client takes less than `least` bytes a second.
    async fn send(&mut self, piece: Vec<u8>, least: u64) -> Result<(), &'static str> {
        let (begun, may_take) = (Instant::now(), Duration::from_secs_f64(piece.len() as f64 / least as f64));
        self.sink.send(piece.into()).await.map_err(|_| TOO_SLOW)?;
        self.behind = (self.behind + begun.elapsed()).saturating_sub(may_take);
        if self.behind > self.stall { Err(TOO_SLOW) } else { Ok(()) }
    }
}

const TOO_SLOW: &str = "the client takes the answer too slowly";
const UNMADE: &str = "the metadata of an object can't be made";

/// Sends what is made, in its order; an error breaks the answer off.
async fn send(
    state: &HttpState,
    form: Form,
    mut made: impl Stream<Item = Result<Made, ApiError>> + Unpin,
    client: &mut Paced<'_>,
) -> Result<(), &'static str> {
    let (mut is_first, mut body) = (true, Vec::new());
    while let Some(made) = made.next().await {
        form.begin(&mut body, is_first);
        is_first = false;
        match made.map_err(|_| UNMADE)? {
            Made::Text(text) => body.extend_from_slice(&text),
            Made::Long(located, cost) => {
                let room = state.metadata.long(cost, state.limits.http_stall).await;
                let _room = room.ok_or("no memory came free for metadata that are so long")?;
                let text = convert(state, located, form.writer(), u64::MAX).await.map_err(|_| UNMADE)?;
                let Made::Text(text) = text else { return Err(UNMADE) };
                // Copied: what waits for the client must not keep all of it.
                for piece in text.chunks(PIECE) {
                    body.extend_from_slice(piece);
                    client.send(std::mem::take(&mut body), LEAST_OF_LONG).await?;
                }
            }
        }
        if body.len() >= PIECE {
            client.send(std::mem::take(&mut body), LEAST).await?;
        }
    }
    form.end(&mut body);
    client.send(body, LEAST).await
}

async fn make(state: Arc<HttpState>, located: Located, is_json: bool) -> Result<Made, ApiError> {
    if !is_json {
        return convert(&state, located, xml::document, SHORT).await;
    }
    let entry = located.entry;
    if let Some(text) = state.metadata.get(entry).await {
        return Ok(Made::Text(text));
    }
    let made = convert(&state, located, json_text, SHORT).await?;
    if let Made::Text(text) = &made {
        state.metadata.keep(entry, text.clone()).await;
    }
    Ok(made)
}

fn json_text(dataset: &Dataset) -> String {
    json::object(dataset).to_string()
}

/// Takes at most about `most` bytes of memory.
async fn convert(
    state: &HttpState,
    located: Located,
    write: fn(&Dataset) -> String,
    most: u64,
) -> Result<Made, ApiError> {
    let entry = located.entry;
    let uri = format!("{}/bulkdata", located.url(&state.dicomweb_url()));
    let reader = MetadataReader::new(&syntax_of(&located), scan_limits(state), &uri).within(most);
    let object = same(state.spool.open(entry, CheckBy::Crc32c).await, &located)?;
    let converted = tokio::task::spawn_blocking(move || {
        let reader = read(&object, reader)?;
        let cost = reader.cost();
        if cost > most {
            return Ok(Made::Long(located, cost));
        }
        // Of its own length, by which it is weighed when it is kept.
        Ok(Made::Text(Bytes::from(write(&reader.finish()?).into_boxed_str().into_boxed_bytes())))
    });
    let made = converted
        .await
        .unwrap_or_else(|ended| Err(SpoolError::Failed(format!("a conversion ended: {ended}")).into()));
    match made.map_err(|error: ReadError| error.answer(entry))? {
        Made::Long(_, cost) if MetadataMemory::is_too_long(cost) => {
            tracing::warn!(%entry, cost, "the metadata of an object take more memory than all may");
            Err(too_long())
        }
        made => Ok(made),
    }
}

fn too_long() -> ApiError {
    ApiError::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "METADATA_TOO_LONG",
        "The metadata of an object take more memory than this node gives them; the object itself can be retrieved.",
    )
}

/// Blocks.
fn read(object: &ObjectReader, mut reader: MetadataReader) -> Result<MetadataReader, ReadError> {
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
    Ok(reader)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_takes_too_little_of_what_others_wait_for_is_given_up() {
        let stall = Duration::from_millis(150);
        let body = streamed(stall, move |sink| async move {
            let mut client = Paced::new(&sink, stall);
            while client.send(vec![0; 10], 1_000_000).await.is_ok() {}
            sink.fail(TOO_SLOW).await;
        });
        let mut taken = body.into_bytes_stream();
        let broken_off = loop {
            match taken.next().await.unwrap() {
                // Each well within the time after which one who takes nothing is given up.
                Ok(_) => tokio::time::sleep(stall / 10).await,
                Err(error) => break error,
            }
        };
        assert!(broken_off.to_string().contains("too slowly"), "{broken_off}");
    }
}
