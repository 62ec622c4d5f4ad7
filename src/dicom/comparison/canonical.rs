//! One of two data sets to be compared: pulled in pieces, and freed of what its transfer syntax
//! alone decides: lengths of sequences and items, group lengths, byte order, deflation.

use std::collections::VecDeque;

use bytes::Bytes;
use dicom_core::VR;

use crate::dicom::tokens::{ByteOrder, Element, Event, Sink, Tokenizer};
use crate::dicom::transfer_syntax::Encoding;
use crate::dicom::{ScanLimits, TransferSyntax};

/// Wider than what ingest takes, as configured: they bound what a deflated data set hides behind
/// its Pixel Data, where ingest does not look.
const LIMITS: ScanLimits = ScanLimits { depth: 1024, elements: 10_000_000, non_pixel_bytes: 1 << 30 };
/// Bytes read at a time; all that is made of a piece waits in memory.
const PIECE: usize = 64 << 10;
/// Deflate makes a thousand bytes of one at most.
const DEFLATED_PIECE: usize = 1 << 10;

/// What an element, sequence or item is without its encoding.
pub(super) enum Token {
    Element(Element),
    /// The next piece of the value, little endian.
    Value(Bytes),
    ElementEnd,
    SequenceStart(Element),
    ItemStart,
    ItemEnd,
    SequenceEnd,
    /// Encapsulated pixel data (PS3.5 §A.4); its fragments are left out.
    Encapsulated(Element),
}

/// Why the tokens of a data set end early.
pub(super) enum Stop<E> {
    /// Its bytes can't be read.
    Unreadable(E),
    /// It can't be walked.
    Malformed,
}

/// `read` gives the next bytes, at most as many as asked for, and none at the end.
pub(super) struct Canonical<R> {
    read: R,
    piece: usize,
    tokenizer: Tokenizer,
    normalizer: Normalizer,
    has_ended: bool,
}

impl<R, E> Canonical<R>
where
    R: FnMut(usize) -> Result<Bytes, E>,
{
    pub fn new(transfer_syntax: &TransferSyntax, read: R) -> Self {
        let deflated = transfer_syntax.encoding == Encoding::DeflatedExplicitLittleEndian;
        Self {
            read,
            piece: if deflated { DEFLATED_PIECE } else { PIECE },
            tokenizer: Tokenizer::through_pixel_data(transfer_syntax, LIMITS),
            normalizer: Normalizer::default(),
            has_ended: false,
        }
    }

    /// `None` behind the last one, when every byte was read.
    pub fn next(&mut self) -> Result<Option<Token>, Stop<E>> {
        loop {
            if let Some(token) = self.normalizer.tokens.pop_front() {
                return Ok(Some(token));
            }
            if self.has_ended {
                return Ok(None);
            }
            let bytes = (self.read)(self.piece).map_err(Stop::Unreadable)?;
            self.has_ended = bytes.is_empty();
            let walked = match self.has_ended {
                true => self.tokenizer.finish(),
                false => self.tokenizer.push(&bytes, &mut self.normalizer),
            };
            walked.map_err(|_| Stop::Malformed)?;
        }
    }

    /// The next piece of the element's value; `None` behind its last.
    pub fn value(&mut self) -> Result<Option<Bytes>, Stop<E>> {
        Ok(match self.next()? {
            Some(Token::Value(bytes)) => Some(bytes),
            _ => None,
        })
    }
}

#[derive(Default)]
struct Normalizer {
    tokens: VecDeque<Token>,
    /// Inside of what is no part of the comparison.
    skips: bool,
    /// Bytes in one number of the value, where they must be turned around.
    swap: Option<usize>,
    /// The beginning of a number whose rest has not come.
    partial: Vec<u8>,
}

impl Sink for Normalizer {
    fn event(&mut self, event: Event<'_>) {
        let token = match event {
            Event::Element(element) => {
                self.skips = is_group_length(&element);
                self.swap = swapped_width(&element);
                Token::Element(element)
            }
            Event::Value(bytes) => {
                if self.skips {
                    return;
                }
                let value = self.little_endian(bytes);
                if value.is_empty() {
                    return;
                }
                Token::Value(value)
            }
            Event::ElementEnd => {
                if std::mem::take(&mut self.skips) {
                    return;
                }
                if !self.partial.is_empty() {
                    self.tokens.push_back(Token::Value(std::mem::take(&mut self.partial).into()));
                }
                Token::ElementEnd
            }
            Event::SequenceStart(element) => Token::SequenceStart(element),
            Event::ItemStart => Token::ItemStart,
            Event::ItemEnd => Token::ItemEnd,
            Event::SequenceEnd => Token::SequenceEnd,
            Event::FragmentsStart(element) => {
                self.tokens.push_back(Token::Encapsulated(element));
                self.skips = true;
                return;
            }
            Event::Fragment { .. } => return,
            Event::FragmentsEnd => {
                self.skips = false;
                return;
            }
        };
        if !self.skips {
            self.tokens.push_back(token);
        }
    }
}

impl Normalizer {
    fn little_endian(&mut self, bytes: &[u8]) -> Bytes {
        let Some(width) = self.swap else { return Bytes::copy_from_slice(bytes) };
        let mut value = std::mem::take(&mut self.partial);
        value.extend_from_slice(bytes);
        self.partial = value.split_off(value.len() - value.len() % width);
        value.chunks_exact_mut(width).for_each(<[u8]>::reverse);
        value.into()
    }
}

/// (gggg,0000), retired (PS3.5 §7.2): the bytes that the group takes in this encoding.
fn is_group_length(element: &Element) -> bool {
    element.tag.element() == 0 && element.length == Some(4)
}

/// PS3.5 §7.3: what consists of numbers of several bytes.
fn swapped_width(element: &Element) -> Option<usize> {
    if element.byte_order == ByteOrder::Little {
        return None;
    }
    match element.vr {
        VR::AT | VR::OW | VR::SS | VR::US => Some(2),
        VR::FL | VR::OF | VR::OL | VR::SL | VR::UL => Some(4),
        VR::FD | VR::OD | VR::OV | VR::SV | VR::UV => Some(8),
        _ => None,
    }
}
