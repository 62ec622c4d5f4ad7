//! SENT becomes VERIFIED only by proof.

use std::time::Duration;

use relaypacs::dicom::{AeTitle, Uid};
use relaypacs::forward::{CommitmentReport, ReportOutcome};
use relaypacs::spool::DeliveryState;

use super::archive::{Archive, Mode};
use super::bench::{Bench, destination, dimse, eventually};
use super::instance::{Instance, instance};

const COMMITMENT: &str = "1.2.840.10008.1.20.1";
const FIND: &str = "1.2.840.10008.5.1.4.1.2.2.1";

fn instances(count: u32) -> Vec<Instance> {
    (0..count).map(|number| instance(number, 2000)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commitment_report_on_the_requesting_association_verifies() {
    let (bench, archive) = (Bench::new(), Archive::start(Mode::Take).await);
    let forward = bench.forward(vec![dimse("a", archive.port, "commitment")]).await;
    bench.receive_all(&instances(30)).await;
    bench.until("a", DeliveryState::Verified, 30).await;
    eventually(|| "closed".into(), || async { bench.spool.open_commitments().await.unwrap().is_empty() })
        .await;
    assert_eq!(archive.state.lock().answered.len(), 30);
    forward.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archive_without_commitment_is_asked_by_query() {
    let (bench, archive) = (Bench::new(), Archive::start(Mode::Take).await);
    archive.state.lock().without.insert(COMMITMENT.into());
    let forward = bench.forward(vec![dimse("a", archive.port, "commitment")]).await;
    bench.receive_all(&instances(30)).await;
    bench.until("a", DeliveryState::Verified, 30).await;
    forward.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archive_that_proves_nothing_leaves_objects_sent_and_says_so() {
    let (bench, archive) = (Bench::new(), Archive::start(Mode::Take).await);
    archive.state.lock().without.extend([COMMITMENT.into(), FIND.into()]);
    let forward = bench.forward(vec![dimse("a", archive.port, "commitment")]).await;
    bench.receive_all(&instances(3)).await;
    bench.until("a", DeliveryState::Sent, 3).await;
    let says_so =
        || async { forward.destinations()[0].reason.as_ref().is_some_and(|why| why.contains("3 sent")) };
    eventually(|| "a remark".into(), says_so).await;
    assert_eq!(bench.count("a", DeliveryState::Sent), 3);
    assert!(forward.destinations()[0].up, "what can't be asked can still be sent to");
    forward.stop(Duration::from_secs(5)).await;
}

async fn dropped_objects_are_sent_again(verify: &str) {
    let (bench, archive) = (Bench::new(), Archive::start(Mode::Drop).await);
    let forward = bench.forward(vec![dimse("a", archive.port, verify)]).await;
    let instances = instances(10);
    bench.receive_all(&instances).await;
    // Every object was acknowledged, found missing, and sent again, more than once.
    eventually(|| "resent".into(), || async { archive.state.lock().answered.len() >= 30 }).await;
    assert_eq!(bench.count("a", DeliveryState::Verified), 0, "a dropped object never counts as verified");
    archive.set(Mode::Take);
    bench.until("a", DeliveryState::Verified, 10).await;
    assert_eq!(archive.held(), 10);
    forward.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_archive_acknowledged_and_dropped_is_sent_again_by_commitment() {
    dropped_objects_are_sent_again("commitment").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_archive_acknowledged_and_dropped_is_sent_again_by_query() {
    dropped_objects_are_sent_again("query").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_that_never_comes_is_asked_for_again_and_then_replaced_by_a_query() {
    let (bench, archive) = (Bench::new(), Archive::start(Mode::Take).await);
    archive.state.lock().silent = true;
    let mut patient = dimse("a", archive.port, "commitment");
    patient.config.verify_deadline = Duration::from_millis(300);
    let forward = bench.forward(vec![patient]).await;
    bench.receive_all(&instances(3)).await;
    bench.until("a", DeliveryState::Verified, 3).await;
    assert_eq!(archive.state.lock().answered.len(), 3, "it was not sent again");
    forward.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restart_a_late_report_counts_but_only_from_the_destination() {
    let (bench, archive) = (Bench::new(), Archive::start(Mode::Take).await);
    archive.state.lock().silent = true;
    let forward = bench.forward(vec![dimse("a", archive.port, "commitment")]).await;
    bench.receive(&instance(1, 100)).await;
    eventually(|| "asked".into(), || async { bench.spool.open_commitments().await.unwrap().len() == 1 })
        .await;
    forward.stop(Duration::from_secs(5)).await;

    let forward = bench.forward(vec![dimse("a", archive.port, "commitment")]).await;
    let open = bench.spool.open_commitments().await.unwrap().remove(0);
    let report = CommitmentReport {
        from: AeTitle::parse("ARCHIVE").unwrap(),
        peer: "127.0.0.1".parse().unwrap(),
        transaction_uid: open.transaction_uid,
        committed: vec![Uid::parse(&instance(1, 100).uid).unwrap()],
        failed: vec![],
    };
    let stranger = CommitmentReport { from: AeTitle::parse("OTHER").unwrap(), ..report.clone() };
    let elsewhere = CommitmentReport { peer: "127.0.0.2".parse().unwrap(), ..report.clone() };
    let unknown = CommitmentReport { transaction_uid: Uid::generate(), ..report.clone() };
    for forged in [stranger, elsewhere, unknown] {
        assert_eq!(forward.commitment_report(forged).await, ReportOutcome::Unknown);
    }
    assert_eq!(bench.count("a", DeliveryState::Verified), 0);
    // The verifier takes up what an earlier run left open.
    let again = || async { forward.commitment_report(report.clone()).await == ReportOutcome::Taken };
    eventually(|| "taken".into(), again).await;
    bench.until("a", DeliveryState::Verified, 1).await;
    assert_eq!(forward.commitment_report(report.clone()).await, ReportOutcome::Unknown, "once");
    assert_eq!(archive.state.lock().answered.len(), 1, "verified, not sent again");
    forward.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_was_there_before_is_never_verified_by_its_uid() {
    let (bench, archive) = (Bench::new(), Archive::start(Mode::Answer(0x0111)).await);
    let instance = instance(1, 100);
    archive.state.lock().held.insert(instance.uid.clone(), b"another".to_vec());
    let forward = bench.forward(vec![dimse("a", archive.port, "commitment")]).await;
    let entry = bench.receive(&instance).await;
    eventually(|| "a remark".into(), || async { forward.destinations()[0].reason.is_some() }).await;
    forward.stop(Duration::from_secs(5)).await;
    let forward = bench.forward(vec![dimse("a", archive.port, "commitment")]).await;
    eventually(|| "a remark".into(), || async { forward.destinations()[0].reason.is_some() }).await;
    let delivery = bench.delivery(entry, "a").await.unwrap();
    assert_eq!(delivery.state, DeliveryState::Sent);
    assert!(delivery.reason.is_some());
    forward.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_object_with_the_uid_takes_its_worth_as_evidence_away() {
    let (bench, archive) = (Bench::new(), Archive::start(Mode::Take).await);
    let forward = bench.forward(vec![dimse("a", archive.port, "commitment")]).await;
    forward.pause("a").unwrap();
    let first = bench.receive(&instance(1, 100)).await;
    let second = bench.receive(&instance(1, 300)).await;
    forward.resume("a").unwrap();
    eventually(|| "a remark".into(), || async { forward.destinations()[0].reason.is_some() }).await;
    assert_eq!(bench.delivery(first, "a").await.unwrap().state, DeliveryState::Sent);
    assert_eq!(bench.delivery(second, "a").await, None, "a conflict is not sent");
    forward.stop(Duration::from_secs(5)).await;
}

async fn a_resend_is_proven_anew(verify: &str) {
    let (mut bench, archive) = (Bench::new(), Archive::start(Mode::Take).await);
    let forward = bench.forward(vec![dimse("a", archive.port, verify)]).await;
    let (kept, lost) = (instance(1, 100), instance(2, 100));
    bench.receive(&kept).await;
    let entry = bench.receive(&lost).await;
    bench.until("a", DeliveryState::Verified, 2).await;
    archive.state.lock().held.remove(&lost.uid);
    bench.receive(&lost).await;
    bench.receive(&lost).await;
    // Whatever has been in the log by now has been seen.
    forward.pause("a").unwrap();
    let third = bench.receive(&instance(3, 100)).await;
    eventually(|| "routed".into(), || async { bench.delivery(third, "a").await.is_some() }).await;
    assert_eq!(bench.count("a", DeliveryState::Verified), 2, "too soon to ask again");
    forward.resume("a").unwrap();
    bench.until("a", DeliveryState::Verified, 3).await;

    bench.receive_later(relaypacs::ingest::PROOF_HOLDS + Duration::from_secs(1));
    bench.receive(&kept).await;
    assert_eq!(bench.receive(&lost).await, entry, "a duplicate");
    let back = || async { archive.state.lock().held.contains_key(&lost.uid) };
    eventually(|| "it is there again".into(), back).await;
    bench.until("a", DeliveryState::Verified, 3).await;
    let answered = archive.state.lock().answered.clone();
    let times = |uid: &str| answered.iter().filter(|answered| *answered == uid).count();
    assert_eq!((times(&kept.uid), times(&lost.uid)), (1, 2), "only what was lost was sent again");
    forward.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_archive_lost_after_its_commitment_is_there_again_after_a_resend() {
    a_resend_is_proven_anew("commitment").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_archive_lost_after_it_listed_it_is_there_again_after_a_resend() {
    a_resend_is_proven_anew("query").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn echo_says_how_it_went() {
    let (bench, archive) = (Bench::new(), Archive::start(Mode::Take).await);
    let nowhere = destination(serde_json::json!({
        "name": "web", "kind": "stow", "url": format!("http://127.0.0.1:{}", super::peers::free_port()),
        "timeout": "1s"
    }));
    let forward = bench.forward(vec![dimse("a", archive.port, "none"), nowhere]).await;
    assert!(forward.echo("a").await.unwrap().contains("0000"));
    assert!(forward.echo("web").await.is_err());
    forward.stop(Duration::from_secs(5)).await;
}
