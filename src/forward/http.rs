//! HTTP to a DICOMweb destination: one client, credentials from their files, answers with a limit,
//! and what went wrong in plain words. STOW, QIDO and WADO are built on it.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Method, RequestBuilder, Response, StatusCode};

use super::destination::{Credentials, Failure, WebPeer};
use super::own_doors::INSTANCE;

/// Largest answer that is read (a destination is not trusted with our memory).
pub const LARGEST_ANSWER: usize = 1 << 20;
pub const DICOM_JSON: &str = "application/dicom+json";

#[derive(Debug, Clone)]
pub struct WebClient {
    http: reqwest::Client,
    pub peer: WebPeer,
}

impl WebClient {
    pub fn new(peer: WebPeer) -> Result<WebClient, Failure> {
        let instance =
            HeaderValue::from_str(&peer.instance).map_err(|error| Failure::new(error.to_string()))?;
        let http = reqwest::Client::builder()
            .default_headers(HeaderMap::from_iter([(HeaderName::from_static(INSTANCE), instance)]))
            .connect_timeout(peer.timeout)
            .pool_idle_timeout(Duration::from_secs(20))
            .tcp_nodelay(true)
            // Objects go where the configuration says, nowhere else.
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .user_agent(concat!("relaypacs/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| Failure::new(format!("HTTP client: {}", in_words(&error))))?;
        Ok(WebClient { http, peer })
    }

    /// A request to `path` under the service's base, with credentials.
    pub async fn request(&self, method: Method, path: &str) -> Result<RequestBuilder, Failure> {
        let request = self.http.request(method, format!("{}{path}", self.peer.base));
        Ok(match &self.peer.credentials {
            Credentials::None => request,
            Credentials::Bearer { token_file } => request.bearer_auth(secret(token_file).await?),
            Credentials::Basic { username, password_file } => {
                request.basic_auth(username, Some(secret(password_file).await?))
            }
        })
    }

    /// A GET for DICOM JSON: status and body.
    pub async fn get_json(&self, path: &str) -> Result<(StatusCode, Bytes), Failure> {
        let request = self.request(Method::GET, path).await?.header("accept", DICOM_JSON);
        let sent = tokio::time::timeout(self.peer.timeout, request.send()).await;
        let response =
            sent.map_err(|_| no_answer(self.peer.timeout))?.map_err(|error| unreachable(&error))?;
        let status = response.status();
        // 404 may say that there is no such study; the caller knows what it asked.
        match destination_failure(status, response.headers()) {
            Some(failure) if status != StatusCode::NOT_FOUND => Err(failure),
            _ => Ok((status, read_capped(response, self.peer.timeout).await?)),
        }
    }
}

async fn secret(path: &Path) -> Result<String, Failure> {
    match tokio::fs::read_to_string(path).await {
        Ok(text) if !text.trim().is_empty() => Ok(text.trim().to_owned()),
        Ok(_) => Err(Failure::new(format!("the secret file {} is empty", path.display()))),
        Err(error) => Err(Failure::new(format!("the secret file {}: {error}", path.display()))),
    }
}

/// The whole body, unless it is longer than [`LARGEST_ANSWER`].
pub async fn read_capped(mut response: Response, timeout: Duration) -> Result<Bytes, Failure> {
    let mut body = BytesMut::new();
    loop {
        let chunk = tokio::time::timeout(timeout, response.chunk()).await.map_err(|_| no_answer(timeout))?;
        let Some(chunk) = chunk.map_err(|error| unreachable(&error))? else { return Ok(body.freeze()) };
        if body.len() + chunk.len() > LARGEST_ANSWER {
            return Err(Failure::new(format!("its answer is longer than {LARGEST_ANSWER} bytes")));
        }
        body.extend_from_slice(&chunk);
    }
}

/// Statuses that say something about the destination, not about what was sent.
pub fn destination_failure(status: StatusCode, headers: &HeaderMap) -> Option<Failure> {
    let code = status.as_u16();
    let reason = match code {
        300..=399 => format!("redirects (HTTP {code}); give its final URL"),
        401 => "does not accept our credentials (HTTP 401); check username and password_file, or token_file"
            .into(),
        403 => "forbids this (HTTP 403); check what our account may do there".into(),
        407 => "a proxy wants credentials (HTTP 407)".into(),
        404 | 405 | 410 | 501 => format!("has no such service at its URL (HTTP {code}); check the url"),
        508 => "is this node itself, or leads back to it (HTTP 508); give the archive's URL".into(),
        408 | 425 | 429 | 502 | 503 | 504 | 507 => format!("is busy or unwell (HTTP {code})"),
        _ => return None,
    };
    Some(Failure { retry_after: retry_after(headers), ..Failure::new(reason) })
}

/// Seconds only: an HTTP date would need the destination's clock.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

pub fn unreachable(error: &reqwest::Error) -> Failure {
    let what = if error.is_connect() { "can't be connected" } else { "the connection failed" };
    Failure::new(format!("{what}: {}", in_words(error)))
}

pub fn no_answer(timeout: Duration) -> Failure {
    Failure::new(format!("no answer within {} s", timeout.as_secs_f32()))
}

/// The innermost cause says most; URLs, which may name a study, are left out.
fn in_words(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    let mut depth = 0;
    while let Some(inner) = cause.source() {
        cause = inner;
        depth += 1;
    }
    if depth > 0 { cause.to_string() } else { "no details".to_owned() }
}

/// Asks for one instance at most: proves that the service is there and lets us in.
pub async fn echo(peer: &WebPeer) -> Result<String, Failure> {
    let client = WebClient::new(peer.clone())?;
    let began = Instant::now();
    let (status, _) = client.get_json("/studies?limit=1").await?;
    let took = began.elapsed().as_millis();
    if status.is_success() {
        Ok(format!("QIDO-RS answered HTTP {} after {took} ms", status.as_u16()))
    } else {
        Err(Failure::new(format!("QIDO-RS answered HTTP {}", status.as_u16())))
    }
}
