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

use super::disk_view::{self, Aligned, Forgiving, ReadAt};
use super::log_id::{self, LogId};
use crate::failpoint;

/// Records begin after the segment's own header.
pub const FIRST_RECORD: u64 = PAGE;
/// What the page cache reads from the disk before it changes a part of it.
pub const PAGE: u64 = 4096;
const MAGIC: [u8; 8] = *b"RPsegm1\n";
/// Magic, generation, their checksum; then what tells the log's records, and its checksum.
const HEADER_LENGTH: usize = 16 + log_id::LENGTH + 4;
/// A file that has nothing but zeros in so many bytes was never written.
const NEVER_USED: u64 = 64 << 10;

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
}

impl Segments {
    /// Opens what is in `dir`; files without a readable header are spares.
    pub fn open(dir: &Path, size: u64) -> io::Result<Segments> {
        std::fs::create_dir_all(dir)?;
        let mut live = BTreeMap::new();
        let mut spares = Spares::default();
        let mut next_slot = 0;
        let mut paths: Vec<PathBuf> = std::fs::read_dir(dir)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<io::Result<_>>()?;
        paths.sort();
        let log = find_log_id(dir, &paths)?;
        for path in paths {
            let Some(slot) = slot_of(&path) else {
                // A preparation that a crash cut short holds nothing.
                if path.extension().is_some_and(|extension| extension == "new") {
                    std::fs::remove_file(&path)?;
                }
                continue;
            };
            next_slot = next_slot.max(slot + 1);
            let (file, size, generation) = existing(&path, log)
                .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
            match generation {
                Some(generation) => {
                    let segment = Segment { generation, log, size, path, file };
                    live.insert(generation, Arc::new(segment));
                }
                // Left as it is until it is needed: it may be a segment whose beginning is damaged.
                None => spares.queue.push_back(Spare { path, file, size, filled: size }),
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
        })
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
        let made = self.allocated(&preparing);
        if made.is_err() {
            let _ = std::fs::remove_file(&preparing);
        }
        let file = made?;
        std::fs::rename(&preparing, &path)?;
        failpoint::pass("segment_prepared");
        failpoint::sync("segment_directory", || File::open(&self.dir)?.sync_all())?;
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
        let Some(spare) = self.spares.lock().queue.pop_front() else { return Ok(()) };
        std::fs::remove_file(&spare.path)
    }

    fn allocated(&self, path: &Path) -> io::Result<File> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, self.size) {
            // Not every file system can; there a segment grows as it is written.
            Err(rustix::io::Errno::OPNOTSUPP) => file.set_len(self.size)?,
            allocated => allocated?,
        }
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
        let Some(Spare { path, file, size, .. }) = spare else { return Ok(None) };
        file.write_all_at(&header(generation, self.log), 0)?;
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
        std::fs::rename(&segment.path, folder.join(format!("segment-of-{generation}.log")))?;
        File::open(&self.dir)?.sync_all()?;
        live.remove(&generation);
        Ok(())
    }
}

/// A segment's file, its size and its generation, if it has one.
fn existing(path: &Path, log: LogId) -> io::Result<(File, u64, Option<u32>)> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let size = file.metadata()?.len();
    let generation = read_generation(&file, log)?;
    Ok((file, size, generation))
}

fn slot_of(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?;
    name.strip_prefix("segment-")?.strip_suffix(".log")?.parse().ok()
}

fn header(generation: u32, log: LogId) -> [u8; HEADER_LENGTH] {
    let mut out = [0; HEADER_LENGTH];
    out[0..8].copy_from_slice(&MAGIC);
    out[8..12].copy_from_slice(&generation.to_le_bytes());
    let crc = crc32c::crc32c(&out[..12]);
    out[12..16].copy_from_slice(&crc.to_le_bytes());
    let id = log.encode();
    out[16..23].copy_from_slice(&id);
    out[23..27].copy_from_slice(&crc32c::crc32c(&id).to_le_bytes());
    out
}

/// What tells the records of this log: as a segment has it, or else its file. A log without one was begun by an earlier
/// version; a new one gets one.
fn find_log_id(dir: &Path, paths: &[PathBuf]) -> io::Result<LogId> {
    let in_file = LogId::read(dir);
    let segments = paths.iter().filter(|path| slot_of(path).is_some());
    let (mut is_old, mut met_unreadable) = (false, false);
    for path in segments {
        let file = File::open(path)?;
        let (source, mut begin) = (Forgiving::of(&file), [0; HEADER_LENGTH]);
        match source.read_exact_at(&mut begin, 0) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => continue,
            read => read?,
        }
        met_unreadable |= source.met_unreadable();
        let (head, rest) = begin.split_at(16);
        if let Some((id, checksum)) = rest.split_first_chunk()
            && crc32c::crc32c(id).to_le_bytes() == *checksum
        {
            let id = LogId::decode(id);
            if !matches!(in_file, Ok(Some(noted)) if noted == id) {
                id.write(dir)?;
            }
            return Ok(id);
        }
        is_old |= head[0..8] == MAGIC && rest.iter().all(|byte| *byte == 0);
    }
    if is_old {
        return Ok(LogId::default());
    }
    if let Some(id) = in_file? {
        return Ok(id);
    }
    // With another one, nothing in the log would count as its record any more.
    if met_unreadable {
        return Err(untold());
    }
    let id = LogId::random();
    id.write(dir)?;
    Ok(id)
}

/// The generation that the segment was last written under; `None` for one never used. Where the
/// segment's header is damaged, its records say, if all of them can be read: what can't must not be written over.
fn read_generation(file: &File, log: LogId) -> io::Result<Option<u32>> {
    let size = file.metadata()?.len();
    if size < FIRST_RECORD + super::record::HEADER_LENGTH as u64 {
        return Ok(None);
    }
    let mut head = [0; FIRST_RECORD as usize];
    Forgiving::of(file).read_exact_at(&mut head, 0)?;
    if head[0..8] == MAGIC && crc32c::crc32c(&head[..12]).to_le_bytes() == head[12..16] {
        return Ok(Some(u32::from_le_bytes([head[8], head[9], head[10], head[11]])));
    }
    let records = Forgiving::of(file);
    let mut begin = vec![0; (size.min(NEVER_USED) - FIRST_RECORD) as usize];
    records.read_exact_at(&mut begin, FIRST_RECORD)?;
    let never_used = head.iter().chain(&begin).all(|byte| *byte == 0);
    let newest = if never_used { None } else { super::scan::generation_of(&records, log, size)? };
    if records.met_unreadable() { Err(untold()) } else { Ok(newest) }
}

/// An error that may pass; and a person can tell that it will not.
fn untold() -> io::Error {
    io::Error::other(
        "the disk can't read where its generation stands, so nobody knows what it holds. Try again; if it is lost for \
         good, move the file away, and what it held is named as missing",
    )
}

#[cfg(test)]
mod tests {
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
