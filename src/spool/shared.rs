//! What the spool's threads and handles share, and the look-ups over log and projection.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use crossbeam_channel::Sender;
use parking_lot::Mutex;
use sha2::Digest as _;
use tokio::sync::{oneshot, watch};

use super::batch::{Batch, Copy, Verdict};
use super::capacity::{Capacity, Disk};
use super::committer::{Answer, Job, Offered};
use super::comparer::{self, Compared};
use super::damage::{Damage, Missing};
use super::entry::{Digest, EntryId, Fact, LogPosition};
use super::failure::Failure;
use super::queue::Queue;
use super::recent::{Recent, Recently};
use super::record::Payload;
use super::scan::{self, Found, Record};
use super::segment::{FIRST_RECORD, Segment, Segments};
use super::stage::Room;
use super::state::{DeliveryPolicy, EntryState, Place};
use super::{Followed, SpoolError, SpoolOptions};
use crate::clock::Clock;
use crate::dicom::Uid;

pub struct Shared {
    pub options: SpoolOptions,
    pub clock: Arc<dyn Clock>,
    pub segments: Segments,
    pub queue: Queue,
    pub recent: Recent,
    pub room: Room,
    pub jobs: Sender<Job>,
    /// The position after the last durable record.
    pub durable: watch::Sender<LogPosition>,
    /// The position after the last record that the projection has applied.
    pub applied: watch::Sender<LogPosition>,
    pub failing: Arc<Failure>,
    /// The storage failed in an earlier run, not long of run time ago.
    pub failed_before: AtomicBool,
    pub policies: parking_lot::RwLock<std::collections::HashMap<String, DeliveryPolicy>>,
    pub disk: Arc<Disk>,
    pub damage: Arc<Damage>,
    /// Resends whose held copies are read at the same time.
    pub checks: tokio::sync::Semaphore,
    /// Bytes that may yet be read ahead for those who send objects.
    pub loaded: Arc<tokio::sync::Semaphore>,
    pub maintenance: Sender<()>,
    /// Wakes whoever compares conflicts.
    pub comparer: Sender<()>,
    /// Wakes the projector from its pause.
    pub hurry: Sender<()>,
    pub index_cursor: AtomicU64,
    pub route_cursor: AtomicU64,
    pub write_errors: Mutex<Vec<Instant>>,
    pub closing: AtomicBool,
    /// Held for as long as the spool is open.
    pub _lock: File,
}

/// Write errors within a minute after which nothing is taken any more.
const WRITE_ERRORS: usize = 3;

impl Shared {
    pub fn failure(&self) -> Option<String> {
        self.failing.why()
    }

    /// Closes the spool for good: nothing is acknowledged after a storage failure.
    pub fn fail(&self, reason: &str) {
        self.failing.fail(reason);
    }

