//! The header scan and the tokens under it, in every transfer syntax.

use dicom_core::Tag;
use relaypacs::dicom::tokens::{Event, Sink, Tokenizer};
use relaypacs::dicom::{Attributes, Header, HeaderScanner, ScanError, ScanLimits};

use super::data_set::{LIMITS, Sent, seeds as data_sets};
use super::{begins_with, same_in_all_chunks};

const SOP_INSTANCE_UID: Tag = Tag(0x0008, 0x0018);

pub fn run(data: &[u8]) {
    let sent = Sent::of(data);
    let header = same_in_all_chunks(sent.chunks, sent.bytes.len(), |chunk| scan(&sent, LIMITS, chunk));
    if let Ok(header) = &header {
        check(header);
    }
    if let Err(ScanError::Truncated { at } | ScanError::Malformed { at, .. }) = header
        && !sent.is_deflated()
    {
        assert!(at <= sent.bytes.len() as u64, "an error at {at}, behind the end");
    }
    if let (Ok(narrow), wide) = (&header, scan(&sent, ScanLimits::default(), usize::MAX)) {
        assert_eq!(wide.as_ref(), Ok(narrow), "limits that are not met change nothing");
    }
    let walked = same_in_all_chunks(sent.chunks, sent.bytes.len(), |chunk| walk(&sent, chunk));
    if header.is_ok() {
        assert!(walked.is_ok(), "the scan took what can't be walked");
    }
}

fn scan(sent: &Sent, limits: ScanLimits, chunk: usize) -> Result<Header, ScanError> {
    let mut scanner = HeaderScanner::new(sent.syntax, limits);
    for piece in sent.bytes.chunks(chunk) {
        scanner.push(piece).map_err(|error| sent.told(error))?;
    }
    scanner.finish().map_err(|error| sent.told(error))
}

fn check(header: &Header) {
    let uid = header.key.sop_instance_uid.as_str();
    assert_eq!(
        header.attributes.get(SOP_INSTANCE_UID).map(|text| text.trim_end_matches(['\0', ' '])),
        Some(uid)
    );
    let written = serde_json::to_string(&header.attributes).expect("text is JSON");
    let read: Attributes = serde_json::from_str(&written).expect("what we wrote");
    assert_eq!(read, header.attributes, "the log gives back what was read");
}

/// What events must add up to.
#[derive(Debug, Default, PartialEq)]
struct Ledger {
    frames: Vec<Frame>,
    /// What is missing of the value that began.
    missing: Option<u32>,
    values: u64,
    events: u64,
}

#[derive(Debug, PartialEq, Clone, Copy)]
enum Frame {
    Sequence,
    Item,
    Fragments,
}

impl Sink for Ledger {
    fn event(&mut self, event: Event<'_>) {
        let depth = self.frames.iter().filter(|frame| **frame == Frame::Sequence).count();
        if !matches!(event, Event::Value(_)) {
            self.events += 1;
        }
        match event {
            Event::Element(element) => {
                assert_eq!(self.missing, None, "an element within a value");
                assert_eq!(element.depth, depth);
                assert_ne!(self.frames.last(), Some(&Frame::Sequence));
                self.missing = element.length;
            }
            Event::Value(bytes) => {
                let missing = self.missing.expect("a value of nothing");
                assert!(bytes.len() as u64 <= u64::from(missing), "more value than was announced");
                super::plant(|| begins_with(bytes, b"PLNT"));
                self.missing = Some(missing - bytes.len() as u32);
                self.values += bytes.len() as u64;
            }
            Event::ElementEnd => assert_eq!(self.missing.take(), Some(0), "an element ends too soon"),
            Event::SequenceStart(element) => {
                assert_eq!((self.missing, element.depth), (None, depth));
                self.frames.push(Frame::Sequence);
                assert!(depth < LIMITS.depth, "deeper than the limit");
            }
            Event::ItemStart => {
                assert_eq!(self.frames.last(), Some(&Frame::Sequence));
                self.frames.push(Frame::Item);
            }
            Event::ItemEnd => assert_eq!(self.frames.pop(), Some(Frame::Item)),
            Event::SequenceEnd => assert_eq!(self.frames.pop(), Some(Frame::Sequence)),
            Event::FragmentsStart(_) => self.frames.push(Frame::Fragments),
            Event::Fragment { length } => {
                assert!(matches!(self.missing, None | Some(0)), "a fragment within another");
                assert_eq!(self.frames.last(), Some(&Frame::Fragments));
                self.missing = Some(length);
            }
            Event::FragmentsEnd => {
                assert!(matches!(self.missing.take(), None | Some(0)), "fragments end too soon");
                assert_eq!(self.frames.pop(), Some(Frame::Fragments));
            }
        }
    }
}

/// The events of the walk; `Err` where it ends in an error.
fn walk(sent: &Sent, chunk: usize) -> Result<(u64, u64), ScanError> {
    let mut ledger = Ledger::default();
    let mut tokenizer = Tokenizer::new(sent.syntax, LIMITS);
    for piece in sent.bytes.chunks(chunk) {
        tokenizer.push(piece, &mut ledger).map_err(|error| sent.told(error))?;
        if !sent.is_deflated() {
            assert!(ledger.values <= sent.bytes.len() as u64, "values out of nothing");
        }
    }
    assert!(ledger.events <= 3 * LIMITS.elements + 3, "{} events", ledger.events);
    tokenizer.finish().map_err(|error| sent.told(error))?;
    if !sent.is_deflated() {
        assert!(ledger.frames.is_empty(), "finished with {:?} open", ledger.frames);
    }
    Ok((ledger.events, ledger.values))
}

pub fn seeds() -> Vec<Vec<u8>> {
    data_sets()
}
