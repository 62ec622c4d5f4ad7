//! The log as recovery reads it: records, what is damaged, and how the scan gets past that.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use relaypacs::clock::Millis;
use relaypacs::dicom::{AeTitle, Attributes, InstanceKey, Uid};
use relaypacs::spool::format::{
    ALIGNMENT, FIRST_RECORD, Found, HEADER_LENGTH, LogId, MAX_META, Meta, Payload, ReadAt, Record,
    RecordHeader, Segment, has_digest, looks_begun, next_intact, record_at,
};
use relaypacs::spool::{Digest, EntryId, Fact, Finding, Origin, Outcome, SpoolEntry};

use super::{begins_with, split};

const GENERATION: u32 = 7;
const LOG: LogId = LogId { tag: [0; 3], seed: 0 };
/// Sequence number of the first seed: one whose bytes stand nowhere else in it.
const FIRST: u64 = 0x0102_0304_0506_0708;

/// The first byte says whether checksums are put right first: damage that they do not show.
pub fn run(data: &[u8]) {
    let (choice, rest) = split(data);
    let mut bytes = rest.to_vec();
    if choice % 4 != 0 {
        mend(&mut bytes);
    }
    let disk = Disk(bytes);
    let segment = segment(disk.0.len());
    let (mut offset, mut sequence) = (FIRST_RECORD, 0);
    // Records have 88 bytes at least, and damage ends at one.
    for _ in 0..=2 * disk.0.len() / HEADER_LENGTH + 2 {
        let found = record_at(&disk, &segment, offset).expect("memory can be read");
        if let Found::Record(record) = found {
            check(&disk, &segment, offset, &record);
            sequence = record.header.sequence.max(sequence);
            offset += record.header.record_length();
            continue;
        }
        if let Found::Void(header) = found {
            assert_eq!(header.generation, GENERATION);
            sequence = header.sequence.max(sequence);
            offset += header.record_length();
            continue;
        }
        if let Found::Damaged(header) = found {
            assert_eq!(header.generation, GENERATION);
            assert!(looks_begun(&disk, &segment, offset).expect("memory can be read"));
        }
        let next = next_intact(&disk, &segment, offset, sequence).expect("memory can be read");
        let Some(next) = next else { return };
        assert!(next > offset && next + HEADER_LENGTH as u64 <= segment.size);
        let header =
            RecordHeader::decode(&disk.0[(next - FIRST_RECORD) as usize..], LOG).expect("an intact header");
        assert!(header.generation == GENERATION && header.sequence > sequence);
        offset = next;
    }
    panic!("the scan does not come to an end");
}

/// A segment in memory, from its first record on. Whoever reads elsewhere is at fault.
struct Disk(Vec<u8>);

impl ReadAt for Disk {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let from = offset.checked_sub(FIRST_RECORD).expect("a read before the first record") as usize;
        let bytes = self.0.get(from..).and_then(|rest| rest.get(..buffer.len()));
        buffer.copy_from_slice(bytes.expect("a read beyond the segment"));
        Ok(())
    }
}

/// Its file is never read.
fn segment(length: usize) -> Segment {
    Segment {
        generation: GENERATION,
        log: LOG,
        size: FIRST_RECORD + length as u64,
        path: PathBuf::new(),
        file: File::open("/dev/null").expect("a file"),
    }
}

fn check(disk: &Disk, segment: &Segment, offset: u64, record: &Record) {
    let header = &record.header;
    assert_eq!(u64::from(record.place.offset), offset);
    assert!(header.record_length().is_multiple_of(ALIGNMENT));
    assert!(offset + header.record_length() <= segment.size, "a record longer than its segment");
    assert!(header.meta_length <= MAX_META);
    assert_eq!(RecordHeader::decode(&header.encode(LOG), LOG).as_ref(), Some(header));
    let at = (offset - FIRST_RECORD) as usize + HEADER_LENGTH;
    let body = &disk.0[at..at + header.meta_length as usize + header.prefix_length as usize];
    assert_eq!(crc32c::crc32c(body), header.body_crc, "a record whose checksum is wrong");
    check_meta(&record.meta, header.sequence);
    if header.payload == Payload::Inline {
        let data_set = record.part10_offset() + u64::from(header.prefix_length);
        has_digest(disk, data_set, header.data_set_length, &header.data_set_sha256)
            .expect("memory can be read");
    }
    super::plant(|| begins_with(&header.acked_through.to_le_bytes(), b"PLNT"));
}

/// What is copied forward says what it said.
fn check_meta(meta: &Meta, sequence: u64) {
    let written = meta.encode().expect("a fact is JSON");
    let again = Meta::decode(&written, sequence).expect("what we wrote");
    assert_eq!(again.fact, meta.fact);
    assert_eq!(again.encode().expect("a fact is JSON"), written);
}

