use std::convert::Infallible;
use std::io::Write;

use super::*;
use crate::dicom::transfer_syntax::{
    DEFLATED_EXPLICIT, EXPLICIT_BIG_ENDIAN, EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN,
};

const NATIVE: [&str; 4] =
    [IMPLICIT_LITTLE_ENDIAN, EXPLICIT_LITTLE_ENDIAN, EXPLICIT_BIG_ENDIAN, DEFLATED_EXPLICIT];
const JPEG: &str = "1.2.840.10008.1.2.4.70";
const JPEG_LS: &str = "1.2.840.10008.1.2.4.80";
const JPIP_DEFLATED: &str = "1.2.840.10008.1.2.4.95";

/// An element to be written in any encoding. Values are little endian.
#[derive(Clone)]
enum Part {
    Value(u32, &'static str, Vec<u8>),
    Sequence(u32, Vec<Vec<Part>>),
    /// Items after the basic offset table.
    Fragments(Vec<u8>),
}

use Part::{Fragments, Sequence, Value};

fn text(tag: u32, vr: &'static str, value: &str) -> Part {
    Value(tag, vr, value.as_bytes().to_vec())
}

struct Encoder {
    syntax: &'static str,
    /// Sequences and items say how long they are.
    defined: bool,
}

impl Encoder {
    fn order<const N: usize>(&self, mut bytes: [u8; N]) -> [u8; N] {
        if self.syntax == EXPLICIT_BIG_ENDIAN {
            bytes.reverse();
        }
        bytes
    }

    fn tag(&self, tag: u32, out: &mut Vec<u8>) {
        out.extend(self.order(((tag >> 16) as u16).to_le_bytes()));
        out.extend(self.order((tag as u16).to_le_bytes()));
    }

    fn length(&self, length: usize, out: &mut Vec<u8>) {
        out.extend(self.order((length as u32).to_le_bytes()));
    }

    fn head(&self, tag: u32, vr: &str, length: usize, out: &mut Vec<u8>) {
        self.tag(tag, out);
        let long = ["OB", "OW", "OF", "OD", "OL", "OV", "SQ", "UN", "UC", "UR", "UT", "SV", "UV"];
        match self.syntax {
            IMPLICIT_LITTLE_ENDIAN => self.length(length, out),
            _ if long.contains(&vr) => {
                out.extend(vr.as_bytes());
                out.extend([0, 0]);
                self.length(length, out);
            }
            _ => {
                out.extend(vr.as_bytes());
                out.extend(self.order((length as u16).to_le_bytes()));
            }
        }
    }

    fn value(&self, vr: &str, value: &[u8]) -> Vec<u8> {
        let width = match vr {
            "US" | "SS" | "OW" | "AT" => 2,
            "UL" | "SL" | "FL" | "OF" | "OL" => 4,
            "FD" | "OD" | "SV" | "UV" | "OV" => 8,
            _ => 1,
        };
        let mut value = value.to_vec();
        if self.syntax == EXPLICIT_BIG_ENDIAN {
            value.chunks_exact_mut(width).for_each(<[u8]>::reverse);
        }
        value
    }

    fn sequence(&self, tag: u32, items: &[Vec<Part>], out: &mut Vec<u8>) {
        let mut content = Vec::new();
        for item in items {
            let inner = self.plain(item);
            self.tag(0xFFFE_E000, &mut content);
            self.length(if self.defined { inner.len() } else { 0xFFFF_FFFF }, &mut content);
            content.extend(inner);
            if !self.defined {
                self.tag(0xFFFE_E00D, &mut content);
                self.length(0, &mut content);
            }
        }
        self.head(tag, "SQ", if self.defined { content.len() } else { 0xFFFF_FFFF }, out);
        out.extend(content);
        if !self.defined {
            self.tag(0xFFFE_E0DD, out);
            self.length(0, out);
        }
    }

