//! Messages over loopback connections, the peer being a raw socket where it misbehaves.

use futures_util::stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::*;
use crate::dicom::Uid;
use crate::dicom::status::Status;
use crate::dimse::associate::AssociateAccept;
use crate::dimse::pdu::AbortReason;

const SOON: Duration = Duration::from_secs(10);

async fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (listener.accept().await.unwrap().0, peer)
}

fn limits(max_outgoing_pdu: u32, idle: Duration) -> MessageLimits {
    MessageLimits { presentation_context_ids: vec![1, 3], max_outgoing_pdu, idle }
}

/// An acceptor's stream and the raw socket of its peer, with the association established.
async fn acceptor(max_outgoing_pdu: u32, idle: Duration) -> (MessageStream, TcpStream) {
    let (ours, mut peer) = connection().await;
    let mut pdus = PduStream::new(ours, 128 << 10).unwrap();
    let accept = AssociateAccept { echoed: vec![b' '; 64], ..AssociateAccept::default() };
    pdus.send_accept(&accept).await.unwrap();
    pdus.set_close_limit(Duration::from_secs(1));
    let mut answer = vec![0; 6 + accept.encode().len()];
    peer.read_exact(&mut answer).await.unwrap();
    (MessageStream::new(pdus, limits(max_outgoing_pdu, idle)), peer)
}

/// Acceptor and requestor, both ours.
async fn both() -> (MessageStream, MessageStream) {
    let (ours, peer) = connection().await;
    let mut pdus = PduStream::new(ours, 128 << 10).unwrap();
    let mut requestor = PduStream::requesting(peer, 128 << 10).unwrap();
    let accept = AssociateAccept { echoed: vec![b' '; 64], ..AssociateAccept::default() };
    pdus.send_accept(&accept).await.unwrap();
    assert!(matches!(requestor.receive().await, Ok(Incoming::AssociateAccept(_))));
    (MessageStream::new(pdus, limits(4096, SOON)), MessageStream::new(requestor, limits(4096, SOON)))
}

fn value(context: u8, control: u8, data: &[u8]) -> Vec<u8> {
    [&(data.len() as u32 + 2).to_be_bytes()[..], &[context, control], data].concat()
}

fn pdu(values: &[Vec<u8>]) -> Vec<u8> {
    let body = values.concat();
    [&[4, 0][..], &(body.len() as u32).to_be_bytes(), &body].concat()
}

fn store() -> Command {
    let uid = |text| Uid::parse(text).unwrap();
    Command::c_store_rq(7, &uid("1.2.840.10008.5.1.4.1.1.2"), &uid("1.2.3"))
}

fn command_of(received: Received) -> Command {
    match received {
        Received::Command { command, .. } => command,
        other => panic!("{other:?}"),
    }
}

async fn next(messages: &mut MessageStream) -> Command {
    command_of(timeout(SOON, messages.next()).await.unwrap().unwrap())
}

/// What these bytes are answered with, read up to the fault and through its data set.
async fn fault(bytes: &[u8]) -> AbortReason {
    let (mut messages, mut peer) = acceptor(16384, SOON).await;
    peer.write_all(bytes).await.unwrap();
    let reading = async {
        loop {
            messages.next().await?;
            while messages.next_fragment().await?.is_some() {}
        }
    };
    let error: Result<(), PduError> = timeout(SOON, reading).await.unwrap();
    error.unwrap_err().abort_reason().unwrap()
}

#[tokio::test]
async fn a_command_in_one_byte_values_across_pdus_assembles() {
    let (mut messages, mut peer) = acceptor(16384, SOON).await;
    let bytes = store().encode();
    let mut values: Vec<Vec<u8>> = bytes.iter().map(|byte| value(1, 1, &[*byte])).collect();
    values.last_mut().unwrap()[5] = 3;
    values.extend([value(1, 0, b"da"), value(1, 0, b""), value(1, 2, b"ta")]);
    let wire: Vec<u8> = values.chunks(3).flat_map(pdu).collect();
    let sender = tokio::spawn(async move {
        for byte in wire {
            peer.write_all(&[byte]).await.unwrap();
        }
        peer
    });
    assert_eq!(next(&mut messages).await, store());
    assert_eq!(messages.next_fragment().await.unwrap().unwrap(), b"da"[..]);
    assert_eq!(messages.next_fragment().await.unwrap().unwrap(), b"ta"[..]);
    assert!(messages.next_fragment().await.unwrap().is_none());
    drop(sender.await.unwrap());
    assert!(matches!(messages.next().await, Err(PduError::Closed)));
}

