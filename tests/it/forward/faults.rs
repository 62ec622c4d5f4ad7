//! Destinations that are down, slow, full, aborting: everything arrives once they are well, and
//! nobody else waits for them.

use std::time::{Duration, Instant};

use relaypacs::spool::DeliveryState;

use super::archive::{Archive, Mode};
use super::bench::{Bench, dimse, eventually};
use super::instance::{Instance, instance, instance_of};

fn instances(count: u32) -> Vec<Instance> {
    (0..count).map(|number| instance(number, 2000)).collect()
}

/// Objects sent to an archive in this mode all arrive once it has recovered.
async fn arrives_after(mode: Mode) {
    let (bench, archive) = (Bench::new(), Archive::start(mode.clone()).await);
    let forward = bench.forward(vec![dimse("a", archive.port, "none")]).await;
    let instances = instances(20);
    let entries = bench.receive_all(&instances).await;
    eventually(|| format!("down by {mode:?}"), || async { !forward.destinations()[0].up }).await;
    let status = &forward.destinations()[0];
    assert!(status.reason.is_some() && status.sent == 0, "{status:?}");
    assert_eq!(archive.held(), 0);
    archive.set(Mode::Take);
    bench.until("a", DeliveryState::Sent, instances.len()).await;
    for instance in &instances {
        assert_eq!(archive.state.lock().held[&instance.uid], instance.data_set);
    }
    assert_eq!(
        bench.delivery(entries[0], "a").await.unwrap().attempts,
        0,
        "transient failures count for nothing"
    );
    assert!(forward.destinations()[0].up);
    forward.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_arrives_after_the_archive_was_full() {
    arrives_after(Mode::Answer(0xA700)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_arrives_after_the_archive_failed_to_process() {
    arrives_after(Mode::Answer(0x0110)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_arrives_after_the_archive_aborted_in_the_middle_of_objects() {
    arrives_after(Mode::AbortMidObject).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_arrives_after_the_archive_hung() {
    arrives_after(Mode::Hang).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_only_it_refuses_is_held_for_a_person_and_blocks_no_other() {
    let bench = Bench::new();
    let disliked = instance(3, 100);
    let archive = Archive::start(Mode::Dislike(disliked.uid.clone())).await;
    let forward = bench.forward(vec![dimse("a", archive.port, "none")]).await;
    let entry = bench.receive(&disliked).await;
    bench.until("a", DeliveryState::Deferred, 1).await;
    for number in 10.. {
        bench.receive(&instance(number, 100)).await;
        if bench.count("a", DeliveryState::Poisoned) == 1 {
            break;
        }
        assert!(number < 2000, "{:?}", bench.delivery(entry, "a").await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let delivery = bench.delivery(entry, "a").await.unwrap();
    assert!(delivery.reason.unwrap().contains("C000"));
    let tries = archive.state.lock().answered.iter().filter(|uid| **uid == disliked.uid).count();
    assert_eq!(tries, 5);
    forward.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_on_which_the_archive_dies_takes_nobody_down_with_it() {
    let bench = Bench::new();
    let deadly = instance(3, 100);
    let archive = Archive::start(Mode::AbortOn(deadly.uid.clone())).await;
    let forward = bench.forward_once(dimse("a", archive.port, "none")).await;
    bench.receive(&deadly).await;
    eventually(|| "it was tried".into(), || async { archive.state.lock().asked_to_store == 1 }).await;
    for number in 10..30 {
        bench.receive(&instance(number, 100)).await;
        bench.until("a", DeliveryState::Sent, number as usize - 9).await;
    }
    assert!(forward.destinations()[0].up);
    forward.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_whose_answer_was_lost_is_asked_for_and_not_sent_twice() {
    let (bench, archive) = (Bench::new(), Archive::start(Mode::Mute).await);
    let forward = bench.forward(vec![dimse("a", archive.port, "commitment")]).await;
    let instances = instances(10);
    bench.receive_all(&instances).await;
    bench.until("a", DeliveryState::Verified, instances.len()).await;
    let asked_to_store = archive.state.lock().asked_to_store;
    assert_eq!((archive.held(), asked_to_store), (instances.len(), instances.len()));
    forward.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archive_that_refuses_everything_poisons_nothing() {
    let (bench, archive) = (Bench::new(), Archive::start(Mode::Answer(0x0124)).await);
    let forward = bench.forward(vec![dimse("a", archive.port, "none")]).await;
    bench.receive_all(&instances(3)).await;
    eventually(|| "blamed".into(), || async { !forward.destinations()[0].up }).await;
    assert_eq!(bench.count("a", DeliveryState::Poisoned), 0);
    archive.set(Mode::Take);
    bench.until("a", DeliveryState::Sent, 3).await;
    forward.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_class_that_the_archive_does_not_take_is_deferred_and_blocks_nobody() {
    const MR: &str = "1.2.840.10008.5.1.4.1.1.4";
    let (bench, archive) = (Bench::new(), Archive::start(Mode::Take).await);
    archive.state.lock().without.insert(MR.into());
    let forward = bench.forward(vec![dimse("a", archive.port, "none")]).await;
    let unwanted = bench.receive(&instance_of(MR, 100, 100)).await;
    bench.receive_all(&instances(5)).await;
    bench.until("a", DeliveryState::Sent, 5).await;
    bench.until("a", DeliveryState::Deferred, 1).await;
    let reason = bench.delivery(unwanted, "a").await.unwrap().reason.unwrap();
    assert!(reason.contains("presentation context"), "{reason}");
    assert!(forward.destinations()[0].up);
    forward.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn destinations_that_hang_or_do_not_exist_slow_nobody_else() {
    let bench = Bench::new();
    let hanging = Archive::start(Mode::Hang).await;
    let slow = Archive::start(Mode::Slow(Duration::from_millis(500))).await;
    let healthy = Archive::start(Mode::Take).await;
    let destinations = vec![
        dimse("hanging", hanging.port, "commitment"),
        dimse("slow", slow.port, "query"),
        dimse("gone", super::peers::free_port(), "commitment"),
        dimse("healthy", healthy.port, "none"),
    ];
    let forward = bench.forward(destinations).await;
    bench.receive_all(&instances(100)).await;
    let began = Instant::now();
    bench.until("healthy", DeliveryState::Sent, 100).await;
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert_eq!(bench.count("gone", DeliveryState::Queued), 100);
    assert!(slow.held() < 100);
    forward.stop(Duration::from_secs(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_association_that_the_archive_closed_costs_no_failure() {
    let (bench, archive) = (Bench::new(), Archive::start(Mode::Take).await);
    let forward = bench.forward(vec![dimse("a", archive.port, "none")]).await;
    for number in 0..3 {
        bench.receive(&instance(number, 100)).await;
        bench.until("a", DeliveryState::Sent, number as usize + 1).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(archive.state.lock().associations <= 3);
    assert!(forward.destinations()[0].up);
    forward.stop(Duration::from_secs(5)).await;
}
