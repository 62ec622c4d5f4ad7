//! How a record lies in a segment. A fixed header with checksums, the fact as JSON, for an object
//! its Part 10 prefix, and its data set unless that has a file of its own; padded to 8 bytes.
//!
//! The header names the segment's generation, so that what an earlier use of the segment left
//! behind is never taken for a record of this one.

use serde::{Deserialize, Serialize};

use super::entry::{EntryId, Fact};
use super::log_id::LogId;
use super::state::EntryState;

pub const HEADER_LENGTH: usize = 88;
pub const ALIGNMENT: u64 = 8;
/// A fact is small; what claims more is not one.
pub const MAX_META: u32 = 4 << 20;
pub const MAX_PREFIX: u32 = 64 << 10;
/// A segment has 4 GiB at most: places in it have 32 bits.
const MAX_INLINE: u64 = u32::MAX as u64;

const MAGIC: [u8; 4] = *b"RPr1";

/// Where an object's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payload {
    /// The record is a fact alone.
    None,
    /// In the record.
    Inline,
    /// In a file of its own, which the meta names.
    Large,
    /// What stood here was torn by a crash and never answered: recovery has put this in its place, and nothing of it
    /// is read again. `data_set_length` is what is to be passed over.
    Void,
}

/// The longest meta that may be written: a first reception leaves room for what a copy of it adds.
pub fn most_meta(meta: &Meta) -> usize {
    let is_first = matches!(meta.fact, Fact::Received(_)) && meta.copied.is_none();
    MAX_META as usize / if is_first { 2 } else { 1 }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordHeader {
    pub payload: Payload,
    pub generation: u32,
    pub sequence: u64,
    /// The last sequence number that was answered before this record was written. After a crash a
    /// bad record at or below this mark is a loss, above it a torn write.
    pub acked_through: u64,
    pub meta_length: u32,
    pub prefix_length: u32,
    pub data_set_length: u64,
    pub data_set_sha256: [u8; 32],
    /// Of the data set, for who reads it back often: see [`CheckBy`](super::CheckBy). Zero where none was kept.
    pub data_set_crc: u32,
    pub body_crc: u32,
}

/// The JSON part of a record.
#[derive(Debug, Serialize, Deserialize)]
pub struct Meta {
    pub fact: Fact,
    /// Name of the large file under `large/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub large: Option<String>,
    /// Set on a record copied forward from a segment about to be recycled: what the log had said
    /// about the entry until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copied: Option<EntryState>,
}

impl RecordHeader {
    /// In place of what lies in `length` bytes and was numbered up to `sequence`.
    pub fn void(generation: u32, sequence: u64, acked_through: u64, length: u64) -> RecordHeader {
        RecordHeader {
            payload: Payload::Void,
            generation,
            sequence,
            acked_through,
            meta_length: 0,
            prefix_length: 0,
            data_set_length: length - HEADER_LENGTH as u64,
            data_set_sha256: [0; 32],
            data_set_crc: 0,
            body_crc: 0,
        }
    }

    /// Bytes of the record in the segment, padding included.
    pub fn record_length(&self) -> u64 {
        let inline = match self.payload {
            Payload::Inline | Payload::Void => self.data_set_length,
            Payload::None | Payload::Large => 0,
        };
        (HEADER_LENGTH as u64 + u64::from(self.meta_length) + u64::from(self.prefix_length) + inline)
            .next_multiple_of(ALIGNMENT)
    }

    pub fn encode(&self, log: LogId) -> [u8; HEADER_LENGTH] {
        let mut out = [0; HEADER_LENGTH];
        out[0..4].copy_from_slice(&MAGIC);
        out[4] = match self.payload {
            Payload::None => 0,
            Payload::Inline => 1,
            Payload::Large => 2,
            Payload::Void => 3,
        };
        out[5..8].copy_from_slice(&log.tag);
        out[8..12].copy_from_slice(&self.generation.to_le_bytes());
        out[12..16].copy_from_slice(&self.data_set_crc.to_le_bytes());
        out[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        out[24..32].copy_from_slice(&self.acked_through.to_le_bytes());
        out[32..36].copy_from_slice(&self.meta_length.to_le_bytes());
        out[36..40].copy_from_slice(&self.prefix_length.to_le_bytes());
        out[40..48].copy_from_slice(&self.data_set_length.to_le_bytes());
        out[48..80].copy_from_slice(&self.data_set_sha256);
        out[80..84].copy_from_slice(&self.body_crc.to_le_bytes());
        let crc = log.checksum(&out[..84]);
        out[84..88].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Whether a header of some log may begin here.
    pub fn looks_begun(bytes: &[u8]) -> bool {
        bytes.starts_with(&MAGIC)
    }

    /// `None` where there is no intact header of this log.
    pub fn decode(bytes: &[u8], log: LogId) -> Option<RecordHeader> {
        let bytes: &[u8; HEADER_LENGTH] = bytes.get(..HEADER_LENGTH)?.try_into().ok()?;
        if bytes[0..4] != MAGIC || bytes[5..8] != log.tag || log.checksum(&bytes[..84]) != u32_at(bytes, 84) {
            return None;
        }
        let header = RecordHeader {
            payload: match bytes[4] {
                0 => Payload::None,
                1 => Payload::Inline,
                2 => Payload::Large,
                3 => Payload::Void,
                _ => return None,
            },
            generation: u32_at(bytes, 8),
            sequence: u64_at(bytes, 16),
            acked_through: u64_at(bytes, 24),
            meta_length: u32_at(bytes, 32),
            prefix_length: u32_at(bytes, 36),
            data_set_length: u64_at(bytes, 40),
            data_set_sha256: bytes[48..80].try_into().ok()?,
            data_set_crc: u32_at(bytes, 12),
            body_crc: u32_at(bytes, 80),
        };
        let fits = header.meta_length <= MAX_META
            && header.prefix_length <= MAX_PREFIX
            && (header.payload == Payload::Large || header.data_set_length <= MAX_INLINE);
        fits.then_some(header)
    }
}

impl Meta {
    pub fn of(fact: Fact) -> Meta {
        Meta { fact, large: None, copied: None }
    }

    pub fn encode(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(self)
    }

    /// Decodes the meta of the record with this sequence number. A first reception is written
    /// before its number is known; it gets its id here.
    pub fn decode(bytes: &[u8], sequence: u64) -> serde_json::Result<Meta> {
        let mut meta: Meta = serde_json::from_slice(bytes)?;
        if let Fact::Received(entry) = &mut meta.fact
            && entry.id == EntryId(0)
        {
            entry.id = EntryId(sequence);
        }
        Ok(meta)
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: LogId = LogId { tag: [1, 2, 3], seed: 0xDEAD_BEEF };

    fn header() -> RecordHeader {
        RecordHeader {
            payload: Payload::Inline,
            generation: 7,
            sequence: 99,
            acked_through: 98,
            meta_length: 300,
            prefix_length: 340,
            data_set_length: 65_000,
            data_set_sha256: [3; 32],
            data_set_crc: 18,
            body_crc: 17,
        }
    }

    #[test]
    fn a_header_survives_its_encoding() {
        let log = LogId::random();
        assert_eq!(RecordHeader::decode(&header().encode(log), log), Some(header()));
        assert_eq!(RecordHeader::decode(&header().encode(LogId::default()), log), None, "of another log");
        assert_eq!(header().record_length() % ALIGNMENT, 0);
    }

    #[test]
    fn lengths_that_no_record_has_are_no_header() {
        for header in [
            RecordHeader { data_set_length: u64::MAX, ..header() },
            RecordHeader { meta_length: MAX_META + 1, ..header() },
            RecordHeader { prefix_length: MAX_PREFIX + 1, ..header() },
        ] {
            assert_eq!(RecordHeader::decode(&header.encode(LOG), LOG), None);
        }
        let large = RecordHeader { payload: Payload::Large, data_set_length: u64::MAX, ..header() };
        assert_eq!(
            RecordHeader::decode(&large.encode(LOG), LOG),
            Some(large),
            "a file of its own has any length"
        );
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_noticed() {
        let intact = header().encode(LOG);
        for bit in 0..intact.len() * 8 {
            let mut damaged = intact;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(RecordHeader::decode(&damaged, LOG), None, "bit {bit}");
        }
    }
}
