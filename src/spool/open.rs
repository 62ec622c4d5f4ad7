//! Opening and closing the spool: lock, recovery, and its five threads.

use std::collections::HashMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use super::capacity::{self, Disk};
use super::committer::{Committer, Head, Job};
use super::comparer::Comparer;
use super::damage::Damage;
use super::entry::{Fact, LogPosition};
use super::failure::{self, Failure};
use super::maintenance::Maintenance;
use super::projection::{self, Published};
use super::reader::LOADED_BUDGET;
use super::recent::Recent;
use super::recovery::{self, Distrust, Folders, Recovered, Report};
use super::scrub;
use super::segment::{FIRST_RECORD, Segments};
use super::shared::Shared;
use super::stage::Room;
use super::{Cursor, Spool, SpoolError, SpoolOptions};
use crate::clock::Clock;

/// Jobs that may wait for the committer.
const JOBS: usize = 4096;
/// Durable records that may wait for the projection.
const PUBLISHED: usize = 8192;
/// Resends compared with what is held at the same time.
pub const CHECKS: usize = 8;
/// Records that the projection takes at once.
const APPLY: usize = 512;
/// Between two applications, unless somebody who holds up others waits for one: sled writes to the
/// disk after each, beside the log's syncs.
const PACE: Duration = Duration::from_millis(10);
/// Applications that need not wait after a rest: an object that comes alone, its routing and what
/// became of it.
const BURST: u32 = 4;

/// The spool's threads, until it is closed.
pub struct Threads {
    pub report: Report,
    pub end: LogPosition,
    joined: Mutex<Option<[JoinHandle<()>; 5]>>,
}

impl Spool {
    /// Opens the spool: takes its lock, recovers, starts. Blocks; call it off the runtime.
    pub fn start(options: SpoolOptions, clock: Arc<dyn Clock>) -> Result<Spool, SpoolError> {
        let folders = make_folders(&options)?;
        let lock = take_lock(&options.dir)?;
        if !options.any_file_system
            && let Some(why) = io_at(&options.dir, capacity::unfit(&options.dir))?
        {
            return Err(SpoolError::Unfit { why });
        }
        let segments =
            io_at(&options.dir, Segments::open(&options.dir.join("segments"), options.segment_size))?;
        // Recovery needs room too: what the reserve takes goes to it where there is none.
        let disk = Disk::open(&options.dir, options.critical_watermark, segments.spare_bytes());
        let disk = io_at(&options.dir, disk)?;
        let Recovered { queue, head, seen_until, report } = recovery::recover(&segments, &folders)?;
        let head = match head {
            Some(head) => head,
            None => first_head(&segments, &options)?,
        };
        if report.is_eventful() {
            tracing::info!(?report, "spool recovered");
        }
        start(Parts { options, clock, segments, disk, queue, folders, lock, head, seen_until, report })
    }
}

struct Parts {
    options: SpoolOptions,
    clock: Arc<dyn Clock>,
    segments: Segments,
    disk: Disk,
    queue: super::queue::Queue,
    folders: Folders,
    lock: File,
    head: Head,
    seen_until: LogPosition,
    report: Report,
}

