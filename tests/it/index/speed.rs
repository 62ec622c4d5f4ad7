//! How fast the index takes in and answers.

use super::*;

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
        assert!(rate > 40.0, "indexing is far too slow: {rate:.0} a second");
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
            assert!(times[25] < Duration::from_secs(1), "{what} takes {:?}", times[25]);
        }
    }
}
