//! The single place of durability: an append-only log with its committer, and the projection
//! (queue, duplicates, places) derived from it. Only [`crate::ingest`] stages objects; doors come
//! here but to read.
//!
//! Bytes go [`stage`] → [`committer`] (one thread, one sync per batch) → a [`segment`] or a large
//! file; what is durable goes on to the [`projection`] and to followers. [`recovery`] replays,
//! [`comparer`] looks whether conflicts are none,
//! [`maintenance`] frees and recycles. `docs/decisions/0001-append-only-log.md` tells why.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::{oneshot, watch};

mod batch;
mod capacity;
mod committer;
mod comparer;
mod damage;
mod disk_view;
pub mod entry;
mod error;
mod failure;
mod log_id;
mod maintenance;
mod open;
mod projection;
mod queue;
mod reader;
mod recent;
mod record;
mod recovery;
mod replay;
mod rescued;
mod scan;
mod scrub;
mod segment;
mod segment_head;
mod shared;
mod stage;
mod state;
mod torn;

pub use batch::Verdict;
pub use capacity::Capacity;
pub use committer::Committed;
pub use damage::Missing;
pub use entry::{
    Delivery, DeliveryState, Digest, EntryId, Fact, Finding, LogPosition, Origin, Outcome, SpoolEntry,
};
pub use error::SpoolError;
pub use projection::Counts;
pub use reader::{CheckBy, ObjectReader};
pub use recovery::Report;
pub use stage::{Stage, Staged};
pub use state::{DeliveryPolicy, EntryState};

/// The log's records as they lie on the disk, for what looks at a log that no spool has open.
pub mod format {
    pub use super::disk_view::ReadAt;
    pub use super::log_id::LogId;
    pub use super::record::{ALIGNMENT, HEADER_LENGTH, MAX_META, Meta, Payload, RecordHeader};
    pub use super::scan::{Found, Record, has_digest, looks_begun, next_intact, record_at};
    pub use super::segment::{FIRST_RECORD, Segment};
}

use crate::clock::Millis;
use crate::dicom::Uid;
use committer::{Job, Offered};
use scrub::Held;
use shared::Shared;

/// Cheap to clone; every clone speaks to the same log. [`Spool::close`] ends it.
#[derive(Clone)]
pub struct Spool {
    shared: Arc<Shared>,
    threads: Arc<open::Threads>,
}

#[derive(Debug, Clone)]
pub struct SpoolOptions {
    pub dir: PathBuf,
    /// Largest object kept in the log itself; longer ones get a file of their own.
    pub inline_limit: u64,
    pub segment_size: u64,
    /// How long delivered objects stay.
    pub retention: Duration,
    pub high_watermark: f64,
    pub critical_watermark: f64,
    /// `false` is `durability = "relaxed"`: answers do not wait for the sync.
    pub sync: bool,
    /// Permits tmpfs, overlayfs and network file systems.
    pub any_file_system: bool,
}

/// Who follows the log; segments are recycled only below the slowest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cursor {
    Index,
    Route,
}

/// How soon a fact must be on disk when [`Spool::append`] returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Synced.
    Synced,
    /// With the next sync, a fraction of a second at most. Losing it means doing something twice.
    Soon,
}

/// A fact and the position after it: what a follower stores as its cursor.
#[derive(Debug, Clone)]
pub struct Followed {
    pub fact: Arc<Fact>,
    pub after: LogPosition,
    /// A `Received` that was seen before: the entry moved within the log. Only a follower that
    /// starts from the beginning needs it.
    pub is_copy: bool,
}

/// A storage commitment transaction that waits for its report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenCommitment {
    pub transaction_uid: Uid,
    pub destination: String,
    pub entries: Vec<EntryId>,
    pub requested_at: Millis,
}

/// How the spool stands, for `spool status`, readiness and metrics.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    pub objects: u64,
    pub bytes: u64,
    pub unrouted: u64,
    pub conflicts: u64,
    pub segments: usize,
    pub spare_segments: usize,
    /// 0 to 1; the fuller of bytes and inodes.
    pub capacity_ratio: f64,
    pub free_bytes: u64,
    /// Objects are refused for want of room.
    pub full: bool,
    pub failure: Option<String>,
    /// Acknowledged objects that can't be read any more.
    pub damaged: u64,
}

