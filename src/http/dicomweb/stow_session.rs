//! One Store request, part by part. Small parts are gathered and offered to ingest side by side,
//! so that one sync of the log serves several of them; longer ones stream through, one at a time.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use poem::http::StatusCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use super::multipart::{MultipartError, PartHeaders, Reader};
use super::stow_answer::PartResult;
use crate::dicom::{Uid, part10};
use crate::http::body::{BodyFault, LimitedBody};
use crate::http::error::ApiError;
use crate::http::state::HttpState;
use crate::ingest::{Form, Ingest, Offer, Receipt, Refusal};
use crate::spool::Origin;
use crate::telemetry::metrics;

/// Results of one request that we keep for its answer. A request with more parts is refused
/// where it passes this; what it stored stays.
const PARTS: usize = 100_000;
/// Longest part that is gathered.
const SMALL: usize = 256 * 1024;
/// Parts of one request that are with ingest at once.
const SIDE_BY_SIDE: usize = 16;
/// Of all requests together: 8 MiB.
const GATHERED: usize = 32;
/// Of a part's beginning, to name it when it is refused: preamble and the file meta of nearly
/// everybody.
const HEAD: usize = 4096;
/// PS3.18 §I.2.2: Cannot understand, and Processing failure.
const CANNOT_UNDERSTAND: u16 = 0xC000;
const PROCESSING_FAILURE: u16 = 0x0110;

/// Room for gathered parts, shared by all requests.
#[derive(Clone)]
pub struct PartBuffers(Arc<Semaphore>);

impl Default for PartBuffers {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(GATHERED)))
    }
}

pub struct Session<'a> {
    state: &'a HttpState,
    origin: Origin,
    study: Option<Uid>,
    parts: Reader<LimitedBody>,
    /// In the order of the parts; `None` while ingest has it.
    results: Vec<Option<PartResult>>,
    running: JoinSet<Outcome>,
    /// Every part so far failed for want of room.
    out_of_resources: bool,
}

/// What ingest said to one part.
struct Outcome {
    part: usize,
    said: Result<Receipt, Refusal>,
    head: Bytes,
}

/// Why a request can't be read to its end.
enum Failure {
    Multipart(MultipartError),
    TooManyParts,
}

impl From<MultipartError> for Failure {
    fn from(error: MultipartError) -> Self {
        Failure::Multipart(error)
    }
}

impl<'a> Session<'a> {
    pub fn new(state: &'a HttpState, origin: Origin, study: Option<Uid>, parts: Reader<LimitedBody>) -> Self {
        Self {
            state,
            origin,
            study,
            parts,
            results: Vec::new(),
            running: JoinSet::new(),
            out_of_resources: true,
        }
    }

    /// Reads the whole request and says of each part what became of it.
    pub async fn run(mut self) -> Result<Vec<PartResult>, ApiError> {
        let read = self.read_parts().await;
        while self.settle_next().await {}
        if let Err(failure) = read {
            return Err(self.broken(failure));
        }
        if self.results.is_empty() {
            return Err(ApiError::bad_request("NO_PARTS", "The request holds no part."));
        }
        if self.out_of_resources {
            let detail = "The node has no room for these objects.";
            return Err(ApiError::unavailable("OUT_OF_RESOURCES", detail));
        }
        let lost = PartResult::Unidentified { reason: PROCESSING_FAILURE };
        Ok(self.results.into_iter().map(|result| result.unwrap_or(lost.clone())).collect())
    }

    async fn read_parts(&mut self) -> Result<(), Failure> {
        while let Some(headers) = self.parts.next_part().await? {
            if self.results.len() >= PARTS {
                return Err(Failure::TooManyParts);
            }
            if is_instance(&headers)? {
                self.results.push(None);
                self.offer(headers).await?;
            } else {
                self.out_of_resources = false;
                self.results.push(Some(PartResult::Unidentified { reason: CANNOT_UNDERSTAND }));
            }
        }
        Ok(())
    }

