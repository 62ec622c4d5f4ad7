//! Bulk data of one instance: what its metadata refers to instead of giving it (PS3.18
//! §10.4.1.1.5). Values go out as they are stored, in little endian as application/octet-stream
//! demands. Encapsulated pixel data are not octets of one value: they are asked for by frame, or
//! with the instance.

use bytes::{Bytes, BytesMut};
use dicom_core::{Tag, VR};
use poem::Response;
use poem::http::{Method, StatusCode, header};

use super::accept::{self, Offer};
use super::metadata::{scan_limits, syntax_of};
use super::multipart::Framing;
use super::resource::{ReadError, Resource, same, sound};
use crate::dicom::tokens::{ByteOrder, Element, Event, Sink, Tokenizer, is_pixel_data};
use crate::dicom::transfer_syntax::Encoding;
use crate::http::body::{BodySink, streamed};
use crate::http::error::ApiError;
use crate::http::router::Call;
use crate::spool::{CheckBy, ObjectReader};

const OCTETS: Offer = Offer { kind: "application", subtype: "octet-stream", related: None };
const OCTET_PARTS: Offer =
    Offer { kind: "multipart", subtype: "related", related: Some("application/octet-stream") };

const CHUNK: usize = 64 * 1024;

/// `GET …/instances/{instance}/bulkdata/{path}`, as metadata writes it: `7FE00010`, or in the
/// second item of a sequence `54000100/2/54001010`.
pub async fn retrieve(call: Call) -> Result<Response, ApiError> {
    let representation = accept::choose(&accept::ranges(&call.request), &[OCTETS, OCTET_PARTS])?;
    let path = Path::parse(call.request.raw_path_param("path").unwrap_or_default())
        .ok_or_else(|| ApiError::bad_request("BAD_PATH", "The path names no element."))?;
    let survey = Resource::of(&call)?.survey(&call.state.index, |_| true).await?;
    let located = survey.first.rows.first().ok_or_else(ApiError::not_found)?;
    sound(&call.state.spool, located)?;
    let syntax = syntax_of(located);
    let object = same(call.state.spool.open(located.entry, CheckBy::Crc32c).await, located)?;
    let mut extraction = Extraction {
        at: u64::from(object.entry.prefix_length),
        object,
        is_deflated: syntax.encoding == Encoding::DeflatedExplicitLittleEndian,
        tokenizer: Tokenizer::new(&syntax, scan_limits(&call.state)),
        finder: Finder::new(path),
    };
    extraction.find().await?;

    let framing = (representation == OCTET_PARTS).then(Framing::new);
    let content_type = match &framing {
        Some(framing) => framing.content_type("application/octet-stream"),
        None => "application/octet-stream".to_owned(),
    };
    let mut response = Response::builder()
        .status(StatusCode::OK)
        .content_type(content_type)
        .header(header::VARY, "Accept")
        .finish();
    if call.request.method() != Method::HEAD {
        response.set_body(streamed(call.state.limits.http_stall, move |sink| async move {
            extraction.send(framing, &sink).await;
        }));
    }
    Ok(response)
}

/// Sequences and their items from the top, then the element.
struct Path {
    within: Vec<(Tag, usize)>,
    element: Tag,
}

impl Path {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('/');
        let mut element = tag(parts.next()?)?;
        let mut within = Vec::new();
        while let Some(item) = parts.next() {
            within.push((element, item.parse().ok()?));
            element = tag(parts.next()?)?;
        }
        Some(Self { within, element })
    }
}

fn tag(text: &str) -> Option<Tag> {
    if text.len() != 8 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let number = u32::from_str_radix(text, 16).ok()?;
    Some(Tag((number >> 16) as u16, number as u16))
}

/// Follows the tokens until the element, then gathers its value piece by piece.
struct Finder {
    path: Path,
    /// Open sequences, each with the number of its present item.
    open: Vec<(Tag, usize)>,
    found: Option<Found>,
    /// Bytes of the value that no one has taken yet.
    value: BytesMut,
    ended: bool,
}

enum Found {
    Value(Element),
    Fragments,
}

impl Finder {
    fn new(path: Path) -> Self {
        Self { path, open: Vec::new(), found: None, value: BytesMut::new(), ended: false }
    }

    fn is_here(&self, element: &Element) -> bool {
        self.found.is_none() && element.tag == self.path.element && self.open == self.path.within
    }

    fn is_gathering(&self) -> bool {
        matches!(self.found, Some(Found::Value(_))) && !self.ended
    }