#[tokio::test]
async fn an_unread_data_set_is_passed_over() {
    let (mut messages, mut peer) = acceptor(16384, SOON).await;
    let first = [value(1, 3, &store().encode()), value(1, 2, &[7; 1000])];
    let second = value(3, 3, &Command::c_echo_rq(8).encode());
    peer.write_all(&[pdu(&first), pdu(&[second])].concat()).await.unwrap();
    assert_eq!(next(&mut messages).await, store());
    assert_eq!(next(&mut messages).await, Command::c_echo_rq(8));
}

#[tokio::test]
async fn faults_of_messages_are_answered_2_6() {
    let command = store().encode();
    let foreign = [&command[..], &[8, 0, 0x18, 0, 0, 0, 0, 0]].concat();
    let echo = Command::c_echo_rq(1).encode();
    let faults = [
        ("unaccepted context", pdu(&[value(5, 3, &command)])),
        ("over 16 KiB", pdu(&[value(1, 1, &[0; 16384]), value(1, 3, &[0; 2])])),
        ("other group", pdu(&[value(1, 3, &foreign)])),
        ("not announced", pdu(&[value(1, 3, &echo), value(1, 2, b"data")])),
        ("data first", pdu(&[value(1, 2, b"data")])),
        ("other context", pdu(&[value(1, 3, &command), value(3, 2, b"data")])),
        ("command within data", pdu(&[value(1, 3, &command), value(1, 0, b"d"), value(1, 3, &echo)])),
        ("command on two contexts", pdu(&[value(1, 1, &command[..8]), value(3, 3, &command[8..])])),
    ];
    for (name, bytes) in faults {
        assert_eq!(fault(&bytes).await, AbortReason::INVALID_PARAMETER, "{name}");
    }
}

#[tokio::test]
async fn empty_fragments_without_end_run_into_the_time_limit() {
    let (mut messages, mut peer) = acceptor(16384, Duration::from_millis(300)).await;
    let (mut reader, mut writer) = peer.split();
    let mut nowhere = Vec::new();
    let flood = async {
        writer.write_all(&pdu(&[value(1, 3, &store().encode())])).await.unwrap();
        let empty = pdu(&vec![value(1, 0, b""); 1000]);
        while writer.write_all(&empty).await.is_ok() {}
    };
    let serve = async {
        assert_eq!(command_of(messages.next().await.unwrap()), store());
        let result = messages.next_fragment().await;
        assert!(matches!(result, Err(PduError::TimedOut)), "{result:?}");
        drop(messages);
    };
    let all = async { tokio::join!(flood, serve, reader.read_to_end(&mut nowhere)) };
    let _ = timeout(SOON, all).await.expect("the flood goes on");
}

#[tokio::test]
async fn silence_runs_into_the_time_limit_but_slow_progress_does_not() {
    const IDLE: Duration = Duration::from_millis(1500);
    const FRAGMENTS: u32 = 5;
    let (mut messages, mut peer) = acceptor(16384, IDLE).await;
    let sender = tokio::spawn(async move {
        peer.write_all(&pdu(&[value(1, 3, &store().encode())])).await.unwrap();
        // Slower in all than the limit, but not in any one step.
        let mut pace = tokio::time::interval(IDLE / (FRAGMENTS - 1));
        for _ in 0..FRAGMENTS {
            pace.tick().await;
            peer.write_all(&pdu(&[value(1, 0, b"slow")])).await.unwrap();
        }
        peer
    });
    assert_eq!(next(&mut messages).await, store());
    for _ in 0..FRAGMENTS {
        assert_eq!(messages.next_fragment().await.unwrap().unwrap(), b"slow"[..]);
    }
    let peer = sender.await.unwrap();
    assert!(matches!(messages.next_fragment().await, Err(PduError::TimedOut)));
    drop(peer);
}

