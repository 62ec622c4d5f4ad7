//! Every address of this door, in one list, each with the scope it asks for. What stands around
//! a handler is here too, once: authentication, method, panics, problem bodies, log, metrics.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use poem::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use poem::{Addr, Endpoint, Request, Response, Route};
use tracing::Instrument;

use super::api::{self, OPERATIONS};
use super::dicomweb::{bulk_data, metadata, qido, stow, wado};
use super::error::ApiError;
use super::health;
use super::principal::authenticate;
use super::state::HttpState;
use crate::auth::{Principal, Scope};
use crate::dicom::Uid;
use crate::forward::INSTANCE;
use crate::telemetry::metrics;

/// Header fields of one request, names and values together, and the length of its target.
const HEADER_LIMIT: usize = 16 * 1024;

/// A request on its way to a handler.
pub struct Call {
    pub request: Request,
    pub state: Arc<HttpState>,
    /// Nobody on open addresses.
    pub principal: Option<Principal>,
}

impl Call {
    /// The UID that the path names; anything that is not a UID is the client's fault.
    pub fn uid(&self, name: &str) -> Result<Uid, ApiError> {
        self.request
            .raw_path_param(name)
            .and_then(|text| Uid::parse(text).ok().filter(|uid| uid.as_str() == text))
            .ok_or_else(|| ApiError::bad_request("INVALID_UID", "The path names an invalid UID."))
    }

    pub fn peer(&self) -> Option<IpAddr> {
        match &self.request.remote_addr().0 {
            Addr::SocketAddr(address) => Some(address.ip()),
            _ => None,
        }
    }
}

type Handler = fn(Call) -> BoxFuture<'static, Result<Response, ApiError>>;

#[derive(Clone)]
struct Entry {
    method: Method,
    path: &'static str,
    /// `None`: open to everyone.
    scope: Option<Scope>,
    handler: Handler,
}

fn open(path: &'static str, handler: Handler) -> Entry {
    Entry { method: Method::GET, path, scope: None, handler }
}

fn get(path: &'static str, scope: Scope, handler: Handler) -> Entry {
    Entry { method: Method::GET, path, scope: Some(scope), handler }
}

fn post(path: &'static str, scope: Scope, handler: Handler) -> Entry {
    Entry { method: Method::POST, path, scope: Some(scope), handler }
}

/// Every operation of the REST API, and its document.
fn api_entries() -> impl Iterator<Item = Entry> {
    let operations = OPERATIONS.iter().map(|(method, path, scope)| Entry {
        method: method.clone(),
        // Made once in the life of a process.
        path: Box::leak(format!("{}{path}", api::BASE).into_boxed_str()),
        scope: Some(*scope),
        handler: |call| Box::pin(api::answer(call)),
    });
    let document = get("/api/v1/openapi.json", Scope::ApiRead, |call| Box::pin(api::document::show(call)));
    operations.chain([document])
}

/// A GET entry answers HEAD too; OPTIONS and 405 follow from the list.
fn entries() -> Vec<Entry> {
    use Scope::{DicomwebRead as Read, DicomwebWrite as Write};
    vec![
        open("/health/live", |call| Box::pin(health::live(call))),
        open("/health/ready", |call| Box::pin(health::ready(call))),
        // PS3.18 §10.5: Store.
        post("/dicom-web/studies", Write, |call| Box::pin(stow::store(call))),
        post("/dicom-web/studies/:study", Write, |call| Box::pin(stow::store_study(call))),
        // PS3.18 §10.4: Retrieve.
        get("/dicom-web/studies/:study", Read, |call| Box::pin(wado::retrieve_many(call))),
        get("/dicom-web/studies/:study/series/:series", Read, |call| Box::pin(wado::retrieve_many(call))),
        get("/dicom-web/studies/:study/series/:series/instances/:instance", Read, |call| {
            Box::pin(wado::retrieve_instance(call))
        }),
        get("/dicom-web/studies/:study/metadata", Read, |call| Box::pin(metadata::retrieve(call))),
        get("/dicom-web/studies/:study/series/:series/metadata", Read, |call| {
            Box::pin(metadata::retrieve(call))
        }),
        get("/dicom-web/studies/:study/series/:series/instances/:instance/metadata", Read, |call| {
            Box::pin(metadata::retrieve(call))
        }),
        get("/dicom-web/studies/:study/series/:series/instances/:instance/bulkdata/*path", Read, |call| {
            Box::pin(bulk_data::retrieve(call))
        }),
        // PS3.18 §10.6: Search.
        get("/dicom-web/studies", Read, |call| Box::pin(qido::studies(call))),
        get("/dicom-web/series", Read, |call| Box::pin(qido::series(call))),
        get("/dicom-web/instances", Read, |call| Box::pin(qido::instances(call))),
        get("/dicom-web/studies/:study/series", Read, |call| Box::pin(qido::series(call))),
        get("/dicom-web/studies/:study/instances", Read, |call| Box::pin(qido::instances(call))),
        get("/dicom-web/studies/:study/series/:series/instances", Read, |call| {
            Box::pin(qido::instances(call))
        }),
    ]
}

