//! WADO-RS (PS3.18 §10.4): stored bytes, metadata and bulk data.

use std::time::Duration;

use relaypacs::clock::Millis;
use relaypacs::dicom::Uid;
use relaypacs::spool::{Durability, Fact};
use serde_json::Value;

use super::harness::*;

const SINGLE: &str = "application/dicom; transfer-syntax=*";

#[tokio::test(flavor = "multi_thread")]
async fn studies_series_and_instances_come_byte_for_byte() {
    let door = door().await;
    let first = object();
    let second = Object { pixels: vec![9; 3 << 20], ..first.sibling() };
    let other_series = Object { series: Uid::generate().to_string(), ..first.sibling() };
    door.store_all(&[&first, &second, &other_series, &object()]).await;
    let study = format!("/studies/{}", first.study);
    let files = |parts: Vec<(String, Vec<u8>)>| {
        let mut files: Vec<_> = parts.into_iter().map(|(_, file)| file).collect();
        files.sort();
        files
    };
    let sorted = |objects: &[&Object]| {
        let mut files: Vec<_> = objects.iter().map(|object| object.file()).collect();
        files.sort();
        files
    };
    let all = parts_of(door.dicomweb(&study, DICOM_ANY).await).await;
    assert!(all.iter().all(|(headers, _)| headers.contains(&format!("transfer-syntax={EXPLICIT}"))));
    assert_eq!(files(all), sorted(&[&first, &second, &other_series]));
    let series = parts_of(door.dicomweb(&format!("{study}/series/{}", first.series), DICOM_ANY).await).await;
    assert_eq!(files(series), sorted(&[&first, &second]));
    let one = parts_of(door.dicomweb(&second.path(), DICOM_ANY).await).await;
    assert_eq!(files(one), sorted(&[&second]));
}

