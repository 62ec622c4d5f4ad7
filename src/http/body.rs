//! Request bodies with the two limits that hyper leaves to us: how many bytes, and how slowly
//! they may come. And response bodies that a client may stop reading without holding us up.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt, ready, stream};
use poem::Body;
use poem::http::StatusCode;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep};
use tracing::Instrument;

use super::error::ApiError;

/// A body has to bring so much in each second that we wait for it (a drip is a stall).
const LEAST_BYTES_PER_SECOND: u64 = 1024;

/// Why a request body ended early; found inside the stream's `io::Error`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BodyFault {
    #[error("the body is longer than {limit} bytes")]
    TooLarge { limit: u64 },
    #[error("the body stalled")]
    Stalled,
}

impl BodyFault {
    pub fn of(error: &io::Error) -> Option<BodyFault> {
        error.get_ref()?.downcast_ref().copied()
    }
}

/// A request body, counted while it streams.
pub struct LimitedBody {
    inner: Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>,
    limit: u64,
    received: u64,
    pace: Pace,
}

impl LimitedBody {
    pub fn new(body: Body, limit: u64, stall: Duration) -> Self {
        Self { inner: Box::pin(body.into_bytes_stream()), limit, received: 0, pace: Pace::new(stall) }
    }

    fn admit(&mut self, chunk: Bytes) -> io::Result<Bytes> {
        self.received = self.received.saturating_add(chunk.len() as u64);
        if self.received > self.limit {
            return Err(io::Error::other(BodyFault::TooLarge { limit: self.limit }));
        }
        self.pace.arrived(chunk.len() as u64);
        Ok(chunk)
    }
}

impl Stream for LimitedBody {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.inner.as_mut().poll_next(cx) {
            Poll::Ready(Some(Ok(chunk))) => Poll::Ready(Some(self.admit(chunk))),
            Poll::Ready(other) => Poll::Ready(other),
            Poll::Pending => {
                ready!(self.pace.poll_stalled(cx));
                Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::TimedOut, BodyFault::Stalled))))
            }
        }
    }
}

/// A short body, whole.
pub async fn read(body: Body, limit: u64, stall: Duration) -> Result<Bytes, ApiError> {
    let mut body = LimitedBody::new(body, limit, stall);
    let mut bytes = BytesMut::new();
    while let Some(chunk) = body.next().await {
        bytes.extend_from_slice(&chunk.map_err(|error| cut_short(&error))?);
    }
    Ok(bytes.freeze())
}

fn cut_short(error: &io::Error) -> ApiError {
    match BodyFault::of(error) {
        Some(fault) => fault.into(),
        None => ApiError::bad_request("BODY_BROKEN", "The request body ended early."),
    }
}

impl From<BodyFault> for ApiError {
    fn from(fault: BodyFault) -> ApiError {
        match fault {
            BodyFault::TooLarge { limit } => ApiError::too_large(limit),
            BodyFault::Stalled => ApiError::new(
                StatusCode::REQUEST_TIMEOUT,
                "BODY_STALLED",
                "The request body came too slowly.",
            ),
        }
    }
}

/// Counts only the time in which we wait for the peer: a slow disk of ours is not its fault.
struct Pace {
    window: Duration,
    /// Waited in this window before the present wait, and what came meanwhile.
    waited: Duration,
    bytes: u64,
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl Pace {
    fn new(window: Duration) -> Self {
        Self { window, waited: Duration::ZERO, bytes: 0, waiting: None }
    }

    fn arrived(&mut self, bytes: u64) {
        if let Some((since, _)) = self.waiting.take() {
            self.waited += since.elapsed();
        }
        self.bytes += bytes;
        if self.bytes >= self.window.as_secs().max(1) * LEAST_BYTES_PER_SECOND {
            self.waited = Duration::ZERO;
            self.bytes = 0;
        }
    }

    /// Ready when a window of waiting brought less than the least rate.
    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let left = self.window.saturating_sub(self.waited);
        let (_, timer) =
            self.waiting.get_or_insert_with(|| (Instant::now(), Box::pin(tokio::time::sleep(left))));
        timer.as_mut().poll(cx)
    }
}

