//! The Native DICOM Model (PS3.19 §A.1), for clients that ask for `application/dicom+xml`.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use dicom_core::dictionary::DataDictionary;
use dicom_core::{Tag, VR};
use dicom_dictionary_std::StandardDataDictionary;

use super::dataset::{Dataset, Element, Value};

/// A data set as an XML document.
pub fn document(dataset: &Dataset) -> String {
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    xml.push_str("<NativeDicomModel xmlns=\"http://dicom.nema.org/PS3.19/models/NativeDICOM\" ");
    xml.push_str("xml:space=\"preserve\">");
    push_attributes(&mut xml, dataset);
    xml.push_str("</NativeDicomModel>\n");
    xml
}

fn push_attributes(xml: &mut String, dataset: &Dataset) {
    for (tag, element) in dataset.iter() {
        push_start(xml, dataset, tag, element.vr);
        push_value(xml, element);
        xml.push_str("</DicomAttribute>");
    }
}

fn push_start(xml: &mut String, dataset: &Dataset, tag: Tag, vr: VR) {
    // A private element is known by its creator, whatever block that reserved: gggg00ee.
    let creator = private_creator(dataset, tag);
    let number = if creator.is_some() { tag.element() & 0x00FF } else { tag.element() };
    push(xml, format_args!("<DicomAttribute tag=\"{:04X}{number:04X}\" vr=\"{vr}\"", tag.group()));
    if let Some(entry) = StandardDataDictionary.by_tag(tag).filter(|_| tag.group().is_multiple_of(2)) {
        push(xml, format_args!(" keyword=\"{}\"", entry.alias));
    }
    if let Some(creator) = creator {
        xml.push_str(" privateCreator=\"");
        push_escaped(xml, creator);
        xml.push('"');
    }
    xml.push('>');
}

/// PS3.5 §7.8.1: (gggg,xxee) belongs to the creator named in (gggg,00xx).
fn private_creator(dataset: &Dataset, tag: Tag) -> Option<&str> {
    let block = tag.element() >> 8;
    if tag.group().is_multiple_of(2) || block < 0x10 {
        return None;
    }
    dataset.text(Tag(tag.group(), block)).filter(|creator| !creator.is_empty())
}

fn push_value(xml: &mut String, element: &Element) {
    match &element.value {
        Value::Text(values) => {
            for (number, value) in (1..).zip(values).filter(|(_, value)| !value.is_empty()) {
                match element.vr {
                    VR::PN => push_person_name(xml, number, value),
                    _ => push_text_value(xml, number, value),
                }
            }
        }
        Value::Sequence(items) => {
            for (number, item) in (1..).zip(items) {
                push(xml, format_args!("<Item number=\"{number}\">"));
                push_attributes(xml, item);
                xml.push_str("</Item>");
            }
        }
        Value::Inline(bytes) if bytes.is_empty() => {}
        Value::Inline(bytes) => {
            push(xml, format_args!("<InlineBinary>{}</InlineBinary>", BASE64.encode(bytes)));
        }
        Value::BulkDataUri(uri) => {
            xml.push_str("<BulkData uri=\"");
            push_escaped(xml, uri);
            xml.push_str("\"/>");
        }
    }
}

fn push_text_value(xml: &mut String, number: usize, value: &str) {
    push(xml, format_args!("<Value number=\"{number}\">"));
    push_escaped(xml, value);
    xml.push_str("</Value>");
}

fn push_person_name(xml: &mut String, number: usize, value: &str) {
    const GROUPS: [&str; 3] = ["Alphabetic", "Ideographic", "Phonetic"];
    const COMPONENTS: [&str; 5] = ["FamilyName", "GivenName", "MiddleName", "NamePrefix", "NameSuffix"];
    push(xml, format_args!("<PersonName number=\"{number}\">"));
    for (name, group) in GROUPS.into_iter().zip(value.split('=')).filter(|(_, group)| !group.is_empty()) {
        push(xml, format_args!("<{name}>"));
        let components = COMPONENTS.into_iter().zip(group.split('^'));
        for (component, text) in components.filter(|(_, text)| !text.is_empty()) {
            push(xml, format_args!("<{component}>"));
            push_escaped(xml, text);
            push(xml, format_args!("</{component}>"));
        }
        push(xml, format_args!("</{name}>"));
    }
    xml.push_str("</PersonName>");
}

