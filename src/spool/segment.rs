//! Segments: the files of the log. Allocated whole and synced with their directory, then written
//! front to back and, when nothing in them is needed any more, written again under a new generation:
//! blocks that were written before sync faster than those written for the first time. So spares are
//! filled with zeros too, but only while nobody waits for a sync of ours: a filler beside senders
//! costs them more than it gives (`docs/decisions/0001-append-only-log.md`).

use std::collections::{BTreeMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex, RwLock};

use super::disk_view::{self, Aligned};
use super::log_id::LogId;
use super::rescued::{Mark, Nameless};
use super::segment_head::{self, LastUse, in_file_at};
use crate::failpoint;

/// Records begin after the segment's own header.
pub const FIRST_RECORD: u64 = PAGE;
/// What the page cache reads from the disk before it changes a part of it.
pub const PAGE: u64 = 4096;

/// One segment in use. Its descriptor is opened before its first write and kept: one opened later
/// would not report a write-back error that another already took.
#[derive(Debug)]
pub struct Segment {
    pub generation: u32,
    pub log: LogId,
    pub size: u64,
    pub path: PathBuf,
    pub file: File,
}

#[derive(Debug)]
struct Spare {
    path: PathBuf,
    file: File,
    size: u64,
    /// Bytes at its beginning that were written before.
    filled: u64,
}

#[derive(Debug, Default)]
struct Spares {
    /// Recycled ones first, oldest generation first, so that what remains on disk of an older
    /// log is always its unbroken end: a rebuild can't meet an object without its purge.
    queue: VecDeque<Spare>,
    /// The size of the one that is being filled, and out of the queue meanwhile.
    filling: Option<u64>,
}

impl Spares {
    fn count(&self) -> usize {
        self.queue.len() + usize::from(self.filling.is_some())
    }
}

/// Zeros written to a spare at a time: who sends meanwhile waits for no more.
const FILL_STEP: u64 = 1 << 20;

impl Spare {
    /// Past the page cache: the zeros are not copied, nor kept where what is read has its place.
    fn fill(&mut self) -> io::Result<()> {
        let step = FILL_STEP.min(self.size - self.filled);
        let file = disk_view::open_direct(&self.path, OpenOptions::new().write(true))?;
        file.write_all_at(&Aligned::new(step as usize), self.filled)?;
        failpoint::sync("spare_filled", || file.sync_data())?;
        self.filled += step;
        Ok(())
    }
}

/// All segments of a spool: the live ones by generation, and spares to write next.
pub struct Segments {
    dir: PathBuf,
    size: u64,
    log: LogId,
    live: RwLock<BTreeMap<u32, Arc<Segment>>>,
    spares: Mutex<Spares>,
    /// No spare is being filled any more.
    filled: Condvar,
    next_slot: Mutex<u64>,
    unread_mark: Option<Mark>,
    nameless: Vec<Nameless>,
}

impl Segments {
    /// Opens what is in `dir`; files without a readable header are spares.
    pub fn open(dir: &Path, size: u64) -> io::Result<Segments> {
        std::fs::create_dir_all(dir)?;
        let files = open_files(dir)?;
        let log = segment_head::find_log_id(dir, &files)?;
        let unread_mark = Mark::read(dir)?;
        let (mut live, mut spares, mut next_slot) = (BTreeMap::new(), Spares::default(), 0);
        let mut nameless = Vec::new();
        for (path, file) in files {
            next_slot = next_slot.max(slot_of(&path).unwrap_or(0) + 1);
            let size = file.metadata()?.len();
            let generation = match segment_head::last_use(&path, &file, log).map_err(in_file_at(&path))? {
                LastUse::Generation(generation) => generation,
                LastUse::Never if unread_mark.as_ref().is_some_and(|mark| mark.covers_head(&file)) => {
                    nameless.push(Nameless { path, file });
                    continue;
                }
                // Left as it is until it is needed: it may be a segment whose beginning is damaged.
                LastUse::Never => {
                    spares.queue.push_back(Spare { path, file, size, filled: size });
                    continue;
                }
                LastUse::Untold => {
                    tracing::warn!(file = %path.display(), "the disk can't read all of a spare segment; it is left alone");
                    continue;
                }
            };
            let segment = Arc::new(Segment { generation, log, size, path, file });
            if let Some(twin) = live.insert(generation, segment.clone()) {
                return Err(two_of(&twin, &segment));
            }
        }
        Ok(Segments {
            dir: dir.to_owned(),
            size,
            log,
            live: RwLock::new(live),
            spares: Mutex::new(spares),
            filled: Condvar::new(),
            next_slot: Mutex::new(next_slot),
            unread_mark,
            nameless,
        })
    }

