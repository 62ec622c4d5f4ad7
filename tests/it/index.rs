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
use relaypacs::index::{catalogue, search};
use relaypacs::query::{Key, Match, Page, Query};
use relaypacs::spool::{Digest, EntryId, Fact, Followed, LogPosition, Origin, Outcome, SpoolEntry};
use relaypacs::store::{Sql, Store, dialect};
use sqlx::Row;
use tempfile::TempDir;

use crate::support::postgres;

mod live;

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
async fn every_matching_type_finds_what_the_standard_says_on_both_databases() {
    let databases = Databases::new().await;
    let mut random = StdRng::seed_from_u64(0x5EED);
    let mut log = Log::default();
    let mut stored: Vec<BTreeMap<Tag, String>> = Vec::new();
    for at in 0..400 {
        let mut values: BTreeMap<Tag, String> = BTreeMap::new();
        for (tag, pool) in POOLS {
            if random.random_bool(0.9) {
                values.insert(*tag, (*pool.choose(&mut random).unwrap()).to_owned());
            }
        }
        let listed: Vec<(Tag, &str)> = values.iter().map(|(tag, value)| (*tag, value.as_str())).collect();
        // One study each, and so the first word on each of its rows.
        log.receive(&format!("1.{at}"), &format!("1.{at}.1"), &format!("1.{at}.1.1"), &listed);
        stored.push(values);
    }
    for store in &databases.stores {
        apply(store, &log.facts).await;
    }
    let mut found_any = 0;
    for (tag, pool) in POOLS {
        for asked in questions(*tag, pool) {
            let Ok(key) = Key::parse(by_tag(*tag).unwrap(), &asked) else { continue };
            let expected: BTreeSet<String> = (0..stored.len())
                .filter(|at| {
                    let value = stored[*at].get(tag).map_or("", String::as_str);
                    key.matching.matches(key.attribute.vr, value)
                })
                .map(|at| format!("1.{at}.1.1"))
                .collect();
            found_any += usize::from(!expected.is_empty());
            for store in &databases.stores {
                let rows = find(store, Level::Image, vec![key.clone()]).await;
                let found: BTreeSet<String> = values(&rows, tags::SOP_INSTANCE_UID).into_iter().collect();
                let asked = format!("{} = {asked:?} on {:?}", key.attribute.keyword, store.dialect());
                assert_eq!(found, expected, "{asked}");
            }
        }
    }
    assert!(found_any > 150, "too few questions had an answer: {found_any}");
}

const HOSTILE: &[&str] = &["' OR 1=1--", "%", "_", "[A-Z]", "A%B", "\\%", "\"; DROP TABLE studies; --", "$1"];

#[rustfmt::skip]
static POOLS: &[(Tag, &[&str])] = &[
    (tags::PATIENT_NAME, &["", "Doe^Jane", "DOE^JANE^^", "doe^john", "Müller^Jérôme", "MULLER^JEROME", "Yamada^Tarou=山田^太郎=やまだ^たろう",
        "Wang^XiaoDong=王^小東", "=山田^太郎", "O'Neil^A%_", "[x]^y", "Adams^B\\Baker^C", "A^B=C\\D=E"]),
    (tags::PATIENT_ID, &["", "1", "01", "A1", "a1", "A_1", "AX1", "100%", "100", "[A]", "A", "A?", "Ä", "ä", "X\\Y", "' OR 1=1--"]),
    (tags::PATIENT_BIRTH_DATE, &["", "19700101", "1970.01.01", "19700102", "20240229", "unknown", "1970"]),
    (tags::PATIENT_COMMENTS, &["", "a\\b", "A", "see % and _"]),
    (tags::STUDY_DATE, &["", "20240101", "20240131", "20240201", "20231231", "20240115\\20240301"]),
    (tags::STUDY_TIME, &["", "10", "1030", "103000", "103059.999999", "235959", "000000", "10:30:01", "x"]),
    (tags::ACCESSION_NUMBER, &["", "A-1", "a-1", "A-10", "A_1", "B"]),
    (tags::REFERRING_PHYSICIAN_NAME, &["", "House^Gregory", "HOUSE^G", "Hou*se"]),
    (tags::NAME_OF_PHYSICIANS_READING_STUDY, &["", "Wilson^J\\Cuddy^L", "Cuddy^L", "Wilson^J=X\\Cuddy^L=Y"]),
    (tags::MODALITY, &["", "CT", "MR", "ct", "CT\\PT", "PT"]),
    (tags::SERIES_DESCRIPTION, &["", "T1 axial", "t1 axial", "T2*", "100%_x", "T1"]),
    (tags::BODY_PART_EXAMINED, &["", "CHEST", "CHEST\\ABDOMEN", "HEAD"]),
    (tags::OPERATORS_NAME, &["", "A^B", "C^D", "A^B\\C^D"]),
    (tags::IMAGE_TYPE, &["", "ORIGINAL\\PRIMARY", "DERIVED\\SECONDARY\\OTHER", "ORIGINAL", "ORIGINAL\\PRIMARY\\AXIAL"]),
    (tags::ACQUISITION_DATE_TIME, &["", "20240101", "20240101103000.5", "20240101103000-0500", "2024", "20240102+0100"]),
    (tags::INSTANCE_NUMBER, &["", "1", "10", "01"]),
];

