//! What is freed and when, and what becomes of the log where it lay.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_runs_full_frees_what_is_proven_before_its_retention_and_nothing_else() {
    let mut bench = Bench::new();
    bench.options.high_watermark = 0.0;
    bench.clock.advance(Duration::from_secs(10));
    let spool = bench.open();
    spool.set_policies(policies());
    let proven = store(&spool, "1.1", content(1, 3000)).await.unwrap().id;
    let sent = store(&spool, "1.2", content(2, 3000)).await.unwrap().id;
    let outcomes = [(proven, Outcome::Verified { by: "query".into() }), (sent, Outcome::Sent)];
    for (entry, outcome) in outcomes {
        deliver(&spool, entry, outcome).await;
    }
    until(async || (spool.counts().objects == 1).then_some(())).await;
    assert_eq!(read(&spool, sent).await, content(2, 3000));
    spool.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn space_is_freed_after_proof_and_retention_and_segments_are_recycled() {
    let bench = Bench::new();
    let spool = bench.open();
    spool.set_policies(policies());
    let kept = store(&spool, "1.9", content(9, 3000)).await.unwrap().id;
    let mut delivered = Vec::new();
    for index in 0..40u8 {
        // The last ones are large.
        let length = if index < 38 { 60_000 } else { 100_000 };
        delivered.push(store(&spool, &format!("1.2.3.{index}"), content(index, length)).await.unwrap().id);
    }
    for id in &delivered {
        deliver(&spool, *id, Outcome::Verified { by: "query".into() }).await;
    }
    spool.applied(spool.durable_position()).await.unwrap();
    assert_eq!(spool.counts().objects, 41, "nothing is freed before its retention");

    bench.clock.advance(Duration::from_secs(100));
    until(async || (spool.counts().objects == 1).then_some(())).await;
    assert!(matches!(spool.open(delivered[0], CheckBy::Sha256).await, Err(SpoolError::Freed(_))));
    assert_eq!(std::fs::read_dir(bench.dir.path().join("spool/large")).unwrap().count(), 0);

    // The survivor is copied forward, so that even its segment can be used again.
    until(async || {
        let end = spool.durable_position();
        spool.report_cursor(Cursor::Index, end);
        spool.report_cursor(Cursor::Route, end);
        (spool.status().segments <= 2).then_some(())
    })
    .await;
    assert_eq!(read(&spool, kept).await, content(9, 3000));
    let anew = store(&spool, "1.2.3.0", content(0, 60_000)).await.unwrap();
    assert_eq!(anew.verdict, Verdict::New, "freed bytes are received anew");
    spool.close();
    drop(spool);
    std::fs::remove_dir_all(bench.dir.path().join("spool/queue")).unwrap();
    let spool = bench.open();
    assert_eq!(read(&spool, kept).await, content(9, 3000));
    assert_eq!(spool.counts().objects, 2);
    spool.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_never_be_freed_does_not_hide_what_comes_after_it() {
    let bench = Bench::new();
    let spool = bench.open();
    spool.set_policies(policies());
    let mut ids = Vec::new();
    for index in 0..40u8 {
        ids.push(store(&spool, &format!("1.2.3.{index}"), content(index, 3000)).await.unwrap().id);
    }
    let (stay, go) = ids.split_at(38);
    for (ids, outcome) in [(stay, Outcome::Cancelled), (go, Outcome::Verified { by: "query".into() })] {
        for id in ids {
            deliver(&spool, *id, outcome.clone()).await;
        }
        bench.clock.advance(Duration::from_secs(1));
    }
    bench.clock.advance(Duration::from_secs(100));
    until(async || (spool.counts().objects == 38).then_some(())).await;
    // What can be freed later, in front, comes next time round.
    deliver(&spool, stay[0], Outcome::Verified { by: "query".into() }).await;
    bench.clock.advance(Duration::from_secs(100));
    until(async || (spool.counts().objects == 37).then_some(())).await;
    spool.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stays_for_long_does_not_keep_what_is_dead_behind_it() {
    let bench = Bench::new();
    let spool = bench.open();
    spool.set_policies(policies());
    let mut stuck = Vec::new();
    for index in 0..8u8 {
        stuck.push(store(&spool, &format!("1.9.{index}"), content(index, 60_000)).await.unwrap().id);
    }
    for index in 0..100u8 {
        let id = store(&spool, &format!("1.2.3.{index}"), content(index, 60_000)).await.unwrap().id;
        deliver(&spool, id, Outcome::Verified { by: "query".into() }).await;
    }
    spool.applied(spool.durable_position()).await.unwrap();
    assert!(spool.status().segments > 10);
    bench.clock.advance(Duration::from_secs(100));
    until(async || {
        let end = spool.durable_position();
        spool.report_cursor(Cursor::Index, end);
        spool.report_cursor(Cursor::Route, end);
        (spool.status().segments <= 4).then_some(())
    })
    .await;
    for (index, id) in (0..8u8).zip(stuck) {
        assert_eq!(read(&spool, id).await, content(index, 60_000));
    }
    spool.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_on_its_way_again_is_not_freed_though_it_was_chosen() {
    let bench = Bench::new();
    let spool = bench.open();
    spool.set_policies(policies());
    let mut ids = Vec::new();
    for (uid, seed) in [("1.1", 1), ("1.2", 2)] {
        ids.push(store(&spool, uid, content(seed, 3000)).await.unwrap().id);
    }
    for id in &ids {
        deliver(&spool, *id, Outcome::Verified { by: "query".into() }).await;
    }
    deliver(&spool, ids[1], Outcome::Requeued).await;
    let (answer, answered) = oneshot::channel();
    spool.shared.jobs.send(Job::Free { ids: ids.clone(), answer }).unwrap();
    answered.await.unwrap().unwrap();
    let anew = store(&spool, "1.1", content(1, 3000)).await.unwrap();
    assert_eq!(anew.verdict, Verdict::New, "freed: received anew");
    assert_eq!(read(&spool, ids[1]).await, content(2, 3000));
    spool.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_runs_full_frees_what_comes_after_much_that_can_never_be() {
    let mut bench = Bench::new();
    bench.options.high_watermark = 0.0;
    bench.clock.advance(Duration::from_secs(10));
    let spool = bench.open();
    let mut ids = Vec::new();
    for index in 0..41u8 {
        ids.push(store(&spool, &format!("1.2.3.{index}"), content(index, 3000)).await.unwrap().id);
    }
    let (stay, go) = ids.split_at(39);
    for (ids, outcome) in [(stay, Outcome::Cancelled), (go, Outcome::Verified { by: "query".into() })] {
        for id in ids {
            deliver(&spool, *id, outcome.clone()).await;
        }
        bench.clock.advance(Duration::from_secs(1));
    }
    until(async || {
        spool.set_policies(policies());
        (spool.counts().objects == 39).then_some(())
    })
    .await;
    spool.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_freed_while_it_is_opened_is_no_loss() {
    let bench = Bench::new();
    let spool = bench.open();
    spool.set_policies(policies());
    let id = store(&spool, "1.2.3", content(1, 100_000)).await.unwrap().id;
    let found = spool.shared.record(id).unwrap();
    deliver(&spool, id, Outcome::Verified { by: "query".into() }).await;
    bench.clock.advance(Duration::from_secs(100));
    until(async || (spool.counts().objects == 0).then_some(())).await;
    let opened = ObjectReader::of_record(&spool.shared, id, found, CheckBy::Sha256);
    assert!(matches!(opened, Err(SpoolError::Freed(_))));
    assert_eq!(spool.status().damaged, 0);
    spool.close();
}