#[tokio::test]
async fn no_outgoing_pdu_is_longer_than_the_peer_takes() {
    for announced in [0, 1, 16, 128, 4096, 16384, u32::MAX] {
        let max = outgoing_pdu_length(announced);
        let (mut messages, mut peer) = acceptor(max, SOON).await;
        let data: Vec<u8> = (0..100_000_u32).map(|n| n as u8).collect();
        let expected = data.clone();
        let sending = async move {
            messages.send(1, &store(), Some(&data)).await.unwrap();
            let chunks = data.chunks(777).map(|chunk| Ok(Bytes::copy_from_slice(chunk)));
            let mut chunks = std::pin::pin!(stream::iter(chunks.collect::<Vec<_>>()));
            messages.send_streamed(1, &store(), chunks.as_mut()).await.unwrap();
        };
        let reading = async {
            let (mut data, mut ends) = (Vec::new(), 0);
            while ends < 4 {
                let mut header = [0; 6];
                peer.read_exact(&mut header).await.unwrap();
                let length = u32::from_be_bytes([header[2], header[3], header[4], header[5]]);
                assert!(announced < 16 || length <= announced, "{length} of {announced}");
                assert!(length <= 128 << 10);
                let mut body = vec![0; length as usize];
                peer.read_exact(&mut body).await.unwrap();
                assert_eq!(body.len() % 2, 0);
                ends += usize::from(body[5] & 2 != 0);
                if body[5] & 1 == 0 {
                    data.extend_from_slice(&body[6..]);
                }
            }
            data
        };
        let ((), data) = timeout(SOON, async { tokio::join!(sending, reading) }).await.unwrap();
        assert!(data == expected.repeat(2), "{announced}");
    }
}

#[tokio::test]
async fn a_small_message_takes_one_segment_per_side() {
    let (mut messages, mut peer) = acceptor(16384, SOON).await;
    messages.send(1, &store(), Some(b"data")).await.unwrap();
    let mut segment = vec![0; 4096];
    let count = peer.read(&mut segment).await.unwrap();
    assert_eq!(count, 24 + store().encode().len() + 4);
}

#[tokio::test]
async fn a_source_that_fails_leaves_the_data_set_open() {
    let (mut messages, mut peer) = acceptor(16384, SOON).await;
    let chunks = vec![Ok(Bytes::from(vec![7; 40_000])), Err(std::io::Error::other("disk"))];
    let mut chunks = std::pin::pin!(stream::iter(chunks));
    let error = messages.send_streamed(1, &store(), chunks.as_mut()).await.unwrap_err();
    assert!(matches!(error, SendError::Source(_)));
    drop(messages);
    let mut wire = Vec::new();
    peer.read_to_end(&mut wire).await.unwrap();
    let mut ends_of_data = 0;
    let mut rest = &wire[..];
    while !rest.is_empty() {
        ends_of_data += usize::from(rest[11] == 2);
        rest = &rest[6 + u32::from_be_bytes(rest[2..6].try_into().unwrap()) as usize..];
    }
    assert_eq!(ends_of_data, 0);
}

#[tokio::test]
async fn an_abort_while_sending_ends_it() {
    let (mut messages, mut peer) = acceptor(16384, SOON).await;
    peer.write_all(&[7, 0, 0, 0, 0, 4, 0, 0, 0, 0]).await.unwrap();
    peer.readable().await.ok();
    let drain = tokio::spawn(async move { tokio::io::copy(&mut peer, &mut tokio::io::sink()).await });
    let endless = stream::repeat_with(|| Ok(Bytes::from(vec![7; 100_000])));
    let mut endless = std::pin::pin!(endless);
    let sent = timeout(SOON, messages.send_streamed(1, &store(), endless.as_mut())).await.unwrap();
    assert!(matches!(sent, Err(SendError::Pdu(PduError::Aborted))), "{sent:?}");
    drop(messages);
    let _ = drain.await.unwrap();
}