#[tokio::test(flavor = "multi_thread")]
async fn accept_decides_whether_the_stored_syntax_is_sent() {
    let door = door().await;
    let native = object();
    let jpeg = Object { transfer_syntax: JPEG_BASELINE, ..native.sibling() };
    door.store_all(&[&native, &jpeg]).await;
    let plain = r#"multipart/related; type="application/dicom""#;
    for (accept, to_native, to_jpeg) in [
        (plain, 200, 406),
        (DICOM_ANY, 200, 200),
        ("*/*", 200, 200),
        (r#"multipart/related; type="application/dicom"; transfer-syntax=1.2.840.10008.1.2.4.50"#, 406, 200),
        (SINGLE, 200, 200),
        ("application/dicom", 200, 406),
        ("image/jpeg", 406, 406),
        ("text/html", 406, 406),
    ] {
        assert_eq!(door.dicomweb(&native.path(), accept).await.status(), to_native, "{accept}");
        assert_eq!(door.dicomweb(&jpeg.path(), accept).await.status(), to_jpeg, "{accept}");
    }
    let refused = door.dicomweb(&jpeg.path(), plain).await;
    let problem: Value = refused.json().await.unwrap();
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("JPEG Baseline") && detail.contains("transfer-syntax=*"), "{detail}");

    let partial = door.dicomweb(&format!("/studies/{}", native.study), plain).await;
    assert_eq!(partial.status(), 206);
    assert!(partial.headers()["warning"].to_str().unwrap().contains("1 instances are not included"));
    assert_eq!(parts_of(partial).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_instance_has_length_tag_and_ranges() {
    let door = door().await;
    let one = object();
    let file = one.file();
    door.store_all(&[&one]).await;
    let whole = door.dicomweb(&one.path(), SINGLE).await;
    assert_eq!(whole.status(), 200);
    assert_eq!(whole.headers()["content-length"], file.len().to_string());
    assert_eq!(whole.headers()["accept-ranges"], "bytes");
    assert!(whole.headers()["content-disposition"].to_str().unwrap().starts_with("attachment"));
    let etag = whole.headers()["etag"].to_str().unwrap().to_owned();
    assert_eq!(whole.bytes().await.unwrap(), file);

    let ask = |name: &'static str, value: String| {
        let request = door.get(&format!("/dicom-web{}", one.path())).header("accept", SINGLE);
        async move { request.header(name, value).send().await.unwrap() }
    };
    let part = ask("range", "bytes=128-131".into()).await;
    assert_eq!(part.status(), 206);
    assert_eq!(part.headers()["content-range"], format!("bytes 128-131/{}", file.len()));
    assert_eq!(part.bytes().await.unwrap(), "DICM");
    let tail = ask("range", "bytes=-5".into()).await;
    assert_eq!(tail.bytes().await.unwrap(), file[file.len() - 5..]);
    let many = ask("range", format!("bytes=0-1{}", ",0-9".repeat(999))).await;
    assert_eq!(many.status(), 416);
    let beyond = ask("range", format!("bytes={}-", file.len())).await;
    assert_eq!(beyond.status(), 416);
    assert_eq!(beyond.headers()["content-range"], format!("bytes */{}", file.len()));
    assert_eq!(ask("if-none-match", etag).await.status(), 304);
    assert_eq!(ask("if-none-match", "\"other\"".into()).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn head_tells_what_get_would() {
    let door = door().await;
    let one = object();
    door.store_all(&[&one]).await;
    let url = format!("{}/dicom-web{}", door.url, one.path());
    for (accept, content_type) in [(DICOM_ANY, "multipart/related"), (SINGLE, "application/dicom")] {
        let request = door.client.head(&url).bearer_auth(&door.key).header("accept", accept);
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert!(response.headers()["content-type"].to_str().unwrap().starts_with(content_type));
        if accept == SINGLE {
            assert_eq!(response.headers()["content-length"], one.file().len().to_string());
        }
        assert!(response.bytes().await.unwrap().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_uids_are_404_and_invalid_ones_400() {
    let door = door().await;
    let one = object();
    door.store_all(&[&one]).await;
    let paths = [
        ("/studies/1.2.3".to_owned(), 404),
        (format!("/studies/{}/series/1.2.3", one.study), 404),
        (format!("/studies/1.2.3/series/{}/instances/{}", one.series, one.instance), 404),
        ("/studies/x".to_owned(), 400),
        (format!("/studies/{}/series/1..2", one.study), 400),
    ];
    for (path, status) in paths {
        assert_eq!(door.dicomweb(&path, DICOM_ANY).await.status(), status, "{path}");
        assert_eq!(door.dicomweb(&format!("{path}/metadata"), "*/*").await.status(), status, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_freed_instance_is_gone_and_says_so() {
    let door = door().await;
    let one = object();
    door.store_all(&[&one]).await;
    let uid = Uid::parse(&one.instance).unwrap();
    let entry = door.foundation.spool.with_sop_instance_uid(&uid).await.unwrap()[0];
    let purged = Fact::Purged { entry, reason: "test".into(), at: Millis(1) };
    door.foundation.spool.append(vec![purged], Durability::Synced).await.unwrap();
    for path in [one.path(), format!("/studies/{}", one.study), format!("{}/metadata", one.path())] {
        let response = door.dicomweb(&path, "*/*").await;
        assert_eq!(response.status(), 410, "{path}");
        let problem: Value = response.json().await.unwrap();
        assert_eq!(problem["code"], "INSTANCE_FREED");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_has_everything_but_bulk_data_which_it_links() {
    let door = door().await;
    let first = Object { pixels: (0..200_u32).flat_map(u32::to_le_bytes).collect(), ..object() };
    let second = first.sibling();
    door.store_all(&[&first, &second]).await;
    for path in
        [format!("/studies/{}", first.study), format!("/studies/{}/series/{}", first.study, first.series)]
    {
        let answer = door.search(&format!("{path}/metadata")).await;
        assert_eq!(answer.as_array().unwrap().len(), 2, "{path}");
    }
    let answer = door.search(&format!("{}/metadata", first.path())).await;
    let row = &answer[0];
    assert_eq!(row["00080018"]["Value"][0], first.instance);
    assert_eq!(row["00200013"]["Value"][0], 7);
    let link = row["7FE00010"]["BulkDataURI"].as_str().unwrap();
    let path = link.strip_prefix(&format!("{PUBLIC_URL}/dicom-web")).unwrap();
    let bulk = door.dicomweb(path, "application/octet-stream").await;
    assert_eq!(bulk.status(), 200);
    assert_eq!(bulk.bytes().await.unwrap(), first.pixels);
    let parts =
        parts_of(door.dicomweb(path, r#"multipart/related; type="application/octet-stream""#).await).await;
    assert_eq!(parts[0].1, first.pixels);
    assert_eq!(door.dicomweb(path, "image/jpeg").await.status(), 406);
    let missing = path.replace("7FE00010", "54000110");
    assert_eq!(door.dicomweb(&missing, "*/*").await.status(), 404);

    let xml = r#"multipart/related; type="application/dicom+xml""#;
    let parts = parts_of(door.dicomweb(&format!("{}/metadata", first.path()), xml).await).await;
    assert!(String::from_utf8_lossy(&parts[0].1).contains(&first.instance));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_study_of_several_pages_comes_whole() {
    let door = door().await;
    let first = object();
    let all: Vec<Object> = (0..1100).map(|_| Object { pixels: vec![1; 2], ..first.sibling() }).collect();
    for batch in all.chunks(550) {
        door.store_all(&batch.iter().collect::<Vec<_>>()).await;
    }
    let path = format!("/studies/{}", first.study);
    let response =
        tokio::time::timeout(Duration::from_secs(60), door.dicomweb(&path, DICOM_ANY)).await.unwrap();
    let mut files: Vec<_> = parts_of(response).await.into_iter().map(|(_, file)| file).collect();
    files.sort();
    files.dedup();
    assert_eq!(files.len(), 1100);
}
