//! Files past the page cache. After a crash the cache may hold what the disk does not: pages that
//! were never written back, or whose write-back failed and which count as clean all the same.
//! Recovery believes only the disk.

use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::io;
use std::num::NonZeroU64;
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use parking_lot::Mutex;
use rustix::fs::{Advice, OFlags};

use super::damage::is_unreadable;

/// What the scan reads from: a file, or the disk under it.
pub trait ReadAt {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

impl ReadAt for File {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buffer, offset)
    }
}

/// What is read where it does not matter if the disk can't read all: such pages count as bytes that no checksum takes
/// for what was written.
pub struct Forgiving<'a> {
    source: &'a dyn ReadAt,
    met_unreadable: Cell<bool>,
}

impl Forgiving<'_> {
    pub fn of(source: &dyn ReadAt) -> Forgiving<'_> {
        Forgiving { source, met_unreadable: Cell::new(false) }
    }

    pub fn met_unreadable(&self) -> bool {
        self.met_unreadable.get()
    }
}

impl ReadAt for Forgiving<'_> {
    fn read_exact_at(&self, buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        match self.source.read_exact_at(buffer, offset) {
            Err(error) if is_unreadable(&error) => {}
            read => return read,
        }
        let mut rest = buffer;
        while !rest.is_empty() {
            let in_page = ALIGNMENT - (offset % ALIGNMENT as u64) as usize;
            let (page, behind) = rest.split_at_mut(in_page.min(rest.len()));
            match self.source.read_exact_at(page, offset) {
                Err(error) if is_unreadable(&error) => {
                    page.fill(UNREADABLE);
                    self.met_unreadable.set(true);
                }
                read => read?,
            }
            offset += page.len() as u64;
            rest = behind;
        }
        Ok(())
    }
}

/// What stands for a page that can't be read. Not zeros: an object may be nothing else.
const UNREADABLE: u8 = 0xDE;

/// What O_DIRECT asks of addresses, offsets and lengths: enough for disks with 4 KiB sectors.
const ALIGNMENT: usize = 4096;
/// Read at once at most: a scan goes front to back.
const WINDOW: usize = 1 << 20;
/// … and for the bytes of one object.
const SMALL_WINDOW: u64 = 256 << 10;

/// A file as the disk has it.
pub struct DiskView {
    file: File,
    window: Mutex<Window>,
}

/// The bytes `from..from + length` of the file.
struct Window {
    buffer: Aligned,
    from: u64,
    length: usize,
}

/// Zeros at first, at an address that O_DIRECT takes.
pub struct Aligned {
    bytes: Vec<u8>,
    length: usize,
}

impl Aligned {
    pub fn new(length: usize) -> Aligned {
        Aligned { bytes: vec![0; length + ALIGNMENT], length }
    }

    fn begin(&self) -> usize {
        self.bytes.as_ptr().align_offset(ALIGNMENT)
    }
}

impl Deref for Aligned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.begin()..][..self.length]
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [u8] {
        let begin = self.begin();
        &mut self.bytes[begin..][..self.length]
    }
}

/// Opens a file past the page cache; as usual on file systems that can't.
pub fn open_direct(path: &Path, options: &OpenOptions) -> io::Result<File> {
    match options.clone().custom_flags(OFlags::DIRECT.bits() as i32).open(path) {
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => {
            options.open(path)
        }
        opened => opened,
    }
}

impl DiskView {
    /// Writes back what the cache still has and drops it, so that later reads through the cache see
    /// the disk too. An error of the write-back is a failed sync: not to be tried again.
    pub fn of(file: &File, path: &Path) -> io::Result<DiskView> {
        crate::failpoint::sync("recovered", || file.sync_data())?;
        rustix::fs::fadvise(file, 0, None, Advice::DontNeed)?;
        DiskView::open(path, WINDOW)
    }

    /// As [`DiskView::of`], for who reads no more than the file's first page, as a rule: the rest stays in the cache.
    pub fn of_head(file: &File, path: &Path) -> io::Result<DiskView> {
        crate::failpoint::sync("recovered", || file.sync_data())?;
        rustix::fs::fadvise(file, 0, NonZeroU64::new(ALIGNMENT as u64), Advice::DontNeed)?;
        DiskView::open(path, ALIGNMENT)
    }

