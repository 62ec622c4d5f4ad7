//! Start-up: replays the log from the projection's last position, tells a torn tail from damage,
//! and looks after what no record names. Nothing that was acknowledged is dropped silently.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::damage::{self, Unreadable};
use super::disk_view::{DiskView, ReadAt};
use super::entry::{EntryId, Fact, LogPosition};
use super::projection::{self, Published};
use super::queue::{Queue, QueueError};
use super::record::{HEADER_LENGTH, Payload, RecordHeader};
use super::scan::{self, Found, Record};
use super::segment::{FIRST_RECORD, Segment, Segments};
use super::state::Place;
use super::torn::{self, Torn};
use super::{SpoolError, committer::Head};

/// Records applied to the projection at once.
const CHUNK: usize = 1000;

/// What recovery found, for the log and for readiness.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    pub replayed: u64,
    /// Objects that were acknowledged and are damaged or missing.
    pub lost: Vec<EntryId>,
    /// Records that were acknowledged and of which nothing can be read; `review/` lists them.
    pub listed: u64,
    /// Torn or damaged stretches that were set aside in `review/`.
    pub set_aside: u64,
    /// Up to this number nothing was taken for a torn write.
    pub settled_through: u64,
    /// Large files that no record names, moved to `review/`.
    pub unnamed: u64,
    /// The projection was damaged or missing and made anew.
    pub rebuilt: bool,
}

impl Report {
    /// Whether there is anything to tell.
    pub fn is_eventful(&self) -> bool {
        *self != Report { settled_through: self.settled_through, ..Report::default() }
    }
}

/// Folders of a spool.
pub struct Folders {
    pub large: PathBuf,
    pub review: PathBuf,
    pub queue: PathBuf,
}

/// Opens the projection; a damaged one is set aside. True says that it must be rebuilt.
pub fn open_queue(folders: &Folders) -> Result<(Queue, bool), SpoolError> {
    let existed = folders.queue.join("db").exists();
    match try_open_queue(&folders.queue) {
        Ok(queue) => Ok((queue, !existed)),
        Err(error) => {
            let aside = folders.queue.with_extension(format!("damaged-{}", ulid::Ulid::new()));
            tracing::error!(%error, aside = %aside.display(), "the queue is damaged; set aside, rebuilding it from the log");
            std::fs::rename(&folders.queue, &aside).map_err(at(&folders.queue))?;
            Ok((try_open_queue(&folders.queue)?, true))
        }
    }
}

