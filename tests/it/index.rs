//! The index on both databases: what the log says is what a search finds.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dicom_core::Tag;
use dicom_dictionary_std::tags;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use relaypacs::clock::Millis;
use relaypacs::dicom::attributes::by_tag;
use relaypacs::dicom::{AeTitle, Attributes, InstanceKey, Level, Uid};
use relaypacs::index::{catalogue, rebuild, search};
use relaypacs::query::{Key, Match, Page, Query};
use relaypacs::spool::{Digest, EntryId, Fact, Followed, LogPosition, Origin, Outcome, SpoolEntry};
use relaypacs::store::{Sql, Store, dialect};
use sqlx::Row;
use tempfile::TempDir;

use crate::support::postgres;

mod live;
mod matching;
mod speed;

/// A fresh database of each kind, with its schema; what keeps it alive comes with it.
struct Databases {
    stores: Vec<Store>,
    _dir: TempDir,
    _server: Option<Arc<postgres::Server>>,
}

impl Databases {
    async fn new() -> Databases {
        let dir = tempfile::tempdir().unwrap();
        let server = postgres::shared();
        let mut urls = vec![dialect::sqlite_url(&dir.path().join("index.db"))];
        urls.extend(server.as_ref().map(|server| server.new_database()));
        let mut stores = Vec::new();
        for url in urls {
            let store = Store::open(&url, None, 4).await.unwrap();
            store.migrate_up().await.unwrap();
            stores.push(store);
        }
        Databases { stores, _dir: dir, _server: server }
    }
}

/// Writes a log: facts with their positions.
#[derive(Default)]
struct Log {
    entries: u64,
    facts: Vec<Followed>,
}

impl Log {
    fn add(&mut self, fact: Fact) {
        let after = LogPosition(self.facts.len() as u64 + 1);
        self.facts.push(Followed { fact: Arc::new(fact), after, is_copy: false });
    }

    fn receive(&mut self, study: &str, series: &str, sop: &str, values: &[(Tag, &str)]) -> EntryId {
        self.receive_as(study, series, sop, values, None)
    }

    fn receive_as(
        &mut self,
        study: &str,
        series: &str,
        sop: &str,
        values: &[(Tag, &str)],
        conflict_with: Option<EntryId>,
    ) -> EntryId {
        self.entries += 1;
        let entry = SpoolEntry { conflict_with, ..entry(self.entries, study, series, sop, values) };
        let id = entry.id;
        self.add(Fact::Received(Box::new(entry)));
        id
    }

    fn purge(&mut self, entry: EntryId) {
        self.add(Fact::Purged { entry, reason: "retention".into(), at: Millis(5000) });
    }

    fn delivered(&mut self, entry: EntryId, destination: &str, outcome: Outcome, at: u64) {
        self.add(Fact::Delivery { entry, destination: destination.into(), outcome, at: Millis(at) });
    }
}

fn uid(text: &str) -> Uid {
    Uid::parse(text).unwrap()
}

fn entry(id: u64, study: &str, series: &str, sop: &str, values: &[(Tag, &str)]) -> SpoolEntry {
    let mut attributes = Attributes::default();
    for (tag, value) in values {
        attributes.set(*tag, *value);
    }
    SpoolEntry {
        id: EntryId(id),
        key: InstanceKey {
            study_instance_uid: uid(study),
            series_instance_uid: uid(series),
            sop_instance_uid: uid(sop),
        },
        sop_class_uid: uid("1.2.840.10008.5.1.4.1.1.2"),
        transfer_syntax_uid: "1.2.840.10008.1.2.1".into(),
        data_set_sha256: Digest([id as u8; 32]),
        data_set_length: 1000 + id,
        prefix_length: 400,
        origin: Origin::Dimse {
            calling_ae_title: AeTitle::parse("MODALITY").unwrap(),
            called_ae_title: AeTitle::parse("RELAYPACS").unwrap(),
            peer: IpAddr::V4(Ipv4Addr::LOCALHOST),
        },
        received_at: Millis(1000 + id),
        attributes,
        rule_set: 1,
        conflict_with: None,
    }
}

