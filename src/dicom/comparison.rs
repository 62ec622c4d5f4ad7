//! Whether two data sets in two transfer syntaxes are the same: element by element, in order, side
//! by side, without holding either. What cannot be known without decoding pixels, or without a VR
//! that was never written, is undecidable rather than equal.

use bytes::Bytes;
use dicom_core::{Tag, VR};

use super::TransferSyntax;
use super::tokens::{ByteOrder, Element};
use super::transfer_syntax::Encoding;

mod canonical;
#[cfg(test)]
mod tests;

use canonical::{Canonical, Stop, Token};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Comparison {
    Equal,
    /// At the first element that one lacks, or that has another value. Inside of a sequence it is
    /// the element there.
    Different(Tag),
    /// Why nobody can tell; nothing else that was compared differs.
    Undecidable(&'static str),
}

const ENCAPSULATED: &str = "encapsulated pixel data would have to be decoded";
const BIG_ENDIAN_UNKNOWN: &str = "big endian bytes of an unknown VR";
const UNKNOWN_SEQUENCE: &str = "a sequence in one of them is a value of unknown VR in the other";
const MALFORMED: &str = "one of them can't be walked to its end";
const BOTH_DEFLATED: &str = "both are deflated";

/// Compares what two readers give: each the next bytes of its data set, at most as many as asked
/// for, and none at the end. Where it says `Equal`, both were read to their ends.
///
/// Memory is bounded by the pieces. Time is bounded by the data set that is not deflated, beside
/// which the other is inflated only as far as they agree.
pub fn compare<E>(
    one: (&TransferSyntax, impl FnMut(usize) -> Result<Bytes, E>),
    other: (&TransferSyntax, impl FnMut(usize) -> Result<Bytes, E>),
) -> Result<Comparison, E> {
    let deflated = [one.0, other.0].map(|syntax| syntax.encoding == Encoding::DeflatedExplicitLittleEndian);
    if deflated == [true, true] {
        return Ok(Comparison::Undecidable(BOTH_DEFLATED));
    }
    let mut pair = Pair {
        one: Canonical::new(one.0, one.1),
        other: Canonical::new(other.0, other.1),
        skips_pixels: deflated == [false, false],
        undecided: None,
    };
    match pair.compare() {
        Ok(comparison) => Ok(comparison),
        Err(Stop::Malformed) => Ok(Comparison::Undecidable(MALFORMED)),
        Err(Stop::Unreadable(error)) => Err(error),
    }
}

struct Pair<A, B> {
    one: Canonical<A>,
    other: Canonical<B>,
    /// Native pixel data beside encapsulated ones may be passed over: it is no longer than it was
    /// sent.
    skips_pixels: bool,
    /// What remains open if nothing else differs.
    undecided: Option<&'static str>,
}

impl<A, B, E> Pair<A, B>
where
    A: FnMut(usize) -> Result<Bytes, E>,
    B: FnMut(usize) -> Result<Bytes, E>,
{
    fn compare(&mut self) -> Result<Comparison, Stop<E>> {
        // Where they are, for a difference between items.
        let mut at = Tag(0, 0);
        loop {
            let (one, other) = (self.one.next()?, self.other.next()?);
            let (one, other) = match (one, other) {
                (Some(one), Some(other)) => (one, other),
                (None, None) => {
                    return Ok(self.undecided.map_or(Comparison::Equal, Comparison::Undecidable));
                }
                (Some(more), None) | (None, Some(more)) => {
                    return Ok(Comparison::Different(tag_of(&more).unwrap_or(at)));
                }
            };
            if tag_of(&one) != tag_of(&other) {
                let first = [tag_of(&one), tag_of(&other)].into_iter().flatten().min();
                return Ok(Comparison::Different(first.unwrap_or(at)));
            }
            at = tag_of(&one).unwrap_or(at);
            if let Some(decided) = self.compare_at(at, one, other)? {
                return Ok(decided);
            }
        }
    }

    /// `Some` when it decides the whole.
    fn compare_at(&mut self, at: Tag, one: Token, other: Token) -> Result<Option<Comparison>, Stop<E>> {
        use Token::{Element, Encapsulated, ItemEnd, ItemStart, SequenceEnd, SequenceStart};
        match (one, other) {
            (Element(one), Element(other)) => self.compare_element(&one, &other),
            (SequenceStart(_), SequenceStart(_))
            | (ItemStart, ItemStart)
            | (ItemEnd, ItemEnd)
            | (SequenceEnd, SequenceEnd) => Ok(None),
            (SequenceStart(_), Element(value)) | (Element(value), SequenceStart(_))
                if value.vr == VR::UN || value.implicit_vr =>
            {
                Ok(Some(Comparison::Undecidable(UNKNOWN_SEQUENCE)))
            }
            (Encapsulated(_), _) | (_, Encapsulated(_)) if !self.skips_pixels => {
                Ok(Some(Comparison::Undecidable(ENCAPSULATED)))
            }
            (Encapsulated(_), Encapsulated(_)) => self.leave_open(ENCAPSULATED),
            (Encapsulated(_), Element(_)) => {
                while self.other.value()?.is_some() {}
                self.leave_open(ENCAPSULATED)
            }
            (Element(_), Encapsulated(_)) => {
                while self.one.value()?.is_some() {}
                self.leave_open(ENCAPSULATED)
            }
            _ => Ok(Some(Comparison::Different(at))),
        }
    }

    fn leave_open(&mut self, why: &'static str) -> Result<Option<Comparison>, Stop<E>> {
        self.undecided.get_or_insert(why);
        Ok(None)
    }

    fn compare_element(&mut self, one: &Element, other: &Element) -> Result<Option<Comparison>, Stop<E>> {
        let is_opaque = |element: &Element| {
            element.byte_order == ByteOrder::Big && element.vr == VR::UN && element.length != Some(0)
        };
        if is_opaque(one) || is_opaque(other) {
            return Ok(Some(Comparison::Undecidable(BIG_ENDIAN_UNKNOWN)));
        }
        let same = are_compatible(one, other) && self.have_same_value(padding_of(vr_of(one, other)))?;
        Ok((!same).then_some(Comparison::Different(one.tag)))
    }

    /// Whether the values agree, but for padding at the end. Reads both to their ends if they do.
    fn have_same_value(&mut self, padding: Option<u8>) -> Result<bool, Stop<E>> {
        let (mut one, mut other) = (Bytes::new(), Bytes::new());
        let (mut one_is_open, mut other_is_open) = (true, true);
        let is_padding = |bytes: &[u8]| padding.is_some_and(|pad| bytes.iter().all(|byte| *byte == pad));
        loop {
            if one.is_empty() && one_is_open {
                let next = self.one.value()?;
                one_is_open = next.is_some();
                one = next.unwrap_or_default();
            }
            if other.is_empty() && other_is_open {
                let next = self.other.value()?;
                other_is_open = next.is_some();
                other = next.unwrap_or_default();
            }
            match (one_is_open, other_is_open) {
                (false, false) => return Ok(true),
                (true, true) => {
                    let common = one.len().min(other.len());
                    if one.split_to(common) != other.split_to(common) {
                        return Ok(false);
                    }
                }
                (true, false) if is_padding(&one) => one.clear(),
                (false, true) if is_padding(&other) => other.clear(),
                _ => return Ok(false),
            }
        }
    }
}

fn tag_of(token: &Token) -> Option<Tag> {
    match token {
        Token::Element(element) | Token::SequenceStart(element) | Token::Encapsulated(element) => {
            Some(element.tag)
        }
        _ => None,
    }
}

/// Two senders' VRs must be one. UN says nothing (PS3.5 §6.2.2), the data dictionary's VR is no
/// sender's, and OB or OW is for the transfer syntax to choose (PS3.5 §A).
fn are_compatible(one: &Element, other: &Element) -> bool {
    let is_byte_or_word = |element: &Element| matches!(element.vr, VR::OB | VR::OW);
    let says_nothing = |element: &Element| element.implicit_vr || element.vr == VR::UN;
    one.vr == other.vr
        || says_nothing(one)
        || says_nothing(other)
        || (is_byte_or_word(one) && is_byte_or_word(other))
}

/// The VR that one of them wrote, else the data dictionary's.
fn vr_of(one: &Element, other: &Element) -> VR {
    let both = [one, other];
    let known = || both.into_iter().filter(|element| element.vr != VR::UN);
    let written = known().find(|element| !element.implicit_vr);
    written.or(known().next()).map_or(VR::UN, |element| element.vr)
}

/// PS3.5 §6.2: what may follow a value without meaning anything.
fn padding_of(vr: VR) -> Option<u8> {
    match vr {
        VR::AE | VR::AS | VR::CS | VR::DA | VR::DS | VR::DT | VR::IS | VR::LO => Some(b' '),
        VR::LT | VR::PN | VR::SH | VR::ST | VR::TM | VR::UC | VR::UR | VR::UT => Some(b' '),
        VR::UI => Some(0),
        _ => None,
    }
}