fn start(parts: Parts) -> Result<Spool, SpoolError> {
    let Parts { options, clock, segments, disk, queue, folders, lock, head, seen_until, report } = parts;
    let failed_before = AtomicBool::new(failure::is_remembered(&options.dir));
    let (jobs, job_receiver) = bounded(JOBS);
    let (projector, published) = bounded(PUBLISHED);
    let (maintenance, wake) = bounded(1);
    let (comparer, wake_comparer) = bounded(1);
    let (hurry, hurried) = bounded(1);
    let end = LogPosition::at(head.segment.generation, head.offset);
    let disk = Arc::new(disk);
    let damage = Arc::new(io_at(&folders.review, Damage::open(&folders.review, &report.lost))?);
    let inline_limit = options.inline_limit.min(options.segment_size / 4);
    let failing = Arc::new(Failure::new(&options.dir));
    let room = Room::new(folders.large.clone(), inline_limit, disk.clone(), failing.clone());
    let index_cursor = AtomicU64::new(queue.cursor(Cursor::Index)?.0);
    let route_cursor = AtomicU64::new(queue.cursor(Cursor::Route)?.0);
    let shared = Arc::new(Shared {
        options,
        clock,
        segments,
        queue,
        recent: Recent::default(),
        room,
        jobs,
        // Nobody gets farther by following the log: behind it may be nothing, or what a crash tore.
        durable: watch::Sender::new(seen_until),
        applied: watch::Sender::new(seen_until),
        failing,
        failed_before,
        policies: RwLock::new(HashMap::new()),
        disk,
        damage,
        checks: tokio::sync::Semaphore::new(CHECKS),
        loaded: Arc::new(tokio::sync::Semaphore::new(LOADED_BUDGET)),
        maintenance,
        comparer,
        hurry,
        index_cursor,
        route_cursor,
        write_errors: Mutex::new(Vec::new()),
        closing: AtomicBool::new(false),
        _lock: lock,
    });
    let large_dir = io_at(&folders.large, File::open(&folders.large))?;
    let committer = Committer {
        shared: shared.clone(),
        jobs: job_receiver,
        projector,
        large_dir,
        position: head,
        unsynced: Vec::new(),
        large_unsynced: false,
    };
    let caretaker = Maintenance {
        shared: shared.clone(),
        wake,
        safe: LogPosition::default(),
        checkpointed: Instant::now(),
        seen_end: LogPosition::default(),
        started: Instant::now(),
        freed_early_at: None,
        looked_until: [None, None],
        survey: None,
        unreadable: None,
    };
    let comparer = Comparer::new(shared.clone(), wake_comparer);
    let threads = [
        spawn("spool-committer", &shared, move || committer.run())?,
        spawn("spool-projector", &shared, {
            let shared = shared.clone();
            move || project(&shared, &published, &hurried)
        })?,
        spawn("spool-maintenance", &shared, move || caretaker.run())?,
        spawn("spool-scrub", &shared, {
            let shared = shared.clone();
            move || scrub::run(&shared)
        })?,
        spawn("spool-comparer", &shared, move || comparer.run())?,
    ];
    shared.wake_maintenance();
    shared.wake_comparer();
    Ok(Spool { shared, threads: Arc::new(Threads { report, end, joined: Mutex::new(Some(threads)) }) })
}

impl Threads {
    /// Ends committer, projector and those that read beside them, in that order, then checkpoints.
    pub fn close(&self, shared: &Shared) {
        let Some([committer, projector, others @ ..]) = self.joined.lock().take() else { return };
        shared.closing.store(true, std::sync::atomic::Ordering::Release);
        let _ = shared.jobs.send(Job::Stop);
        let _ = committer.join();
        let _ = projector.join();
        shared.wake_maintenance();
        shared.wake_comparer();
        others.into_iter().for_each(|thread| drop(thread.join()));
        if shared.failure().is_none()
            && let Err(error) = shared.queue.checkpoint()
        {
            tracing::warn!(%error, "the last checkpoint failed; the next start replays more of the log");
        }
    }
}

/// Applies what is durable to the projection, until the committer ends.
fn project(shared: &Shared, published: &Receiver<Published>, hurry: &Receiver<()>) {
    let distrust = Distrust::of(&shared.options.dir);
    let mut next = Instant::now();
    while let Ok(first) = published.recv() {
        let begun = Instant::now();
        let mut records = vec![first];
        records.extend(published.try_iter().take(APPLY - 1));
        let applied = projection::apply(&shared.queue, &records, |consequences| {
            recovery::remove_files(&shared.room.large_dir, &consequences.freed_files)?;
            if !consequences.freed_files.is_empty() {
                crate::failpoint::pass("freed_files_removed");
            }
            Ok(())
        });
        if let Err(error) = applied {
            // The log holds the truth: the next start rebuilds what is missing here.
            if error.is_damage() {
                distrust.note();
            }
            return shared.fail(&format!("the queue can't be written: {error}"));
        }
        shared.recent.applied(&records);
        for record in &records {
            if let Fact::Purged { entry, .. } = &*record.fact {
                shared.damage.forget(*entry);
            }
        }
        if let Some(last) = records.last() {
            shared.applied.send_replace(last.after);
        }
        if records.iter().any(is_conflict) {
            shared.wake_comparer();
        }
        next = after(next, begun);
        if records.len() < APPLY {
            let _ = hurry.recv_timeout(next.saturating_duration_since(Instant::now()));
        }
    }
}

