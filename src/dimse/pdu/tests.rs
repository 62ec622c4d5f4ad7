//! Tables A and B of the threat model, as far as they are of this layer: each hostile opening,
//! and the A-ABORT that it is answered with.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::*;

const MAX_PDU: u32 = 128 << 10;
const SOON: Duration = Duration::from_secs(10);

async fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (listener.accept().await.unwrap().0, peer)
}

async fn acceptor() -> (PduStream, TcpStream) {
    let (ours, peer) = connection().await;
    (PduStream::new(ours, MAX_PDU).unwrap(), peer)
}

/// An acceptor that has sent A-ASSOCIATE-AC, which the peer has read.
async fn established() -> (PduStream, TcpStream) {
    let (mut pdus, mut peer) = acceptor().await;
    let accept = AssociateAccept { echoed: vec![b' '; 64], ..AssociateAccept::default() };
    pdus.send_accept(&accept).await.unwrap();
    let mut answer = vec![0; HEADER + accept.encode().len()];
    peer.read_exact(&mut answer).await.unwrap();
    (pdus, peer)
}

fn pdu(pdu_type: u8, body: &[u8]) -> Vec<u8> {
    [&[pdu_type, 0][..], &(body.len() as u32).to_be_bytes(), body].concat()
}

fn value(context: u8, control: u8, data: &[u8]) -> Vec<u8> {
    [&(data.len() as u32 + 2).to_be_bytes()[..], &[context, control], data].concat()
}

fn request() -> Vec<u8> {
    pdu(1, &AssociateRequest { protocol_version: 1, ..AssociateRequest::default() }.encode())
}

/// What comes of these bytes, with the stream left open.
async fn received(mut stream: (PduStream, TcpStream), bytes: &[u8]) -> Result<Incoming, PduError> {
    stream.1.write_all(bytes).await.unwrap();
    timeout(SOON, stream.0.receive()).await.expect("the stream waits for more")
}

