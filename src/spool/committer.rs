//! The committer: one thread that makes everything durable. It takes all that waits, appends it,
//! syncs once, then answers; it starts at once when idle and waits for nobody. It also sees every
//! object in order, so it is where duplicates and conflicts are decided.

use std::fs::File;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use tokio::sync::oneshot;

use super::batch::{Batch, Verdict};
use super::comparer::Compared;
use super::entry::{EntryId, Fact, LogPosition, SpoolEntry};
use super::projection::Published;
use super::segment::{FIRST_RECORD, PAGE, Segment};
use super::stage::Staged;
use super::{Durability, Shared, SpoolError};
use crate::failpoint;

/// Records in one batch; the staging budget bounds their bytes.
const MAX_BATCH: usize = 1024;
/// How long a fact that asked for no sync may wait for one: longer than a sender takes for its next
/// object, whose sync it then shares, and too short to be felt by who waits for a delivery.
const SOON: Duration = Duration::from_millis(5);

pub type Answer<T> = oneshot::Sender<Result<T, SpoolError>>;

pub enum Job {
    Object {
        offered: Offered,
        answer: Answer<(Committed, Option<Offered>)>,
    },
    Facts {
        facts: Vec<Fact>,
        durability: Durability,
        answer: Answer<LogPosition>,
    },
    /// Copies an entry's record forward, so that its segment can be recycled.
    Copy {
        id: EntryId,
        answer: Answer<LogPosition>,
    },
    /// Frees those entries that may still be freed once everything before is known.
    Free {
        ids: Vec<EntryId>,
        answer: Answer<LogPosition>,
    },
    /// Notes what comparing a conflict has shown, and frees it where it is none.
    Compared {
        compared: Compared,
        answer: Answer<LogPosition>,
    },
    Stop,
}

/// An object to be made durable: its entry, the Part 10 header that goes before its data set, and
/// the data set.
pub struct Offered {
    pub entry: Box<SpoolEntry>,
    pub prefix: Bytes,
    pub staged: Staged,
    /// Damaged entries of the same object, freed once this one is written.
    pub replaces: Vec<EntryId>,
}

/// What a commit says to its object. A duplicate comes back beside it, for the case that what it
/// duplicates can't be read any more.
#[derive(Debug, Clone)]
pub struct Committed {
    pub id: EntryId,
    pub verdict: Verdict,
}

pub struct Committer {
    pub shared: Arc<Shared>,
    pub jobs: Receiver<Job>,
    pub projector: Sender<Published>,
    pub large_dir: File,
    pub position: Head,
    /// Written, not synced: facts that wait for the next sync.
    pub unsynced: Vec<Published>,
    /// The folder of large files has names that no sync reached.
    pub large_unsynced: bool,
}

/// Where the next record goes.
pub struct Head {
    pub segment: Arc<Segment>,
    pub offset: u64,
    pub sequence: u64,
    pub acked_through: u64,
}

impl Committer {
    pub fn run(mut self) {
        let mut dirty_since: Option<Instant> = None;
        loop {
            let wait =
                dirty_since.map_or(Duration::from_secs(3600), |since| SOON.saturating_sub(since.elapsed()));
            let first = match self.jobs.recv_timeout(wait) {
                Ok(Job::Stop) | Err(RecvTimeoutError::Disconnected) => break,
                Ok(job) => Some(job),
                Err(RecvTimeoutError::Timeout) => None,
            };
            let mut stop = false;
            let mut batch = Batch::new(self.position.sequence);
            let mut next = first;
            while let Some(job) = next.take() {
                if matches!(job, Job::Stop) {
                    stop = true;
                    break;
                }
                self.take(job, &mut batch);
                if batch.len() < MAX_BATCH {
                    next = self.jobs.try_recv().ok();
                }
            }
            let must_sync = batch.must_sync() || dirty_since.is_some_and(|since| since.elapsed() >= SOON);
            self.commit(batch, must_sync);
            dirty_since = match self.unsynced.is_empty() {
                true => None,
                false => dirty_since.or_else(|| Some(Instant::now())),
            };
            if stop || self.shared.failure().is_some() {
                break;
            }
        }
        self.close();
    }

    /// Syncs what is left and refuses what still comes.
    fn close(mut self) {
        if self.shared.failure().is_none() {
            self.commit(Batch::new(self.position.sequence), true);
        }
        let reason = self.shared.failure().unwrap_or_else(|| "the node is stopping".to_owned());
        while let Ok(job) = self.jobs.try_recv() {
            refuse(job, SpoolError::Failed(reason.clone()));
        }
    }

