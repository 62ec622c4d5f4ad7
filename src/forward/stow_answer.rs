//! What a STOW-RS answer says about each instance (PS3.18 §10.5.3 and Annex I): DICOM JSON, or the
//! XML of PS3.19 Annex A where a destination knows nothing else. Pure, and wary: the answer comes
//! from outside, is read without recursion of ours, and its size was capped before.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::destination::Verdict;
use crate::dicom::status::Status;

const FAILED_SOP_SEQUENCE: &str = "00081198";
const REFERENCED_SOP_SEQUENCE: &str = "00081199";
const REFERENCED_SOP_INSTANCE_UID: &str = "00081155";
const FAILURE_REASON: &str = "00081197";

#[derive(Debug, Default, PartialEq, Eq)]
pub struct StowAnswer {
    pub stored: HashSet<String>,
    /// SOP Instance UID and FailureReason.
    pub failed: HashMap<String, u16>,
}

impl StowAnswer {
    /// What can't be read says nothing.
    pub fn parse(content_type: &str, body: &[u8]) -> StowAnswer {
        if content_type.contains("xml") {
            return std::str::from_utf8(body).map(from_xml).unwrap_or_default();
        }
        serde_json::from_slice(body).map(|json| from_json(&json)).unwrap_or_default()
    }

    fn is_silent(&self) -> bool {
        self.stored.is_empty() && self.failed.is_empty()
    }

    /// The verdict about one instance of a request that held `count`, answered with this HTTP
    /// status (200, 202, 409, or one about the request as a whole). A success without a word about
    /// instances counts only where the proof is still to come (`is_verified`).
    pub fn verdict(&self, status: u16, sop_instance_uid: &str, count: usize, is_verified: bool) -> Verdict {
        if let Some(reason) = self.failed.get(sop_instance_uid) {
            return match Verdict::of_status(Status(*reason)) {
                Verdict::Taken => Verdict::Refused(format!("listed as failed with reason {reason:04X}")),
                verdict => verdict,
            };
        }
        let named = self.stored.contains(sop_instance_uid);
        let unsaid = || Verdict::Later("its answer does not say what became of it".into());
        match status {
            200..=299 | 409 if named => Verdict::Taken,
            200 | 204 if self.is_silent() && is_verified => Verdict::Taken,
            200..=299 => unsaid(),
            409 if !self.is_silent() => unsaid(),
            _ if count > 1 => Verdict::SendAlone,
            500..=599 => Verdict::Later(format!("answered HTTP {status}")),
            _ => Verdict::Refused(format!("answered HTTP {status}")),
        }
    }
}

fn from_json(json: &Value) -> StowAnswer {
    // Some services wrap the data set into an array.
    let data_set = json.get(0).unwrap_or(json);
    let items = |tag: &str| data_set.get(tag).and_then(|element| element.get("Value")?.as_array());
    let mut answer = StowAnswer::default();
    for item in items(REFERENCED_SOP_SEQUENCE).into_iter().flatten() {
        if let Some(uid) = first(item, REFERENCED_SOP_INSTANCE_UID).and_then(Value::as_str) {
            answer.stored.insert(uid.to_owned());
        }
    }
    for item in items(FAILED_SOP_SEQUENCE).into_iter().flatten() {
        if let Some(uid) = first(item, REFERENCED_SOP_INSTANCE_UID).and_then(Value::as_str) {
            let reason = first(item, FAILURE_REASON).and_then(reason_code).unwrap_or(0);
            answer.failed.insert(uid.to_owned(), reason);
        }
    }
    answer
}

fn first<'a>(item: &'a Value, tag: &str) -> Option<&'a Value> {
    item.get(tag)?.get("Value")?.get(0)
}

/// A number, or, against the standard but seen, its digits in a string.
fn reason_code(value: &Value) -> Option<u16> {
    let number = value.as_u64().or_else(|| value.as_str()?.parse().ok())?;
    u16::try_from(number).ok()
}

/// Walks the tags of `<NativeDicomModel>`; nothing but nesting of the two sequences matters.
fn from_xml(text: &str) -> StowAnswer {
    let mut answer = StowAnswer::default();
    let mut sequence = None;
    let mut attribute = String::new();
    let (mut uid, mut reason) = (None, 0);
    for piece in text.split('<').skip(1) {
        let Some((tag, content)) = piece.split_once('>') else { break };
        let (element, attributes) = tag.split_once(char::is_whitespace).unwrap_or((tag, ""));
        let closes = element.starts_with('/');
        let name = element.trim_start_matches('/');
        match name.rsplit(':').next().unwrap_or(name) {
            "DicomAttribute" if !closes => {
                attribute = xml_attribute(attributes, "tag").unwrap_or_default().to_owned();
                if [FAILED_SOP_SEQUENCE, REFERENCED_SOP_SEQUENCE].contains(&attribute.as_str()) {
                    sequence = Some(attribute.clone());
                }
            }
            "Value" if closes => {}
            "Value" if attribute == REFERENCED_SOP_INSTANCE_UID => uid = Some(content.trim().to_owned()),
            "Value" if attribute == FAILURE_REASON => reason = content.trim().parse().unwrap_or(0),
            "Item" if !closes => (uid, reason) = (None, 0),
            "Item" => match (sequence.as_deref(), uid.take()) {
                (Some(FAILED_SOP_SEQUENCE), Some(uid)) => {
                    answer.failed.insert(uid, reason);
                }
                (Some(REFERENCED_SOP_SEQUENCE), Some(uid)) => {
                    answer.stored.insert(uid);
                }
                _ => {}
            },
            _ => {}
        }
    }
    answer
}