impl Spool {
    /// Begins to gather one object's data set.
    pub fn stage(&self) -> Stage {
        Stage::new(self.shared.room.clone())
    }

    /// Makes a staged object durable, with the Part 10 header that goes before its data set.
    /// `entry.id` is given by the log. Returns only after the sync; a duplicate's only after its
    /// original's, and after the disk was seen to have the original's bytes. Where it has not, the
    /// duplicate takes the original's place, which is freed with the same sync.
    pub async fn commit(
        &self,
        mut entry: SpoolEntry,
        prefix: Bytes,
        staged: Staged,
    ) -> Result<Committed, SpoolError> {
        entry.id = EntryId(0);
        entry.conflict_with = None;
        entry.data_set_sha256 = staged.digest;
        entry.data_set_length = staged.length;
        entry.prefix_length = prefix.len() as u32;
        let mut offered = Offered { entry: Box::new(entry), prefix, staged, replaces: Vec::new() };
        loop {
            let (committed, returned) = self.ask(|answer| Job::Object { offered, answer }).await?;
            let (Verdict::Duplicate(original), Some(duplicate)) = (committed.verdict, returned) else {
                return Ok(committed);
            };
            offered = duplicate;
            match self.look(original).await? {
                Held::Intact => return Ok(committed),
                Held::Damaged => offered.replaces.push(original),
                // Who freed it may have had less luck with what takes its place.
                Held::Gone => {}
            }
        }
    }

    /// What the disk has of an entry.
    async fn look(&self, id: EntryId) -> Result<Held, SpoolError> {
        // Each reads a quarter of a MiB at a time.
        let _turn = self.shared.checks.acquire().await.map_err(|_| self.closed())?;
        self.blocking(move |shared| scrub::look(shared, id)).await
    }

    /// Appends facts about entries (never `Received`, which only a commit makes), in order.
    pub async fn append(&self, facts: Vec<Fact>, durability: Durability) -> Result<LogPosition, SpoolError> {
        self.ask(|answer| Job::Facts { facts, durability, answer }).await
    }

