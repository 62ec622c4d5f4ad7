//! Places, rates and timers of the door, and how it stops.

use std::time::{Duration, Instant};

use super::door;
use super::wire::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_or_dripping_connection_is_closed_when_artim_expires() {
    let door = door::open("limits.artim = \"400ms\"").await;
    let started = Instant::now();
    let mut silent = Wire::connect(door.address).await;
    assert_eq!(silent.hear().await, Heard::Closed, "closed, not aborted");
    assert!(started.elapsed() >= Duration::from_millis(400));

    let started = Instant::now();
    let dripping = Wire::connect(door.address).await;
    let (mut reads, mut writes) = dripping.io.into_split();
    let dripped = tokio::spawn(async move {
        for byte in Request::verification().pdu() {
            use tokio::io::AsyncWriteExt;
            if writes.write_all(&[byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let mut heard = Vec::new();
    let _ = tokio::io::AsyncReadExt::read_to_end(&mut reads, &mut heard).await;
    assert!(heard.is_empty() && started.elapsed() < Duration::from_secs(4), "one timer for the whole");
    dripped.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_stays_after_its_rejection_is_closed() {
    let door = door::open("limits.artim = \"300ms\"").await;
    let mut wire = Wire::connect(door.address).await;
    wire.send(&Request::verification().called(b"OTHER").pdu()).await;
    assert_eq!(wire.hear().await, Heard::Rejected([1, 1, 7]));
    assert_eq!(wire.hear().await, Heard::Closed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_association_is_aborted() {
    let door = door::open("limits.dimse_idle = \"300ms\"").await;
    let mut wire = Wire::associate(door.address, &[(VERIFICATION, &[IMPLICIT])]).await;
    assert_eq!(wire.hear().await, Heard::Aborted([0, 0]));
}

async fn answer(door: &door::Door, request: &Request) -> (Wire, Heard) {
    let mut wire = Wire::connect(door.address).await;
    wire.send(&request.pdu()).await;
    let heard = wire.hear().await;
    (wire, heard)
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_the_limit_of_the_node_associations_are_rejected_until_one_ends() {
    let door = door::open("limits.associations = 2").await;
    let request = Request::verification();
    let (_first, heard) = answer(&door, &request).await;
    assert!(matches!(heard, Heard::Accepted(_)));
    let (second, heard) = answer(&door, &request).await;
    assert!(matches!(heard, Heard::Accepted(_)));
    assert_eq!(answer(&door, &request).await.1, Heard::Rejected([2, 3, 2]));
    // Without release or abort: the place is given back all the same.
    drop(second);
    let deadline = Instant::now() + Duration::from_secs(20);
    while answer(&door, &request).await.1 == Heard::Rejected([2, 3, 2]) {
        assert!(Instant::now() < deadline, "the place is never given back");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_peer_can_t_take_the_places_of_others() {
    let door = door::open(
        r#"
        limits.associations_per_peer_loopback = 1
        [[dicom.peers]]
        ae_title = "CT_1"
        "#,
    )
    .await;
    let (_ours, heard) = answer(&door, &Request::verification()).await;
    assert!(matches!(heard, Heard::Accepted(_)));
    assert_eq!(answer(&door, &Request::verification()).await.1, Heard::Rejected([2, 3, 1]));
    let (_theirs, heard) = answer(&door, &Request::verification().calling(b"UNLISTED_1")).await;
    assert!(matches!(heard, Heard::Accepted(_)));
    // Another invented title at the same address is the same holder.
    let (_, heard) = answer(&door, &Request::verification().calling(b"UNLISTED_2")).await;
    assert_eq!(heard, Heard::Rejected([2, 3, 1]));
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_faster_than_allowed_are_rejected_as_congestion() {
    let door = door::open("limits.connections_per_second = 5").await;
    let mut congested = false;
    for _ in 0..50 {
        match answer(&door, &Request::verification()).await.1 {
            Heard::Rejected(code) => {
                assert_eq!(code, [2, 3, 1]);
                congested = true;
            }
            Heard::Accepted(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(congested);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_room_senders_are_rejected_and_everybody_else_is_served() {
    let door = door::open_until("", 0.0).await;
    let sender = Request::verification().context(3, CT, &[EXPLICIT]);
    assert_eq!(answer(&door, &sender).await.1, Heard::Rejected([2, 3, 1]));
    let (mut wire, heard) = answer(&door, &Request::verification().context(3, STUDY_ROOT, &[EXPLICIT])).await;
    assert!(matches!(heard, Heard::Accepted(_)));
    assert_eq!(wire.echo(1).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_node_finishes_what_is_open_and_takes_nothing_new() {
    let door = door::open("").await;
    let mut wire = Wire::associate(door.address, &[(VERIFICATION, &[IMPLICIT])]).await;
    let mut staying = Wire::associate(door.address, &[(VERIFICATION, &[IMPLICIT])]).await;
    door.shutdown.soft.cancel();
    let deadline = Instant::now() + Duration::from_secs(20);
    while tokio::net::TcpStream::connect(door.address).await.is_ok() {
        assert!(Instant::now() < deadline, "still accepting");
    }
    assert_eq!(wire.echo(1).await, 0);
    assert_eq!(wire.release().await, Heard::ReleaseConfirmed);
    drop(wire);
    assert!(!door.serving.is_finished(), "an open association is waited for");
    door.shutdown.hard.cancel();
    assert_eq!(staying.hear().await, Heard::Aborted([0, 0]));
    drop(staying);
    door::until("the door closes", || door.serving.is_finished()).await;
}