/// sled may panic on damage that it does not expect.
fn try_open_queue(dir: &Path) -> Result<Queue, SpoolError> {
    let opened =
        std::panic::catch_unwind(|| Queue::open(dir).and_then(|queue| queue.check().map(|()| queue)));
    match opened {
        Ok(queue) => Ok(queue?),
        Err(_) => Err(SpoolError::Queue(QueueError::Io(io::Error::other("sled gave up on its files")))),
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> SpoolError {
    let path = path.to_owned();
    move |source| SpoolError::from_io(path, source)
}

/// Replays what the projection lacks and finds where the log goes on.
pub fn replay(
    segments: &Segments,
    queue: &Queue,
    folders: &Folders,
    report: &mut Report,
) -> Result<Option<Head>, SpoolError> {
    let mut replay = Replay {
        queue,
        folders,
        report,
        pending: Vec::new(),
        unreadable: Unreadable::default(),
        sequence: queue.sequence()?,
        acked_through: 0,
        doubtful_from: None,
        read_until: 0,
        end: None,
    };
    let start = queue.position()?;
    let live = segments.from(if start.0 == 0 { 0 } else { start.generation() });
    for segment in live {
        let from = if segment.generation == start.generation() { start.offset() } else { FIRST_RECORD };
        replay.segment(&segment, from)?;
    }
    replay.finish(segments)
}

/// What stands in the log, in its order, until it is known whether it was acknowledged.
enum Replayed {
    Intact(Published),
    /// An object whose bytes are not those that were received.
    Damaged(Published),
    /// Records with these numbers, of which nothing can be read, and where they lie.
    Unreadable(RangeInclusive<u64>, Torn),
}

impl Replayed {
    /// Whether it is known what to do: only a later mark tells a loss from a torn write.
    fn is_settled(&self, acked_through: u64) -> bool {
        match self {
            Replayed::Intact(_) => true,
            Replayed::Damaged(published) => published.sequence <= acked_through,
            Replayed::Unreadable(numbers, _) => *numbers.end() <= acked_through,
        }
    }
}

struct Replay<'a> {
    queue: &'a Queue,
    folders: &'a Folders,
    report: &'a mut Report,
    pending: Vec<Replayed>,
    unreadable: Unreadable,
    /// Sequence number of the last record whose header holds.
    sequence: u64,
    /// The newest mark found: everything up to it was answered.
    acked_through: u64,
    /// Where what can't be read begins, until something that can follows it in its segment.
    doubtful_from: Option<u64>,
    /// Where the last record that can be read ends in its segment.
    read_until: u64,
    end: Option<(Arc<Segment>, u64)>,
}

impl Replay<'_> {
    fn segment(&mut self, segment: &Arc<Segment>, from: u64) -> Result<(), SpoolError> {
        let mut offset = from;
        self.end = Some((segment.clone(), offset));
        self.read_until = offset;
        // Whatever is missing before it is missing at its beginning.
        let follows = self.sequence > 0 || self.doubtful_from.is_some();
        self.doubtful_from = (from == FIRST_RECORD && follows).then_some(0);
        let disk = DiskView::of(&segment.file, &segment.path).map_err(at(&segment.path))?;
        loop {
            let found = scan::record_at(&disk, segment, offset).map_err(at(&segment.path))?;
            match found {
                Found::Record(record) if record.header.sequence > self.sequence => {
                    offset = self.record(&disk, segment, *record)?;
                }
                Found::Void(header) if header.sequence > self.sequence => {
                    offset = self.void(segment, offset, &header);
                }
                // Nothing of this log: records only ever count up.
                Found::Record(_) | Found::Void(_) | Found::Nothing => {
                    match self.skip_to_intact(&disk, segment, offset, None)? {
                        Some(next) => offset = next,
                        None => break,
                    }
                }
                Found::Damaged(header) => match self.skip_to_intact(&disk, segment, offset, Some(header))? {
                    Some(next) => offset = next,
                    None => break,
                },
            }
            self.end = Some((segment.clone(), offset));
        }
        Ok(())
    }

    /// Takes a record whose header and meta are intact; returns the offset after it.
    fn record(&mut self, disk: &DiskView, segment: &Arc<Segment>, record: Record) -> Result<u64, SpoolError> {
        let (place, sequence) = (u64::from(record.place.offset), record.header.sequence);
        self.acked_through = self.acked_through.max(record.header.acked_through);
        self.note_gap(segment, sequence, place);
        let is_intact = self.payload_intact(disk, segment, &record)?;
        if !is_intact {
            self.note_damage(segment, place, Some(&record.header))?;
        }
        self.sequence = sequence;
        let after = record.after();
        self.read_until = after.offset();
        let published = Published {
            fact: Arc::new(record.meta.fact),
            sequence,
            place: record.place,
            after,
            large: record.meta.large,
            copied: record.meta.copied,
        };
        self.pending.push(match is_intact {
            true => Replayed::Intact(published),
            false => Replayed::Damaged(published),
        });
        if self.pending.len() >= CHUNK {
            self.apply_settled()?;
        }
        Ok(after.offset())
    }

    /// Goes past what an earlier recovery took out.
    fn void(&mut self, segment: &Segment, place: u64, header: &RecordHeader) -> u64 {
        self.acked_through = self.acked_through.max(header.acked_through);
        self.note_gap(segment, header.sequence, place);
        self.sequence = header.sequence;
        self.read_until = place + header.record_length();
        self.read_until
    }

    /// The numbers between the last record and this one, which stands behind something unreadable.
    fn note_gap(&mut self, segment: &Segment, sequence: u64, place: u64) {
        let Some(from) = self.doubtful_from.take() else { return };
        // A log may begin with any number, but no more records were there than fit.
        let most = if self.sequence > 0 { u64::MAX } else { (place - from) / HEADER_LENGTH as u64 };
        let first = (self.sequence + 1).max(sequence.saturating_sub(most));
        if first < sequence {
            let begin = Place { generation: segment.generation, offset: self.read_until as u32 };
            let torn = Torn { place: begin, length: place - self.read_until, sequence: sequence - 1 };
            self.pending.push(Replayed::Unreadable(first..=sequence - 1, torn));
        }
    }

    fn payload_intact(
        &self,
        disk: &DiskView,
        segment: &Segment,
        record: &Record,
    ) -> Result<bool, SpoolError> {
        let header = &record.header;
        let has_digest = |source: &dyn ReadAt, offset| {
            scan::has_digest(source, offset, header.data_set_length, &header.data_set_sha256)
        };
        let checked = match (header.payload, &record.meta.large) {
            (Payload::None, _) => Ok(true),
            (Payload::Inline, _) => {
                has_digest(disk, record.part10_offset() + u64::from(header.prefix_length))
            }
            (Payload::Large, Some(name)) => {
                let path = self.folders.large.join(name);
                match File::open(&path).and_then(|file| DiskView::of(&file, &path)) {
                    Ok(file) => has_digest(&file, 0),
                    // Freed by a purge that comes later in the log, or lost: the check at the end
                    // of recovery tells.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
                    Err(error) => Err(error),
                }
            }
            (Payload::Large, None) | (Payload::Void, _) => Ok(false),
        };
        checked.map_err(at(&segment.path))
    }

    /// Notes damage at `offset` if anything but an unwritten rest stands there; returns where the
    /// next intact record of this generation begins.
    fn skip_to_intact(
        &mut self,
        disk: &DiskView,
        segment: &Arc<Segment>,
        offset: u64,
        header: Option<RecordHeader>,
    ) -> Result<Option<u64>, SpoolError> {
        let next = scan::next_intact(disk, segment, offset, self.sequence).map_err(at(&segment.path))?;
        let begun = header.is_some() || scan::looks_begun(disk, segment, offset).unwrap_or(true);
        if next.is_some() || begun {
            self.note_damage(segment, offset, header.as_ref())?;
        }
        Ok(next)
    }

    /// Copies a stretch that can't be read into `review/`: at most the record that should be there.
    fn note_damage(
        &mut self,
        segment: &Segment,
        offset: u64,
        header: Option<&RecordHeader>,
    ) -> Result<(), SpoolError> {
        self.doubtful_from.get_or_insert(offset);
        let aside = self.folders.review.join(format!("damaged-{}-{offset}.bin", segment.generation));
        let length = header.map_or(64 << 10, RecordHeader::record_length).min(segment.size - offset);
        let mut bytes = vec![0; length as usize];
        let copied =
            segment.file.read_exact_at(&mut bytes, offset).and_then(|()| std::fs::write(&aside, bytes));
        copied.map_err(at(&aside))?;
        self.report.set_aside += 1;
        Ok(())
    }

    /// Applies what is pending as far as it is settled.
    fn apply_settled(&mut self) -> Result<(), SpoolError> {
        let is_open = |replayed: &Replayed| !replayed.is_settled(self.acked_through);
        let settled = self.pending.iter().position(is_open).unwrap_or(self.pending.len());
        let rest = self.pending.split_off(settled);
        let settled = std::mem::replace(&mut self.pending, rest);
        self.apply(settled)
    }

    /// What was acknowledged and is damaged stays an entry, so that it is asked after, and a resend
    /// replaces it; of what can't be read only the number is known, and listed.
    fn apply(&mut self, settled: Vec<Replayed>) -> Result<(), SpoolError> {
        let mut records = Vec::new();
        for replayed in settled {
            match replayed {
                Replayed::Intact(published) => {
                    match &*published.fact {
                        // Of what can't be read another copy is here, or nothing is held any more.
                        Fact::Received(entry) => self.unreadable.forget(entry.id),
                        Fact::Purged { entry, .. } => self.unreadable.forget(*entry),
                        _ => {}
                    }
                    self.report.replayed += 1;
                    records.push(published);
                }
                Replayed::Damaged(published) => {
                    tracing::error!(entry = published.sequence, "an acknowledged object is damaged");
                    records.extend(self.damaged(published)?);
                }
                Replayed::Unreadable(numbers, _) => {
                    tracing::error!(?numbers, "acknowledged records can't be read and were set aside");
                    self.unreadable.note(numbers);
                }
            }
        }
        self.unreadable.save(&self.folders.review).map_err(at(&self.folders.review))?;
        let large = &self.folders.large;
        projection::apply(self.queue, &records, |consequences| {
            remove_files(large, &consequences.freed_files)
        })?;
        Ok(())
    }

    /// A damaged record as the projection gets it; a copy of what is known must not hide that.
    fn damaged(&mut self, published: Published) -> Result<Option<Published>, SpoolError> {
        let Fact::Received(entry) = &*published.fact else { return Ok(None) };
        if published.copied.is_some() && self.queue.state(entry.id)?.is_some() {
            return Ok(None);
        }
        self.report.lost.push(entry.id);
        Ok(Some(published))
    }

    fn finish(mut self, segments: &Segments) -> Result<Option<Head>, SpoolError> {
        self.apply_settled()?;
        let left = self.leave_torn(segments)?;
        self.apply(left)?;
        self.report.listed = self.unreadable.count();
        // What took the place of a damaged one freed it.
        for id in std::mem::take(&mut self.report.lost) {
            if self.queue.state(id)?.is_some() {
                self.report.lost.push(id);
            }
        }
        let Some((segment, mut offset)) = self.end.take() else { return Ok(None) };
        if self.doubtful_from.is_some_and(|from| from > 0) {
            // A torn tail: written, and above the mark never answered. Kept for a person; the log
            // goes on behind it.
            tracing::warn!(offset, "the log ends in a torn record; set aside");
            offset = segment.size;
        }
        Ok(Some(Head { segment, offset, sequence: self.sequence + 1, acked_through: self.sequence }))
    }
}