/// What a rebuild begins with.
async fn wipe(store: &Store) {
    let mut tx = store.begin_write().await.unwrap();
    rebuild::wipe_held(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
}

async fn apply(store: &Store, facts: &[Followed]) {
    for batch in facts.chunks(512) {
        let mut tx = store.begin_write().await.unwrap();
        catalogue::apply(&mut tx, batch).await.unwrap();
        tx.commit().await.unwrap();
    }
}

fn key(tag: Tag, value: &str) -> Key {
    Key::parse(by_tag(tag).unwrap(), value).unwrap()
}

fn query(level: Level, keys: Vec<Key>) -> Query {
    Query { level, keys, page: Page { limit: 100_000, offset: 0 } }
}

async fn find(store: &Store, level: Level, keys: Vec<Key>) -> Vec<Match> {
    search::search(store, &query(level, keys)).await.unwrap().rows
}

fn values(rows: &[Match], tag: Tag) -> Vec<String> {
    rows.iter().map(|row| row.attributes.get(tag).unwrap_or_default().to_owned()).collect()
}

fn number(row: &Match, tag: Tag) -> i64 {
    row.attributes.get(tag).unwrap().parse().unwrap()
}

#[tokio::test]
async fn the_schema_goes_down_and_up_again_with_rows_in_it() {
    for store in &Databases::new().await.stores {
        let mut log = Log::default();
        let freed = log.receive("1.1", "1.1.1", "1.1.1.1", &[(tags::PATIENT_ID, "P")]);
        log.receive_as("1.1", "1.1.1", "1.1.1.1", &[], Some(freed));
        log.delivered(freed, "archive", Outcome::Sent, 1);
        log.purge(freed);
        for _ in 0..2 {
            apply(store, &log.facts).await;
            assert_eq!(find(store, Level::Study, vec![]).await.len(), 1);
            store.migrate_down(0).await.unwrap();
            assert!(store.migration_status().await.unwrap().iter().all(|step| !step.applied));
            store.migrate_up().await.unwrap();
            assert!(store.migration_status().await.unwrap().iter().all(|step| step.applied));
            assert_eq!(find(store, Level::Study, vec![]).await.len(), 0);
        }
    }
}

#[tokio::test]
async fn pages_neither_overlap_nor_leave_gaps_while_objects_come_in() {
    for store in &Databases::new().await.stores {
        let mut log = Log::default();
        let receive = |log: &mut Log, at: u64| {
            let values = [(tags::PATIENT_ID, "SAME"), (tags::STUDY_DATE, "20240101")];
            log.receive(&format!("1.{at}"), &format!("1.{at}.1"), &format!("1.{at}.1.1"), &values);
        };
        (0..25).for_each(|at| receive(&mut log, at));
        apply(store, &log.facts).await;
        let mut seen = Vec::new();
        for page in 0.. {
            let page = Page { limit: 7, offset: page * 7 };
            let asked = Query { level: Level::Study, keys: vec![key(tags::PATIENT_ID, "SAME")], page };
            let found = search::search(store, &asked).await.unwrap();
            seen.extend(values(&found.rows, tags::STUDY_INSTANCE_UID));
            assert!(!found.more || found.rows.len() == 7);
            if !found.more {
                break;
            }
            let known = log.facts.len();
            receive(&mut log, 1000 + page.offset);
            apply(store, &log.facts[known..]).await;
        }
        let distinct: BTreeSet<&String> = seen.iter().collect();
        assert_eq!(distinct.len(), seen.len(), "a row came twice");
        assert!((0..25).all(|at| distinct.contains(&format!("1.{at}"))), "a row was left out");
    }
}

#[tokio::test]
async fn counts_are_exact_after_duplicates_conflicts_and_purges() {
    for store in &Databases::new().await.stores {
        let (log, model) = history_of_an_archive(0xC0);
        apply(store, &log.facts).await;
        model.check(store).await;
        // The same facts again, and in other batches, change nothing.
        let before = dump(store).await;
        for batch in log.facts.chunks(37) {
            apply(store, batch).await;
        }
        assert_eq!(dump(store).await, before);
    }
}

/// What the index must say, kept by the simplest means.
#[derive(Default)]
struct Model {
    /// SOP Instance UID → study, series, entry, freed.
    instances: BTreeMap<String, (String, String, EntryId, bool)>,
}

/// Objects received, received again, moved to another study, in conflict, purged.
fn history_of_an_archive(seed: u64) -> (Log, Model) {
    let mut random = StdRng::seed_from_u64(seed);
    let (mut log, mut model) = (Log::default(), Model::default());
    for _ in 0..1500 {
        let (study, series) = (random.random_range(0..12), random.random_range(0..4));
        let number = random.random_range(0..600);
        let sop = format!("9.{number}");
        let (study, series) = (format!("1.{study}"), format!("1.{study}.{series}"));
        let modality = ["CT", "MR", "US"][number % 3];
        let values = [(tags::PATIENT_ID, &study[..3]), (tags::MODALITY, modality)];
        match model.instances.get(&sop).cloned() {
            None | Some((_, _, _, true)) => {
                let entry = log.receive(&study, &series, &sop, &values);
                model.instances.insert(sop, (study, series, entry, false));
            }
            Some((study, series, entry, false)) if random.random_bool(0.6) => {
                log.delivered(entry, "archive", Outcome::Sent, 1);
                log.delivered(entry, "archive", Outcome::Verified { by: "commitment".into() }, 2);
                log.purge(entry);
                model.instances.insert(sop, (study, series, entry, true));
            }
            Some((_, _, entry, false)) => {
                let conflict = log.receive_as(&study, &series, &sop, &values, Some(entry));
                if random.random_bool(0.2) {
                    log.purge(conflict);
                }
            }
        }
    }
    (log, model)
}

impl Model {
    async fn check(&self, store: &Store) {
        let rows = find(store, Level::Image, vec![]).await;
        assert_eq!(rows.len(), self.instances.len());
        let studies: BTreeSet<&String> = self.instances.values().map(|(study, ..)| study).collect();
        let found = find(store, Level::Study, vec![]).await;
        assert_eq!(found.len(), studies.len());
        for row in &found {
            let study = row.attributes.get(tags::STUDY_INSTANCE_UID).unwrap();
            let inside: Vec<_> = self.instances.iter().filter(|(_, (of, ..))| of == study).collect();
            let series: BTreeSet<_> = inside.iter().map(|(_, (_, series, ..))| series).collect();
            assert_eq!(number(row, tags::NUMBER_OF_STUDY_RELATED_INSTANCES), inside.len() as i64);
            assert_eq!(number(row, tags::NUMBER_OF_STUDY_RELATED_SERIES), series.len() as i64);
            let any_freed = inside.iter().any(|(_, (.., freed))| *freed);
            let availability = if any_freed { "UNAVAILABLE" } else { "ONLINE" };
            assert_eq!(row.attributes.get(tags::INSTANCE_AVAILABILITY), Some(availability));
        }
        for row in find(store, Level::Series, vec![]).await {
            let uid = row.attributes.get(tags::SERIES_INSTANCE_UID).unwrap();
            let inside = self.instances.values().filter(|(_, series, ..)| series == uid).count();
            assert_eq!(number(&row, tags::NUMBER_OF_SERIES_RELATED_INSTANCES), inside as i64);
        }
        for row in find(store, Level::Patient, vec![]).await {
            let id = row.attributes.get(tags::PATIENT_ID).unwrap();
            let inside: Vec<_> = self.instances.values().filter(|(study, ..)| &study[..3] == id).collect();
            let studies: BTreeSet<_> = inside.iter().map(|(study, ..)| study).collect();
            assert_eq!(number(&row, tags::NUMBER_OF_PATIENT_RELATED_STUDIES), studies.len() as i64);
            assert_eq!(number(&row, tags::NUMBER_OF_PATIENT_RELATED_INSTANCES), inside.len() as i64);
        }
        for (sop, (study, _, entry, freed)) in self.instances.iter().take(100) {
            let scope = relaypacs::index::Scope {
                study_instance_uid: uid(study),
                series_instance_uid: None,
                sop_instance_uid: Some(uid(sop)),
            };
            let located = search::instances(store, &scope, None, 10).await.unwrap();
            assert_eq!(located.len(), 1, "{sop}");
            assert_eq!(located[0].entry, *entry);
            assert_eq!(located[0].freed.as_deref(), freed.then_some("archive"));
        }
    }
}

/// Every row of the index, for comparison.
async fn dump(store: &Store) -> Vec<String> {
    let mut rows = Vec::new();
    for text in [
        "SELECT identity || ' ' || CAST(number_of_patient_related_series AS TEXT) || ' ' || \
         CAST(freed_instances AS TEXT) FROM patients ORDER BY id",
        "SELECT study_instance_uid || ' ' || modalities_in_study || ' ' || CAST(freed_instances AS TEXT) || ' ' || \
         CAST(number_of_study_related_series AS TEXT) FROM studies ORDER BY id",
        "SELECT series_instance_uid || ' ' || CAST(number_of_series_related_instances AS TEXT) || ' ' || \
         CAST(study AS TEXT) FROM series ORDER BY id",
        "SELECT sop_instance_uid || ' ' || CAST(entry AS TEXT) || ' ' || COALESCE(freed_to, '-') || ' ' || \
         CAST(series AS TEXT) FROM instances ORDER BY id",
        "SELECT sop_instance_uid || ' ' || CAST(entry AS TEXT) || COALESCE(CAST(freed_at AS TEXT), '') \
         FROM conflicts ORDER BY entry",
        "SELECT CAST(entry AS TEXT) || ' ' || destination || ' ' || event FROM history ORDER BY entry, at, event",
    ] {
        let found = Sql::new(text).fetch_all(store.reader()).await.unwrap();
        rows.extend(found.iter().map(|row| row.get::<String, _>(0)));
    }
    rows
}

#[tokio::test]
async fn a_rebuild_keeps_what_the_log_forgot_and_finds_the_rest_again() {
    for store in &Databases::new().await.stores {
        let (log, model) = history_of_an_archive(0xAB);
        apply(store, &log.facts).await;
        wipe(store).await;
        let freed = model.instances.values().filter(|(.., freed)| *freed).count();
        assert_eq!(find(store, Level::Image, vec![]).await.len(), freed);
        // All of the log, then only what a log keeps: what is still held.
        apply(store, &log.facts).await;
        model.check(store).await;
        wipe(store).await;
        let held: BTreeSet<EntryId> =
            model.instances.values().filter(|(.., freed)| !freed).map(|(_, _, entry, _)| *entry).collect();
        let kept: Vec<Followed> = log
            .facts
            .iter()
            .filter(|followed| matches!(&*followed.fact, Fact::Received(entry) if held.contains(&entry.id)))
            .cloned()
            .collect();
        apply(store, &kept).await;
        model.check(store).await;
    }
}

#[tokio::test]
async fn one_study_of_two_patients_keeps_the_first_and_is_flagged() {
    for store in &Databases::new().await.stores {
        let mut log = Log::default();
        log.receive("1.1", "1.1.1", "1.1.1.1", &[(tags::PATIENT_ID, "A"), (tags::PATIENT_NAME, "First")]);
        log.receive("1.1", "1.1.1", "1.1.1.2", &[(tags::PATIENT_ID, "B"), (tags::PATIENT_NAME, "Second")]);
        log.receive("1.2", "1.2.1", "1.2.1.1", &[(tags::PATIENT_ID, "A")]);
        // What an object does not say contradicts nothing.
        log.receive("1.2", "1.2.1", "1.2.1.2", &[(tags::PATIENT_NAME, "First"), (tags::STUDY_ID, "7")]);
        // Without an ID, nothing says that two studies are of one person.
        log.receive("1.3", "1.3.1", "1.3.1.1", &[(tags::PATIENT_NAME, "Nobody")]);
        log.receive("1.4", "1.4.1", "1.4.1.1", &[(tags::PATIENT_NAME, "Nobody")]);
        apply(store, &log.facts).await;
        let patients = find(store, Level::Patient, vec![]).await;
        assert_eq!(values(&patients, tags::PATIENT_ID), ["A", "", ""]);
        let study = find(store, Level::Study, vec![key(tags::STUDY_INSTANCE_UID, "1.1")]).await;
        assert_eq!(values(&study, tags::PATIENT_NAME), ["First"]);
        assert_eq!(number(&study[0], tags::NUMBER_OF_STUDY_RELATED_INSTANCES), 2);
        let other = find(store, Level::Study, vec![key(tags::STUDY_INSTANCE_UID, "1.2")]).await;
        assert_eq!(values(&other, tags::STUDY_ID), ["7"]);
        let flagged = Sql::new("SELECT study_instance_uid FROM studies WHERE identity_conflict = 1");
        let flagged = flagged.fetch_all(store.reader()).await.unwrap();
        assert_eq!(flagged.iter().map(|row| row.get::<String, _>(0)).collect::<Vec<_>>(), ["1.1"]);
    }
}

#[tokio::test]
async fn a_study_is_read_in_pieces_without_gaps() {
    for store in &Databases::new().await.stores {
        let mut log = Log::default();
        for at in 0..50 {
            log.receive("1.1", &format!("1.1.{}", at % 3), &format!("1.1.9.{at}"), &[]);
        }
        apply(store, &log.facts).await;
        let scope = relaypacs::index::Scope {
            study_instance_uid: uid("1.1"),
            series_instance_uid: None,
            sop_instance_uid: None,
        };
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let found = search::instances(store, &scope, after, 7).await.unwrap();
            let Some(last) = found.last() else { break };
            after = Some(last.entry);
            seen.extend(found);
        }
        assert_eq!(seen.iter().map(|found| found.entry).collect::<BTreeSet<_>>().len(), 50);
        assert!(seen.is_sorted_by_key(|found| found.key.series_instance_uid.clone()));
        // One who asks after an object that is no longer there must not take it for the end.
        assert!(search::instances(store, &scope, Some(EntryId(999)), 7).await.is_err());
    }
}

#[tokio::test]
async fn values_longer_than_any_database_indexes_are_taken() {
    for store in &Databases::new().await.stores {
        let long = "ä\\b=c^".repeat(20_000);
        let mut log = Log::default();
        let values: Vec<(Tag, &str)> = matching::POOLS.iter().map(|(tag, _)| (*tag, long.as_str())).collect();
        log.receive("1.1", "1.1.1", "1.1.1.1", &values);
        log.receive("1.2", "1.2.1", "1.2.1.1", &[(tags::PATIENT_ID, "a\0b")]);
        apply(store, &log.facts).await;
        assert_eq!(find(store, Level::Image, vec![]).await.len(), 2);
    }
}
