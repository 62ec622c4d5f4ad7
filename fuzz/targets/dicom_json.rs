//! DICOM JSON and its sibling in XML (PS3.18 annex F, PS3.19 §A.1): written of data sets that
//! anybody sent, and read from what destinations answer.

use dicom_core::VR;
use relaypacs::dicom::dataset::{Dataset, Value as Held};
use relaypacs::dicom::metadata::MetadataReader;
use relaypacs::dicom::{ScanError, json, xml};
use relaypacs::forward::StowAnswer;
use relaypacs::forward::verify::qido::listed;
use serde_json::Value;

use super::data_set::{LIMITS, Sent, seeds as data_sets};
use super::{begins_with, same_in_all_chunks, split};

const BULK: &str = "http://h/bulk";

/// The first byte chooses: a data set to be written, or one of three answers to be read.
pub fn run(data: &[u8]) {
    let (choice, rest) = split(data);
    match choice % 4 {
        0 => write(&Sent::of(rest)),
        1 => check_stow_answer("application/dicom+json", rest),
        2 => check_stow_answer("application/dicom+xml", rest),
        _ => check_listed(rest),
    }
}

fn write(sent: &Sent) {
    let Ok(dataset) = same_in_all_chunks(sent.chunks, sent.bytes.len(), |chunk| read(sent, chunk)) else {
        return;
    };
    let written = json::object(&dataset);
    let text = written.to_string();
    let parsed: Value = serde_json::from_str(&text).expect("what we wrote is JSON");
    check_object(&parsed, &dataset);
    check_xml(&xml::document(&dataset));
    super::plant(|| planted_in(&dataset));
}

fn planted_in(dataset: &Dataset) -> bool {
    dataset.iter().any(|(_, element)| match &element.value {
        Held::Text(values) => values.iter().any(|value| begins_with(value.as_bytes(), b"PLNT")),
        _ => false,
    })
}

fn read(sent: &Sent, chunk: usize) -> Result<Dataset, ScanError> {
    let mut reader = MetadataReader::new(sent.syntax, LIMITS, BULK);
    for piece in sent.bytes.chunks(chunk) {
        reader.push(piece).map_err(|error| sent.told(error))?;
    }
    reader.finish().map_err(|error| sent.told(error))
}

/// PS3.18 §F.2: an element has a VR and one of three forms of value at most.
fn check_object(object: &Value, dataset: &Dataset) {
    let members = object.as_object().expect("a data set is an object");
    assert_eq!(members.len(), dataset.iter().count());
    for (tag, element) in dataset.iter() {
        let name = format!("{:04X}{:04X}", tag.group(), tag.element());
        let member = members[&name].as_object().expect("an element is an object");
        assert_eq!(member["vr"], element.vr.to_string());
        assert!(member.len() <= 2, "one form of value at most");
        for (form, value) in member.iter().filter(|(form, _)| *form != "vr") {
            match (form.as_str(), &element.value) {
                ("Value", Held::Text(values)) => check_values(element.vr, value, values),
                ("Value", Held::Sequence(items)) => {
                    let objects = value.as_array().expect("items are an array");
                    assert_eq!(objects.len(), items.len());
                    objects.iter().zip(items).for_each(|(object, item)| check_object(object, item));
                }
                ("InlineBinary", Held::Inline(bytes)) => {
                    assert_eq!(value.as_str().map(str::len), Some(bytes.len().div_ceil(3) * 4));
                }
                ("BulkDataURI", Held::BulkDataUri(uri)) => {
                    assert!(uri.starts_with(BULK) && value == uri.as_str());
                }
                (form, held) => panic!("{form} of {held:?}"),
            }
        }
    }
}

fn check_values(vr: VR, value: &Value, values: &[String]) {
    let array = value.as_array().expect("values are an array");
    assert_eq!(array.len(), values.len());
    for (json, text) in array.iter().zip(values) {
        match json {
            Value::Null => assert!(text.trim_matches('=').is_empty() || vr == VR::PN, "a value is gone"),
            Value::String(json) => assert_eq!(json.trim(), text.trim()),
            Value::Number(number) => {
                let (json, sent): (f64, f64) =
                    (number.as_f64().expect("a number"), text.trim().parse().expect("one"));
                // The reader used here may be off by the last bit, of which the smallest numbers have few.
                let last_bit = (sent.abs() * f64::EPSILON).max(f64::MIN_POSITIVE * f64::EPSILON * 2.0);
                assert!((json - sent).abs() <= last_bit, "{number} of {text}");
            }
            Value::Object(groups) => assert!(vr == VR::PN && (1..=3).contains(&groups.len())),
            other => panic!("{other} of {text}"),
        }
    }
}

