//! The tokens of a data set (PS3.5 §7): a push tokenizer that walks elements, sequences and
//! fragments as the bytes arrive. The header scan, the metadata conversion and the comparison of data
//! sets are its users.
//!
//! It runs in constant memory, never recurses, never allocates from a declared length, and looks
//! into no value. What can be walked is taken, as odd as it may be; what leaves a boundary
//! unknowable is refused. It never guesses another encoding than the transfer syntax says.

use dicom_core::{Tag, VR};

use super::transfer_syntax::Encoding;
use super::{ScanError, ScanLimits, TransferSyntax};

mod element_header;
mod inflate;
#[cfg(test)]
mod tests;
mod walker;

use inflate::Inflater;
use walker::Walker;

pub use element_header::ByteOrder;

/// A data element as its header announces it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Element {
    pub tag: Tag,
    /// As written; in Implicit VR as the data dictionary has it. UN when unknown.
    pub vr: VR,
    /// `None`: undefined.
    pub length: Option<u32>,
    /// How many sequences it is in: 0 at the top.
    pub depth: usize,
    pub byte_order: ByteOrder,
    /// The VR is the data dictionary's, not the sender's.
    pub implicit_vr: bool,
}

/// What a data set consists of, in order. `Element`, its `Value`s (any number, none when empty)
/// and `ElementEnd` make up a plain element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    Element(Element),
    /// The next piece of the value, or of the fragment.
    Value(&'a [u8]),
    ElementEnd,
    SequenceStart(Element),
    ItemStart,
    ItemEnd,
    SequenceEnd,
    /// Encapsulated (PS3.5 §A.4). The first fragment is the basic offset table.
    FragmentsStart(Element),
    Fragment {
        length: u32,
    },
    FragmentsEnd,
}

/// Takes the events. It can't fail: what it makes of them is its own affair.
pub trait Sink {
    fn event(&mut self, event: Event<'_>);
}

/// Walks one data set.
pub struct Tokenizer {
    walker: Walker,
    inflater: Option<Inflater>,
}

impl Tokenizer {
    pub fn new(transfer_syntax: &TransferSyntax, limits: ScanLimits) -> Self {
        let deflated = transfer_syntax.encoding == Encoding::DeflatedExplicitLittleEndian;
        Self {
            walker: Walker::new(transfer_syntax.encoding, limits),
            inflater: deflated.then(Inflater::default),
        }
    }

    /// Walks a deflated data set beyond its Pixel Data, too, for those who bound what comes out.
    pub fn through_pixel_data(transfer_syntax: &TransferSyntax, limits: ScanLimits) -> Self {
        let mut tokenizer = Self::new(transfer_syntax, limits);
        tokenizer.walker.go_through_pixel_data();
        tokenizer
    }

    /// Takes the next bytes; an error is final.
    pub fn push(&mut self, bytes: &[u8], sink: &mut impl Sink) -> Result<(), ScanError> {
        match &mut self.inflater {
            None => self.walker.push(bytes, sink),
            Some(inflater) => inflater.push(bytes, &mut self.walker, sink),
        }
    }

    /// Bytes that come next and are all of one value, or fragment; of a deflated data set nobody knows.
    pub fn value_left(&self) -> u64 {
        if self.inflater.is_none() { self.walker.value_left() } else { 0 }
    }

    /// Goes on behind so many bytes of a value, which nobody is told of; at most `value_left`.
    pub fn pass_over(&mut self, bytes: u64, sink: &mut impl Sink) {
        self.walker.pass_over(bytes, sink);
    }

    /// The data set is complete.
    pub fn finish(&self) -> Result<(), ScanError> {
        if let Some(inflater) = &self.inflater {
            inflater.finish(&self.walker)?;
        }
        self.walker.finish()
    }
}

/// Pixel Data and its two floating-point kin (PS3.3 §C.7.6.24).
pub(crate) fn is_pixel_data(tag: Tag) -> bool {
    tag.group() == 0x7FE0 && matches!(tag.element(), 0x0008..=0x0010)
}
