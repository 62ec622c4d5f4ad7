//! Replays the log: tells a torn tail from damage, and brings the projection to where the log ends.

use std::fs::File;
use std::io;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use super::SpoolError;
use super::committer::Head;
use super::damage::{Unreadable, is_unreadable};
use super::disk_view::{DiskView, Forgiving, ReadAt};
use super::entry::{EntryId, Fact, LogPosition};
use super::projection::{self, Published};
use super::queue::Queue;
use super::record::{HEADER_LENGTH, Payload, RecordHeader};
use super::recovery::{Folders, Report, at, remove_files};
use super::rescued::Unread;
use super::scan::{self, Found, Record};
use super::segment::{FIRST_RECORD, Segment, Segments};
use super::state::Place;
use super::torn::{self, Torn};

/// Records applied to the projection at once.
const CHUNK: usize = 1000;

/// Replays what the projection lacks and finds where the log goes on, and how far followers can get until then.
pub fn replay(
    segments: &Segments,
    queue: &Queue,
    folders: &Folders,
    report: &mut Report,
) -> Result<(Option<Head>, LogPosition), SpoolError> {
    let start = queue.position()?;
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
        unread_end: None,
        seen_until: start,
        end: None,
    };
    let live = segments.from(if start.0 == 0 { 0 } else { start.generation() });
    for segment in live {
        let from = if segment.generation == start.generation() { start.offset() } else { FIRST_RECORD };
        replay.segment(&segment, from)?;
    }
    replay.finish(segments)
}

/// What could not be read may have been acknowledged: nobody may go on as if it were not there.
fn unread(path: &Path, offset: u64, error: io::Error) -> SpoolError {
    if !is_unreadable(&error) {
        return at(path)(error);
    }
    let advice = format!(
        "{error} at byte {offset} or after it. Try again; if it is lost for good, \"When the disk fails\" in \
         docs/operations.md says what can be done, and what it may cost"
    );
    at(path)(io::Error::new(error.kind(), advice))
}

/// What stands in the log, in its order, until it is known whether it was acknowledged.
enum Replayed {
    Intact(Published),
    /// An object whose large file is not there: freed by a purge that comes later in the log, or lost, or its writer
    /// did not get so far.
    Missing(Published),
    /// An object whose bytes are not those that were received.
    Damaged(Published),
    /// Records with these numbers, of which nothing can be read, and where they lie.
    Unreadable(RangeInclusive<u64>, Torn),
}

impl Replayed {
    fn place(&self) -> Place {
        match self {
            Replayed::Intact(published) | Replayed::Missing(published) | Replayed::Damaged(published) => {
                published.place
            }
            Replayed::Unreadable(_, torn) => torn.place,
        }
    }

    fn first_number(&self) -> u64 {
        match self {
            Replayed::Intact(published) | Replayed::Missing(published) | Replayed::Damaged(published) => {
                published.sequence
            }
            Replayed::Unreadable(numbers, _) => *numbers.start(),
        }
    }

    /// The entry that it frees.
    fn frees(&self) -> Option<EntryId> {
        let Replayed::Intact(Published { fact, .. }) = self else { return None };
        match &**fact {
            Fact::Purged { entry, .. } => Some(*entry),
            _ => None,
        }
    }

    /// Whether it is known what to do: only a later mark tells a loss from a torn write.
    fn is_settled(&self, acked_through: u64) -> bool {
        match self {
            Replayed::Intact(_) => true,
            Replayed::Missing(published) | Replayed::Damaged(published) => {
                published.sequence <= acked_through
            }
            Replayed::Unreadable(numbers, _) => *numbers.end() <= acked_through,
        }
    }
}

