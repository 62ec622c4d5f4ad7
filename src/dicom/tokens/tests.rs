use std::io::Write;
use std::time::{Duration, Instant};

use super::*;

const IMPLICIT: &str = "1.2.840.10008.1.2";
const EXPLICIT: &str = "1.2.840.10008.1.2.1";
const BIG: &str = "1.2.840.10008.1.2.2";
const DEFLATED: &str = "1.2.840.10008.1.2.1.99";

const ITEM: &[u8] = b"\xFE\xFF\x00\xE0\xFF\xFF\xFF\xFF";
const ITEM_END: &[u8] = b"\xFE\xFF\x0D\xE0\0\0\0\0";
const SEQUENCE: &[u8] = b"\x08\0\x40\x11SQ\0\0\xFF\xFF\xFF\xFF";
const SEQUENCE_END: &[u8] = b"\xFE\xFF\xDD\xE0\0\0\0\0";

/// Writes the events down in one line: `00100010:PN=abc`, `[` and `]` around sequences, `(` and
/// `)` around items, `{` and `}` around fragments, `|` before each.
#[derive(Default)]
struct Transcript(String);

impl Sink for Transcript {
    fn event(&mut self, event: Event<'_>) {
        let tag = |element: Element| {
            format!("{:04X}{:04X}:{}", element.tag.group(), element.tag.element(), element.vr)
        };
        self.0 += &match event {
            Event::Element(element) => tag(element) + "=",
            Event::Value(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Event::ElementEnd => " ".to_owned(),
            Event::SequenceStart(element) => tag(element) + "[",
            Event::ItemStart => "(".to_owned(),
            Event::ItemEnd => ")".to_owned(),
            Event::SequenceEnd => "] ".to_owned(),
            Event::FragmentsStart(element) => tag(element) + "{",
            Event::Fragment { .. } => "|".to_owned(),
            Event::FragmentsEnd => "} ".to_owned(),
        };
    }
}

fn walk_by(syntax: &str, bytes: &[u8], chunk: usize) -> Result<String, ScanError> {
    let syntax = TransferSyntax::by_uid(syntax).unwrap();
    let mut tokenizer = Tokenizer::new(syntax, ScanLimits::default());
    let mut transcript = Transcript::default();
    for piece in bytes.chunks(chunk) {
        tokenizer.push(piece, &mut transcript)?;
    }
    tokenizer.finish()?;
    Ok(transcript.0.trim_end().to_owned())
}

fn walk(syntax: &str, parts: &[&[u8]]) -> Result<String, ScanError> {
    let bytes = parts.concat();
    let whole = walk_by(syntax, &bytes, bytes.len().max(1));
    for chunk in [1, 2, 3, 5, 11] {
        assert_eq!(walk_by(syntax, &bytes, chunk), whole, "by {chunk}");
    }
    whole
}

fn is_malformed(result: &Result<String, ScanError>) -> bool {
    matches!(result, Err(ScanError::Malformed { .. }))
}

fn is_truncated(result: &Result<String, ScanError>) -> bool {
    matches!(result, Err(ScanError::Truncated { .. }))
}

fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn elements_are_walked_in_every_encoding() {
    let explicit = b"\x10\0\x10\0PN\x04\0A^B \x28\0\x10\0US\x02\0\x34\x32\x09\0\x01\0OB\0\0\x02\0\0\0ab";
    let walked = "00100010:PN=A^B  00280010:US=42 00090001:OB=ab";
    assert_eq!(walk(EXPLICIT, &[explicit]).unwrap(), walked);
    assert_eq!(walk(DEFLATED, &[&deflate(explicit)]).unwrap(), walked);
    let big = b"\0\x10\0\x10PN\0\x04A^B \0\x28\0\x10US\0\x0242\0\x09\0\x01OB\0\0\0\0\0\x02ab";
    assert_eq!(walk(BIG, &[big]).unwrap(), walked);
    let implicit = b"\x10\0\x10\0\x04\0\0\0A^B \x28\0\x10\0\x02\0\0\0\x34\x32\x09\0\x01\x10\x02\0\0\0ab";
    assert_eq!(walk(IMPLICIT, &[implicit]).unwrap(), "00100010:PN=A^B  00280010:US=42 00091001:UN=ab");
    assert_eq!(walk(EXPLICIT, &[]).unwrap(), "");
}

#[test]
fn sequences_of_either_length_form_are_walked() {
    let undefined = [SEQUENCE, ITEM, b"\x08\0\x50\x11UI\x02\x001\0", ITEM_END, ITEM, ITEM_END, SEQUENCE_END];
    assert_eq!(walk(EXPLICIT, &undefined).unwrap(), "00081140:SQ[(00081150:UI=1\0 )()]");
    let defined =
        b"\x08\0\x40\x11SQ\0\0\x12\0\0\0\xFE\xFF\x00\xE0\x0A\0\0\0\x08\0\x50\x11UI\x02\x001\0\x10\0\x10\0PN\0\0";
    assert_eq!(walk(EXPLICIT, &[defined]).unwrap(), "00081140:SQ[(00081150:UI=1\0 )] 00100010:PN=");
    assert_eq!(walk(EXPLICIT, &[b"\x08\0\x40\x11SQ\0\0\0\0\0\0"]).unwrap(), "00081140:SQ[]");
    let implicit = b"\x08\0\x40\x11\x08\0\0\0\xFE\xFF\x00\xE0\0\0\0\0";
    assert_eq!(walk(IMPLICIT, &[implicit]).unwrap(), "00081140:SQ[()]");
}

#[test]
fn unknown_of_undefined_length_is_implicit_little_endian_inside() {
    let implicit_inside = b"\x08\0\x50\x11\x02\0\0\x001\0";
    let un = b"\x09\0\x01\x10UN\0\0\xFF\xFF\xFF\xFF";
    let parts = [un, ITEM, implicit_inside, ITEM_END, SEQUENCE_END, b"\x10\0\x10\0PN\0\0"];
    assert_eq!(walk(EXPLICIT, &parts).unwrap(), "00091001:UN[(00081150:UI=1\0 )] 00100010:PN=");
    let un = b"\0\x09\x10\x01UN\0\0\xFF\xFF\xFF\xFF";
    let parts = [un, ITEM, implicit_inside, ITEM_END, SEQUENCE_END, b"\0\x10\0\x10PN\0\0"];
    assert_eq!(walk(BIG, &parts).unwrap(), "00091001:UN[(00081150:UI=1\0 )] 00100010:PN=");
}

#[test]
fn unknown_of_defined_length_is_opaque() {
    let bytes = b"\x09\0\x01\x10UN\0\0\x08\0\0\0\xFE\xFF\x00\xE0junk";
    assert!(walk(EXPLICIT, &[bytes]).unwrap().ends_with("junk"));
}

#[test]
fn fragments_are_walked_whatever_their_offset_table_says() {
    let start = b"\xE0\x7F\x10\0OB\0\0\xFF\xFF\xFF\xFF";
    let table = b"\xFE\xFF\x00\xE0\x04\0\0\0ZZZZ";
    let fragment = b"\xFE\xFF\x00\xE0\x02\0\0\0ab";
    let after = b"\xFC\xFF\xFC\xFFOB\0\0\0\0\0\0";
    let walked = walk(EXPLICIT, &[start, table, fragment, fragment, SEQUENCE_END, after]).unwrap();
    assert_eq!(walked, "7FE00010:OB{|ZZZZ|ab|ab} FFFCFFFC:OB=");
    assert!(is_truncated(&walk(EXPLICIT, &[start, table, fragment])));
    assert!(is_malformed(&walk(EXPLICIT, &[start, table, b"\x10\0\x10\0PN\0\0"])));
    assert!(is_malformed(&walk(EXPLICIT, &[start, ITEM])));
}

#[test]
fn common_damage_is_walked() {
    // VRs unknown, future and unreadable; odd lengths; elements out of order.
    let bytes = b"\x10\0\x10\0??\x01\0A\x08\0\x60\0ZZ\0\0\x02\0\0\0CT\x08\0\x70\0  \x03\0abc";
    assert_eq!(walk(EXPLICIT, &[bytes]).unwrap(), "00100010:UN=A 00080060:UN=CT 00080070:UN=abc");
    // A private element in Implicit VR.
    let bytes = b"\x09\0\x01\x10\x04\0\0\0abcd\x10\0\x10\0PN\0\0";
    assert_eq!(walk(EXPLICIT, &[bytes]).unwrap(), "00091001:UN=abcd 00100010:PN=");
    // Delimiters missing, and too many.
    let missing = [SEQUENCE, ITEM, ITEM, SEQUENCE_END, SEQUENCE_END, ITEM_END];
    assert_eq!(walk(EXPLICIT, &missing).unwrap(), "00081140:SQ[()()]");
    // An item of undefined length that ends with its sequence of defined length.
    assert_eq!(
        walk(EXPLICIT, &[b"\x08\0\x40\x11SQ\0\0\x08\0\0\0", ITEM, b"\x10\0\x10\0PN\0\0"]).unwrap(),
        "00081140:SQ[()] 00100010:PN="
    );
    // In Implicit VR, what the dictionary takes for a sequence, but is none.
    let bytes = b"\x08\0\x40\x11\x08\0\0\0NOTANSEQ\x08\0\x40\x11\x02\0\0\0NO";
    assert_eq!(walk(IMPLICIT, &[bytes]).unwrap(), "00081140:UN=NOTANSEQ 00081140:UN=NO");
}

#[test]
fn a_sequence_too_short_for_an_item_is_none_whatever_stands_behind_it() {
    // Two bytes that begin an item's tag, and an element whose tag would end it.
    let bytes = b"\x40\x00\x75\x02\x02\x00\x00\x00\xFE\xFF\x00\xE0\x00\x00\x00\x00\x00\x00";
    let whole = walk_by(IMPLICIT, bytes, bytes.len()).unwrap();
    assert_eq!(walk_by(IMPLICIT, bytes, 1).unwrap(), whole);
}

#[test]
fn broken_structure_is_refused() {
    let too_long_in_item =
        b"\x08\0\x40\x11SQ\0\0\x12\0\0\0\xFE\xFF\x00\xE0\x0A\0\0\0\x08\0\x50\x11UI\x04\x001234";
    assert!(is_malformed(&walk(EXPLICIT, &[too_long_in_item])));
    let item_outside = [ITEM, ITEM_END];
    assert!(is_malformed(&walk(EXPLICIT, &item_outside)));
    assert!(is_malformed(&walk(EXPLICIT, &[SEQUENCE, b"\x10\0\x10\0PN\0\0"])));
    assert!(is_malformed(&walk(EXPLICIT, &[b"\x10\0\x10\0UT\0\0\xFF\xFF\xFF\xFF"])));
    for group in [0, 2] {
        assert!(is_malformed(&walk(EXPLICIT, &[&[group, 0, 0x10, 0], b"UI\0\0"])));
        assert!(is_malformed(&walk(IMPLICIT, &[&[group, 0, 0x10, 0], b"\0\0\0\0"])));
    }
    // Bytes of one syntax under another.
    assert!(is_malformed(&walk(EXPLICIT, &[b"\x08\0\x60\0\x02\0\0\0CT"])));
    assert!(walk(IMPLICIT, &[b"\x08\0\x60\0CS\x02\0CT"]).is_err());
    assert!(walk(DEFLATED, &[b"\x08\0\x60\0CS\x02\0CT"]).is_err());
}

#[test]
fn what_ends_early_is_truncated_wherever_it_ends() {
    let bytes = [SEQUENCE, ITEM, b"\x10\0\x10\0PN\x04\0A^B ", ITEM_END, SEQUENCE_END].concat();
    for end in 1..bytes.len() {
        assert!(is_truncated(&walk(EXPLICIT, &[&bytes[..end]])), "{end}");
    }
    let deflated = deflate(&bytes);
    for end in 0..deflated.len() {
        assert!(is_truncated(&walk(DEFLATED, &[&deflated[..end]])), "{end}");
    }
}

/// Runs a scan that must be cut short by a limit, and soon.
fn limited(syntax: &str, pieces: impl Iterator<Item = Vec<u8>>) -> &'static str {
    let started = Instant::now();
    let syntax = TransferSyntax::by_uid(syntax).unwrap();
    let mut tokenizer = Tokenizer::new(syntax, ScanLimits::default());
    let mut ignored = Ignore;
    for piece in pieces {
        match tokenizer.push(&piece, &mut ignored) {
            Ok(()) => {}
            Err(ScanError::Limit { what, .. }) => {
                assert!(started.elapsed() < Duration::from_secs(10));
                return what;
            }
            Err(other) => panic!("{other}"),
        }
    }
    panic!("no limit was met");
}