    /// For so many bytes that were synced before.
    pub fn of_synced(path: &Path, length: u64) -> io::Result<DiskView> {
        let window = length.next_multiple_of(ALIGNMENT as u64) + ALIGNMENT as u64;
        DiskView::open(path, window.min(SMALL_WINDOW) as usize)
    }

    fn open(path: &Path, window: usize) -> io::Result<DiskView> {
        // Without O_DIRECT, the cache was dropped at least.
        let file = open_direct(path, OpenOptions::new().read(true))?;
        let window = Window { buffer: Aligned::new(window), from: 0, length: 0 };
        Ok(DiskView { file, window: Mutex::new(window) })
    }
}

impl ReadAt for DiskView {
    fn read_exact_at(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        let mut window = self.window.lock();
        while !buffer.is_empty() {
            let within = offset.checked_sub(window.from).filter(|at| *at < window.length as u64);
            let Some(at) = within else {
                window.fill(&self.file, offset)?;
                continue;
            };
            let bytes = &window.buffer[at as usize..window.length];
            let take = bytes.len().min(buffer.len());
            buffer[..take].copy_from_slice(&bytes[..take]);
            buffer = &mut buffer[take..];
            offset += take as u64;
        }
        Ok(())
    }
}

impl Window {
    /// Reads what stands around `offset`; fails where the file ends before it.
    fn fill(&mut self, file: &File, offset: u64) -> io::Result<()> {
        self.from = offset - offset % ALIGNMENT as u64;
        // Should this fail, what it held before stands nowhere.
        self.length = 0;
        self.length = match file.read_at(&mut self.buffer, self.from) {
            // Of a stretch with a bad sector the rest can be read.
            Err(error) if is_unreadable(&error) => file.read_at(&mut self.buffer[..ALIGNMENT], self.from)?,
            read => read?,
        };
        if offset >= self.from + self.length as u64 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::*;

    /// A disk with one bad page.
    struct BadPage(Range<u64>);

    impl ReadAt for BadPage {
        fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
            if offset < self.0.end && offset + buffer.len() as u64 > self.0.start {
                return Err(rustix::io::Errno::IO.into());
            }
            buffer.fill(1);
            Ok(())
        }
    }

    #[test]
    fn a_page_that_the_disk_can_not_read_is_no_reason_not_to_read_the_others() {
        let bad = 2 * ALIGNMENT as u64..3 * ALIGNMENT as u64;
        let disk = BadPage(bad.clone());
        let source = Forgiving::of(&disk);
        let (mut read, begin) = (vec![0; 4 * ALIGNMENT], 100);
        source.read_exact_at(&mut read[..ALIGNMENT], begin).unwrap();
        assert!(!source.met_unreadable());
        source.read_exact_at(&mut read, begin).unwrap();
        assert!(source.met_unreadable());
        for (at, byte) in (begin..).zip(read) {
            assert_eq!(byte, if bad.contains(&at) { UNREADABLE } else { 1 }, "at {at}");
        }
    }

    #[test]
    fn what_could_not_be_read_once_is_not_read_from_what_stood_before_it() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, [1; 3 * ALIGNMENT]).unwrap();
        let mut view = DiskView::of_head(&File::open(&path).unwrap(), &path).unwrap();
        view.read_exact_at(&mut [0; 10], 0).unwrap();
        // Fails, as a bad sector does.
        view.file = File::options().write(true).open(&path).unwrap();
        for _ in 0..2 {
            view.read_exact_at(&mut [0; 10], ALIGNMENT as u64).unwrap_err();
        }
    }

    #[test]
    fn any_stretch_reads_as_through_the_cache_and_none_beyond_the_end() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = dir.path().join("file");
        let content: Vec<u8> = (0..2 * WINDOW + 777).map(|at| (at % 251) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let view = DiskView::of(&File::open(&path).unwrap(), &path).unwrap();
        let stretches =
            [(0, 10), (4095, 2), (WINDOW - 5, 4097), (3, content.len() - 3), (content.len() - 1, 1)];
        for (offset, length) in stretches {
            let mut read = vec![0; length];
            view.read_exact_at(&mut read, offset as u64).unwrap();
            assert!(read == content[offset..offset + length], "{length} bytes at {offset}");
        }
        let beyond = view.read_exact_at(&mut [0; 2], content.len() as u64 - 1);
        assert_eq!(beyond.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
