//! Gathers the bytes of one object before its commit: in memory while it is small and the shared
//! budget lasts, else in a file of its own. Hashes as it goes. Dropped, it leaves nothing behind.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use sha2::{Digest as _, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;

use super::capacity::Disk;
use super::failure::Failure;
use super::{Digest, SpoolError};
use crate::failpoint;

/// Bytes that all staged objects together may hold in memory.
pub const MEMORY_BUDGET: usize = 16 << 20;
/// The budget is taken in such steps.
const BUDGET_STEP: usize = 16 << 10;
/// Smaller chunks are copied together, so that a one-byte fragment does not pin its read buffer.
const KEEP_WHOLE: usize = 8 << 10;
/// A large object is written in pieces of about this size, one while the next is received.
const WRITE_PIECE: usize = 512 << 10;
/// Write-back of a large object is started after so many bytes, to keep its last sync short.
const WRITE_BACK: u64 = 16 << 20;

/// Where staging finds its room.
#[derive(Clone)]
pub struct Room {
    pub large_dir: PathBuf,
    pub inline_limit: u64,
    pub budget: Arc<Semaphore>,
    pub disk: Arc<Disk>,
    /// A failed sync ends the spool, whichever file it was of: nobody knows what else the disk lost.
    pub failing: Arc<Failure>,
}

impl Room {
    pub fn new(large_dir: PathBuf, inline_limit: u64, disk: Arc<Disk>, failing: Arc<Failure>) -> Room {
        let budget = Arc::new(Semaphore::new(MEMORY_BUDGET / BUDGET_STEP));
        Room { large_dir, inline_limit, budget, disk, failing }
    }
}

/// An object being gathered.
pub struct Stage {
    room: Room,
    hasher: Sha256,
    crc: u32,
    length: u64,
    gathered: Gathered,
    permits: Vec<OwnedSemaphorePermit>,
    budgeted: usize,
    large: Option<LargeFile>,
}

/// What staging hands to the committer.
pub struct Staged {
    pub digest: Digest,
    /// CRC-32C of the same bytes.
    pub crc: u32,
    pub length: u64,
    pub content: Content,
    /// Held until the bytes are written.
    pub permits: Vec<OwnedSemaphorePermit>,
}

pub enum Content {
    Inline(Vec<Bytes>),
    Large(LargeFile),
}

#[derive(Default)]
struct Gathered {
    whole: Vec<Bytes>,
    small: BytesMut,
    length: usize,
}

impl Gathered {
    fn push(&mut self, chunk: Bytes) {
        self.length += chunk.len();
        if chunk.len() < KEEP_WHOLE {
            self.small.extend_from_slice(&chunk);
            return;
        }
        self.seal();
        self.whole.push(chunk);
    }

    fn seal(&mut self) {
        if !self.small.is_empty() {
            self.whole.push(self.small.split().freeze());
        }
    }

    fn take(&mut self) -> Vec<Bytes> {
        self.seal();
        self.length = 0;
        std::mem::take(&mut self.whole)
    }
}

impl Stage {
    pub fn new(room: Room) -> Stage {
        Stage {
            room,
            hasher: Sha256::new(),
            crc: 0,
            length: 0,
            gathered: Gathered::default(),
            permits: Vec::new(),
            budgeted: 0,
            large: None,
        }
    }

    /// Takes the next bytes of the data set.
    pub async fn write(&mut self, chunk: Bytes) -> Result<(), SpoolError> {
        if self.length == 0 {
            failpoint::pass("stage_first_byte");
        }
        self.hasher.update(&chunk);
        self.crc = crc32c::crc32c_append(self.crc, &chunk);
        self.length += chunk.len() as u64;
        self.gathered.push(chunk);
        if self.large.is_none() && !self.fits_in_memory() {
            self.begin_large().await?;
        }
        if self.large.is_some() && self.gathered.length >= WRITE_PIECE {
            self.write_out().await?;
        }
        Ok(())
    }

