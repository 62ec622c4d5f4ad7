//! A small data set as a value: what HTTP answers with, rendered by `json` or `xml`. It holds text
//! in UTF-8, never pixel data. Not for ingest, which keeps bytes.

use std::collections::BTreeMap;

use dicom_core::{Tag, VR};

use super::Attribute;
use super::charset::Delimiters;

/// Elements in tag order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Dataset(BTreeMap<(u16, u16), Element>);

#[derive(Debug, Clone, PartialEq)]
pub struct Element {
    pub vr: VR,
    pub value: Value,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Values of text and number VRs as text: numbers in decimal, AT in eight hexadecimal digits,
    /// name groups joined by `=`. None: the element is empty.
    Text(Vec<String>),
    Sequence(Vec<Dataset>),
    /// Binary, in little endian.
    Inline(Vec<u8>),
    /// Where the value is to be had.
    BulkDataUri(String),
}

impl Dataset {
    /// Sets an element; of text VRs with several values they are joined by `\`, as in the index.
    pub fn set(&mut self, tag: Tag, vr: VR, text: &str) {
        let values = match Delimiters::of(vr) {
            _ if text.is_empty() => Vec::new(),
            Delimiters::None => vec![text.to_owned()],
            _ => text.split('\\').map(str::to_owned).collect(),
        };
        self.set_value(tag, vr, Value::Text(values));
    }

    pub fn set_attribute(&mut self, attribute: &Attribute, text: &str) {
        self.set(attribute.tag, attribute.vr, text);
    }

    pub fn set_sequence(&mut self, tag: Tag, items: Vec<Dataset>) {
        self.set_value(tag, VR::SQ, Value::Sequence(items));
    }

    pub fn set_value(&mut self, tag: Tag, vr: VR, value: Value) {
        self.0.insert((tag.group(), tag.element()), Element { vr, value });
    }

    pub fn get(&self, tag: Tag) -> Option<&Element> {
        self.0.get(&(tag.group(), tag.element()))
    }

    pub fn iter(&self) -> impl Iterator<Item = (Tag, &Element)> {
        self.0.iter().map(|((group, element), value)| (Tag(*group, *element), value))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first text value of an element.
    pub fn text(&self, tag: Tag) -> Option<&str> {
        match &self.get(tag)?.value {
            Value::Text(values) => values.first().map(String::as_str),
            _ => None,
        }
    }
}
