//! What one commit writes: records in order, and who waits for them.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::committer::{Answer, Committed, Offered};
use super::entry::{Digest, EntryId, Fact, LogPosition, SpoolEntry};
use super::log_id::LogId;
use super::projection::Published;
use super::record::{self, ALIGNMENT, Meta, Payload, RecordHeader};
use super::segment::Segment;
use super::stage::{Content, LargeFile, Staged};
use super::state::{EntryState, Place};
use super::{Durability, SpoolError};
use crate::clock::Millis;
use crate::dicom::Uid;

/// What an object is to those held already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    New,
    /// The same object is held as this entry.
    Duplicate(EntryId),
    /// That entry has the same SOP Instance UID and other content.
    Conflict(EntryId),
}

/// An object earlier in the same batch.
pub struct Sibling {
    pub id: EntryId,
    pub digest: Digest,
    pub transfer_syntax_uid: String,
}

/// A record copied forward, read back from its segment.
pub struct Copy {
    pub entry: SpoolEntry,
    pub state: EntryState,
    pub header: RecordHeader,
    pub prefix: Bytes,
    /// The data set, where the log itself holds it.
    pub content: Option<Bytes>,
}

pub struct Batch {
    /// The sequence number of the first record.
    first_sequence: u64,
    pub records: Vec<Record>,
    /// Filled once records have their places.
    pub published: Vec<Published>,
    by_uid: HashMap<Uid, Vec<Sibling>>,
    objects: Vec<Waiting>,
    facts: Vec<(usize, Answer<LogPosition>)>,
    must_sync: bool,
}

struct Waiting {
    answer: Answer<(Committed, Option<Offered>)>,
    /// The entry that holds the object: its own, or the one it duplicates.
    id: EntryId,
    verdict: Verdict,
    /// The object itself where it is a duplicate.
    returned: Option<Offered>,
}

pub struct Record {
    header: RecordHeader,
    /// Until it is published.
    meta: Option<Meta>,
    meta_bytes: Bytes,
    prefix: Bytes,
    content: Vec<Bytes>,
    large: Option<LargeFile>,
    /// It is an object, or goes with one.
    is_object: bool,
    place: Option<Place>,
    /// Budget of the staged bytes, given back when the batch is done.
    _permits: Vec<tokio::sync::OwnedSemaphorePermit>,
}

impl Batch {
    pub fn new(first_sequence: u64) -> Batch {
        Batch {
            first_sequence,
            records: Vec::new(),
            published: Vec::new(),
            by_uid: HashMap::new(),
            objects: Vec::new(),
            facts: Vec::new(),
            must_sync: false,
        }
    }

    /// The sequence number that the record with this index gets.
    fn id_of(&self, index: usize) -> EntryId {
        EntryId(self.first_sequence + index as u64)
    }

    pub fn len(&self) -> usize {
        self.records.len() + self.objects.len()
    }

    pub fn is_empty(&self) -> bool {
        self.records.is_empty() && self.objects.is_empty() && self.facts.is_empty()
    }

    pub fn must_sync(&self) -> bool {
        self.must_sync
    }

    pub fn has_large(&self) -> bool {
        self.records.iter().any(|record| record.large.is_some())
    }

    /// Objects earlier in this batch with the same SOP Instance UID.
    pub fn siblings(&self, uid: &Uid) -> &[Sibling] {
        self.by_uid.get(uid).map_or(&[], Vec::as_slice)
    }

    pub fn object(
        &mut self,
        mut offered: Offered,
        verdict: Verdict,
        answer: Answer<(Committed, Option<Offered>)>,
    ) {
        match verdict {
            Verdict::Duplicate(id) => {
                return self.objects.push(Waiting { answer, id, verdict, returned: Some(offered) });
            }
            Verdict::Conflict(id) => offered.entry.conflict_with = Some(id),
            Verdict::New => {}
        }
        let entry = &offered.entry;
        let id = self.id_of(self.records.len());
        let uid = entry.key.sop_instance_uid.clone();
        let sibling = Sibling {
            id,
            digest: entry.data_set_sha256,
            transfer_syntax_uid: entry.transfer_syntax_uid.clone(),
        };
        let (replaces, at) = (std::mem::take(&mut offered.replaces), entry.received_at);
        match Record::object(offered).and_then(|record| Ok((record, freed_for_it(replaces, at)?))) {
            Ok((record, freed)) => {
                self.records.push(record);
                self.records.extend(freed);
                self.by_uid.entry(uid).or_default().push(sibling);
                self.objects.push(Waiting { answer, id, verdict, returned: None });
                self.must_sync = true;
            }
            Err(error) => drop(answer.send(Err(error))),
        }
    }

