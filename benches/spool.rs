//! How near the spool stands to the least that durability costs: the same objects appended to one
//! file by a thread that syncs once for all that waits, and nothing else. Interleaved rounds,
//! medians, ratios. `cargo bench --bench spool [-- DIR]`; DIR must be on the disk to measure.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use relaypacs::clock::{Millis, SystemClock};
use relaypacs::dicom::{Attributes, InstanceKey, Uid};
use relaypacs::spool::{Digest, EntryId, Origin, Spool, SpoolEntry, SpoolOptions};
use tokio::sync::{mpsc, oneshot};

const ROUNDS: usize = 5;
const CASES: [(usize, usize, usize); 5] = [
    (64 << 10, 1, 1000),
    (64 << 10, 8, 4000),
    (64 << 10, 16, 4000),
    (512 << 10, 1, 400),
    (512 << 10, 8, 800),
];

fn main() {
    let dir = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let dir = dir.unwrap_or_else(|| "target".to_owned());
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    println!("{:>10} {:>4} {:>12} {:>12} {:>8}", "bytes", "N", "bare /s", "spool /s", "ratio");
    for (size, parallel, count) in CASES {
        let (mut bare, mut spool) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let fresh = tempfile::tempdir_in(&dir).expect("a folder to measure in");
            bare.push(runtime.block_on(run_bare(fresh.path(), size, parallel, count)));
            spool.push(runtime.block_on(run_spool(fresh.path(), size, parallel, count)));
        }
        let (bare, spool) = (median(bare), median(spool));
        println!("{size:>10} {parallel:>4} {bare:>12.0} {spool:>12.0} {:>8.2}", spool / bare);
    }
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

/// Objects a second when `parallel` senders each wait for their answer before the next.
async fn drive<F, Fut>(parallel: usize, count: usize, store: F) -> f64
where
    F: Fn(usize) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send,
{
    let store = Arc::new(store);
    let begun = Instant::now();
    let senders = (0..parallel).map(|sender| {
        let store = store.clone();
        tokio::spawn(async move {
            for index in (sender..count).step_by(parallel) {
                store(index).await;
            }
        })
    });
    for sender in senders.collect::<Vec<_>>() {
        sender.await.expect("a sender");
    }
    count as f64 / begun.elapsed().as_secs_f64()
}

async fn run_bare(dir: &Path, size: usize, parallel: usize, count: usize) -> f64 {
    let path = dir.join("bare.log");
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).open(path).expect("a log");
    // As the spool's segments are: allocated and written before.
    for _ in 0..(size * count).div_ceil(1 << 20) {
        file.write_all(&vec![0; 1 << 20]).expect("room");
    }
    file.sync_all().expect("a sync");
    std::io::Seek::rewind(&mut file).expect("a rewind");
    let (jobs, mut waiting) = mpsc::unbounded_channel::<(Bytes, oneshot::Sender<()>)>();
    let committer = std::thread::spawn(move || {
        while let Some(first) = waiting.blocking_recv() {
            let mut batch = vec![first];
            while let Ok(next) = waiting.try_recv() {
                batch.push(next);
            }
            for (bytes, _) in &batch {
                file.write_all(bytes).expect("a write");
            }
            file.sync_data().expect("a sync");
            for (_, answer) in batch {
                let _ = answer.send(());
            }
        }
    });
    let bytes = Bytes::from(vec![7; size]);
    let rate = drive(parallel, count, move |_| {
        let (jobs, bytes) = (jobs.clone(), bytes.clone());
        async move {
            let (answer, answered) = oneshot::channel();
            jobs.send((bytes, answer)).expect("the committer");
            answered.await.expect("an answer");
        }
    })
    .await;
    committer.join().expect("the committer");
    rate
}

async fn run_spool(dir: &Path, size: usize, parallel: usize, count: usize) -> f64 {
    let options = SpoolOptions {
        dir: dir.join("spool"),
        inline_limit: 1 << 20,
        segment_size: 64 << 20,
        retention: Duration::from_secs(3600),
        high_watermark: 0.98,
        critical_watermark: 0.99,
        sync: true,
        any_file_system: false,
    };
    let spool = Spool::start(options, Arc::new(SystemClock)).expect("a spool");
    let bytes = Bytes::from(vec![7; size]);
    let stored = spool.clone();
    let rate = drive(parallel, count, move |index| {
        let (spool, bytes) = (stored.clone(), bytes.clone());
        async move {
            let mut stage = spool.stage();
            stage.write(bytes).await.expect("a write");
            let staged = stage.finish().await.expect("staged");
            spool.commit(entry(index), Bytes::from_static(&[0; 340]), staged).await.expect("durable");
        }
    })
    .await;
    spool.close();
    rate
}

fn entry(index: usize) -> SpoolEntry {
    let uid = |text: String| Uid::parse(&text).expect("a UID");
    SpoolEntry {
        id: EntryId(0),
        key: InstanceKey {
            study_instance_uid: uid("1.2".into()),
            series_instance_uid: uid("1.2.3".into()),
            sop_instance_uid: uid(format!("1.2.3.{index}")),
        },
        sop_class_uid: uid("1.2.840.10008.5.1.4.1.1.2".into()),
        transfer_syntax_uid: "1.2.840.10008.1.2.1".into(),
        data_set_sha256: Digest([0; 32]),
        data_set_length: 0,
        prefix_length: 0,
        origin: Origin::Stow { account: "bench".into(), peer: None },
        received_at: Millis(0),
        attributes: Attributes::default(),
        rule_set: 0,
        conflict_with: None,
    }
}
