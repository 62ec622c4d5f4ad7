//! Rebuilding the index while the log has dropped objects that the index does not know to be freed:
//! their rows can't be made again, so they must be kept, whoever orders the rebuild.

use poem::http::{Method, StatusCode};
use relaypacs::admin::Admin;
use relaypacs::clock::Millis;
use relaypacs::config::Config;
use relaypacs::dicom::{Level, Uid};
use relaypacs::index::{Index, IndexOptions};
use relaypacs::lifecycle::Stage;
use relaypacs::query::{Page, Query};
use relaypacs::spool::{Cursor, Durability, Fact, LogPosition, Spool};

use crate::support::{DEADLINE, Instance, TestNode, eventually, instance};

/// Enough to fill more than one segment of the log with those that are freed.
const OBJECTS: usize = 40;
const FREED: usize = 25;
/// More than the index takes at once, before it comes to those that say what was freed.
const OTHER_FACTS: usize = 700;

fn small_segments(config: &mut Config) {
    config.spool.segment_size = 1 << 20;
    config.spool.inline_limit = 128 << 10;
}

async fn node_with_a_study() -> (TestNode, Vec<Instance>) {
    let node = TestNode::start_with(small_segments).await;
    let first = instance().pixels(60_000);
    let study: Vec<Instance> = (0..OBJECTS).map(|_| first.sibling().pixels(60_000)).collect();
    assert!(node.c_store(&study).await.iter().all(|status| *status == 0));
    assert_eq!(node.instances_of(&study[0].study).await.len(), OBJECTS);
    (node, study)
}

fn uid() -> Uid {
    Uid::parse("1.2.3").unwrap()
}

/// Frees the oldest objects and waits until their records are gone from the log, as far as they
/// fill segments; nothing tells the index.
async fn free_the_oldest(spool: &Spool) {
    let all_received = spool.durable_position();
    let oldest = spool.entries(None, FREED).await.unwrap();
    let purged = |id| Fact::Purged { entry: id, reason: "test".into(), at: Millis(1) };
    let others = (0..OTHER_FACTS).map(|_| Fact::CommitmentClosed { transaction_uid: uid(), at: Millis(1) });
    let facts = others.chain(oldest.iter().map(|entry| purged(entry.id))).collect();
    spool.append(facts, Durability::Synced).await.unwrap();
    spool.report_cursor(Cursor::Index, all_received);
    spool.report_cursor(Cursor::Route, spool.durable_position());
    eventually("the log dropped the first objects", || async {
        let facts = spool.follow(LogPosition::default(), 1).await.unwrap();
        let Fact::Received(first) = &*facts[0].fact else { return Some(()) };
        (first.id > oldest[0].id).then_some(())
    })
    .await;
}

async fn instances(index: &Index) -> usize {
    let query = Query { level: Level::Image, keys: vec![], page: Page { limit: 1000, offset: 0 } };
    index.search(&query).await.unwrap().rows.len()
}

async fn reindex(admin: Admin) -> StatusCode {
    TestNode::command(admin, Method::POST, "/reindex", &serde_json::Value::Null).await.status()
}

async fn all_are_found(node: &TestNode, study: &[Instance]) {
    eventually("every instance is in the index again", || async {
        (node.instances_of(&study[0].study).await.len() == OBJECTS).then_some(())
    })
    .await;
    let gone = &study[0];
    let path =
        format!("/dicom-web/studies/{}/series/{}/instances/{}", gone.study, gone.series, gone.sop_instance);
    assert_eq!(node.get(&path).await.status(), StatusCode::GONE);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_node_first_learns_what_was_freed_and_then_rebuilds() {
    let (node, study) = node_with_a_study().await;
    let foundation = &node.node().foundation;
    // The database is busy: the index can't write what it reads.
    let busy = foundation.store.begin_write().await.unwrap();
    free_the_oldest(&foundation.spool).await;
    let rebuilt = tokio::spawn(reindex(node.admin()));
    drop(busy);
    assert_eq!(rebuilt.await.unwrap(), StatusCode::OK);
    all_are_found(&node, &study).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_node_the_index_first_learns_what_was_freed_too() {
    let (node, study) = node_with_a_study().await;
    let node = node
        .stopped(async |foundation| {
            free_the_oldest(&foundation.spool).await;
            assert_eq!(reindex(foundation.admin(None)).await, StatusCode::OK);
            // Read anew before the restart, which finds what lies in segments not used again yet.
            let (store, spool) = (foundation.store.clone(), foundation.spool.clone());
            let stage = Stage::default();
            let options = IndexOptions::default();
            let index = Index::start(store, spool, foundation.clock.clone(), options, &stage);
            eventually("every instance is in the index again", || async {
                (instances(&index).await == OBJECTS).then_some(())
            })
            .await;
            stage.drain(tokio::time::Instant::now() + DEADLINE).await;
        })
        .await;
    all_are_found(&node, &study).await;
}