    /// Offers the part that was opened last.
    async fn offer(&mut self, headers: PartHeaders) -> Result<(), Failure> {
        if self.running.len() >= SIDE_BY_SIDE {
            self.settle_next().await;
        }
        let part = self.results.len() - 1;
        let is_long = headers.content_length.is_some_and(|length| length > SMALL as u64);
        let permit = if is_long { None } else { self.state.part_buffers.0.clone().try_acquire_owned().ok() };
        let mut begun = VecDeque::new();
        if let Some(permit) = permit {
            let (chunks, is_whole) = self.gather().await?;
            if is_whole {
                self.offer_aside(part, chunks, permit);
                return Ok(());
            }
            begun = chunks;
        }
        self.offer_here(part, headers, begun).await
    }

    /// The part's content, as long as it is small; and whether that is all of it. Pieces stay as they
    /// came, tiny ones are joined, so that each does not hold its read buffer.
    async fn gather(&mut self) -> Result<(VecDeque<Bytes>, bool), Failure> {
        let (mut chunks, mut length) = (VecDeque::new(), 0);
        while length <= SMALL {
            match self.parts.next().await {
                Some(Ok(chunk)) => {
                    length += chunk.len();
                    join(&mut chunks, chunk);
                }
                Some(Err(error)) => {
                    return Err(self.parts.take_failure().unwrap_or(MultipartError::Body(error)).into());
                }
                None => return Ok((chunks, true)),
            }
        }
        Ok((chunks, false))
    }

    fn offer_aside(&mut self, part: usize, chunks: VecDeque<Bytes>, permit: OwnedSemaphorePermit) {
        let ingest = self.state.ingest.clone();
        let (origin, study) = (self.origin.clone(), self.study.clone());
        self.running.spawn(async move {
            let length = chunks.iter().map(|chunk| chunk.len() as u64).sum();
            let last_byte = Instant::now();
            let mut content = Observed::new(futures_util::stream::empty(), chunks);
            let bytes = Pin::new(&mut content);
            let said = accept(&ingest, origin, study, bytes, Some(length)).await;
            metrics::ack_seconds("stow", last_byte.elapsed().as_secs_f64());
            drop(permit);
            Outcome { part, said, head: content.head.freeze() }
        });
    }

    async fn offer_here(
        &mut self,
        part: usize,
        headers: PartHeaders,
        begun: VecDeque<Bytes>,
    ) -> Result<(), Failure> {
        let (origin, study) = (self.origin.clone(), self.study.clone());
        let mut content = Observed::new(&mut self.parts, begun);
        let bytes = Pin::new(&mut content);
        let said = accept(&self.state.ingest, origin, study, bytes, headers.content_length).await;
        if let Some(last_byte) = content.ended {
            metrics::ack_seconds("stow", last_byte.elapsed().as_secs_f64());
        }
        let head = content.head.freeze();
        if let Err(Refusal::Interrupted(source)) = said {
            return Err(self.parts.take_failure().unwrap_or(MultipartError::Body(source)).into());
        }
        self.settle(Outcome { part, said, head });
        Ok(())
    }

    /// Takes in what ingest says to the next of the parts that it has; false when it has none.
    async fn settle_next(&mut self) -> bool {
        match self.running.join_next().await {
            Some(Ok(outcome)) => self.settle(outcome),
            Some(Err(error)) => {
                tracing::error!(%error, "a part was not taken in to its end");
                self.out_of_resources = false;
            }
            None => return false,
        }
        true
    }

    fn settle(&mut self, Outcome { part, said, head }: Outcome) {
        self.out_of_resources &= matches!(said, Err(Refusal::OutOfResources(_)));
        let result = match said {
            Ok(receipt) => PartResult::Stored { key: receipt.key, sop_class_uid: receipt.sop_class_uid },
            Err(refusal) => failed(&refusal, &head),
        };
        self.results[part] = Some(result);
    }

