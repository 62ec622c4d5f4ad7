//! Reads an entry's bytes back, from its segment or its large file, without holding the whole.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use rustix::io::ReadWriteFlags;
use sha2::{Digest as _, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::damage::Damage;
use super::entry::{EntryId, Fact, SpoolEntry};
use super::record::{Payload, RecordHeader};
use super::scan::Record;
use super::segment::Segment;
use super::shared::Shared;
use super::{SpoolError, scan};

/// Bytes that all loaded objects together may take.
pub const LOADED_BUDGET: usize = 8 << 20;

/// The largest object that is loaded.
const MOST_LOADED: u64 = 1 << 20;

/// Bytes that are read and hashed without leaving the runtime's thread: some 40 µs.
const IN_PLACE: usize = 64 * 1024;

const OTHER_BYTES: &str = "its bytes are not those that were acknowledged";

/// What an object is read for says how its bytes are checked on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckBy {
    /// As strictly as can be: for who lets go of the object because of what was read, by delivering it or comparing it.
    Sha256,
    /// Ten times as fast: for who shows it. An object that has none is checked by its SHA-256.
    Crc32c,
}

/// The Part 10 bytes of one entry: our preamble and file meta, then the data set as received.
/// They stay readable while the reader lives. Cheap to clone: clones check what is read together.
#[derive(Debug, Clone)]
pub struct ObjectReader {
    pub entry: Arc<SpoolEntry>,
    source: Source,
    check: Arc<Mutex<Check>>,
    damage: Arc<Damage>,
}

/// Sums up the data set while it is read front to back, so that whoever reads all of it gets its
/// last bytes only when they are those that were acknowledged.
#[derive(Debug)]
struct Check {
    sum: Sum,
    /// Offset in the Part 10 file of what is summed up next.
    next: u64,
}

#[derive(Debug)]
enum Sum {
    Sha256 { hasher: Sha256, expected: [u8; 32] },
    Crc32c { crc: u32, expected: u32 },
}

#[derive(Debug, Clone)]
enum Source {
    /// Holding the segment keeps it from being recycled.
    Log { segment: Arc<Segment>, offset: u64 },
    /// The Part 10 header stands in the log, the data set in a file.
    Large { prefix: Bytes, file: Arc<File> },
    /// All of it.
    Memory(Bytes),
}

fn open_large(shared: &Shared, id: EntryId, name: &str) -> Result<File, SpoolError> {
    let path = shared.large_path(name);
    File::open(&path).map_err(|error| match error.kind() {
        // Freed since its record was found: that takes its file first.
        io::ErrorKind::NotFound if matches!(shared.locate(id), Err(SpoolError::Freed(_))) => {
            SpoolError::Freed(id)
        }
        io::ErrorKind::NotFound => SpoolError::Damaged { id, detail: "its large file is missing".to_owned() },
        _ => SpoolError::from_io(path, error),
    })
}

