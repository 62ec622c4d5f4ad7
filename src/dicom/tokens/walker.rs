//! The state machine over plain (inflated) bytes.

use dicom_core::{Tag, VR};

use super::element_header::{self, ByteOrder, ElementHeader, IMPLICIT_LITTLE, LOOK_AHEAD, Layout, Parsed};
use super::{Element, Event, ScanError, ScanLimits, Sink, is_pixel_data};
use crate::dicom::transfer_syntax::Encoding;

const ITEM: Tag = Tag(0xFFFE, 0xE000);
const ITEM_DELIMITATION: Tag = Tag(0xFFFE, 0xE00D);
const SEQUENCE_DELIMITATION: Tag = Tag(0xFFFE, 0xE0DD);

pub(super) struct Walker {
    limits: ScanLimits,
    layout: Layout,
    /// Pixel Data ends the walk, and all values count as bytes outside of them.
    deflated: bool,
    /// Bytes of the data set taken so far, those in `partial` not counted.
    position: u64,
    elements: u64,
    non_pixel_bytes: u64,
    sequences: usize,
    frames: Vec<Frame>,
    state: State,
    /// The beginning of an element header whose rest has not arrived.
    partial: [u8; LOOK_AHEAD],
    partial_length: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Header,
    Value {
        left: u32,
    },
    /// At Pixel Data of a deflated data set: nothing behind it is looked at.
    Stopped,
}

#[derive(Debug, Clone, Copy)]
struct Frame {
    kind: Kind,
    /// Its length is defined: it ends at `bound`, and delimiters don't end it.
    defined: bool,
    /// Where it, or else the innermost enclosing frame with a defined length, ends.
    bound: u64,
    layout: Layout,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Sequence,
    Item,
    Fragments,
}

impl Walker {
    pub fn new(encoding: Encoding, limits: ScanLimits) -> Self {
        let big = encoding == Encoding::ExplicitBigEndian;
        let layout = Layout {
            explicit_vr: encoding != Encoding::ImplicitLittleEndian,
            byte_order: if big { ByteOrder::Big } else { ByteOrder::Little },
        };
        Self {
            limits,
            layout,
            deflated: encoding == Encoding::DeflatedExplicitLittleEndian,
            position: 0,
            elements: 0,
            non_pixel_bytes: 0,
            sequences: 0,
            frames: Vec::new(),
            state: State::Header,
            partial: [0; LOOK_AHEAD],
            partial_length: 0,
        }
    }

    pub fn go_through_pixel_data(&mut self) {
        self.deflated = false;
    }

    pub fn push(&mut self, mut bytes: &[u8], sink: &mut impl Sink) -> Result<(), ScanError> {
        while !bytes.is_empty() {
            bytes = match self.state {
                State::Header => self.take_header(bytes, sink)?,
                State::Value { left } => self.take_value(left, bytes, sink),
                State::Stopped => return Ok(()),
            };
        }
        Ok(())
    }

    pub fn finish(&self) -> Result<(), ScanError> {
        match self.state {
            State::Stopped => Ok(()),
            State::Header if self.partial_length == 0 && self.frames.is_empty() => Ok(()),
            _ => Err(self.truncated()),
        }
    }

    /// Bytes that come next and are all of one value, or fragment.
    pub fn value_left(&self) -> u64 {
        match self.state {
            State::Value { left } => u64::from(left),
            State::Header | State::Stopped => 0,
        }
    }

    /// Goes on behind so many bytes of a value, which nobody is told of; at most `value_left`.
    pub fn pass_over(&mut self, bytes: u64, sink: &mut impl Sink) {
        let State::Value { left } = self.state else { return };
        let passed = u64::from(left).min(bytes);
        self.position += passed;
        self.begin_value(left - passed as u32, sink);
    }

    pub fn has_stopped(&self) -> bool {
        self.state == State::Stopped
    }