    fn plain(&self, parts: &[Part]) -> Vec<u8> {
        let mut out = Vec::new();
        for part in parts {
            match part {
                Value(tag, vr, value) => {
                    self.head(*tag, vr, value.len(), &mut out);
                    out.extend(self.value(vr, value));
                }
                Sequence(tag, items) => self.sequence(*tag, items, &mut out),
                Fragments(fragment) => {
                    self.head(0x7FE0_0010, "OB", 0xFFFF_FFFF, &mut out);
                    for bytes in [&[][..], fragment] {
                        self.tag(0xFFFE_E000, &mut out);
                        self.length(bytes.len(), &mut out);
                        out.extend(bytes);
                    }
                    self.tag(0xFFFE_E0DD, &mut out);
                    self.length(0, &mut out);
                }
            }
        }
        out
    }
}

fn encode(syntax: &'static str, defined: bool, parts: &[Part]) -> Vec<u8> {
    let bytes = Encoder { syntax, defined }.plain(parts);
    match syntax {
        DEFLATED_EXPLICIT | JPIP_DEFLATED => deflate(&bytes),
        _ => bytes,
    }
}

fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Gives bytes in pieces of at most `most`.
fn reader(bytes: &[u8], most: usize) -> impl FnMut(usize) -> Result<Bytes, Infallible> + '_ {
    let mut left = bytes;
    move |asked| {
        let (piece, rest) = left.split_at(left.len().min(asked).min(most));
        left = rest;
        Ok(Bytes::copy_from_slice(piece))
    }
}

/// What comparing both ways round, in pieces of several sizes, finds.
fn findings(one: (&str, &[u8]), other: (&str, &[u8])) -> Vec<Comparison> {
    let once = |one: (&str, &[u8], usize), other: (&str, &[u8], usize)| {
        let syntax = |uid: &str| TransferSyntax::by_uid(uid).unwrap();
        let readers = (reader(one.1, one.2), reader(other.1, other.2));
        let Ok(found) = compare((syntax(one.0), readers.0), (syntax(other.0), readers.1));
        found
    };
    let sizes = [(usize::MAX, usize::MAX), (1, 7), (5, usize::MAX)];
    let both_ways = sizes.into_iter().flat_map(|(a, b)| {
        [once((one.0, one.1, a), (other.0, other.1, b)), once((other.0, other.1, b), (one.0, one.1, a))]
    });
    both_ways.collect()
}

fn compared(one: (&str, &[u8]), other: (&str, &[u8])) -> Comparison {
    let found = findings(one, other);
    assert!(found.iter().all(|each| *each == found[0]), "{found:?}");
    found[0].clone()
}

fn data_set() -> Vec<Part> {
    vec![
        text(0x0008_0005, "CS", "ISO_IR 100"),
        text(0x0008_0018, "UI", "1.2.3\0"),
        text(0x0008_0060, "CS", "CT"),
        Sequence(
            0x0008_1140,
            vec![
                vec![
                    text(0x0008_1155, "UI", "1.2.4\0"),
                    Sequence(0x0040_A170, vec![vec![text(0x0008_0104, "LO", "code")], vec![]]),
                ],
                vec![],
            ],
        ),
        Value(0x0009_0010, "LO", b"MAKER ".to_vec()),
        Value(0x0009_1001, "US", vec![1, 2]),
        Value(0x0009_1002, "FD", vec![1, 2, 3, 4, 5, 6, 7, 8]),
        text(0x0010_0010, "PN", "A^B "),
        Value(0x0028_0009, "AT", vec![0x18, 0, 0x63, 0x10]),
        Value(0x0028_0010, "US", vec![2, 0]),
        Value(0x0028_0106, "US", vec![7, 0]),
        Value(0x7FE0_0010, "OW", (0..200).collect()),
    ]
}

fn changed(at: usize, part: Part) -> Vec<Part> {
    let mut parts = data_set();
    parts[at] = part;
    parts
}

/// A data set in one syntax beside another one in every other.
fn all_pairs(one: &[Part], other: &[Part]) -> Vec<Comparison> {
    let mut found = Vec::new();
    for first in NATIVE {
        for second in NATIVE.into_iter().filter(|second| *second != first) {
            for defined in [[true, false], [false, true], [true, true]] {
                let bytes = [encode(first, defined[0], one), encode(second, defined[1], other)];
                found.push(compared((first, &bytes[0]), (second, &bytes[1])));
            }
        }
    }
    found
}

fn always(one: &[Part], other: &[Part]) -> Comparison {
    let found = all_pairs(one, other);
    assert!(found.iter().all(|each| *each == found[0]), "{found:?}");
    found[0].clone()
}