    /// Set where a person brought back what a failing disk could still read.
    pub fn unread_mark(&self) -> Option<&Mark> {
        self.unread_mark.as_ref()
    }

    /// Files that may have been segments, and that nothing of the log is in. They are left alone until the next start.
    pub fn nameless(&self) -> &[Nameless] {
        &self.nameless
    }

    pub fn forget_unread_mark(&self) -> io::Result<()> {
        self.unread_mark.as_ref().map_or(Ok(()), Mark::forget)
    }

    pub fn get(&self, generation: u32) -> Option<Arc<Segment>> {
        self.live.read().get(&generation).cloned()
    }

    /// Live segments from `generation` on, oldest first.
    pub fn from(&self, generation: u32) -> Vec<Arc<Segment>> {
        self.live.read().range(generation..).map(|(_, segment)| segment.clone()).collect()
    }

    pub fn oldest(&self) -> Option<Arc<Segment>> {
        self.live.read().values().next().cloned()
    }

    pub fn live_count(&self) -> usize {
        self.live.read().len()
    }

    pub fn spare_count(&self) -> usize {
        self.spares.lock().count()
    }

    /// Bytes of spares: on disk, yet free for us.
    pub fn spare_bytes(&self) -> u64 {
        let spares = self.spares.lock();
        spares.queue.iter().map(|spare| spare.size).chain(spares.filling).sum()
    }

    /// Makes one more spare: its space taken, synced with its directory.
    pub fn prepare(&self) -> io::Result<()> {
        let slot = {
            let mut next = self.next_slot.lock();
            *next += 1;
            *next - 1
        };
        let path = self.dir.join(format!("segment-{slot:08}.log"));
        let preparing = path.with_extension("new");
        let named = |file| {
            std::fs::rename(&preparing, &path)?;
            failpoint::pass("segment_prepared");
            failpoint::sync("segment_directory", || File::open(&self.dir)?.sync_all())?;
            Ok(file)
        };
        let file = self.allocated(&preparing).and_then(named).inspect_err(|_| {
            // It would take room, and nobody would know of it.
            let _ = std::fs::remove_file(&preparing).or_else(|_| std::fs::remove_file(&path));
        })?;
        self.spares.lock().queue.push_back(Spare { path, file, size: self.size, filled: 0 });
        Ok(())
    }

    /// Writes the next zeros to a spare that was never written; whether there was one. One that
    /// can't be written is removed: records would meet the same.
    pub fn fill_step(&self) -> io::Result<bool> {
        // Out of the others' reach meanwhile. Among spares never written the order does not matter.
        let mut spare = {
            let mut spares = self.spares.lock();
            let unfilled = spares.queue.iter().position(|spare| spare.filled < spare.size);
            let Some(spare) = unfilled.and_then(|at| spares.queue.remove(at)) else { return Ok(false) };
            spares.filling = Some(spare.size);
            spare
        };
        let filled = spare.fill();
        let mut spares = self.spares.lock();
        spares.filling = None;
        self.filled.notify_all();
        match filled {
            Ok(()) => spares.queue.push_back(spare),
            Err(_) => std::fs::remove_file(&spare.path)?,
        }
        filled.map(|()| true)
    }

    /// Gives the oldest spare's space back. The oldest: what remains on disk must stay the log's
    /// unbroken end.
    pub fn discard_spare(&self) -> io::Result<()> {
        let mut spares = self.spares.lock();
        let Some(spare) = spares.queue.front() else { return Ok(()) };
        std::fs::remove_file(&spare.path)?;
        spares.queue.pop_front();
        Ok(())
    }