/// Gives its room back when nobody holds a part of it any more.
struct Loaded {
    bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Loaded {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl ObjectReader {
    /// Opens an entry. Blocks.
    pub(super) fn open(shared: &Shared, id: EntryId, by: CheckBy) -> Result<ObjectReader, SpoolError> {
        shared.record(id).and_then(|found| Self::of_record(shared, id, found, by)).inspect_err(|error| {
            if let SpoolError::Damaged { id, detail } = error {
                shared.damage.note(*id, detail);
            }
        })
    }

    pub(super) fn of_record(
        shared: &Shared,
        id: EntryId,
        (segment, record): (Arc<Segment>, Record),
        by: CheckBy,
    ) -> Result<ObjectReader, SpoolError> {
        let offset = record.part10_offset();
        let payload = record.header.payload;
        let sum = Sum::new(&record.header, by);
        let large = record.meta.large;
        let Fact::Received(entry) = record.meta.fact else { return Err(SpoolError::Unknown(id)) };
        let source = match (payload, large) {
            (Payload::Large, Some(name)) => {
                let file = open_large(shared, id, &name)?;
                let mut prefix = vec![0; record.header.prefix_length as usize];
                segment
                    .file
                    .read_exact_at(&mut prefix, offset)
                    .map_err(|error| SpoolError::from_io(segment.path.clone(), error))?;
                Source::Large { prefix: prefix.into(), file: Arc::new(file) }
            }
            _ => Source::Log { segment, offset },
        };
        let check = Check { sum, next: u64::from(entry.prefix_length) };
        let (check, damage) = (Arc::new(Mutex::new(check)), shared.damage.clone());
        Ok(ObjectReader { entry: Arc::new(*entry), source, check, damage })
    }

    /// With its bytes in memory, checked, when it is small and `room` has as many. Blocks.
    pub(super) fn loaded(mut self, room: &Arc<Semaphore>) -> Result<ObjectReader, SpoolError> {
        let length = self.len();
        if length > MOST_LOADED {
            return Ok(self);
        }
        let Ok(room) = room.clone().try_acquire_many_owned(length as u32) else { return Ok(self) };
        let bytes = self.read(0, length as usize)?;
        self.source = Source::Memory(Bytes::from_owner(Loaded { bytes, _room: room }));
        Ok(self)
    }

    /// Length of the whole Part 10 file.
    pub fn len(&self) -> u64 {
        u64::from(self.entry.prefix_length) + self.entry.data_set_length
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// As [`ObjectReader::read`], but it may give fewer bytes anywhere: it takes what is in memory where it is, and
    /// goes to a blocking thread only for what the disk has to bring.
    pub async fn read_at(&self, offset: u64, max: usize) -> Result<Bytes, SpoolError> {
        if let Some(bytes) = self.source.in_memory(offset, self.left(offset, max)) {
            return self.checked(offset, bytes).map_err(|error| self.unreadable(error));
        }
        let reader = self.clone();
        let read = tokio::task::spawn_blocking(move || reader.read(offset, max)).await;
        read.unwrap_or_else(|ended| Err(self.unreadable(io::Error::other(ended))))
    }

    /// Up to `max` bytes at `offset` of the Part 10 file; fewer only at its end. Who reads the data
    /// set front to back is refused its last bytes when they are not those that came. Blocks.
    pub fn read(&self, offset: u64, max: usize) -> Result<Bytes, SpoolError> {
        let read = self.source.read_at(offset, self.left(offset, max));
        read.and_then(|bytes| self.checked(offset, bytes)).map_err(|error| self.unreadable(error))
    }

    fn left(&self, offset: u64, max: usize) -> usize {
        self.len().saturating_sub(offset).min(max as u64) as usize
    }

    fn checked(&self, offset: u64, bytes: Bytes) -> io::Result<Bytes> {
        self.check.lock().take(&self.entry, offset, &bytes)?;
        Ok(bytes)
    }

    /// As [`ObjectReader::read`], `offset` being one of the data set.
    pub fn read_data_set(&self, offset: u64, max: usize) -> Result<Bytes, SpoolError> {
        self.read(u64::from(self.entry.prefix_length) + offset, max)
    }

    /// Whether the data set still has its SHA-256, or had when it was loaded. Blocks while it reads all of it.
    pub fn is_intact(&self) -> Result<bool, SpoolError> {
        let prefix = u64::from(self.entry.prefix_length);
        let (file, offset) = match &self.source {
            Source::Log { segment, offset } => (&segment.file, offset + prefix),
            Source::Large { file, .. } => (&**file, 0),
            Source::Memory(_) => return Ok(true),
        };
        let expected = self.entry.data_set_sha256;
        let is_intact = scan::has_digest(file, offset, self.entry.data_set_length, &expected.0)
            .map_err(|error| self.unreadable(error))?;
        if !is_intact {
            self.damage.note(self.entry.id, OTHER_BYTES);
        }
        Ok(is_intact)
    }

    /// Only what ends too soon is damaged; any other error may pass. What the disk can't read at all
    /// is found by the scrub.
    fn unreadable(&self, error: io::Error) -> SpoolError {
        let id = self.entry.id;
        let detail = match error.kind() {
            io::ErrorKind::UnexpectedEof => "it ends too soon",
            io::ErrorKind::InvalidData => OTHER_BYTES,
            _ => return SpoolError::from_io(PathBuf::from(format!("entry {id}")), error),
        };
        self.damage.note(id, detail);
        SpoolError::Damaged { id, detail: detail.to_owned() }
    }
}

impl Check {
    /// Takes note of bytes that were read at `offset`.
    fn take(&mut self, entry: &SpoolEntry, offset: u64, bytes: &Bytes) -> io::Result<()> {
        let end = offset + bytes.len() as u64;
        if offset > self.next || end <= self.next {
            return Ok(());
        }
        self.sum.update(&bytes[(self.next - offset) as usize..]);
        self.next = end;
        if end < u64::from(entry.prefix_length) + entry.data_set_length {
            return Ok(());
        }
        match self.sum.is_as_expected() {
            true => Ok(()),
            // The last bytes stay to be asked for, and are refused again.
            false => {
                self.next = u64::MAX;
                Err(io::ErrorKind::InvalidData.into())
            }
        }
    }
}

impl Sum {
    fn new(header: &RecordHeader, by: CheckBy) -> Sum {
        match (by, header.data_set_crc) {
            (CheckBy::Sha256, _) | (CheckBy::Crc32c, 0) => {
                Sum::Sha256 { hasher: Sha256::new(), expected: header.data_set_sha256 }
            }
            (CheckBy::Crc32c, expected) => Sum::Crc32c { crc: 0, expected },
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Sum::Sha256 { hasher, .. } => hasher.update(bytes),
            Sum::Crc32c { crc, .. } => *crc = crc32c::crc32c_append(*crc, bytes),
        }
    }

    fn is_as_expected(&self) -> bool {
        match self {
            Sum::Sha256 { hasher, expected } => hasher.clone().finalize()[..] == expected[..],
            Sum::Crc32c { crc, expected } => crc == expected,
        }
    }
}

impl Source {
    /// What can be had without waiting for the disk; of a file, only so much as takes no time. An error is found again
    /// by who then reads it.
    fn in_memory(&self, offset: u64, length: usize) -> Option<Bytes> {
        let (file, offset) = match self {
            Source::Log { segment, offset: begin } => (&segment.file, begin + offset),
            Source::Large { prefix, file } => (&**file, offset.checked_sub(prefix.len() as u64)?),
            Source::Memory(all) => return Some(part(all, offset, length)),
        };
        let length = length.min(IN_PLACE);
        let mut bytes = vec![0; length];
        let read =
            rustix::io::preadv2(file, &mut [IoSliceMut::new(&mut bytes)], offset, ReadWriteFlags::NOWAIT);
        (read == Ok(length)).then(|| bytes.into())
    }

    fn read_at(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        let mut bytes = Vec::with_capacity(length);
        match self {
            Source::Log { segment, offset: begin } => {
                read_to(&segment.file, begin + offset, &mut bytes, length)?;
            }
            Source::Memory(all) => return Ok(part(all, offset, length)),
            Source::Large { prefix, file } => {
                let header = prefix.get(offset as usize..).unwrap_or_default();
                bytes.extend_from_slice(&header[..header.len().min(length)]);
                let in_file = (offset + bytes.len() as u64).saturating_sub(prefix.len() as u64);
                read_to(file, in_file, &mut bytes, length)?;
            }
        }
        Ok(bytes.into())
    }
}

fn part(all: &Bytes, offset: u64, length: usize) -> Bytes {
    let begin = all.len().min(offset as usize);
    all.slice(begin..all.len().min(begin + length))
}

/// Reads on at `offset` of the file until there are `length` bytes, into room that nobody has to clear before.
fn read_to(file: &File, mut offset: u64, bytes: &mut Vec<u8>, length: usize) -> io::Result<()> {
    while bytes.len() < length {
        match rustix::io::pread(file, rustix::buffer::spare_capacity(bytes), offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => offset += read as u64,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    // There may be more room than was asked for, and then more was read.
    bytes.truncate(length);
    Ok(())
}
