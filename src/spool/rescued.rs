//! What a failing disk could not read. A person who brings a copy of the log back marks it: with bytes of the person's
//! own in place of what was not read (docs/operations.md, "When the disk fails"). Zeros there would read like what was never
//! written, and what was acknowledged last would be missing without a name.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk_view::{Forgiving, ReadAt};
use super::record::HEADER_LENGTH;
use super::segment::{PAGE, Segment};
use super::segment_head::in_file_at;
use crate::failpoint;

/// What a disk reads or not, at the least.
const SECTOR: usize = 512;
/// In the folder of segments, until a start has heeded it.
const FILE: &str = "unread-mark";

/// The bytes that stand there, again and again, beginning anywhere within.
pub struct Mark {
    bytes: Vec<u8>,
    path: PathBuf,
}

impl Mark {
    /// `None` where nobody has brought back a copy.
    pub fn read(folder: &Path) -> io::Result<Option<Mark>> {
        let path = folder.join(FILE);
        let bytes = match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(in_file_at(&path))?,
        };
        if !(8..=64).contains(&bytes.len()) || bytes.iter().all(|byte| *byte == bytes[0]) {
            let advice = "it must have 8 to 64 bytes that occur nowhere else, such as random ones";
            return Err(in_file_at(&path)(io::Error::other(advice)));
        }
        Ok(Some(Mark { bytes, path }))
    }

    /// It was heeded. Durable, lest a later start meet what is left of it.
    pub fn forget(&self) -> io::Result<()> {
        std::fs::remove_file(&self.path)?;
        let folder = self.path.parent().unwrap_or(&self.path);
        failpoint::sync("unread_mark", || File::open(folder)?.sync_all())
    }

    fn covers(&self, sector: &[u8]) -> bool {
        let length = self.bytes.len();
        let is_periodic = sector.iter().zip(&sector[length..]).all(|(one, next)| one == next);
        is_periodic && sector[..2 * length].windows(length).any(|bytes| bytes == self.bytes)
    }

    /// Whether the first page of a file could not be read.
    pub fn covers_head(&self, file: &File) -> bool {
        let mut head = [0; PAGE as usize];
        let read = Forgiving::of(file).read_exact_at(&mut head, 0);
        read.is_ok() && head.chunks_exact(SECTOR).any(|sector| self.covers(sector))
    }

    /// Where such sectors begin, from that with `offset` on.
    fn sectors(&self, file: &File, offset: u64) -> io::Result<Vec<u64>> {
        const WINDOW: usize = 1 << 20;
        let (mut sectors, size) = (Vec::new(), file.metadata()?.len());
        let (source, mut window) = (Forgiving::of(file), vec![0; WINDOW]);
        let mut at = offset - offset % SECTOR as u64;
        while at + SECTOR as u64 <= size {
            let length = (size - at).min(WINDOW as u64) as usize;
            source.read_exact_at(&mut window[..length], at)?;
            let places = (at..).step_by(SECTOR).zip(window[..length].chunks_exact(SECTOR));
            sectors.extend(places.filter(|(_, sector)| self.covers(sector)).map(|(place, _)| place));
            at += length as u64;
        }
        Ok(sectors)
    }
}

/// A file of the log whose first page could not be read, and in which no record can: nobody knows which segment it was.
pub struct Nameless {
    pub path: PathBuf,
    pub file: File,
}

/// All such sectors where records may have stood of which nothing else tells.
#[derive(Default)]
pub struct Unread {
    files: Vec<(PathBuf, File, Vec<u64>)>,
    behind_end: usize,
}

impl Unread {
    /// In `segments`, the last ones of the log, from `offset` in the first of them on; the log ends at `end` in the last.
    pub fn find(
        mark: &Mark,
        segments: &[Arc<Segment>],
        offset: u64,
        end: u64,
        nameless: &[Nameless],
    ) -> io::Result<Unread> {
        let mut unread = Unread::default();
        for (number, segment) in segments.iter().enumerate() {
            let end = if number + 1 == segments.len() { end } else { u64::MAX };
            unread.add(mark, &segment.path, &segment.file, if number == 0 { offset } else { 0 }, end)?;
        }
        for Nameless { path, file } in nameless {
            unread.add(mark, path, file, 0, 0)?;
        }
        Ok(unread)
    }

    fn add(&mut self, mark: &Mark, path: &Path, file: &File, from: u64, end: u64) -> io::Result<()> {
        let sectors = mark.sectors(file, from).map_err(in_file_at(path))?;
        self.behind_end += sectors.iter().filter(|place| **place + SECTOR as u64 > end).count();
        if !sectors.is_empty() {
            self.files.push((path.to_owned(), file.try_clone()?, sectors));
        }
        Ok(())
    }

    pub fn is_any(&self) -> bool {
        !self.files.is_empty()
    }

    /// No more records stood behind the end than this.
    pub fn most_records(&self) -> u64 {
        (self.behind_end * SECTOR).div_ceil(HEADER_LENGTH) as u64
    }

    /// Zeros in their place: nothing is in them. Durable when it returns.
    pub fn clear(&self) -> io::Result<()> {
        for (path, file, sectors) in &self.files {
            let zeros = || sectors.iter().try_for_each(|at| file.write_all_at(&[0; SECTOR], *at));
            let clear = || zeros().and_then(|()| failpoint::sync("unread_cleared", || file.sync_data()));
            clear().map_err(in_file_at(path))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sector_is_told_wherever_in_the_mark_it_begins_and_by_no_other_mark() {
        let of = |bytes: &[u8]| Mark { bytes: bytes.to_vec(), path: PathBuf::new() };
        let (mark, other) = (of(b"twelve bytes"), of(b"other bytes."));
        for begin in 0..mark.bytes.len() {
            let sector: Vec<u8> = mark.bytes.iter().copied().cycle().skip(begin).take(SECTOR).collect();
            assert!(mark.covers(&sector) && !other.covers(&sector));
            for at in [0, 300, SECTOR - 1] {
                let mut written = sector.clone();
                written[at] ^= 1;
                assert!(!mark.covers(&written), "{at}");
            }
        }
        assert!(!mark.covers(&[0; SECTOR]));
    }

    #[test]
    fn a_mark_that_may_be_anything_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Mark::read(dir.path()).unwrap().is_none());
        for bytes in [&b""[..], b"short", &[0; 16], &[7; 65]] {
            std::fs::write(dir.path().join(FILE), bytes).unwrap();
            assert!(Mark::read(dir.path()).is_err(), "{bytes:?}");
        }
        std::fs::write(dir.path().join(FILE), b"twelve bytes").unwrap();
        let mark = Mark::read(dir.path()).unwrap().unwrap();
        mark.forget().unwrap();
        assert!(Mark::read(dir.path()).unwrap().is_none());
    }
}