    fn fits_in_memory(&mut self) -> bool {
        if self.length > self.room.inline_limit {
            return false;
        }
        while self.budgeted < self.gathered.length {
            let Ok(permit) = self.room.budget.clone().try_acquire_owned() else { return false };
            self.permits.push(permit);
            self.budgeted += BUDGET_STEP;
        }
        true
    }

    async fn begin_large(&mut self) -> Result<(), SpoolError> {
        let created = LargeFile::create(&self.room).await;
        if matches!(created, Err(SpoolError::Full(_))) {
            self.room.disk.note_full();
        }
        self.large = Some(created?);
        self.write_out().await?;
        self.permits.clear();
        Ok(())
    }

    async fn write_out(&mut self) -> Result<(), SpoolError> {
        if !self.room.disk.fits(self.gathered.length as u64) {
            self.room.disk.note_full();
            return Err(SpoolError::Full("a large object does not fit on the disk".to_owned()));
        }
        let chunks = self.gathered.take();
        let Some(file) = &mut self.large else { return Ok(()) };
        let written = file.write(chunks).await;
        if matches!(written, Err(SpoolError::Full(_))) {
            self.room.disk.note_full();
        }
        written
    }

    /// The data set is complete. A large object's file is synced here; its directory, once per
    /// batch, by the committer.
    pub async fn finish(mut self) -> Result<Staged, SpoolError> {
        failpoint::pass("stage_complete");
        let digest = Digest(std::mem::take(&mut self.hasher).finalize().into());
        let content = match self.large.take() {
            None => Content::Inline(self.gathered.take()),
            Some(mut file) => {
                file.write(self.gathered.take()).await?;
                file.sync().await?;
                failpoint::pass("large_synced");
                Content::Large(file)
            }
        };
        let permits = std::mem::take(&mut self.permits);
        Ok(Staged { digest, crc: self.crc, length: self.length, content, permits })
    }
}

/// A file under `large/` with the bare data set, which no record names yet; removed when dropped
/// before it is kept.
pub struct LargeFile {
    pub name: String,
    path: PathBuf,
    file: Option<Arc<File>>,
    /// With what is being written.
    length: u64,
    written_back_at: u64,
    writing: Option<JoinHandle<io::Result<()>>>,
    failing: Arc<Failure>,
    kept: bool,
}

impl LargeFile {
    async fn create(room: &Room) -> Result<LargeFile, SpoolError> {
        let name = ulid::Ulid::new().to_string();
        let path = room.large_dir.join(&name);
        let failing = room.failing.clone();
        // Made where it is opened: who gives up meanwhile drops it, and with it the file.
        blocking(path.clone(), move || {
            let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
            let file = Some(Arc::new(file));
            Ok(LargeFile {
                name,
                path,
                file,
                length: 0,
                written_back_at: 0,
                writing: None,
                failing,
                kept: false,
            })
        })
        .await
    }

    /// Begins to write these, once those before are written.
    async fn write(&mut self, chunks: Vec<Bytes>) -> Result<(), SpoolError> {
        self.written().await?;
        let Some(file) = self.file.clone() else { return Ok(()) };
        let from = self.length;
        self.length += chunks.iter().map(|chunk| chunk.len() as u64).sum::<u64>();
        let write_back = self.length - self.written_back_at >= WRITE_BACK;
        if write_back {
            self.written_back_at = self.length;
        }
        let failing = self.failing.clone();
        self.writing = Some(tokio::task::spawn_blocking(move || {
            let mut at = from;
            for chunk in &chunks {
                file.write_all_at(chunk, at)?;
                at += chunk.len() as u64;
            }
            if write_back {
                synced("large_written_back", &file, &failing)?;
            }
            Ok(())
        }));
        Ok(())
    }

    /// Waits for what was begun to be written.
    async fn written(&mut self) -> Result<(), SpoolError> {
        let Some(writing) = self.writing.take() else { return Ok(()) };
        let done = writing.await.map_err(io::Error::other).flatten();
        done.map_err(|source| SpoolError::from_io(self.path.clone(), source))
    }

