//! The header of a data set: what identifies, indexes and routes it; read by a push scanner that
//! also checks the structure of the whole data set, in constant memory.

use std::sync::LazyLock;

use dicom_core::{Tag, VR};
use dicom_dictionary_std::tags;
use thiserror::Error;

use super::charset::Charset;
use super::tokens::{ByteOrder, Element, Event, Sink, Tokenizer};
use super::{Attributes, InstanceKey, TransferSyntax, Uid, attributes, value};

#[cfg(test)]
mod real_files;
#[cfg(test)]
mod tests;

/// Limits of a data set (reliability: lengths, depth and counts are the sender's claims).
#[derive(Debug, Clone, Copy)]
pub struct ScanLimits {
    /// Sequence nesting.
    pub depth: usize,
    /// Elements and items in all.
    pub elements: u64,
    /// Bytes outside Pixel Data and the like (inflated, where deflated).
    pub non_pixel_bytes: u64,
}

impl Default for ScanLimits {
    fn default() -> Self {
        Self { depth: 64, elements: 1_000_000, non_pixel_bytes: 64 << 20 }
    }
}

/// Why a data set can't be taken. Never carries a value of the data set.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ScanError {
    #[error("the data set ends inside an element at byte {at}")]
    Truncated { at: u64 },
    #[error("structure broken at byte {at}: {what}")]
    Malformed { at: u64, what: &'static str },
    #[error("more than {limit} {what}")]
    Limit { what: &'static str, limit: u64 },
    #[error("{keyword} is missing or invalid")]
    Identifier { keyword: &'static str },
}

/// What ingest needs of a data set.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    pub sop_class_uid: Uid,
    pub key: InstanceKey,
    pub attributes: Attributes,
}

/// Push scanner: give it the bytes of the data set as they arrive, then finish it.
pub struct HeaderScanner {
    tokenizer: Tokenizer,
    capture: Capture,
}

impl HeaderScanner {
    pub fn new(transfer_syntax: &'static TransferSyntax, limits: ScanLimits) -> Self {
        Self { tokenizer: Tokenizer::new(transfer_syntax, limits), capture: Capture::default() }
    }

    /// Takes the next bytes; an error is final.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), ScanError> {
        self.tokenizer.push(bytes, &mut self.capture)
    }

    /// Whether the bytes have come past SOP Class and SOP Instance UID, which stand near the start
    /// (elements are in order of their tags, PS3.5 §7.1).
    pub fn is_past_sop_common(&self) -> bool {
        self.capture.past_sop_common
    }

    /// SOP Class and SOP Instance UID as far as they have come and are valid.
    pub fn sop_common(&self) -> (Option<Uid>, Option<Uid>) {
        (self.capture.uid(tags::SOP_CLASS_UID), self.capture.uid(tags::SOP_INSTANCE_UID))
    }

    /// The data set is complete.
    pub fn finish(self) -> Result<Header, ScanError> {
        self.tokenizer.finish()?;
        self.capture.into_header()
    }
}

/// All indexed values of a data set together, as they came; what comes behind them is not indexed, unless it
/// identifies the instance (LT is cut to what the standard allows it). A record of the log has room for many times that.
const VALUES_LIMIT: usize = 64 << 10;
/// No UID is longer (PS3.5 §9.1), padding included.
const UID_LIMIT: usize = 128;
/// PS3.5 §6.2: LT has 10240 characters at most.
const LONG_TEXT_CHARACTERS: usize = 10_240;

/// The values of indexed attributes at the top of the data set, raw: the character set may come
/// behind them. Of a repeated attribute the last one counts.
#[derive(Default)]
struct Capture {
    values: Vec<Captured>,
    /// Bytes of these.
    held: usize,
    capturing: bool,
    past_sop_common: bool,
    /// An identifying attribute came twice: which one holds is anybody's guess.
    ambiguous: Option<&'static str>,
}

struct Captured {
    key: u32,
    vr: VR,
    byte_order: ByteOrder,
    bytes: Vec<u8>,
    too_long: bool,
}

/// What identifies an instance; without it nothing can be stored.
const IDENTIFIERS: [(Tag, &str); 4] = [
    (tags::SOP_CLASS_UID, "SOPClassUID"),
    (tags::SOP_INSTANCE_UID, "SOPInstanceUID"),
    (tags::STUDY_INSTANCE_UID, "StudyInstanceUID"),
    (tags::SERIES_INSTANCE_UID, "SeriesInstanceUID"),
];

impl Sink for Capture {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Value(bytes) if self.capturing => self.append(bytes),
            Event::Element(element) if element.depth == 0 => self.begin(&element),
            Event::SequenceStart(element) if element.depth == 0 => self.pass(element.tag),
            Event::ElementEnd => self.capturing = false,
            _ => {}
        }
    }
}