    /// What came so far, in whole units of the value's VR unless it has ended.
    fn take(&mut self) -> Bytes {
        let Some(Found::Value(element)) = &self.found else { return Bytes::new() };
        let width = if element.byte_order == ByteOrder::Big { width(element.vr) } else { 1 };
        let whole = if self.ended { self.value.len() } else { self.value.len() / width * width };
        let mut value = self.value.split_to(whole);
        if width > 1 {
            value.chunks_exact_mut(width).for_each(<[u8]>::reverse);
        }
        value.freeze()
    }
}

impl Sink for Finder {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Element(element) if self.is_here(&element) => self.found = Some(Found::Value(element)),
            Event::FragmentsStart(element) if self.is_here(&element) => self.found = Some(Found::Fragments),
            Event::Value(bytes) if self.is_gathering() => self.value.extend_from_slice(bytes),
            Event::ElementEnd if self.is_gathering() => self.ended = true,
            Event::SequenceStart(element) => self.open.push((element.tag, 0)),
            Event::SequenceEnd => {
                self.open.pop();
            }
            Event::ItemStart => {
                if let Some((_, item)) = self.open.last_mut() {
                    *item += 1;
                }
            }
            _ => {}
        }
    }
}

/// Bytes that belong together when byte order matters.
fn width(vr: VR) -> usize {
    match vr {
        VR::OW | VR::US | VR::SS | VR::AT => 2,
        VR::OF | VR::OL | VR::FL | VR::UL | VR::SL => 4,
        VR::OD | VR::OV | VR::FD | VR::UV | VR::SV => 8,
        _ => 1,
    }
}

/// An object being read for one of its values.
struct Extraction {
    object: ObjectReader,
    at: u64,
    is_deflated: bool,
    tokenizer: Tokenizer,
    finder: Finder,
}

impl Extraction {
    /// Reads on until the element's first bytes.
    async fn find(&mut self) -> Result<(), ApiError> {
        while self.finder.found.is_none() {
            match self.step().await {
                Ok(true) => {}
                Ok(false) => return Err(ApiError::not_found()),
                Err(error) => return Err(error.answer(self.object.entry.id)),
            }
        }
        match &self.finder.found {
            // A deflated data set is not inflated beyond the beginning of its pixel data.
            Some(Found::Value(element)) if !(self.is_deflated && is_pixel_data(element.tag)) => Ok(()),
            _ => Err(ApiError::not_acceptable(
                "These pixel data are compressed; retrieve the instance with transfer-syntax=*.",
            )),
        }
    }

    /// The next piece of the object; false at its end.
    async fn step(&mut self) -> Result<bool, ReadError> {
        if self.at >= self.object.len() {
            return Ok(false);
        }
        let chunk = self.object.read_at(self.at, CHUNK).await?;
        self.at += chunk.len() as u64;
        self.tokenizer.push(&chunk, &mut self.finder)?;
        Ok(true)
    }

    async fn send(mut self, framing: Option<Framing>, sink: &BodySink) {
        if let Some(framing) = &framing
            && sink.send(framing.open("Content-Type: application/octet-stream\r\n")).await.is_err()
        {
            return;
        }
        loop {
            let piece = self.finder.take();
            if !piece.is_empty() && sink.send(piece).await.is_err() {
                return;
            }
            if self.finder.ended {
                break;
            }
            match self.step().await {
                Ok(true) => {}
                Ok(false) => return sink.fail("the value is incomplete").await,
                Err(error) => {
                    error.answer(self.object.entry.id);
                    return sink.fail("the value can't be read").await;
                }
            }
        }
        if let Some(framing) = &framing {
            let _ = sink.send(framing.close()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_items_from_one() {
        let path = Path::parse("54000100/2/54001010").unwrap();
        assert_eq!(path.within, [(Tag(0x5400, 0x0100), 2)]);
        assert_eq!(path.element, Tag(0x5400, 0x1010));
        for bad in ["", "PixelData", "7FE00010/", "7FE00010/1", "7FE00010/x/00100010", "7FE0001"] {
            assert!(Path::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn big_endian_words_are_turned_round_across_pieces() {
        let mut finder = Finder::new(Path::parse("7FE00010").unwrap());
        let element = Element {
            tag: Tag(0x7FE0, 0x0010),
            vr: VR::OW,
            length: Some(4),
            depth: 0,
            byte_order: ByteOrder::Big,
            implicit_vr: false,
        };
        finder.event(Event::Element(element));
        finder.event(Event::Value(&[1, 2, 3]));
        assert_eq!(&finder.take()[..], [2, 1]);
        finder.event(Event::Value(&[4]));
        finder.event(Event::ElementEnd);
        assert_eq!(&finder.take()[..], [4, 3]);
    }
}