struct Ignore;

impl Sink for Ignore {
    fn event(&mut self, _event: Event<'_>) {}
}

#[test]
fn depth_bombs_meet_the_limit() {
    let level = [SEQUENCE, ITEM].concat();
    for depth in [65, 5_000, 200_000] {
        assert_eq!(limited(EXPLICIT, [level.repeat(depth)].into_iter()), "nested sequences");
    }
    let level = [b"\x08\0\x40\x11\xFF\xFF\xFF\xFF", ITEM].concat();
    assert_eq!(limited(IMPLICIT, [level.repeat(200_000)].into_iter()), "nested sequences");
    let level = [b"\x09\0\x40\x11UN\0\0\xFF\xFF\xFF\xFF", ITEM].concat();
    let inside = [b"\x09\0\x40\x11\xFF\xFF\xFF\xFF", ITEM].concat();
    assert_eq!(limited(EXPLICIT, [level, inside.repeat(5_000)].into_iter()), "nested sequences");
}

#[test]
fn sixty_four_levels_are_no_bomb() {
    let depth = ScanLimits::default().depth;
    let open = [SEQUENCE, ITEM].concat().repeat(depth);
    let close = [ITEM_END, SEQUENCE_END].concat().repeat(depth);
    assert!(walk(EXPLICIT, &[&open, &close]).is_ok());
}

#[test]
fn ten_million_tiny_elements_meet_the_limit() {
    let thousand = b"\x10\0\x10\0PN\0\0".repeat(1_000);
    assert_eq!(limited(EXPLICIT, (0..10_000).map(|_| thousand.clone())), "elements");
    let items = b"\xFE\xFF\x00\xE0\0\0\0\0".repeat(1_000);
    let pieces = std::iter::once(SEQUENCE.to_vec()).chain((0..10_000).map(|_| items.clone()));
    assert_eq!(limited(EXPLICIT, pieces), "elements");
}

#[test]
fn enormous_lengths_are_only_numbers() {
    let text = b"\x10\0\x10\0UT\0\0\xF0\xFF\xFF\xFFabc".to_vec();
    assert_eq!(limited(EXPLICIT, [text].into_iter()), "bytes outside pixel data");
    assert!(is_truncated(&walk(EXPLICIT, &[b"\xE0\x7F\x10\0OW\0\0\xF0\xFF\xFF\xFFabc"])));
    assert!(is_truncated(&walk(EXPLICIT, &[b"\x08\0\x40\x11SQ\0\0\xF0\xFF\xFF\xFF"])));
    assert!(is_truncated(&walk(IMPLICIT, &[b"\x09\0\x01\x10\xF0\xFF\xFF\xFF"])));
    let in_item = [SEQUENCE, b"\xFE\xFF\x00\xE0\x10\0\0\0\x09\0\x01\x10OB\0\0\xF0\xFF\xFF\xFF"];
    assert!(is_malformed(&walk(EXPLICIT, &in_item)));
}

#[test]
fn sequences_never_closed_are_refused() {
    assert!(is_truncated(&walk(EXPLICIT, &[SEQUENCE])));
    assert!(is_truncated(&walk(EXPLICIT, &[SEQUENCE, ITEM, b"\x10\0\x10\0PN\0\0"])));
    assert!(is_truncated(&walk(EXPLICIT, &[SEQUENCE, ITEM, ITEM_END])));
    assert!(is_truncated(&walk(IMPLICIT, &[b"\x09\0\x01\x10\xFF\xFF\xFF\xFF", ITEM, ITEM_END])));
}

#[test]
fn deflate_bombs_meet_the_limit_before_pixel_data_and_are_left_alone_behind_it() {
    let mut bomb = b"\x09\0\x01\x10OB\0\0\0\0\0\x08".to_vec();
    bomb.resize((128 << 20) + 12, 0);
    assert_eq!(limited(DEFLATED, [deflate(&bomb)].into_iter()), "bytes outside pixel data");
    let mut bomb = b"\x10\0\x10\0PN\0\0\xE0\x7F\x10\0OW\0\0\0\0\0\x08".to_vec();
    bomb.resize(128 << 20, 0);
    let started = Instant::now();
    let deflated = deflate(&bomb);
    let deflating = started.elapsed();
    assert_eq!(walk_by(DEFLATED, &deflated, 4096).unwrap(), "00100010:PN= 7FE00010:OW=");
    assert!(started.elapsed() < deflating + Duration::from_secs(1));
}

#[test]
fn a_deflate_stream_that_breaks_is_refused_unless_pixel_data_came_before() {
    let stored = |bytes: &[u8]| {
        let length = bytes.len() as u16;
        [&[0][..], &length.to_le_bytes(), &(!length).to_le_bytes(), bytes].concat()
    };
    let unknown_block = b"\x07";
    let name = b"\x10\0\x10\0PN\0\0";
    assert!(is_malformed(&walk(DEFLATED, &[&stored(name), unknown_block])));
    let pixels = b"\x10\0\x10\0PN\0\0\xE0\x7F\x10\0OW\0\0\0\0\0\x08";
    let walked = walk(DEFLATED, &[&stored(pixels), unknown_block]);
    assert_eq!(walked.unwrap(), "00100010:PN= 7FE00010:OW=");
}

#[test]
fn behind_a_deflate_stream_only_padding_or_a_gzip_trailer_can_be() {
    let stream = deflate(b"\x10\0\x10\0PN\0\0");
    assert!(walk(DEFLATED, &[&stream, b"\0"]).is_ok());
    assert!(walk(DEFLATED, &[&stream, b"CRC3SIZE\0"]).is_ok());
    assert!(is_malformed(&walk(DEFLATED, &[&stream, b"much more than that"])));
}
