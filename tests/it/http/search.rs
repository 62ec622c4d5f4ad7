//! QIDO-RS (PS3.18 §10.6). Matching itself is the query engine's, and tested there.

use serde_json::Value;

use super::harness::*;

const STUDY: &str = "0020000D";
const SERIES: &str = "0020000E";
const INSTANCE: &str = "00080018";

/// Two series of one study with three instances, and another study.
async fn loaded() -> (Door, Object, Object) {
    let door = door().await;
    let first = object();
    let other_series = Object { series: format!("{}.1", &first.series[..40]), ..first.sibling() };
    let other_study =
        Object {
            patient_name: "Yamada^Tarou=山田^太郎".into(), study_date: "20230615".into(), ..object()
        };
    door.store_all(&[&first, &first.sibling(), &other_series, &other_study]).await;
    (door, first, other_study)
}

fn len(value: &Value) -> usize {
    value.as_array().unwrap().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_six_resources_answer_with_their_level() {
    let (door, first, _) = loaded().await;
    let study = format!("/studies/{}", first.study);
    let series = format!("{study}/series/{}", first.series);
    for (path, tag, count) in [
        ("/studies".to_owned(), STUDY, 2),
        ("/series".to_owned(), SERIES, 3),
        ("/instances".to_owned(), INSTANCE, 4),
        (format!("{study}/series"), SERIES, 2),
        (format!("{study}/instances"), INSTANCE, 3),
        (format!("{series}/instances"), INSTANCE, 2),
        ("/studies/1.2.3/series".to_owned(), SERIES, 0),
    ] {
        let answer = door.search(&path).await;
        assert_eq!(len(&answer), count, "{path}");
        assert!(answer.as_array().unwrap().iter().all(|row| row[tag]["Value"][0].is_string()), "{path}");
    }
    assert_eq!(door.dicomweb("/studies/1..2/series", "*/*").await.status(), 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_have_the_defaults_of_their_level_and_what_is_asked_for() {
    let (door, first, other) = loaded().await;
    let studies = door.search(&format!("/studies?StudyInstanceUID={}", other.study)).await;
    let row = &studies[0];
    for tag in
        ["00080020", "00080050", "00080061", "00080090", "00100010", "00100020", "00200010", "00201208"]
    {
        assert!(row.get(tag).is_some(), "{tag}");
    }
    assert_eq!(row["00100010"]["Value"][0]["Ideographic"], "山田^太郎");
    assert_eq!(row["00080005"]["Value"][0], "ISO_IR 192");
    assert_eq!(row["00081190"]["Value"][0], format!("{PUBLIC_URL}/dicom-web/studies/{}", other.study));
    assert_eq!(row["00201208"]["Value"][0], 1);
    assert!(row.get("00081030").is_none(), "StudyDescription is not a default");

    let path = format!("/studies/{}/series/{}/instances", first.study, first.series);
    let instances = door.search(&path).await;
    assert!(instances[0].get("00100010").is_none(), "the path names the study");
    let included = door.search(&format!("{path}?includefield=PatientName,00081030")).await;
    assert_eq!(included[0]["00100010"]["Value"][0]["Alphabetic"], "Doe^Jane");
    assert_eq!(included[0]["00081030"]["Value"][0], "Chest");
    let every = door.search(&format!("{path}?includefield=all")).await;
    assert!(every[0].as_object().unwrap().len() > included[0].as_object().unwrap().len());
    let relational = door.search("/instances?limit=1").await;
    assert!(relational[0].get("00100010").is_some(), "no path, so all levels");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_values_may_be_percent_encoded() {
    let (door, first, other) = loaded().await;
    for query in [
        format!("{}={}", "StudyInstanceUID", other.study),
        format!("0020000%44={}", other.study),
        "PatientName=Yamada%2A".to_owned(),
        "PatientName=%3D%E5%B1%B1%E7%94%B0%5E%E5%A4%AA%E9%83%8E".to_owned(),
        "StudyDate=20230101-20231231".to_owned(),
    ] {
        let answer = door.search(&format!("/studies?{query}")).await;
        assert_eq!(len(&answer), 1, "{query}");
        assert_eq!(answer[0][STUDY]["Value"][0], other.study, "{query}");
    }
    for separator in [",", "%5C"] {
        let list = format!("/studies?StudyInstanceUID={}{separator}{}", first.study, other.study);
        assert_eq!(len(&door.search(&list).await), 2, "{list}");
    }
    for harmless in ["PatientID=%27%20OR%201%3D1--", "PatientID=%25", "PatientID=___"] {
        assert_eq!(len(&door.search(&format!("/studies?{harmless}")).await), 0, "{harmless}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_asked_is_400() {
    let (door, ..) = loaded().await;
    for query in [
        "limit=-1",
        "limit=",
        "limit=1e12&offset=-1",
        "offset=x",
        "NoSuchKeyword=x",
        "00091001=x",
        "patientid=x",
        "SeriesInstanceUID=1.2",
        "StudyDate=yesterday",
        "RequestAttributesSequence.ScheduledProcedureStepID=1",
        "includefield=Nonsense",
        "fuzzymatching=perhaps",
        "RetrieveURL=x",
    ] {
        let response = door.dicomweb(&format!("/studies?{query}"), "*/*").await;
        assert_eq!(response.status(), 400, "{query}");
        assert_eq!(response.headers()["content-type"], "application/problem+json");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_stable_and_a_cut_one_says_so() {
    let door = door_with("query_results = 3").await;
    let first = object();
    let all: Vec<Object> = (0..5).map(|_| first.sibling()).collect();
    door.store_all(&all.iter().collect::<Vec<_>>()).await;
    let mut seen = std::collections::BTreeSet::new();
    for offset in [0, 2, 4] {
        let page = door.search(&format!("/instances?limit=2&offset={offset}")).await;
        seen.extend(page.as_array().unwrap().iter().map(|row| row[INSTANCE]["Value"][0].to_string()));
    }
    assert_eq!(seen.len(), 5);
    for query in ["", "?limit=99999999999999999999"] {
        let response = door.dicomweb(&format!("/instances{query}"), "*/*").await;
        let warning = response.headers()["warning"].to_str().unwrap().to_owned();
        assert!(warning.starts_with("299 ") && warning.contains("dditional results"), "{warning}");
        assert_eq!(len(&response.json().await.unwrap()), 3);
    }
    let response = door.dicomweb("/instances?limit=2", "*/*").await;
    assert!(response.headers().get("warning").is_none());
    let response = door.dicomweb("/instances?limit=1&fuzzymatching=true", "*/*").await;
    assert!(response.headers()["warning"].to_str().unwrap().contains("fuzzymatching"));
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_come_as_json_and_xml_or_not_at_all() {
    let (door, _, other) = loaded().await;
    let path = format!("/studies?StudyInstanceUID={}", other.study);
    let response = door.dicomweb(&path, "application/json").await;
    assert_eq!(response.headers()["content-type"], "application/json");
    let xml = r#"multipart/related; type="application/dicom+xml""#;
    let parts = parts_of(door.dicomweb(&path, xml).await).await;
    assert_eq!(parts.len(), 1);
    assert!(parts[0].0.contains("application/dicom+xml"));
    assert!(String::from_utf8_lossy(&parts[0].1).contains("山田"));
    assert_eq!(door.dicomweb("/studies?PatientID=NOBODY", xml).await.status(), 204);
    assert_eq!(door.search("/studies?PatientID=NOBODY").await, serde_json::json!([]));
    assert_eq!(door.dicomweb(&path, "text/html").await.status(), 406);
    let encoded = "multipart%2Frelated%3B%20type%3D%22application%2Fdicom%2Bxml%22";
    assert_eq!(door.dicomweb(&format!("{path}&accept={encoded}"), "text/html").await.status(), 200);
}