/// The whole door as one endpoint.
pub fn router(state: Arc<HttpState>) -> Route {
    let mut resources: BTreeMap<&'static str, Vec<Entry>> = BTreeMap::new();
    for entry in entries().into_iter().chain(api_entries()) {
        resources.entry(entry.path).or_default().push(entry);
    }
    let mut route = Route::new();
    for (path, entries) in resources {
        route = route.at(path, Resource { path, entries, why: unknown, state: state.clone() });
    }
    let nothing = |path, why| Resource { path, entries: Vec::new(), why, state: state.clone() };
    route
        .at("/api/v1/*rest", nothing("unknown", unknown))
        .at("/api/*rest", nothing("unversioned", unversioned))
        .at("/*rest", nothing("unknown", unknown))
}

fn unknown(_: &Request) -> ApiError {
    ApiError::not_found()
}

/// The API's addresses before they had a version (RFC 9745, RFC 8594).
fn unversioned(request: &Request) -> ApiError {
    let path = request.uri().path().strip_prefix("/api/").unwrap_or_default();
    let successor = format!("{}/{path}", api::BASE);
    let error = ApiError::new(
        StatusCode::GONE,
        "UNVERSIONED",
        format!("This address has a version now: {successor}."),
    )
    .with(HeaderName::from_static("deprecation"), HeaderValue::from_static("@1764547200"))
    .with(HeaderName::from_static("sunset"), HeaderValue::from_static("Tue, 01 Dec 2026 00:00:00 GMT"));
    match HeaderValue::from_str(&format!("<{successor}>; rel=\"successor-version\"")) {
        Ok(link) => error.with(header::LINK, link),
        Err(_) => error,
    }
}

/// One address with its methods; without entries, every address that is not listed.
struct Resource {
    path: &'static str,
    entries: Vec<Entry>,
    /// What there is to say where there are no entries.
    why: fn(&Request) -> ApiError,
    state: Arc<HttpState>,
}

impl Endpoint for Resource {
    type Output = Response;

    async fn call(&self, request: Request) -> poem::Result<Response> {
        let began = Instant::now();
        let trace_id = trace_id();
        let method = request.method().clone();
        let is_api = request.uri().path().starts_with("/api/");
        let mut caller = None;
        // What is logged meanwhile bears the id that the client is told.
        let span = tracing::error_span!("request", %trace_id);
        let answer =
            AssertUnwindSafe(self.answer(request, &mut caller)).catch_unwind().instrument(span).await;
        let response = match answer {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => error.into_problem(&trace_id),
            // The panic's own text went to the panic hook.
            Err(_) => {
                tracing::error!(%trace_id, route = self.path, %method, "a handler panicked");
                ApiError::internal().into_problem(&trace_id)
            }
        };
        let status = response.status().as_u16();
        let elapsed = began.elapsed();
        metrics::http_request(self.path, method_label(&method), status, elapsed.as_secs_f64());
        tracing::info!(
            %trace_id, route = self.path, method = method_label(&method), status,
            account = caller.as_deref().unwrap_or("-"), ms = elapsed.as_millis() as u64, "http request"
        );
        Ok(hardened(response, is_api))
    }
}

impl Resource {
    async fn answer(&self, request: Request, caller: &mut Option<String>) -> Result<Response, ApiError> {
        check_headers(&request)?;
        check_sender(&request, &self.state.instance)?;
        let open = self.entries.iter().any(|entry| entry.scope.is_none());
        let principal =
            if open { None } else { Some(authenticate(&self.state.keys, request.headers()).await?) };
        *caller = principal.as_ref().map(|principal| principal.id.clone());
        if self.entries.is_empty() {
            return Err((self.why)(&request));
        }
        if request.method() == Method::OPTIONS {
            return Ok(Response::builder()
                .status(StatusCode::NO_CONTENT)
                .header(header::ALLOW, self.allow())
                .finish());
        }
        let entry = self.entry(request.method()).ok_or_else(|| self.method_not_allowed())?;
        check_scope(entry, principal.as_ref())?;
        (entry.handler)(Call { request, state: self.state.clone(), principal }).await
    }

    fn entry(&self, method: &Method) -> Option<&Entry> {
        let method = if method == Method::HEAD { &Method::GET } else { method };
        self.entries.iter().find(|entry| entry.method == method)
    }

    fn allow(&self) -> String {
        let mut methods = vec!["OPTIONS"];
        for entry in &self.entries {
            methods.push(method_label(&entry.method));
            if entry.method == Method::GET {
                methods.push("HEAD");
            }
        }
        methods.sort_unstable();
        methods.join(", ")
    }

    fn method_not_allowed(&self) -> ApiError {
        let error = ApiError::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "METHOD_NOT_ALLOWED",
            "This address does not know that method; Allow lists those it knows.",
        );
        match HeaderValue::from_str(&self.allow()) {
            Ok(allow) => error.with(header::ALLOW, allow),
            Err(_) => error,
        }
    }
}