/// When the application after the one that began at `begun` is due, which itself was due at `due`.
fn after(due: Instant, begun: Instant) -> Instant {
    // Who hurried it on owes nothing: the debt would grow without bound.
    due.min(begun).max(begun.checked_sub(PACE * BURST).unwrap_or(begun)) + PACE
}

fn is_conflict(published: &Published) -> bool {
    matches!(&*published.fact, Fact::Received(entry) if entry.conflict_with.is_some())
}

fn first_head(segments: &Segments, options: &SpoolOptions) -> Result<Head, SpoolError> {
    if segments.spare_count() == 0 {
        io_at(&options.dir, segments.prepare())?;
    }
    let segment = io_at(&options.dir, segments.begin(1, 0))?;
    let segment =
        segment.ok_or_else(|| SpoolError::Full("no room for the log's first segment".to_owned()))?;
    Ok(Head { segment, offset: FIRST_RECORD, sequence: 1, acked_through: 0 })
}

fn make_folders(options: &SpoolOptions) -> Result<Folders, SpoolError> {
    let folders = Folders {
        large: options.dir.join("large"),
        review: options.dir.join("review"),
        queue: options.dir.join("queue"),
    };
    for dir in [&options.dir, &options.dir.join("segments"), &folders.large, &folders.review, &folders.queue]
    {
        // What they hold is for the node's own user only, whatever the umask.
        io_at(dir, DirBuilder::new().recursive(true).mode(0o700).create(dir))?;
    }
    let sync = || File::open(&options.dir)?.sync_all();
    io_at(&options.dir, crate::failpoint::sync("spool_directory", sync))?;
    Ok(folders)
}

/// One process at a time: two would overwrite each other's log.
fn take_lock(dir: &Path) -> Result<File, SpoolError> {
    let path = dir.join("lock");
    let file = io_at(&path, OpenOptions::new().create(true).truncate(false).write(true).open(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(SpoolError::Locked(dir.to_owned())),
        Err(std::fs::TryLockError::Error(source)) => Err(SpoolError::Io { path, source }),
    }
}

fn io_at<T>(path: &Path, result: io::Result<T>) -> Result<T, SpoolError> {
    result.map_err(|source| SpoolError::from_io(path.to_owned(), source))
}

/// A thread of the spool. The others can't go on without it: when it panics, the spool closes.
pub(super) fn spawn(
    name: &'static str,
    shared: &Arc<Shared>,
    work: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, SpoolError> {
    let shared = shared.clone();
    let guarded = move || {
        if catch_unwind(AssertUnwindSafe(work)).is_err() {
            shared.fail(&format!("the thread {name} gave up; the log has what it was about"));
        }
    };
    let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(guarded);
    spawned.map_err(|error| SpoolError::Failed(format!("{name}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn applications_keep_their_pace_after_a_few_that_need_not_wait_and_however_many_were_hurried_on() {
        let begun = Instant::now() + PACE * 100;
        let rested = begun - PACE * 50;
        let soon = |due| due <= begun;
        let mut due = rested;
        for _ in 0..BURST {
            due = after(due, begun);
            assert!(soon(due), "a burst after a rest waits");
        }
        for _ in 0..1000 {
            due = after(due, begun);
            assert_eq!(due, begun + PACE);
        }
    }
}