impl Replay<'_> {
    /// Of what is pending that which counts. The rest is above the mark, where nobody was answered: torn writes, which
    /// the log loses here.
    fn leave_torn(&mut self, segments: &Segments) -> Result<Vec<Replayed>, SpoolError> {
        let (acked_through, mut settled_through) = (self.acked_through, self.sequence);
        let (mut left, mut torn, mut not_freed) = (Vec::new(), Vec::new(), Vec::new());
        for replayed in std::mem::take(&mut self.pending) {
            match replayed {
                Replayed::Damaged(published) => {
                    settled_through = settled_through.min(published.sequence - 1);
                    torn.push(Torn::record(&published));
                }
                Replayed::Unreadable(numbers, all) if *numbers.start() > acked_through => {
                    settled_through = settled_through.min(numbers.start() - 1);
                    torn.push(all);
                }
                Replayed::Unreadable(numbers, all) => {
                    settled_through = settled_through.min(acked_through);
                    left.push(Replayed::Unreadable(
                        *numbers.start()..=acked_through.min(*numbers.end()),
                        all,
                    ));
                }
                // What a torn record was to replace is not freed: nobody was answered, and nothing has
                // taken its place.
                Replayed::Intact(published) if settled_through < published.sequence && frees(&published) => {
                    not_freed.push(Torn::record(&published));
                }
                intact @ Replayed::Intact(_) => left.push(intact),
            }
        }
        self.report.settled_through = settled_through;
        // Only what is torn tells that the others must not free.
        torn::take_out(segments, &not_freed, acked_through)?;
        torn::take_out(segments, &torn, acked_through)?;
        Ok(left)
    }
}