/// Every value of the pool as it is, in pieces, with wildcards, in lists and ranges.
fn questions(tag: Tag, pool: &[&str]) -> Vec<String> {
    let mut asked: BTreeSet<String> = HOSTILE.iter().map(|text| (*text).to_owned()).collect();
    for text in ["*", "?", "??", "?*", "*^*", "*=*", "=*", "1*", "*1", "A*1", "*a*"] {
        asked.insert(text.to_owned());
    }
    for value in pool {
        asked.insert((*value).to_owned());
        asked.insert(value.to_lowercase());
        asked.insert(value.to_uppercase());
        asked.insert(value.replacen(|c: char| c.is_alphanumeric(), "?", 1));
        let half: String = value.chars().take(value.chars().count().div_ceil(2)).collect();
        asked.insert(format!("{half}*"));
        asked.insert(format!("*{half}"));
        asked.insert(format!("*{half}*"));
        for part in value.split(['\\', '=']) {
            asked.insert(part.to_owned());
            asked.insert(format!("={part}"));
            asked.insert(format!("{part}=*"));
            asked.insert(format!("*={part}"));
        }
        for other in pool.iter().take(6) {
            asked.insert(format!("{value}-{other}"));
            asked.insert(format!("{value}\\{other}"));
        }
        asked.insert(format!("-{value}"));
        asked.insert(format!("{value}-"));
    }
    if tag == tags::STUDY_DATE {
        asked.insert("20240101-20240131".to_owned());
    }
    asked.into_iter().collect()
}

#[tokio::test]
async fn hostile_values_are_literal_at_every_level() {
    for store in &Databases::new().await.stores {
        let mut log = Log::default();
        // A backslash divides two values, of which either may match.
        let hostile: Vec<&str> = HOSTILE.iter().copied().filter(|text| !text.contains('\\')).collect();
        for (at, text) in hostile.iter().enumerate() {
            let values =
                [(tags::PATIENT_ID, *text), (tags::STUDY_DESCRIPTION, *text), (tags::MODALITY, *text)];
            log.receive(&format!("1.{at}"), &format!("1.{at}.1"), &format!("1.{at}.1.1"), &values);
        }
        apply(store, &log.facts).await;
        for text in &hostile {
            for level in [Level::Patient, Level::Study, Level::Series, Level::Image] {
                for tag in [tags::PATIENT_ID, tags::STUDY_DESCRIPTION, tags::MODALITY] {
                    let rows = find(store, level, vec![key(tag, text)]).await;
                    assert_eq!(values(&rows, tags::PATIENT_ID), [*text], "{text} at {level:?}");
                }
            }
        }
        assert_eq!(find(store, Level::Study, vec![]).await.len(), hostile.len());
    }
}