fn check_scope(entry: &Entry, principal: Option<&Principal>) -> Result<(), ApiError> {
    let Some(scope) = entry.scope else { return Ok(()) };
    if principal.is_some_and(|principal| principal.may(scope)) {
        return Ok(());
    }
    Err(ApiError::new(
        StatusCode::FORBIDDEN,
        "SCOPE_MISSING",
        format!("The key lacks the scope {scope} that this address asks for."),
    ))
}

/// Delivered to itself, an object would count as delivered.
fn check_sender(request: &Request, own: &str) -> Result<(), ApiError> {
    if request.header(INSTANCE) != Some(own) {
        return Ok(());
    }
    Err(ApiError::new(
        StatusCode::LOOP_DETECTED,
        "DESTINATION_IS_ITSELF",
        "This request comes from this very node: one of its destinations is itself.",
    ))
}

/// What every address refuses: oversized headers, and content codings, which would let few bytes
/// become many.
fn check_headers(request: &Request) -> Result<(), ApiError> {
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    if target > HEADER_LIMIT {
        return Err(ApiError::new(StatusCode::URI_TOO_LONG, "URI_TOO_LONG", "The URL is too long."));
    }
    if header_bytes(request.headers()) > HEADER_LIMIT {
        return Err(ApiError::new(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "HEADERS_TOO_LARGE",
            format!("The header fields are longer than {HEADER_LIMIT} bytes."),
        ));
    }
    let identity = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
    if !request.headers().get_all(header::CONTENT_ENCODING).iter().all(identity) {
        return Err(ApiError::unsupported_media_type("Content-Encoding is not supported."));
    }
    Ok(())
}

fn header_bytes(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum()
}

/// Answers are for their asker alone, and are what they say they are; a browser that shows one does nothing with it.
fn hardened(mut response: Response, is_api: bool) -> Response {
    const ALWAYS: [(HeaderName, &str); 6] = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
        ),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    let headers = response.headers_mut();
    for (name, value) in ALWAYS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if is_api {
        headers.insert(HeaderName::from_static("api-version"), HeaderValue::from_static(api::VERSION));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("private, no-cache"));
    response
}

/// Methods are the client's text; a label is one of few.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::PATCH => "PATCH",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// 128 random bits, as W3C Trace Context writes them.
pub fn trace_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}

#[cfg(test)]
mod tests {
    use super::super::api::Api;
    use super::*;
    use crate::admin::Admin;
    use crate::auth::Keys;
    use crate::clock::SystemClock;
    use crate::config::Config;
    use crate::index::{Index, IndexOptions};
    use crate::ingest::{Ingest, IngestOptions};
    use crate::lifecycle::Stage;
    use crate::spool::{Spool, SpoolOptions};
    use crate::store::keys::KeyRows;
    use crate::store::{Routing, Store, dialect};

    async fn state(dir: &std::path::Path) -> Arc<HttpState> {
        let config = Config::from_toml(&format!("[node]\ndata_dir = {dir:?}\n")).unwrap();
        let options = SpoolOptions {
            dir: dir.join("spool"),
            inline_limit: 64 << 10,
            segment_size: 512 << 10,
            retention: config.spool.retention,
            high_watermark: 0.999,
            critical_watermark: 1.0,
            sync: true,
            any_file_system: true,
        };
        let spool = Spool::start(options, Arc::new(SystemClock)).unwrap();
        let store = Store::open(&dialect::sqlite_url(&dir.join("index.db")), None, 2).await.unwrap();
        let keys = Keys::new(KeyRows::new(store.clone()), Arc::new(SystemClock));
        let admin = Admin {
            config: Arc::new(config.clone()),
            clock: Arc::new(SystemClock),
            store: store.clone(),
            spool: spool.clone(),
            keys: keys.clone(),
            routing: Routing::new(store.clone(), dir),
            running: None,
        };
        let options = IngestOptions { object_limit: 1024, ..IngestOptions::default() };
        Arc::new(HttpState {
            ingest: Ingest::new(spool.clone(), Arc::new(SystemClock), options),
            index: Index::start(
                store.clone(),
                spool.clone(),
                Arc::new(SystemClock),
                IndexOptions::default(),
                &Stage::default(),
            ),
            spool,
            keys,
            api: Api::new(admin),
            public_url: String::new(),
            instance: "".into(),
            limits: config.limits,
            part_buffers: Default::default(),
            metadata: Default::default(),
            dependencies: Arc::new(|| Box::pin(async { Vec::new() })),
        })
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_panic_is_500_with_an_id_and_says_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let entries = vec![open("/panics", |_| Box::pin(async { panic!("Doe^Jane") }))];
        let resource = Resource { path: "/panics", entries, why: unknown, state: state(dir.path()).await };
        let mut response = resource.call(Request::default()).await.unwrap();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let body = response.take_body().into_string().await.unwrap();
        assert!(body.contains("\"trace_id\"") && !body.contains("Doe"), "{body}");
        resource.state.spool.close();
    }

    #[test]
    fn every_address_but_health_asks_for_a_scope() {
        for entry in entries().into_iter().chain(api_entries()) {
            assert_eq!(entry.scope.is_none(), entry.path.starts_with("/health/"), "{}", entry.path);
        }
    }
}
