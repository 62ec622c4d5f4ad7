//! Delivers by STOW-RS (PS3.18 §10.5): as many instances in one request as batch and size allow,
//! streamed from the spool; the answer tells about each of them.

use std::sync::Arc;

use reqwest::{Method, Response};

use super::destination::{Failure, Listed, Transport, Verdict, WebPeer};
use super::http::{self, DICOM_JSON, WebClient};
use super::lane::Lane;
use super::progress::Progress;
use super::stow_answer::StowAnswer;
use super::stow_body::{MultipartBody, Unreadable, file_length};
use super::verify::catalogue::Catalogue;
use super::verify::qido::Qido;
use crate::spool::SpoolEntry;

/// Bytes of one request; an object longer than that goes alone.
const LARGEST_REQUEST: u64 = 64 << 20;
/// An answer that names more instances would pass the limit of what is read.
const MOST_INSTANCES: usize = 1000;

pub struct StowTransport {
    lane: Arc<Lane>,
    client: WebClient,
    /// Where it is asked: not always where it is sent to.
    query: WebClient,
}

/// What came of a request that was answered, or of one that was not.
enum Sent {
    Answered(Response),
    /// The n-th object could not be read; the request was broken off.
    Unreadable(usize, String),
}

impl StowTransport {
    pub fn new(lane: Arc<Lane>, peer: WebPeer) -> Result<Self, Failure> {
        let query = lane.destination.query.clone().unwrap_or_else(|| peer.clone());
        Ok(Self { client: WebClient::new(peer)?, query: WebClient::new(query)?, lane })
    }

    async fn post(&self, entries: &[Arc<SpoolEntry>], progress: &Progress) -> Result<Sent, Failure> {
        let boundary = format!("relaypacs-{:032x}", rand::random::<u128>());
        let content_type = format!("multipart/related; type=\"application/dicom\"; boundary={boundary}");
        let unreadable = Unreadable::default();
        let body = MultipartBody::new(
            self.lane.spool.clone(),
            entries.to_vec(),
            boundary,
            progress.clone(),
            Arc::clone(&unreadable),
        );
        let request = self.client.request(Method::POST, "/studies").await?;
        let request = request
            .header("content-type", content_type)
            .header("accept", DICOM_JSON)
            .body(reqwest::Body::wrap(body));
        let sent = tokio::select! {
            sent = request.send() => sent,
            () = progress.stalled(self.client.peer.timeout) => {
                return Err(http::no_answer(self.client.peer.timeout));
            }
            () = self.lane.cut_off.cancelled() => return Err(Failure::new("stopping")),
        };
        match sent {
            Ok(response) => Ok(Sent::Answered(response)),
            Err(error) => match unreadable.lock().take() {
                Some((at, reason)) => Ok(Sent::Unreadable(at, reason)),
                None => Err(http::unreachable(&error)),
            },
        }
    }

    async fn read_answer(
        &self,
        entries: &[Arc<SpoolEntry>],
        response: Response,
    ) -> Result<Vec<Verdict>, Failure> {
        let status = response.status();
        if let Some(failure) = http::destination_failure(status, response.headers()) {
            return Err(failure);
        }
        let content_type = response.headers().get("content-type");
        let content_type = content_type.and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        // What can't be read whole says nothing about single instances; the status still counts.
        let body = http::read_capped(response, self.client.peer.timeout).await.unwrap_or_default();
        let answer = StowAnswer::parse(&content_type, &body);
        let is_verified = self.lane.destination.verify != crate::config::Verify::None;
        let verdict = |entry: &Arc<SpoolEntry>| {
            answer.verdict(status.as_u16(), entry.key.sop_instance_uid.as_str(), entries.len(), is_verified)
        };
        Ok(entries.iter().map(verdict).collect())
    }
}

impl Transport for StowTransport {
    fn appetite(&self) -> usize {
        self.lane.destination.batch.min(MOST_INSTANCES)
    }

    async fn listed(&mut self, entries: &[Arc<SpoolEntry>]) -> Result<Listed, Failure> {
        let asked = Catalogue::Web(Qido(&self.query)).listed(&self.lane.lists, entries).await;
        Ok(Listed::of(asked))
    }

    async fn send(&mut self, entries: &[Arc<SpoolEntry>]) -> Result<Vec<Verdict>, Failure> {
        let request = &entries[..fitting(entries)];
        let progress = Progress::default();
        match self.post(request, &progress).await {
            Ok(Sent::Answered(response)) => self.read_answer(request, response).await,
            Ok(Sent::Unreadable(0, reason)) => Ok(vec![Verdict::Unreadable(reason)]),
            Ok(Sent::Unreadable(before, _)) => Ok(vec![Verdict::SendAlone; before]),
            Err(failure) if progress.has_begun() => {
                // One of them may be what it dies of: they go one by one, until it is found.
                self.lane.send_alone(request);
                self.lane.got_no_answer(request.iter().take(progress.whole()).map(|entry| entry.id));
                Err(Failure { during_object: true, ..failure })
            }
            Err(failure) => Err(failure),
        }
    }

    async fn rest(&mut self) {
        // The client closes idle connections by itself.
    }
}

/// How many of the first entries go into one request.
fn fitting(entries: &[Arc<SpoolEntry>]) -> usize {
    let mut bytes = 0;
    let more = entries.iter().take_while(|entry| {
        bytes += file_length(entry);
        bytes <= LARGEST_REQUEST
    });
    more.count().clamp(1, entries.len())
}