/// Puts the checksums of everything that looks like a record right, as far as its lengths let it.
fn mend(bytes: &mut [u8]) {
    for at in (0..bytes.len()).step_by(ALIGNMENT as usize) {
        let Some((header, rest)) = bytes[at..].split_at_mut_checked(HEADER_LENGTH) else { return };
        if header[..4] != *b"RPr1" {
            continue;
        }
        header[8..12].copy_from_slice(&GENERATION.to_le_bytes());
        let length = |at: usize| {
            u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]) as usize
        };
        if let Some(body) = length(32).checked_add(length(36)).and_then(|length| rest.get(..length)) {
            let crc = crc32c::crc32c(body);
            header[80..84].copy_from_slice(&crc.to_le_bytes());
        }
        let crc = crc32c::crc32c(&header[..84]);
        header[84..88].copy_from_slice(&crc.to_le_bytes());
    }
}

fn record(sequence: u64, payload: Payload, fact: Fact, prefix: &[u8], data_set: &[u8]) -> Vec<u8> {
    let large = (payload == Payload::Large).then(|| "01ARZ3NDEKTSV4RRFFQ69G5FAV".to_owned());
    let meta = Meta { large, ..Meta::of(fact) }.encode().expect("a fact is JSON");
    let header = RecordHeader {
        payload,
        generation: GENERATION,
        sequence,
        acked_through: sequence - 1,
        meta_length: meta.len() as u32,
        prefix_length: prefix.len() as u32,
        data_set_length: data_set.len() as u64,
        data_set_sha256: [3; 32],
        data_set_crc: 18,
        body_crc: crc32c::crc32c(&[&meta[..], prefix].concat()),
    };
    let mut bytes = [&header.encode(LOG)[..], &meta, prefix, data_set].concat();
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT as usize), 0);
    bytes
}

fn received() -> Fact {
    let uid = |text: &str| Uid::parse(text).expect("a UID");
    let mut attributes = Attributes::default();
    attributes.set(dicom_core::Tag(0x0010, 0x0010), "Test^Synthetic".to_owned());
    let title = |text: &str| AeTitle::parse(text).expect("an AE title");
    Fact::Received(Box::new(SpoolEntry {
        id: EntryId(0),
        key: InstanceKey {
            study_instance_uid: uid("1.2.3"),
            series_instance_uid: uid("1.2.4"),
            sop_instance_uid: uid("1.2.5"),
        },
        sop_class_uid: uid("1.2.840.10008.5.1.4.1.1.7"),
        transfer_syntax_uid: "1.2.840.10008.1.2.1".into(),
        data_set_sha256: Digest([3; 32]),
        data_set_length: 24,
        prefix_length: 8,
        origin: Origin::Dimse {
            calling_ae_title: title("CT_1"),
            called_ae_title: title("RELAYPACS"),
            peer: std::net::Ipv4Addr::LOCALHOST.into(),
        },
        received_at: Millis(1),
        attributes,
        rule_set: 1,
        conflict_with: None,
    }))
}

pub fn seeds() -> Vec<Vec<u8>> {
    let (entry, at) = (EntryId(1), Millis(2));
    let destination = || "archive".to_owned();
    let delivery = |outcome| Fact::Delivery { entry, destination: destination(), outcome, at };
    let facts = [
        Fact::Routed { entry, destinations: vec![destination()], at },
        delivery(Outcome::Sent),
        delivery(Outcome::Deferred { due: at, attempts: 1, reason: "C000".into() }),
        delivery(Outcome::Verified { by: "commitment".into() }),
        Fact::Unlisted { entries: vec![entry], destination: destination(), at },
        Fact::CommitmentRequested {
            transaction_uid: Uid::parse("2.25.1").expect("a UID"),
            destination: destination(),
            entries: vec![entry],
            at,
        },
        Fact::CommitmentClosed { transaction_uid: Uid::parse("2.25.1").expect("a UID"), at },
        Fact::Compared { entry, finding: Finding::Different { at: "00100010".into() }, at },
        Fact::Purged { entry, reason: "delivered".into(), at },
    ];
    let objects = [
        record(FIRST, Payload::Inline, received(), b"prefix!!", &[0x5A; 24]),
        record(FIRST + 1, Payload::Large, received(), b"prefix!!", &[]),
    ];
    let small: Vec<_> = (FIRST + 2..)
        .zip(facts)
        .map(|(sequence, fact)| record(sequence, Payload::None, fact, &[], &[]))
        .collect();
    let with = |choice: u8, records: &[Vec<u8>]| [&[choice][..], &records.concat()].concat();
    let mut torn = with(1, &objects);
    torn.extend_from_slice(&[0; 40]);
    torn.extend_from_slice(&small[0]);
    let mut seeds = vec![with(0, &objects), with(0, &small), torn];
    seeds.extend(small.iter().map(|record| with(1, std::slice::from_ref(record))));
    seeds
}