#[test]
fn a_data_set_equals_itself_in_every_encoding() {
    assert_eq!(always(&data_set(), &data_set()), Comparison::Equal);
    assert_eq!(always(&[], &[]), Comparison::Equal);
}

#[test]
fn one_changed_bit_anywhere_is_a_difference() {
    let pixel = |at: usize| {
        let mut pixels: Vec<u8> = (0..200).collect();
        pixels[at] ^= 1;
        changed(11, Value(0x7FE0_0010, "OW", pixels))
    };
    for at in [0, 1, 100, 198, 199] {
        assert_eq!(always(&data_set(), &pixel(at)), Comparison::Different(Tag(0x7FE0, 0x0010)));
    }
    let float = changed(6, Value(0x0009_1002, "FD", vec![1, 2, 3, 4, 5, 6, 7, 9]));
    assert_eq!(always(&data_set(), &float), Comparison::Different(Tag(0x0009, 0x1002)));
    let nested = |code| vec![text(0x0008_0104, "LO", code)];
    let with = |items| {
        changed(
            3,
            Sequence(
                0x0008_1140,
                vec![vec![text(0x0008_1155, "UI", "1.2.4\0"), Sequence(0x0040_A170, items)], vec![]],
            ),
        )
    };
    assert_eq!(always(&data_set(), &with(vec![nested("code"), vec![]])), Comparison::Equal);
    let other = with(vec![nested("cude"), vec![]]);
    assert_eq!(always(&data_set(), &other), Comparison::Different(Tag(0x0008, 0x0104)));
}

#[test]
fn an_element_or_item_too_many_is_a_difference() {
    let mut longer = data_set();
    longer.push(Value(0x7FE1_1010, "OB", vec![1, 2]));
    assert_eq!(always(&data_set(), &longer), Comparison::Different(Tag(0x7FE1, 0x1010)));
    let mut shorter = data_set();
    shorter.remove(7);
    assert_eq!(always(&data_set(), &shorter), Comparison::Different(Tag(0x0010, 0x0010)));
    let item = |count| vec![Sequence(0x0008_1140, vec![vec![text(0x0008_1155, "UI", "1.2.4\0")]; count])];
    assert_eq!(always(&item(1), &item(2)), Comparison::Different(Tag(0x0008, 0x1155)));
    assert_eq!(always(&item(0), &[]), Comparison::Different(Tag(0x0008, 0x1140)));
}

#[test]
fn group_lengths_are_no_part_of_what_is_compared() {
    let mut with = data_set();
    with.insert(0, Value(0x0008_0000, "UL", vec![9, 9, 0, 0]));
    with.insert(8, Value(0x0010_0000, "UL", vec![4, 0, 0, 0]));
    assert_eq!(always(&data_set(), &with), Comparison::Equal);
}

#[test]
fn trailing_padding_is_insignificant_where_the_standard_says_so() {
    assert_eq!(always(&data_set(), &changed(7, text(0x0010_0010, "PN", "A^B   "))), Comparison::Equal);
    assert_eq!(always(&data_set(), &changed(1, text(0x0008_0018, "UI", "1.2.3\0\0\0"))), Comparison::Equal);
    let leading = changed(7, text(0x0010_0010, "PN", " A^B"));
    assert_eq!(always(&data_set(), &leading), Comparison::Different(Tag(0x0010, 0x0010)));
    let spaced = changed(1, text(0x0008_0018, "UI", "1.2.3\0  "));
    assert_eq!(always(&data_set(), &spaced), Comparison::Different(Tag(0x0008, 0x0018)));
    let pixels: Vec<u8> = (0..200).chain([0, 0]).collect();
    let longer = changed(11, Value(0x7FE0_0010, "OW", pixels));
    assert_eq!(always(&data_set(), &longer), Comparison::Different(Tag(0x7FE0, 0x0010)));
}