fn xml_attribute<'a>(attributes: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = attributes.split_once(&format!("{name}=\""))?;
    rest.split('"').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: &str = r#"{
        "00081190": {"vr": "UR", "Value": ["http://h/studies/1"]},
        "00081198": {"vr": "SQ", "Value": [
            {"00081150": {"vr": "UI", "Value": ["1.9"]}, "00081155": {"vr": "UI", "Value": ["1.2"]},
             "00081197": {"vr": "US", "Value": [49152]}},
            {"00081155": {"vr": "UI", "Value": ["1.3"]}, "00081197": {"vr": "US", "Value": ["42752"]}},
            {"00081155": {"vr": "UI", "Value": ["1.4"]}}]},
        "00081199": {"vr": "SQ", "Value": [{"00081155": {"vr": "UI", "Value": ["1.1"]}}]}}"#;

    const XML: &str = r#"<?xml version="1.0"?><NativeDicomModel xmlns="http://dicom.nema.org/PS3.19/models/NativeDICOM">
        <DicomAttribute tag="00081190" vr="UR"><Value number="1">http://h/</Value></DicomAttribute>
        <DicomAttribute tag="00081198" vr="SQ"><Item number="1">
          <DicomAttribute tag="00081155" vr="UI"><Value number="1">1.2</Value></DicomAttribute>
          <DicomAttribute tag="00081197" vr="US"><Value number="1">49152</Value></DicomAttribute></Item>
        <Item number="2"><DicomAttribute tag="00081155" vr="UI"><Value number="1">1.4</Value></DicomAttribute></Item>
        </DicomAttribute>
        <DicomAttribute tag="00081199" vr="SQ"><Item number="1">
          <DicomAttribute tag="00081155" vr="UI"><Value number="1">1.1</Value></DicomAttribute></Item>
        </DicomAttribute></NativeDicomModel>"#;

    #[test]
    fn json_says_what_was_stored_and_what_failed() {
        let answer = StowAnswer::parse("application/dicom+json", JSON.as_bytes());
        assert_eq!(answer.stored, HashSet::from(["1.1".to_owned()]));
        assert_eq!(answer.verdict(202, "1.1", 4, true), Verdict::Taken);
        assert!(matches!(answer.verdict(202, "1.2", 4, true), Verdict::Refused(_)));
        assert!(matches!(answer.verdict(202, "1.3", 4, true), Verdict::Later(_)), "A700");
        assert!(
            matches!(answer.verdict(202, "1.4", 4, true), Verdict::Refused(_)),
            "failed without a reason"
        );
        assert!(matches!(answer.verdict(202, "1.5", 4, true), Verdict::Later(_)), "not named");
    }

    #[test]
    fn xml_says_the_same() {
        let answer = StowAnswer::parse("application/dicom+xml; charset=utf-8", XML.as_bytes());
        assert_eq!(answer.stored, HashSet::from(["1.1".to_owned()]));
        assert_eq!(answer.failed, HashMap::from([("1.2".to_owned(), 0xC000), ("1.4".to_owned(), 0)]));
    }

    #[test]
    fn a_success_without_details_is_a_success_but_a_failure_without_details_is_narrowed_down() {
        let silent = StowAnswer::parse("text/html", b"<html>");
        assert_eq!(silent.verdict(200, "1.1", 9, true), Verdict::Taken);
        assert_eq!(silent.verdict(409, "1.1", 9, true), Verdict::SendAlone);
        assert_eq!(silent.verdict(400, "1.1", 9, true), Verdict::SendAlone);
        assert!(matches!(silent.verdict(400, "1.1", 1, true), Verdict::Refused(_)));
        assert!(matches!(silent.verdict(500, "1.1", 1, true), Verdict::Later(_)));
        assert!(matches!(silent.verdict(202, "1.1", 1, true), Verdict::Later(_)));
    }

    #[test]
    fn a_success_that_names_others_or_nobody_is_none_where_nothing_else_proves_it() {
        let silent = StowAnswer::parse("text/html", b"<html>");
        assert!(matches!(silent.verdict(200, "1.1", 1, false), Verdict::Later(_)));
        let answer = StowAnswer::parse("application/dicom+json", JSON.as_bytes());
        assert_eq!(answer.verdict(200, "1.1", 4, false), Verdict::Taken);
        assert!(matches!(answer.verdict(200, "1.5", 4, true), Verdict::Later(_)));
    }

    #[test]
    fn a_failed_instance_is_never_a_success_whatever_the_http_status() {
        let answer = StowAnswer::parse("application/dicom+json", JSON.as_bytes());
        assert!(matches!(answer.verdict(200, "1.2", 4, true), Verdict::Refused(_)));
    }

    #[test]
    fn nonsense_says_nothing() {
        for body in ["", "[]", "{", "[1]", r#"{"00081199":{"Value":[1,{"00081155":3}]}}"#] {
            assert!(StowAnswer::parse("application/dicom+json", body.as_bytes()).is_silent(), "{body}");
        }
        let nested = "[".repeat(100_000);
        assert!(StowAnswer::parse("application/dicom+json", nested.as_bytes()).is_silent());
    }
}
