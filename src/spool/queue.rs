//! The projection of the log in sled: due deliveries, duplicates, places, cursors. Never the
//! truth: one writer applies facts in log order, each batch atomically with the position it
//! reflects, and what sled recovers to names where replay begins. Lost or damaged, it is rebuilt.
//!
//! sled 0.34's `flush` does not reach the disk; [`Queue::checkpoint`] syncs its files itself.
//!
//! Keys, all in one tree so that a batch is atomic (numbers big-endian):
//! `e id` state · `s uid 0 id` digest and syntax · `d destination 0 state due id` delivery ·
//! `p generation offset` id, size · `r since id` at rest · `l name` id · `c uid` open
//! commitment · `x id` conflict not compared yet · `m …` position, sequence, counts, cursors.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use rustix::fs::Advice;
use rustix::io::Errno;
use sled::{Batch, Tree};

use super::entry::{Delivery, DeliveryState, Digest, EntryId, LogPosition};
use super::projection::{Counts, DeliveryKey};
use super::scrub::Round;
use super::state::EntryState;
use super::{Cursor, OpenCommitment};
use crate::clock::Millis;
use crate::dicom::Uid;
use crate::failpoint;

pub struct Queue {
    db: sled::Db,
    /// sled's main file, opened before anything is written: it tells of a write-back error that the
    /// descriptor of sled's own flusher took, and that sled only logs.
    file: File,
    dir: PathBuf,
    counts: Mutex<Counts>,
}

