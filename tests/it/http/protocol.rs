//! Who may come in, and what happens to clients that are broken, slow, greedy or gone.

use std::time::{Duration, Instant};

use relaypacs::auth::Scope;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::harness::*;

/// What the server says to these bytes until it closes.
async fn say(door: &Door, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(door.address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await;
    assert!(read.is_ok(), "the connection stays open");
    String::from_utf8_lossy(&answer).into_owned()
}

fn authorized(door: &Door, request_line: &str, headers: &str) -> Vec<u8> {
    format!("{request_line} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n{headers}\r\n", door.key)
        .into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_health_is_open() {
    let door = door().await;
    for path in ["/health/live", "/health/ready"] {
        assert_eq!(door.client.get(format!("{}{path}", door.url)).send().await.unwrap().status(), 200);
    }
    for path in ["/dicom-web/studies", "/dicom-web/studies/1.2/metadata", "/api/v1/x", "/", "/%ff"] {
        let response = door.client.get(format!("{}{path}", door.url)).send().await.unwrap();
        assert_eq!(response.status(), 401, "{path}");
        let challenges: Vec<_> = response.headers().get_all("www-authenticate").iter().collect();
        assert_eq!(challenges.len(), 2, "{path}");
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        let problem: serde_json::Value = response.json().await.unwrap();
        assert_eq!(problem["code"], "UNAUTHORIZED");
        assert_eq!(problem["trace_id"].as_str().unwrap().len(), 32);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_opens_what_its_scopes_name() {
    let door = door().await;
    let reader = door.foundation.keys.add("reader", &[Scope::DicomwebRead], None).await.unwrap();
    let url = format!("{}/dicom-web/studies", door.url);
    assert_eq!(door.client.get(&url).bearer_auth(&reader).send().await.unwrap().status(), 200);
    let response = door.client.post(&url).bearer_auth(&reader).body("x").send().await.unwrap();
    assert_eq!(response.status(), 403);
    let problem: serde_json::Value = response.json().await.unwrap();
    assert_eq!(problem["code"], "SCOPE_MISSING");

    let id = reader.split('_').nth(1).unwrap();
    assert_eq!(door.client.get(&url).basic_auth(id, Some(&reader)).send().await.unwrap().status(), 200);
    assert_eq!(door.client.get(&url).basic_auth("other", Some(&reader)).send().await.unwrap().status(), 401);

    door.foundation.keys.revoke(id).await.unwrap();
    assert_eq!(door.client.get(&url).bearer_auth(&reader).send().await.unwrap().status(), 401);
    assert_eq!(door.client.get(&url).bearer_auth("rp_made_up").send().await.unwrap().status(), 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn known_keys_and_receiving_survive_an_outage_of_the_database() {
    let door = door().await;
    door.store_all(&[&object()]).await;
    door.foundation.store.close().await;
    door.store_all(&[&object()]).await;
    assert_eq!(door.get("/dicom-web/studies").send().await.unwrap().status(), 503);
    assert_eq!(door.get("/health/ready").send().await.unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_has_a_line_for_each_dependency() {
    let door = door().await;
    let ready: serde_json::Value = door.get("/health/ready").send().await.unwrap().json().await.unwrap();
    assert_eq!(ready["status"], "degraded");
    assert_eq!(ready["dependencies"][0]["name"], "log");
    assert_eq!(ready["dependencies"][0]["condition"], "up");
    assert_eq!(ready["dependencies"][1]["condition"], "degraded");
}

#[tokio::test(flavor = "multi_thread")]
async fn methods_follow_from_the_list_of_routes() {
    let door = door().await;
    let url = format!("{}/dicom-web/studies", door.url);
    let response = door.client.delete(&url).bearer_auth(&door.key).send().await.unwrap();
    assert_eq!(response.status(), 405);
    assert_eq!(response.headers()["allow"], "GET, HEAD, OPTIONS, POST");
    let options = door.client.request(reqwest::Method::OPTIONS, &url).bearer_auth(&door.key);
    let response = options.send().await.unwrap();
    assert_eq!(response.status(), 204);
    assert_eq!(response.headers()["allow"], "GET, HEAD, OPTIONS, POST");
    let response = door.client.head(&url).bearer_auth(&door.key).send().await.unwrap();
    assert_eq!(response.status(), 200);
    for unknown in ["/dicom-web", "/dicom-web/studies/", "/api/v1/anything", "/api"] {
        assert_eq!(door.get(unknown).send().await.unwrap().status(), 404, "{unknown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http_2_is_spoken() {
    let door = door().await;
    let client = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    let one = object();
    door.store_all(&[&one]).await;
    let url = format!("{}/dicom-web{}", door.url, one.path());
    let response = client.get(url).bearer_auth(&door.key).header("accept", DICOM_ANY).send().await.unwrap();
    assert_eq!(response.version(), reqwest::Version::HTTP_2);
    assert_eq!(parts_of(response).await[0].1, one.file());
}

/// `%2e%2e%2f`, `%00` in path.
#[tokio::test(flavor = "multi_thread")]
async fn paths_that_are_no_uids_lead_nowhere() {
    let door = door().await;
    for path in ["%2e%2e%2f%2e%2e", "1.2%00.3", "1..2", "abc", "%ff", "1.2.3%20"] {
        let request = authorized(&door, &format!("GET /dicom-web/studies/{path}"), "Connection: close\r\n");
        let answer = say(&door, &request).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{path}: {answer}");
    }
    for path in ["/dicom-web/studies/../../etc/passwd", "/../x"] {
        let request = authorized(&door, &format!("GET {path}"), "Connection: close\r\n");
        let answer = say(&door, &request).await;
        assert!(answer.starts_with("HTTP/1.1 404") || answer.starts_with("HTTP/1.1 400"), "{path}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn long_headers_are_431() {
    let door = door().await;
    for length in [17_000, 65_536, 300_000] {
        let accept = format!("Connection: close\r\nAccept: {}\r\n", "x".repeat(length));
        let answer = say(&door, &authorized(&door, "GET /dicom-web/studies", &accept)).await;
        assert!(answer.starts_with("HTTP/1.1 431"), "{length}: {:.100}", answer);
    }
    assert_eq!(door.get("/dicom-web/studies").send().await.unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn ambiguous_lengths_are_400_and_closed() {
    let door = door().await;
    for headers in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Transfer-Encoding: gzip\r\n",
    ] {
        let mut request = authorized(&door, "POST /dicom-web/studies", headers);
        request.extend_from_slice(b"0\r\n\r\nGET /health/live HTTP/1.1\r\nHost: x\r\n\r\n");
        let answer = say(&door, &request).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{headers}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "nothing is smuggled: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn impossible_bodies_are_refused_unread() {
    let door = door().await;
    let headers = format!("Content-Type: {}\r\nContent-Length: {}\r\n", content_type(), 1_u64 << 63);
    let answer = say(&door, &authorized(&door, "POST /dicom-web/studies", &headers)).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    let gzip = door.post("/studies").header("content-encoding", "gzip").body("x").send().await.unwrap();
    assert_eq!(gzip.status(), 415);
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_do_not_end_are_408() {
    let door = door_with("http_headers = \"300ms\"").await;
    let began = Instant::now();
    assert!(say(&door, b"GET /health/live HT").await.starts_with("HTTP/1.1 408"));
    assert!(say(&door, b"GET /health/live HTTP/1.1\r\nHost: x\r\nX: y").await.starts_with("HTTP/1.1 408"));
    assert!(say(&door, b"").await.starts_with("HTTP/1.1 408"));
    // The preface of HTTP/2, unfinished.
    say(&door, b"PRI * HTTP/2.0\r\n").await;
    assert!(began.elapsed() < Duration::from_secs(15));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stalls_is_408() {
    let door = door_with("http_stall = \"500ms\"").await;
    let headers = format!("Content-Type: {}\r\nContent-Length: 1000\r\n", content_type());
    let mut request = authorized(&door, "POST /dicom-web/studies", &headers);
    request.extend_from_slice(&part(b"DICM")[..20]);
    let answer = say(&door, &request).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_stops_reading_is_let_go() {
    let door = door_with("http_stall = \"500ms\"").await;
    let big = Object { pixels: vec![7; 12 << 20], ..object() };
    door.store_all(&[&big]).await;
    let mut stream = TcpStream::connect(door.address).await.unwrap();
    let accept = format!("Accept: {DICOM_ANY}\r\n");
    stream.write_all(&authorized(&door, &format!("GET /dicom-web{}", big.path()), &accept)).await.unwrap();
    let mut head = [0; 64];
    stream.read_exact(&mut head).await.unwrap();
    assert!(head.starts_with(b"HTTP/1.1 200"));
    // Long enough to be given up, with nothing read.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut rest)).await.unwrap();
    assert!(rest.len() < 12 << 20, "{} bytes came all the same", rest.len());
    assert_eq!(door.get("/health/live").send().await.unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_over_the_limit_wait_for_a_slot() {
    let door = door_with("http_connections = 1").await;
    let mut first = TcpStream::connect(door.address).await.unwrap();
    first.write_all(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut byte = [0; 1];
    first.read_exact(&mut byte).await.unwrap();

    let mut second = TcpStream::connect(door.address).await.unwrap();
    second.write_all(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let waiting = tokio::time::timeout(Duration::from_millis(300), second.read_exact(&mut byte)).await;
    assert!(waiting.is_err(), "served beside the first");
    drop(first);
    tokio::time::timeout(Duration::from_secs(10), second.read_exact(&mut byte)).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_lets_a_request_finish_and_then_ends() {
    let mut door = door().await;
    let one = object();
    let file = one.file();
    let whole = body_of(&[&file]);
    let (sender, body) = tokio::sync::mpsc::channel::<Result<Vec<u8>, std::io::Error>>(4);
    let body =
        futures_util::stream::unfold(
            body,
            |mut body| async move { body.recv().await.map(|chunk| (chunk, body)) },
        );
    let request = door.post("/studies").body(reqwest::Body::wrap_stream(body));
    let answering = tokio::spawn(request.send());
    sender.send(Ok(whole[..200].to_vec())).await.unwrap();
    // The connection is known to be at a request once its body is being read.
    until("the first bytes are taken", || async { sender.capacity() == 4 }).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    door.shutdown.soft.cancel();
    until("no new connection is taken", || async {
        let mut late = match TcpStream::connect(door.address).await {
            Ok(late) => late,
            Err(_) => return true,
        };
        let _ = late.write_all(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n").await;
        late.read_u8().await.is_err()
    })
    .await;
    sender.send(Ok(whole[200..].to_vec())).await.unwrap();
    drop(sender);
    assert_eq!(answering.await.unwrap().unwrap().status(), 200);
    tokio::time::timeout(Duration::from_secs(10), &mut door.served).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_cuts_off_what_still_runs() {
    let mut door = door().await;
    let headers = format!("Content-Type: {}\r\nContent-Length: 1000\r\n", content_type());
    let mut stream = TcpStream::connect(door.address).await.unwrap();
    stream.write_all(&authorized(&door, "POST /dicom-web/studies", &headers)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    door.shutdown.abort();
    tokio::time::timeout(Duration::from_secs(10), &mut door.served).await.unwrap().unwrap();
}
