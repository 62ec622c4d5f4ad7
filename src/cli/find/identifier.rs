//! The Identifier of a C-FIND request (PS3.4 §C.4.1.1.3) from keys as people write them.

use std::str::FromStr;

use dicom_core::dictionary::{DataDictionary, DataDictionaryEntry};
use dicom_core::{Tag, VR};
use dicom_dictionary_std::{StandardDataDictionary, tags};

use crate::dicom::transfer_syntax::Encoding;

/// An attribute, and the value that it is to match; empty is universal matching.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    pub tag: Tag,
    pub value: String,
}

impl FromStr for Key {
    type Err = String;

    /// A keyword or `gggg,eeee`, then perhaps `=` and a value.
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        let tag = StandardDataDictionary
            .parse_tag(name)
            .ok_or_else(|| format!("{name:?} is neither the keyword of an attribute nor gggg,eeee"))?;
        if tag.group() <= 0x0002 {
            return Err(format!("{name:?} is no attribute of a data set"));
        }
        Ok(Self { tag, value: value.to_owned() })
    }
}

/// Elements in order of their tags.
pub struct Identifier {
    elements: Vec<(Tag, VR, Vec<u8>)>,
}

impl Identifier {
    pub fn new(level: &str, keys: &[Key]) -> anyhow::Result<Self> {
        let mut elements = vec![element(tags::QUERY_RETRIEVE_LEVEL, level)?];
        for key in keys {
            elements.push(element(key.tag, &key.value)?);
        }
        if keys.iter().any(|key| !key.value.is_ascii()) {
            elements.push(element(tags::SPECIFIC_CHARACTER_SET, "ISO_IR 192")?);
        }
        elements.sort_by_key(|(tag, ..)| *tag);
        if let Some(twice) = elements.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            anyhow::bail!("{} is given twice, or is not for you to give", twice[0].0);
        }
        Ok(Self { elements })
    }

    /// In one of the two little-endian encodings that are proposed.
    pub fn encode(&self, encoding: Encoding) -> Vec<u8> {
        let mut out = Vec::new();
        for (tag, vr, value) in &self.elements {
            out.extend_from_slice(&tag.group().to_le_bytes());
            out.extend_from_slice(&tag.element().to_le_bytes());
            let length = value.len() as u32;
            if encoding == Encoding::ImplicitLittleEndian {
                out.extend_from_slice(&length.to_le_bytes());
            } else {
                out.extend_from_slice(vr.to_string().as_bytes());
                if has_long_header(*vr) {
                    out.extend_from_slice(&[0, 0]);
                    out.extend_from_slice(&length.to_le_bytes());
                } else {
                    out.extend_from_slice(&(length as u16).to_le_bytes());
                }
            }
            out.extend_from_slice(value);
        }
        out
    }
}

fn element(tag: Tag, value: &str) -> anyhow::Result<(Tag, VR, Vec<u8>)> {
    let vr = StandardDataDictionary.by_tag(tag).map_or(VR::UN, |entry| entry.vr().relaxed());
    let bytes =
        encode_value(vr, value).ok_or_else(|| anyhow::anyhow!("{tag} ({vr}) can't match {value:?}"))?;
    // The shorter header of most VRs has 16 bits for the length (PS3.5 §7.1.2).
    anyhow::ensure!(bytes.len() < usize::from(u16::MAX), "the value of {tag} is too long");
    Ok((tag, vr, bytes))
}

