//! The few small data sets that verification exchanges: identifiers of a query, action information
//! of a commitment request, and the reports that come back. Written by hand, because they are a
//! handful of UIDs; read by our own tokenizer, because they come from outside.

use dicom_core::Tag;
use dicom_dictionary_std::tags;

use crate::dicom::tokens::{Event, Sink, Tokenizer};
use crate::dicom::transfer_syntax::Encoding;
use crate::dicom::{ScanError, ScanLimits, TransferSyntax, Uid};

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

/// The event information of a storage commitment report (PS3.4 §J.3.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventInformation {
    pub transaction_uid: Uid,
    pub committed: Vec<Uid>,
    /// SOP Instance UID and FailureReason (0008,1197).
    pub failed: Vec<(Uid, u16)>,
}

#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    #[error(transparent)]
    Broken(#[from] ScanError),
    #[error("no Transaction UID")]
    NoTransaction,
}

impl EventInformation {
    pub fn read(data_set: &[u8], transfer_syntax: &TransferSyntax) -> Result<Self, ReportError> {
        let mut values = Values::default();
        read(data_set, transfer_syntax, &mut values)?;
        let transaction_uid = values.transaction_uid.ok_or(ReportError::NoTransaction)?;
        Ok(EventInformation { transaction_uid, committed: values.committed, failed: values.failed })
    }
}

/// SOP Instance UID of a C-FIND response's identifier.
pub fn sop_instance_uid(identifier: &[u8], transfer_syntax: &TransferSyntax) -> Option<Uid> {
    let mut values = Values::default();
    read(identifier, transfer_syntax, &mut values).ok()?;
    values.sop_instance_uid
}

fn read(data_set: &[u8], transfer_syntax: &TransferSyntax, values: &mut Values) -> Result<(), ScanError> {
    let mut tokenizer = Tokenizer::new(transfer_syntax, ScanLimits::default());
    tokenizer.push(data_set, values)?;
    tokenizer.finish()
}

#[derive(Default)]
struct Values {
    transaction_uid: Option<Uid>,
    sop_instance_uid: Option<Uid>,
    committed: Vec<Uid>,
    failed: Vec<(Uid, u16)>,
    /// The sequence at the top that we are in.
    sequence: Option<Tag>,
    item: Item,
    /// The element whose value is being gathered.
    element: Option<(Tag, usize)>,
    value: Vec<u8>,
}

#[derive(Default)]
struct Item {
    uid: Option<Uid>,
    reason: Option<u16>,
}

/// No value that matters here is longer.
const LONGEST_VALUE: usize = 64;

impl Sink for Values {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Element(element) => {
                self.element = Some((element.tag, element.depth));
                self.value.clear();
            }
            Event::Value(bytes) => {
                let room = (LONGEST_VALUE + 1).saturating_sub(self.value.len());
                self.value.extend_from_slice(&bytes[..bytes.len().min(room)]);
            }
            Event::ElementEnd => self.end_of_element(),
            Event::SequenceStart(element) if element.depth == 0 => self.sequence = Some(element.tag),
            Event::ItemEnd => self.end_of_item(),
            _ => {}
        }
    }
}

impl Values {
    fn end_of_element(&mut self) {
        let Some((tag, depth)) = self.element.take() else { return };
        let uid = || Uid::parse_bytes(&self.value).ok();
        match (tag, depth) {
            (tags::TRANSACTION_UID, 0) => self.transaction_uid = uid(),
            (tags::SOP_INSTANCE_UID, 0) => self.sop_instance_uid = uid(),
            (tags::REFERENCED_SOP_INSTANCE_UID, 1) => self.item.uid = uid(),
            (tags::FAILURE_REASON, 1) => {
                let bytes = self.value.get(..2).and_then(|bytes| bytes.try_into().ok());
                self.item.reason = bytes.map(u16::from_le_bytes);
            }
            _ => {}
        }
    }

    /// Nested items end here too, but leave nothing behind to take.
    fn end_of_item(&mut self) {
        let Item { uid, reason } = std::mem::take(&mut self.item);
        let Some(uid) = uid else { return };
        match self.sequence {
            Some(tags::REFERENCED_SOP_SEQUENCE) => self.committed.push(uid),
            Some(tags::FAILED_SOP_SEQUENCE) => self.failed.push((uid, reason.unwrap_or_default())),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uid(text: &str) -> Uid {
        Uid::parse(text).unwrap()
    }

    fn syntax(uid: &str) -> &'static TransferSyntax {
        TransferSyntax::by_uid(uid).unwrap()
    }

    fn reference(writer: Writer, uid: &str) -> Writer {
        writer.uid(tags::REFERENCED_SOP_CLASS_UID, "1.9").uid(tags::REFERENCED_SOP_INSTANCE_UID, uid)
    }

    fn report(syntax: &TransferSyntax) -> Vec<u8> {
        Writer::new(syntax.encoding)
            .unwrap()
            .uid(tags::TRANSACTION_UID, "2.25.77")
            .sequence(tags::FAILED_SOP_SEQUENCE, ["1.4"], reference)
            .sequence(tags::REFERENCED_SOP_SEQUENCE, ["1.2.3", "1.2.34"], reference)
            .finish()
    }

    #[test]
    fn what_is_written_is_read_back_in_both_encodings() {
        for syntax in [syntax("1.2.840.10008.1.2"), syntax("1.2.840.10008.1.2.1")] {
            let information = EventInformation::read(&report(syntax), syntax).unwrap();
            assert_eq!(
                information,
                EventInformation {
                    transaction_uid: uid("2.25.77"),
                    committed: vec![uid("1.2.3"), uid("1.2.34")],
                    failed: vec![(uid("1.4"), 0)],
                }
            );
        }
    }

    #[test]
    fn a_failure_reason_belongs_to_its_item() {
        // (0008,1198) SQ, one item: (0008,1155) UI 1.4, (0008,1197) US 0112; implicit.
        let transaction = Writer::new(Encoding::ImplicitLittleEndian).unwrap();
        let mut bytes = transaction.uid(tags::TRANSACTION_UID, "1.1").finish();
        let item = b"\x08\x00\x55\x11\x04\0\0\x001.4\0\x08\x00\x97\x11\x02\0\0\0\x12\x01";
        bytes.extend(b"\x08\x00\x98\x11");
        bytes.extend((item.len() as u32 + 8).to_le_bytes());
        bytes.extend(b"\xFE\xFF\x00\xE0");
        bytes.extend((item.len() as u32).to_le_bytes());
        bytes.extend(item);
        let information = EventInformation::read(&bytes, syntax("1.2.840.10008.1.2")).unwrap();
        assert_eq!(information.failed, [(uid("1.4"), 0x0112)]);
    }

    #[test]
    fn a_report_cut_short_or_without_transaction_is_refused() {
        let syntax = syntax("1.2.840.10008.1.2.1");
        let whole = report(syntax);
        let cut = EventInformation::read(&whole[..whole.len() - 3], syntax);
        assert!(matches!(cut, Err(ReportError::Broken(_))));
        assert!(matches!(EventInformation::read(&[], syntax), Err(ReportError::NoTransaction)));
    }
}