    fn take(&mut self, job: Job, batch: &mut Batch) {
        if let Some(reason) = self.shared.failure() {
            return refuse(job, SpoolError::Failed(reason));
        }
        match job {
            Job::Object { offered, answer } => match self.shared.judge(&offered, batch) {
                Ok(verdict) => batch.object(offered, verdict, answer),
                Err(error) => drop(answer.send(Err(error))),
            },
            Job::Facts { facts, durability, answer } => batch.facts(facts, durability, answer),
            Job::Copy { id, answer } => {
                self.settle(batch);
                match self.shared.copy_of(id) {
                    Ok(copy) => batch.copy(copy, answer),
                    Err(error) => drop(answer.send(Err(error))),
                }
            }
            Job::Free { ids, answer } => {
                self.settle(batch);
                match self.shared.freeable(&ids) {
                    Ok(purged) => batch.facts(purged, Durability::Synced, answer),
                    Err(error) => return drop(answer.send(Err(error))),
                }
                // What comes next must find them gone.
                self.settle(batch);
            }
            Job::Compared { compared, answer } => {
                self.settle(batch);
                batch.facts(vec![self.shared.concluded(compared)], Durability::Synced, answer);
                failpoint::pass("compared");
                self.settle(batch);
            }
            Job::Stop => {}
        }
    }

    /// Commits what the batch has so far: who asks what became of an entry must find it in the
    /// projection.
    fn settle(&mut self, batch: &mut Batch) {
        let so_far = std::mem::replace(batch, Batch::new(0));
        self.commit(so_far, true);
        *batch = Batch::new(self.position.sequence);
    }

    /// Appends the batch, syncs, publishes, answers.
    fn commit(&mut self, mut batch: Batch, must_sync: bool) {
        if batch.is_empty() && (!must_sync || self.unsynced.is_empty()) {
            return;
        }
        let begun = Instant::now();
        let records = batch.records.len();
        self.large_unsynced |= batch.has_large();
        let written = self.append(&mut batch);
        if let Err(error) = written {
            self.shared.write_failed(&error);
            // What was written counts as received, though nobody is told: followers will read it,
            // and a resend is a duplicate.
            self.unsynced.append(&mut batch.published);
            return batch.fail(|| {
                SpoolError::from_io(self.head_path(), io::Error::new(error.kind(), error.to_string()))
            });
        }
        failpoint::pass("record_appended");
        let sync = must_sync && self.shared.options.sync;
        if sync && let Err(error) = self.sync() {
            let reason = format!("sync failed: {error}");
            self.shared.fail(&reason);
            return batch.fail(|| SpoolError::Failed(reason.clone()));
        }
        failpoint::pass("record_synced");
        self.unsynced.append(&mut batch.published);
        if must_sync {
            self.head_acked();
            self.publish();
        }
        batch.answer();
        if must_sync {
            self.project();
        }
        crate::telemetry::metrics::spool_commit(begun.elapsed().as_secs_f64(), records);
    }

    /// What of the last write got there goes: its numbers are used again, and nothing of it may stand up behind what is
    /// written next.
    fn cut_off_rest(&self) {
        let Head { segment, offset, .. } = &self.position;
        if let Err(error) = segment.cut_off(*offset) {
            self.shared.fail(&format!("half a write can't be taken back: {error}"));
        }
    }

    fn head_path(&self) -> std::path::PathBuf {
        self.position.segment.path.clone()
    }

    fn head_acked(&mut self) {
        self.position.acked_through = self.position.sequence - 1;
    }

    fn sync(&mut self) -> io::Result<()> {
        if self.large_unsynced {
            failpoint::sync("large_directory", || self.large_dir.sync_all())?;
            self.large_unsynced = false;
            failpoint::pass("large_directory_synced");
        }
        failpoint::sync("log", || self.position.segment.file.sync_data())
    }

    /// Tells those who look entries up, and followers, what is durable: before the answers, so that
    /// who was answered finds it.
    fn publish(&self) {
        let Some(last) = self.unsynced.last() else { return };
        for published in &self.unsynced {
            self.shared.recent.publish(published);
        }
        self.shared.durable.send_replace(last.after);
    }

    /// Hands what is durable to the projection. Blocks while that is far behind: the log must not
    /// outrun it without bound.
    fn project(&mut self) {
        for published in self.unsynced.drain(..) {
            // The projector ends only after us.
            let _ = self.projector.send(published);
        }
    }

