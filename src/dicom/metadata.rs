//! The metadata of an object (PS3.18 §10.4.1.1.2): its data set without bulk data, converted as
//! its bytes are read. Memory is bounded by the limit on what is not pixel data.

use dicom_core::dictionary::{DataDictionary, DataDictionaryEntry, VirtualVr};
use dicom_core::{Tag, VR};
use dicom_dictionary_std::{StandardDataDictionary, tags};

use super::charset::Charset;
use super::dataset::{Dataset, Value};
use super::tokens::{ByteOrder, Element, Event, Sink, Tokenizer, is_pixel_data};
use super::{ScanError, ScanLimits, TransferSyntax, value};

#[cfg(test)]
mod tests;

/// Push converter: give it the bytes of a data set, then finish it.
pub struct MetadataReader {
    tokenizer: Tokenizer,
    builder: Builder,
}

impl MetadataReader {
    /// Bulk data is said to be at `bulk_data_uri` and the path of its element: `/7FE00010`, or in
    /// the second item of a sequence `/54000100/2/54001010`.
    pub fn new(transfer_syntax: &TransferSyntax, limits: ScanLimits, bulk_data_uri: &str) -> Self {
        Self {
            tokenizer: Tokenizer::new(transfer_syntax, limits),
            builder: Builder::new(bulk_data_uri.trim_end_matches('/').to_owned()),
        }
    }

    /// Keeps nothing any more once that takes more than about `most` bytes, with the text that is made of it; how much it
    /// would be is still counted.
    pub fn within(mut self, most: u64) -> Self {
        self.builder.most = most;
        self
    }

    /// About the bytes of memory that the data set takes, with the text that is made of it.
    pub fn cost(&self) -> u64 {
        self.builder.cost
    }

    /// Takes the next bytes; an error is final.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), ScanError> {
        self.tokenizer.push(bytes, &mut self.builder)
    }

    /// Bytes that come next and that metadata has no use for: pixels, mostly.
    pub fn useless(&self) -> u64 {
        if self.builder.current.is_none() { self.tokenizer.value_left() } else { 0 }
    }

    /// Goes on behind bytes that were not read; at most `useless`.
    pub fn pass_over(&mut self, bytes: u64) {
        self.tokenizer.pass_over(bytes, &mut self.builder);
    }

    /// The data set is complete. Of a deflated one, what stands behind Pixel Data is left out.
    pub fn finish(self) -> Result<Dataset, ScanError> {
        self.tokenizer.finish()?;
        Ok(self.builder.finish())
    }
}

/// Binary values up to here are given inline, longer ones by reference.
const LONGEST_INLINE: u32 = 1 << 10;
/// Numbers take many times more room as text; longer values of them are bulk data, too.
const LONGEST_NUMBERS: u32 = 64 << 10;
/// Of text that may be given by reference (PS3.18 §F.2.6).
const LONGEST_TEXT: u32 = 1 << 20;

/// About the memory that these take, as JSON or XML too: an element or item, one of its values, a byte of text (which XML
/// may escape), a byte of a number in binary.
const ELEMENT: u64 = 384;
const VALUE: u64 = 64;
const TEXT_BYTE: u64 = 6;
const NUMBER_BYTE: u64 = 32;

struct Builder {
    bulk_data_uri: String,
    cost: u64,
    /// Of `cost`; beyond it nothing is kept.
    most: u64,
    /// The top of the data set, then by turns a sequence and the item in it.
    top: Item,
    frames: Vec<Frame>,
    current: Option<Current>,
    /// Pixel Representation says signed.
    signed: bool,
    /// Some text is not ASCII, or was declared not to be.
    utf8: bool,
}

#[derive(Default)]
struct Item {
    dataset: Dataset,
    charset: Charset,
}

struct Frame {
    tag: Tag,
    items: Vec<Dataset>,
    item: Option<Item>,
}

/// An element whose value is being gathered.
struct Current {
    element: Element,
    bytes: Vec<u8>,
}

impl Sink for Builder {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Element(element) => self.begin_element(element),
            Event::Value(bytes) => self.add_to_value(bytes),
            Event::ElementEnd => self.end_element(),
            Event::SequenceStart(element) => {
                self.spend(ELEMENT);
                self.frames.push(Frame { tag: element.tag, items: Vec::new(), item: None });
            }
            Event::ItemStart => self.begin_item(),
            Event::ItemEnd => self.end_item(),
            Event::SequenceEnd => self.end_sequence(),
            Event::FragmentsStart(element) => self.refer_to(&element),
            Event::Fragment { .. } | Event::FragmentsEnd => {}
        }
    }
}

impl Builder {
    fn new(bulk_data_uri: String) -> Self {
        Self {
            bulk_data_uri,
            cost: 0,
            most: u64::MAX,
            top: Item::default(),
            frames: Vec::new(),
            current: None,
            signed: false,
            utf8: false,
        }
    }

    fn begin_element(&mut self, element: Element) {
        // Group lengths (gggg,0000) are not in the model (PS3.18 §F.2.2).
        if element.tag.element() == 0 {
            return;
        }
        let length = element.length.unwrap_or(0);
        let longest = match element.vr {
            _ if is_pixel_data(element.tag) => 0,
            vr if value::is_binary(vr) => LONGEST_INLINE,
            vr if value::is_binary_number(vr) => LONGEST_NUMBERS,
            VR::DS | VR::IS => LONGEST_NUMBERS,
            VR::LT | VR::ST | VR::UC | VR::UT => LONGEST_TEXT,
            _ => u32::MAX,
        };
        if length > longest {
            return self.refer_to(&element);
        }
        self.spend(ELEMENT);
        self.current = Some(Current { element, bytes: Vec::new() });
    }