    pub fn facts(&mut self, facts: Vec<Fact>, durability: Durability, answer: Answer<LogPosition>) {
        let records: Result<Vec<Record>, SpoolError> = facts.into_iter().map(Record::fact).collect();
        match records {
            Ok(records) => self.records.extend(records),
            Err(error) => return drop(answer.send(Err(error))),
        }
        self.must_sync |= durability == Durability::Synced;
        self.facts.push((self.records.len(), answer));
    }

    pub fn copy(&mut self, copy: Copy, answer: Answer<LogPosition>) {
        match Record::copy(copy) {
            Ok(record) => self.records.push(record),
            Err(error) => return drop(answer.send(Err(error))),
        }
        self.must_sync = true;
        self.facts.push((self.records.len(), answer));
    }

    /// Records `begin..begin + count` have been written where their places say.
    pub fn note_published(&mut self, begin: usize, count: usize) {
        for record in &mut self.records[begin..begin + count] {
            self.published.extend(record.publish());
        }
    }

    /// There is no room for objects: those from `begin` on are refused, with what waits for them;
    /// facts stay.
    pub fn refuse_objects_from(&mut self, begin: usize) {
        let refused_from = self.id_of(begin);
        let kept: Vec<bool> = self
            .records
            .iter()
            .enumerate()
            .map(|(index, record)| index < begin || !record.is_object)
            .collect();
        let mut keep = kept.iter();
        self.records.retain(|_| keep.next().copied().unwrap_or(true));
        for (until, _) in &mut self.facts {
            *until = kept[..*until].iter().filter(|kept| **kept).count();
        }
        for waiting in std::mem::take(&mut self.objects) {
            if waiting.id < refused_from {
                self.objects.push(waiting);
                continue;
            }
            let full = SpoolError::Full("the log can't grow and nothing can be recycled".to_owned());
            let _ = waiting.answer.send(Err(full));
        }
    }

    /// Everything is durable (or, for facts that did not ask for it, written).
    pub fn answer(self) {
        for Waiting { answer, id, verdict, returned } in self.objects {
            let _ = answer.send(Ok((Committed { id, verdict }, returned)));
        }
        for (until, answer) in self.facts {
            let after =
                until.checked_sub(1).map_or(LogPosition::default(), |last| self.records[last].after());
            let _ = answer.send(Ok(after));
        }
    }

    /// Nothing of the batch counts.
    pub fn fail(self, error: impl Fn() -> SpoolError) {
        for waiting in self.objects {
            let _ = waiting.answer.send(Err(error()));
        }
        for (_, answer) in self.facts {
            let _ = answer.send(Err(error()));
        }
    }
}

/// The damaged entries that an object replaces are freed behind it: refused with it where there is
/// no room, so that they are never gone and it not there.
fn freed_for_it(replaces: Vec<EntryId>, at: Millis) -> Result<Vec<Record>, SpoolError> {
    let freed = |entry| {
        let reason = "damaged, received anew".to_owned();
        let record = Record::fact(Fact::Purged { entry, reason, at })?;
        Ok(Record { is_object: true, ..record })
    };
    replaces.into_iter().map(freed).collect()
}

impl Record {
    fn object(offered: Offered) -> Result<Record, SpoolError> {
        let Offered { entry, prefix, staged, .. } = offered;
        let Staged { digest, crc, length, content, permits } = staged;
        let (payload, content, large) = match content {
            Content::Inline(chunks) => (Payload::Inline, chunks, None),
            Content::Large(file) => (Payload::Large, Vec::new(), Some(file)),
        };
        let name = large.as_ref().map(|file| file.name.clone());
        let meta = Meta { fact: Fact::Received(entry), large: name, copied: None };
        let mut record = Record::new(meta, payload, prefix, content)?;
        record.header.data_set_length = length;
        record.header.data_set_sha256 = digest.0;
        record.header.data_set_crc = crc;
        record.large = large;
        record.is_object = true;
        record._permits = permits;
        Ok(record)
    }