    pub fn truncated(&self) -> ScanError {
        ScanError::Truncated { at: self.position + self.partial_length as u64 }
    }

    pub fn malformed(&self, what: &'static str) -> ScanError {
        ScanError::Malformed { at: self.position, what }
    }

    fn take_value<'a>(&mut self, left: u32, bytes: &'a [u8], sink: &mut impl Sink) -> &'a [u8] {
        let taken = bytes.len().min(left as usize);
        let (value, rest) = bytes.split_at(taken);
        sink.event(Event::Value(value));
        self.position += taken as u64;
        self.begin_value(left - taken as u32, sink);
        rest
    }

    /// Expects `left` more bytes of value; none means that the element is complete.
    fn begin_value(&mut self, left: u32, sink: &mut impl Sink) {
        if left > 0 {
            self.state = State::Value { left };
            return;
        }
        self.state = State::Header;
        if self.top_kind() != Some(Kind::Fragments) {
            sink.event(Event::ElementEnd);
        }
        self.end_bounded_frames(sink);
    }

    fn take_header<'a>(&mut self, bytes: &'a [u8], sink: &mut impl Sink) -> Result<&'a [u8], ScanError> {
        let layout = self.layout_here();
        if self.partial_length == 0 {
            return match element_header::parse(bytes, layout) {
                Parsed::Header(header) => {
                    self.accept(header, sink)?;
                    Ok(&bytes[header.size..])
                }
                Parsed::Needs(size) => Ok(self.complete_partial(size, bytes)),
                Parsed::NoVr => Err(self.malformed("no value representation")),
            };
        }
        match element_header::parse(&self.partial[..self.partial_length], layout) {
            Parsed::Needs(size) => {
                let rest = self.complete_partial(size, bytes);
                self.accept_partial(layout, sink)?;
                Ok(rest)
            }
            Parsed::Header(_) | Parsed::NoVr => {
                self.accept_partial(layout, sink)?;
                Ok(bytes)
            }
        }
    }

    /// Moves bytes into `partial` until it holds `size`; gives back the rest.
    fn complete_partial<'a>(&mut self, size: usize, bytes: &'a [u8]) -> &'a [u8] {
        let taken = bytes.len().min(size - self.partial_length);
        let (head, rest) = bytes.split_at(taken);
        self.partial[self.partial_length..][..taken].copy_from_slice(head);
        self.partial_length += taken;
        rest
    }

    fn accept_partial(&mut self, layout: Layout, sink: &mut impl Sink) -> Result<(), ScanError> {
        match element_header::parse(&self.partial[..self.partial_length], layout) {
            Parsed::Needs(_) => Ok(()),
            Parsed::NoVr => Err(self.malformed("no value representation")),
            Parsed::Header(header) => {
                let looked_at = self.partial;
                let end = std::mem::take(&mut self.partial_length);
                self.accept(header, sink)?;
                // Four bytes at most: too short for a header, so this goes no deeper.
                self.push(&looked_at[header.size..end], sink)
            }
        }
    }

    fn accept(&mut self, header: ElementHeader, sink: &mut impl Sink) -> Result<(), ScanError> {
        self.elements += 1;
        if self.elements > self.limits.elements {
            return Err(ScanError::Limit { what: "elements", limit: self.limits.elements });
        }
        self.charge(header.size as u64)?;
        self.check_fit(&header)?;
        match header.tag {
            ITEM => self.accept_item(&header, sink),
            ITEM_DELIMITATION => self.accept_item_delimitation(&header, sink),
            SEQUENCE_DELIMITATION => self.accept_sequence_delimitation(&header, sink),
            _ => self.accept_element(&header, sink),
        }
    }

    fn charge(&mut self, bytes: u64) -> Result<(), ScanError> {
        self.non_pixel_bytes += bytes;
        let limit = self.limits.non_pixel_bytes;
        if self.non_pixel_bytes > limit {
            return Err(ScanError::Limit { what: "bytes outside pixel data", limit });
        }
        Ok(())
    }

    /// Header and value must end within the enclosing frames. A delimiter has no value, whatever
    /// stands in its length.
    fn check_fit(&self, header: &ElementHeader) -> Result<(), ScanError> {
        let delimiter = matches!(header.tag, ITEM_DELIMITATION | SEQUENCE_DELIMITATION);
        let length = if delimiter { 0 } else { u64::from(header.length.unwrap_or(0)) };
        if self.position + header.size as u64 + length > self.bound() {
            return Err(self.malformed("an element is longer than what contains it"));
        }
        Ok(())
    }

    fn accept_item(&mut self, header: &ElementHeader, sink: &mut impl Sink) -> Result<(), ScanError> {
        if self.top_kind() == Some(Kind::Fragments) {
            let Some(length) = header.length else {
                return Err(self.malformed("a fragment of undefined length"));
            };
            if self.deflated {
                self.charge(u64::from(length))?;
            }
            self.position += header.size as u64;
            sink.event(Event::Fragment { length });
            self.begin_value(length, sink);
            return Ok(());
        }
        // An item that nothing delimited ends where the next one begins.
        if self.top_is_undefined(Kind::Item) {
            self.pop(sink);
        }
        if self.top_kind() != Some(Kind::Sequence) {
            return Err(self.malformed("an item outside of a sequence"));
        }
        self.position += header.size as u64;
        sink.event(Event::ItemStart);
        self.push_frame(Kind::Item, header.length, self.layout_here());
        self.end_bounded_frames(sink);
        Ok(())
    }

    /// Where it ends nothing it is a stray, and passed over.
    fn accept_item_delimitation(
        &mut self,
        header: &ElementHeader,
        sink: &mut impl Sink,
    ) -> Result<(), ScanError> {
        if self.top_kind() == Some(Kind::Fragments) {
            return Err(self.malformed("an item delimitation among fragments"));
        }
        self.position += header.size as u64;
        if self.top_is_undefined(Kind::Item) {
            self.pop(sink);
        }
        self.end_bounded_frames(sink);
        Ok(())
    }

    /// Ends an item that was not delimited, too. Where it ends nothing it is passed over.
    fn accept_sequence_delimitation(
        &mut self,
        header: &ElementHeader,
        sink: &mut impl Sink,
    ) -> Result<(), ScanError> {
        self.position += header.size as u64;
        let parent_is_undefined =
            self.frames.len().checked_sub(2).is_some_and(|parent| !self.frames[parent].defined);
        if self.top_is_undefined(Kind::Item) && parent_is_undefined {
            self.pop(sink);
        }
        if self.top_is_undefined(Kind::Sequence) || self.top_kind() == Some(Kind::Fragments) {
            self.pop(sink);
        }
        self.end_bounded_frames(sink);
        Ok(())
    }

    fn accept_element(&mut self, header: &ElementHeader, sink: &mut impl Sink) -> Result<(), ScanError> {
        match header.tag.group() {
            0xFFFE => return Err(self.malformed("an unknown element of group FFFE")),
            0x0000 | 0x0002 => {
                return Err(self.malformed("an element of the command set or the file meta information"));
            }
            _ => {}
        }
        if matches!(self.top_kind(), Some(Kind::Sequence | Kind::Fragments)) {
            return Err(self.malformed("an element where an item must be"));
        }
        let element = Element {
            tag: header.tag,
            vr: header.vr,
            length: header.length,
            depth: self.sequences,
            byte_order: self.layout_here().byte_order,
            implicit_vr: header.implicit_vr,
        };
        if self.deflated && self.sequences == 0 && is_pixel_data(header.tag) {
            sink.event(Event::Element(element));
            self.state = State::Stopped;
            return Ok(());
        }
        match (header.vr, header.length) {
            (VR::SQ, _) => self.begin_sequence(header, element, self.layout_here(), sink),
            (_, Some(length)) => self.begin_element(header, element, length, sink),
            (_, None) => self.begin_undefined(header, element, sink),
        }
    }

    fn begin_element(
        &mut self,
        header: &ElementHeader,
        element: Element,
        length: u32,
        sink: &mut impl Sink,
    ) -> Result<(), ScanError> {
        if self.deflated || !(is_bulk(header.vr) || is_pixel_data(header.tag)) {
            self.charge(u64::from(length))?;
        }
        self.position += header.size as u64;
        sink.event(Event::Element(element));
        self.begin_value(length, sink);
        Ok(())
    }

    fn begin_undefined(
        &mut self,
        header: &ElementHeader,
        element: Element,
        sink: &mut impl Sink,
    ) -> Result<(), ScanError> {
        let encapsulated = is_pixel_data(header.tag) || (is_bulk(header.vr) && header.vr != VR::UN);
        if encapsulated {
            self.position += header.size as u64;
            sink.event(Event::FragmentsStart(element));
            self.push_frame(Kind::Fragments, None, self.layout_here());
            return Ok(());
        }
        match header.vr {
            // A sequence in Implicit VR Little Endian (PS3.5 §6.2.2), whatever surrounds it.
            VR::UN => self.begin_sequence(header, element, IMPLICIT_LITTLE, sink),
            // The dictionary may be newer than ours or older than the sender's.
            _ if header.implicit_vr => self.begin_sequence(header, element, IMPLICIT_LITTLE, sink),
            _ => Err(self.malformed("an undefined length where none can be")),
        }
    }

    fn begin_sequence(
        &mut self,
        header: &ElementHeader,
        element: Element,
        layout: Layout,
        sink: &mut impl Sink,
    ) -> Result<(), ScanError> {
        if self.sequences >= self.limits.depth {
            return Err(ScanError::Limit { what: "nested sequences", limit: self.limits.depth as u64 });
        }
        self.position += header.size as u64;
        sink.event(Event::SequenceStart(element));
        self.push_frame(Kind::Sequence, header.length, layout);
        self.sequences += 1;
        self.end_bounded_frames(sink);
        Ok(())
    }

    fn push_frame(&mut self, kind: Kind, length: Option<u32>, layout: Layout) {
        let bound = length.map_or_else(|| self.bound(), |length| self.position + u64::from(length));
        self.frames.push(Frame { kind, defined: length.is_some(), bound, layout });
    }

    /// Ends what ends here by a defined length, undelimited frames within included.
    fn end_bounded_frames(&mut self, sink: &mut impl Sink) {
        while self.bound() == self.position {
            self.pop(sink);
        }
    }

    fn pop(&mut self, sink: &mut impl Sink) {
        let Some(frame) = self.frames.pop() else { return };
        sink.event(match frame.kind {
            Kind::Sequence => {
                self.sequences -= 1;
                Event::SequenceEnd
            }
            Kind::Item => Event::ItemEnd,
            Kind::Fragments => Event::FragmentsEnd,
        });
    }

    fn bound(&self) -> u64 {
        self.frames.last().map_or(u64::MAX, |frame| frame.bound)
    }

    fn layout_here(&self) -> Layout {
        self.frames.last().map_or(self.layout, |frame| frame.layout)
    }

    fn top_kind(&self) -> Option<Kind> {
        self.frames.last().map(|frame| frame.kind)
    }

    fn top_is_undefined(&self, kind: Kind) -> bool {
        self.frames.last().is_some_and(|frame| frame.kind == kind && !frame.defined)
    }
}

/// Values that may be of any size: pixels, waveforms, documents, what a VR is not known of.
fn is_bulk(vr: VR) -> bool {
    matches!(vr, VR::OB | VR::OD | VR::OF | VR::OL | VR::OV | VR::OW | VR::UN)
}
