//! STOW-RS (PS3.18 §10.5).

use std::time::Duration;

use futures_util::StreamExt;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::harness::*;

const RETRIEVE_URL: &str = "00081190";
const FAILED: &str = "00081198";
const REFERENCED: &str = "00081199";
const OTHER: &str = "0008119A";
const REASON: &str = "00081197";
const INSTANCE: &str = "00081155";

fn items<'a>(answer: &'a Value, sequence: &str) -> &'a [Value] {
    answer[sequence]["Value"].as_array().map_or(&[], Vec::as_slice)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_is_referenced_and_retrievable() {
    let door = door().await;
    let first = object();
    let second = first.sibling();
    let response = door.store(&[&first, &second]).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "application/dicom+json");
    let answer: Value = response.json().await.unwrap();
    assert_eq!(answer[RETRIEVE_URL]["Value"][0], format!("{PUBLIC_URL}/dicom-web/studies/{}", first.study));
    assert_eq!(items(&answer, REFERENCED).len(), 2);
    assert_eq!(items(&answer, REFERENCED)[1][INSTANCE]["Value"][0], second.instance);
    assert_eq!(
        items(&answer, REFERENCED)[1][RETRIEVE_URL]["Value"][0],
        format!("{PUBLIC_URL}/dicom-web{}", second.path())
    );
    assert!(answer.get(FAILED).is_none());
    let parts = parts_of(door.dicomweb(&first.path(), DICOM_ANY).await).await;
    assert_eq!(parts[0].1, first.file());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_instance_stands_for_itself() {
    let door = door().await;
    let good = object();
    let mut damaged = object().file();
    damaged.truncate(damaged.len() - 9);
    let response =
        door.post("/studies").body(body_of(&[good.file(), damaged, vec![b'?'; 400]])).send().await.unwrap();
    assert_eq!(response.status(), 202);
    let answer: Value = response.json().await.unwrap();
    assert_eq!(items(&answer, REFERENCED)[0][INSTANCE]["Value"][0], good.instance);
    assert_eq!(items(&answer, FAILED)[0][REASON]["Value"][0], 0xC000);
    assert_eq!(items(&answer, OTHER).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_of_another_study_is_refused() {
    let door = door().await;
    let (right, wrong) = (object(), object());
    let path = format!("/studies/{}", right.study);
    let response = door.post(&path).body(body_of(&[right.file(), wrong.file()])).send().await.unwrap();
    assert_eq!(response.status(), 202);
    let answer: Value = response.json().await.unwrap();
    assert_eq!(items(&answer, FAILED)[0][INSTANCE]["Value"][0], wrong.instance);
    let response = door.post(&path).body(body_of(&[wrong.file()])).send().await.unwrap();
    assert_eq!(response.status(), 409);
    assert_eq!(door.dicomweb(&wrong.path(), DICOM_ANY).await.status(), 404);
    let response = door.post("/studies/1..2").body(body_of(&[right.file()])).send().await.unwrap();
    assert_eq!(response.status(), 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_class_that_is_not_storage_is_0122() {
    let door = door().await;
    let directory = Object { sop_class: "1.2.840.10008.1.3.10".to_owned(), ..object() };
    let response = door.store(&[&directory]).await;
    assert_eq!(response.status(), 409);
    let answer: Value = response.json().await.unwrap();
    assert_eq!(items(&answer, FAILED)[0][REASON]["Value"][0], 0x0122);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_is_xml_when_asked_for() {
    let door = door().await;
    let one = object();
    let request =
        door.post("/studies").header("accept", "application/dicom+xml").body(body_of(&[one.file()]));
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "application/dicom+xml");
    let text = response.text().await.unwrap();
    assert!(text.contains("ReferencedSOPSequence") && text.contains(&one.instance), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_nobody_takes_stores_nothing() {
    let door = door().await;
    let one = object();
    let request = door.post("/studies").header("accept", "image/png").body(body_of(&[one.file()]));
    assert_eq!(request.send().await.unwrap().status(), 406);
    assert_eq!(door.foundation.spool.counts().objects, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_media_types_are_415_and_unlawful_boundaries_400() {
    let door = door().await;
    let long = format!("multipart/related; type=\"application/dicom\"; boundary={}", "x".repeat(71));
    for (content_type, status) in [
        ("text/plain", 415),
        ("application/dicom", 415),
        ("multipart/form-data; boundary=x", 415),
        ("multipart/related; type=\"application/dicom+json\"; boundary=x", 415),
        ("multipart/related; type=\"application/dicom\"", 400),
        ("multipart/related; type=\"application/dicom\"; boundary=\"\"", 400),
        ("multipart/related; boundary=x", 400),
        (&long, 400),
    ] {
        let url = format!("{}/dicom-web/studies", door.url);
        let request = door.client.post(url).bearer_auth(&door.key).header("content-type", content_type);
        assert_eq!(request.body("--x--").send().await.unwrap().status(), status, "{content_type}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_body_is_400_and_keeps_what_came_before() {
    let door = door().await;
    let one = object();
    let unfinished = part(&one.file());
    let no_headers = [part(&one.file()), raw_part("", b"content"), body_of::<&[u8]>(&[])].concat();
    let nested = raw_part("Content-Type: multipart/related; boundary=y\r\n", b"--y--");
    let nested = [nested, body_of::<&[u8]>(&[])].concat();
    for (body, stored) in
        [(unfinished, 0), (no_headers, 1), (nested, 0), (body_of::<&[u8]>(&[]), 0), (vec![], 0)]
    {
        let response = door.post("/studies").body(body).send().await.unwrap();
        assert_eq!(response.status(), 400);
        let problem: Value = response.json().await.unwrap();
        let detail = problem["detail"].as_str().unwrap();
        assert!(stored == 0 || detail.contains("1 instances before that are stored"), "{detail}");
    }
    until("one object is held", || async { door.foundation.spool.counts().objects == 1 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_body_is_cut_off() {
    let door = door_with("http_body = \"1 MiB\"").await;
    let endless = futures_util::stream::repeat(vec![0_u8; 4096]).take(4096);
    let body = futures_util::stream::iter([part(b"")]).chain(endless).map(Ok::<_, std::io::Error>);
    match door.post("/studies").body(reqwest::Body::wrap_stream(body)).send().await {
        Ok(response) => assert_eq!(response.status(), 413),
        Err(error) => assert!(!error.is_timeout(), "closed while sending: {error}"),
    }
    assert_eq!(door.get("/health/live").send().await.unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_over_its_limit_fails_alone() {
    let door = door_with("object = \"64 KiB\"").await;
    let big = Object { pixels: vec![0; 100 << 10], ..object() };
    let small = object();
    let response = door.store(&[&big, &small]).await;
    assert_eq!(response.status(), 202);
    let answer: Value = response.json().await.unwrap();
    assert_eq!(items(&answer, FAILED)[0][REASON]["Value"][0], 0xA700);
    assert_eq!(items(&answer, REFERENCED).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_parts_with_one_bad_are_all_told() {
    let door = door().await;
    let series = object();
    let mut files: Vec<Vec<u8>> = (0..500).map(|_| series.sibling().file()).collect();
    files[250] = b"no DICOM".to_vec();
    let response = door.post("/studies").body(body_of(&files)).send().await.unwrap();
    assert_eq!(response.status(), 202);
    let answer: Value = response.json().await.unwrap();
    assert_eq!((items(&answer, REFERENCED).len(), items(&answer, OTHER).len()), (499, 1));
    let parts = parts_of(door.dicomweb(&format!("/studies/{}", series.study), DICOM_ANY).await).await;
    assert_eq!(parts.len(), 499);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_stores_nothing_of_its_last_part() {
    let door = door().await;
    let (first, second) = (object(), object());
    let body = body_of(&[first.file(), second.file()]);
    let mut stream = TcpStream::connect(door.address).await.unwrap();
    let head = format!(
        "POST /dicom-web/studies HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\
         Content-Type: {}\r\nContent-Length: {}\r\n\r\n",
        door.key,
        content_type(),
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&body[..body.len() - 200]).await.unwrap();
    until("the first instance is stored", || async { door.foundation.spool.counts().objects == 1 }).await;
    drop(stream);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(door.foundation.spool.counts().objects, 1);
    assert_eq!(door.store(&[&second]).await.status(), 200);
}
