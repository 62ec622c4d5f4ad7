//! Code extension by escape sequences (ISO/IEC 2022 as PS3.5 §6.1.2.5 restricts it): G0 on the
//! left half of the code table, G1 on the right.

use encoding_rs::Encoding;

pub(super) const ESCAPE: u8 = 0x1B;

/// A character set that G0 or G1 can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Graphic {
    Ascii,
    /// JIS X 0201 Romaji (ISO-IR 14).
    Romaji,
    /// JIS X 0201 Katakana (ISO-IR 13).
    Katakana,
    /// JIS X 0208 (ISO-IR 87).
    Kanji,
    /// JIS X 0212 (ISO-IR 159).
    SupplementaryKanji,
    /// KS X 1001 (ISO-IR 149).
    Hangul,
    /// GB 2312 (ISO-IR 58).
    Hanzi,
    Single(&'static Encoding),
    Nothing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Repertoire {
    pub g0: Graphic,
    pub g1: Graphic,
}

impl Repertoire {
    pub const DEFAULT: Self = Self { g0: Graphic::Ascii, g1: Graphic::Nothing };

    /// What value 1 of Specific Character Set invokes at the start (PS3.3 tables C.12-2 to C.12-4).
    pub fn initial(registration: u16) -> Self {
        let g1 = match registration {
            13 => return Self { g0: Graphic::Romaji, g1: Graphic::Katakana },
            149 => Graphic::Hangul,
            58 => Graphic::Hanzi,
            100 => Graphic::Single(encoding_rs::WINDOWS_1252),
            101 => Graphic::Single(encoding_rs::ISO_8859_2),
            109 => Graphic::Single(encoding_rs::ISO_8859_3),
            110 => Graphic::Single(encoding_rs::ISO_8859_4),
            126 => Graphic::Single(encoding_rs::ISO_8859_7),
            127 => Graphic::Single(encoding_rs::ISO_8859_6),
            138 => Graphic::Single(encoding_rs::ISO_8859_8),
            144 => Graphic::Single(encoding_rs::ISO_8859_5),
            148 => Graphic::Single(encoding_rs::WINDOWS_1254),
            166 => Graphic::Single(encoding_rs::WINDOWS_874),
            203 => Graphic::Single(encoding_rs::ISO_8859_15),
            _ => Graphic::Nothing,
        };
        Self { g0: Graphic::Ascii, g1 }
    }

    /// Applies the escape sequence at the start of `bytes`; its length, or `None` when unknown.
    fn escape(&mut self, bytes: &[u8]) -> Option<usize> {
        match bytes.get(1..)? {
            [b'(', b'B', ..] => self.g0 = Graphic::Ascii,
            [b'(', b'J', ..] => self.g0 = Graphic::Romaji,
            [b')', b'I', ..] => self.g1 = Graphic::Katakana,
            [b'$', b'B' | b'@', ..] => self.g0 = Graphic::Kanji,
            [b'-', set, ..] => self.g1 = Self::initial(single_byte_set(*set)?).g1,
            [b'$', b'(', b'D', ..] => {
                self.g0 = Graphic::SupplementaryKanji;
                return Some(4);
            }
            [b'$', b')', b'C', ..] => {
                self.g1 = Graphic::Hangul;
                return Some(4);
            }
            [b'$', b')', b'A', ..] => {
                self.g1 = Graphic::Hanzi;
                return Some(4);
            }
            _ => return None,
        }
        Some(3)
    }
}

/// The registration that `ESC - x` invokes (PS3.3 table C.12-3).
fn single_byte_set(final_byte: u8) -> Option<u16> {
    Some(match final_byte {
        b'A' => 100,
        b'B' => 101,
        b'C' => 109,
        b'D' => 110,
        b'F' => 126,
        b'G' => 127,
        b'H' => 138,
        b'L' => 144,
        b'M' => 148,
        b'T' => 166,
        b'b' => 203,
        _ => return None,
    })
}

pub(super) fn decode(bytes: &[u8], initial: Repertoire, is_delimiter: impl Fn(u8) -> bool) -> String {
    let mut text = String::with_capacity(bytes.len());
    let mut active = initial;
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        at += match rest[0] {
            ESCAPE => active.escape(rest).unwrap_or_else(|| replace(&mut text)),
            0x21..=0x7E if is_double(active.g0) => double(active.g0, rest, &mut text),
            byte if byte < 0x80 => {
                // Controls (LF, FF, CR, TAB …) and delimiters return to the initial sets.
                if byte < 0x20 || is_delimiter(byte) {
                    active = initial;
                }
                text.push(left_half(active.g0, byte));
                1
            }
            _ if is_double(active.g1) => double(active.g1, rest, &mut text),
            byte => {
                text.push(right_half(active.g1, byte));
                1
            }
        };
    }
    text
}

fn replace(text: &mut String) -> usize {
    text.push(char::REPLACEMENT_CHARACTER);
    1
}

fn is_double(set: Graphic) -> bool {
    use Graphic::{Hangul, Hanzi, Kanji, SupplementaryKanji};
    matches!(set, Kanji | SupplementaryKanji | Hangul | Hanzi)
}

/// Decodes a two-byte character by way of the EUC form of its set; gives the bytes it took.
fn double(set: Graphic, rest: &[u8], text: &mut String) -> usize {
    let half = rest[0] & 0x80;
    let [first, second, ..] = rest else { return replace(text) };
    if second & 0x80 != half || !(0x21..=0x7E).contains(&(second & 0x7F)) {
        return replace(text);
    }
    let (first, second) = (first | 0x80, second | 0x80);
    let euc = [0x8F, first, second];
    let (encoding, euc) = match set {
        Graphic::Kanji => (encoding_rs::EUC_JP, &euc[1..]),
        Graphic::SupplementaryKanji => (encoding_rs::EUC_JP, &euc[..]),
        Graphic::Hangul => (encoding_rs::EUC_KR, &euc[1..]),
        _ => (encoding_rs::GBK, &euc[1..]),
    };
    text.push_str(&encoding.decode_without_bom_handling(euc).0);
    2
}

fn left_half(set: Graphic, byte: u8) -> char {
    match (set, byte) {
        // 5C is the yen sign of ISO-IR 14, but DICOM's value delimiter first; it stays one.
        (Graphic::Romaji, 0x7E) => '\u{203E}',
        _ => char::from(byte),
    }
}

fn right_half(set: Graphic, byte: u8) -> char {
    match set {
        Graphic::Katakana if (0xA1..=0xDF).contains(&byte) => {
            char::from_u32(0xFF61 + u32::from(byte - 0xA1)).unwrap_or(char::REPLACEMENT_CHARACTER)
        }
        Graphic::Single(encoding) => {
            let decoded = encoding.decode_without_bom_handling(&[byte]).0.chars().next();
            decoded.unwrap_or(char::REPLACEMENT_CHARACTER)
        }
        _ => char::REPLACEMENT_CHARACTER,
    }
}
