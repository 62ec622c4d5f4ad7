//! A DICOMweb archive that does what it is told, to the letter of HTTP/1.1 and no further.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use parking_lot::Mutex;
use relaypacs::dicom::part10::{self, MetaProgress};
use tokio::net::TcpListener;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    Take,
    /// Answers 200 and forgets.
    Drop,
    /// Answers every request so, without details.
    Status(u16),
    /// Asks for patience.
    Busy,
    /// Lists one instance as failed with this reason, takes the others: 202.
    Fail(String, u16),
    /// Refuses requests of more than one instance.
    OneAtATime,
    /// Closes the connection on any request that holds this instance.
    DieOf(String),
    /// Stores, and closes the connection instead of answering.
    Mute,
    /// Stores, and answers more than anybody should read.
    Verbose,
}

#[derive(Debug)]
pub struct State {
    pub mode: Mode,
    /// Part 10 files by SOP Instance UID.
    pub held: BTreeMap<String, Vec<u8>>,
    /// Instances per STOW request that was read.
    pub requests: Vec<usize>,
    /// Every request had the Content-Length that its body turned out to have.
    pub lengths_true: bool,
}

pub struct WebArchive {
    pub port: u16,
    pub state: Arc<Mutex<State>>,
    task: tokio::task::JoinHandle<()>,
}

impl WebArchive {
    pub async fn start(mode: Mode) -> WebArchive {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = State { mode, held: BTreeMap::new(), requests: Vec::new(), lengths_true: true };
        let state = Arc::new(Mutex::new(state));
        let task = tokio::spawn(serve(listener, Arc::clone(&state)));
        WebArchive { port, state, task }
    }

    pub fn set(&self, mode: Mode) {
        self.state.lock().mode = mode;
    }
}

impl Drop for WebArchive {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, state: Arc<Mutex<State>>) {
    let mut peers = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        peers.spawn(async move {
            let service = service_fn(move |request| answer(request, Arc::clone(&state)));
            let io = hyper_util::rt::TokioIo::new(stream);
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
        });
    }
}

type Answer = Result<Response<Full<Bytes>>, Box<dyn std::error::Error + Send + Sync>>;

async fn answer(request: Request<Incoming>, state: Arc<Mutex<State>>) -> Answer {
    if request.method() == Method::POST {
        return store(request, &state).await;
    }
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or_default();
    let state = state.lock();
    if path.ends_with("/instances") {
        let asked =
            query.split('&').find_map(|pair| pair.strip_prefix("SOPInstanceUID=")).unwrap_or_default();
        let found = asked.split(',').filter(|uid| state.held.contains_key(*uid));
        let items: Vec<String> =
            found.map(|uid| format!(r#"{{"00080018":{{"vr":"UI","Value":["{uid}"]}}}}"#)).collect();
        return respond(200, format!("[{}]", items.join(",")));
    }
    let uid = path.rsplit('/').next().unwrap_or_default();
    let Some(file) = state.held.get(uid) else { return respond(404, String::new()) };
    let body =
        [b"--b\r\nContent-Type: application/dicom\r\n\r\n", file.as_slice(), b"\r\n--b--\r\n"].concat();
    Ok(Response::builder()
        .header("content-type", "multipart/related; type=\"application/dicom\"; boundary=b")
        .body(Full::new(body.into()))?)
}

async fn store(request: Request<Incoming>, state: &Mutex<State>) -> Answer {
    let header =
        |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let content_type = header("content-type").unwrap();
    let length: Option<usize> = header("content-length").and_then(|value| value.parse().ok());
    let body = request.into_body().collect().await?.to_bytes();
    let boundary = content_type.split("boundary=").nth(1).unwrap().to_owned();
    let files = parts(&body, &boundary);
    let mut state = state.lock();
    state.lengths_true &= length == Some(body.len());
    let uids: Vec<String> = files.iter().map(|file| uid_of(file)).collect();
    let mut failed = None;
    match state.mode.clone() {
        Mode::Status(code) => return respond(code, "no".into()),
        Mode::Busy => {
            return Ok(Response::builder().status(503).header("retry-after", "1").body(Full::default())?);
        }
        Mode::OneAtATime if uids.len() > 1 => return respond(413, String::new()),
        Mode::DieOf(uid) if uids.contains(&uid) => return Err("died".into()),
        Mode::Fail(uid, reason) if uids.contains(&uid) => failed = Some((uid, reason)),
        _ => {}
    }
    state.requests.push(uids.len());
    if state.mode != Mode::Drop {
        let kept = uids.iter().cloned().zip(files);
        state.held.extend(kept.filter(|(uid, _)| failed.as_ref().is_none_or(|(failed, _)| failed != uid)));
    }
    if state.mode == Mode::Mute {
        return Err("no answer".into());
    }
    let stored: Vec<String> = uids
        .iter()
        .filter(|uid| failed.as_ref().is_none_or(|(failed, _)| failed != *uid))
        .map(|uid| format!(r#"{{"00081155":{{"vr":"UI","Value":["{uid}"]}}}}"#))
        .collect();
    let mut answer = format!(r#"{{"00081199":{{"vr":"SQ","Value":[{}]}}"#, stored.join(","));
    if let Some((uid, reason)) = &failed {
        answer += &format!(
            r#","00081198":{{"vr":"SQ","Value":[{{"00081155":{{"vr":"UI","Value":["{uid}"]}},"00081197":{{"vr":"US","Value":[{reason}]}}}}]}}"#
        );
    }
    answer.push('}');
    if state.mode == Mode::Verbose {
        answer.push_str(&" ".repeat(3 << 20));
    }
    respond(if failed.is_some() { 202 } else { 200 }, answer)
}

fn respond(status: u16, body: String) -> Answer {
    let response = Response::builder().status(status).header("content-type", "application/dicom+json");
    Ok(response.body(Full::new(body.into()))?)
}

/// The parts of a multipart body, by its boundary alone.
fn parts(body: &[u8], boundary: &str) -> Vec<Vec<u8>> {
    let delimiter = format!("--{boundary}").into_bytes();
    let mut begins = Vec::new();
    let mut at = 0;
    while let Some(found) = find(&body[at..], &delimiter) {
        begins.push(at + found);
        at += found + delimiter.len();
    }
    begins
        .windows(2)
        .map(|pair| {
            let part = &body[pair[0]..pair[1]];
            let head = find(part, b"\r\n\r\n").unwrap() + 4;
            part[head..part.len() - 2].to_vec()
        })
        .collect()
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    let first = wanted[0];
    let mut at = 0;
    while let Some(found) = bytes[at..].iter().position(|byte| *byte == first) {
        at += found;
        if bytes[at..].starts_with(wanted) {
            return Some(at);
        }
        at += 1;
    }
    None
}

fn uid_of(file: &[u8]) -> String {
    match part10::read_meta(file) {
        Ok(MetaProgress::Complete(meta)) => meta.media_storage_sop_instance_uid.unwrap(),
        _ => panic!("not a Part 10 file"),
    }
}
