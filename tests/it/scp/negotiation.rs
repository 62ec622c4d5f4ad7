//! Association negotiation (PS3.8 §9.3, PS3.7 annex D).

use super::door::{self, Door};
use super::wire::*;

/// Sends `bytes` on a new connection and returns what is heard.
async fn hear(door: &Door, bytes: &[u8]) -> Heard {
    let mut wire = Wire::connect(door.address).await;
    wire.send(bytes).await;
    wire.hear().await
}

async fn assert_serves(door: &Door, after: &str) {
    let mut wire = Wire::associate(door.address, &[(VERIFICATION, &[IMPLICIT])]).await;
    assert_eq!(wire.echo(1).await, 0, "after {after}");
    assert_eq!(wire.release().await, Heard::ReleaseConfirmed, "after {after}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_is_aborted_and_the_door_goes_on() {
    let door = door::open("").await;
    let valid = Request::verification();
    let with_contexts = |ids: &[u8]| {
        ids.iter().fold(Request::new(), |request, id| request.context(*id, VERIFICATION, &[IMPLICIT])).pdu()
    };
    let mut beyond = valid.clone();
    beyond.user.extend([0x52, 0, 0xFF, 0xFF, b'1']);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("HTTP", b"GET / HTTP/1.1\r\nHost: pacs\r\n\r\n".to_vec()),
        ("a length of 4 GiB", [&[1, 0, 0xFF, 0xFF, 0xFF, 0xFF][..], &valid.body()].concat()),
        ("P-DATA first", message(1, &echo_rq(1), None)),
        ("a release first", vec![5, 0, 0, 0, 0, 4, 0, 0, 0, 0]),
        ("an unknown PDU type", pdu(0x42, b"1234")),
        ("an item longer than the PDU", beyond.pdu()),
        ("a request cut short", pdu(1, &valid.body()[..40])),
        ("no contexts", with_contexts(&[])),
        ("an even context id", with_contexts(&[2])),
        ("context id 0", with_contexts(&[0])),
        ("a context id twice", with_contexts(&[1, 3, 1])),
    ];
    for (what, bytes) in cases {
        assert_eq!(hear(&door, &bytes).await, Heard::Aborted([0, 0]), "{what}");
    }
    assert_serves(&door, "malformed requests").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_can_t_be_served_is_rejected_with_its_reason() {
    let door = door::open(
        r#"
        [dicom]
        admission = "known"
        [[dicom.peers]]
        ae_title = "CT_1"
        [[dicom.peers]]
        ae_title = "ELSEWHERE"
        allow = ["10.1.4.0/24"]
        "#,
    )
    .await;
    let valid = Request::verification;
    let mut version_2 = valid();
    version_2.version = 2;
    let mut application = valid();
    application.application_context = b"1.2.840.10008.3.1.1.2".to_vec();
    let cases = [
        ("protocol version 2", version_2, [1, 2, 2]),
        ("an application context not DICOM's", application, [1, 1, 2]),
        ("an unknown called AE title", valid().called(b"OTHER"), [1, 1, 7]),
        ("a called AE title in other case", valid().called(b"relaypacs"), [1, 1, 7]),
        ("an unknown calling AE title", valid().calling(b"CT_2"), [1, 1, 3]),
        ("a known title from another address", valid().calling(b"ELSEWHERE"), [1, 1, 3]),
        ("a line break in the title", valid().calling(b"CT_1\r\n"), [1, 1, 3]),
        ("a NUL in the title", valid().calling(b"CT_1\0"), [1, 1, 3]),
        ("an escape in the title", valid().calling(b"\x1b[2J"), [1, 1, 3]),
        ("an empty title", valid().calling(b""), [1, 1, 3]),
        ("a path for a title", valid().calling(b"../../x"), [1, 1, 3]),
    ];
    for (what, request, expected) in cases {
        assert_eq!(hear(&door, &request.pdu()).await, Heard::Rejected(expected), "{what}");
    }
    assert_serves(&door, "rejections").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_open_admission_an_invalid_title_is_still_rejected() {
    let door = door::open("").await;
    let request = Request::verification().calling(b"CT\\1");
    assert_eq!(hear(&door, &request.pdu()).await, Heard::Rejected([1, 1, 3]));
    let mut other_versions = Request::verification().calling(b"  ANYBODY");
    other_versions.version = 0xFFFF;
    assert!(matches!(hear(&door, &other_versions.pdu()).await, Heard::Accepted(_)));
}

/// The answer taken apart: items by type, in order.
fn items(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let length = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
        out.push((bytes[0], bytes[4..4 + length].to_vec()));
        bytes = &bytes[4 + length..];
    }
    out
}

/// Id, result and transfer syntax of each answered context.
fn contexts(accepted: &Heard) -> Vec<(u8, u8, String)> {
    let Heard::Accepted(body) = accepted else { panic!("not accepted: {accepted:?}") };
    let results = items(&body[68..]).into_iter().filter(|(item_type, _)| *item_type == 0x21);
    results
        .map(|(_, content)| {
            let syntaxes = items(&content[4..]);
            assert_eq!(syntaxes.len(), 1, "exactly one transfer syntax");
            (content[0], content[2], String::from_utf8(syntaxes[0].1.clone()).unwrap())
        })
        .collect()
}

fn user_items(accepted: &Heard) -> Vec<(u8, Vec<u8>)> {
    let Heard::Accepted(body) = accepted else { panic!("not accepted: {accepted:?}") };
    let user = items(&body[68..]).into_iter().find(|(item_type, _)| *item_type == 0x50).unwrap();
    items(&user.1)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_context_is_answered_with_one_of_the_syntaxes_offered_for_it() {
    let door = door::open("").await;
    let request = Request::new()
        .context(1, VERIFICATION, &[IMPLICIT])
        .context(3, CT, &[IMPLICIT, EXPLICIT, JPEG_LOSSLESS])
        .context(5, CT, &[DEFLATED, BIG_ENDIAN])
        .context(7, CT, &["1.2.3.4", "1.2.840.10008.1.2.7.1"])
        .context(9, "1.2.840.10008.1.3.10", &[IMPLICIT])
        .context(11, "1.3.46.670589.5.0.1", &[EXPLICIT])
        .context(13, STUDY_ROOT, &[JPEG_LOSSLESS, BIG_ENDIAN])
        .context(15, COMMITMENT, &[IMPLICIT])
        .context(17, "1.2.840.10008.5.1.4.1.2.2.2", &[IMPLICIT])
        .context(255, "not a UID", &[IMPLICIT]);
    let answer = contexts(&hear(&door, &request.pdu()).await);
    let expected = [
        (1, 0, IMPLICIT),
        (3, 0, JPEG_LOSSLESS),
        (5, 0, DEFLATED),
        (7, 4, IMPLICIT),
        (9, 3, IMPLICIT),
        (11, 0, EXPLICIT),
        (13, 0, BIG_ENDIAN),
        (15, 3, IMPLICIT),
        (17, 3, IMPLICIT),
        (255, 3, IMPLICIT),
    ];
    let expected: Vec<_> = expected.map(|(id, result, syntax)| (id, result, syntax.to_owned())).into();
    assert_eq!(answer, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_sop_classes_and_private_syntaxes_are_taken_as_configured() {
    let door = door::open(
        r#"
        [dicom]
        unknown_sop_classes = "refuse"
        private_transfer_syntaxes = ["1.2.3.4.5"]
        "#,
    )
    .await;
    let request = Request::new()
        .context(1, "1.3.46.670589.5.0.1", &[EXPLICIT])
        .context(3, CT, &["1.2.3.4.5"])
        .context(5, CT, &["1.2.3.4.6"]);
    let answer: Vec<_> = contexts(&hear(&door, &request.pdu()).await)
        .into_iter()
        .map(|(id, result, _)| (id, result))
        .collect();
    assert_eq!(answer, [(1, 3), (3, 0), (5, 4)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_contexts_as_there_are_ids_are_answered_in_order() {
    let door = door::open("").await;
    let request = (0..128u8).fold(Request::new(), |request, n| request.context(2 * n + 1, CT, &[EXPLICIT]));
    let answer = contexts(&hear(&door, &request.pdu()).await);
    let ids: Vec<u8> = answer.iter().map(|(id, _, _)| *id).collect();
    assert_eq!(ids, (0..128u8).map(|n| 2 * n + 1).collect::<Vec<_>>());
    assert!(answer.iter().all(|(_, result, _)| *result == 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_repeats_what_it_must_and_says_who_we_are() {
    let door = door::open("").await;
    let mut request = Request::verification()
        .user(item(0x53, &[0, 9, 0, 9]))
        .user(item(0x54, &[&[0, 17][..], VERIFICATION.as_bytes(), &[1, 1]].concat()))
        .user(item(0x56, b"\x00\x031.2\x01\x01"))
        .user(item(0x57, b"\x00\x031.2\x00\x031.3\x00\x00"))
        .user(item(0x58, b"\x02\x01\x00\x04user\x00\x04pass"))
        .user(item(0x77, b"later"));
    request.reserved = [0xA5; 32];
    let answer = hear(&door, &request.pdu()).await;
    let Heard::Accepted(body) = &answer else { panic!("{answer:?}") };
    assert_eq!(body[4..68], request.body()[4..68], "bytes 11 to 74");
    let user = user_items(&answer);
    let of =
        |wanted: u8| user.iter().find(|(item_type, _)| *item_type == wanted).map(|(_, content)| &content[..]);
    assert_eq!(of(0x51), Some(&(128u32 << 10).to_be_bytes()[..]));
    assert!(of(0x52).is_some_and(|uid| uid.starts_with(b"2.25.")));
    assert!(of(0x55).is_some_and(|name| name.starts_with(b"RELAYPACS") && name.len() <= 16));
    assert_eq!(of(0x53), Some(&[0, 1, 0, 1][..]));
    assert_eq!(of(0x54), Some(&[&[0, 17][..], VERIFICATION.as_bytes(), &[1, 0]].concat()[..]));
    assert_eq!(of(0x59), Some(&[0, 0][..]));
    assert_eq!((of(0x56), of(0x57), of(0x77)), (None, None, None));

    let plain = user_items(&hear(&door, &Request::verification().pdu()).await);
    let types: Vec<u8> = plain.iter().map(|(item_type, _)| *item_type).collect();
    assert_eq!(types, [0x51, 0x52, 0x55], "nothing answers what was not proposed");
}

const ARCHIVE: &str = r#"
    [dicom]
    admission = "known"
    [[destinations]]
    name = "pacs"
    kind = "dimse"
    ae_title = "ARCHIVE"
    host = "127.0.0.1"
    port = 4242
"#;

fn commitment_role(scu: u8, scp: u8) -> Vec<u8> {
    item(0x54, &[&[0, 20][..], COMMITMENT.as_bytes(), &[scu, scp]].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_may_come_to_report_commitment_and_for_nothing_else() {
    let door = door::open(ARCHIVE).await;
    let request = Request::new()
        .calling(b"ARCHIVE")
        .context(1, COMMITMENT, &[IMPLICIT, EXPLICIT])
        .context(3, CT, &[EXPLICIT])
        .context(5, STUDY_ROOT, &[EXPLICIT])
        .user(commitment_role(0, 1));
    let answer = hear(&door, &request.pdu()).await;
    assert_eq!(
        contexts(&answer),
        [(1, 0, EXPLICIT.to_owned()), (3, 3, IMPLICIT.to_owned()), (5, 3, IMPLICIT.to_owned())]
    );
    assert!(user_items(&answer).contains(&(0x54, commitment_role(0, 1)[4..].to_vec())));

    let without_role = Request::new().calling(b"ARCHIVE").context(1, COMMITMENT, &[IMPLICIT]);
    assert_eq!(contexts(&hear(&door, &without_role.pdu()).await)[0].1, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_of_a_transaction_that_is_not_ours_is_confirmed_and_changes_nothing() {
    let door = door::open(ARCHIVE).await;
    let request =
        Request::new().calling(b"ARCHIVE").context(1, COMMITMENT, &[EXPLICIT]).user(commitment_role(0, 1));
    let mut wire = Wire::connect(door.address).await;
    wire.send(&request.pdu()).await;
    assert!(matches!(wire.hear().await, Heard::Accepted(_)));
    let report = |event_type: u8| {
        command(&[
            (0x0002, COMMITMENT.as_bytes()),
            (0x0100, &[0, 1]),
            (0x0110, &[3, 0]),
            (0x0800, &[0, 0]),
            (0x1000, b"1.2.840.10008.1.20.1.1"),
            (0x1002, &[event_type, 0]),
        ])
    };
    let transaction = element((0x0008, 0x1195), "UI", b"2.25.99");
    for (event_type, data_set, expected) in
        [(1, &transaction[..], 0x0000), (7, &transaction[..], 0x0113), (1, &b"\x08\0"[..], 0x0115)]
    {
        wire.send(&message(1, &report(event_type), Some(data_set))).await;
        let response = wire.response().await;
        assert_eq!((response.status(), response.u16(0x0100)), (expected, Some(0x8100)));
        assert_eq!(response.u16(0x1002), Some(u16::from(event_type)));
    }
    assert_eq!(wire.release().await, Heard::ReleaseConfirmed);
}