    fn allocated(&self, path: &Path) -> io::Result<File> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        take_space(&file, self.size)?;
        failpoint::sync("segment_allocated", || file.sync_all())?;
        Ok(file)
    }

    /// Takes a spare as the next live segment. Its header becomes durable with its first record.
    /// `None` when there is no spare beyond `keep`.
    pub fn begin(&self, generation: u32, keep: usize) -> io::Result<Option<Arc<Segment>>> {
        let spare = {
            let mut spares = self.spares.lock();
            if spares.count() <= keep {
                return Ok(None);
            }
            while spares.queue.is_empty() && spares.filling.is_some() {
                self.filled.wait(&mut spares);
            }
            spares.queue.pop_front()
        };
        let Some(spare) = spare else { return Ok(None) };
        if let Err(error) = spare.file.write_all_at(&segment_head::encode(generation, self.log), 0) {
            self.spares.lock().queue.push_front(spare);
            return Err(error);
        }
        let Spare { path, file, size, .. } = spare;
        let segment = Arc::new(Segment { generation, log: self.log, size, path, file });
        self.live.write().insert(generation, segment.clone());
        Ok(Some(segment))
    }

    /// Turns the oldest live segment into a spare, unless somebody still reads it. The caller has
    /// made sure that nothing in it is needed.
    pub fn recycle_oldest(&self) -> bool {
        let mut live = self.live.write();
        if live.len() < 2 {
            return false;
        }
        let Some((generation, segment)) = live.pop_first() else { return false };
        match Arc::try_unwrap(segment) {
            Ok(Segment { path, file, size, .. }) => {
                // Behind earlier recycled ones, before none: spares are used oldest first.
                self.spares.lock().queue.push_back(Spare { path, file, size, filled: size });
                true
            }
            Err(still_read) => {
                live.insert(generation, still_read);
                false
            }
        }
    }
}

impl Segments {
    /// Moves a live segment's file into `folder`; who reads it goes on reading.
    pub fn set_aside(&self, generation: u32, folder: &Path) -> io::Result<()> {
        let mut live = self.live.write();
        let Some(segment) = live.get(&generation) else { return Ok(()) };
        match std::fs::rename(&segment.path, folder.join(format!("segment-of-{generation}.log"))) {
            // Moved before, and then the sync failed. A folder that is not there is no such thing.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !segment.path.exists() => {}
            renamed => renamed?,
        }
        failpoint::sync("set_aside", || File::open(&self.dir)?.sync_all())?;
        live.remove(&generation);
        Ok(())
    }
}

impl Segment {
    /// Takes what stands behind `offset` out of the file, for good with its next sync; its space is taken again where
    /// there is any.
    pub fn cut_off(&self, offset: u64) -> io::Result<()> {
        self.file.set_len(offset)?;
        take_space(&self.file, self.size).or_else(|_| self.file.set_len(self.size))
    }
}

/// Not every file system can; there a segment grows as it is written.
fn take_space(file: &File, size: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, size) {
        Err(rustix::io::Errno::OPNOTSUPP) => file.set_len(size),
        taken => Ok(taken?),
    }
}

/// The segments' files, oldest slot first. What a crash cut short while it was prepared is removed: it holds nothing.
fn open_files(dir: &Path) -> io::Result<Vec<(PathBuf, File)>> {
    let paths = std::fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.path()));
    let (segments, others): (Vec<_>, Vec<_>) =
        paths.collect::<io::Result<Vec<_>>>()?.into_iter().partition(|path| slot_of(path).is_some());
    for path in others.iter().filter(|path| path.extension().is_some_and(|extension| extension == "new")) {
        std::fs::remove_file(path)?;
    }
    let open = |path: PathBuf| {
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(in_file_at(&path))?;
        Ok((path, file))
    };
    let mut files = segments.into_iter().map(open).collect::<io::Result<Vec<_>>>()?;
    files.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(files)
}

fn two_of(one: &Segment, other: &Segment) -> io::Error {
    io::Error::other(format!(
        "{} and {} both say that they are segment {} of the log. One is a copy that somebody made: move it out of the \
         folder, and keep it until `relaypacs spool verify` has found all with the other",
        one.path.display(),
        other.path.display(),
        one.generation
    ))
}