#[test]
fn the_vr_that_a_sender_wrote_counts_and_a_lack_of_one_does_not() {
    let of = |vr| vec![Value(0x0028_0106, vr, vec![7, 0])];
    let between = |one: (&'static str, &'static str), other: (&'static str, &'static str)| {
        let bytes = [encode(one.0, true, &of(one.1)), encode(other.0, true, &of(other.1))];
        compared((one.0, &bytes[0]), (other.0, &bytes[1]))
    };
    let different = Comparison::Different(Tag(0x0028, 0x0106));
    assert_eq!(between((EXPLICIT_LITTLE_ENDIAN, "US"), (EXPLICIT_BIG_ENDIAN, "SS")), different);
    assert_eq!(between((EXPLICIT_LITTLE_ENDIAN, "SS"), (IMPLICIT_LITTLE_ENDIAN, "")), Comparison::Equal);
    assert_eq!(between((EXPLICIT_LITTLE_ENDIAN, "UN"), (EXPLICIT_BIG_ENDIAN, "SS")), Comparison::Equal);
    let unknown = between((EXPLICIT_LITTLE_ENDIAN, "SS"), (EXPLICIT_BIG_ENDIAN, "UN"));
    assert_eq!(unknown, Comparison::Undecidable(BIG_ENDIAN_UNKNOWN));
}

#[test]
fn pixels_of_eight_bits_are_bytes_or_words() {
    let pixels = |vr| vec![Value(0x7FE0_0010, vr, (0..250).collect())];
    let bytes = encode(EXPLICIT_LITTLE_ENDIAN, true, &pixels("OB"));
    let words = encode(EXPLICIT_BIG_ENDIAN, true, &pixels("OW"));
    let equal = compared((EXPLICIT_LITTLE_ENDIAN, &bytes), (EXPLICIT_BIG_ENDIAN, &words));
    assert_eq!(equal, Comparison::Equal);
}

#[test]
fn a_private_sequence_that_implicit_vr_hides_is_undecidable() {
    let parts = [Sequence(0x0009_1001, vec![vec![text(0x0008_0104, "LO", "code")]])];
    let explicit = encode(EXPLICIT_LITTLE_ENDIAN, true, &parts);
    let hidden = encode(IMPLICIT_LITTLE_ENDIAN, true, &parts);
    let found = compared((EXPLICIT_LITTLE_ENDIAN, &explicit), (IMPLICIT_LITTLE_ENDIAN, &hidden));
    assert_eq!(found, Comparison::Undecidable(UNKNOWN_SEQUENCE));
    let shown = encode(IMPLICIT_LITTLE_ENDIAN, false, &parts);
    let found = compared((EXPLICIT_LITTLE_ENDIAN, &explicit), (IMPLICIT_LITTLE_ENDIAN, &shown));
    assert_eq!(found, Comparison::Equal);
}

#[test]
fn encapsulated_pixels_are_undecidable_unless_something_else_differs() {
    let encapsulated = |name: &str| {
        let mut parts = changed(7, text(0x0010_0010, "PN", name));
        parts[11] = Fragments(vec![0xFF, 0xD8, 0xFF, 0xD9]);
        parts.push(Value(0x7FE1_0010, "LO", b"MAKER ".to_vec()));
        parts
    };
    let mut native = data_set();
    native.push(Value(0x7FE1_0010, "LO", b"MAKER ".to_vec()));
    let open = Comparison::Undecidable(ENCAPSULATED);
    for syntax in [IMPLICIT_LITTLE_ENDIAN, EXPLICIT_LITTLE_ENDIAN, EXPLICIT_BIG_ENDIAN] {
        let native = encode(syntax, false, &native);
        let beside = |name| compared((syntax, &native), (JPEG, &encode(JPEG, true, &encapsulated(name))));
        assert_eq!(beside("A^B "), open);
        assert_eq!(beside("A^C "), Comparison::Different(Tag(0x0010, 0x0010)));
    }
    let jpeg = encode(JPEG, true, &encapsulated("A^B "));
    assert_eq!(compared((JPEG, &jpeg), (JPEG_LS, &jpeg)), open, "the same bytes, decoded otherwise");
    let deflated = encode(DEFLATED_EXPLICIT, true, &data_set());
    assert_eq!(compared((DEFLATED_EXPLICIT, &deflated), (JPEG, &jpeg)), open);
    let none = encode(JPEG, true, &data_set()[..11]);
    let native = encode(IMPLICIT_LITTLE_ENDIAN, true, &data_set()[..11]);
    assert_eq!(compared((JPEG, &none), (IMPLICIT_LITTLE_ENDIAN, &native)), Comparison::Equal, "no pixels");
}

