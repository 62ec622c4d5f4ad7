//! Logs that a person brings back from a failing disk, or from an older version, with parts missing.

use std::path::PathBuf;

use super::*;
use record::RecordHeader;

/// Three objects and the log's one segment, closed. The queue of seconds ago knew of none of them.
async fn three_objects(bench: &Bench) -> (PathBuf, Vec<u8>, Vec<usize>) {
    let spool = bench.open();
    for seed in 1..=3u8 {
        store(&spool, &format!("1.2.3.{seed}"), content(seed, 3000)).await.unwrap();
    }
    spool.close();
    drop(spool);
    lose_queue(bench);
    let path = bench.first_segment();
    let bytes = std::fs::read(&path).unwrap();
    let begins: Vec<usize> = records(&bytes, bench.log()).map(|(at, _)| at).collect();
    (path, bytes, begins)
}

fn lose_queue(bench: &Bench) {
    std::fs::remove_dir_all(bench.options.dir.join("queue")).unwrap();
}

fn records(bytes: &[u8], log: LogId) -> impl Iterator<Item = (usize, RecordHeader)> {
    let at = move |at: usize| RecordHeader::decode(&bytes[at..], log).map(|header| (at, header));
    let next = move |(begin, header): &(usize, RecordHeader)| at(begin + header.record_length() as usize);
    std::iter::successors(at(4096), next)
}

/// As `ddrescue --fill-mode` leaves it, from the sector of `from` on.
fn not_read(bench: &Bench, bytes: &mut [u8], from: usize) {
    let mark = b"sixteen bytes so";
    std::fs::write(bench.options.dir.join("segments/unread-mark"), mark).unwrap();
    let sectors = from / 512 * 512..from / 512 * 512 + 8 * 512;
    bytes[sectors].iter_mut().zip(mark.iter().cycle()).for_each(|(byte, mark)| *byte = *mark);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_failing_disk_lost_at_the_end_of_the_log_is_told_of_and_not_taken_for_never_written() {
    let bench = Bench::new();
    let (path, mut bytes, begins) = three_objects(&bench).await;
    not_read(&bench, &mut bytes, begins[2]);
    std::fs::write(&path, &bytes).unwrap();

    let spool = bench.open();
    assert!(spool.status().damaged >= 1, "the third");
    assert!(spool.recovery().settled_through < 3, "the index is asked");
    assert_eq!(read(&spool, EntryId(1)).await, content(1, 3000));
    spool.close();
    drop(spool);
    let spool = bench.open();
    assert_eq!(spool.recovery().set_aside, 0, "it was heeded once");
    let next = store(&spool, "1.2.3.4", content(4, 3000)).await.unwrap();
    assert!(next.id > EntryId(3), "its number is not given again");
    spool.close();
    drop(spool);
    for _ in 0..2 {
        let spool = bench.open();
        assert!(spool.status().damaged >= 1, "until a person has seen to it");
        assert_eq!(read(&spool, next.id).await, content(4, 3000));
        spool.close();
        drop(spool);
        lose_queue(&bench);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_object_damaged_by_a_failing_disk_is_not_taken_for_a_torn_one() {
    let bench = Bench::new();
    let (path, mut bytes, begins) = three_objects(&bench).await;
    not_read(&bench, &mut bytes, begins[2] + 2000);
    std::fs::write(&path, &bytes).unwrap();
    let spool = bench.open();
    assert_eq!(spool.recovery().lost, [EntryId(3)]);
    let resent = store(&spool, "1.2.3.3", content(3, 3000)).await.unwrap();
    assert_eq!(read(&spool, resent.id).await, content(3, 3000));
    spool.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_segment_that_could_not_be_read_is_no_spare_and_what_it_may_have_held_is_told_of() {
    let bench = Bench::new();
    let (path, mut bytes, _) = three_objects(&bench).await;
    for sector in (0..4096 * 8).step_by(4096) {
        not_read(&bench, &mut bytes, sector);
    }
    std::fs::write(&path, &bytes).unwrap();
    let spool = bench.open();
    assert!(spool.status().damaged >= 3);
    let next = store(&spool, "1.2.3.4", content(4, 3000)).await.unwrap();
    spool.close();
    drop(spool);
    let spool = bench.open();
    assert!(spool.status().damaged >= 3);
    assert_eq!(read(&spool, next.id).await, content(4, 3000));
    spool.close();
}

/// The log as it was before there were ids.
fn make_old(bench: &Bench, bytes: &mut [u8]) {
    let found: Vec<_> = records(bytes, bench.log()).collect();
    for (at, header) in found {
        bytes[at..at + record::HEADER_LENGTH].copy_from_slice(&header.encode(LogId::default()));
    }
    bytes[16..4096].fill(0);
    std::fs::remove_file(bench.options.dir.join("segments/log-id")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_from_before_there_were_ids_is_read_though_its_first_page_is_lost() {
    for lost in [0..0, 0..4096] {
        let bench = Bench::new();
        let (path, mut bytes, _) = three_objects(&bench).await;
        make_old(&bench, &mut bytes);
        bytes[lost.clone()].fill(0);
        std::fs::write(&path, &bytes).unwrap();
        let spool = bench.open();
        assert_eq!(spool.counts().objects, 3, "{lost:?} lost");
        assert_eq!(read(&spool, EntryId(3)).await, content(3, 3000));
        spool.close();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_which_nobody_knows_the_log_are_not_written_over() {
    let bench = Bench::new();
    let (path, mut bytes, _) = three_objects(&bench).await;
    let log_id = bench.options.dir.join("segments/log-id");
    let id = std::fs::read(&log_id).unwrap();
    std::fs::remove_file(&log_id).unwrap();
    for file in
        std::fs::read_dir(bench.options.dir.join("segments")).unwrap().map(|file| file.unwrap().path())
    {
        if file != path {
            std::fs::remove_file(file).unwrap();
        }
    }
    bytes[..4096].fill(0);
    std::fs::write(&path, &bytes).unwrap();
    let refused = Spool::start(bench.options.clone(), bench.clock.clone()).err().unwrap();
    assert!(refused.to_string().contains("log-id"), "{refused}");
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    std::fs::write(&log_id, id).unwrap();
    let spool = bench.open();
    assert_eq!(spool.counts().objects, 3);
    spool.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_a_start_had_just_begun_anew_is_no_older_one() {
    let bench = Bench::new();
    three_objects(&bench).await;
    drop(queue::Queue::open(&bench.options.dir.join("queue")).unwrap());
    let spool = bench.open();
    assert!(spool.recovery().asks_rows, "that start was killed before it had asked");
    spool.rows_were_asked();
    spool.close();
    drop(spool);
    let spool = bench.open();
    assert!(!spool.recovery().asks_rows);
    spool.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_is_not_known_by_a_number_that_is_anothers_now() {
    let bench = Bench::new();
    let spool = bench.open();
    let id = store(&spool, "1.2.3.1", content(1, 3000)).await.unwrap().id;
    let data_set_sha256 = spool.entry(id).await.unwrap().data_set_sha256.to_string();
    let held = Missing { entry: id, through: id, sop_instance_uid: "1.2.3.1".into(), data_set_sha256 };
    let others = Missing { sop_instance_uid: "1.2.3.2".into(), ..held.clone() };
    let unknown = spool.unknown(vec![held, others.clone()]).await.unwrap();
    assert_eq!(unknown, [others]);
    spool.close();
}
