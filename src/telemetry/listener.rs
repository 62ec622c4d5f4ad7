//! The telemetry listener: `/metrics`, as Prometheus scrapes it. On loopback for whoever asks,
//! elsewhere only with the token of `telemetry.token_file`.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use poem::http::{StatusCode, header};
use poem::listener::TcpAcceptor;
use poem::{Endpoint, EndpointExt, Request, Response, Route, Server, get};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;

use super::{gauges, metrics};
use crate::lifecycle::Shutdown;

/// Gathers the gauges' values for one scrape.
pub type GaugeSource = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = gauges::Snapshot> + Send>> + Send + Sync>;

const GRACE: Duration = Duration::from_secs(1);
const IDLE: Duration = Duration::from_secs(60);

/// Serves until `shutdown`.
pub async fn serve(listener: TcpListener, token: Option<String>, source: GaugeSource, shutdown: Shutdown) {
    let acceptor = match TcpAcceptor::from_tokio(listener) {
        Ok(acceptor) => acceptor,
        Err(error) => return tracing::error!(%error, "the telemetry listener could not start"),
    };
    let routes = routes(token, source);
    let stop = async move { shutdown.soft.cancelled().await };
    let server = Server::new_with_acceptor(acceptor).idle_timeout(IDLE);
    if let Err(error) = server.run_with_graceful_shutdown(routes, stop, Some(GRACE)).await {
        tracing::error!(%error, "the telemetry listener failed");
    }
}

fn routes(token: Option<String>, source: GaugeSource) -> impl Endpoint<Output = Response> {
    Route::new().at("/metrics", get(Scrape { token: token.as_deref().map(digest), source })).map_to_response()
}

struct Scrape {
    token: Option<[u8; 32]>,
    source: GaugeSource,
}

impl Endpoint for Scrape {
    type Output = Response;

    async fn call(&self, request: Request) -> poem::Result<Response> {
        if !self.admits(&request) {
            return Ok(Response::builder()
                .status(StatusCode::UNAUTHORIZED)
                .header(header::WWW_AUTHENTICATE, "Bearer")
                .finish());
        }
        gauges::show((self.source)().await);
        let text = metrics::encode().map_err(poem::error::InternalServerError)?;
        Ok(Response::builder().content_type("text/plain; version=0.0.4; charset=utf-8").body(text))
    }
}

impl Scrape {
    /// Digests are compared, so that the time it takes tells nothing about the token.
    fn admits(&self, request: &Request) -> bool {
        let Some(expected) = &self.token else { return true };
        let shown = request.header(header::AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
        shown.is_some_and(|token| digest(token) == *expected)
    }
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scrape(token: Option<&str>) -> impl Endpoint<Output = Response> {
        routes(token.map(str::to_owned), Arc::new(|| Box::pin(async { gauges::Snapshot::default() })))
    }

    async fn ask(endpoint: &impl Endpoint<Output = Response>, authorization: Option<&str>) -> StatusCode {
        let mut request = Request::builder().uri_str("/metrics");
        if let Some(value) = authorization {
            request = request.header(header::AUTHORIZATION, value);
        }
        endpoint.get_response(request.finish()).await.status()
    }

    #[tokio::test]
    async fn metrics_are_shown_as_prometheus_text() {
        let response = scrape(None).get_response(Request::builder().uri_str("/metrics").finish()).await;
        assert_eq!(response.status(), StatusCode::OK);
        let text = response.into_body().into_string().await.unwrap();
        assert!(text.contains("relaypacs_spool_objects 0"), "{text}");
    }

    #[tokio::test]
    async fn a_configured_token_must_be_shown() {
        let guarded = scrape(Some("0123456789abcdef"));
        assert_eq!(ask(&guarded, None).await, StatusCode::UNAUTHORIZED);
        assert_eq!(ask(&guarded, Some("Bearer 0123456789abcdeX")).await, StatusCode::UNAUTHORIZED);
        assert_eq!(ask(&guarded, Some("Bearer 0123456789abcdef")).await, StatusCode::OK);
    }
}
