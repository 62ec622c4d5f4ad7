//! An object's whole way: in by either door, found, retrieved, kept over a restart, and on to the
//! next node.

use poem::http::Method;
use reqwest::StatusCode;

use crate::support::{TestNode, eventually, instance};

#[tokio::test(flavor = "multi_thread")]
async fn both_doors_lead_to_the_same_index() {
    let node = TestNode::start().await;
    let first = instance().modality("CT");
    let second = first.sibling();
    assert_eq!(node.c_store(std::slice::from_ref(&first)).await, [0]);
    assert_eq!(node.stow(std::slice::from_ref(&second)).await.status(), StatusCode::OK);
    let mut sent = vec![first.sop_instance.clone(), second.sop_instance.clone()];
    sent.sort();
    assert_eq!(node.instances_of(&first.study).await, sent);
    assert!(node.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_duplicate_is_acknowledged_and_kept_once() {
    let node = TestNode::start().await;
    let object = instance();
    assert_eq!(node.c_store(&[object.clone(), object.clone()]).await, [0, 0]);
    assert_eq!(node.stow(std::slice::from_ref(&object)).await.status(), StatusCode::OK);
    assert_eq!(node.node().foundation.spool.status().objects, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_retrieved_byte_for_byte_after_a_restart() {
    let node = TestNode::start_with(|config| config.spool.inline_limit = 64 << 10).await;
    // One in the log itself, one in a file of its own.
    let small = instance();
    let large = small.sibling().pixels(200_000);
    assert_eq!(node.c_store(&[small.clone(), large.clone()]).await, [0, 0]);
    let node = node.restart().await;
    for object in [&small, &large] {
        let path = format!(
            "/dicom-web/studies/{}/series/{}/instances/{}",
            object.study, object.series, object.sop_instance
        );
        let response = node.get(&path).await;
        assert_eq!(response.status(), StatusCode::OK);
        let body = response.bytes().await.unwrap();
        let data_set = object.data_set();
        assert!(body.windows(data_set.len()).any(|window| window == data_set), "{} bytes", body.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_go_on_to_a_destination_that_was_added_while_the_node_ran() {
    let archive = TestNode::start().await;
    let gateway = TestNode::start().await;
    let destination = serde_json::from_value(serde_json::json!({
        "name": "archive", "kind": "dimse", "ae_title": "RELAYPACS", "host": "127.0.0.1",
        "port": archive.dicom.port(), "verify": "query",
    }))
    .unwrap();
    add_destination(&gateway, destination).await;
    let objects: Vec<_> = std::iter::repeat_with(|| instance().modality("MR")).take(3).collect();
    assert_eq!(gateway.c_store(&objects).await, [0, 0, 0]);
    eventually("the archive proved all of them", || async {
        let status = gateway.node().running.forward.destinations().remove(0);
        (status.verified == 3).then_some(())
    })
    .await;
    for object in &objects {
        assert_eq!(archive.instances_of(&object.study).await, [object.sop_instance.as_str()]);
    }
    let metrics = gateway.metrics().await;
    assert!(
        metrics.contains("relaypacs_deliveries{destination=\"archive\",state=\"verified\"} 3"),
        "{metrics}"
    );
}

async fn add_destination(node: &TestNode, destination: relaypacs::config::DestinationConfig) {
    let destination = serde_json::to_value(&destination).unwrap();
    let response = TestNode::command(node.admin(), Method::POST, "/destinations", &destination).await;
    assert_eq!(response.status(), StatusCode::CREATED);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_key_the_http_door_stays_shut() {
    let node = TestNode::start().await;
    let response = reqwest::get(format!("{}/dicom-web/studies", node.http)).await.unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    let health = reqwest::get(format!("{}/health/ready", node.http)).await.unwrap();
    assert_eq!(health.status(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_study_is_found_by_its_patient() {
    let node = TestNode::start().await;
    let (wanted, other) = (instance().patient_id("P-1"), instance().patient_id("P-2"));
    assert_eq!(node.c_store(&[wanted.clone(), other]).await, [0, 0]);
    let response = node.get("/dicom-web/studies?PatientID=P-1").await;
    let found: serde_json::Value = response.json().await.unwrap();
    let studies: Vec<_> =
        found.as_array().unwrap().iter().map(|study| &study["0020000D"]["Value"][0]).collect();
    assert_eq!(studies, [wanted.study.as_str()]);
}
