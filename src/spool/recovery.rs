//! Start-up: opens the projection, has the log replayed into it, and looks after what no record names. Nothing that was
//! acknowledged is dropped silently.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use super::entry::{EntryId, LogPosition};
use super::queue::{Queue, QueueError};
use super::replay::replay;
use super::segment::Segments;
use super::{SpoolError, committer::Head, damage};

/// What recovery found, for the log and for readiness.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    pub replayed: u64,
    /// Objects that were acknowledged and are damaged or missing.
    pub lost: Vec<EntryId>,
    /// Records that were acknowledged and of which nothing can be read; `review/` lists them.
    pub listed: u64,
    /// Torn or damaged stretches that were set aside in `review/`.
    pub set_aside: u64,
    /// Up to this number nothing was taken for a torn write.
    pub settled_through: u64,
    /// Large files that no record names, moved to `review/`.
    pub unnamed: u64,
    /// The projection was damaged or missing and made anew.
    pub rebuilt: bool,
    /// It was, now or in an earlier run, and what the log had lost by then only the index knows.
    pub asks_rows: bool,
}

impl Report {
    /// Whether there is anything to tell.
    pub fn is_eventful(&self) -> bool {
        let Report { settled_through, asks_rows, .. } = *self;
        *self != Report { settled_through, asks_rows, ..Report::default() }
    }
}

/// Folders of a spool.
pub struct Folders {
    pub large: PathBuf,
    pub review: PathBuf,
    pub queue: PathBuf,
}

/// What a start goes on with.
pub struct Recovered {
    pub queue: Queue,
    /// `None` where there was no log.
    pub head: Option<Head>,
    /// After the last record that a follower gets to see.
    pub seen_until: LogPosition,
    pub report: Report,
}

/// Recovers the spool. A queue that turns out to be damaged, wherever that shows, is set aside and made anew from the
/// log.
pub fn recover(segments: &Segments, folders: &Folders) -> Result<Recovered, SpoolError> {
    let distrust = Distrust::of(folders.queue.parent().unwrap_or(&folders.queue));
    let existed = folders.queue.join("db").exists();
    let is_rebuild = !existed && segments.oldest().is_some();
    let tried = match distrust.is_noted() {
        true => Err(QueueError::Io(io::Error::other("it was found damaged in the last run")).into()),
        false => try_recover(segments, folders, is_rebuild),
    };
    match tried {
        Err(SpoolError::Queue(error)) if error.is_damage() => {
            set_queue_aside(folders, "damaged", &error.to_string())?;
            distrust.forget().map_err(at(&folders.queue))?;
            try_recover(segments, folders, true)
        }
        tried => tried,
    }
}

fn set_queue_aside(folders: &Folders, what: &str, why: &str) -> Result<(), SpoolError> {
    let aside = folders.queue.with_extension(format!("{what}-{}", ulid::Ulid::new()));
    tracing::error!(why, aside = %aside.display(), "the queue is {what}; set aside, rebuilding it from the log");
    std::fs::rename(&folders.queue, &aside).map_err(at(&folders.queue))
}

/// sled may panic on damage that it does not expect, and meets it only where it reads.
fn try_recover(segments: &Segments, folders: &Folders, is_rebuild: bool) -> Result<Recovered, SpoolError> {
    let tried = catch_unwind(AssertUnwindSafe(|| {
        let mut report = Report { rebuilt: is_rebuild, ..Report::default() };
        let queue = open_queue(segments, folders, &mut report)?;
        // One of which nothing is on the disk yet was made anew by a start that did not get far.
        let is_new = queue.position()?.0 == 0 && segments.oldest().is_some();
        if report.rebuilt || is_new {
            queue.set_asks_rows(true)?;
        }
        report.asks_rows = queue.asks_rows()?;
        let (head, seen_until) = replay(segments, &queue, folders, &mut report)?;
        check_places(segments, &queue, &mut report)?;
        check_large_files(&queue, folders, &mut report)?;
        Ok(Recovered { queue, head, seen_until, report })
    }));
    tried.unwrap_or_else(|_| Err(QueueError::Io(io::Error::other("sled gave up on its files")).into()))
}