#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    #[error("queue: {0}")]
    Sled(#[from] sled::Error),
    #[error("queue: {0}")]
    Io(#[from] std::io::Error),
    #[error("queue: a value is damaged: {0}")]
    Damaged(#[from] serde_json::Error),
}

impl QueueError {
    /// Whether it says that the queue's files are of no use, rather than that the machine lacks something just now.
    pub fn is_damage(&self) -> bool {
        let lacks = |error: &io::Error| {
            matches!(
                error.kind(),
                io::ErrorKind::StorageFull
                    | io::ErrorKind::QuotaExceeded
                    | io::ErrorKind::PermissionDenied
                    | io::ErrorKind::ReadOnlyFilesystem
                    | io::ErrorKind::OutOfMemory
            ) || [Errno::MFILE, Errno::NFILE]
                .map(|errno| Some(errno.raw_os_error()))
                .contains(&error.raw_os_error())
        };
        match self {
            QueueError::Sled(sled::Error::Io(error)) | QueueError::Io(error) => !lacks(error),
            QueueError::Sled(_) | QueueError::Damaged(_) => true,
        }
    }
}

type Result<T> = std::result::Result<T, QueueError>;

const POSITION: &[u8] = b"mposition";
const SEQUENCE: &[u8] = b"msequence";
const COUNTS: &[u8] = b"mcounts";
const SCRUB: &[u8] = b"mscrub";
const ASKS_ROWS: &[u8] = b"masksrows";

impl Queue {
    pub fn open(dir: &Path) -> Result<Queue> {
        std::fs::create_dir_all(dir)?;
        // What a failed sync left in the page cache is not on the disk.
        sync_tree(dir, |file| Ok(rustix::fs::fadvise(file, 0, None, Advice::DontNeed)?))?;
        let db = sled::Config::new()
            .path(dir)
            .cache_capacity(1 << 20)
            // Garbage collection runs only from the flusher's thread.
            .flush_every_ms(Some(1000))
            .open()?;
        let counts = match db.get(COUNTS)? {
            Some(value) => serde_json::from_slice(&value)?,
            None => Counts::default(),
        };
        let file = File::open(dir.join("db"))?;
        Ok(Queue { db, file, dir: dir.to_owned(), counts: Mutex::new(counts) })
    }

    /// Everything before it is applied.
    pub fn position(&self) -> Result<LogPosition> {
        Ok(LogPosition(self.number(POSITION)?))
    }

    /// Sequence number of the last applied record.
    pub fn sequence(&self) -> Result<u64> {
        self.number(SEQUENCE)
    }

    pub fn cursor(&self, cursor: Cursor) -> Result<LogPosition> {
        Ok(LogPosition(self.number(cursor_key(cursor))?))
    }

    pub fn set_cursor(&self, cursor: Cursor, position: LogPosition) -> Result<()> {
        self.db.insert(cursor_key(cursor), &position.0.to_be_bytes())?;
        Ok(())
    }

    pub fn scrub_round(&self) -> Result<Option<Round>> {
        Ok(self.db.get(SCRUB)?.map(|round| serde_json::from_slice(&round)).transpose()?)
    }

    pub fn set_scrub_round(&self, round: &Round) -> Result<()> {
        self.db.insert(SCRUB, serde_json::to_vec(round)?)?;
        Ok(())
    }

    pub fn forget_scrub_round(&self) -> Result<()> {
        self.db.remove(SCRUB)?;
        Ok(())
    }

    /// Whether it was made anew, and the index has not been asked yet what the log had lost by then.
    pub fn asks_rows(&self) -> Result<bool> {
        Ok(self.db.contains_key(ASKS_ROWS)?)
    }

    pub fn set_asks_rows(&self, asks: bool) -> Result<()> {
        match asks {
            true => self.db.insert(ASKS_ROWS, b"")?,
            false => self.db.remove(ASKS_ROWS)?,
        };
        Ok(())
    }

    /// Makes what is applied durable; returns the position that is then safe.
    pub fn checkpoint(&self) -> Result<LogPosition> {
        let position = self.position()?;
        self.sync().inspect_err(|_| {
            // sled syncs once more when it is dropped, and panics if that fails. The log has it all.
            std::mem::forget(self.db.clone());
        })?;
        Ok(position)
    }

    fn sync(&self) -> Result<()> {
        failpoint::sync("queue_flush", || self.db.flush().map(drop))?;
        failpoint::pass("queue_flushed");
        failpoint::sync("queue", || self.file.sync_all().and_then(|()| sync_tree(&self.dir, |_| Ok(()))))?;
        Ok(())
    }

    pub fn state(&self, id: EntryId) -> Result<Option<EntryState>> {
        let Some(value) = self.db.get(entry_key(id))? else { return Ok(None) };
        Ok(Some(serde_json::from_slice(&value)?))
    }

    /// Held entries with this SOP Instance UID: id, digest, transfer syntax UID; oldest first.
    pub fn with_uid(&self, uid: &Uid) -> Result<Vec<(EntryId, Digest, String)>> {
        self.db
            .scan_prefix(uid_prefix(uid))
            .map(|item| {
                let (key, value) = item?;
                let mut digest = [0; 32];
                digest.copy_from_slice(value.get(..32).unwrap_or(&[0; 32]));
                let syntax = String::from_utf8_lossy(value.get(32..).unwrap_or_default()).into_owned();
                Ok((id_at_end(&key), Digest(digest), syntax))
            })
            .collect()
    }

    /// Deliveries that may be tried at `now`, by due time, then age.
    pub fn due(&self, destination: &str, now: Millis, limit: usize) -> Result<Vec<Delivery>> {
        let mut ids: Vec<(u64, EntryId)> = Vec::new();
        for state in [DeliveryState::Queued, DeliveryState::Deferred] {
            let prefix = DeliveryKey::prefix(destination, state);
            for item in self.db.scan_prefix(&prefix).take(limit) {
                let (key, _) = item?;
                let due = due_of(&key);
                if due > now.0 {
                    break;
                }
                ids.push((due, id_at_end(&key)));
            }
        }
        ids.sort_unstable();
        ids.truncate(limit);
        self.deliveries_for(destination, ids.into_iter().map(|(_, id)| id))
    }

    /// Deliveries that wait for a time after `horizon`, first due first.
    pub fn due_after(&self, destination: &str, horizon: Millis, limit: usize) -> Result<Vec<Delivery>> {
        let mut ids = Vec::new();
        for state in [DeliveryState::Queued, DeliveryState::Deferred] {
            let prefix = DeliveryKey::prefix(destination, state);
            let from = [prefix.as_slice(), &horizon.0.saturating_add(1).to_be_bytes()].concat();
            for item in self.db.range(from..).take(limit) {
                let (key, _) = item?;
                if !key.starts_with(&prefix) {
                    break;
                }
                ids.push(id_at_end(&key));
            }
        }
        self.deliveries_for(destination, ids)
    }

    /// Deliveries in one state with ids above `after`, in key order: by age, and by due time first
    /// where they wait for one.
    pub fn deliveries(
        &self,
        destination: &str,
        state: DeliveryState,
        after: Option<EntryId>,
        limit: usize,
    ) -> Result<Vec<Delivery>> {
        let mut ids = Vec::new();
        let prefix = DeliveryKey::prefix(destination, state);
        let waits = matches!(state, DeliveryState::Queued | DeliveryState::Deferred);
        let from = match after {
            // Without a due time keys are in the order of ids.
            Some(after) if !waits => {
                [prefix.as_slice(), &0_u64.to_be_bytes(), &after.0.saturating_add(1).to_be_bytes()].concat()
            }
            _ => prefix.clone(),
        };
        for item in self.db.range(from..) {
            let (key, _) = item?;
            if !key.starts_with(&prefix) {
                break;
            }
            let id = id_at_end(&key);
            if after.is_some_and(|after| id <= after) {
                continue;
            }
            ids.push(id);
            if ids.len() >= limit {
                break;
            }
        }
        self.deliveries_for(destination, ids)
    }

    fn deliveries_for(
        &self,
        destination: &str,
        ids: impl IntoIterator<Item = EntryId>,
    ) -> Result<Vec<Delivery>> {
        let mut found = Vec::new();
        for id in ids {
            let Some(state) = self.state(id)? else { continue };
            found.extend(state.deliveries.into_iter().find(|delivery| delivery.destination == destination));
        }
        Ok(found)
    }

    /// Held entries after `after`, oldest first.
    pub fn entries(&self, after: Option<EntryId>, limit: usize) -> Result<Vec<EntryState>> {
        let from = entry_key(EntryId(after.map_or(0, |after| after.0.saturating_add(1))));
        self.db
            .range(from.as_slice()..b"f".as_slice())
            .take(limit)
            .map(|item| Ok(serde_json::from_slice(&item?.1)?))
            .collect()
    }

    /// Entries whose deliveries all came to rest before `before`, longest first.
    pub fn resting(
        &self,
        before: Millis,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, EntryId)>> {
        let mut from = after.map_or_else(|| b"r".to_vec(), <[u8]>::to_vec);
        if after.is_some() {
            from.push(0);
        }
        let mut until = b"r".to_vec();
        until.extend(before.0.to_be_bytes());
        if from >= until {
            return Ok(Vec::new());
        }
        self.db
            .range(from..until)
            .take(limit)
            .map(|item| {
                let (key, _) = item?;
                Ok((key.to_vec(), id_at_end(&key)))
            })
            .collect()
    }

    /// Conflicts after `after` that were not compared yet, oldest first.
    pub fn uncompared(&self, after: EntryId, limit: usize) -> Result<Vec<EntryId>> {
        let from = uncompared_key(EntryId(after.0.saturating_add(1)));
        self.db
            .range(from.as_slice()..b"y".as_slice())
            .take(limit)
            .map(|item| Ok(id_at_end(&item?.0)))
            .collect()
    }

    pub fn open_commitments(&self) -> Result<Vec<OpenCommitment>> {
        self.db.scan_prefix(b"c").map(|item| Ok(serde_json::from_slice(&item?.1)?)).collect()
    }

    /// Held entries whose newest record lies in this segment, and the bytes they hold there.
    pub fn live_in(&self, generation: u32) -> Result<(Vec<EntryId>, u64)> {
        let mut prefix = b"p".to_vec();
        prefix.extend(generation.to_be_bytes());
        let mut ids = Vec::new();
        let mut bytes = 0;
        for item in self.db.scan_prefix(prefix) {
            let (_, value) = item?;
            ids.push(EntryId(number_at(&value, 0)));
            bytes += number_at(&value, 8);
        }
        Ok((ids, bytes))
    }

    /// Bytes that all held entries have in segments.
    pub fn live_bytes(&self) -> Result<u64> {
        self.db.scan_prefix(b"p").try_fold(0, |sum, item| Ok(sum + number_at(&item?.1, 8)))
    }

    /// Held entries whose place `exists` does not know: generation of the segment, and where in it at
    /// least what they hold there ends.
    pub fn misplaced(&self, mut exists: impl FnMut(u32, u64) -> bool) -> Result<Vec<EntryId>> {
        let mut ids = Vec::new();
        for item in self.db.scan_prefix(b"p") {
            let (key, value) = item?;
            let place = number_at(&key, 1);
            if !exists((place >> 32) as u32, (place & 0xffff_ffff) + number_at(&value, 8)) {
                ids.push(EntryId(number_at(&value, 0)));
            }
        }
        Ok(ids)
    }

    pub fn has_large(&self, name: &str) -> Result<bool> {
        Ok(self.db.contains_key([b"l", name.as_bytes()].concat())?)
    }

    /// Entries whose large file does not exist, as `exists` says.
    pub fn large_entries(&self, exists: impl Fn(&str) -> bool) -> Result<Vec<EntryId>> {
        let mut missing = Vec::new();
        for item in self.db.scan_prefix(b"l") {
            let (key, value) = item?;
            if !exists(&String::from_utf8_lossy(&key[1..])) {
                missing.push(EntryId(number_at(&value, 0)));
            }
        }
        Ok(missing)
    }

    /// Reads what must be readable for the queue to be of use.
    pub fn check(&self) -> Result<()> {
        if let Some(entry) = self.db.scan_prefix(b"e").next() {
            serde_json::from_slice::<EntryState>(&entry?.1)?;
        }
        self.open_commitments().map(drop)
    }

    pub fn counts(&self) -> Counts {
        self.counts.lock().clone()
    }

    /// Applies one batch, its counts and the position it reflects, atomically.
    pub fn commit(
        &self,
        mut batch: Batch,
        counts: Counts,
        position: LogPosition,
        sequence: u64,
    ) -> Result<()> {
        batch.insert(POSITION, &position.0.to_be_bytes());
        batch.insert(SEQUENCE, &sequence.to_be_bytes());
        batch.insert(COUNTS, serde_json::to_vec(&counts)?);
        self.tree().apply_batch(batch)?;
        *self.counts.lock() = counts;
        Ok(())
    }

    fn tree(&self) -> &Tree {
        &self.db
    }

    fn number(&self, key: &[u8]) -> Result<u64> {
        Ok(self.db.get(key)?.map_or(0, |value| number_at(&value, 0)))
    }
}

/// The rows that a state stands for, so that a change of state is the difference of two sets.
pub fn rows(state: &EntryState) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut rows = BTreeMap::new();
    rows.insert(entry_key(state.id), serde_json::to_vec(state)?);
    let mut uid = uid_prefix(&state.sop_instance_uid);
    uid.extend(state.id.0.to_be_bytes());
    rows.insert(uid, [state.data_set_sha256.0.as_slice(), state.transfer_syntax_uid.as_bytes()].concat());
    let mut place = b"p".to_vec();
    place.extend(state.place.generation.to_be_bytes());
    place.extend(state.place.offset.to_be_bytes());
    let in_segment = if state.large.is_some() { 0 } else { state.size };
    rows.insert(place, [state.id.0.to_be_bytes(), in_segment.to_be_bytes()].concat());
    if let Some(since) = state.resting_since() {
        rows.insert(
            [b"r".as_slice(), &since.0.to_be_bytes(), &state.id.0.to_be_bytes()].concat(),
            Vec::new(),
        );
    }
    if state.awaits_comparison() {
        rows.insert(uncompared_key(state.id), Vec::new());
    }
    if let Some(name) = &state.large {
        rows.insert([b"l", name.as_bytes()].concat(), state.id.0.to_be_bytes().to_vec());
    }
    for delivery in &state.deliveries {
        rows.insert(DeliveryKey::of(delivery), Vec::new());
    }
    Ok(rows)
}

pub fn commitment_key(transaction_uid: &Uid) -> Vec<u8> {
    [b"c", transaction_uid.as_str().as_bytes()].concat()
}

fn entry_key(id: EntryId) -> Vec<u8> {
    [b"e".as_slice(), &id.0.to_be_bytes()].concat()
}

fn uncompared_key(id: EntryId) -> Vec<u8> {
    [b"x".as_slice(), &id.0.to_be_bytes()].concat()
}

fn uid_prefix(uid: &Uid) -> Vec<u8> {
    [b"s", uid.as_str().as_bytes(), b"\0"].concat()
}

fn cursor_key(cursor: Cursor) -> &'static [u8] {
    match cursor {
        Cursor::Index => b"mindex",
        Cursor::Route => b"mroute",
    }
}

fn id_at_end(key: &[u8]) -> EntryId {
    EntryId(number_at(key, key.len().saturating_sub(8)))
}

fn due_of(key: &[u8]) -> u64 {
    number_at(key, key.len().saturating_sub(16))
}

/// The big-endian number at `at`; zero where the bytes are too few.
fn number_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes)
}

/// Syncs every file under `dir`, and the folders that name them; `then` does more with each.
fn sync_tree(dir: &Path, then: fn(&File) -> std::io::Result<()>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => sync_tree(&entry.path(), then)?,
            _ => match File::open(entry.path()) {
                Ok(file) => file.sync_all().and_then(|()| then(&file))?,
                // sled removes snapshots and blobs while we walk.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            },
        }
    }
    File::open(dir)?.sync_all()
}
