//! The spool as its users see it: what was committed is there, also after a restart.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;

use super::log_id::LogId;
use super::*;
use crate::clock::ManualClock;
use crate::dicom::{Attributes, InstanceKey};

const PREFIX: Bytes = Bytes::from_static(b"preamble and file meta");

struct Bench {
    dir: TempDir,
    clock: Arc<ManualClock>,
    options: SpoolOptions,
}

impl Bench {
    fn new() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let options = SpoolOptions {
            dir: dir.path().join("spool"),
            inline_limit: 64 << 10,
            segment_size: 512 << 10,
            retention: Duration::from_secs(60),
            high_watermark: 0.999,
            critical_watermark: 1.0,
            sync: true,
            any_file_system: true,
        };
        Bench { dir, clock: Arc::default(), options }
    }

    fn first_segment(&self) -> std::path::PathBuf {
        self.dir.path().join("spool/segments/segment-00000000.log")
    }

    fn log(&self) -> LogId {
        LogId::read(&self.dir.path().join("spool/segments")).unwrap().unwrap()
    }

    fn open(&self) -> Spool {
        Spool::start(self.options.clone(), self.clock.clone()).unwrap()
    }
}

fn entry(uid: &str) -> SpoolEntry {
    let parse = |text: &str| Uid::parse(text).unwrap();
    SpoolEntry {
        id: EntryId(0),
        key: InstanceKey {
            study_instance_uid: parse("1.2"),
            series_instance_uid: parse("1.2.3"),
            sop_instance_uid: parse(uid),
        },
        sop_class_uid: parse("1.2.840.10008.5.1.4.1.1.7"),
        transfer_syntax_uid: "1.2.840.10008.1.2.1".into(),
        data_set_sha256: Digest([0; 32]),
        data_set_length: 0,
        prefix_length: 0,
        origin: Origin::Stow { account: "test".into(), peer: None },
        received_at: Millis(0),
        attributes: {
            let mut attributes = Attributes::default();
            attributes.set(dicom_dictionary_std::tags::MODALITY, "OT");
            attributes
        },
        rule_set: 0,
        conflict_with: None,
    }
}

fn policies() -> HashMap<String, DeliveryPolicy> {
    HashMap::from([("pacs".to_owned(), DeliveryPolicy { required: true, success_is_proof: false })])
}

async fn deliver(spool: &Spool, entry: EntryId, outcome: Outcome) {
    let routed = Fact::Routed { entry, destinations: vec!["pacs".into()], at: Millis(1) };
    let settled = Fact::Delivery { entry, destination: "pacs".into(), outcome, at: Millis(2) };
    spool.append(vec![routed, settled], Durability::Synced).await.unwrap();
}

fn content(seed: u8, length: usize) -> Bytes {
    (0..length).map(|at| seed.wrapping_add((at % 251) as u8)).collect::<Vec<u8>>().into()
}

async fn store(spool: &Spool, uid: &str, bytes: Bytes) -> Result<Committed, SpoolError> {
    let mut stage = spool.stage();
    stage.write(bytes).await?;
    let staged = stage.finish().await?;
    spool.commit(entry(uid), PREFIX, staged).await
}

async fn read(spool: &Spool, id: EntryId) -> Bytes {
    let reader = spool.open(id, CheckBy::Sha256).await.unwrap();
    assert!(reader.is_intact().unwrap());
    let mut read = reader.read(0, usize::MAX).unwrap();
    assert_eq!(in_pieces(&reader).await, read);
    assert_eq!(in_pieces(&spool.load(id, CheckBy::Crc32c).await.unwrap()).await, read);
    assert_eq!(read.split_to(PREFIX.len()), PREFIX);
    read
}

async fn in_pieces(reader: &ObjectReader) -> Vec<u8> {
    let mut read = Vec::new();
    while (read.len() as u64) < reader.len() {
        read.extend_from_slice(&reader.read_at(read.len() as u64, 100_000).await.unwrap());
    }
    read
}