/// Tags are in balance, and what stands between them has nothing that XML 1.0 §2.2 forbids.
fn check_xml(document: &str) {
    let legal = |c: char| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{D7FF}' | '\u{E000}'..='\u{FFFD}' | '\u{10000}'..);
    assert!(document.chars().all(legal), "a character that XML does not have");
    let mut open = Vec::new();
    for piece in document.split('<').skip(1) {
        let (tag, text) = piece.split_once('>').expect("a tag that does not end");
        assert!(!text.contains('>') && entities_end(text) && entities_end(tag));
        let name = tag.trim_matches('/').split(' ').next().unwrap_or_default();
        match tag {
            _ if tag.starts_with('?') || tag.ends_with('/') => {}
            _ if tag.starts_with('/') => assert_eq!(open.pop(), Some(name)),
            _ => open.push(name),
        }
    }
    assert!(open.is_empty(), "{open:?} stays open");
}

fn entities_end(text: &str) -> bool {
    text.split('&').skip(1).all(|entity| entity.split_once(';').is_some_and(|(name, _)| name.len() <= 6))
}

fn check_stow_answer(content_type: &str, body: &[u8]) {
    let answer = StowAnswer::parse(content_type, body);
    let named: usize = answer.stored.iter().chain(answer.failed.keys()).map(String::len).sum();
    assert!(named <= 2 * body.len(), "more names than bytes");
    for uid in answer.failed.keys() {
        for status in [200, 202, 409, 500] {
            let verdict = format!("{:?}", answer.verdict(status, uid, 2, true));
            assert_ne!(verdict, "Taken", "a failure that counts as a success");
        }
    }
    if !(answer.stored.is_empty() && answer.failed.is_empty()) {
        let verdict = format!("{:?}", answer.verdict(200, "0.0.not.named", 2, true));
        assert_ne!(verdict, "Taken", "a success that names others");
    }
}

fn check_listed(body: &[u8]) {
    let Some(uids) = listed(body) else { return };
    for uid in &uids {
        assert!(uid.as_str().bytes().all(|byte| byte.is_ascii_digit() || byte == b'.'));
    }
    assert!(uids.len() <= body.len() / 2);
}

pub fn seeds() -> Vec<Vec<u8>> {
    let stow = r#"{"00081198":{"vr":"SQ","Value":[{"00081155":{"vr":"UI","Value":["1.2"]},"00081197":{"vr":"US","Value":[49152]}},{"00081155":{"vr":"UI","Value":["1.3"]},"00081197":{"vr":"US","Value":["42752"]}}]},"00081199":{"vr":"SQ","Value":[{"00081155":{"vr":"UI","Value":["1.1"]}}]}}"#;
    let xml = r#"<NativeDicomModel><DicomAttribute tag="00081198" vr="SQ"><Item number="1"><DicomAttribute tag="00081155" vr="UI"><Value number="1">1.2</Value></DicomAttribute><DicomAttribute tag="00081197" vr="US"><Value number="1">49152</Value></DicomAttribute></Item></DicomAttribute><DicomAttribute tag="00081199" vr="SQ"><Item number="1"><DicomAttribute tag="00081155"><Value>1.1</Value></DicomAttribute></Item></DicomAttribute></NativeDicomModel>"#;
    let qido = r#"[{"00080018":{"vr":"UI","Value":["1.2.3"]}},{"0020000D":{"vr":"UI"}}]"#;
    let with = |choice: u8, bytes: &[u8]| [&[choice][..], bytes].concat();
    let answers = [with(1, stow.as_bytes()), with(2, xml.as_bytes()), with(3, qido.as_bytes())];
    data_sets().iter().map(|data_set| with(0, data_set)).chain(answers).collect()
}