#[tokio::test]
async fn a_cancel_is_seen_between_responses_and_other_messages_keep_their_turn() {
    let (mut messages, mut peer) = acceptor(16384, SOON).await;
    assert!(!messages.poll_cancel(7).await.unwrap());
    let wire = [
        pdu(&[value(1, 3, &Command::c_cancel_rq(6).encode())]),
        pdu(&[value(1, 3, &Command::c_cancel_rq(7).encode())]),
        pdu(&[value(1, 3, &store().encode()), value(1, 2, b"data")]),
    ];
    peer.write_all(&wire.concat()).await.unwrap();
    let polling = async {
        while !messages.poll_cancel(7).await.unwrap() {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, polling).await.unwrap();
    assert!(!messages.poll_cancel(7).await.unwrap());
    assert_eq!(next(&mut messages).await, store());
    assert_eq!(messages.read_data_set(100).await.unwrap().unwrap(), b"data"[..]);
}

#[tokio::test]
async fn a_cancel_of_nothing_is_passed_over_and_a_release_stops_an_operation() {
    let (mut messages, mut peer) = acceptor(16384, SOON).await;
    let cancel = pdu(&[value(1, 3, &Command::c_cancel_rq(6).encode())]);
    let echo = pdu(&[value(1, 3, &Command::c_echo_rq(8).encode())]);
    peer.write_all(&[cancel, echo, vec![5, 0, 0, 0, 0, 4, 0, 0, 0, 0]].concat()).await.unwrap();
    assert_eq!(next(&mut messages).await, Command::c_echo_rq(8));
    let polling = async {
        while !messages.poll_cancel(8).await.unwrap() {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, polling).await.unwrap();
    assert!(matches!(messages.next().await, Ok(Received::ReleaseRequested)));
}

#[tokio::test]
async fn a_data_set_over_the_limit_is_drained() {
    let (mut acceptor, mut requestor) = both().await;
    requestor.send(1, &store(), Some(&[7; 10_000])).await.unwrap();
    requestor.send(1, &Command::c_echo_rq(9), None).await.unwrap();
    assert_eq!(next(&mut acceptor).await, store());
    assert_eq!(acceptor.read_data_set(9_999).await.unwrap(), None);
    assert_eq!(next(&mut acceptor).await, Command::c_echo_rq(9));
    let response = Command::c_echo_rq(9).response(Status::SUCCESS);
    acceptor.send(1, &response, None).await.unwrap();
    assert_eq!(next(&mut requestor).await, response);
}

#[tokio::test]
async fn a_release_is_answered() {
    let (mut acceptor, mut requestor) = both().await;
    let accepting = async {
        assert!(matches!(acceptor.next().await, Ok(Received::ReleaseRequested)));
        acceptor.answer_release().await
    };
    let releasing = async {
        requestor.release(Side::Requestor, SOON).await.unwrap();
        drop(requestor);
    };
    let (accepted, ()) = timeout(SOON, async { tokio::join!(accepting, releasing) }).await.unwrap();
    accepted.unwrap();
}

#[tokio::test]
async fn crossing_releases_both_succeed() {
    let (mut acceptor, mut requestor) = both().await;
    let accepting = async { acceptor.release(Side::Acceptor, SOON).await };
    let releasing = async {
        let released = requestor.release(Side::Requestor, SOON).await;
        drop(requestor);
        released
    };
    let (accepted, released) = timeout(SOON, async { tokio::join!(accepting, releasing) }).await.unwrap();
    accepted.unwrap();
    released.unwrap();
}

#[tokio::test]
async fn a_release_that_nobody_answers_times_out() {
    let (mut messages, peer) = acceptor(16384, SOON).await;
    let released = messages.release(Side::Acceptor, Duration::from_millis(100)).await;
    assert!(matches!(released, Err(PduError::TimedOut)));
    drop(peer);
}