    fn add_to_value(&mut self, bytes: &[u8]) {
        let Some(current) = &self.current else { return };
        let values = memchr::memchr_iter(b'\\', bytes).count() as u64;
        let byte = if value::is_binary_number(current.element.vr) { NUMBER_BYTE } else { TEXT_BYTE };
        self.spend(bytes.len() as u64 * byte + values * VALUE);
        if self.is_over() {
            return;
        }
        if let Some(current) = &mut self.current {
            current.bytes.extend_from_slice(bytes);
        }
    }

    fn spend(&mut self, bytes: u64) {
        let was_within = !self.is_over();
        self.cost += bytes;
        if was_within && self.is_over() {
            self.top = Item::default();
            self.frames.iter_mut().for_each(|frame| (frame.items, frame.item) = (Vec::new(), None));
            self.current.iter_mut().for_each(|current| current.bytes = Vec::new());
        }
    }

    fn is_over(&self) -> bool {
        self.cost > self.most
    }

    fn refer_to(&mut self, element: &Element) {
        self.spend(ELEMENT + 2 * TEXT_BYTE * self.bulk_data_uri.len() as u64);
        if self.is_over() {
            return;
        }
        let mut uri = self.bulk_data_uri.clone();
        for frame in &self.frames {
            uri += &format!("/{}/{}", hex(frame.tag), frame.items.len() + 1);
        }
        uri += &format!("/{}", hex(element.tag));
        let vr = self.actual_vr(element);
        self.here().dataset.set_value(element.tag, vr, Value::BulkDataUri(uri));
    }

    fn end_element(&mut self) {
        let Some(Current { element, mut bytes }) = self.current.take() else { return };
        if self.is_over() {
            return;
        }
        if element.tag == tags::SPECIFIC_CHARACTER_SET {
            self.here().charset = Charset::parse(&String::from_utf8_lossy(&bytes));
            self.here().dataset.set(element.tag, VR::CS, "ISO_IR 192");
            return;
        }
        let vr = self.actual_vr(&element);
        if let Some(numbers) = value::binary_numbers(vr, &bytes, element.byte_order) {
            if element.tag == tags::PIXEL_REPRESENTATION {
                self.signed = numbers.first().is_some_and(|number| number == "1");
            }
            return self.here().dataset.set_value(element.tag, vr, Value::Text(numbers));
        }
        if value::is_binary(vr) {
            to_little_endian(vr, &mut bytes, element.byte_order);
            return self.here().dataset.set_value(element.tag, vr, Value::Inline(bytes));
        }
        let text = value::text(vr, &bytes, self.here().charset);
        self.utf8 |= !text.is_ascii();
        self.here().dataset.set(element.tag, vr, &text);
    }

    /// Where Implicit VR leaves US or SS open, Pixel Representation decides (PS3.5 §A.1).
    fn actual_vr(&self, element: &Element) -> VR {
        if !(self.signed && element.implicit_vr && element.vr == VR::US) {
            return element.vr;
        }
        match StandardDataDictionary.by_tag(element.tag).map(|entry| entry.vr()) {
            Some(VirtualVr::Xs) => VR::SS,
            _ => VR::US,
        }
    }

    fn begin_item(&mut self) {
        self.spend(ELEMENT);
        if self.is_over() {
            return;
        }
        // An item has the character set of what it is in, unless it names another (PS3.5 §7.5.3).
        let charset = self.here().charset;
        if let Some(frame) = self.frames.last_mut() {
            frame.item = Some(Item { dataset: Dataset::default(), charset });
        }
    }

    fn end_item(&mut self) {
        let Some(frame) = self.frames.last_mut() else { return };
        frame.items.extend(frame.item.take().map(|item| item.dataset));
    }

    fn end_sequence(&mut self) {
        let Some(frame) = self.frames.pop().filter(|_| self.cost <= self.most) else { return };
        self.here().dataset.set_sequence(frame.tag, frame.items);
    }

    /// The innermost open item, or the top.
    fn here(&mut self) -> &mut Item {
        let innermost = self.frames.iter_mut().rev().find_map(|frame| frame.item.as_mut());
        innermost.unwrap_or(&mut self.top)
    }

    /// Text is UTF-8 now, and says so where that makes a difference.
    fn finish(mut self) -> Dataset {
        if self.utf8 {
            self.top.dataset.set(tags::SPECIFIC_CHARACTER_SET, VR::CS, "ISO_IR 192");
        }
        self.top.dataset
    }
}

fn hex(tag: Tag) -> String {
    format!("{:04X}{:04X}", tag.group(), tag.element())
}

fn to_little_endian(vr: VR, bytes: &mut [u8], order: ByteOrder) {
    let width = match vr {
        _ if order == ByteOrder::Little => return,
        VR::OW => 2,
        VR::OF | VR::OL => 4,
        VR::OD | VR::OV => 8,
        _ => return,
    };
    bytes.chunks_exact_mut(width).for_each(<[u8]>::reverse);
}
