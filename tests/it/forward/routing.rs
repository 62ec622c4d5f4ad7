//! What goes where, and what changes at run time.

use std::sync::Arc;
use std::time::Duration;

use relaypacs::clock::{Clock as _, ManualClock, Millis, SystemClock};
use relaypacs::config::RuleConfig;
use relaypacs::forward::{ConfiguredDestination, Forward, ForwardError, ForwardOptions, Setup, Which};
use relaypacs::spool::DeliveryState;

use super::archive::{Archive, Mode};
use super::bench::{Bench, dimse, eventually, options};
use super::instance::{Instance, instance};

fn rule(when: &str, to: &str) -> RuleConfig {
    RuleConfig { name: format!("to-{to}"), when: serde_json::from_str(when).unwrap(), to: vec![to.into()] }
}

fn instances(count: u32) -> Vec<Instance> {
    (0..count).map(|number| instance(number, 2000)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_object_arrives_once_with_its_bytes() {
    let (bench, archive) = (Bench::new(), Archive::start(Mode::Take).await);
    let forward = bench.forward(vec![dimse("a", archive.port, "none")]).await;
    let instances = instances(100);
    bench.receive_all(&instances).await;
    bench.until("a", DeliveryState::Sent, 100).await;
    {
        let state = archive.state.lock();
        assert_eq!(state.answered.len(), 100, "nothing was sent twice");
        assert!(state.associations <= 4, "{} associations for one batch", state.associations);
        for instance in &instances {
            assert_eq!(state.held[&instance.uid], instance.data_set);
        }
    }
    forward.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_decide_and_what_no_rule_takes_stays_and_is_counted() {
    let (bench, archive) = (Bench::new(), Archive::start(Mode::Take).await);
    let destinations = vec![dimse("a", archive.port, "none"), dimse("b", archive.port, "none")];
    let rules = vec![rule(r#"{"modality": ["CT"]}"#, "a"), rule(r#"{"modality": ["MR"]}"#, "b")];
    let forward = bench.forward_by(destinations.clone(), rules).await.unwrap();
    bench.receive(&instance(1, 100)).await;
    bench.until("a", DeliveryState::Sent, 1).await;
    assert_eq!(bench.spool.counts().deliveries.get("b"), None);

    let only_mr = vec![rule(r#"{"modality": ["MR"]}"#, "b")];
    forward.replace(Setup { destinations, rules: only_mr }).await.unwrap();
    bench.receive(&instance(2, 100)).await;
    eventually(|| "one unrouted".into(), || async { bench.spool.counts().unrouted == 1 }).await;
    assert_eq!(forward.unrouted(), 1);
    forward.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_received_before_a_restart_is_routed_after_it() {
    let (bench, archive) = (Bench::new(), Archive::start(Mode::Take).await);
    bench.receive_all(&instances(20)).await;
    let forward = bench.forward(vec![dimse("a", archive.port, "none")]).await;
    bench.until("a", DeliveryState::Sent, 20).await;
    forward.stop(Duration::from_secs(5)).await;
    let forward = bench.forward(vec![dimse("a", archive.port, "none")]).await;
    bench.receive(&instance(99, 100)).await;
    bench.until("a", DeliveryState::Sent, 21).await;
    assert_eq!(archive.state.lock().answered.len(), 21, "nothing was sent twice");
    forward.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destination_with_open_deliveries_can_not_be_removed() {
    let (bench, archive) = (Bench::new(), Archive::start(Mode::Answer(0xA700)).await);
    let forward = bench.forward(vec![dimse("a", archive.port, "none")]).await;
    bench.receive(&instance(1, 100)).await;
    bench.until("a", DeliveryState::Queued, 1).await;
    let refused = forward.replace(Setup::default()).await.unwrap_err();
    assert!(matches!(refused, ForwardError::Refused(_)), "{refused}");
    archive.set(Mode::Take);
    bench.until("a", DeliveryState::Sent, 1).await;
    forward.replace(Setup::default()).await.unwrap();
    let [gone] = &forward.destinations()[..] else {
        panic!("what it was sent is held until another has proof of it")
    };
    assert_eq!((gone.kind.as_str(), gone.sent), ("gone", 1));
    forward.cancel("a", Which::All).await.unwrap();
    bench.until("a", DeliveryState::Cancelled, 1).await;
    assert!(forward.destinations().is_empty());
    forward.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_later_destination_gets_older_objects_only_by_backfill() {
    let (bench, archive) = (Bench::new(), Archive::start(Mode::Take).await);
    let forward = bench.forward(vec![dimse("a", archive.port, "none")]).await;
    bench.receive_all(&instances(5)).await;
    bench.until("a", DeliveryState::Sent, 5).await;
    let destinations = vec![dimse("a", archive.port, "none"), dimse("b", archive.port, "none")];
    forward.replace(Setup { destinations, rules: vec![] }).await.unwrap();
    bench.receive(&instance(9, 100)).await;
    bench.until("b", DeliveryState::Sent, 1).await;
    assert_eq!(forward.backfill("b", Millis(0)).await.unwrap(), 5);
    bench.until("b", DeliveryState::Sent, 6).await;
    assert_eq!(forward.backfill("b", Millis(0)).await.unwrap(), 0);
    forward.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_destination_gets_nothing_until_it_is_resumed() {
    let (bench, archive) = (Bench::new(), Archive::start(Mode::Take).await);
    let forward = bench.forward(vec![dimse("a", archive.port, "none")]).await;
    forward.pause("a").unwrap();
    bench.receive(&instance(1, 100)).await;
    bench.until("a", DeliveryState::Queued, 1).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(archive.held(), 0);
    assert!(forward.destinations()[0].paused);
    forward.resume("a").unwrap();
    bench.until("a", DeliveryState::Sent, 1).await;
    assert!(matches!(forward.pause("z"), Err(ForwardError::UnknownDestination(_))));
    forward.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_object_leaves_at_once() {
    let (bench, archive) = (Bench::new(), Archive::start(Mode::Take).await);
    let forward = bench.forward(vec![dimse("a", archive.port, "none")]).await;
    let mut waits = Vec::new();
    for number in 0..15 {
        bench.receive(&instance(number, 100_000)).await;
        let acknowledged = std::time::Instant::now();
        while archive.held() <= number as usize {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        waits.push(acknowledged.elapsed());
    }
    waits.sort();
    println!("from acknowledgement to arrival: median {:?}, longest {:?}", waits[7], waits[14]);
    // Far from the 20 ms of an idle machine, and far below any polling.
    assert!(waits[7] < Duration::from_millis(150), "{waits:?}");
    forward.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_drains_fast_and_once() {
    let (bench, archive) = (Bench::new(), Archive::start(Mode::Take).await);
    let forward = bench.forward(vec![dimse("a", archive.port, "none")]).await;
    forward.pause("a").unwrap();
    bench.receive_all(&instances(600)).await;
    bench.until("a", DeliveryState::Queued, 600).await;
    let began = std::time::Instant::now();
    forward.resume("a").unwrap();
    bench.until("a", DeliveryState::Sent, 600).await;
    println!("600 objects in {:?}", began.elapsed());
    assert_eq!(archive.state.lock().answered.len(), 600, "nothing was sent twice");
    forward.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_clock_that_was_wrong_has_put_off_all_goes_once_it_is_right() {
    let (bench, archive) = (Bench::new(), Archive::start(Mode::Take).await);
    let clock = ManualClock::default();
    clock.advance(Duration::from_millis(SystemClock.now().0) + Duration::from_secs(365 * 24 * 3600));
    let wrong = ForwardOptions { clock: Arc::new(clock), ..options() };
    let waiting = ConfiguredDestination { paused: true, ..dimse("a", archive.port, "none") };
    let setup = Setup { destinations: vec![waiting], rules: vec![] };
    let forward = Forward::start(bench.spool.clone(), wrong, setup).await.unwrap();
    bench.receive_all(&instances(100)).await;
    bench.until("a", DeliveryState::Queued, 100).await;
    forward.stop(Duration::from_secs(5)).await;

    let forward = bench.forward(vec![dimse("a", archive.port, "none")]).await;
    bench.until("a", DeliveryState::Sent, 100).await;
    assert_eq!(archive.state.lock().answered.len(), 100, "nothing was sent twice");
    forward.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_gives_up_one_delivery_and_takes_it_up_again() {
    let (bench, archive) = (Bench::new(), Archive::start(Mode::Take).await);
    let forward = bench.forward(vec![dimse("a", archive.port, "none")]).await;
    forward.pause("a").unwrap();
    let entries = bench.receive_all(&instances(2)).await;
    bench.until("a", DeliveryState::Queued, 2).await;
    let one = Which::Entry(entries[0]);
    assert!(matches!(forward.requeue("a", one).await, Err(ForwardError::Refused(_))), "it is queued");
    assert_eq!(forward.cancel("a", Which::Poisoned).await.unwrap(), 0);
    assert_eq!(forward.cancel("a", one).await.unwrap(), 1);
    forward.resume("a").unwrap();
    bench.until("a", DeliveryState::Sent, 1).await;
    assert_eq!(bench.delivery(entries[0], "a").await.unwrap().state, DeliveryState::Cancelled);
    assert_eq!(forward.requeue("a", Which::Poisoned).await.unwrap(), 0);
    assert_eq!(forward.requeue("a", one).await.unwrap(), 1);
    bench.until("a", DeliveryState::Sent, 2).await;
    forward.stop(Duration::from_secs(5)).await;
}
