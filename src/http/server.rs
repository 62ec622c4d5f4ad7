//! The accept loop and the life of a connection. Ours, because poem's own has no bound on
//! connections, no pause when descriptors run out, and no timeout while headers arrive.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use poem::http::uri::Scheme;
use poem::http::{HeaderValue, Version, header};
use poem::web::{LocalAddr, RemoteAddr};
use poem::{Addr, Endpoint, Route};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::error::ApiError;
use super::head_watch::HeadWatch;
use super::router::{router, trace_id};
use super::socket::{Socket, Watched};
use super::state::HttpState;
use crate::lifecycle::Shutdown;

/// hyper's buffer for one connection. It bounds the head of a request too: longer ones get 431
/// from hyper, those over the router's own limit get it from there.
const BUFFER: usize = 64 * 1024;
const HEADER_LIST: u32 = 16 * 1024;
const HTTP2_STREAMS: u32 = 128;
/// Resets that a client may have us digest before the connection ends (rapid reset).
const HTTP2_PENDING_RESETS: usize = 20;
const HTTP2_PING: Duration = Duration::from_secs(20);
/// A connection without a request for so long makes room for another.
const IDLE: Duration = Duration::from_secs(60);
/// What an HTTP/2 client has to take of an answer within `http_stall`. Whether it takes anything can't be seen at the
/// socket, as in HTTP/1: PINGs are answered there, too.
/// So little, and no more in hyper's own buffer, that a slow line takes a piece of each in time of as many answers as a
/// client may ask for at once.
const HTTP2_PIECE: usize = 16 * 1024;
/// Pause when accept fails for want of descriptors or memory; to try at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until told to stop: then no new connections, and each open one ends after the requests
/// it is at. Returns when no connection is left.
pub async fn serve(listener: TcpListener, state: Arc<HttpState>, shutdown: Shutdown) {
    let Shutdown { soft: drain, hard: abort } = shutdown;
    let slots = Arc::new(Semaphore::new(state.limits.http_connections.max(1)));
    let connections = TaskTracker::new();
    let door = Arc::new(Door { routes: router(state.clone()), state, drain: drain.clone() });
    loop {
        // A slot first: what we can't serve waits in the listener's backlog.
        let slot = tokio::select! {
            () = drain.cancelled() => break,
            slot = slots.clone().acquire_owned() => slot,
        };
        let Ok(slot) = slot else { break };
        let accepted = tokio::select! {
            () = drain.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let (door, abort) = (door.clone(), abort.clone());
                connections.spawn(async move {
                    abort.run_until_cancelled(door.converse(stream)).await;
                    drop(slot);
                });
            }
            Err(error) => pause_after(error).await,
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// A peer that hung up before we accepted concerns nobody; a lack of descriptors will pass.
async fn pause_after(error: io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    if matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
        return;
    }
    tracing::error!(%error, "can't accept HTTP connections");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

struct Door {
    routes: Route,
    state: Arc<HttpState>,
    drain: CancellationToken,
}

impl Door {
    /// One connection, from its first byte to its end.
    async fn converse(self: Arc<Self>, stream: TcpStream) {
        let socket = Socket::new(stream);
        let activity = Arc::new(Activity::new());
        let ending = self.run(&socket, activity.clone()).await;
        if matches!(ending, Ending::HeadersLate) {
            socket.last_words(
                b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
            );
        }
        socket.close().await;
    }

    async fn run(self: &Arc<Self>, socket: &Socket, activity: Arc<Activity>) -> Ending {
        let (Ok(peer), Ok(local)) = (socket.peer(), socket.local()) else { return Ending::Closed };
        let service = service_fn({
            let (door, activity) = (self.clone(), activity.clone());
            move |request: hyper::Request<Incoming>| {
                let (door, busy) = (door.clone(), activity.begin(request.version() == Version::HTTP_2));
                let refusal = match activity.heads.take_ambiguous() {
                    true => Some(ambiguous_length()),
                    false => names_no_host(&request).then(no_host),
                };
                async move {
                    let addresses = (LocalAddr(Addr::from(local)), RemoteAddr(Addr::from(peer)));
                    let response = match refusal {
                        Some(refusal) => refusal.into(),
                        None => door.answer(request, addresses).await,
                    };
                    Ok::<_, Infallible>(response.map(|body| Counted::new(body, busy)))
                }
            }
        });
        let io =
            TokioIo::new(Watched::new(socket.clone(), self.state.limits.http_stall, activity.heads.clone()));
        let builder = self.builder();
        let mut connection = std::pin::pin!(builder.serve_connection(io, service));
        let mut draining = false;
        let limits = &self.state.limits;
        loop {
            let alarm = activity.alarm(limits.http_headers, limits.http_stall);
            tokio::select! {
                ended = connection.as_mut() => return Ending::of(ended),
                () = self.drain.cancelled(), if !draining => {
                    draining = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = tokio::time::sleep_until(alarm) => match activity.overdue(limits.http_headers, limits.http_stall) {
                    Some(ending) => return ending,
                    None => continue,
                },
            }
        }
    }

    async fn answer(
        &self,
        request: hyper::Request<Incoming>,
        (local, remote): (LocalAddr, RemoteAddr),
    ) -> hyper::Response<PoemBody> {
        let request: poem::Request = (request, local, remote, Scheme::HTTP).into();
        let response = match self.routes.call(request).await {
            Ok(response) => response,
            // Paths that the router can't even decode.
            Err(_) => ApiError::bad_request("BAD_PATH", "The path can't be read.").into_problem(&trace_id()),
        };
        response.into()
    }

    fn builder(&self) -> auto::Builder<TokioExecutor> {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            // Who has sent a whole request may end its side and wait for the answer (RFC 9112 §9.6).
            .half_close(true)
            .header_read_timeout(self.state.limits.http_headers)
            .max_buf_size(BUFFER);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(HTTP2_STREAMS)
            .max_pending_accept_reset_streams(HTTP2_PENDING_RESETS)
            .max_header_list_size(HEADER_LIST)
            .keep_alive_interval(HTTP2_PING)
            .max_send_buf_size(HTTP2_PIECE);
        builder
    }
}

/// RFC 9112 §3.2: exactly one, in HTTP/1.1.
fn names_no_host(request: &hyper::Request<Incoming>) -> bool {
    request.version() == Version::HTTP_11 && request.headers().get_all(header::HOST).iter().count() != 1
}

fn no_host() -> poem::Response {
    let error = ApiError::bad_request("NO_HOST", "The request has no Host header, or more than one.");
    error.with(header::CONNECTION, HeaderValue::from_static("close")).into_problem(&trace_id())
}

/// See [`super::head_watch`].
fn ambiguous_length() -> poem::Response {
    let error = ApiError::bad_request("AMBIGUOUS_LENGTH", "The request says its length twice.")
        .with(header::CONNECTION, HeaderValue::from_static("close"));
    error.into_problem(&trace_id())
}

enum Ending {
    Closed,
    /// No whole request head came in time.
    HeadersLate,
}

impl Ending {
    fn of(ended: Result<(), Box<dyn std::error::Error + Send + Sync>>) -> Ending {
        let late = ended
            .err()
            .and_then(|error| error.downcast::<hyper::Error>().ok())
            .is_some_and(|error| error.is_timeout());
        if late { Ending::HeadersLate } else { Ending::Closed }
    }
}

/// Whether a connection is of use: what hyper's own timeouts leave open is the time before it
/// knows the version, an HTTP/2 connection without streams, and one whose client takes nothing of what it asked for.
struct Activity {
    born: Instant,
    requests: AtomicU64,
    in_flight: AtomicUsize,
    /// Of those in flight, the ones that wait for us: for a handler, or for more of a body. All of HTTP/1.
    ours: AtomicUsize,
    /// Milliseconds after `born` at which a request last ended, or went on.
    last_progress: AtomicU64,
    heads: HeadWatch,
}

impl Activity {
    fn new() -> Self {
        Self {
            born: Instant::now(),
            requests: AtomicU64::new(0),
            in_flight: AtomicUsize::new(0),
            ours: AtomicUsize::new(0),
            last_progress: AtomicU64::new(0),
            heads: HeadWatch::default(),
        }
    }

    fn begin(self: &Arc<Self>, is_http2: bool) -> Busy {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.ours.fetch_add(1, Ordering::Relaxed);
        Busy { activity: self.clone(), is_http2, is_ours: true }
    }

    /// When to look at the connection next.
    fn alarm(&self, headers: Duration, stall: Duration) -> Instant {
        if self.requests.load(Ordering::Relaxed) == 0 {
            return self.born + headers;
        }
        if self.ours.load(Ordering::Relaxed) > 0 {
            return Instant::now() + IDLE.min(stall);
        }
        self.last_progress() + self.patience(stall)
    }

    fn overdue(&self, headers: Duration, stall: Duration) -> Option<Ending> {
        if self.ours.load(Ordering::Relaxed) > 0 {
            return None;
        }
        if self.requests.load(Ordering::Relaxed) == 0 {
            return (self.born.elapsed() >= headers).then_some(Ending::HeadersLate);
        }
        (self.last_progress().elapsed() >= self.patience(stall)).then_some(Ending::Closed)
    }

    /// How long a client may leave answers where they are, or ask for none.
    fn patience(&self, stall: Duration) -> Duration {
        if self.in_flight.load(Ordering::Relaxed) > 0 { stall } else { IDLE }
    }

    fn last_progress(&self) -> Instant {
        self.born + Duration::from_millis(self.last_progress.load(Ordering::Relaxed))
    }

    fn goes_on(&self) {
        let at = self.born.elapsed().as_millis().min(u128::from(u64::MAX)) as u64;
        self.last_progress.store(at, Ordering::Relaxed);
    }
}

/// A request from its head to the end of its response's body.
struct Busy {
    activity: Arc<Activity>,
    is_http2: bool,
    is_ours: bool,
}

impl Busy {
    /// Whether it waits for us from now on, or else for the client; of that, the socket tells in HTTP/1.
    fn waits_for_us(&mut self, is_ours: bool) {
        self.activity.goes_on();
        let is_ours = is_ours || !self.is_http2;
        match (self.is_ours, is_ours) {
            (true, false) => self.activity.ours.fetch_sub(1, Ordering::Relaxed),
            (false, true) => self.activity.ours.fetch_add(1, Ordering::Relaxed),
            _ => return,
        };
        self.is_ours = is_ours;
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.activity.goes_on();
        if self.is_ours {
            self.activity.ours.fetch_sub(1, Ordering::Relaxed);
        }
        if self.activity.in_flight.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.activity.heads.expect_head();
        }
    }
}

type PoemBody = http_body_util::combinators::BoxBody<Bytes, io::Error>;

/// A response body that keeps its connection busy until it is sent or dropped. hyper asks for more of it when the client
/// has taken what there was.
struct Counted {
    body: PoemBody,
    /// Behind the piece that hyper has.
    rest: Bytes,
    busy: Busy,
}

impl Counted {
    fn new(body: PoemBody, mut busy: Busy) -> Counted {
        busy.waits_for_us(false);
        Counted { body, rest: Bytes::new(), busy }
    }
}

impl Body for Counted {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        if self.rest.is_empty() {
            let polled = Pin::new(&mut self.body).poll_frame(cx);
            self.busy.waits_for_us(polled.is_pending());
            match polled.map_ok(Frame::into_data) {
                Poll::Ready(Some(Ok(Ok(bytes)))) => self.rest = bytes,
                Poll::Ready(Some(Ok(Err(other)))) => return Poll::Ready(Some(Ok(other))),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
        self.busy.waits_for_us(false);
        let most = if self.busy.is_http2 { HTTP2_PIECE } else { usize::MAX };
        let length = self.rest.len().min(most);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, hint) = (self.rest.len() as u64, self.body.size_hint());
        let mut with_rest = SizeHint::new();
        with_rest.set_lower(hint.lower() + rest);
        if let Some(upper) = hint.upper() {
            with_rest.set_upper(upper + rest);
        }
        with_rest
    }
}