async fn fault(stream: (PduStream, TcpStream), bytes: &[u8]) -> (u8, u8) {
    match received(stream, bytes).await {
        Err(PduError::Protocol { abort, .. }) => (abort.source, abort.reason),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_http_request_is_recognised_by_its_first_bytes_in_little_memory() {
    let (mut pdus, mut peer) = acceptor().await;
    peer.write_all(b"GET / ").await.unwrap();
    let error = timeout(SOON, pdus.receive()).await.unwrap().unwrap_err();
    assert_eq!(error.abort_reason(), Some(AbortReason::SERVICE_USER));
    assert!(pdus.buffered_capacity() < 64 << 10);
}

#[tokio::test]
async fn before_an_association_every_fault_is_answered_0_0() {
    let cut_short = pdu(1, &[&[0, 1, 0, 0][..], &[b' '; 64], &[0x10, 0, 0xFF, 0xFF, b'1']].concat());
    let openings = [
        [1, 0, 0xFF, 0xFF, 0xFF, 0xFF].to_vec(),
        [1, 0, 0, 0x10, 0, 1].to_vec(),
        pdu(4, &value(1, 3, b"early")),
        pdu(5, &[0; 4]),
        pdu(2, &[0; 68]),
        pdu(0x77, b"unknown"),
        cut_short,
        pdu(1, &[0; 10]),
    ];
    for bytes in openings {
        assert_eq!(fault(acceptor().await, &bytes).await, (0, 0), "{bytes:?}");
    }
}

#[tokio::test]
async fn in_an_association_each_fault_has_its_reason() {
    let faults = [
        ((2, 2), request()),
        ((2, 2), pdu(2, &[0; 68])),
        ((2, 1), pdu(0x77, b"unknown")),
        ((2, 1), b"GET / HTTP/1.1\r\n".to_vec()),
        ((2, 6), [&[4, 0][..], &(MAX_PDU + 1).to_be_bytes()].concat()),
        ((2, 6), [4, 0, 0xFF, 0xFF, 0xFF, 0xFF].to_vec()),
        ((2, 6), [5, 0, 0xFF, 0xFF, 0xFF, 0xFF].to_vec()),
        ((2, 6), pdu(5, b"")),
    ];
    for (expected, bytes) in faults {
        assert_eq!(fault(established().await, &bytes).await, expected, "{bytes:?}");
    }
}

#[tokio::test]
async fn broken_presentation_data_values_are_answered_2_6() {
    let good = value(1, 3, b"data");
    let lengths = [0, 1, 7, 0xFFFF_FFFF_u32];
    let mut bodies: Vec<Vec<u8>> =
        lengths.iter().map(|length| [&good[..], &length.to_be_bytes(), &[1, 3], b"data"].concat()).collect();
    bodies.extend([Vec::new(), good[..3].to_vec(), good[..5].to_vec()]);
    for body in bodies {
        assert_eq!(fault(established().await, &pdu(4, &body)).await, (2, 6), "{body:?}");
    }
}

#[tokio::test]
async fn several_values_of_one_pdu_come_apart_in_order() {
    let body = [value(1, 1, b"com"), value(1, 3, b"mand"), value(3, 0, b""), value(3, 2, b"data")].concat();
    let Incoming::Data(values) = received(established().await, &pdu(4, &body)).await.unwrap() else {
        panic!()
    };
    let value = |presentation_context_id, is_command, is_last, data| DataValue {
        presentation_context_id,
        is_command,
        is_last,
        data: Bytes::from_static(data),
    };
    let expected = [
        value(1, true, false, b"com"),
        value(1, true, true, b"mand"),
        value(3, false, false, b""),
        value(3, false, true, b"data"),
    ];
    assert_eq!(values.collect::<Vec<_>>(), expected);
}

/// PS3.8 §E.2: they are never checked by the receiver.
#[tokio::test]
async fn reserved_bits_of_a_message_control_header_mean_nothing() {
    for (control, is_command, is_last) in [(0xFF, true, true), (0x80, false, false), (0x05, true, false)] {
        let incoming = received(established().await, &pdu(4, &value(1, control, b"data"))).await;
        let Ok(Incoming::Data(mut values)) = incoming else { panic!("{incoming:?}") };
        let value = values.next().unwrap();
        assert_eq!((value.is_command, value.is_last, &value.data[..]), (is_command, is_last, &b"data"[..]));
    }
}

#[tokio::test]
async fn pdus_arrive_whole_whatever_the_segments() {
    let (mut pdus, mut peer) = established().await;
    let body = value(1, 2, &[7; 70_000]);
    let bytes = [pdu(4, &body), pdu(4, &body), pdu(5, &[0; 4])].concat();
    let sender = tokio::spawn(async move {
        for segment in bytes.chunks(4999) {
            peer.write_all(segment).await.unwrap();
        }
        peer
    });
    for _ in 0..2 {
        let Incoming::Data(mut values) = pdus.receive().await.unwrap() else { panic!() };
        assert_eq!(values.next().unwrap().data, [7; 70_000][..]);
        assert!(values.next().is_none());
    }
    assert!(matches!(pdus.receive().await, Ok(Incoming::Other(Pdu::ReleaseRQ))));
    drop(sender.await.unwrap());
    assert!(matches!(pdus.receive().await, Err(PduError::Closed)));
}

#[tokio::test]
async fn receiving_can_be_cancelled_at_every_byte() {
    let (mut pdus, mut peer) = established().await;
    for byte in pdu(4, &value(1, 3, b"in pieces")) {
        assert!(timeout(Duration::from_millis(1), pdus.receive()).await.is_err());
        peer.write_all(&[byte]).await.unwrap();
    }
    assert!(matches!(timeout(SOON, pdus.receive()).await, Ok(Ok(Incoming::Data(_)))));
}

#[tokio::test]
async fn an_idle_association_holds_no_buffer_and_a_declared_length_none_either() {
    let (mut pdus, mut peer) = established().await;
    peer.write_all(&pdu(4, &value(1, 2, &[7; 100_000]))).await.unwrap();
    assert!(matches!(pdus.receive().await, Ok(Incoming::Data(_))));
    assert!(timeout(Duration::from_millis(20), pdus.receive()).await.is_err());
    assert_eq!(pdus.buffered_capacity(), 0);
    let (mut pdus, mut peer) = acceptor().await;
    peer.write_all(&[1, 0, 0, 0x0F, 0xFF, 0xFF, 0, 1]).await.unwrap();
    assert!(timeout(Duration::from_millis(20), pdus.receive()).await.is_err());
    assert!(pdus.buffered_capacity() < 64 << 10);
}

#[tokio::test]
async fn a_peer_that_stops_reading_does_not_hold_us_and_gets_no_abort_into_its_data() {
    let (mut pdus, mut peer) = established().await;
    pdus.set_write_limit(Duration::from_millis(100));
    let large = DataValue {
        presentation_context_id: 1,
        is_command: false,
        is_last: true,
        data: vec![7; 64 << 20].into(),
    };
    assert!(matches!(pdus.send_data(&[large]).await, Err(PduError::TimedOut)));
    timeout(SOON, pdus.abort(AbortReason::SERVICE_USER)).await.unwrap();
    drop(pdus);
    let mut arrived = Vec::new();
    peer.read_to_end(&mut arrived).await.unwrap();
    assert!(arrived.len() > 12 && arrived[12..].iter().all(|byte| *byte == 7));
}

#[tokio::test]
async fn an_abort_is_sent_and_the_close_awaited_no_longer_than_allowed() {
    let (mut pdus, mut peer) = established().await;
    pdus.set_close_limit(Duration::from_millis(100));
    timeout(SOON, pdus.abort(AbortReason::INVALID_PARAMETER)).await.unwrap();
    let mut abort = Vec::new();
    peer.read_to_end(&mut abort).await.unwrap();
    assert_eq!(abort, [7, 0, 0, 0, 0, 4, 0, 0, 2, 6]);
}

#[tokio::test]
async fn a_rejection_is_read_with_reserved_values_too() {
    let (mut pdus, peer) = acceptor().await;
    let mut requestor = PduStream::requesting(peer, MAX_PDU).unwrap();
    pdus.set_close_limit(Duration::from_millis(50));
    pdus.reject(1, 9, 200).await;
    let incoming = requestor.receive().await.unwrap();
    assert!(matches!(incoming, Incoming::AssociateReject { result: 1, source: 9, reason: 200 }));
}

#[tokio::test]
async fn an_abort_with_a_reserved_reason_is_an_abort() {
    let incoming = received(established().await, &pdu(7, &[0, 0, 2, 99])).await;
    assert!(matches!(incoming, Ok(Incoming::Other(Pdu::AbortRQ { .. }))));
}