/// `None`: no such value can be written in this VR.
fn encode_value(vr: VR, value: &str) -> Option<Vec<u8>> {
    if value.is_empty() {
        return Some(Vec::new());
    }
    let numbers = value.split('\\').map(str::trim);
    match vr {
        VR::US => collect(numbers.map(|n| Some(n.parse::<u16>().ok()?.to_le_bytes().to_vec()))),
        VR::SS => collect(numbers.map(|n| Some(n.parse::<i16>().ok()?.to_le_bytes().to_vec()))),
        VR::UL => collect(numbers.map(|n| Some(n.parse::<u32>().ok()?.to_le_bytes().to_vec()))),
        VR::SL => collect(numbers.map(|n| Some(n.parse::<i32>().ok()?.to_le_bytes().to_vec()))),
        VR::FL => collect(numbers.map(|n| Some(n.parse::<f32>().ok()?.to_le_bytes().to_vec()))),
        VR::FD => collect(numbers.map(|n| Some(n.parse::<f64>().ok()?.to_le_bytes().to_vec()))),
        vr if crate::dicom::value::is_binary(vr) => None,
        VR::AT | VR::SV | VR::UV => None,
        _ => {
            let mut bytes = value.as_bytes().to_vec();
            if bytes.len() % 2 == 1 {
                bytes.push(if vr == VR::UI { 0 } else { b' ' });
            }
            Some(bytes)
        }
    }
}

fn collect(values: impl Iterator<Item = Option<Vec<u8>>>) -> Option<Vec<u8>> {
    values.collect::<Option<Vec<_>>>().map(|values| values.concat())
}

/// PS3.5 §7.1.2.
fn has_long_header(vr: VR) -> bool {
    matches!(
        vr,
        VR::OB | VR::OD | VR::OF | VR::OL | VR::OV | VR::OW | VR::SQ | VR::SV | VR::UC | VR::UN | VR::UR
    ) || matches!(vr, VR::UT | VR::UV)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        text.parse().unwrap()
    }

    #[test]
    fn keys_are_keywords_or_tags_with_or_without_a_value() {
        assert_eq!(key("PatientID=X"), Key { tag: tags::PATIENT_ID, value: "X".into() });
        assert_eq!(key("0010,0010=A=B*"), Key { tag: tags::PATIENT_NAME, value: "A=B*".into() });
        assert_eq!(key("StudyDate").value, "");
        for text in ["", "NoSuchKeyword=1", "0000,0100=1", "0002,0010", "=X"] {
            assert!(text.parse::<Key>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn elements_are_in_order_and_padded() {
        let identifier =
            Identifier::new("STUDY", &[key("StudyInstanceUID=1.2.3"), key("PatientID=X")]).unwrap();
        let expected =
            [&b"\x08\0\x52\0CS\x06\0STUDY "[..], b"\x10\0\x20\0LO\x02\0X ", b"\x20\0\x0d\0UI\x06\x001.2.3\0"];
        assert_eq!(identifier.encode(Encoding::ExplicitLittleEndian), expected.concat());
        let expected = [
            &b"\x08\0\x52\0\x06\0\0\0STUDY "[..],
            b"\x10\0\x20\0\x02\0\0\0X ",
            b"\x20\0\x0d\0\x06\0\0\x001.2.3\0",
        ];
        assert_eq!(identifier.encode(Encoding::ImplicitLittleEndian), expected.concat());
    }

    #[test]
    fn text_beyond_ascii_is_sent_as_utf8_and_says_so() {
        let encoded = Identifier::new("STUDY", &[key("PatientName=Müller*")]).unwrap();
        let encoded = encoded.encode(Encoding::ExplicitLittleEndian);
        assert!(encoded.starts_with(b"\x08\0\x05\0CS\x0a\0ISO_IR 192"));
    }

    #[test]
    fn what_can_t_be_asked_is_refused() {
        let new = |text: &str| Identifier::new("STUDY", &[key(text)]);
        assert!(new("Rows=many").is_err());
        assert!(new("ReferencedStudySequence=1").is_err());
        assert!(new("QueryRetrieveLevel=IMAGE").is_err());
        assert!(new("Rows=512").is_ok() && new("ReferencedStudySequence").is_ok());
        assert!(Identifier::new("STUDY", &[key("PatientID=1"), key("PatientID=2")]).is_err());
    }
}
