//! Against DCMTK and Orthanc, as packaged.

use std::path::Path;
use std::time::Duration;

use relaypacs::dicom::status::Status;
use relaypacs::dicom::{AeTitle, TransferSyntax};
use relaypacs::dimse::associate::{AssociateAccept, ContextResult, RoleSelection, UserInformation};
use relaypacs::dimse::commitment_report;
use relaypacs::dimse::message::{MessageLimits, MessageStream, Received};
use relaypacs::dimse::pdu::{Incoming, PduError, PduStream};
use relaypacs::forward::{CommitmentReport, Forward};
use relaypacs::spool::DeliveryState;
use tokio::net::{TcpListener, TcpStream};

use super::bench::{Bench, destination, dimse, eventually};
use super::instance::{Instance, instance};
use super::peers::{free_port, orthanc, storescp};

fn instances(count: u32) -> Vec<Instance> {
    (0..count).map(|number| instance(number, 20_000)).collect()
}

fn files(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_reaches_a_storescp_that_aborts_is_killed_and_comes_back() {
    let (bench, dir) = (Bench::new(), tempfile::tempdir().unwrap());
    let store = dir.path().join("store");
    std::fs::create_dir(&store).unwrap();
    let port = free_port();
    let forward = bench.forward(vec![dimse("a", port, "none")]).await;
    let instances = instances(30);
    bench.receive_all(&instances).await;
    let down = || async { !forward.destinations()[0].up };
    eventually(|| "down while nobody listens".into(), down).await;
    for fault in ["--abort-during", "--abort-after", "--refuse"] {
        let faulty = storescp(&store, port, &["-v", fault]);
        let log = store.with_extension("log");
        let called = || async { std::fs::read_to_string(&log).unwrap().contains("Association Received") };
        eventually(|| format!("{fault} is called"), called).await;
        assert_eq!(bench.count("a", DeliveryState::Sent), 0, "{fault}");
        drop(faulty);
    }
    let healthy = storescp(&store, port, &[]);
    bench.until("a", DeliveryState::Sent, 30).await;
    assert_eq!(files(&store), 30);
    drop(healthy);
    forward.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orthanc_gets_objects_by_c_store_and_proves_them_by_commitment_on_another_association() {
    let (bench, dir) = (Bench::new(), tempfile::tempdir().unwrap());
    let reports = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let archive = orthanc(dir.path(), reports.local_addr().unwrap().port());
    let forward = bench.forward(vec![dimse("a", archive.dicom, "commitment")]).await;
    let door = tokio::spawn(take_reports(reports, forward.clone()));
    bench.receive_all(&instances(30)).await;
    bench.until("a", DeliveryState::Verified, 30).await;
    door.abort();
    forward.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orthanc_is_asked_by_c_find() {
    let (bench, dir) = (Bench::new(), tempfile::tempdir().unwrap());
    let archive = orthanc(dir.path(), free_port());
    let forward = bench.forward(vec![dimse("a", archive.dicom, "query")]).await;
    bench.receive_all(&instances(70)).await;
    bench.until("a", DeliveryState::Verified, 70).await;
    forward.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orthanc_gets_objects_by_stow_and_proves_them_by_qido() {
    let (bench, dir) = (Bench::new(), tempfile::tempdir().unwrap());
    let archive = orthanc(dir.path(), free_port());
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "wrong\n").unwrap();
    let web = destination(serde_json::json!({
        "name": "web", "kind": "stow", "url": format!("http://127.0.0.1:{}/dicom-web", archive.http),
        "username": "gateway", "password_file": secret, "verify": "query"
    }));
    let forward = bench.forward(vec![web]).await;
    let instances = instances(70);
    bench.receive_all(&instances).await;
    let refused = || async { forward.destinations()[0].reason.is_some() };
    eventually(|| "credentials refused".into(), refused).await;
    let reason = forward.destinations()[0].reason.clone().unwrap();
    assert!(reason.contains("401"), "{reason}");
    // The right secret is read without a restart.
    std::fs::write(&secret, "s3cret\n").unwrap();
    bench.until("web", DeliveryState::Verified, 70).await;
    assert!(forward.echo("web").await.unwrap().contains("200"));
    forward.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_a_uid_is_no_evidence_the_object_is_fetched_from_orthanc_and_compared() {
    let (bench, dir) = (Bench::new(), tempfile::tempdir().unwrap());
    let archive = orthanc(dir.path(), free_port());
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "s3cret").unwrap();
    let web = destination(serde_json::json!({
        "name": "web", "kind": "stow", "url": format!("http://127.0.0.1:{}/dicom-web", archive.http),
        "username": "gateway", "password_file": secret, "verify": "query"
    }));
    let forward = bench.forward(vec![web]).await;
    forward.pause("web").unwrap();
    let first = bench.receive(&instance(1, 20_000)).await;
    let second = bench.receive(&instance(1, 30_000)).await;
    forward.resume("web").unwrap();
    bench.until("web", DeliveryState::Verified, 1).await;
    assert_eq!(bench.delivery(first, "web").await.unwrap().state, DeliveryState::Verified);
    assert_eq!(bench.delivery(second, "web").await, None);
    forward.stop(Duration::from_secs(5)).await;
}

/// The part of the node's DICOM door that storage commitment needs.
async fn take_reports(listener: TcpListener, forward: Forward) {
    while let Ok((stream, _)) = listener.accept().await {
        take_report(stream, &forward).await.unwrap();
    }
}

async fn take_report(stream: TcpStream, forward: &Forward) -> Result<(), PduError> {
    let peer = stream.peer_addr()?.ip();
    let mut pdus = PduStream::new(stream, 64 << 10)?;
    let Incoming::AssociateRequest(request) = pdus.receive().await? else { return Ok(()) };
    let from = AeTitle::parse(&request.calling_ae_title).unwrap();
    assert!(forward.may_report(&from));
    let context = request.presentation_contexts[0].clone();
    let accepted =
        ContextResult { id: context.id, result: 0, transfer_syntax: context.transfer_syntaxes[0].clone() };
    let syntax = TransferSyntax::by_uid(&accepted.transfer_syntax).unwrap();
    let roles = vec![RoleSelection { sop_class_uid: context.abstract_syntax, scu: false, scp: true }];
    let user = UserInformation {
        max_length: 64 << 10,
        implementation_class_uid: Some("1.2.3".into()),
        roles,
        ..UserInformation::default()
    };
    pdus.send_accept(&AssociateAccept {
        echoed: request.echoed,
        application_context: request.application_context,
        presentation_contexts: vec![accepted],
        user,
    })
    .await?;
    let limits = MessageLimits {
        presentation_context_ids: vec![context.id],
        max_outgoing_pdu: 16 << 10,
        idle: Duration::from_secs(10),
    };
    let mut messages = MessageStream::new(pdus, limits);
    while let Received::Command { presentation_context_id, command } = messages.next().await? {
        let data_set = messages.read_data_set(1 << 20).await?.unwrap();
        let report = commitment_report::parse(&data_set, syntax).unwrap();
        let report = CommitmentReport {
            from: from.clone(),
            peer,
            transaction_uid: report.transaction_uid,
            committed: report.committed,
            failed: report.failed,
        };
        forward.commitment_report(report).await;
        messages.send(presentation_context_id, &command.response(Status::SUCCESS), None).await?;
    }
    messages.answer_release().await
}
