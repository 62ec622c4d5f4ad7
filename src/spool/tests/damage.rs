//! What recovery, scrub and readers make of bytes that rot, are torn, or are missing.

use super::*;
use crate::clock::Clock;
use crate::spool::open::CHECKS;

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_tail_is_set_aside_and_the_log_goes_on() {
    let bench = Bench::new();
    let spool = bench.open();
    let first = store(&spool, "1.2.3.1", content(1, 3000)).await.unwrap().id;
    spool.close();
    drop(spool);
    std::fs::remove_dir_all(bench.dir.path().join("spool/queue")).unwrap();
    // A second record whose payload never reached the disk.
    let path = bench.first_segment();
    let mut bytes = std::fs::read(&path).unwrap();
    let record = record::RecordHeader::decode(&bytes[4096..], bench.log()).unwrap();
    let length = record.record_length() as usize;
    let torn = record::RecordHeader { sequence: 2, acked_through: 1, ..record };
    let (begin, end) = (4096 + length, 4096 + 2 * length);
    let copy = bytes[4096..begin].to_vec();
    bytes[begin..end].copy_from_slice(&copy);
    bytes[begin..begin + record::HEADER_LENGTH].copy_from_slice(&torn.encode(bench.log()));
    bytes[end - 100..end - 50].fill(0);
    std::fs::write(&path, bytes).unwrap();

    let spool = bench.open();
    assert_eq!(spool.recovery().set_aside, 1);
    assert!(spool.recovery().lost.is_empty());
    let followed = spool.follow(LogPosition::default(), 100).await.unwrap();
    assert_eq!(followed.last().unwrap().after, spool.durable_position(), "who follows it gets to its end");
    assert_eq!(read(&spool, first).await, content(1, 3000));
    let next = store(&spool, "1.2.3.2", content(2, 3000)).await.unwrap();
    spool.close();
    drop(spool);
    // Records written since say that all before them was answered: that one was not.
    std::fs::remove_dir_all(bench.dir.path().join("spool/queue")).unwrap();
    let spool = bench.open();
    assert_eq!(spool.status().damaged, 0);
    assert_eq!(spool.recovery().set_aside, 0, "it was set aside once");
    assert_eq!(read(&spool, next.id).await, content(2, 3000));
    let followed = spool.follow(LogPosition::default(), 100).await.unwrap();
    assert_eq!(followed.len(), 2, "nobody hears of it");
    spool.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_acknowledged_record_is_reported_and_the_rest_is_kept() {
    let bench = Bench::new();
    let spool = bench.open();
    let mut ids = Vec::new();
    for index in 0..3 {
        ids.push(store(&spool, &format!("1.2.3.{index}"), content(index, 3000)).await.unwrap().id);
    }
    spool.close();
    drop(spool);
    std::fs::remove_dir_all(bench.dir.path().join("spool/queue")).unwrap();
    let path = bench.first_segment();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[4096 + 10] ^= 1;
    std::fs::write(&path, bytes).unwrap();

    let spool = bench.open();
    assert_eq!(missing(&spool).await, [ids[0]]);
    let lost = spool.open(ids[0], CheckBy::Sha256).await;
    assert!(matches!(lost, Err(SpoolError::Damaged { .. })), "not freed: nobody else has it");
    assert_eq!(read(&spool, ids[1]).await, content(1, 3000));
    assert_eq!(read(&spool, ids[2]).await, content(2, 3000));
    spool.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_damaged_records_side_by_side_each_is_reported() {
    let bench = Bench::new();
    let spool = bench.open();
    for index in 0..4 {
        store(&spool, &format!("1.2.3.{index}"), content(index, 3000)).await.unwrap();
    }
    spool.close();
    drop(spool);
    std::fs::remove_dir_all(bench.dir.path().join("spool/queue")).unwrap();
    let path = bench.first_segment();
    let mut bytes = std::fs::read(&path).unwrap();
    let length = record::RecordHeader::decode(&bytes[4096..], bench.log()).unwrap().record_length() as usize;
    bytes[4096 + length - 100] ^= 1; // The first one's data set,
    bytes[4096 + length + 10] ^= 1; // the second one's header.
    std::fs::write(&path, bytes).unwrap();

    let spool = bench.open();
    assert_eq!(spool.recovery().lost, [EntryId(1)]);
    assert_eq!(missing(&spool).await, [EntryId(2)]);
    assert_eq!(spool.recovery().set_aside, 2);
    assert_eq!(read(&spool, EntryId(3)).await, content(2, 3000));
    spool.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_object_is_found_by_the_scrub_and_does_not_hold_up_the_log() {
    let bench = Bench::new();
    let spool = bench.open();
    spool.set_policies(policies());
    let damaged = store(&spool, "1.9", content(9, 3000)).await.unwrap().id;
    assert_eq!(scrub::look(&spool.shared, damaged).unwrap(), Held::Intact);
    rot_first_object(&bench);
    assert_eq!(scrub::look(&spool.shared, damaged).unwrap(), Held::Damaged);
    assert_eq!(spool.status().damaged, 1);
    for by in [CheckBy::Sha256, CheckBy::Crc32c] {
        let reader = spool.open(damaged, by).await.unwrap();
        let length = reader.len();
        assert!(reader.read_at(0, length as usize - 1).await.is_ok());
        let last = reader.read_at(length - 1, 1).await;
        assert!(matches!(last, Err(SpoolError::Damaged { .. })), "nobody gets all of it, by {by:?}");
        assert!(matches!(spool.load(damaged, by).await, Err(SpoolError::Damaged { .. })));
    }

    for index in 0..40u8 {
        let id = store(&spool, &format!("1.2.3.{index}"), content(index, 60_000)).await.unwrap().id;
        deliver(&spool, id, Outcome::Verified { by: "query".into() }).await;
    }
    bench.clock.advance(Duration::from_secs(100));
    until(async || {
        let end = spool.durable_position();
        spool.report_cursor(Cursor::Index, end);
        spool.report_cursor(Cursor::Route, end);
        (spool.status().segments <= 2).then_some(())
    })
    .await;
    assert!(bench.dir.path().join("spool/review/segment-of-1.log").exists());
    assert!(matches!(spool.open(damaged, CheckBy::Sha256).await, Err(SpoolError::Damaged { .. })));
    assert_eq!(spool.counts().objects, 1, "it is told of until a person has seen to it");
    spool.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resend_takes_the_place_of_what_is_damaged_with_one_sync() {
    let bench = Bench::new();
    let spool = bench.open();
    let damaged = store(&spool, "1.9", content(9, 3000)).await.unwrap().id;
    rot_first_object(&bench);

    let anew = store(&spool, "1.9", content(9, 3000)).await.unwrap();
    assert_eq!(anew.verdict, Verdict::New);
    assert_eq!(read(&spool, anew.id).await, content(9, 3000));
    let facts = spool.follow(LogPosition::default(), 10).await.unwrap();
    let said: Vec<_> = facts.iter().map(|followed| &*followed.fact).collect();
    assert!(
        matches!(said[..], [Fact::Received(_), Fact::Received(new), Fact::Purged { entry, .. }]
            if new.id == anew.id && *entry == damaged),
        "the old one goes after the new one is written: {said:?}"
    );
    spool.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resend_of_what_is_damaged_is_no_conflict_of_a_conflict() {
    let bench = Bench::new();
    let spool = bench.open();
    let damaged = store(&spool, "1.9", content(9, 3000)).await.unwrap().id;
    let other = store(&spool, "1.9", content(8, 3000)).await.unwrap();
    assert_eq!(other.verdict, Verdict::Conflict(damaged));
    rot_first_object(&bench);
    let anew = store(&spool, "1.9", content(9, 3000)).await.unwrap();
    assert_eq!(anew.verdict, Verdict::New, "it is delivered as the first one was to be");
    spool.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resend_of_what_was_freed_before_it_was_looked_at_is_kept_itself() {
    let bench = Bench::new();
    let spool = bench.open();
    let first = store(&spool, "1.9", content(9, 3000)).await.unwrap().id;
    let turns = spool.shared.checks.acquire_many(CHECKS as u32).await.unwrap();
    let mut resend = Box::pin(store(&spool, "1.9", content(9, 3000)));
    let waits = tokio::time::timeout(Duration::from_millis(300), &mut resend).await;
    assert!(waits.is_err(), "it is judged a duplicate and waits for its look");
    let freed = Fact::Purged { entry: first, reason: "test".to_owned(), at: bench.clock.now() };
    spool.append(vec![freed], Durability::Synced).await.unwrap();
    drop(turns);
    let kept = resend.await.unwrap();
    assert_eq!(kept.verdict, Verdict::New);
    assert_eq!(read(&spool, kept.id).await, content(9, 3000));
    spool.close();
}

/// The entries that `review/` lists.
async fn missing(spool: &Spool) -> Vec<EntryId> {
    let missing = spool.missing().await.unwrap();
    missing.iter().flat_map(|missing| (missing.entry.0..=missing.through.0).map(EntryId)).collect()
}

/// One bit of the first record of an object, in its part that begins `into` bytes after its header.
fn damage(bench: &Bench, uid: &str, into: i64) {
    damage_at(bench, uid, into, |places| places.next());
}

/// … of its last record.
fn damage_newest(bench: &Bench, uid: &str, into: i64) {
    damage_at(bench, uid, into, |places| places.last());
}

fn damage_at(
    bench: &Bench,
    uid: &str,
    into: i64,
    choose: impl FnOnce(&mut dyn Iterator<Item = usize>) -> Option<usize>,
) {
    let path = bench.first_segment();
    let mut bytes = std::fs::read(&path).unwrap();
    let needle = format!("\"sop_instance_uid\":\"{uid}\"");
    let mut places = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(needle.as_bytes()));
    let at = choose(&mut places).unwrap();
    let begin = (0..=at).rev().find(|at| bytes[*at..].starts_with(b"RPr1")).unwrap();
    bytes[(begin as i64 + record::HEADER_LENGTH as i64 + into) as usize] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_while_the_queue_is_lost_stays_known_from_start_to_start() {
    let bench = Bench::new();
    let spool = bench.open();
    let mut ids = Vec::new();
    for number in 0..5 {
        let uid = format!("1.2.3.{number}");
        ids.push(store(&spool, &uid, content(number, 3000)).await.unwrap().id);
    }
    spool.close();
    drop(spool);
    damage(&bench, "1.2.3.1", 2000);
    damage(&bench, "1.2.3.2", -10);
    std::fs::remove_dir_all(bench.dir.path().join("spool/queue")).unwrap();

    for _ in 0..2 {
        let spool = bench.open();
        assert_eq!(scrub::look(&spool.shared, ids[1]).unwrap(), Held::Damaged);
        assert_eq!(missing(&spool).await, [ids[2]], "nothing but its number can be known");
        assert_eq!(spool.status().damaged, 2);
        assert_eq!(read(&spool, ids[3]).await, content(3, 3000));
        spool.close();
    }
    let spool = bench.open();
    let again = store(&spool, "1.2.3.1", content(1, 3000)).await.unwrap();
    assert_eq!(read(&spool, again.id).await, content(1, 3000));
    spool.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_damaged_among_others_of_its_batch_is_not_taken_for_a_torn_one() {
    let bench = Bench::new();
    let spool = bench.open();
    let many = (0..40).map(|number| {
        let spool = spool.clone();
        tokio::spawn(async move { store(&spool, &format!("1.2.3.{number}"), content(number, 3000)).await })
    });
    for stored in futures_util::future::join_all(many).await {
        stored.unwrap().unwrap();
    }
    // Only later records say that these were answered.
    store(&spool, "1.2.4", content(9, 100)).await.unwrap();
    spool.close();
    drop(spool);
    (0..20).for_each(|number| damage(&bench, &format!("1.2.3.{number}"), -10));
    std::fs::remove_dir_all(bench.dir.path().join("spool/queue")).unwrap();
    let spool = bench.open();
    assert_eq!(spool.counts().objects, 21);
    assert_eq!(missing(&spool).await.len(), 20);
    spool.close();
}

/// A resend and what it frees are one batch: of a torn one neither counts.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_torn_resend_was_to_replace_is_still_told_of() {
    let bench = Bench::new();
    let spool = bench.open();
    let first = store(&spool, "1.9", content(9, 3000)).await.unwrap().id;
    rot_first_object(&bench);
    store(&spool, "1.9", content(9, 3000)).await.unwrap();
    spool.close();
    drop(spool);
    // The end of the resend did not reach the disk, the record behind it did.
    damage_newest(&bench, "1.9", 2000);

    for number in 0..3 {
        std::fs::remove_dir_all(bench.dir.path().join("spool/queue")).unwrap();
        let spool = bench.open();
        assert_eq!(scrub::look(&spool.shared, first).unwrap(), Held::Damaged, "neither held nor told of");
        assert_eq!(spool.status().damaged, 1);
        // Its record says that all before it was answered.
        store(&spool, &format!("1.8.{number}"), content(number, 3000)).await.unwrap();
        spool.close();
    }
}

/// Overwrites bytes of the data set of the log's first object, which is 3,000 bytes long.
fn rot_first_object(bench: &Bench) {
    let file = std::fs::OpenOptions::new().write(true).open(bench.first_segment()).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"rotten", 4096 + 3000).unwrap();
    file.sync_all().unwrap();
}

/// Twenty objects, in several segments.
async fn store_twenty(bench: &Bench) {
    let spool = bench.open();
    for index in 0..20u8 {
        store(&spool, &format!("1.2.3.{index}"), content(index, 60_000)).await.unwrap();
    }
    spool.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_files_of_the_log_are_reported_at_each_start() {
    let bench = Bench::new();
    store_twenty(&bench).await;
    std::fs::remove_file(bench.first_segment()).unwrap();
    let mut seen = Vec::new();
    for _ in 0..2 {
        let spool = bench.open();
        seen.push((spool.recovery().lost.len(), spool.status().damaged));
        spool.close();
    }
    assert!(seen[0].0 > 5 && seen[0].1 == seen[0].0 as u64, "{seen:?}");
    assert_eq!(seen[0], seen[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_whose_newest_part_is_missing_is_told_of_until_a_person_has_seen_to_it() {
    let bench = Bench::new();
    store_twenty(&bench).await;
    for file in std::fs::read_dir(bench.dir.path().join("spool/segments")).unwrap() {
        std::fs::remove_file(file.unwrap().path()).unwrap();
    }
    for _ in 0..2 {
        let spool = bench.open();
        assert_eq!(spool.status().damaged, 20);
        spool.close();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_found_damaged_while_the_node_ran_is_made_anew_by_the_next_start() {
    let bench = Bench::new();
    let spool = bench.open();
    let held = store(&spool, "1.2.3", content(1, 3000)).await.unwrap().id;
    spool.close();
    drop(spool);
    recovery::Distrust::of(&bench.options.dir).note();

    let spool = bench.open();
    assert!(spool.recovery().rebuilt);
    assert_eq!(read(&spool, held).await, content(1, 3000));
    spool.close();
    drop(spool);
    let spool = bench.open();
    assert!(!spool.recovery().rebuilt, "once is enough");
    spool.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_whose_large_file_was_never_made_durable_is_no_loss() {
    let bench = Bench::new();
    let spool = bench.open();
    let held = store(&spool, "1.2.3", content(1, 3000)).await.unwrap().id;
    store(&spool, "1.2.4", content(2, 100_000)).await.unwrap();
    spool.close();
    drop(spool);
    // As if the power had gone before the folder's sync, and the answer.
    std::fs::remove_dir_all(bench.dir.path().join("spool/queue")).unwrap();
    for file in std::fs::read_dir(bench.dir.path().join("spool/large")).unwrap() {
        std::fs::remove_file(file.unwrap().path()).unwrap();
    }
    for _ in 0..2 {
        let spool = bench.open();
        assert_eq!((spool.recovery().lost.len(), spool.recovery().listed, spool.counts().objects), (0, 0, 1));
        assert_eq!(read(&spool, held).await, content(1, 3000));
        deliver(&spool, held, Outcome::Sent).await;
        spool.close();
        drop(spool);
        std::fs::remove_dir_all(bench.dir.path().join("spool/queue")).unwrap();
    }
}

/// Bytes behind the log's end, as an earlier use of the segment leaves them: what a sender had in its objects.
#[tokio::test(flavor = "multi_thread")]
async fn what_looks_like_a_record_and_is_none_of_this_log_frees_nothing() {
    let bench = Bench::new();
    let spool = bench.open();
    let held = store(&spool, "1.2.3", content(1, 3000)).await.unwrap().id;
    spool.close();
    drop(spool);
    let path = bench.first_segment();
    let meta = record::Meta::of(Fact::Purged { entry: held, reason: "forged".into(), at: Millis(1) })
        .encode()
        .unwrap();
    let forged = record::RecordHeader {
        payload: record::Payload::None,
        sequence: 1000,
        acked_through: 999,
        meta_length: meta.len() as u32,
        prefix_length: 0,
        data_set_length: 0,
        body_crc: crc32c::crc32c(&meta),
        ..record::RecordHeader::decode(&std::fs::read(&path).unwrap()[4096..], bench.log()).unwrap()
    };
    for (log, objects) in [(LogId::default(), 1), (bench.log(), 0)] {
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[400_000..400_000 + record::HEADER_LENGTH].copy_from_slice(&forged.encode(log));
        bytes[400_000 + record::HEADER_LENGTH..][..meta.len()].copy_from_slice(&meta);
        std::fs::write(&path, bytes).unwrap();
        let spool = bench.open();
        assert_eq!(spool.counts().objects, objects, "by {log:?}");
        spool.close();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thread_that_gives_up_closes_the_spool() {
    let bench = Bench::new();
    let spool = bench.open();
    open::spawn("spool-of-a-test", &spool.shared, || panic!("as sled does on files that it does not expect"))
        .unwrap();
    until(async || spool.shared.failure()).await;
    assert!(matches!(store(&spool, "1.2.3", content(1, 3000)).await, Err(SpoolError::Failed(_))));
    spool.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_no_record_names_goes_to_review() {
    let bench = Bench::new();
    bench.open().close();
    std::fs::write(bench.dir.path().join("spool/large/orphan"), b"bytes").unwrap();
    let spool = bench.open();
    assert_eq!(spool.recovery().unnamed, 1);
    assert!(bench.dir.path().join("spool/review/orphan").exists());
    spool.close();
}
