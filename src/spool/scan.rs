//! Reads records back from segments: for followers, for recovery, for single entries.

use std::io;

use sha2::{Digest as _, Sha256};

use super::damage::is_unreadable;
use super::disk_view::ReadAt;
use super::entry::LogPosition;
use super::log_id::LogId;
use super::record::{ALIGNMENT, HEADER_LENGTH, Meta, Payload, RecordHeader};
use super::segment::{FIRST_RECORD, Segment};
use super::state::Place;

impl LogPosition {
    pub(super) fn at(generation: u32, offset: u64) -> LogPosition {
        LogPosition(u64::from(generation) << 32 | offset)
    }

    pub(super) fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    pub(super) fn offset(self) -> u64 {
        (self.0 & 0xffff_ffff).max(FIRST_RECORD)
    }
}

/// A record as read: header, decoded meta, and where its parts lie.
#[derive(Debug)]
pub struct Record {
    pub header: RecordHeader,
    pub meta: Meta,
    pub place: Place,
}

impl Record {
    /// The position after it.
    pub fn after(&self) -> LogPosition {
        LogPosition::at(self.place.generation, u64::from(self.place.offset) + self.header.record_length())
    }

    /// Where the Part 10 header of an object begins in its segment; in the log, its data set follows.
    pub fn part10_offset(&self) -> u64 {
        u64::from(self.place.offset) + HEADER_LENGTH as u64 + u64::from(self.header.meta_length)
    }
}

/// What stands at a place of a segment.
#[derive(Debug)]
pub enum Found {
    Record(Box<Record>),
    /// No record of this generation begins here: the end, unless something follows.
    Nothing,
    /// A record begins here, and its meta is damaged.
    Damaged(RecordHeader),
    /// Nothing to read, up to where this ends.
    Void(RecordHeader),
}

/// Reads the record at `offset`; checks header and meta, not the payload. `source` here and below: the
/// segment's file, or the disk under it.
pub fn record_at(source: &dyn ReadAt, segment: &Segment, offset: u64) -> io::Result<Found> {
    let room = segment.size.saturating_sub(offset);
    if room < HEADER_LENGTH as u64 {
        return Ok(Found::Nothing);
    }
    // Most metas are under 3 KiB: one read serves.
    let mut block = vec![0; room.min(4096) as usize];
    match source.read_exact_at(&mut block, offset) {
        // A bad sector behind the record is no reason not to read it.
        Err(error) if is_unreadable(&error) => {
            block.truncate(HEADER_LENGTH);
            source.read_exact_at(&mut block, offset)?;
        }
        read => read?,
    }
    let Some(header) = RecordHeader::decode(&block, segment.log) else { return Ok(Found::Nothing) };
    if header.generation != segment.generation || header.record_length() > room {
        return Ok(Found::Nothing);
    }
    if header.payload == Payload::Void {
        return Ok(Found::Void(header));
    }
    let body = HEADER_LENGTH + header.meta_length as usize + header.prefix_length as usize;
    if body > block.len() {
        let have = block.len();
        block.resize(body, 0);
        source.read_exact_at(&mut block[have..], offset + have as u64)?;
    }
    if crc32c::crc32c(&block[HEADER_LENGTH..body]) != header.body_crc {
        return Ok(Found::Damaged(header));
    }
    let meta = &block[HEADER_LENGTH..HEADER_LENGTH + header.meta_length as usize];
    match Meta::decode(meta, header.sequence) {
        Ok(meta) => {
            let place = Place { generation: segment.generation, offset: offset as u32 };
            Ok(Found::Record(Box::new(Record { header, meta, place })))
        }
        Err(_) => Ok(Found::Damaged(header)),
    }
}

/// Whether a record of this generation was begun here, though its header does not hold.
pub fn looks_begun(source: &dyn ReadAt, segment: &Segment, offset: u64) -> io::Result<bool> {
    if offset + HEADER_LENGTH as u64 > segment.size {
        return Ok(false);
    }
    let mut block = [0; HEADER_LENGTH];
    source.read_exact_at(&mut block, offset)?;
    Ok(block[8..12] == segment.generation.to_le_bytes())
}

