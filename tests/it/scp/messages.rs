//! DIMSE messages on an established association: faults, verification, storage.

use super::door::{self, Door};
use super::wire::*;

const INSTANCE: &str = "1.2.826.0.1.3680043.2.1143.1";

/// A small object in Explicit VR Little Endian.
fn object(sop_instance: &str) -> Vec<u8> {
    [
        element((0x0008, 0x0016), "UI", SECONDARY_CAPTURE.as_bytes()),
        element((0x0008, 0x0018), "UI", sop_instance.as_bytes()),
        element((0x0008, 0x0060), "CS", b"OT"),
        element((0x0010, 0x0010), "PN", b"Test^Store"),
        element((0x0010, 0x0020), "LO", b"P1"),
        element((0x0020, 0x000D), "UI", b"1.2.3"),
        element((0x0020, 0x000E), "UI", b"1.2.3.4"),
        element((0x0020, 0x0013), "IS", b"1"),
    ]
    .concat()
}

async fn storing(door: &Door) -> Wire {
    Wire::associate(door.address, &[(SECONDARY_CAPTURE, &[EXPLICIT]), (VERIFICATION, &[IMPLICIT])]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_protocol_fault_aborts_the_association_with_its_reason() {
    let door = door::open("").await;
    let echo = echo_rq(1);
    let mut foreign = echo_rq(1);
    foreign[12] = 8;
    let cases: Vec<(&str, Vec<u8>, [u8; 2])> = vec![
        ("a second request", Request::verification().pdu(), [2, 2]),
        ("an unknown PDU type", pdu(0x42, b"1234"), [2, 1]),
        ("P-DATA longer than announced", [4, 0, 0, 2, 0, 1].to_vec(), [2, 6]),
        ("P-DATA without a value", pdu(4, &[]), [2, 6]),
        ("a value of length 0", pdu(4, &[0, 0, 0, 0, 3, 3]), [2, 6]),
        ("a value of length 1", pdu(4, &[0, 0, 0, 1, 3]), [2, 6]),
        ("a value longer than its PDU", pdu(4, &[0, 0, 0, 9, 3, 3, 0, 0]), [2, 6]),
        ("a value of 4 GiB", pdu(4, &[0xFF, 0xFF, 0xFF, 0xFF, 3, 3]), [2, 6]),
        ("a context that was not accepted", message(5, &echo, None), [2, 6]),
        ("a data set that nobody announced", p_data(3, 2, b"1234"), [2, 6]),
        ("a command set over 16 KiB", p_data(3, 1, &[0; 17 << 10]), [2, 6]),
        ("a command set of another group", message(3, &foreign, None), [2, 6]),
        (
            "a response to nothing",
            message(
                3,
                &command(&[(0x0100, &[0x30, 0x80]), (0x0120, &[1, 0]), (0x0800, &[1, 1]), (0x0900, &[0, 0])]),
                None,
            ),
            [2, 6],
        ),
    ];
    for (what, bytes, expected) in cases {
        let mut wire = storing(&door).await;
        wire.send(&bytes).await;
        assert_eq!(wire.hear().await, Heard::Aborted(expected), "{what}");
    }
    assert_eq!(storing(&door).await.echo(3).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_that_is_not_performed_is_unrecognized_and_the_association_lives() {
    let door = door::open("").await;
    let mut wire = storing(&door).await;
    for field in [0x0021u16, 0x0010, 0x0130, 0x7ABC] {
        let request = command(&[
            (0x0002, SECONDARY_CAPTURE.as_bytes()),
            (0x0100, &field.to_le_bytes()),
            (0x0110, &[4, 1]),
            (0x0800, &[0, 0]),
        ]);
        wire.send(&message(1, &request, Some(&[0; 5000]))).await;
        let response = wire.response().await;
        assert_eq!(response.status(), 0x0211);
        assert_eq!((response.u16(0x0100), response.u16(0x0120)), (Some(field | 0x8000), Some(0x0104)));
    }
    wire.send(&message(3, &cancel_rq(99), None)).await;
    assert_eq!(wire.echo(3).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_is_acknowledged_with_what_its_request_said_and_kept_once() {
    let door = door::open("").await;
    let mut wire = storing(&door).await;
    for _ in 0..2 {
        wire.send(&message(1, &store_rq(SECONDARY_CAPTURE, Some(INSTANCE)), Some(&object(INSTANCE)))).await;
        let response = wire.response().await;
        assert_eq!((response.status(), response.u16(0x0100)), (0, Some(0x8001)));
        assert_eq!(response.u16(0x0120), Some(9));
        assert_eq!(response.text(0x0002).as_deref(), Some(SECONDARY_CAPTURE));
        assert_eq!(response.text(0x1000).as_deref(), Some(INSTANCE));
        assert!(response.data_set.is_none());
    }
    assert_eq!(wire.release().await, Heard::ReleaseConfirmed);
    assert_eq!(door.held(INSTANCE).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_in_fragments_of_one_byte_is_the_same_object() {
    let door = door::open("").await;
    let mut wire = storing(&door).await;
    let mut bytes = Vec::new();
    let request = store_rq(SECONDARY_CAPTURE, Some(INSTANCE));
    for (at, byte) in request.iter().enumerate() {
        bytes.extend(p_data(1, if at + 1 == request.len() { 3 } else { 1 }, &[*byte]));
    }
    for byte in object(INSTANCE) {
        bytes.extend(p_data(1, 0, &[byte]));
    }
    bytes.extend(p_data(1, 2, &[]));
    for chunk in bytes.chunks(7) {
        wire.send(chunk).await;
    }
    assert_eq!(wire.response().await.status(), 0);
    assert_eq!(door.held(INSTANCE).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_can_t_be_taken_is_refused_with_its_status_and_the_association_lives() {
    let door = door::open("").await;
    let mut wire = storing(&door).await;
    let object = object(INSTANCE);
    let nested = b"\x08\0\x11\x11SQ\0\0\xFF\xFF\xFF\xFF\xFE\xFF\0\xE0\xFF\xFF\xFF\xFF".repeat(5000);
    let with = |extra: &[u8]| [&object[..], extra].concat();
    let cases: Vec<(&str, Vec<u8>, Vec<u8>, u16)> = vec![
        ("no SOP Instance UID", store_rq(SECONDARY_CAPTURE, None), object.clone(), 0xC000),
        ("an empty SOP Instance UID", store_rq(SECONDARY_CAPTURE, Some("")), object.clone(), 0xC000),
        ("a path", store_rq(SECONDARY_CAPTURE, Some("../../etc/cron.d/x")), object.clone(), 0x0117),
        ("65 characters", store_rq(SECONDARY_CAPTURE, Some(&"1".repeat(65))), object.clone(), 0x0117),
        ("another class than the context's", store_rq(CT, Some(INSTANCE)), object.clone(), 0x0122),
        ("another instance inside", store_rq(SECONDARY_CAPTURE, Some("1.2.9")), object.clone(), 0xA900),
        ("cut inside an element", store_rq(SECONDARY_CAPTURE, Some(INSTANCE)), object[..50].to_vec(), 0xC000),
        ("nested 5,000 deep", store_rq(SECONDARY_CAPTURE, Some(INSTANCE)), with(&nested), 0xC000),
        (
            "a length of 4 GiB",
            store_rq(SECONDARY_CAPTURE, Some(INSTANCE)),
            with(b"\xE0\x7F\x10\0OW\0\0\xF0\xFF\xFF\xFF0123456789"),
            0xC000,
        ),
    ];
    for (what, request, data_set, expected) in cases {
        wire.send(&message(1, &request, Some(&data_set))).await;
        let response = wire.response().await;
        assert_eq!(response.status(), expected, "{what}");
        let comment = response.text(0x0902).expect("an Error Comment");
        assert!((1..=64).contains(&comment.len()) && !comment.contains("Test"), "{what}: {comment}");
    }
    assert_eq!(door.held(INSTANCE).await, 0);
    wire.send(&message(1, &store_rq(SECONDARY_CAPTURE, Some(INSTANCE)), Some(&object))).await;
    assert_eq!(wire.response().await.status(), 0);
    assert_eq!(door.held(INSTANCE).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_without_a_data_set_and_an_echo_with_one_are_failures() {
    let door = door::open("").await;
    let mut wire = storing(&door).await;
    let store = command(&[
        (0x0002, SECONDARY_CAPTURE.as_bytes()),
        (0x0100, &[1, 0]),
        (0x0110, &[1, 0]),
        (0x0800, &[1, 1]),
        (0x1000, INSTANCE.as_bytes()),
    ]);
    wire.send(&message(1, &store, None)).await;
    assert_eq!(wire.response().await.status(), 0x0110);
    let echo = command(&[
        (0x0002, VERIFICATION.as_bytes()),
        (0x0100, &[0x30, 0]),
        (0x0110, &[1, 0]),
        (0x0800, &[0, 0]),
    ]);
    wire.send(&message(3, &echo, Some(b"1234"))).await;
    assert_eq!(wire.response().await.status(), 0x0110);
    assert_eq!(wire.echo(3).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_breaks_off_within_an_object_leaves_nothing_and_frees_its_place() {
    let door = door::open("limits.associations = 1").await;
    let begun = [p_data(1, 3, &store_rq(SECONDARY_CAPTURE, Some(INSTANCE))), p_data(1, 0, &object(INSTANCE))]
        .concat();
    let abort = pdu(7, &[0, 0, 0, 0]);
    let release = pdu(5, &[0, 0, 0, 0]);
    for (what, last, heard) in [
        ("reset", &[][..], None),
        ("abort", &abort[..], Some(Heard::Closed)),
        ("release", &release[..], Some(Heard::Aborted([2, 2]))),
    ] {
        let mut wire = associate_when_there_is_room(&door).await;
        wire.send(&begun).await;
        wire.send(last).await;
        match heard {
            Some(heard) => assert_eq!(wire.hear().await, heard, "{what}"),
            None => wire.io.set_zero_linger().unwrap(),
        }
    }
    let mut wire = associate_when_there_is_room(&door).await;
    assert_eq!(wire.echo(3).await, 0);
    assert_eq!(door.held(INSTANCE).await, 0);
}

/// The place of the last association is given back soon after its end, not before it.
async fn associate_when_there_is_room(door: &Door) -> Wire {
    let request =
        Request::new().context(1, SECONDARY_CAPTURE, &[EXPLICIT]).context(3, VERIFICATION, &[IMPLICIT]);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        let mut wire = Wire::connect(door.address).await;
        wire.send(&request.pdu()).await;
        match wire.hear().await {
            Heard::Accepted(_) => return wire,
            Heard::Rejected([2, 3, 2]) => assert!(std::time::Instant::now() < deadline, "no place"),
            other => panic!("{other:?}"),
        }
    }
}
