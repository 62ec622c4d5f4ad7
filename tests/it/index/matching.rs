//! Every matching type on both databases, against `query::matching` as the oracle.

use rand::seq::SliceRandom;

use super::*;

#[tokio::test]
async fn every_matching_type_finds_what_the_standard_says_on_both_databases() {
    let databases = Databases::new().await;
    let mut random = StdRng::seed_from_u64(0x5EED);
    let mut log = Log::default();
    let mut stored: Vec<BTreeMap<Tag, String>> = Vec::new();
    for at in 0..120 {
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
        // All of them take minutes; a different part of each attribute's still covers every type.
        let mut asked = questions(*tag, pool);
        asked.shuffle(&mut random);
        for asked in asked.into_iter().take(90) {
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

#[tokio::test]
async fn the_longest_lists_are_matched_on_both_databases_and_longer_ones_refused() {
    let databases = Databases::new().await;
    let mut log = Log::default();
    let values =
        [(tags::ACCESSION_NUMBER, "A7"), (tags::BODY_PART_EXAMINED, "B7"), (tags::PATIENT_NAME, "N=C7")];
    log.receive("1.7", "1.7.1", "1.7.1.1", &values);
    let list =
        |prefix: &str, count| (0..count).map(|at| format!("{prefix}{at}")).collect::<Vec<_>>().join("\\");
    for (tag, prefix, most) in [
        (tags::STUDY_INSTANCE_UID, "1.", 1000),
        (tags::ACCESSION_NUMBER, "A", 1000),
        (tags::BODY_PART_EXAMINED, "B", 1000),
        (tags::PATIENT_NAME, "N=C", 100),
    ] {
        let attribute = by_tag(tag).unwrap();
        let key = Key::parse(attribute, &list(prefix, most)).unwrap();
        assert!(Key::parse(attribute, &list(prefix, most + 1)).is_err());
        for store in &databases.stores {
            apply(store, &log.facts).await;
            let rows = find(store, Level::Image, vec![key.clone()]).await;
            assert_eq!(rows.len(), 1, "{} on {:?}", attribute.keyword, store.dialect());
        }
    }
}

const HOSTILE: &[&str] = &["' OR 1=1--", "%", "_", "[A-Z]", "A%B", "\\%", "\"; DROP TABLE studies; --", "$1"];

#[rustfmt::skip]
pub(super) static POOLS: &[(Tag, &[&str])] = &[
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
        for other in pool.iter().take(3) {
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