    /// A write failed before its sync. No space is answered and passes; repeated errors close.
    pub fn write_failed(&self, error: &io::Error) {
        tracing::error!(%error, "a write to the log failed; its objects were not acknowledged");
        if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            return self.disk.note_full();
        }
        let mut errors = self.write_errors.lock();
        errors.retain(|at| at.elapsed().as_secs() < 60);
        errors.push(Instant::now());
        if errors.len() >= WRITE_ERRORS {
            self.fail(&format!("{WRITE_ERRORS} writes failed within a minute: {error}"));
        }
    }

    /// How full the disk is at this moment, and whether it counts as full.
    pub fn room_now(&self) -> (Capacity, bool) {
        self.disk.look(self.segments.spare_bytes())
    }

    /// Makes a spare segment, unless that would fill the disk; whether there is one more now.
    pub fn prepare_segment(&self) -> bool {
        if !self.disk.fits(self.options.segment_size) {
            return false;
        }
        let prepared = self.segments.prepare();
        if let Err(error) = &prepared {
            tracing::warn!(%error, "a segment of the log can't be prepared");
        }
        prepared.is_ok()
    }

    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Facts from `from` to `until`, at most `limit`; reads the log.
    pub fn facts(
        &self,
        from: LogPosition,
        until: LogPosition,
        limit: usize,
    ) -> Result<Vec<Followed>, SpoolError> {
        let mut facts = Vec::new();
        for segment in self.segments.from(from.generation()) {
            let mut offset =
                if segment.generation == from.generation() { from.offset() } else { FIRST_RECORD };
            while facts.len() < limit && LogPosition::at(segment.generation, offset) < until {
                let found = scan::record_at(&segment.file, &segment, offset)
                    .map_err(|source| SpoolError::from_io(segment.path.clone(), source))?;
                let next = match found {
                    Found::Record(record) => {
                        let after = record.after();
                        facts.push(Followed {
                            after,
                            is_copy: record.meta.copied.is_some(),
                            fact: Arc::new(record.meta.fact),
                        });
                        Some(after.offset())
                    }
                    Found::Void(header) => Some(offset + header.record_length()),
                    // Damage was reported at start-up; followers go past it.
                    Found::Nothing | Found::Damaged(_) => {
                        scan::next_intact(&segment.file, &segment, offset, 0)
                            .map_err(|source| SpoolError::from_io(segment.path.clone(), source))?
                    }
                };
                let Some(next) = next else { break };
                offset = next;
            }
        }
        Ok(facts)
    }

    pub fn wake_maintenance(&self) {
        let _ = self.maintenance.try_send(());
    }

    pub fn wake_comparer(&self) {
        let _ = self.comparer.try_send(());
    }

    /// What an object is to those held already and those before it in its batch (idempotency: the
    /// same SOP Instance UID, transfer syntax and digest are the same object).
    /// What it replaces does not count.
    pub fn judge(&self, offered: &Offered, batch: &Batch) -> Result<Verdict, SpoolError> {
        let entry = &offered.entry;
        let uid = &entry.key.sop_instance_uid;
        let same = |digest: &Digest, syntax: &str| {
            *digest == entry.data_set_sha256 && syntax == entry.transfer_syntax_uid
        };
        let mut held = self.held_with_uid(uid)?;
        held.retain(|(id, ..)| !offered.replaces.contains(id));
        if let Some((id, ..)) = held.iter().find(|(_, digest, syntax)| same(digest, syntax)) {
            return Ok(Verdict::Duplicate(*id));
        }
        let siblings = batch.siblings(uid);
        let twin = siblings.iter().find(|sibling| same(&sibling.digest, &sibling.transfer_syntax_uid));
        if let Some(twin) = twin {
            return Ok(Verdict::Duplicate(twin.id));
        }
        // In the order of arrival it stands where what it replaces stood.
        let replaced = offered.replaces.iter().min();
        let before = |id: &EntryId| replaced.is_none_or(|replaced| id < replaced);
        let mut others = held.iter().map(|(id, ..)| *id).chain(siblings.iter().map(|sibling| sibling.id));
        Ok(others.find(before).map_or(Verdict::New, Verdict::Conflict))
    }

    /// Held entries with this SOP Instance UID, oldest first.
    pub fn held_with_uid(&self, uid: &Uid) -> Result<Vec<(EntryId, Digest, String)>, SpoolError> {
        // Recent first: what leaves it meanwhile is in the queue by then.
        let recent = self.recent.with_uid(uid);
        let mut held = self.queue.with_uid(uid)?;
        held.retain(|(id, ..)| !self.recent.is_purged(*id));
        for found in recent {
            if held.iter().all(|(id, ..)| *id != found.0) {
                held.push(found);
            }
        }
        held.sort_by_key(|(id, ..)| *id);
        Ok(held)
    }

    /// Where an entry's newest record lies, and its large file's name.
    pub fn locate(&self, id: EntryId) -> Result<(Place, Option<String>), SpoolError> {
        match self.recent.lookup(id) {
            Recently::At(place, large) => return Ok((place, large)),
            Recently::Purged => return Err(SpoolError::Freed(id)),
            Recently::Nothing => {}
        }
        if let Some(state) = self.queue.state(id)? {
            return Ok((state.place, state.large));
        }
        if self.damage.is_listed(id) {
            return Err(SpoolError::Damaged { id, detail: "the log lost it".to_owned() });
        }
        let remembered = id.0 <= self.queue.sequence()?;
        Err(if remembered { SpoolError::Freed(id) } else { SpoolError::Unknown(id) })
    }

    /// Reads an entry's record; the segment stays as it is while it is held.
    pub fn record(&self, id: EntryId) -> Result<(Arc<Segment>, Record), SpoolError> {
        // A copy may move the record between the look-up and the read.
        let mut last = None;
        for _ in 0..3 {
            let (place, _) = self.locate(id)?;
            if let Some(segment) = self.segments.get(place.generation) {
                match self.record_at(&segment, place, id)? {
                    Some(record) => return Ok((segment, record)),
                    None => last = Some(place),
                }
            }
        }
        let detail = format!("no intact record where it should be ({last:?})");
        Err(SpoolError::Damaged { id, detail })
    }

    fn record_at(&self, segment: &Segment, place: Place, id: EntryId) -> Result<Option<Record>, SpoolError> {
        let found = scan::record_at(&segment.file, segment, u64::from(place.offset))
            .map_err(|source| SpoolError::from_io(segment.path.clone(), source))?;
        Ok(match found {
            Found::Record(record) => match &record.meta.fact {
                Fact::Received(entry) if entry.id == id => Some(*record),
                _ => None,
            },
            Found::Nothing | Found::Damaged(_) | Found::Void(_) => None,
        })
    }

    /// Waits until the projection has applied all that is durable. Blocks.
    pub fn catch_up(&self) -> Result<(), SpoolError> {
        let durable = *self.durable.borrow();
        let _ = self.hurry.try_send(());
        while *self.applied.borrow() < durable {
            if let Some(reason) = self.failure() {
                return Err(SpoolError::Failed(reason));
            }
            std::thread::sleep(std::time::Duration::from_micros(100));
        }
        Ok(())
    }

    /// Has the committer do something, and waits for it. Blocks.
    pub fn ask(&self, job: impl FnOnce(Answer<LogPosition>) -> Job) -> Result<LogPosition, SpoolError> {
        let closed = || SpoolError::Failed("the log is closed".to_owned());
        let (answer, answered) = oneshot::channel();
        self.jobs.send(job(answer)).map_err(|_| closed())?;
        answered.blocking_recv().map_err(|_| closed())?
    }

    /// Those of the entries that may be freed at this moment, as facts that free them: since they
    /// were chosen, one may have been sent on its way again.
    pub fn freeable(&self, ids: &[EntryId]) -> Result<Vec<Fact>, SpoolError> {
        self.catch_up()?;
        let (now, policies) = (self.clock.now(), self.policies.read());
        let mut purged = Vec::new();
        for id in ids {
            let Some(state) = self.queue.state(*id)? else { continue };
            if state.is_purgeable(|destination| policies.get(destination).copied()) {
                purged.push(Fact::Purged { entry: *id, reason: "delivered".to_owned(), at: now });
            }
        }
        Ok(purged)
    }

    /// What the log is told about a conflict that was compared. A copy goes only while that of which
    /// it is one is held.
    pub fn concluded(&self, compared: Compared) -> Fact {
        let Compared { entry, with, finding } = compared;
        let at = self.clock.now();
        let finding = finding.or_else(|| self.locate(with).is_err().then(|| comparer::freed(with)));
        match finding {
            Some(finding) => Fact::Compared { entry, finding, at },
            None => Fact::Purged { entry, reason: format!("the same as entry {with}"), at },
        }
    }

    /// Everything that must go into the record that carries an entry forward.
    pub fn copy_of(&self, id: EntryId) -> Result<Copy, SpoolError> {
        self.catch_up()?;
        let state = self.queue.state(id)?.ok_or(SpoolError::Freed(id))?;
        let (segment, record) = self.record(id)?;
        let mut prefix = read_inline(&segment, &record, id)?;
        let data_set = prefix.split_off(record.header.prefix_length as usize);
        let content = (record.header.payload == Payload::Inline).then_some(data_set);
        let Fact::Received(entry) = record.meta.fact else { return Err(SpoolError::Unknown(id)) };
        Ok(Copy { entry: *entry, state, header: record.header, prefix, content })
    }

    pub fn large_path(&self, name: &str) -> PathBuf {
        self.room.large_dir.join(name)
    }

    pub fn listed(&self) -> Result<Vec<Missing>, SpoolError> {
        self.damage.lists().map_err(|source| SpoolError::from_io(self.options.dir.join("review"), source))
    }

    pub fn list_missing(&self, missing: &[Missing]) -> Result<(), SpoolError> {
        let listed = self.damage.list(missing);
        listed.map_err(|source| SpoolError::from_io(self.options.dir.join("review"), source))
    }

    /// The slowest of those who follow the log.
    pub fn slowest_cursor(&self) -> LogPosition {
        let index = self.index_cursor.load(Ordering::Acquire);
        LogPosition(index.min(self.route_cursor.load(Ordering::Acquire)))
    }

    /// The state as the projection knows it.
    pub fn state(&self, id: EntryId) -> Result<EntryState, SpoolError> {
        self.queue.state(id)?.ok_or(SpoolError::Unknown(id))
    }
}

/// Prefix and, where the log holds it, data set of a record; checked against its digest before it
/// is written again.
fn read_inline(segment: &Segment, record: &Record, id: EntryId) -> Result<Bytes, SpoolError> {
    let header = &record.header;
    let inline = header.payload == Payload::Inline;
    let data_set_length = if inline { header.data_set_length } else { 0 };
    let mut bytes = vec![0; (u64::from(header.prefix_length) + data_set_length) as usize];
    segment
        .file
        .read_exact_at(&mut bytes, record.part10_offset())
        .map_err(|source| SpoolError::from_io(segment.path.clone(), source))?;
    let digest = sha2::Sha256::digest(&bytes[header.prefix_length as usize..]);
    if inline && digest[..] != header.data_set_sha256 {
        return Err(SpoolError::Damaged { id, detail: "its bytes do not have their SHA-256".to_owned() });
    }
    Ok(bytes.into())
}
