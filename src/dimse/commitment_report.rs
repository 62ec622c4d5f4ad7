//! The data set of a storage commitment report (N-EVENT-REPORT, PS3.4 §J.3.3): which instances the
//! archive answers for, and which it does not. Read in one pass over tokens, whose limits hold
//! here too; used wherever a report may arrive, on an association of ours or of the archive.

use dicom_core::{Tag, VR};
use dicom_dictionary_std::tags;

use crate::dicom::tokens::{Element, Event, Sink, Tokenizer};
use crate::dicom::{ScanLimits, TransferSyntax, Uid};

/// Storage Commitment Push Model SOP Class and its well-known instance (PS3.4 §J.3.5).
pub const SOP_CLASS: &str = "1.2.840.10008.1.20.1";
pub const SOP_INSTANCE: &str = "1.2.840.10008.1.20.1.1";

/// Largest report read: some 30,000 instances.
pub const LIMIT: usize = 4 << 20;

/// Event types (PS3.4 §J.3.3.1).
pub const SUCCESSFUL: u16 = 1;
pub const FAILURES_EXIST: u16 = 2;

/// Where a failure has no FailureReason: processing failure (PS3.4 §J.3.3.1.1).
const UNSPECIFIED_FAILURE: u16 = 0x0110;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub transaction_uid: Uid,
    pub committed: Vec<Uid>,
    /// SOP Instance UID and FailureReason (0008,1197).
    pub failed: Vec<(Uid, u16)>,
}

/// `Err` says what is wrong with the report. An item without a valid SOP Instance UID proves
/// nothing and is left out.
pub fn parse(data_set: &[u8], transfer_syntax: &TransferSyntax) -> Result<Report, &'static str> {
    const LIMITS: ScanLimits = ScanLimits { depth: 8, elements: 500_000, non_pixel_bytes: LIMIT as u64 };
    const DAMAGED: &str = "the report's data set is damaged or exceeds its limits";
    let mut reader = Reader::default();
    let mut tokenizer = Tokenizer::new(transfer_syntax, LIMITS);
    tokenizer.push(data_set, &mut reader).map_err(|_| DAMAGED)?;
    tokenizer.finish().map_err(|_| DAMAGED)?;
    let transaction_uid = reader.transaction_uid.ok_or("Transaction UID is missing or invalid")?;
    Ok(Report { transaction_uid, committed: reader.committed, failed: reader.failed })
}

/// No value that matters here is longer: a UID.
const LONGEST_VALUE: usize = 66;

#[derive(Default)]
struct Reader {
    transaction_uid: Option<Uid>,
    committed: Vec<Uid>,
    failed: Vec<(Uid, u16)>,
    /// Sequences from the top down to here.
    path: Vec<Tag>,
    instance: Option<Uid>,
    reason: Option<u16>,
    element: Option<Element>,
    value: Vec<u8>,
}

impl Sink for Reader {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Element(element) => {
                self.element = Some(element);
                self.value.clear();
            }
            Event::Value(bytes) => {
                let room = LONGEST_VALUE.saturating_sub(self.value.len());
                self.value.extend_from_slice(&bytes[..bytes.len().min(room)]);
            }
            Event::ElementEnd => self.element_end(),
            Event::SequenceStart(element) => self.path.push(element.tag),
            Event::SequenceEnd => {
                self.path.pop();
            }
            Event::ItemStart if self.path.len() == 1 => (self.instance, self.reason) = (None, None),
            Event::ItemEnd => self.item_end(),
            _ => {}
        }
    }
}

impl Reader {
    fn element_end(&mut self) {
        let Some(element) = self.element.take() else { return };
        match (self.path.len(), element.tag) {
            (0, tags::TRANSACTION_UID) => self.transaction_uid = Uid::parse_bytes(&self.value).ok(),
            (1, tags::REFERENCED_SOP_INSTANCE_UID) => self.instance = Uid::parse_bytes(&self.value).ok(),
            (1, tags::FAILURE_REASON) => self.reason = self.unsigned_short(element),
            _ => {}
        }
    }

    fn unsigned_short(&self, element: Element) -> Option<u16> {
        let bytes = <[u8; 2]>::try_from(self.value.as_slice()).ok()?;
        matches!(element.vr, VR::US | VR::UN).then(|| element.byte_order.u16(bytes))
    }