/// The next place after `offset` at which an intact record of this generation, with a sequence
/// number above `sequence`, begins: how a reader gets past damage.
pub fn next_intact(
    source: &dyn ReadAt,
    segment: &Segment,
    offset: u64,
    sequence: u64,
) -> io::Result<Option<u64>> {
    let mut found = None;
    each_header(source, segment.log, offset + 1, segment.size, |at, header| {
        let fits = header.generation == segment.generation && header.sequence > sequence;
        found = fits.then_some(at);
        fits
    })?;
    Ok(found)
}

/// The newest generation of the records in a file: what an earlier use left is older.
pub fn generation_of(source: &dyn ReadAt, log: LogId, size: u64) -> io::Result<Option<u32>> {
    let mut newest = None;
    each_header(source, log, FIRST_RECORD, size, |_, header| {
        newest = newest.max(Some(header.generation));
        false
    })?;
    Ok(newest)
}

/// Whether anything in a file begins as records of any log do.
pub fn looks_used(source: &dyn ReadAt, size: u64) -> io::Result<bool> {
    let mut looks_used = false;
    each_place(source, FIRST_RECORD, size, |_, bytes| {
        looks_used = RecordHeader::looks_begun(bytes);
        looks_used
    })?;
    Ok(looks_used)
}

/// Every intact header from `from` on, wherever one may begin, until `is_enough`.
fn each_header(
    source: &dyn ReadAt,
    log: LogId,
    from: u64,
    size: u64,
    mut is_enough: impl FnMut(u64, RecordHeader) -> bool,
) -> io::Result<()> {
    each_place(source, from, size, |at, bytes| {
        RecordHeader::decode(bytes, log).is_some_and(|header| is_enough(at, header))
    })
}

/// The bytes at every place from `from` on where a header may begin, until `is_enough`.
fn each_place(
    source: &dyn ReadAt,
    from: u64,
    size: u64,
    mut is_enough: impl FnMut(u64, &[u8]) -> bool,
) -> io::Result<()> {
    const WINDOW: usize = 1 << 20;
    let mut at = from.next_multiple_of(ALIGNMENT);
    while at + (HEADER_LENGTH as u64) <= size {
        let length = (size - at).min((WINDOW + HEADER_LENGTH) as u64) as usize;
        let mut block = vec![0; length];
        source.read_exact_at(&mut block, at)?;
        for start in (0..=length - HEADER_LENGTH).step_by(ALIGNMENT as usize) {
            if is_enough(at + start as u64, &block[start..start + HEADER_LENGTH]) {
                return Ok(());
            }
        }
        at += (length - HEADER_LENGTH) as u64 + ALIGNMENT;
    }
    Ok(())
}

/// Whether `length` bytes at `offset` have this SHA-256.
pub fn has_digest(source: &dyn ReadAt, mut offset: u64, length: u64, sha256: &[u8; 32]) -> io::Result<bool> {
    let mut hasher = Sha256::new();
    let mut left = length;
    let mut block = vec![0; left.min(256 << 10) as usize];
    while left > 0 {
        let take = left.min(block.len() as u64) as usize;
        match source.read_exact_at(&mut block[..take], offset) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            other => other?,
        }
        hasher.update(&block[..take]);
        offset += take as u64;
        left -= take as u64;
    }
    Ok(hasher.finalize()[..] == sha256[..])
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    /// A disk that can't read what stands behind a place.
    struct BadBehind(std::fs::File, u64);

    impl ReadAt for BadBehind {
        fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
            match offset + buffer.len() as u64 > self.1 {
                true => Err(rustix::io::Errno::IO.into()),
                false => FileExt::read_exact_at(&self.0, buffer, offset),
            }
        }
    }

    #[test]
    fn a_bad_sector_behind_a_record_is_no_reason_not_to_read_it() {
        let file = tempfile::tempfile().unwrap();
        let (log, size) = (LogId::random(), 64 << 10);
        let record = RecordHeader::void(1, 1, 0, 200);
        file.write_all_at(&record.encode(log), FIRST_RECORD).unwrap();
        let source = BadBehind(file.try_clone().unwrap(), FIRST_RECORD + 200);
        let segment = Segment { generation: 1, log, size, path: "segment".into(), file };
        let found = record_at(&source, &segment, FIRST_RECORD).unwrap();
        assert!(matches!(found, Found::Void(header) if header == record));
        assert!(record_at(&source, &segment, FIRST_RECORD + 200).is_err(), "nobody knows what stands there");
    }
}