    /// Gives each record its sequence number and place, and writes them in as few writes as fit.
    fn append(&mut self, batch: &mut Batch) -> io::Result<()> {
        let mut begin = 0;
        while begin < batch.records.len() {
            let taken = self.fill_segment(batch, begin)?;
            if taken == 0 {
                if !self.next_segment(batch, begin)? {
                    self.shared.disk.note_full();
                    batch.refuse_objects_from(begin);
                    if begin < batch.records.len() && !self.next_segment_for_facts()? {
                        return Err(io::Error::new(
                            io::ErrorKind::StorageFull,
                            "no segment left for the log",
                        ));
                    }
                }
                continue;
            }
            begin += taken;
        }
        Ok(())
    }

    /// Writes records from `begin` on as far as the segment has room; returns how many.
    fn fill_segment(&mut self, batch: &mut Batch, begin: usize) -> io::Result<usize> {
        let (mut offset, mut sequence) = (self.position.offset, self.position.sequence);
        let mut pieces: Vec<Bytes> = Vec::new();
        let mut taken = 0;
        for record in &mut batch.records[begin..] {
            let length = record.length();
            if offset + length > self.position.segment.size {
                break;
            }
            record.place(&self.position.segment, offset, sequence, self.position.acked_through);
            record.pieces(self.position.segment.log, &mut pieces);
            offset += length;
            sequence += 1;
            taken += 1;
        }
        if taken > 0 {
            pieces.extend(rest_of_page(offset, self.position.segment.size));
        }
        write_all(&self.position.segment.file, &pieces, self.position.offset)
            .inspect_err(|_| self.cut_off_rest())?;
        (self.position.offset, self.position.sequence) = (offset, sequence);
        batch.note_published(begin, taken);
        Ok(taken)
    }

    fn next_segment(&mut self, batch: &Batch, begin: usize) -> io::Result<bool> {
        // Objects leave the last spare to facts: purges must go on when the disk is full.
        let keep = usize::from(batch.records[begin].is_object());
        self.roll(keep)
    }

    fn next_segment_for_facts(&mut self) -> io::Result<bool> {
        self.roll(0)
    }

    fn roll(&mut self, keep: usize) -> io::Result<bool> {
        let segments = &self.shared.segments;
        if segments.spare_count() <= keep {
            match keep {
                // Facts may have what is left.
                0 => segments.prepare()?,
                // Objects are refused below when this fails.
                _ => _ = self.shared.prepare_segment(),
            }
        }
        let generation = self.position.segment.generation + 1;
        // What is in the full segment must be durable before the next one can matter.
        if self.shared.options.sync {
            failpoint::sync("full_segment", || self.position.segment.file.sync_data()).inspect_err(
                |error| {
                    self.shared.fail(&format!("sync failed: {error}"));
                },
            )?;
        }
        let Some(segment) = segments.begin(generation, keep)? else {
            return Ok(false);
        };
        self.position.segment = segment;
        self.position.offset = FIRST_RECORD;
        failpoint::pass("segment_begun");
        self.shared.wake_maintenance();
        Ok(true)
    }
}

fn refuse(job: Job, error: SpoolError) {
    match job {
        Job::Object { answer, .. } => drop(answer.send(Err(error))),
        Job::Facts { answer, .. }
        | Job::Copy { answer, .. }
        | Job::Free { answer, .. }
        | Job::Compared { answer, .. } => drop(answer.send(Err(error))),
        Job::Stop => {}
    }
}

/// Zeros up to the end of the page: a page that is not in the cache would be read before a part of
/// it could be written.
fn rest_of_page(end: u64, size: u64) -> Option<Bytes> {
    static ZEROS: [u8; PAGE as usize] = [0; PAGE as usize];
    let rest = end.next_multiple_of(PAGE).min(size) - end;
    (rest > 0).then(|| Bytes::from_static(&ZEROS[..rest as usize]))
}

/// Writes all pieces one after the other at `offset`.
fn write_all(file: &File, pieces: &[Bytes], mut offset: u64) -> io::Result<()> {
    const MOST: usize = 1024;
    let mut from = 0;
    let mut skip = 0;
    while from < pieces.len() {
        let until = (from + MOST).min(pieces.len());
        let slices: Vec<IoSlice<'_>> = pieces[from..until]
            .iter()
            .enumerate()
            .map(|(index, piece)| IoSlice::new(if index == 0 { &piece[skip..] } else { piece }))
            .collect();
        let mut written = match rustix::io::pwritev(file, &slices, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => written,
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        offset += written as u64;
        while from < until && written >= pieces[from].len() - skip {
            written -= pieces[from].len() - skip;
            (from, skip) = (from + 1, 0);
        }
        skip += written;
    }
    Ok(())
}
