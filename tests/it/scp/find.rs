//! C-FIND (PS3.4 annex C) as its SCU sees it.

use super::door::{self, Door};
use super::wire::*;

const LEVEL: (u16, u16) = (0x0008, 0x0052);
const STUDY: (u16, u16) = (0x0020, 0x000D);
const SERIES: (u16, u16) = (0x0020, 0x000E);
const NAME: (u16, u16) = (0x0010, 0x0010);
const PATIENT_ID: (u16, u16) = (0x0010, 0x0020);

/// Stores `count` studies of one instance each, of patients P0, P1 …
async fn store(door: &Door, count: usize) {
    let mut wire = Wire::associate(door.address, &[(SECONDARY_CAPTURE, &[EXPLICIT])]).await;
    for n in 0..count {
        let instance = format!("1.2.{n}.1.1");
        let object = [
            element((0x0008, 0x0005), "CS", b"ISO_IR 100"),
            element((0x0008, 0x0016), "UI", SECONDARY_CAPTURE.as_bytes()),
            element((0x0008, 0x0018), "UI", instance.as_bytes()),
            element((0x0008, 0x0020), "DA", b"20260102"),
            element((0x0008, 0x0060), "CS", b"OT"),
            element(NAME, "PN", b"M\xFCller^Anna"),
            element(PATIENT_ID, "LO", format!("P{n}").as_bytes()),
            element(STUDY, "UI", format!("1.2.{n}").as_bytes()),
            element(SERIES, "UI", format!("1.2.{n}.1").as_bytes()),
        ]
        .concat();
        wire.send(&message(1, &store_rq(SECONDARY_CAPTURE, Some(&instance)), Some(&object))).await;
        assert_eq!(wire.response().await.status(), 0);
    }
    assert_eq!(wire.release().await, Heard::ReleaseConfirmed);
}

async fn querying(door: &Door) -> Wire {
    Wire::associate(door.address, &[(STUDY_ROOT, &[EXPLICIT]), (PATIENT_ROOT, &[EXPLICIT])]).await
}