/// What the disk has of a record's payload.
#[derive(PartialEq, Eq)]
enum OnDisk {
    Intact,
    Missing,
    Damaged,
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
    /// What stands behind the end instead of records that could not be read.
    unread_end: Option<Torn>,
    /// After the last record that a follower gets to see.
    seen_until: LogPosition,
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
            let found = scan::record_at(&disk, segment, offset)
                .map_err(|error| unread(&segment.path, offset, error))?;
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
                Found::Damaged(header) => {
                    // Its header holds, and with it the mark.
                    if header.sequence > self.sequence {
                        self.acked_through = self.acked_through.max(header.acked_through);
                    }
                    match self.skip_to_intact(&disk, segment, offset, Some(header))? {
                        Some(next) => offset = next,
                        None => break,
                    }
                }
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
        let payload = self.payload(disk, segment, &record)?;
        if payload == OnDisk::Damaged {
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
        self.pending.push(match payload {
            OnDisk::Intact => Replayed::Intact(published),
            OnDisk::Missing => Replayed::Missing(published),
            OnDisk::Damaged => Replayed::Damaged(published),
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

    fn payload(&self, disk: &DiskView, segment: &Segment, record: &Record) -> Result<OnDisk, SpoolError> {
        let header = &record.header;
        let has_digest = |source: &dyn ReadAt, path: &Path, offset| {
            let is_intact = scan::has_digest(source, offset, header.data_set_length, &header.data_set_sha256);
            let is_intact = is_intact.map_err(|error| unread(path, offset, error))?;
            Ok(if is_intact { OnDisk::Intact } else { OnDisk::Damaged })
        };
        match (header.payload, &record.meta.large) {
            (Payload::None, _) => Ok(OnDisk::Intact),
            (Payload::Inline, _) => {
                has_digest(disk, &segment.path, record.part10_offset() + u64::from(header.prefix_length))
            }
            (Payload::Large, Some(name)) => {
                let path = self.folders.large.join(name);
                match File::open(&path).and_then(|file| DiskView::of(&file, &path)) {
                    Ok(file) => has_digest(&file, &path, 0),
                    // What is carried forward was acknowledged long ago: the check at the end of recovery
                    // tells whether it is lost.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(match record.meta.copied {
                        Some(_) => OnDisk::Intact,
                        None => OnDisk::Missing,
                    }),
                    Err(error) => Err(unread(&path, 0, error)),
                }
            }
            (Payload::Large, None) | (Payload::Void, _) => Ok(OnDisk::Damaged),
        }
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
        // A bad sector in what an earlier use of the segment left is no reason not to start. Nobody knows, though, that
        // nothing of this log is there: it goes on in another segment.
        let source = Forgiving::of(disk);
        let next = scan::next_intact(&source, segment, offset, self.sequence).map_err(at(&segment.path))?;
        let begun = header.is_some()
            || source.met_unreadable()
            || scan::looks_begun(disk, segment, offset).unwrap_or(true);
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
        let copied = Forgiving::of(&segment.file)
            .read_exact_at(&mut bytes, offset)
            .and_then(|()| std::fs::write(&aside, bytes));
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
            if let Replayed::Intact(seen) | Replayed::Missing(seen) | Replayed::Damaged(seen) = &replayed {
                self.seen_until = self.seen_until.max(seen.after);
            }
            match replayed {
                Replayed::Intact(published) | Replayed::Missing(published) => {
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

    fn finish(mut self, segments: &Segments) -> Result<(Option<Head>, LogPosition), SpoolError> {
        self.apply_settled()?;
        let settled_through = self.pending.first().map_or(self.sequence, |open| open.first_number() - 1);
        let unread = self.heed_unread(segments)?;
        let left = self.leave_torn(segments)?;
        self.apply(left)?;
        if let Some(unread) = unread {
            self.report.settled_through = self.report.settled_through.min(settled_through);
            unread.clear().map_err(at(&self.folders.review))?;
            torn::take_out(segments, self.unread_end.as_slice(), self.acked_through)?;
            segments.forget_unread_mark().map_err(at(&self.folders.review))?;
        }
        self.report.listed = self.unreadable.count();
        // What took the place of a damaged one freed it.
        for id in std::mem::take(&mut self.report.lost) {
            if self.queue.state(id)?.is_some() {
                self.report.lost.push(id);
            }
        }
        let seen_until = self.seen_until;
        let Some((segment, mut offset)) = self.end.take() else { return Ok((None, seen_until)) };
        if let Some(unread_end) = &self.unread_end {
            offset += unread_end.length;
        } else if self.doubtful_from.is_some_and(|from| from > 0) {
            // A torn tail: written, and above the mark never answered. Kept for a person; the log
            // goes on behind it.
            tracing::warn!(offset, "the log ends in a torn record; set aside");
            offset = segment.size;
        }
        let (sequence, acked_through) = (self.sequence + 1, self.sequence);
        Ok((Some(Head { segment, offset, sequence, acked_through }), seen_until))
    }
}

impl Replay<'_> {
    /// Where a failing disk could not be read, nothing tells a torn write from what was answered: all that is open counts
    /// as answered, and as many records more as may have stood there.
    fn heed_unread(&mut self, segments: &Segments) -> Result<Option<Unread>, SpoolError> {
        let Some(mark) = segments.unread_mark() else { return Ok(None) };
        let end =
            self.end.as_ref().map(|(last, end)| Place { generation: last.generation, offset: *end as u32 });
        let begin = self.pending.first().map(Replayed::place).or(end);
        let live = begin.map(|begin| segments.from(begin.generation)).unwrap_or_default();
        let offset = |place: Option<Place>| place.map_or(0, |place| u64::from(place.offset));
        let unread = Unread::find(mark, &live, offset(begin), offset(end), segments.nameless());
        let unread = unread.map_err(at(&self.folders.review))?;
        if unread.is_any() {
            tracing::error!(
                "a failing disk could not read the end of the log: what came last may be missing"
            );
            self.count_as_answered(unread.most_records());
        }
        self.apply_settled()?;
        Ok(Some(unread))
    }

    /// What is open, and so many records behind the end of which nothing can be read. Their numbers are not given again.
    fn count_as_answered(&mut self, unread: u64) {
        let numbers = self.sequence + 1..=self.sequence + unread;
        match &self.end {
            _ if unread == 0 => {}
            Some((last, end)) => {
                let place = Place { generation: last.generation, offset: *end as u32 };
                let torn = Torn { place, length: last.size - end, sequence: *numbers.end() };
                self.unread_end = Some(torn);
                self.sequence = *numbers.end();
                self.pending.push(Replayed::Unreadable(numbers, torn));
            }
            None => self.unreadable.note(numbers),
        }
        self.acked_through = self.sequence;
    }

    /// Of what is pending that which counts. The rest is above the mark, where nobody was answered: torn writes, which
    /// the log loses here.
    fn leave_torn(&mut self, segments: &Segments) -> Result<Vec<Replayed>, SpoolError> {
        let (acked_through, mut settled_through) = (self.acked_through, self.sequence);
        let (mut left, mut torn, mut not_freed) = (Vec::new(), Vec::new(), Vec::new());
        let freed: Vec<EntryId> = self.pending.iter().filter_map(Replayed::frees).collect();
        for replayed in std::mem::take(&mut self.pending) {
            let frees = replayed.frees().is_some();
            match replayed {
                Replayed::Missing(published) if freed.contains(&EntryId(published.sequence)) => {
                    left.push(Replayed::Intact(published));
                }
                Replayed::Missing(published) | Replayed::Damaged(published) => {
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
                Replayed::Intact(published) if settled_through < published.sequence && frees => {
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
