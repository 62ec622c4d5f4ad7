//! What a data set says, however its lengths are written: archives that decode and encode again
//! write sequences with or without their length, and leave out group lengths (PS3.5 §7.2, §7.5).
//! Values are compared byte for byte, Pixel Data too; both sides are in the same transfer syntax.

use dicom_core::Tag;
use sha2::{Digest as _, Sha256};

use crate::dicom::tokens::{Event, Sink, Tokenizer};
use crate::dicom::{ScanError, ScanLimits, TransferSyntax};

/// Digests content as its bytes come, in constant memory.
pub struct ContentDigest {
    tokenizer: Tokenizer,
    canonical: Canonical,
}

impl ContentDigest {
    pub fn new(transfer_syntax: &TransferSyntax) -> ContentDigest {
        ContentDigest {
            tokenizer: Tokenizer::new(transfer_syntax, ScanLimits::default()),
            canonical: Canonical::default(),
        }
    }

    pub fn push(&mut self, bytes: &[u8]) -> Result<(), ScanError> {
        self.tokenizer.push(bytes, &mut self.canonical)
    }

    pub fn finish(mut self) -> Result<[u8; 32], ScanError> {
        self.tokenizer.finish()?;
        self.canonical.end_value();
        Ok(self.canonical.hasher.finalize().into())
    }
}

/// Every event becomes a record of one length, behind the value that it ends: read from the end, no
/// two sequences of events look the same.
#[derive(Default)]
struct Canonical {
    hasher: Sha256,
    value_length: u64,
    passed_over: bool,
}

/// PS3.10 §7.2; no more content than a group length is.
const DATA_SET_TRAILING_PADDING: Tag = Tag(0xFFFC, 0xFFFC);

impl Canonical {
    fn record(&mut self, kind: u8, tag: Tag) {
        self.end_value();
        self.put(kind, u64::from(tag.group()) << 16 | u64::from(tag.element()));
    }

    fn end_value(&mut self) {
        if self.value_length > 0 {
            let length = std::mem::take(&mut self.value_length);
            self.put(b'v', length);
        }
    }

    fn put(&mut self, kind: u8, number: u64) {
        self.hasher.update([kind]);
        self.hasher.update(number.to_le_bytes());
    }
}

impl Sink for Canonical {
    fn event(&mut self, event: Event<'_>) {
        const NONE: Tag = Tag(0, 0);
        match event {
            Event::Element(element) => {
                self.passed_over = element.tag.element() == 0 || element.tag == DATA_SET_TRAILING_PADDING;
                if !self.passed_over {
                    self.record(b'e', element.tag);
                }
            }
            Event::Value(bytes) if !self.passed_over => {
                self.hasher.update(bytes);
                self.value_length += bytes.len() as u64;
            }
            Event::Value(_) => {}
            Event::ElementEnd => self.passed_over = false,
            Event::SequenceStart(element) => self.record(b's', element.tag),
            Event::ItemStart => self.record(b'i', NONE),
            Event::ItemEnd => self.record(b'I', NONE),
            Event::SequenceEnd => self.record(b'S', NONE),
            Event::FragmentsStart(element) => self.record(b'f', element.tag),
            Event::Fragment { .. } => self.record(b'p', NONE),
            Event::FragmentsEnd => self.record(b'F', NONE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dicom::transfer_syntax::EXPLICIT_LITTLE_ENDIAN;

    /// Digests in pieces of every size.
    fn digest(data_set: &[u8]) -> [u8; 32] {
        let digests: Vec<[u8; 32]> = [1, 3, data_set.len()]
            .into_iter()
            .map(|size| {
                let syntax = TransferSyntax::by_uid(EXPLICIT_LITTLE_ENDIAN).unwrap();
                let mut content = ContentDigest::new(syntax);
                data_set.chunks(size).for_each(|chunk| content.push(chunk).unwrap());
                content.finish().unwrap()
            })
            .collect();
        assert!(digests.iter().all(|digest| *digest == digests[0]));
        digests[0]
    }

    const NAME: &[u8] = b"\x10\0\x10\0PN\x04\0DOE ";

    #[test]
    fn how_lengths_are_written_is_no_content() {
        let item = b"\x08\0\x50\x11UI\x04\x001.9\0";
        let defined = [&b"\x08\0\x40\x11SQ\0\0\x14\0\0\0\xFE\xFF\0\xE0\x0C\0\0\0"[..], item, NAME].concat();
        let undefined = [
            &b"\x08\0\0\0UL\x04\0\x2A\0\0\0\x08\0\x40\x11SQ\0\0\xFF\xFF\xFF\xFF\xFE\xFF\0\xE0\xFF\xFF\xFF\xFF"[..],
            item,
            b"\xFE\xFF\x0D\xE0\0\0\0\0\xFE\xFF\xDD\xE0\0\0\0\0",
            NAME,
            b"\xFC\xFF\xFC\xFFOB\0\0\x02\0\0\0\0\0",
        ]
        .concat();
        assert_eq!(digest(&defined), digest(&undefined));
    }

    #[test]
    fn any_value_tag_or_order_is() {
        let other: [&[u8]; 6] = [
            b"",
            b"\x10\0\x10\0PN\x04\0DOF ",
            b"\x10\0\x20\0LO\x04\0DOE ",
            b"\x10\0\x10\0PN\x06\0DOE   ",
            b"\x10\0\x10\0PN\0\0",
            b"\x10\0\x10\0PN\x02\0DO\x10\0\x20\0LO\x02\0E ",
        ];
        let mut digests: Vec<[u8; 32]> =
            other.iter().filter(|one| !one.is_empty()).map(|one| digest(one)).collect();
        digests.push(digest(NAME));
        digests.sort_unstable();
        digests.dedup();
        assert_eq!(digests.len(), 6);
    }
}