/// Opens the projection. One that is ahead of the log is of no use.
fn open_queue(segments: &Segments, folders: &Folders, report: &mut Report) -> Result<Queue, SpoolError> {
    let queue = Queue::open(&folders.queue)?;
    queue.check()?;
    if !queue_is_ahead(segments, &queue)? {
        return Ok(queue);
    }
    list_misplaced(segments, &queue, folders)?;
    drop(queue);
    set_queue_aside(folders, "ahead", "the newest part of the log is missing")?;
    report.rebuilt = true;
    Ok(Queue::open(&folders.queue)?)
}

/// A note for the next start that the queue was found damaged. Left too when the thread that holds it panics.
pub struct Distrust(PathBuf);

impl Distrust {
    /// `dir`: the spool's.
    pub fn of(dir: &Path) -> Distrust {
        Distrust(dir.join("queue-damaged"))
    }

    /// Best effort: without it the next start finds the damage itself, or not.
    pub fn note(&self) {
        if let Err(error) = std::fs::write(&self.0, "") {
            tracing::warn!(%error, "that the queue is damaged can't be noted");
        }
    }

    fn is_noted(&self) -> bool {
        self.0.exists()
    }

    fn forget(&self) -> io::Result<()> {
        match std::fs::remove_file(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }
}

impl Drop for Distrust {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.note();
        }
    }
}

pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> SpoolError {
    let path = path.to_owned();
    move |source| SpoolError::from_io(path, source)
}

/// Removes the files of purged entries; those gone already are fine.
pub fn remove_files(dir: &Path, names: &[String]) -> io::Result<()> {
    for name in names {
        match std::fs::remove_file(dir.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Entries whose place is in no segment: files of the log are missing, or were cut.
fn misplaced(segments: &Segments, queue: &Queue) -> Result<Vec<EntryId>, QueueError> {
    let mut sizes = HashMap::new();
    queue.misplaced(|generation, end| {
        let size =
            sizes.entry(generation).or_insert_with(|| segments.get(generation).map(|found| found.size));
        size.is_some_and(|size| end < size)
    })
}

/// Reports entries whose records are gone; they stay, and stay damaged.
fn check_places(segments: &Segments, queue: &Queue, report: &mut Report) -> Result<(), SpoolError> {
    let lost = misplaced(segments, queue)?;
    if !lost.is_empty() {
        tracing::error!(
            objects = lost.len(),
            "files of the log are missing, and acknowledged objects with them"
        );
    }
    report.lost.extend(lost);
    Ok(())
}

/// Lists what a queue that is about to be set aside knows and the log does not hold any more.
fn list_misplaced(segments: &Segments, queue: &Queue, folders: &Folders) -> Result<(), SpoolError> {
    let mut lost = Vec::new();
    for id in misplaced(segments, queue)? {
        lost.extend(queue.state(id)?);
    }
    if lost.is_empty() {
        return Ok(());
    }
    tracing::error!(
        objects = lost.len(),
        "the newest part of the log is missing, and acknowledged objects with it"
    );
    damage::list(&folders.review, &lost).map_err(at(&folders.review))
}

/// Large files that no record names go to `review/`; entries whose file is gone are reported.
fn check_large_files(queue: &Queue, folders: &Folders, report: &mut Report) -> Result<(), SpoolError> {
    // Names too must be on the disk before anybody counts on them.
    let sync = || File::open(&folders.large)?.sync_all();
    crate::failpoint::sync("recovered_directory", sync).map_err(at(&folders.large))?;
    for file in std::fs::read_dir(&folders.large).map_err(at(&folders.large))? {
        let file = file.map_err(at(&folders.large))?;
        let name = file.file_name().to_string_lossy().into_owned();
        if !queue.has_large(&name)? {
            std::fs::rename(file.path(), folders.review.join(&name)).map_err(at(&file.path()))?;
            report.unnamed += 1;
        }
    }
    let missing = queue.large_entries(|name| folders.large.join(name).exists())?;
    for id in missing {
        tracing::error!(entry = %id, "the file of an acknowledged object is missing");
        report.lost.push(id);
    }
    Ok(())
}

/// Whether the projection is ahead of the log: the log was replaced or cut behind its back.
fn queue_is_ahead(segments: &Segments, queue: &Queue) -> Result<bool, SpoolError> {
    let position: LogPosition = queue.position()?;
    Ok(position.0 != 0 && segments.get(position.generation()).is_none())
}