    fn item_end(&mut self) {
        let &[sequence] = self.path.as_slice() else { return };
        let Some(instance) = self.instance.take() else { return };
        match sequence {
            tags::REFERENCED_SOP_SEQUENCE => self.committed.push(instance),
            tags::FAILED_SOP_SEQUENCE => {
                self.failed.push((instance, self.reason.unwrap_or(UNSPECIFIED_FAILURE)));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dicom::transfer_syntax::{
        EXPLICIT_BIG_ENDIAN, EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN,
    };

    fn syntax(uid: &str) -> &'static TransferSyntax {
        TransferSyntax::by_uid(uid).unwrap()
    }

    /// An element in Implicit VR Little Endian.
    fn element(tag: Tag, value: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&tag.group().to_le_bytes());
        out.extend_from_slice(&tag.element().to_le_bytes());
        out.extend_from_slice(&(value.len() as u32).to_le_bytes());
        out.extend_from_slice(value);
        out
    }

    fn item(elements: &[Vec<u8>]) -> Vec<u8> {
        element(Tag(0xFFFE, 0xE000), &elements.concat())
    }

    fn report() -> Vec<u8> {
        let instance = |uid: &str| element(tags::REFERENCED_SOP_INSTANCE_UID, uid.as_bytes());
        [
            element(tags::TRANSACTION_UID, b"2.25.1\0\0"),
            element(
                tags::FAILED_SOP_SEQUENCE,
                &[
                    item(&[instance("1.2.9\0"), element(tags::FAILURE_REASON, &[0x12, 0x01])]),
                    item(&[instance("1.2.8\0")]),
                ]
                .concat(),
            ),
            element(
                tags::REFERENCED_SOP_SEQUENCE,
                &[
                    item(&[instance("1.2.3\0")]),
                    item(&[instance("../../x\0")]),
                    // Nested references are not reports.
                    item(&[
                        element(tags::REFERENCED_SOP_SEQUENCE, &item(&[instance("1.2.7\0")])),
                        instance("1.2.4\0"),
                    ]),
                ]
                .concat(),
            ),
        ]
        .concat()
    }

    fn uid(text: &str) -> Uid {
        Uid::parse(text).unwrap()
    }

    #[test]
    fn a_report_names_what_is_committed_and_what_failed() {
        let report = parse(&report(), syntax(IMPLICIT_LITTLE_ENDIAN)).unwrap();
        assert_eq!(report.transaction_uid, uid("2.25.1"));
        assert_eq!(report.committed, [uid("1.2.3"), uid("1.2.4")]);
        assert_eq!(report.failed, [(uid("1.2.9"), 0x0112), (uid("1.2.8"), 0x0110)]);
    }

    #[test]
    fn a_reason_follows_the_byte_order_of_the_transfer_syntax() {
        let big = [
            &b"\x00\x08\x11\x95UI\x00\x062.25.1"[..],
            b"\x00\x08\x11\x98SQ\x00\x00\x00\x00\x00\x20\xFF\xFE\xE0\x00\x00\x00\x00\x18",
            b"\x00\x08\x11\x55UI\x00\x061.2.9\x00",
            b"\x00\x08\x11\x97US\x00\x02\x01\x12",
        ]
        .concat();
        let report = parse(&big, syntax(EXPLICIT_BIG_ENDIAN)).unwrap();
        assert_eq!(report.failed, [(uid("1.2.9"), 0x0112)]);
    }

    #[test]
    fn a_report_cut_anywhere_is_refused_or_shorter_but_never_panics() {
        let whole = report();
        for length in 0..whole.len() {
            if let Ok(report) = parse(&whole[..length], syntax(IMPLICIT_LITTLE_ENDIAN)) {
                assert!(report.committed.len() < 2);
            }
        }
        assert!(parse(b"", syntax(EXPLICIT_LITTLE_ENDIAN)).is_err());
    }

    #[test]
    fn nesting_without_end_is_refused() {
        let open = b"\x08\x00\x99\x11\xFF\xFF\xFF\xFF\xFE\xFF\x00\xE0\xFF\xFF\xFF\xFF".repeat(5000);
        assert!(parse(&open, syntax(IMPLICIT_LITTLE_ENDIAN)).is_err());
    }
}
