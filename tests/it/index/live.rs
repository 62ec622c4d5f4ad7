//! The index as it runs: following a real log, waited for, cached, and without its database.

use bytes::Bytes;
use relaypacs::clock::SystemClock;
use relaypacs::index::{Index, IndexError, IndexOptions};
use relaypacs::lifecycle::Stage;
use relaypacs::spool::Spool;

use super::*;
use crate::support::spool_options;

/// A log and an index that follows it.
struct Node {
    spool: Spool,
    index: Index,
    stage: Stage,
    received: u64,
}

fn open_spool(dir: &TempDir) -> Spool {
    Spool::start(spool_options(dir.path()), Arc::new(SystemClock)).unwrap()
}

impl Node {
    fn start(store: &Store, spool: &Spool, received: u64) -> Node {
        let stage = Stage::default();
        let index = Index::start(
            store.clone(),
            spool.clone(),
            Arc::new(SystemClock),
            IndexOptions::default(),
            &stage,
        );
        Node { spool: spool.clone(), index, stage, received }
    }

    /// Makes an object durable, as an acknowledgement needs; nothing waits for the index.
    async fn receive(&mut self, study: &str) -> EntryId {
        self.received += 1;
        let at = self.received;
        let sop = format!("5.{at}");
        let entry = entry(0, study, &format!("{study}.1"), &sop, &[(tags::PATIENT_ID, "LIVE")]);
        let mut stage = self.spool.stage();
        stage.write(Bytes::from(format!("data set {at}"))).await.unwrap();
        let staged = stage.finish().await.unwrap();
        self.spool.commit(entry, Bytes::from_static(b"preamble and file meta"), staged).await.unwrap().id
    }

    async fn studies(&self) -> Result<usize, IndexError> {
        let asked = query(Level::Study, vec![key(tags::PATIENT_ID, "LIVE")]);
        self.index.search(&asked).await.map(|found| found.rows.len())
    }

    async fn stop(self) -> u64 {
        assert!(self.stage.drain(tokio::time::Instant::now() + Duration::from_secs(30)).await);
        self.received
    }
}

async fn until(what: &str, mut probe: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !probe().await {
        assert!(Instant::now() < deadline, "did not come about in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_right_after_an_acknowledgement_sees_the_object() {
    for store in &Databases::new().await.stores {
        let dir = tempfile::tempdir().unwrap();
        let spool = open_spool(&dir);
        let mut node = Node::start(store, &spool, 0);
        for at in 0..30 {
            // The second search is answered from the cache, and must not hide the next object.
            assert_eq!(node.studies().await.unwrap(), at);
            assert_eq!(node.studies().await.unwrap(), at);
            node.receive(&format!("1.{}", at + 1)).await;
        }
        assert_eq!(node.studies().await.unwrap(), 30);
        node.stop().await;
        spool.close();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_index_goes_on_where_it_stopped() {
    for store in &Databases::new().await.stores {
        let dir = tempfile::tempdir().unwrap();
        let spool = open_spool(&dir);
        let mut node = Node::start(store, &spool, 0);
        node.receive("1.1").await;
        assert_eq!(node.studies().await.unwrap(), 1);
        let mut received = node.stop().await;
        for round in 0..3 {
            let mut node = Node::start(store, &spool, received);
            node.receive(&format!("1.2.{round}")).await;
            assert_eq!(node.studies().await.unwrap(), 2 + round);
            received = node.stop().await;
        }
        spool.close();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_index_can_be_rebuilt() {
    for store in &Databases::new().await.stores {
        let dir = tempfile::tempdir().unwrap();
        let spool = open_spool(&dir);
        let mut node = Node::start(store, &spool, 0);
        for at in 0..20 {
            node.receive(&format!("1.{at}")).await;
        }
        assert_eq!(node.studies().await.unwrap(), 20);
        node.index.reindex().await.unwrap();
        until("a rebuilt index", async || search_now(store).await == 20).await;
        // It notices, too, when the position was moved beside it.
        wipe(store).await;
        until("a rebuilt index", async || search_now(store).await == 20).await;
        node.receive("2.1").await;
        assert_eq!(node.studies().await.unwrap(), 21);
        node.stop().await;
        spool.close();
    }
}

/// What the database holds at this moment.
async fn search_now(store: &Store) -> usize {
    find(store, Level::Study, vec![]).await.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn another_log_is_not_taken_for_the_one_that_was_indexed() {
    for store in &Databases::new().await.stores {
        let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let spool = open_spool(&old);
        let mut node = Node::start(store, &spool, 0);
        for at in 0..10 {
            node.receive(&format!("1.{at}")).await;
        }
        let purged = node.receive("1.99").await;
        let purge = Fact::Purged { entry: purged, reason: "test".into(), at: Millis(1) };
        spool.append(vec![purge], relaypacs::spool::Durability::Synced).await.unwrap();
        assert_eq!(node.studies().await.unwrap(), 11);
        node.stop().await;
        spool.close();

        // The spool was lost. Its numbers begin anew; the freed object stays known.
        let spool = open_spool(&new);
        let mut node = Node::start(store, &spool, 500);
        node.receive("3.1").await;
        assert_eq!(node.studies().await.unwrap(), 2);
        node.stop().await;
        spool.close();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fact_that_the_database_refuses_keeps_out_no_other() {
    for store in &Databases::new().await.stores {
        let refuse = match store.dialect() {
            relaypacs::store::Dialect::Sqlite => {
                "CREATE TRIGGER refuse BEFORE INSERT ON studies WHEN new.study_instance_uid = '1.666' \
                 BEGIN SELECT RAISE(ABORT, 'refused'); END"
            }
            relaypacs::store::Dialect::Postgres => {
                "ALTER TABLE studies ADD CONSTRAINT refuse CHECK (study_instance_uid <> '1.666')"
            }
        };
        let mut tx = store.begin_write().await.unwrap();
        Sql::new(refuse).execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let spool = open_spool(&dir);
        let mut node = Node::start(store, &spool, 0);
        for study in ["1.1", "1.666", "1.2", "1.3"] {
            node.receive(study).await;
        }
        assert_eq!(node.studies().await.unwrap(), 3);
        node.stop().await;
        spool.close();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_the_database_loses_nothing_and_is_caught_up() {
    let Some(server) = postgres::available() else { return };
    let url = server.new_database();
    server.stop();
    // The node starts while its database is down, and takes objects.
    let store = Store::open(&url, None, 4).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let spool = open_spool(&dir);
    let mut node = Node::start(&store, &spool, 0);
    node.receive("1.1").await;
    assert!(matches!(node.studies().await, Err(IndexError::Unavailable(_))));
    server.launch().unwrap();
    until("migrations", async || store.migrate_up().await.is_ok()).await;
    until("the first study", async || node.studies().await.is_ok_and(|found| found == 1)).await;
    // And goes down again under way.
    server.stop();
    for at in 2..10 {
        node.receive(&format!("1.{at}")).await;
    }
    assert!(node.studies().await.is_err());
    server.launch().unwrap();
    until("all studies", async || node.studies().await.is_ok_and(|found| found == 9)).await;
    node.stop().await;
    spool.close();
}