fn frees(published: &Published) -> bool {
    matches!(&*published.fact, Fact::Purged { .. })
}

/// Removes the files of purged entries; those gone already are fine.
pub fn remove_files(dir: &Path, names: &[String]) -> io::Result<()> {
    for name in names {
        match std::fs::remove_file(dir.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Entries whose place is in no segment: files of the log are missing, or were cut.
fn misplaced(segments: &Segments, queue: &Queue) -> Result<Vec<EntryId>, QueueError> {
    let mut sizes = HashMap::new();
    queue.misplaced(|generation, end| {
        let size =
            sizes.entry(generation).or_insert_with(|| segments.get(generation).map(|found| found.size));
        size.is_some_and(|size| end < size)
    })
}

/// Reports entries whose records are gone; they stay, and stay damaged.
pub fn check_places(segments: &Segments, queue: &Queue, report: &mut Report) -> Result<(), SpoolError> {
    let lost = misplaced(segments, queue)?;
    if !lost.is_empty() {
        tracing::error!(
            objects = lost.len(),
            "files of the log are missing, and acknowledged objects with them"
        );
    }
    report.lost.extend(lost);
    Ok(())
}

/// Lists what a queue that is about to be set aside knows and the log does not hold any more.
pub fn list_misplaced(segments: &Segments, queue: &Queue, folders: &Folders) -> Result<(), SpoolError> {
    let mut lost = Vec::new();
    for id in misplaced(segments, queue)? {
        lost.extend(queue.state(id)?);
    }
    if lost.is_empty() {
        return Ok(());
    }
    tracing::error!(
        objects = lost.len(),
        "the newest part of the log is missing, and acknowledged objects with it"
    );
    damage::list(&folders.review, &lost).map_err(at(&folders.review))
}

/// Large files that no record names go to `review/`; entries whose file is gone are reported.
pub fn check_large_files(queue: &Queue, folders: &Folders, report: &mut Report) -> Result<(), SpoolError> {
    // Names too must be on the disk before anybody counts on them.
    let sync = || File::open(&folders.large)?.sync_all();
    crate::failpoint::sync("recovered_directory", sync).map_err(at(&folders.large))?;
    for file in std::fs::read_dir(&folders.large).map_err(at(&folders.large))? {
        let file = file.map_err(at(&folders.large))?;
        let name = file.file_name().to_string_lossy().into_owned();
        if !queue.has_large(&name)? {
            std::fs::rename(file.path(), folders.review.join(&name)).map_err(at(&file.path()))?;
            report.unnamed += 1;
        }
    }
    let missing = queue.large_entries(|name| folders.large.join(name).exists())?;
    for id in missing {
        tracing::error!(entry = %id, "the file of an acknowledged object is missing");
        report.lost.push(id);
    }
    Ok(())
}

/// Whether the projection is ahead of the log: the log was replaced or cut behind its back.
pub fn queue_is_ahead(segments: &Segments, queue: &Queue) -> Result<bool, SpoolError> {
    let position: LogPosition = queue.position()?;
    Ok(position.0 != 0 && segments.get(position.generation()).is_none())
}