#[tokio::test]
async fn keys_of_other_levels_and_collections_match() {
    for store in &Databases::new().await.stores {
        let mut log = Log::default();
        for (study, series, sop, modality, part) in [
            ("1.1", "1.1.1", "1.1.1.1", "CT", "HEAD"),
            ("1.1", "1.1.2", "1.1.2.1", "PT", "CHEST"),
            ("1.2", "1.2.1", "1.2.1.1", "MR", "HEAD"),
        ] {
            let values = [
                (tags::PATIENT_ID, study),
                (tags::MODALITY, modality),
                (tags::BODY_PART_EXAMINED, part),
                (tags::IMAGE_TYPE, "ORIGINAL\\PRIMARY"),
            ];
            log.receive(study, series, sop, &values);
        }
        apply(store, &log.facts).await;
        let studies = async |keys: Vec<Key>| {
            let rows = find(store, Level::Study, keys).await;
            values(&rows, tags::STUDY_INSTANCE_UID)
        };
        assert_eq!(studies(vec![key(tags::MODALITIES_IN_STUDY, "PT")]).await, ["1.1"]);
        assert_eq!(studies(vec![key(tags::MODALITIES_IN_STUDY, "CT\\MR")]).await, ["1.1", "1.2"]);
        assert_eq!(studies(vec![key(tags::MODALITIES_IN_STUDY, "?T")]).await, ["1.1"]);
        assert_eq!(
            studies(vec![key(tags::SOP_CLASSES_IN_STUDY, "1.2.840.10008.5.1.4.1.1.2")]).await.len(),
            2
        );
        assert_eq!(studies(vec![key(tags::SOP_CLASSES_IN_STUDY, "1.2.3")]).await.len(), 0);
        // Both of one series, not one of each.
        let both = |part| vec![key(tags::MODALITY, "PT"), key(tags::BODY_PART_EXAMINED, part)];
        assert_eq!(studies(both("CHEST")).await, ["1.1"]);
        assert_eq!(studies(both("HEAD")).await.len(), 0);
        assert_eq!(studies(vec![key(tags::IMAGE_TYPE, "PRIMARY"), key(tags::MODALITY, "MR")]).await, ["1.2"]);
        for (level, found) in [(Level::Patient, 1), (Level::Series, 2), (Level::Image, 2)] {
            assert_eq!(find(store, level, vec![key(tags::MODALITIES_IN_STUDY, "CT")]).await.len(), found);
        }
        for tag in [tags::SERIES_INSTANCE_UID, tags::SOP_INSTANCE_UID] {
            let uid = if tag == tags::SERIES_INSTANCE_UID { "1.2.1" } else { "1.2.1.1" };
            assert_eq!(find(store, Level::Patient, vec![key(tag, uid)]).await.len(), 1);
        }
        let both = find(store, Level::Study, vec![key(tags::STUDY_INSTANCE_UID, "1.1")]).await;
        assert_eq!(values(&both, tags::MODALITIES_IN_STUDY), ["CT\\PT"]);
        let not_matchable = query(Level::Study, vec![key(tags::NUMBER_OF_STUDY_RELATED_SERIES, "1")]);
        assert!(search::search(store, &not_matchable).await.is_err());
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
        relaypacs::index::reindex(store).await.unwrap();
        let freed = model.instances.values().filter(|(.., freed)| *freed).count();
        assert_eq!(find(store, Level::Image, vec![]).await.len(), freed);
        // All of the log, then only what a log keeps: what is still held.
        apply(store, &log.facts).await;
        model.check(store).await;
        relaypacs::index::reindex(store).await.unwrap();
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
        let values: Vec<(Tag, &str)> = POOLS.iter().map(|(tag, _)| (*tag, long.as_str())).collect();
        log.receive("1.1", "1.1.1", "1.1.1.1", &values);
        log.receive("1.2", "1.2.1", "1.2.1.1", &[(tags::PATIENT_ID, "a\0b")]);
        apply(store, &log.facts).await;
        assert_eq!(find(store, Level::Image, vec![]).await.len(), 2);
    }
}

/// Prints figures; fails only where something is an order of magnitude off.
#[tokio::test]
async fn twenty_thousand_instances_are_indexed_and_found_at_speed() {
    let mut log = Log::default();
    for at in 0..20_000u64 {
        let (study, series) = (at / 10, at / 5);
        let (name, id) = (format!("Family{study}^Given"), format!("PID{study:06}"));
        let values = [
            (tags::PATIENT_NAME, name.as_str()),
            (tags::PATIENT_ID, &id),
            (tags::STUDY_DATE, "20240102"),
            (tags::STUDY_TIME, "101500"),
            (tags::STUDY_DESCRIPTION, "CT abdomen"),
            (tags::ACCESSION_NUMBER, &id),
            (tags::MODALITY, "CT"),
            (tags::IMAGE_TYPE, "ORIGINAL\\PRIMARY\\AXIAL"),
            (tags::INSTANCE_NUMBER, "1"),
            (tags::ROWS, "512"),
            (tags::COLUMNS, "512"),
        ];
        log.receive(
            &format!("1.2.{study}"),
            &format!("1.2.{study}.{series}"),
            &format!("1.2.3.{at}"),
            &values,
        );
    }
    for store in &Databases::new().await.stores {
        let started = Instant::now();
        apply(store, &log.facts).await;
        let rate = 20_000.0 / started.elapsed().as_secs_f64();
        println!("{:?}: {rate:.0} instances a second indexed", store.dialect());
        assert!(rate > 200.0, "indexing is far too slow: {rate:.0} a second");
        for (what, level, key, found) in [
            ("study UID", Level::Study, key(tags::STUDY_INSTANCE_UID, "1.2.1234"), 1),
            ("patient ID", Level::Study, key(tags::PATIENT_ID, "PID001234"), 1),
            ("name prefix", Level::Study, key(tags::PATIENT_NAME, "family1234*"), 1),
            ("accession number", Level::Study, key(tags::ACCESSION_NUMBER, "PID000777"), 1),
            ("SOP UID at study level", Level::Study, key(tags::SOP_INSTANCE_UID, "1.2.3.777"), 1),
            ("modality", Level::Study, key(tags::MODALITIES_IN_STUDY, "CT"), 100),
            ("instances of a study", Level::Image, key(tags::STUDY_INSTANCE_UID, "1.2.1234"), 10),
        ] {
            let asked = Query { level, keys: vec![key], page: Page { limit: 100, offset: 0 } };
            let mut times = Vec::new();
            for _ in 0..50 {
                let started = Instant::now();
                assert_eq!(search::search(store, &asked).await.unwrap().rows.len(), found, "{what}");
                times.push(started.elapsed());
            }
            times.sort();
            println!("{:?}: {what}: p50 {:?}, p98 {:?}", store.dialect(), times[25], times[48]);
            assert!(times[25] < Duration::from_millis(500), "{what} takes {:?}", times[25]);
        }
    }
}
