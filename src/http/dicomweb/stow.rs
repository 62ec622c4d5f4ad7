//! STOW-RS, the Store transaction (PS3.18 §10.5): one offer to ingest for each part, one answer
//! that says of each instance what became of it.
//!
//! What was stored before a request turns out malformed stays stored: each instance stands for
//! itself, and a client that sends it again is told that it is there.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use poem::Response;
use poem::http::{StatusCode, header};

use super::accept::{self, DICOM_JSON, DICOM_XML, JSON};
use super::media::MediaType;
use super::multipart::{MultipartError, PartHeaders, Reader, boundary};
use super::stow_answer::{Answer, PartResult};
use crate::dicom::{Uid, part10};
use crate::http::body::{BodyFault, LimitedBody};
use crate::http::error::ApiError;
use crate::http::router::Call;
use crate::ingest::{Form, Offer, Refusal};
use crate::spool::Origin;
use crate::telemetry::metrics;

/// Results of one request that we keep for its answer. A request with more parts is refused
/// where it passes this; what it stored stays.
const PARTS: usize = 100_000;

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
    let mut session = Session {
        origin: Origin::Stow {
            account: call.principal.as_ref().map(|caller| caller.id.clone()).unwrap_or_default(),
            peer: call.peer(),
        },
        parts: Reader::new(body, &boundary),
        results: Vec::new(),
        out_of_resources: true,
        study,
        call: &call,
    };
    session.run().await?;
    if session.out_of_resources {
        return Err(ApiError::unavailable("OUT_OF_RESOURCES", "The node has no room for these objects."));
    }
    let answer = Answer { study: session.study, results: session.results };
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

/// One request on its way through.
struct Session<'a> {
    call: &'a Call,
    origin: Origin,
    study: Option<Uid>,
    parts: Reader<LimitedBody>,
    results: Vec<PartResult>,
    /// Every part so far failed for want of room.
    out_of_resources: bool,
}

impl Session<'_> {
    async fn run(&mut self) -> Result<(), ApiError> {
        loop {
            let headers = match self.parts.next_part().await {
                Ok(Some(headers)) => headers,
                Ok(None) => break,
                Err(error) => return Err(self.broken(error)),
            };
            if self.results.len() >= PARTS {
                return Err(ApiError::new(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    "TOO_MANY_PARTS",
                    format!("More than {PARTS} parts in one request."),
                ));
            }
            let result = self.part(headers).await?;
            self.results.push(result);
        }
        if self.results.is_empty() {
            return Err(ApiError::bad_request("NO_PARTS", "The request holds no part."));
        }
        Ok(())
    }

    async fn part(&mut self, headers: PartHeaders) -> Result<PartResult, ApiError> {
        if headers.fields == 0 {
            return Err(self.malformed("a part has no header fields"));
        }
        match &headers.content_type {
            Some(media) if media.kind == "multipart" => {
                return Err(self.malformed("a part is a multipart itself"));
            }
            // Other content can't be an instance; without a type it is what the request says.
            Some(media) if !media.is("application", "dicom") => {
                self.out_of_resources = false;
                return Ok(PartResult::Unidentified { reason: CANNOT_UNDERSTAND });
            }
            _ => {}
        }
        let mut content = Observed::new(&mut self.parts);
        let mut bytes = Pin::new(&mut content);
        let offer = Offer {
            origin: self.origin.clone(),
            form: Form::Part10 { study_instance_uid: self.study.clone() },
            bytes: bytes.as_mut(),
            expected_length: headers.content_length,
        };
        let outcome = self.call.state.ingest.accept(offer).await;
        if let Some(last_byte) = content.ended {
            metrics::ack_seconds("stow", last_byte.elapsed().as_secs_f64());
        }
        let head = content.head();
        match outcome {
            Ok(receipt) => {
                self.out_of_resources = false;
                Ok(PartResult::Stored { key: receipt.key, sop_class_uid: receipt.sop_class_uid })
            }
            Err(Refusal::Interrupted(source)) => {
                let failure = self.parts.take_failure().unwrap_or(MultipartError::Body(source));
                Err(self.broken(failure))
            }
            Err(refusal) => {
                self.out_of_resources &= matches!(refusal, Refusal::OutOfResources(_));
                Ok(failed(&refusal, &head))
            }
        }
    }

    fn broken(&self, error: MultipartError) -> ApiError {
        match error {
            MultipartError::Malformed(what) => self.malformed(what),
            MultipartError::Body(source) => match BodyFault::of(&source) {
                Some(BodyFault::TooLarge { limit }) => ApiError::too_large(limit),
                Some(BodyFault::Stalled) => ApiError::new(
                    StatusCode::REQUEST_TIMEOUT,
                    "BODY_STALLED",
                    "The request body came too slowly.",
                ),
                None => self.malformed("the body broke off"),
            },
        }
    }

    fn malformed(&self, what: &str) -> ApiError {
        let stored = self.results.iter().filter(|result| matches!(result, PartResult::Stored { .. })).count();
        ApiError::bad_request(
            "MALFORMED_MULTIPART",
            format!("The multipart body can't be read: {what}. {stored} instances before that are stored."),
        )
    }
}

/// PS3.18 §I.2.2: Cannot understand.
const CANNOT_UNDERSTAND: u16 = 0xC000;

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

/// A part's content on its way to ingest: remembers its beginning, and when it ended.
struct Observed<'a> {
    parts: &'a mut Reader<LimitedBody>,
    first: VecDeque<Bytes>,
    kept: usize,
    ended: Option<Instant>,
}

impl<'a> Observed<'a> {
    /// Preamble and the file meta of nearly everybody.
    const HEAD: usize = 4096;

    fn new(parts: &'a mut Reader<LimitedBody>) -> Self {
        Self { parts, first: VecDeque::new(), kept: 0, ended: None }
    }

    fn head(self) -> Bytes {
        let mut head = BytesMut::with_capacity(self.kept);
        for chunk in self.first {
            head.extend_from_slice(&chunk);
        }
        head.freeze()
    }
}

impl Stream for Observed<'_> {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = Pin::new(&mut *self.parts).poll_next(cx);
        match &polled {
            Poll::Ready(Some(Ok(chunk))) if self.kept < Self::HEAD => {
                let piece = chunk.slice(..chunk.len().min(Self::HEAD - self.kept));
                self.kept += piece.len();
                self.first.push_back(piece);
            }
            Poll::Ready(None) if self.ended.is_none() => self.ended = Some(Instant::now()),
            _ => {}
        }
        polled
    }
}