    async fn sync(&mut self) -> Result<(), SpoolError> {
        self.written().await?;
        let Some(file) = self.file.clone() else { return Ok(()) };
        let failing = self.failing.clone();
        let synced = tokio::task::spawn_blocking(move || synced("large", &file, &failing)).await;
        let failed = |error| SpoolError::Failed(format!("sync of a large object: {error}"));
        synced.map_err(io::Error::other).flatten().map_err(failed)
    }

    /// A record names it now.
    pub fn keep(&mut self) {
        self.kept = true;
    }
}

impl Drop for LargeFile {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let (path, file) = (self.path.clone(), self.file.take());
        let remove = move || {
            drop(file);
            // Recovery moves what this leaves behind into review.
            let _ = std::fs::remove_file(path);
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

/// A sync that failed is never tried again: the pages it lost are marked clean.
fn synced(name: &str, file: &File, failing: &Failure) -> io::Result<()> {
    failpoint::sync(name, || file.sync_data())
        .inspect_err(|error| failing.fail(&format!("sync of a large object failed: {error}")))
}

async fn blocking<T: Send + 'static>(
    path: PathBuf,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, SpoolError> {
    let done = tokio::task::spawn_blocking(work).await.map_err(io::Error::other).flatten();
    done.map_err(|source| SpoolError::from_io(path, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(dir: &tempfile::TempDir, inline_limit: u64) -> Room {
        let disk = Disk::open(dir.path(), 1.0, 0).unwrap();
        let large = dir.path().join("large");
        std::fs::create_dir_all(&large).unwrap();
        Room::new(large, inline_limit, Arc::new(disk), Arc::new(Failure::new(dir.path())))
    }

    async fn stage(room: Room, chunks: &[usize]) -> Staged {
        let mut stage = Stage::new(room);
        for (index, length) in chunks.iter().enumerate() {
            stage.write(Bytes::from(vec![index as u8; *length])).await.unwrap();
        }
        stage.finish().await.unwrap()
    }

    #[tokio::test]
    async fn the_way_it_arrives_does_not_change_what_is_staged() {
        let dir = tempfile::tempdir().unwrap();
        let chunks: Vec<usize> = (0..200).map(|index| 1 + index * 97 % 20_000).collect();
        let inline = stage(room(&dir, 64 << 20), &chunks).await;
        let large = stage(room(&dir, 10), &chunks).await;
        assert_eq!(inline.digest, large.digest);
        assert_eq!(inline.length, large.length);
        let Content::Inline(parts) = inline.content else { panic!("small enough for the log") };
        let Content::Large(file) = large.content else { panic!("over the limit") };
        let in_file = std::fs::read(&file.path).unwrap();
        assert_eq!(in_file, parts.concat());
    }

    #[tokio::test]
    async fn a_spent_budget_sends_objects_to_files_and_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let room = room(&dir, 1 << 20);
        let mut held = Vec::new();
        for _ in 0..16 {
            held.push(stage(room.clone(), &[1 << 20]).await);
        }
        assert!(held.iter().all(|staged| matches!(staged.content, Content::Inline(_))));
        assert!(matches!(stage(room.clone(), &[100]).await.content, Content::Large(_)));
        drop(held);
        assert!(matches!(stage(room, &[100]).await.content, Content::Inline(_)));
    }

    #[tokio::test]
    async fn an_abandoned_object_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let mut stage = Stage::new(room(&dir, 10));
        stage.write(Bytes::from_static(b"more than ten bytes")).await.unwrap();
        assert_eq!(std::fs::read_dir(dir.path().join("large")).unwrap().count(), 1);
        drop(stage);
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while std::fs::read_dir(dir.path().join("large")).unwrap().count() > 0 {
            assert!(std::time::Instant::now() < deadline);
            tokio::task::yield_now().await;
        }
    }
}
