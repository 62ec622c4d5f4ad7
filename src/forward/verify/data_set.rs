//! The few small data sets that verification exchanges: identifiers of a query, and the action
//! information of a commitment request. Written by hand, because they are a handful of UIDs; read
//! by our own tokenizer, because answers come from outside.

use dicom_core::Tag;
use dicom_dictionary_std::tags;

use crate::dicom::tokens::{Event, Sink, Tokenizer};
use crate::dicom::transfer_syntax::Encoding;
use crate::dicom::{ScanLimits, TransferSyntax, Uid};

/// Writes one data set in Explicit or Implicit VR Little Endian. Elements in tag order, please.
pub struct Writer {
    explicit: bool,
    out: Vec<u8>,
}

const UNDEFINED: u32 = 0xFFFF_FFFF;

impl Writer {
    /// `None` for encodings that no context of ours proposes here.
    pub fn new(encoding: Encoding) -> Option<Writer> {
        let explicit = match encoding {
            Encoding::ImplicitLittleEndian => false,
            Encoding::ExplicitLittleEndian => true,
            Encoding::ExplicitBigEndian | Encoding::DeflatedExplicitLittleEndian => return None,
        };
        Some(Writer { explicit, out: Vec::new() })
    }

    fn tag(&mut self, tag: Tag) {
        self.out.extend(tag.group().to_le_bytes());
        self.out.extend(tag.element().to_le_bytes());
    }

    /// A value of a VR with a 16-bit length field (PS3.5 §7.1.2), padded to even length.
    fn short(&mut self, tag: Tag, vr: &[u8; 2], value: &str, padding: u8) {
        let length = value.len().next_multiple_of(2);
        self.tag(tag);
        if self.explicit {
            self.out.extend(vr);
            self.out.extend((length as u16).to_le_bytes());
        } else {
            self.out.extend((length as u32).to_le_bytes());
        }
        self.out.extend(value.as_bytes());
        self.out.resize(self.out.len() + length - value.len(), padding);
    }

    pub fn uid(mut self, tag: Tag, value: &str) -> Self {
        self.short(tag, b"UI", value, 0);
        self
    }

    pub fn code_string(mut self, tag: Tag, value: &str) -> Self {
        self.short(tag, b"CS", value, b' ');
        self
    }

    /// A sequence of undefined length; every item is written by `item`.
    pub fn sequence<T>(
        mut self,
        tag: Tag,
        items: impl IntoIterator<Item = T>,
        item: impl Fn(Writer, T) -> Writer,
    ) -> Self {
        self.tag(tag);
        if self.explicit {
            self.out.extend(b"SQ\0\0");
        }
        self.out.extend(UNDEFINED.to_le_bytes());
        for content in items {
            let inner = item(Writer { explicit: self.explicit, out: Vec::new() }, content);
            self.tag(Tag(0xFFFE, 0xE000));
            self.out.extend((inner.out.len() as u32).to_le_bytes());
            self.out.extend(inner.out);
        }
        self.tag(Tag(0xFFFE, 0xE0DD));
        self.out.extend(0_u32.to_le_bytes());
        self
    }

    pub fn finish(self) -> Vec<u8> {
        self.out
    }
}

/// SOP Instance UID of a C-FIND response's identifier.
pub fn sop_instance_uid(identifier: &[u8], transfer_syntax: &TransferSyntax) -> Option<Uid> {
    let mut reader = Reader::default();
    let mut tokenizer = Tokenizer::new(transfer_syntax, ScanLimits::default());
    tokenizer.push(identifier, &mut reader).ok()?;
    tokenizer.finish().ok()?;
    Uid::parse_bytes(&reader.value?).ok()
}

/// No UID is longer, padding included.
const LONGEST_VALUE: usize = 66;

#[derive(Default)]
struct Reader {
    inside: bool,
    value: Option<Vec<u8>>,
}

impl Sink for Reader {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Element(element) => {
                self.inside = element.tag == tags::SOP_INSTANCE_UID && element.depth == 0;
            }
            Event::Value(bytes) if self.inside => {
                let value = self.value.get_or_insert_default();
                let room = LONGEST_VALUE.saturating_sub(value.len());
                value.extend_from_slice(&bytes[..bytes.len().min(room)]);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dicom::transfer_syntax::{EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN};
    use crate::dimse::commitment_report;

    fn uid(text: &str) -> Uid {
        Uid::parse(text).unwrap()
    }

    #[test]
    fn what_is_written_is_read_back_in_both_encodings() {
        for syntax in [IMPLICIT_LITTLE_ENDIAN, EXPLICIT_LITTLE_ENDIAN] {
            let syntax = TransferSyntax::by_uid(syntax).unwrap();
            let written = Writer::new(syntax.encoding)
                .unwrap()
                .uid(tags::TRANSACTION_UID, "2.25.77")
                .sequence(tags::REFERENCED_SOP_SEQUENCE, ["1.2.3", "1.2.34"], |item, uid| {
                    item.uid(tags::REFERENCED_SOP_CLASS_UID, "1.9")
                        .uid(tags::REFERENCED_SOP_INSTANCE_UID, uid)
                })
                .finish();
            let read = commitment_report::parse(&written, syntax).unwrap();
            assert_eq!(read.transaction_uid, uid("2.25.77"));
            assert_eq!(read.committed, [uid("1.2.3"), uid("1.2.34")]);
        }
    }

    #[test]
    fn an_identifier_names_its_instance_whatever_is_nested_in_it() {
        for syntax in [IMPLICIT_LITTLE_ENDIAN, EXPLICIT_LITTLE_ENDIAN] {
            let syntax = TransferSyntax::by_uid(syntax).unwrap();
            let identifier = Writer::new(syntax.encoding)
                .unwrap()
                .uid(tags::SOP_INSTANCE_UID, "1.2.3")
                .code_string(tags::QUERY_RETRIEVE_LEVEL, "IMAGE")
                .sequence(tags::REFERENCED_SERIES_SEQUENCE, ["1.4"], |item, uid| {
                    item.uid(tags::SOP_INSTANCE_UID, uid)
                })
                .uid(tags::STUDY_INSTANCE_UID, "1.2")
                .finish();
            assert_eq!(sop_instance_uid(&identifier, syntax), Some(uid("1.2.3")));
            assert_eq!(sop_instance_uid(&identifier[..identifier.len() - 1], syntax), None);
        }
    }
}