/// All responses to one question; the last is the final one.
async fn ask(wire: &mut Wire, root: &str, identifier: &[u8]) -> Vec<Response> {
    let context = if root == STUDY_ROOT { 1 } else { 3 };
    wire.send(&message(context, &find_rq(root, 5), Some(identifier))).await;
    let mut responses = Vec::new();
    loop {
        let response = wire.response().await;
        let pending = matches!(response.status(), 0xFF00 | 0xFF01);
        responses.push(response);
        if !pending {
            return responses;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_study_is_found_at_every_level_as_soon_as_it_was_acknowledged() {
    let door = door::open("").await;
    store(&door, 2).await;
    let mut wire = querying(&door).await;
    let level = |name: &[u8]| element(LEVEL, "CS", name);
    let levels: [(&str, Vec<u8>); 4] = [
        (PATIENT_ROOT, [level(b"PATIENT"), element(PATIENT_ID, "LO", b"P1")].concat()),
        (STUDY_ROOT, [level(b"STUDY"), element(STUDY, "UI", b"1.2.1")].concat()),
        (STUDY_ROOT, [level(b"SERIES"), element(STUDY, "UI", b"1.2.1"), element(SERIES, "UI", b"")].concat()),
        (
            STUDY_ROOT,
            [
                level(b"IMAGE"),
                element((0x0008, 0x0018), "UI", b""),
                element(STUDY, "UI", b"1.2.1"),
                element(SERIES, "UI", b"1.2.1.1"),
            ]
            .concat(),
        ),
    ];
    for (root, identifier) in levels {
        let responses = ask(&mut wire, root, &identifier).await;
        let asked = &elements(&identifier)[&LEVEL];
        assert_eq!(responses.len(), 2, "{asked}");
        assert_eq!(responses[0].status(), 0xFF00, "{asked}");
        let found = elements(responses[0].data_set.as_ref().unwrap());
        assert_eq!(found[&LEVEL], *asked);
        assert_eq!(found[&(0x0008, 0x0054)], "RELAYPACS");
        let last = responses.last().unwrap();
        assert_eq!((last.status(), last.data_set.is_none()), (0, true));
    }
    assert_eq!(wire.release().await, Heard::ReleaseConfirmed);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_has_the_keys_asked_for_in_utf_8_and_says_what_is_not_supported() {
    let door = door::open("").await;
    store(&door, 1).await;
    let mut wire = querying(&door).await;
    let identifier = [
        element((0x0008, 0x0005), "CS", b"ISO_IR 100"),
        element((0x0008, 0x0020), "DA", b"20260101-20260131"),
        element(LEVEL, "CS", b"STUDY"),
        element((0x0009, 0x1001), "LO", b"private"),
        element(NAME, "PN", b"M\xFCller*"),
        element((0x0010, 0x1040), "LO", b""),
    ]
    .concat();
    let responses = ask(&mut wire, STUDY_ROOT, &identifier).await;
    assert_eq!(responses.len(), 2);
    assert_eq!(responses[0].status(), 0xFF01);
    let found = elements(responses[0].data_set.as_ref().unwrap());
    let expected = [
        ((0x0008, 0x0005), "ISO_IR 192"),
        ((0x0008, 0x0020), "20260102"),
        (LEVEL, "STUDY"),
        ((0x0008, 0x0054), "RELAYPACS"),
        ((0x0009, 0x1001), ""),
        (NAME, "Müller^Anna"),
        ((0x0010, 0x1040), ""),
    ];
    assert_eq!(found, expected.map(|(tag, value)| (tag, value.to_owned())).into());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_the_rules_of_a_hierarchical_search_is_a900() {
    let door = door::open("").await;
    let mut wire = querying(&door).await;
    let level = |name: &[u8]| element(LEVEL, "CS", name);
    let long = [
        level(b"STUDY"),
        element(NAME, "PN", &b"*?".repeat(30_000)[..60_000]),
        element((0x0010, 0x0030), "DA", &[b'1'; 8000]),
    ];
    let cases: Vec<(&str, &str, Vec<u8>, u16)> = vec![
        ("no level", STUDY_ROOT, element(STUDY, "UI", b""), 0xA900),
        ("an empty identifier", STUDY_ROOT, vec![], 0xA900),
        ("an unknown level", STUDY_ROOT, level(b"FRAME"), 0xA900),
        ("PATIENT in Study Root", STUDY_ROOT, level(b"PATIENT"), 0xA900),
        ("SERIES without its study", STUDY_ROOT, level(b"SERIES"), 0xA900),
        (
            "SERIES of two studies",
            STUDY_ROOT,
            [level(b"SERIES"), element(STUDY, "UI", b"1.2\\1.3")].concat(),
            0xA900,
        ),
        ("STUDY without its patient", PATIENT_ROOT, level(b"STUDY"), 0xA900),
        ("more than 64 KiB", STUDY_ROOT, long.concat(), 0xA900),
        ("a damaged identifier", STUDY_ROOT, level(b"STUDY")[..9].to_vec(), 0xC000),
    ];
    for (what, root, identifier, expected) in cases {
        let responses = ask(&mut wire, root, &identifier).await;
        assert_eq!(responses.len(), 1, "{what}");
        assert_eq!(responses[0].status(), expected, "{what}");
        assert!(responses[0].text(0x0902).is_some(), "{what}: an Error Comment");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_matches_than_one_answer_holds_end_in_a700() {
    let door = door::open("limits.query_results = 3").await;
    store(&door, 5).await;
    let mut wire = querying(&door).await;
    let identifier = [element(LEVEL, "CS", b"STUDY"), element(STUDY, "UI", b"")].concat();
    let responses = ask(&mut wire, STUDY_ROOT, &identifier).await;
    assert_eq!(responses.len(), 4, "as many as there may be, then the end");
    assert_eq!(responses[3].status(), 0xA700);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_search_ends_with_fe00() {
    let door = door::open("").await;
    store(&door, 20).await;
    let mut wire = querying(&door).await;
    let identifier = [element(LEVEL, "CS", b"STUDY"), element(STUDY, "UI", b"")].concat();
    // The cancel is there before the first answer is.
    let mut bytes = message(1, &find_rq(STUDY_ROOT, 5), Some(&identifier));
    bytes.extend(message(1, &cancel_rq(5), None));
    wire.send(&bytes).await;
    let mut answers = 0;
    let last = loop {
        match wire.response().await.status() {
            0xFF00 | 0xFF01 => answers += 1,
            status => break status,
        }
    };
    assert_eq!(last, 0xFE00);
    assert!(answers < 20);
    let responses = ask(&mut wire, STUDY_ROOT, &identifier).await;
    assert_eq!(responses.len(), 21, "the next question is not cancelled");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_looks_like_sql_is_a_literal() {
    let door = door::open("").await;
    store(&door, 2).await;
    let mut wire = querying(&door).await;
    for value in [&b"' OR 1=1--"[..], b"%", b"_", b"P_", b"P%"] {
        let identifier = [element(LEVEL, "CS", b"STUDY"), element(PATIENT_ID, "LO", value)].concat();
        let responses = ask(&mut wire, STUDY_ROOT, &identifier).await;
        assert_eq!(responses.len(), 1, "{}", String::from_utf8_lossy(value));
        assert_eq!(responses[0].status(), 0);
    }
}