    fn fact(fact: Fact) -> Result<Record, SpoolError> {
        Record::new(Meta::of(fact), Payload::None, Bytes::new(), Vec::new())
    }

    fn copy(copy: Copy) -> Result<Record, SpoolError> {
        let Copy { entry, state, header, prefix, content } = copy;
        let large = state.large.clone();
        let meta = Meta { fact: Fact::Received(Box::new(entry)), large, copied: Some(state) };
        let mut record = Record::new(meta, header.payload, prefix, content.into_iter().collect())?;
        record.header.data_set_length = header.data_set_length;
        record.header.data_set_sha256 = header.data_set_sha256;
        record.header.data_set_crc = header.data_set_crc;
        Ok(record)
    }

    fn new(meta: Meta, payload: Payload, prefix: Bytes, content: Vec<Bytes>) -> Result<Record, SpoolError> {
        let encoded = meta.encode().map_err(|error| SpoolError::Unwritable(error.to_string()))?;
        if encoded.len() > record::most_meta(&meta) || prefix.len() > record::MAX_PREFIX as usize {
            return Err(SpoolError::Unwritable("what is to be written about it is too long".to_owned()));
        }
        let meta_bytes = Bytes::from(encoded);
        let prefix_length = prefix.len() as u32;
        let body_crc = crc32c::crc32c_append(crc32c::crc32c(&meta_bytes), &prefix);
        let header = RecordHeader {
            payload,
            generation: 0,
            sequence: 0,
            acked_through: 0,
            meta_length: meta_bytes.len() as u32,
            prefix_length,
            data_set_length: 0,
            data_set_sha256: [0; 32],
            data_set_crc: 0,
            body_crc,
        };
        Ok(Record {
            header,
            meta: Some(meta),
            meta_bytes,
            prefix,
            content,
            large: None,
            is_object: false,
            place: None,
            _permits: Vec::new(),
        })
    }

    pub fn is_object(&self) -> bool {
        self.is_object
    }

    /// Bytes in the segment, padding included.
    pub fn length(&self) -> u64 {
        self.header.record_length()
    }

    pub fn place(&mut self, segment: &Segment, offset: u64, sequence: u64, acked_through: u64) {
        self.header.generation = segment.generation;
        self.header.sequence = sequence;
        self.header.acked_through = acked_through;
        self.place = Some(Place { generation: segment.generation, offset: offset as u32 });
    }

    pub fn pieces(&self, log: LogId, pieces: &mut Vec<Bytes>) {
        let before = pieces.len();
        pieces.push(Bytes::copy_from_slice(&self.header.encode(log)));
        pieces.push(self.meta_bytes.clone());
        pieces.push(self.prefix.clone());
        pieces.extend(self.content.iter().cloned());
        let length: u64 = pieces[before..].iter().map(|piece| piece.len() as u64).sum();
        let padding = length.next_multiple_of(ALIGNMENT) - length;
        pieces.push(Bytes::from_static(&[0; ALIGNMENT as usize]).slice(..padding as usize));
    }

    fn after(&self) -> LogPosition {
        self.place.map_or(LogPosition::default(), |place| {
            LogPosition::at(place.generation, u64::from(place.offset) + self.length())
        })
    }

    /// What the projection is told, once; a large file belongs to its record from here on.
    fn publish(&mut self) -> Option<Published> {
        let place = self.place?;
        let mut meta = self.meta.take()?;
        if let Fact::Received(entry) = &mut meta.fact
            && entry.id == EntryId(0)
        {
            entry.id = EntryId(self.header.sequence);
        }
        if let Some(file) = &mut self.large {
            file.keep();
        }
        Some(Published {
            fact: Arc::new(meta.fact),
            sequence: self.header.sequence,
            place,
            after: self.after(),
            large: meta.large,
            copied: meta.copied,
        })
    }
}