fn push(xml: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a String can't fail.
    let _ = xml.write_fmt(arguments);
}

/// For text and attribute values alike. Characters that XML 1.0 has no way to write are left out;
/// CR, LF and TAB are written so that no parser normalizes them.
fn push_escaped(xml: &mut String, text: &str) {
    for character in text.chars() {
        match character {
            '&' => xml.push_str("&amp;"),
            '<' => xml.push_str("&lt;"),
            '>' => xml.push_str("&gt;"),
            '"' => xml.push_str("&quot;"),
            '\'' => xml.push_str("&apos;"),
            '\r' => xml.push_str("&#13;"),
            '\n' => xml.push_str("&#10;"),
            '\t' => xml.push_str("&#9;"),
            '\0'..='\u{1F}' | '\u{FFFE}' | '\u{FFFF}' => {}
            _ => xml.push(character),
        }
    }
}

#[cfg(test)]
mod tests {
    use dicom_dictionary_std::tags;

    use super::*;

    fn body(dataset: &Dataset) -> String {
        let document = document(dataset);
        let (_, body) = document.split_once("xml:space=\"preserve\">").unwrap();
        body.strip_suffix("</NativeDicomModel>\n").unwrap().to_owned()
    }

    #[test]
    fn values_are_numbered_and_empty_ones_leave_a_gap() {
        let mut dataset = Dataset::default();
        dataset.set(tags::IMAGE_TYPE, VR::CS, "ORIGINAL\\\\AXIAL");
        assert_eq!(
            body(&dataset),
            "<DicomAttribute tag=\"00080008\" vr=\"CS\" keyword=\"ImageType\">\
             <Value number=\"1\">ORIGINAL</Value><Value number=\"3\">AXIAL</Value></DicomAttribute>"
        );
    }

    #[test]
    fn names_fall_into_components() {
        let mut dataset = Dataset::default();
        dataset.set(tags::PATIENT_NAME, VR::PN, "Doe^^J=山田");
        assert_eq!(
            body(&dataset),
            "<DicomAttribute tag=\"00100010\" vr=\"PN\" keyword=\"PatientName\"><PersonName number=\"1\">\
             <Alphabetic><FamilyName>Doe</FamilyName><MiddleName>J</MiddleName></Alphabetic>\
             <Ideographic><FamilyName>山田</FamilyName></Ideographic></PersonName></DicomAttribute>"
        );
    }

    #[test]
    fn nothing_in_a_value_is_markup() {
        let mut dataset = Dataset::default();
        dataset.set(tags::STUDY_DESCRIPTION, VR::LT, "<a b=\"c\">&'\u{1}\r\n\u{FFFF}]]>");
        assert!(
            body(&dataset)
                .contains("<Value number=\"1\">&lt;a b=&quot;c&quot;&gt;&amp;&apos;&#13;&#10;]]&gt;</Value>"),
            "{}",
            body(&dataset)
        );
    }

    #[test]
    fn private_elements_name_their_creator() {
        let mut dataset = Dataset::default();
        dataset.set(Tag(0x0009, 0x0012), VR::LO, "ACME \"1\"");
        dataset.set(Tag(0x0009, 0x1234), VR::SH, "x");
        assert!(
            body(&dataset).ends_with(
                "<DicomAttribute tag=\"00090034\" vr=\"SH\" privateCreator=\"ACME &quot;1&quot;\">\
                 <Value number=\"1\">x</Value></DicomAttribute>"
            ),
            "{}",
            body(&dataset)
        );
    }

    #[test]
    fn items_nest() {
        let mut item = Dataset::default();
        item.set(tags::REFERENCED_SOP_INSTANCE_UID, VR::UI, "1.2");
        let mut dataset = Dataset::default();
        dataset.set_sequence(tags::REFERENCED_SOP_SEQUENCE, vec![item]);
        assert!(body(&dataset).contains("<Item number=\"1\"><DicomAttribute tag=\"00081155\" vr=\"UI\""));
    }
}
