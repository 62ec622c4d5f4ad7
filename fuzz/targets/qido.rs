//! Query parameters of QIDO-RS (PS3.18 §8.3.4, §10.6.1.2), and the matching that they ask for
//! (PS3.4 §C.2.2.2).

use poem::Request;
use poem::http::Uri;
use relaypacs::dicom::Level;
use relaypacs::http::dicomweb::{Search, parameters};
use relaypacs::query::{Key, Matching};

use super::{begins_with, split};

const MOST_ROWS: usize = 100;

/// The first byte chooses the level; the rest is the query.
pub fn run(data: &[u8]) {
    let (choice, rest) = split(data);
    let level = [Level::Study, Level::Series, Level::Image][usize::from(choice) % 3];
    let address = [b"/dicom-web/studies?", rest].concat();
    let Ok(uri) = Uri::try_from(&address[..]) else { return };
    let request = Request::builder().uri(uri).finish();
    match Search::parse(level, parameters(&request), MOST_ROWS) {
        Ok(search) => check(level, &search, &request),
        Err(error) => {
            assert_eq!(error.status.as_u16(), 400);
            assert!(!error.detail.contains(char::is_control), "what a client sent is repeated raw");
        }
    }
}

fn check(level: Level, search: &Search, request: &Request) {
    assert_eq!(search.query.level, level);
    assert!(search.query.page.limit <= MOST_ROWS);
    assert!(search.included.iter().all(|attribute| attribute.level <= level));
    let sent = parameters(request).count();
    assert!(search.query.keys.len() <= sent && search.warnings.iter().count() <= sent);
    for key in &search.query.keys {
        assert!(key.attribute.level <= level);
        check_key(key, request);
    }
    super::plant(|| {
        let asked = |key: &Key| matches!(&key.matching, Matching::Single(value) if begins_with(value.as_bytes(), b"PLNT"));
        search.query.keys.iter().any(asked)
    });
}

/// Values that are stored, or like them.
const STORED: [&str; 8] = [
    "",
    "Test^Synthetic=Ää^Öö",
    "1.2.3.4",
    "20261122",
    "235959.999",
    "20261122235959+0100",
    "A\\B",
    "Aaaaaaaaab",
];

fn check_key(key: &Key, request: &Request) {
    let vr = key.attribute.vr;
    for stored in STORED {
        let matches = key.matching.matches(vr, stored);
        assert!(matches || key.matching != Matching::Universal, "the universal key matches everything");
    }
    // What a person reads off a record and types finds that record.
    for (_, value) in parameters(request) {
        if let Ok(Matching::Single(_)) = Matching::parse(vr, &value)
            && !value.is_empty()
        {
            let matching = Matching::parse(vr, &value).expect("parsed before");
            assert!(matching.matches(vr, &value), "{vr} {value:?} does not find itself");
        }
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let queries: [(u8, &str); 8] = [
        (0, "PatientName=Test*&StudyDate=20261101-20261122&limit=10&offset=5&includefield=all"),
        (1, "00100020=TEST&StudyInstanceUID=1.2.3,1.2.4&Modality=CT\\MR&fuzzymatching=true"),
        (2, "SOPInstanceUID=1.2.3&AcquisitionDateTime=20261122-20261123%2B0100&accept=application%2Fjson"),
        (0, "ModalitiesInStudy=CT&PatientBirthDate=-19700101&StudyTime=10-1230&PatientName=%C3%84"),
        (
            1,
            "includefield=StudyDescription,00100010,PixelSpacing&RequestAttributesSequence.ScheduledProcedureStepID=1",
        ),
        (0, "limit=99999999999999999999999&PatientName=%5EYamada%3D%E5%B1%B1"),
        (2, "InstanceNumber=1&PatientID=%00"),
        (0, "PatientName=***?&&=&x"),
    ];
    queries.iter().map(|(choice, query)| [&[*choice][..], query.as_bytes()].concat()).collect()
}