async fn until<T>(mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(std::time::Instant::now() < deadline, "did not come about in time");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

mod damage;
mod freeing;
mod rescue;

#[tokio::test(flavor = "multi_thread")]
async fn what_was_committed_is_there_after_a_restart() {
    let bench = Bench::new();
    let spool = bench.open();
    let mut stored = Vec::new();
    for index in 0..50u8 {
        // Some in the log, some in files of their own, over several segments.
        let bytes = content(index, 1000 + usize::from(index) * 2500);
        let committed = store(&spool, &format!("1.2.3.{index}"), bytes.clone()).await.unwrap();
        assert_eq!(committed.verdict, Verdict::New);
        stored.push((committed.id, bytes));
    }
    for (id, bytes) in &stored {
        assert_eq!(read(&spool, *id).await, bytes);
    }
    spool.close();
    drop(spool);

    let spool = bench.open();
    for (id, bytes) in &stored {
        assert_eq!(read(&spool, *id).await, bytes);
    }
    assert_eq!(spool.counts().objects, 50);
    spool.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_queue_is_rebuilt_from_the_log() {
    let bench = Bench::new();
    let spool = bench.open();
    let id = store(&spool, "1.2.3.1", content(1, 3000)).await.unwrap().id;
    let routed = Fact::Routed { entry: id, destinations: vec!["pacs".into()], at: Millis(5) };
    let sent =
        Fact::Delivery { entry: id, destination: "pacs".into(), outcome: Outcome::Sent, at: Millis(6) };
    spool.append(vec![routed, sent], Durability::Synced).await.unwrap();
    spool.close();
    drop(spool);
    std::fs::remove_dir_all(bench.dir.path().join("spool/queue")).unwrap();

    let spool = bench.open();
    assert!(spool.recovery().rebuilt);
    assert_eq!(spool.deliveries_of(id).await.unwrap()[0].state, DeliveryState::Sent);
    assert_eq!(read(&spool, id).await, content(1, 3000));
    spool.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_object_is_held_once_and_another_with_its_uid_is_a_conflict() {
    let bench = Bench::new();
    let spool = bench.open();
    let first = store(&spool, "1.2.3.1", content(1, 3000)).await.unwrap();
    let again = store(&spool, "1.2.3.1", content(1, 3000)).await.unwrap();
    let other = store(&spool, "1.2.3.1", content(2, 3000)).await.unwrap();
    assert_eq!((again.id, again.verdict), (first.id, Verdict::Duplicate(first.id)));
    assert_eq!(other.verdict, Verdict::Conflict(first.id));
    assert_eq!(read(&spool, first.id).await, content(1, 3000));
    assert_eq!(read(&spool, other.id).await, content(2, 3000));
    assert_eq!(spool.entry(other.id).await.unwrap().conflict_with, Some(first.id));
    spool.close();
}

/// Modality and pixel data, by hand.
fn explicit(pixels: &[u8]) -> Bytes {
    let length = (pixels.len() as u32).to_le_bytes();
    [b"\x08\0\x60\0CS\x02\0CT\xE0\x7F\x10\0OW\0\0", &length[..], pixels].concat().into()
}

fn implicit(pixels: &[u8]) -> Bytes {
    let length = (pixels.len() as u32).to_le_bytes();
    [b"\x08\0\x60\0\x02\0\0\0CT\xE0\x7F\x10\0", &length[..], pixels].concat().into()
}

async fn store_in(spool: &Spool, syntax: &str, bytes: Bytes) -> Committed {
    let mut stage = spool.stage();
    stage.write(bytes).await.unwrap();
    let entry = SpoolEntry { transfer_syntax_uid: syntax.to_owned(), ..entry("1.2.3.1") };
    spool.commit(entry, PREFIX, stage.finish().await.unwrap()).await.unwrap()
}

async fn until_freed(spool: &Spool, id: EntryId) {
    until(async || matches!(spool.open(id, CheckBy::Sha256).await, Err(SpoolError::Freed(_))).then_some(()))
        .await;
    spool.applied(spool.durable_position()).await.unwrap();
}

const IMPLICIT: &str = "1.2.840.10008.1.2";
const EXPLICIT: &str = "1.2.840.10008.1.2.1";

#[tokio::test(flavor = "multi_thread")]
async fn the_same_object_in_another_transfer_syntax_is_freed_as_a_duplicate() {
    let bench = Bench::new();
    let spool = bench.open();
    let pixels = content(3, 100);
    let first = store_in(&spool, EXPLICIT, explicit(&pixels)).await;
    let second = store_in(&spool, IMPLICIT, implicit(&pixels)).await;
    assert_eq!(second.verdict, Verdict::Conflict(first.id), "nobody has looked yet");
    until_freed(&spool, second.id).await;
    assert_eq!((spool.counts().objects, spool.counts().conflicts), (1, 0));
    assert_eq!(read(&spool, first.id).await, explicit(&pixels));
    spool.close();
    drop(spool);
    std::fs::remove_dir_all(bench.dir.path().join("spool/queue")).unwrap();

    let spool = bench.open();
    assert_eq!((spool.counts().objects, spool.counts().conflicts), (1, 0));
    assert_eq!(read(&spool, first.id).await, explicit(&pixels));
    spool.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_duplicate_in_another_transfer_syntax_gives_its_file_back() {
    let bench = Bench::new();
    let spool = bench.open();
    let pixels = content(3, 3_000_000);
    let first = store_in(&spool, EXPLICIT, explicit(&pixels)).await;
    let second = store_in(&spool, IMPLICIT, implicit(&pixels)).await;
    until_freed(&spool, second.id).await;
    assert_eq!(std::fs::read_dir(bench.dir.path().join("spool/large")).unwrap().count(), 1);
    assert_eq!(read(&spool, first.id).await, explicit(&pixels));
    spool.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_that_differs_remains_one_and_says_why_also_after_a_rebuild() {
    let bench = Bench::new();
    let spool = bench.open();
    let first = store_in(&spool, EXPLICIT, explicit(&[1, 2, 3, 4])).await;
    let second = store_in(&spool, IMPLICIT, implicit(&[1, 2, 3, 5])).await;
    let finding =
        until(async || spool.state(second.id).await.ok().and_then(|state| state.finding.clone())).await;
    assert_eq!(finding, Finding::Different { at: "(7FE0,0010)".into() });
    spool.close();
    drop(spool);
    std::fs::remove_dir_all(bench.dir.path().join("spool/queue")).unwrap();

    let spool = bench.open();
    assert_eq!(spool.state(second.id).await.unwrap().finding, Some(finding));
    assert_eq!(spool.counts().conflicts, 1);
    assert_eq!(read(&spool, first.id).await, explicit(&[1, 2, 3, 4]));
    assert_eq!(read(&spool, second.id).await, implicit(&[1, 2, 3, 5]));
    spool.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_freed_for_the_sake_of_an_object_that_is_damaged() {
    let bench = Bench::new();
    let spool = bench.open();
    let pixels = content(3, 1000);
    store_in(&spool, EXPLICIT, explicit(&pixels)).await;
    // What the disk holds now equals what comes next, and is not what was acknowledged.
    let path = bench.dir.path().join("spool/segments/segment-00000000.log");
    let bytes = std::fs::read(&path).unwrap();
    let needle = &pixels[..100];
    let at = bytes.windows(100).position(|window| window == needle).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0xEE], at as u64).unwrap();
    let mut other = pixels.to_vec();
    other[0] = 0xEE;
    let second = store_in(&spool, IMPLICIT, implicit(&other)).await;
    let third = store_in(&spool, EXPLICIT, explicit(&[1, 2])).await;
    // In the same syntax nothing need be read. Compared in order: when the third has its finding, the second was looked at.
    until(async || spool.state(third.id).await.ok().and_then(|state| state.finding.clone())).await;
    assert_eq!(spool.state(second.id).await.unwrap().finding, None);
    assert_eq!(read(&spool, second.id).await, implicit(&other));
    spool.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_copies_of_one_object_are_acknowledged_and_held_once() {
    let bench = Bench::new();
    let spool = bench.open();
    let copies = (0..32).map(|_| {
        let spool = spool.clone();
        tokio::spawn(async move { store(&spool, "1.2.3.1", content(1, 3000)).await.unwrap() })
    });
    let mut new = 0;
    let mut ids = std::collections::HashSet::new();
    for copy in futures_util::future::join_all(copies).await {
        let committed = copy.unwrap();
        new += usize::from(committed.verdict == Verdict::New);
        ids.insert(committed.id);
    }
    assert_eq!((new, ids.len()), (1, 1));
    spool.close();
}

/// Whoever waits until a follower has come to the end must not wait for a fact that never was.
#[test]
fn an_empty_log_ends_where_followers_begin() {
    let bench = Bench::new();
    for _ in 0..2 {
        let spool = bench.open();
        assert_eq!(spool.durable_position(), LogPosition::default());
        spool.close();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn followers_see_facts_in_order_and_go_on_where_they_stopped() {
    let bench = Bench::new();
    let spool = bench.open();
    for index in 0..20 {
        store(&spool, &format!("1.2.3.{index}"), content(index, 60_000)).await.unwrap();
    }
    let mut position = LogPosition::default();
    let mut seen = Vec::new();
    while seen.len() < 20 {
        for followed in spool.follow(position, 7).await.unwrap() {
            position = followed.after;
            let Fact::Received(entry) = &*followed.fact else { panic!("only objects were stored") };
            seen.push(entry.id);
        }
    }
    assert!(seen.is_sorted());
    assert_eq!(position, spool.durable_position());
    spool.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_log_could_not_give_back_is_not_acknowledged() {
    let bench = Bench::new();
    let spool = bench.open();
    let mut large = entry("1.2.3.1");
    large.attributes.set(dicom_dictionary_std::tags::PATIENT_COMMENTS, "\\".repeat(2 << 20));
    let mut stage = spool.stage();
    stage.write(content(1, 3000)).await.unwrap();
    let refused = spool.commit(large, PREFIX, stage.finish().await.unwrap()).await;
    assert!(matches!(refused, Err(SpoolError::Unwritable(_))));
    store(&spool, "1.2.3.1", content(1, 3000)).await.unwrap();
    spool.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_is_kept_out() {
    let bench = Bench::new();
    let spool = bench.open();
    let second = Spool::start(bench.options.clone(), bench.clock.clone());
    assert!(matches!(second, Err(SpoolError::Locked(_))));
    spool.close();
}