impl Capture {
    fn begin(&mut self, element: &Element) {
        self.pass(element.tag);
        let key = key(element.tag);
        let Some(vr) = wanted(key) else { return };
        if let Some(earlier) = self.values.iter().position(|captured| captured.key == key) {
            let identifier = IDENTIFIERS.iter().find(|(tag, _)| *tag == element.tag);
            self.ambiguous = self.ambiguous.or(identifier.map(|(_, keyword)| *keyword));
            self.held -= self.values.swap_remove(earlier).bytes.len();
        }
        // What was written as UN is encoded as in Implicit VR Little Endian (PS3.5 §6.2.2).
        let (vr, byte_order) = match element.vr {
            VR::UN => (vr, ByteOrder::Little),
            written => (written, element.byte_order),
        };
        let bytes = Vec::with_capacity(element.length.unwrap_or(0).min(64) as usize);
        self.values.push(Captured { key, vr, byte_order, bytes, too_long: false });
        self.capturing = true;
    }

    fn pass(&mut self, tag: Tag) {
        self.past_sop_common |= tag > tags::SOP_INSTANCE_UID;
    }

    fn uid(&self, tag: Tag) -> Option<Uid> {
        let captured = self.values.iter().find(|captured| captured.key == key(tag))?;
        Uid::parse_bytes(&captured.bytes).ok()
    }

    fn append(&mut self, bytes: &[u8]) {
        let Some(captured) = self.values.last_mut() else { return };
        let is_identifier = IDENTIFIERS.iter().any(|(tag, _)| key(*tag) == captured.key);
        let room = match is_identifier {
            true => UID_LIMIT.saturating_sub(captured.bytes.len()),
            false => VALUES_LIMIT.saturating_sub(self.held),
        };
        captured.too_long |= bytes.len() > room;
        let taken = bytes.len().min(room);
        captured.bytes.extend_from_slice(&bytes[..taken]);
        self.held += taken;
    }

    fn into_header(self) -> Result<Header, ScanError> {
        if let Some(keyword) = self.ambiguous {
            return Err(ScanError::Identifier { keyword });
        }
        let charset = self.charset();
        let mut attributes = Attributes::default();
        for captured in &self.values {
            let tag = Tag((captured.key >> 16) as u16, captured.key as u16);
            if let Some(text) = captured.text(charset).filter(|_| tag != tags::SPECIFIC_CHARACTER_SET) {
                attributes.set(tag, text);
            }
        }
        let uid = |index: usize| {
            let (tag, keyword) = IDENTIFIERS[index];
            let uid = attributes.get(tag).and_then(|text| Uid::parse(text).ok());
            uid.ok_or(ScanError::Identifier { keyword })
        };
        let (sop_class_uid, sop_instance_uid) = (uid(0)?, uid(1)?);
        let (study_instance_uid, series_instance_uid) = (uid(2)?, uid(3)?);
        let key = InstanceKey { study_instance_uid, series_instance_uid, sop_instance_uid };
        Ok(Header { sop_class_uid, key, attributes })
    }

    fn charset(&self) -> Charset {
        let wanted = key(tags::SPECIFIC_CHARACTER_SET);
        let captured = self.values.iter().rev().find(|captured| captured.key == wanted);
        let value = captured.map(|captured| String::from_utf8_lossy(&captured.bytes));
        value.map(|value| Charset::parse(&value)).unwrap_or_default()
    }
}

impl Captured {
    /// The value as the index wants it; `None` when it can't have it.
    fn text(&self, charset: Charset) -> Option<String> {
        if self.too_long && self.vr != VR::LT {
            return None;
        }
        if let Some(numbers) = value::binary_numbers(self.vr, &self.bytes, self.byte_order) {
            return Some(numbers.join("\\"));
        }
        if value::is_binary(self.vr) {
            return None;
        }
        let mut text = value::text(self.vr, &self.bytes, charset);
        if self.vr == VR::LT
            && let Some((end, _)) = text.char_indices().nth(LONG_TEXT_CHARACTERS)
        {
            text.truncate(end);
        }
        Some(text)
    }
}

/// The dictionary VR of an attribute that is captured.
fn wanted(key: u32) -> Option<VR> {
    static WANTED: LazyLock<Vec<(u32, VR)>> = LazyLock::new(|| {
        let indexed = attributes::INDEXED.iter().map(|attribute| (self::key(attribute.tag), attribute.vr));
        let mut wanted: Vec<_> = indexed.chain([(self::key(tags::SPECIFIC_CHARACTER_SET), VR::CS)]).collect();
        wanted.sort_unstable_by_key(|(key, _)| *key);
        wanted
    });
    let index = WANTED.binary_search_by_key(&key, |(key, _)| *key).ok()?;
    Some(WANTED[index].1)
}

fn key(tag: Tag) -> u32 {
    u32::from(tag.group()) << 16 | u32::from(tag.element())
}