    fn broken(&self, failure: Failure) -> ApiError {
        match failure {
            Failure::TooManyParts => ApiError::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "TOO_MANY_PARTS",
                format!("More than {PARTS} parts in one request; {}.", self.stored()),
            ),
            Failure::Multipart(MultipartError::Malformed(what)) => self.malformed(what),
            Failure::Multipart(MultipartError::Body(source)) => match BodyFault::of(&source) {
                Some(fault) => fault.into(),
                None => self.malformed("the body broke off"),
            },
        }
    }

    fn malformed(&self, what: &str) -> ApiError {
        let detail = format!("The multipart body can't be read: {what}; {}.", self.stored());
        ApiError::bad_request("MALFORMED_MULTIPART", detail)
    }

    /// They stay: each instance stands for itself.
    fn stored(&self) -> String {
        let is_stored = |result: &&Option<PartResult>| matches!(result, Some(PartResult::Stored { .. }));
        format!("{} instances before that are stored", self.results.iter().filter(is_stored).count())
    }
}

async fn accept(
    ingest: &Ingest,
    origin: Origin,
    study_instance_uid: Option<Uid>,
    bytes: Pin<&mut (dyn Stream<Item = io::Result<Bytes>> + Send)>,
    expected_length: Option<u64>,
) -> Result<Receipt, Refusal> {
    let form = Form::Part10 { study_instance_uid };
    ingest.accept(Offer { origin, form, bytes, expected_length }).await
}

/// Whether a part is one. Without a type it is what the request says; with another it can't be.
fn is_instance(headers: &PartHeaders) -> Result<bool, MultipartError> {
    if headers.fields == 0 {
        return Err(MultipartError::Malformed("a part has no header fields"));
    }
    match &headers.content_type {
        Some(media) if media.kind == "multipart" => {
            Err(MultipartError::Malformed("a part is a multipart itself"))
        }
        Some(media) => Ok(media.is("application", "dicom")),
        None => Ok(true),
    }
}

/// A refused instance is named by its file meta, so far as that can be read.
fn failed(refusal: &Refusal, head: &[u8]) -> PartResult {
    let reason = refusal.stow_failure_reason();
    let Ok(part10::MetaProgress::Complete(meta)) = part10::read_meta(head) else {
        return PartResult::Unidentified { reason };
    };
    let uid = |text: Option<String>| text.and_then(|text| Uid::parse(&text).ok());
    match (uid(meta.media_storage_sop_class_uid), uid(meta.media_storage_sop_instance_uid)) {
        (Some(sop_class_uid), Some(sop_instance_uid)) => {
            PartResult::Failed { sop_class_uid, sop_instance_uid, reason }
        }
        _ => PartResult::Unidentified { reason },
    }
}

/// Puts a piece behind the others; one that is too small to keep what it came in is copied.
fn join(chunks: &mut VecDeque<Bytes>, chunk: Bytes) {
    match chunks.back_mut() {
        Some(last) if last.len() + chunk.len() <= HEAD => *last = [&last[..], &chunk[..]].concat().into(),
        _ if chunk.len() <= HEAD => chunks.push_back(Bytes::copy_from_slice(&chunk)),
        _ => chunks.push_back(chunk),
    }
}

/// Adds `chunk` to a part's beginning, as far as that goes.
fn begin_with(head: &mut BytesMut, chunk: &[u8]) {
    let wanted = chunk.len().min(HEAD - head.len());
    head.extend_from_slice(&chunk[..wanted]);
}

/// A part's content on its way to ingest: what was gathered already, then the rest. Remembers its
/// beginning, and when it ended.
struct Observed<S> {
    rest: S,
    begun: VecDeque<Bytes>,
    head: BytesMut,
    ended: Option<Instant>,
}

impl<S> Observed<S> {
    fn new(rest: S, begun: VecDeque<Bytes>) -> Self {
        let mut head = BytesMut::new();
        // Ingest may refuse it unread, and it has a name all the same.
        begun.iter().for_each(|chunk| begin_with(&mut head, chunk));
        Self { rest, begun, head, ended: None }
    }
}

impl<S: Stream<Item = io::Result<Bytes>> + Unpin> Stream for Observed<S> {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(chunk) = self.begun.pop_front() {
            return Poll::Ready(Some(Ok(chunk)));
        }
        let polled = Pin::new(&mut self.rest).poll_next(cx);
        match &polled {
            Poll::Ready(Some(Ok(chunk))) => begin_with(&mut self.head, chunk),
            Poll::Ready(None) if self.ended.is_none() => self.ended = Some(Instant::now()),
            _ => {}
        }
        polled
    }
}
