//! The first page of a segment's file: of which log it is a part, and which of the log's segments was written there last.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::disk_view::{DiskView, Forgiving, ReadAt};
use super::log_id::{self, LogId};
use super::record::{self, RecordHeader};
use super::scan;
use super::segment::{FIRST_RECORD, PAGE};

const MAGIC: [u8; 8] = *b"RPsegm1\n";
/// Magic, generation, their checksum; then what tells the log's records, and its checksum.
const LENGTH: usize = 16 + log_id::LENGTH + 4;

/// The whole page: of a part of one, the disk would have to read the rest first.
pub fn encode(generation: u32, log: LogId) -> [u8; PAGE as usize] {
    let mut page = [0; PAGE as usize];
    page[0..8].copy_from_slice(&MAGIC);
    page[8..12].copy_from_slice(&generation.to_le_bytes());
    let crc = crc32c::crc32c(&page[..12]);
    page[12..16].copy_from_slice(&crc.to_le_bytes());
    let id = log.encode();
    page[16..23].copy_from_slice(&id);
    page[23..27].copy_from_slice(&crc32c::crc32c(&id).to_le_bytes());
    page
}

/// What tells the records of this log: as a segment has it, or else its file. A log without one was begun by an earlier
/// version; a new one gets one.
pub fn find_log_id(dir: &Path, segments: &[(PathBuf, File)]) -> io::Result<LogId> {
    let in_file = LogId::read(dir);
    let (mut is_old, mut unreadable) = (false, None);
    for (path, file) in segments {
        let disk = DiskView::of_head(file, path).map_err(in_file_at(path))?;
        let (source, mut begin) = (Forgiving::of(&disk), [0; LENGTH]);
        match source.read_exact_at(&mut begin, 0) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => continue,
            read => read.map_err(in_file_at(path))?,
        }
        if source.met_unreadable() {
            unreadable = Some(path);
        }
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
    if let Some(path) = unreadable {
        return Err(id_unreadable(path));
    }
    match told_by_records(segments)? {
        Told::Nothing => {
            let id = LogId::random();
            id.write(dir)?;
            Ok(id)
        }
        Told::Old => Ok(LogId::default()),
        Told::Another => Err(id_lost(dir)),
    }
}

/// What the records tell of their log, where no head and no file does.
#[derive(PartialEq, Eq)]
enum Told {
    Nothing,
    /// It was begun before there were ids.
    Old,
    /// It has an id, and nobody knows which.
    Another,
}

fn told_by_records(segments: &[(PathBuf, File)]) -> io::Result<Told> {
    let mut told = Told::Nothing;
    for (path, file) in segments {
        let size = file.metadata().map_err(in_file_at(path))?.len();
        let disk = DiskView::of(file, path).map_err(in_file_at(path))?;
        let records = Forgiving::of(&disk);
        // At this place stands what the log put there; elsewhere it may be what a sender laid out.
        let mut first = [0; record::HEADER_LENGTH];
        if size >= FIRST_RECORD + first.len() as u64 {
            records.read_exact_at(&mut first, FIRST_RECORD).map_err(in_file_at(path))?;
        }
        if RecordHeader::decode(&first, LogId::default()).is_some() {
            return Ok(Told::Old);
        }
        if records.met_unreadable() {
            return Err(id_unreadable(path));
        }
        if scan::looks_used(&disk, size).map_err(in_file_at(path))? {
            told = Told::Another;
        }
    }
    Ok(told)
}

/// What a segment's file was last used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LastUse {
    /// Nothing.
    Never,
    Generation(u32),
    /// Nothing, as far as the disk can read it: to be left as it is.
    Untold,
}

/// What the head says, as the disk has it. Where it is damaged, the records say, if all of them can be read: what can't
/// must not be written over.
pub fn last_use(path: &Path, file: &File, log: LogId) -> io::Result<LastUse> {
    let size = file.metadata()?.len();
    if size < FIRST_RECORD + record::HEADER_LENGTH as u64 {
        return Ok(LastUse::Never);
    }
    let disk = DiskView::of_head(file, path)?;
    let mut head = [0; PAGE as usize];
    Forgiving::of(&disk).read_exact_at(&mut head, 0)?;
    if head[0..8] == MAGIC && crc32c::crc32c(&head[..12]).to_le_bytes() == head[12..16] {
        return Ok(LastUse::Generation(u32::from_le_bytes([head[8], head[9], head[10], head[11]])));
    }
    let disk = DiskView::of(file, path)?;
    let records = Forgiving::of(&disk);
    let newest = scan::generation_of(&records, log, size)?;
    match newest {
        None if records.met_unreadable() && head.iter().all(|byte| *byte == 0) => Ok(LastUse::Untold),
        _ if records.met_unreadable() => Err(untold()),
        None => Ok(LastUse::Never),
        Some(generation) => Ok(LastUse::Generation(generation)),
    }
}

/// An error with the name of the file that it is about.
pub fn in_file_at(path: &Path) -> impl Fn(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn id_unreadable(path: &Path) -> io::Error {
    io::Error::other(format!(
        "{}: the disk can't read of which log it is a part, and neither the file log-id nor another segment tells. Put \
         log-id back from a backup, or try again; if it is lost for good, docs/operations.md says what can be done",
        path.display()
    ))
}

fn id_lost(dir: &Path) -> io::Error {
    io::Error::other(format!(
        "{}: there are records, and neither the file log-id nor any segment tells of which log: without it none of them \
         can be checked. Put log-id back from a backup, or the segments as they were; if neither is to be had, move the \
         segments away, and what they held is named as missing",
        dir.display()
    ))
}

/// An error that may pass; and a person can tell that it will not.
fn untold() -> io::Error {
    io::Error::other(
        "the disk can't read where its generation stands, so nobody knows what it holds. Try again; if it is lost for \
         good, move the file away, and what it held is named as missing",
    )
}