fn slot_of(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?;
    name.strip_prefix("segment-")?.strip_suffix(".log")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::record::RecordHeader;
    use super::*;

    #[test]
    fn a_recycled_segment_is_used_again_under_its_new_generation() {
        let dir = tempfile::tempdir().unwrap();
        let segments = Segments::open(dir.path(), 64 << 10).unwrap();
        for _ in 0..3 {
            segments.prepare().unwrap();
        }
        let first = segments.begin(1, 0).unwrap().unwrap();
        let path = first.path.clone();
        drop(first);
        drop(segments.begin(2, 0).unwrap().unwrap());
        assert!(segments.recycle_oldest());
        drop(segments.begin(3, 0).unwrap().unwrap());
        let again = segments.begin(4, 0).unwrap().unwrap();
        assert_eq!(again.path, path);

        drop(again);
        drop(segments);
        let reopened = Segments::open(dir.path(), 64 << 10).unwrap();
        let live: Vec<_> = reopened.from(0).iter().map(|segment| segment.generation).collect();
        assert_eq!(live, [2, 3, 4]);
    }

    #[test]
    fn a_spare_is_filled_once_and_a_segment_in_use_never() {
        let dir = tempfile::tempdir().unwrap();
        let segments = Segments::open(dir.path(), FILL_STEP * 3 / 2).unwrap();
        segments.prepare().unwrap();
        segments.prepare().unwrap();
        let used = segments.begin(1, 0).unwrap().unwrap();
        let mut record = vec![7; 100];
        used.file.write_all_at(&record, FIRST_RECORD).unwrap();
        assert_eq!([(); 3].map(|()| segments.fill_step().unwrap()), [true, true, false]);
        FileExt::read_exact_at(&used.file, &mut record, FIRST_RECORD).unwrap();
        assert_eq!(record, [7; 100]);
        drop(used);
        segments.begin(2, 0).unwrap().unwrap();
        assert!(segments.recycle_oldest());
        assert!(!segments.fill_step().unwrap(), "a recycled one was written");
    }

    fn begun(dir: &Path, generation: u32, size: u64) -> (Segments, Arc<Segment>) {
        let segments = Segments::open(dir, size).unwrap();
        segments.prepare().unwrap();
        let segment = segments.begin(generation, 0).unwrap().unwrap();
        (segments, segment)
    }

    #[test]
    fn a_segment_is_set_aside_once_it_is_in_the_folder_and_not_before() {
        let dir = tempfile::tempdir().unwrap();
        let (segments, segment) = begun(dir.path(), 1, 64 << 10);
        segments.set_aside(1, &dir.path().join("missing")).unwrap_err();
        assert_eq!(segments.live_count(), 1);
        // As if the sync behind the move had failed.
        std::fs::rename(&segment.path, dir.path().join("aside")).unwrap();
        segments.set_aside(1, &dir.path().join("missing")).unwrap();
        assert_eq!(segments.live_count(), 0);
    }

    #[test]
    fn what_is_cut_off_stands_up_no_more_and_the_rest_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (_segments, segment) = begun(dir.path(), 1, 64 << 10);
        segment.file.write_all_at(&[7; 20_000], FIRST_RECORD).unwrap();
        segment.cut_off(FIRST_RECORD + 100).unwrap();
        assert_eq!(segment.file.metadata().unwrap().len(), segment.size);
        let mut read = [1; 20_000];
        FileExt::read_exact_at(&segment.file, &mut read, FIRST_RECORD).unwrap();
        assert_eq!(read.iter().rposition(|byte| *byte != 0), Some(99));
    }

    #[test]
    fn two_files_of_one_generation_end_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let (_segments, segment) = begun(dir.path(), 1, 64 << 10);
        std::fs::copy(&segment.path, dir.path().join("segment-00000007.log")).unwrap();
        let refused = Segments::open(dir.path(), 64 << 10).err().unwrap();
        assert!(refused.to_string().contains("segment 1 of the log"), "{refused}");
    }

    #[test]
    fn a_damaged_head_is_no_reason_to_write_over_records_wherever_they_stand() {
        let dir = tempfile::tempdir().unwrap();
        let (_segments, segment) = begun(dir.path(), 5, 1 << 20);
        let record = RecordHeader::void(5, 1, 0, 200).encode(segment.log);
        segment.file.write_all_at(&record, 512 << 10).unwrap();
        segment.file.write_all_at(&[0; PAGE as usize], 0).unwrap();
        let reopened = Segments::open(dir.path(), 1 << 20).unwrap();
        assert_eq!((reopened.live_count(), reopened.spare_count()), (1, 0));
    }

    #[test]
    fn a_segment_that_is_being_read_is_not_recycled() {
        let dir = tempfile::tempdir().unwrap();
        let segments = Segments::open(dir.path(), 64 << 10).unwrap();
        segments.prepare().unwrap();
        segments.prepare().unwrap();
        let reader = segments.begin(1, 0).unwrap().unwrap();
        segments.begin(2, 0).unwrap().unwrap();
        assert!(!segments.recycle_oldest());
        drop(reader);
        assert!(segments.recycle_oldest());
    }

    #[test]
    fn the_last_spare_is_kept_for_facts() {
        let dir = tempfile::tempdir().unwrap();
        let segments = Segments::open(dir.path(), 64 << 10).unwrap();
        segments.prepare().unwrap();
        assert!(segments.begin(1, 1).unwrap().is_none());
        assert!(segments.begin(1, 0).unwrap().is_some());
    }
}
