//! The Identifier of a C-FIND request (PS3.4 §C.4.1.1.3): which keys are asked for with which
//! values, read in one pass over tokens. What may be asked at which level is the service's.

use dicom_core::{Tag, VR};
use dicom_dictionary_std::tags;

use crate::dicom::charset::Charset;
use crate::dicom::tokens::{ByteOrder, Element, Event, Sink, Tokenizer};
use crate::dicom::{ScanError, ScanLimits, TransferSyntax, attributes, value};

/// Largest identifier taken.
pub const LIMIT: usize = 64 << 10;

/// A key as asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestedKey {
    pub tag: Tag,
    pub vr: VR,
    /// Decoded text, several values joined by `\`; empty for universal matching. Sequences and
    /// binary values have none: nothing here matches them.
    pub value: String,
}

/// The keys, in the order of their tags, each once; without group lengths, Specific Character Set
/// and Query/Retrieve Level, which are no keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identifier {
    pub level: String,
    pub keys: Vec<RequestedKey>,
}

impl Identifier {
    pub fn parse(data_set: &[u8], transfer_syntax: &TransferSyntax) -> Result<Self, ScanError> {
        const LIMITS: ScanLimits = ScanLimits { depth: 16, elements: 4096, non_pixel_bytes: LIMIT as u64 };
        let mut reader = Reader::default();
        let mut tokenizer = Tokenizer::new(transfer_syntax, LIMITS);
        tokenizer.push(data_set, &mut reader)?;
        tokenizer.finish()?;
        Ok(reader.into_identifier())
    }
}

/// A top-level element.
struct Raw {
    tag: Tag,
    vr: VR,
    byte_order: ByteOrder,
    value: Vec<u8>,
}

#[derive(Default)]
struct Reader {
    elements: Vec<Raw>,
    depth: usize,
    /// The element whose value is coming is the last of `elements`.
    open: bool,
}

impl Sink for Reader {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Element(element) if self.depth == 0 => {
                self.begin(element);
                self.open = true;
            }
            Event::Value(bytes) if self.open => {
                if let Some(raw) = self.elements.last_mut() {
                    raw.value.extend_from_slice(bytes);
                }
            }
            Event::ElementEnd => self.open = false,
            Event::SequenceStart(element) | Event::FragmentsStart(element) => {
                if self.depth == 0 {
                    self.begin(element);
                }
                self.depth += 1;
            }
            Event::SequenceEnd | Event::FragmentsEnd => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
    }
}

impl Reader {
    fn begin(&mut self, element: Element) {
        let Element { tag, vr, byte_order, .. } = element;
        self.elements.push(Raw { tag, vr, byte_order, value: Vec::new() });
    }

    fn into_identifier(mut self) -> Identifier {
        self.elements.sort_by_key(|raw| raw.tag);
        self.elements.dedup_by_key(|raw| raw.tag);
        let first = |tag| self.elements.iter().find(|raw| raw.tag == tag);
        let charset = first(tags::SPECIFIC_CHARACTER_SET)
            .map(|raw| Charset::parse(&value::text(VR::CS, &raw.value, Charset::default())))
            .unwrap_or_default();
        let level = first(tags::QUERY_RETRIEVE_LEVEL)
            .map(|raw| value::text(VR::CS, &raw.value, Charset::default()))
            .unwrap_or_default();
        let keys = self.elements.iter().filter(|raw| is_key(raw.tag)).map(|raw| raw.key(charset)).collect();
        Identifier { level, keys }
    }
}

fn is_key(tag: Tag) -> bool {
    tag.element() != 0
        && tag.group() > 0x0002
        && tag != tags::SPECIFIC_CHARACTER_SET
        && tag != tags::QUERY_RETRIEVE_LEVEL
}

impl Raw {
    fn key(&self, charset: Charset) -> RequestedKey {
        // What we index we know better than a sender that writes UN.
        let vr = attributes::by_tag(self.tag).map_or(self.vr, |attribute| attribute.vr);
        let value = match value::binary_numbers(vr, &self.value, self.byte_order) {
            Some(numbers) => numbers.join("\\"),
            None if value::is_binary(vr) => String::new(),
            None => match value::text(vr, &self.value, charset) {
                // Only UIDs are padded with NUL (PS3.5 §6.2); elsewhere it is no empty value.
                text if text.is_empty() && vr != VR::UI && self.value.contains(&0) => "\0".to_owned(),
                text => text,
            },
        };
        RequestedKey { tag: self.tag, vr, value }
    }
}