#[test]
fn what_ends_early_or_breaks_is_undecidable_and_never_equal() {
    let whole = encode(EXPLICIT_LITTLE_ENDIAN, false, &data_set());
    for syntax in [IMPLICIT_LITTLE_ENDIAN, EXPLICIT_BIG_ENDIAN, DEFLATED_EXPLICIT] {
        let bytes = encode(syntax, true, &data_set());
        for end in 0..bytes.len() {
            let found = findings((EXPLICIT_LITTLE_ENDIAN, &whole), (syntax, &bytes[..end]));
            assert!(!found.contains(&Comparison::Equal), "{syntax}, cut at {end}");
        }
        let mut broken = bytes.clone();
        for at in 0..bytes.len() {
            broken[at] ^= 0x10;
            // Whatever it makes of it (a difference, or damage if it reads so far), it ends.
            findings((EXPLICIT_LITTLE_ENDIAN, &whole), (syntax, &broken));
            broken[at] = bytes[at];
        }
    }
}

#[test]
fn depth_bombs_and_inflated_ones_end_soon() {
    let level = b"\x08\0\x40\x11SQ\0\0\xFF\xFF\xFF\xFF\xFE\xFF\x00\xE0\xFF\xFF\xFF\xFF";
    let implicit = b"\x08\0\x40\x11\xFF\xFF\xFF\xFF\xFE\xFF\x00\xE0\xFF\xFF\xFF\xFF";
    let begun = std::time::Instant::now();
    let syntax = |uid: &str| TransferSyntax::by_uid(uid).unwrap();
    let against = |one: (&str, &[u8]), other: (&str, &[u8])| {
        let readers = (reader(one.1, usize::MAX), reader(other.1, usize::MAX));
        let Ok(found) = compare((syntax(one.0), readers.0), (syntax(other.0), readers.1));
        found
    };
    let deep = deflate(&level.repeat(1_000_000));
    let beside = implicit.repeat(1_000_000);
    let malformed = Comparison::Undecidable(MALFORMED);
    assert_eq!(against((DEFLATED_EXPLICIT, &deep), (IMPLICIT_LITTLE_ENDIAN, &beside)), malformed);
    // Pixels that inflate to 256 MiB beside two bytes of them; group lengths that never end.
    let mut pixels = b"\xE0\x7F\x10\0OW\0\0\0\0\0\x10".to_vec();
    pixels.resize((256 << 20) + 12, 0);
    let few = encode(IMPLICIT_LITTLE_ENDIAN, true, &[Value(0x7FE0_0010, "OW", vec![0, 0])]);
    let bomb = deflate(&pixels);
    let deflating = begun.elapsed();
    let different = Comparison::Different(Tag(0x7FE0, 0x0010));
    assert_eq!(against((DEFLATED_EXPLICIT, &bomb), (IMPLICIT_LITTLE_ENDIAN, &few)), different);
    let lengths = deflate(&b"\x08\0\0\0UL\x04\0\0\0\0\0".repeat(11_000_000));
    assert_eq!(against((DEFLATED_EXPLICIT, &lengths), (IMPLICIT_LITTLE_ENDIAN, &[])), malformed);
    assert_eq!(
        against((DEFLATED_EXPLICIT, &bomb), (JPIP_DEFLATED, &bomb)),
        Comparison::Undecidable(BOTH_DEFLATED)
    );
    assert!(begun.elapsed() < deflating + std::time::Duration::from_secs(20));
}

#[test]
fn a_read_that_fails_is_no_finding() {
    let syntax = |uid: &str| TransferSyntax::by_uid(uid).unwrap();
    let bytes = encode(EXPLICIT_LITTLE_ENDIAN, true, &data_set());
    let mut whole = reader(&bytes, usize::MAX);
    let mut begun = Some(Bytes::copy_from_slice(&bytes[..50]));
    let failing = |_| begun.take().ok_or("gone");
    let found = compare(
        (syntax(EXPLICIT_LITTLE_ENDIAN), failing),
        (syntax(JPEG), |most| whole(most).map_err(|never| match never {})),
    );
    assert_eq!(found, Err("gone"));
}
