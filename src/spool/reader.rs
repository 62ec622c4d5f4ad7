//! Reads an entry's bytes back, from its segment or its large file, without holding the whole.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::entry::{EntryId, Fact, SpoolEntry};
use super::record::Payload;
use super::segment::Segment;
use super::shared::Shared;
use super::{SpoolError, scan};

/// The Part 10 bytes of one entry: our preamble and file meta, then the data set as received.
/// They stay readable while the reader lives.
#[derive(Debug)]
pub struct ObjectReader {
    pub entry: Arc<SpoolEntry>,
    source: Source,
}

#[derive(Debug, Clone)]
enum Source {
    /// Holding the segment keeps it from being recycled.
    Log { segment: Arc<Segment>, offset: u64 },
    /// The Part 10 header stands in the log, the data set in a file.
    Large { prefix: Bytes, file: Arc<File> },
}

impl ObjectReader {
    /// Opens an entry. Blocks.
    pub(super) fn open(shared: &Shared, id: EntryId) -> Result<ObjectReader, SpoolError> {
        let (segment, record) = shared.record(id)?;
        let offset = record.part10_offset();
        let payload = record.header.payload;
        let large = record.meta.large;
        let Fact::Received(entry) = record.meta.fact else { return Err(SpoolError::Unknown(id)) };
        let source = match (payload, large) {
            (Payload::Large, Some(name)) => {
                let path = shared.large_path(&name);
                let file = File::open(&path).map_err(|error| match error.kind() {
                    io::ErrorKind::NotFound => {
                        SpoolError::Damaged { id, detail: "its large file is missing".to_owned() }
                    }
                    _ => SpoolError::from_io(path, error),
                })?;
                let mut prefix = vec![0; record.header.prefix_length as usize];
                segment
                    .file
                    .read_exact_at(&mut prefix, offset)
                    .map_err(|error| SpoolError::from_io(segment.path.clone(), error))?;
                Source::Large { prefix: prefix.into(), file: Arc::new(file) }
            }
            _ => Source::Log { segment, offset },
        };
        Ok(ObjectReader { entry: Arc::new(*entry), source })
    }

    /// Length of the whole Part 10 file.
    pub fn len(&self) -> u64 {
        u64::from(self.entry.prefix_length) + self.entry.data_set_length
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Up to `max` bytes at `offset` of the Part 10 file; fewer only at its end. Reads on a
    /// blocking thread.
    pub async fn read_at(&self, offset: u64, max: usize) -> Result<Bytes, SpoolError> {
        let length = self.len().saturating_sub(offset).min(max as u64) as usize;
        let source = self.source.clone();
        let read = tokio::task::spawn_blocking(move || source.read_at(offset, length));
        let read = read.await.map_err(io::Error::other).flatten();
        read.map_err(|error| self.unreadable(error))
    }

    /// Whether the data set still has its SHA-256. Blocks while it reads all of it.
    pub fn is_intact(&self) -> Result<bool, SpoolError> {
        let prefix = u64::from(self.entry.prefix_length);
        let (file, offset) = match &self.source {
            Source::Log { segment, offset } => (&segment.file, offset + prefix),
            Source::Large { file, .. } => (&**file, 0),
        };
        let expected = self.entry.data_set_sha256;
        scan::has_digest(file, offset, self.entry.data_set_length, &expected.0)
            .map_err(|error| self.unreadable(error))
    }

    /// Only what ends too soon is damaged; any other error may pass.
    fn unreadable(&self, error: io::Error) -> SpoolError {
        let id = self.entry.id;
        match error.kind() {
            io::ErrorKind::UnexpectedEof => SpoolError::Damaged { id, detail: "it ends too soon".to_owned() },
            _ => SpoolError::from_io(PathBuf::from(format!("entry {id}")), error),
        }
    }
}

impl Source {
    fn read_at(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        let mut bytes = vec![0; length];
        match self {
            Source::Log { segment, offset: begin } => {
                segment.file.read_exact_at(&mut bytes, begin + offset)?
            }
            Source::Large { prefix, file } => {
                let header = prefix.get(offset as usize..).unwrap_or_default();
                let (in_header, in_file) = bytes.split_at_mut(header.len().min(length));
                in_header.copy_from_slice(&header[..in_header.len()]);
                file.read_exact_at(in_file, offset.saturating_sub(prefix.len() as u64))?;
            }
        }
        Ok(bytes.into())
    }
}
