//! Identifiers of C-FIND responses (PS3.4 §C.4.1.1.3.2): one match, told in the transfer syntax of
//! the context. Only what was asked for, and what the standard adds.

use std::io::Write;

use dicom_core::{Tag, VR};
use dicom_dictionary_std::tags;

use crate::dicom::transfer_syntax::Encoding;

/// An element with its value as text, several values joined by `\`.
pub struct Answered<'a> {
    pub tag: Tag,
    pub vr: VR,
    pub value: &'a str,
}

/// Encodes `elements`, which are in the order of their tags. Text that the default repertoire
/// can't say is UTF-8, and Specific Character Set then says so (PS3.5 §6.1.2).
pub fn encode(elements: &[Answered<'_>], encoding: Encoding) -> Vec<u8> {
    let mut out = Writer { bytes: Vec::with_capacity(512), encoding };
    if elements.iter().any(|element| !element.value.is_ascii()) {
        out.element(tags::SPECIFIC_CHARACTER_SET, VR::CS, b"ISO_IR 192");
    }
    for element in elements {
        out.element(element.tag, element.vr, &out.value(element));
    }
    match encoding {
        Encoding::DeflatedExplicitLittleEndian => deflate(&out.bytes),
        _ => out.bytes,
    }
}

struct Writer {
    bytes: Vec<u8>,
    encoding: Encoding,
}

impl Writer {
    fn element(&mut self, tag: Tag, vr: VR, value: &[u8]) {
        self.u16(tag.group());
        self.u16(tag.element());
        let pad = match vr {
            VR::UI | VR::OB | VR::UN => 0,
            _ => b' ',
        };
        let explicit = self.encoding != Encoding::ImplicitLittleEndian;
        let short = explicit && has_short_length(vr);
        let value = if short { cut(value, 0xFFFE) } else { value };
        let length = value.len() + value.len() % 2;
        if explicit {
            self.bytes.extend_from_slice(vr.to_string().as_bytes());
        }
        if short {
            self.u16(length as u16);
        } else {
            if explicit {
                self.u16(0);
            }
            self.u32(length as u32);
        }
        self.bytes.extend_from_slice(value);
        self.bytes.resize(self.bytes.len() + length - value.len(), pad);
    }

    fn value(&self, element: &Answered<'_>) -> Vec<u8> {
        match element.vr {
            VR::US => {
                let numbers = element.value.split('\\').filter_map(|number| number.parse::<u16>().ok());
                numbers.flat_map(|number| self.order16(number)).collect()
            }
            _ => element.value.as_bytes().to_vec(),
        }
    }

    fn order16(&self, number: u16) -> [u8; 2] {
        match self.encoding {
            Encoding::ExplicitBigEndian => number.to_be_bytes(),
            _ => number.to_le_bytes(),
        }
    }

    fn u16(&mut self, number: u16) {
        let bytes = self.order16(number);
        self.bytes.extend_from_slice(&bytes);
    }

    fn u32(&mut self, number: u32) {
        let bytes = match self.encoding {
            Encoding::ExplicitBigEndian => number.to_be_bytes(),
            _ => number.to_le_bytes(),
        };
        self.bytes.extend_from_slice(&bytes);
    }
}

/// VRs whose explicit length has 16 bits (PS3.5 §7.1.2).
fn has_short_length(vr: VR) -> bool {
    !matches!(
        vr,
        VR::OB
            | VR::OD
            | VR::OF
            | VR::OL
            | VR::OV
            | VR::OW
            | VR::SQ
            | VR::SV
            | VR::UC
            | VR::UN
            | VR::UR
            | VR::UT
            | VR::UV
    )
}

/// At most `most` bytes, never half a character.
fn cut(value: &[u8], most: usize) -> &[u8] {
    let mut end = value.len().min(most);
    while end < value.len() && end > 0 && value[end] & 0xC0 == 0x80 {
        end -= 1;
    }
    &value[..end]
}

/// PS3.5 §A.5. Writing to memory does not fail.
fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
    let _ = encoder.write_all(bytes);
    let mut deflated = encoder.finish().unwrap_or_default();
    if deflated.len() % 2 == 1 {
        deflated.push(0);
    }
    deflated
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dicom::TransferSyntax;
    use crate::dicom::transfer_syntax::{
        DEFLATED_EXPLICIT, EXPLICIT_BIG_ENDIAN, EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN,
    };
    use crate::scp::identifier::Identifier;

    fn name(value: &str) -> Answered<'_> {
        Answered { tag: tags::PATIENT_NAME, vr: VR::PN, value }
    }

    #[test]
    fn an_answer_reads_back_in_every_syntax_of_identifiers() {
        let elements = [
            name("Yamada^Tarou=山田^太郎"),
            Answered { tag: tags::STUDY_INSTANCE_UID, vr: VR::UI, value: "1.2.3" },
            Answered { tag: tags::ROWS, vr: VR::US, value: "512" },
            Answered { tag: tags::PIXEL_DATA, vr: VR::OW, value: "" },
        ];
        for uid in [IMPLICIT_LITTLE_ENDIAN, EXPLICIT_LITTLE_ENDIAN, EXPLICIT_BIG_ENDIAN, DEFLATED_EXPLICIT] {
            let syntax = TransferSyntax::by_uid(uid).unwrap();
            let read = Identifier::parse(&encode(&elements, syntax.encoding), syntax).unwrap();
            let values: Vec<_> = read.keys.iter().map(|key| key.value.as_str()).collect();
            assert_eq!(values, ["Yamada^Tarou=山田^太郎", "1.2.3", "512", ""], "{uid}");
        }
    }

    #[test]
    fn specific_character_set_is_there_when_it_is_needed() {
        let encoding = Encoding::ExplicitLittleEndian;
        assert_eq!(encode(&[name("Doe^J")], encoding), b"\x10\0\x10\0PN\x06\0Doe^J ");
        assert!(encode(&[name("Müller")], encoding).starts_with(b"\x08\0\x05\0CS\x0A\0ISO_IR 192"));
    }

    #[test]
    fn a_value_too_long_for_its_length_field_is_cut_between_characters() {
        let long = "ü".repeat(40_000);
        let encoded = encode(&[name(&long)], Encoding::ExplicitLittleEndian);
        let syntax = TransferSyntax::by_uid(EXPLICIT_LITTLE_ENDIAN).unwrap();
        assert_eq!(encoded.len(), 18 + 8 + 0xFFFE);
        assert!(Identifier::parse(&encoded, syntax).is_err(), "longer than any question may be");
        assert!(std::str::from_utf8(&encoded[26..]).is_ok());
    }
}
