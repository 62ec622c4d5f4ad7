//! Delivery by STOW-RS to an archive that misbehaves.

use std::time::Duration;

use relaypacs::forward::Forward;
use relaypacs::spool::{DeliveryState, EntryId};

use super::bench::{Bench, destination, eventually};
use super::instance::{Instance, instance};
use super::web::{Mode, WebArchive};

fn instances(count: u32) -> Vec<Instance> {
    (0..count).map(|number| instance(number, 2000)).collect()
}

struct Delivering {
    bench: Bench,
    archive: WebArchive,
    forward: Forward,
    instances: Vec<Instance>,
    entries: Vec<EntryId>,
}

/// Objects on their way to an archive in this mode. They wait for each other, so that requests
/// hold several.
async fn deliver(mode: Mode, count: u32, verify: &str) -> Delivering {
    let (bench, archive) = (Bench::new(), WebArchive::start(mode).await);
    let web = destination(serde_json::json!({
        "name": "web", "kind": "stow", "url": format!("http://127.0.0.1:{}/dicom-web", archive.port),
        "verify": verify, "timeout": "2s", "associations": 1,
    }));
    let forward = bench.forward(vec![web]).await;
    forward.pause("web").unwrap();
    let instances = instances(count);
    let entries = bench.receive_all(&instances).await;
    bench.until("web", DeliveryState::Queued, count as usize).await;
    forward.resume("web").unwrap();
    Delivering { bench, archive, forward, instances, entries }
}

impl Delivering {
    async fn all_arrive(&self, state: DeliveryState) {
        self.bench.until("web", state, self.instances.len()).await;
        let archive = self.archive.state.lock();
        assert!(archive.lengths_true);
        for instance in &self.instances {
            assert!(archive.held[&instance.uid].ends_with(&instance.data_set));
        }
    }

    async fn goes_down(&self) -> String {
        eventually(|| "down".into(), || async { !self.forward.destinations()[0].up }).await;
        self.forward.destinations()[0].reason.clone().unwrap_or_default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_instances_share_a_request_and_are_proven() {
    let all = deliver(Mode::Take, 50, "query").await;
    all.all_arrive(DeliveryState::Verified).await;
    assert_eq!(all.archive.state.lock().requests, [50]);
    all.forward.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archive_that_is_busy_or_locks_us_out_gets_everything_later() {
    for (mode, word) in [
        (Mode::Busy, "503"),
        (Mode::Status(401), "credentials"),
        (Mode::Status(404), "url"),
        (Mode::Status(301), "redirects"),
    ] {
        let all = deliver(mode, 5, "none").await;
        let reason = all.goes_down().await;
        assert!(reason.contains(word), "{reason}");
        all.archive.set(Mode::Take);
        all.all_arrive(DeliveryState::Sent).await;
        all.forward.stop(Duration::from_secs(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_instance_that_fails_does_not_hold_the_others() {
    let disliked = instances(5).remove(3).uid;
    let all = deliver(Mode::Fail(disliked, 0xC000), 5, "none").await;
    all.bench.until("web", DeliveryState::Sent, 4).await;
    all.bench.until("web", DeliveryState::Deferred, 1).await;
    let delivery = all.bench.delivery(all.entries[3], "web").await.unwrap();
    assert!(delivery.reason.unwrap().contains("C000"));
    all.archive.set(Mode::Take);
    all.all_arrive(DeliveryState::Sent).await;
    all.forward.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_go_one_by_one_where_a_request_is_too_large() {
    let all = deliver(Mode::OneAtATime, 10, "none").await;
    all.all_arrive(DeliveryState::Sent).await;
    assert_eq!(all.archive.state.lock().requests, [1; 10]);
    all.forward.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_instance_that_an_archive_dies_of_is_found_and_the_others_arrive() {
    let deadly = instances(10).remove(4).uid;
    let all = deliver(Mode::DieOf(deadly), 10, "none").await;
    all.bench.until("web", DeliveryState::Sent, 9).await;
    assert_eq!(all.bench.delivery(all.entries[4], "web").await.unwrap().state, DeliveryState::Queued);
    all.archive.set(Mode::Take);
    all.all_arrive(DeliveryState::Sent).await;
    all.forward.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_whose_answer_was_lost_is_asked_for_and_not_sent_twice() {
    let all = deliver(Mode::Mute, 50, "query").await;
    all.all_arrive(DeliveryState::Verified).await;
    assert_eq!(all.archive.state.lock().requests, [50]);
    all.forward.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endless_answer_is_cut_and_proves_nothing_where_nothing_else_does() {
    let all = deliver(Mode::Verbose, 5, "none").await;
    let resent = || async { all.archive.state.lock().requests.len() >= 2 };
    eventually(|| "sent again".into(), resent).await;
    assert_eq!(all.bench.count("web", DeliveryState::Sent), 0);
    all.forward.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_web_archive_acknowledged_and_dropped_is_sent_again() {
    let all = deliver(Mode::Drop, 5, "query").await;
    let resent = || async { all.archive.state.lock().requests.iter().sum::<usize>() >= 15 };
    eventually(|| "resent".into(), resent).await;
    assert_eq!(all.bench.count("web", DeliveryState::Verified), 0);
    all.archive.set(Mode::Take);
    all.all_arrive(DeliveryState::Verified).await;
    all.forward.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_bytes_under_a_doubtful_uid_are_noticed() {
    let all = deliver(Mode::Drop, 1, "query").await;
    // It holds another object with this UID, and a second one came in here too.
    let other = instance(0, 3000);
    all.bench.receive(&other).await;
    let first = &all.instances[0];
    let file = |data_set: &[u8]| {
        let uid = |text: &str| relaypacs::dicom::Uid::parse(text).unwrap();
        let prefix = relaypacs::dicom::part10::prefix(
            &uid(first.sop_class),
            &uid(&first.uid),
            "1.2.840.10008.1.2.1",
            None,
        );
        [prefix.as_ref(), data_set].concat()
    };
    all.archive.state.lock().held.insert(first.uid.clone(), file(&other.data_set));
    let noticed = || async {
        let delivery = all.bench.delivery(all.entries[0], "web").await.unwrap();
        delivery.reason.is_some_and(|reason| reason.contains("other bytes"))
    };
    eventually(|| "noticed".into(), noticed).await;
    assert_eq!(all.bench.count("web", DeliveryState::Verified), 0);
    all.forward.stop(Duration::from_secs(5)).await;
}
