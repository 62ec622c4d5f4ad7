//! Value fields (PS3.5 §6.2) to text: numbers to decimal, characters to UTF-8, padding trimmed.
//! For the header scan and the metadata conversion; never fails.

use std::borrow::Cow;

use dicom_core::VR;

use super::charset::{Charset, Delimiters};
use super::tokens::ByteOrder;

/// The numbers in a value of a binary numeric VR, in decimal; AT as eight hexadecimal digits.
/// `None` for other VRs. Bytes that don't make up a whole number are left out.
pub fn binary_numbers(vr: VR, bytes: &[u8], order: ByteOrder) -> Option<Vec<String>> {
    Some(match vr {
        VR::US => map(bytes, |b| order.u16(b).to_string()),
        VR::SS => map(bytes, |b| (order.u16(b) as i16).to_string()),
        VR::UL => map(bytes, |b| order.u32(b).to_string()),
        VR::SL => map(bytes, |b| (order.u32(b) as i32).to_string()),
        VR::UV => map(bytes, |b| order.u64(b).to_string()),
        VR::SV => map(bytes, |b| (order.u64(b) as i64).to_string()),
        VR::FL => map(bytes, |b| f32::from_bits(order.u32(b)).to_string()),
        VR::FD => map(bytes, |b| f64::from_bits(order.u64(b)).to_string()),
        VR::AT => {
            map(bytes, |[a, b, c, d]: [u8; 4]| format!("{:04X}{:04X}", order.u16([a, b]), order.u16([c, d])))
        }
        _ => return None,
    })
}

fn map<const N: usize>(bytes: &[u8], number: impl Fn([u8; N]) -> String) -> Vec<String> {
    bytes.as_chunks::<N>().0.iter().map(|chunk| number(*chunk)).collect()
}

/// VRs of which [`binary_numbers`] makes text.
pub fn is_binary_number(vr: VR) -> bool {
    matches!(vr, VR::AT | VR::FD | VR::FL | VR::SL | VR::SS | VR::SV | VR::UL | VR::US | VR::UV)
}

/// VRs whose values are neither text nor numbers.
pub fn is_binary(vr: VR) -> bool {
    matches!(vr, VR::OB | VR::OD | VR::OF | VR::OL | VR::OV | VR::OW | VR::UN | VR::SQ)
}

/// A value of a character VR: its values, each without padding, joined by `\`.
pub fn text(vr: VR, bytes: &[u8], charset: Charset) -> String {
    let delimiters = Delimiters::of(vr);
    let decoded = charset.of(vr).decode(bytes, delimiters);
    let text = replace_controls(trim_end(&decoded));
    if delimiters == Delimiters::None || !text.contains('\\') {
        return trim(vr, &text).to_owned();
    }
    let values: Vec<&str> = text.split('\\').map(|value| trim(vr, value)).collect();
    values.join("\\")
}

/// Padding (PS3.5 §6.2): leading spaces count in ST, LT, UT, UC and UR alone.
fn trim(vr: VR, value: &str) -> &str {
    let value = trim_end(value);
    match vr {
        VR::ST | VR::LT | VR::UT | VR::UC | VR::UR => value,
        _ => value.trim_start_matches(' '),
    }
}

fn trim_end(text: &str) -> &str {
    let padding = text.bytes().rev().take_while(|byte| matches!(byte, 0 | b' ')).count();
    &text[..text.len() - padding]
}

/// Controls other than TAB, LF, FF and CR are in no VR, and no database or markup takes NUL.
fn replace_controls(text: &str) -> Cow<'_, str> {
    if text.bytes().all(|byte| (0x20..0x7F).contains(&byte)) {
        return Cow::Borrowed(text);
    }
    let is_allowed = |c: char| !c.is_control() || matches!(c, '\t' | '\n' | '\u{C}' | '\r');
    text.chars().map(|c| if is_allowed(c) { c } else { char::REPLACEMENT_CHARACTER }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_their_byte_order_and_ignore_what_is_not_whole() {
        assert_eq!(binary_numbers(VR::US, &[1, 0, 2, 0, 9], ByteOrder::Little).unwrap(), ["1", "2"]);
        assert_eq!(binary_numbers(VR::SS, &[0xFF, 0xFE], ByteOrder::Big).unwrap(), ["-2"]);
        assert_eq!(binary_numbers(VR::FL, &0.1f32.to_le_bytes(), ByteOrder::Little).unwrap(), ["0.1"]);
        let at = binary_numbers(VR::AT, &[0x18, 0x00, 0x63, 0x10], ByteOrder::Little).unwrap();
        assert_eq!(at, ["00181063"]);
        assert_eq!(binary_numbers(VR::LO, b"ab", ByteOrder::Little), None);
    }

    #[test]
    fn padding_goes_and_what_counts_stays() {
        let text = |vr, bytes: &[u8]| super::text(vr, bytes, Charset::default());
        assert_eq!(text(VR::CS, b"ORIGINAL \\ PRIMARY "), "ORIGINAL\\PRIMARY");
        assert_eq!(text(VR::UI, b"1.2.3\0"), "1.2.3");
        assert_eq!(text(VR::LT, b"  two\r\n lines\\ "), "  two\r\n lines\\");
        assert_eq!(text(VR::LO, b"\0\0"), "");
        assert_eq!(text(VR::LO, b"A\\\\B"), "A\\\\B");
    }

    #[test]
    fn control_characters_never_get_through() {
        assert_eq!(text(VR::LO, b"a\0b\x07c\x1B[2J", Charset::default()), "a\u{FFFD}b\u{FFFD}c\u{FFFD}[2J");
    }
}