/// Chunks that wait for the client, at most.
const AHEAD: usize = 4;

/// Where a response body's producer puts its chunks.
pub struct BodySink {
    chunks: mpsc::Sender<io::Result<Bytes>>,
    stall: Duration,
}

/// The client is gone, or has not read for so long that we gave it up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the client stopped reading")]
pub struct ClientGone;

impl BodySink {
    pub async fn send(&self, chunk: Bytes) -> Result<(), ClientGone> {
        self.put(Ok(chunk)).await
    }

    /// Breaks the response off, so that the client sees it incomplete.
    pub async fn fail(&self, why: &'static str) {
        let _ = self.put(Err(io::Error::other(why))).await;
    }

    async fn put(&self, item: io::Result<Bytes>) -> Result<(), ClientGone> {
        match tokio::time::timeout(self.stall, self.chunks.send(item)).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(ClientGone),
        }
    }
}

/// A body that `produce` fills at the client's pace. When the client stops reading, the producer
/// ends after `stall` and what it holds is freed, whatever becomes of the connection.
pub fn streamed<F, P>(stall: Duration, produce: P) -> Body
where
    P: FnOnce(BodySink) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let (sender, mut receiver) = mpsc::channel(AHEAD);
    let producer = tokio::spawn(produce(BodySink { chunks: sender, stall }).in_current_span());
    let chunks = stream::poll_fn(move |cx| receiver.poll_recv(cx));
    // One that panicked must not look as if it were done.
    let broken_off = stream::once(producer)
        .filter_map(async |ended| ended.err().map(|_| Err(io::Error::other("it could not be made"))));
    Body::from_bytes_stream(chunks.chain(broken_off))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body_of(chunks: Vec<&'static str>) -> Body {
        Body::from_bytes_stream(futures_util::stream::iter(
            chunks.into_iter().map(|text| Ok::<_, io::Error>(Bytes::from_static(text.as_bytes()))),
        ))
    }

    #[tokio::test]
    async fn a_body_is_cut_at_its_limit() {
        let mut body = LimitedBody::new(body_of(vec!["12345", "67890", "x"]), 10, Duration::from_secs(1));
        assert_eq!(body.next().await.unwrap().unwrap(), "12345");
        assert_eq!(body.next().await.unwrap().unwrap(), "67890");
        let error = body.next().await.unwrap().unwrap_err();
        assert_eq!(BodyFault::of(&error), Some(BodyFault::TooLarge { limit: 10 }));
    }

    #[tokio::test]
    async fn a_drip_is_a_stall() {
        let stall = Duration::from_millis(200);
        let drip = futures_util::stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Some((Ok::<_, io::Error>(Bytes::from_static(b"x")), ()))
        });
        let mut body = LimitedBody::new(Body::from_bytes_stream(drip), 1000, stall);
        let began = Instant::now();
        let error = loop {
            if let Err(error) = body.next().await.unwrap() {
                break error;
            }
        };
        assert_eq!(BodyFault::of(&error), Some(BodyFault::Stalled));
        assert!(began.elapsed() >= stall);
    }

    #[tokio::test]
    async fn a_producer_that_panics_breaks_the_body_off() {
        let body = streamed(Duration::from_secs(9), |sink| async move {
            sink.send(Bytes::from_static(b"chunk")).await.unwrap();
            panic!("for the test");
        });
        assert!(body.into_bytes().await.is_err(), "it looks whole");
    }

    #[tokio::test]
    async fn a_producer_ends_when_its_client_stops_reading() {
        let (done, ended) = tokio::sync::oneshot::channel();
        let body = streamed(Duration::from_millis(100), |sink| async move {
            let mut sent = 0;
            while sink.send(Bytes::from_static(b"chunk")).await.is_ok() {
                sent += 1;
            }
            let _ = done.send(sent);
        });
        assert_eq!(ended.await.unwrap(), AHEAD, "some wait, no more are made");
        drop(body);
    }
}