    async fn ask<T>(&self, job: impl FnOnce(committer::Answer<T>) -> Job) -> Result<T, SpoolError> {
        let (answer, answered) = oneshot::channel();
        let mut job = job(answer);
        // The channel is bounded; waiting for room must not hold a runtime thread.
        while let Err(refused) = self.shared.jobs.try_send(job) {
            match refused {
                crossbeam_channel::TrySendError::Full(back) => job = back,
                crossbeam_channel::TrySendError::Disconnected(_) => return Err(self.closed()),
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        answered.await.map_err(|_| self.closed())?
    }

    fn closed(&self) -> SpoolError {
        SpoolError::Failed(self.shared.failure().unwrap_or_else(|| "the node is stopping".to_owned()))
    }

    /// Facts after `from`, oldest first, durable ones only; waits until there is at least one, at
    /// most `limit`. Cancel-safe.
    pub async fn follow(&self, from: LogPosition, limit: usize) -> Result<Vec<Followed>, SpoolError> {
        let mut durable = self.shared.durable.subscribe();
        loop {
            let until = *durable.borrow_and_update();
            if from < until {
                let facts = self.blocking(move |shared| shared.facts(from, until, limit)).await?;
                if !facts.is_empty() {
                    return Ok(facts);
                }
            }
            durable.changed().await.map_err(|_| self.closed())?;
        }
    }

    /// The position after the last durable fact.
    pub fn durable_position(&self) -> LogPosition {
        *self.shared.durable.borrow()
    }

    /// A follower has durably dealt with everything before `position`.
    pub fn report_cursor(&self, cursor: Cursor, position: LogPosition) {
        use std::sync::atomic::Ordering;
        match cursor {
            // A rebuild of the index begins again at the start: what it has not read must stay.
            Cursor::Index => self.shared.index_cursor.store(position.0, Ordering::Release),
            Cursor::Route => _ = self.shared.route_cursor.fetch_max(position.0, Ordering::AcqRel),
        }
    }

    /// Where the router goes on after a start: at or before its last reported cursor, so it may
    /// meet entries that it has routed already; see [`EntryState::routed`].
    pub fn route_cursor(&self) -> LogPosition {
        LogPosition(self.shared.route_cursor.load(std::sync::atomic::Ordering::Acquire))
    }

    /// Waits until the projection has applied everything before `position`.
    pub async fn applied(&self, position: LogPosition) -> Result<(), SpoolError> {
        let mut applied = self.shared.applied.subscribe();
        let mut failed = self.shared.failing.subscribe();
        tokio::select! {
            biased;
            applied = applied.wait_for(|applied| *applied >= position) => applied.map(drop).map_err(|_| self.closed()),
            // What was written and not synced never will be.
            _ = failed.wait_for(Option::is_some) => Err(self.closed()),
        }
    }

    /// The entry, as long as its bytes are held.
    pub async fn entry(&self, id: EntryId) -> Result<Arc<SpoolEntry>, SpoolError> {
        let record = self.blocking(move |shared| shared.record(id)).await?.1;
        match record.meta.fact {
            Fact::Received(entry) => Ok(Arc::new(*entry)),
            _ => Err(SpoolError::Unknown(id)),
        }
    }

    /// What became of an entry so far.
    pub async fn state(&self, id: EntryId) -> Result<EntryState, SpoolError> {
        self.blocking(move |shared| shared.state(id)).await
    }

    /// Opens an entry's bytes; they stay readable while the reader lives.
    pub async fn open(&self, id: EntryId, by: CheckBy) -> Result<ObjectReader, SpoolError> {
        self.blocking(move |shared| ObjectReader::open(shared, id, by)).await
    }

    /// Opens it for who will send all of it: a small object is read and checked at once, as long as there is memory.
    pub async fn load(&self, id: EntryId, by: CheckBy) -> Result<ObjectReader, SpoolError> {
        self.blocking(move |shared| ObjectReader::open(shared, id, by)?.loaded(&shared.loaded)).await
    }

    /// Held entries with this SOP Instance UID, oldest first (conflicts included).
    pub async fn with_sop_instance_uid(&self, uid: &Uid) -> Result<Vec<EntryId>, SpoolError> {
        let uid = uid.clone();
        let held = self.blocking(move |shared| shared.held_with_uid(&uid)).await?;
        Ok(held.into_iter().map(|(id, ..)| id).collect())
    }

    /// Held entries after `after`, oldest first.
    pub async fn entries(&self, after: Option<EntryId>, limit: usize) -> Result<Vec<EntryState>, SpoolError> {
        self.blocking(move |shared| Ok(shared.queue.entries(after, limit)?)).await
    }

    /// Deliveries of a destination that may be tried at `now` (Queued and Deferred), by due time,
    /// then oldest first.
    pub async fn due(
        &self,
        destination: &str,
        now: Millis,
        limit: usize,
    ) -> Result<Vec<Delivery>, SpoolError> {
        let destination = destination.to_owned();
        self.blocking(move |shared| Ok(shared.queue.due(&destination, now, limit)?)).await
    }

    /// Deliveries of a destination that wait for a time after `horizon`.
    pub async fn due_after(
        &self,
        destination: &str,
        horizon: Millis,
        limit: usize,
    ) -> Result<Vec<Delivery>, SpoolError> {
        let destination = destination.to_owned();
        self.blocking(move |shared| Ok(shared.queue.due_after(&destination, horizon, limit)?)).await
    }

    /// Deliveries of a destination in one state, with entry ids above `after`.
    pub async fn deliveries(
        &self,
        destination: &str,
        state: DeliveryState,
        after: Option<EntryId>,
        limit: usize,
    ) -> Result<Vec<Delivery>, SpoolError> {
        let destination = destination.to_owned();
        self.blocking(move |shared| Ok(shared.queue.deliveries(&destination, state, after, limit)?)).await
    }

    /// All deliveries of an entry.
    pub async fn deliveries_of(&self, id: EntryId) -> Result<Vec<Delivery>, SpoolError> {
        Ok(self.state(id).await?.deliveries)
    }

    /// Storage commitment transactions that were requested and not closed.
    pub async fn open_commitments(&self) -> Result<Vec<OpenCommitment>, SpoolError> {
        self.blocking(|shared| Ok(shared.queue.open_commitments()?)).await
    }

    /// How much is held and how deliveries stand.
    pub fn counts(&self) -> Counts {
        self.shared.queue.counts()
    }

    /// What freeing space needs to know of the destinations; an unknown one proves nothing.
    pub fn set_policies(&self, policies: HashMap<String, DeliveryPolicy>) {
        *self.shared.policies.write() = policies;
        self.shared.wake_maintenance();
    }

    /// Whether deliveries to this destination are proven, as it is configured now.
    pub fn is_verified_at(&self, destination: &str) -> bool {
        self.shared.policies.read().get(destination).is_some_and(|policy| !policy.success_is_proof)
    }

    pub fn status(&self) -> Status {
        let counts = self.counts();
        let (capacity, full) = self.shared.room_now();
        Status {
            objects: counts.objects,
            bytes: counts.bytes,
            unrouted: counts.unrouted,
            conflicts: counts.conflicts,
            segments: self.shared.segments.live_count(),
            spare_segments: self.shared.segments.spare_count(),
            capacity_ratio: capacity.ratio,
            free_bytes: capacity.free_bytes,
            full,
            failure: self.shared.failure(),
            damaged: self.shared.damage.count(),
        }
    }

    pub fn options(&self) -> &SpoolOptions {
        &self.shared.options
    }

    /// Becomes `Some` once, when a storage failure closes the spool.
    pub fn failure(&self) -> watch::Receiver<Option<String>> {
        self.shared.failing.subscribe()
    }

    /// Whether an entry was found to be damaged or missing.
    pub fn is_damaged(&self, id: EntryId) -> bool {
        self.shared.damage.has(id)
    }

    /// What is listed in `review/` as missing: nothing else here knows of it any more.
    pub async fn missing(&self) -> Result<Vec<Missing>, SpoolError> {
        self.blocking(|shared| shared.listed()).await
    }

    /// Of what counts as held elsewhere, that of which the queue knows nothing. After a loss its number may be another
    /// object's.
    pub async fn unknown(&self, held: Vec<Missing>) -> Result<Vec<Missing>, SpoolError> {
        self.blocking(move |shared| {
            // A follower may know of an object before the queue does.
            shared.catch_up()?;
            let mut unknown = Vec::new();
            for missing in held {
                if !shared.queue.state(missing.entry)?.is_some_and(|state| missing.is_of(&state)) {
                    unknown.push(missing);
                }
            }
            Ok(unknown)
        })
        .await
    }

    /// Lists in `review/` what was acknowledged and is in no log any more.
    pub async fn list_missing(&self, missing: Vec<Missing>) -> Result<(), SpoolError> {
        self.blocking(move |shared| shared.list_missing(&missing)).await
    }

    /// What [`Report::asks_rows`] asks for was done.
    pub fn rows_were_asked(&self) {
        if let Err(error) = self.shared.queue.set_asks_rows(false) {
            tracing::warn!(%error, "the next start asks the index once more what is missing");
        }
    }

    /// Whether the storage failed in an earlier run, not long of run time ago: then another restart
    /// won't help.
    pub fn failed_before(&self) -> bool {
        self.shared.failed_before.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// What recovery found when the spool was opened.
    pub fn recovery(&self) -> &Report {
        &self.threads.report
    }

    /// Where the log ended when the spool was opened.
    pub fn end_at_start(&self) -> LogPosition {
        self.threads.end
    }

    /// Syncs, checkpoints, and ends the spool's threads. Blocks; further calls answer that it is
    /// closed.
    pub fn close(&self) {
        self.threads.close(&self.shared);
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, SpoolError> + Send + 'static,
    ) -> Result<T, SpoolError> {
        let shared = self.shared.clone();
        match tokio::task::spawn_blocking(move || work(&shared)).await {
            Ok(done) => done,
            Err(error) => Err(SpoolError::Failed(format!("a look-up ended early: {error}"))),
        }
    }
}

#[cfg(test)]
mod tests;
