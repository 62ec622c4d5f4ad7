//! The Store Instances Response Module (PS3.18 §I.2), as data and on the wire. It is written as
//! it is sent, item by item: results of many thousand parts are never one text in memory.

use bytes::Bytes;
use poem::Body;
use poem::http::StatusCode;

use super::accept::{DICOM_XML, Offer};
use crate::dicom::{InstanceKey, Uid};

/// What became of one part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PartResult {
    Stored {
        key: InstanceKey,
        sop_class_uid: Uid,
    },
    Failed {
        sop_class_uid: Uid,
        sop_instance_uid: Uid,
        reason: u16,
    },
    /// It failed, and can't be named.
    Unidentified {
        reason: u16,
    },
}

pub struct Answer {
    /// The study that the request's path names.
    pub study: Option<Uid>,
    pub results: Vec<PartResult>,
}

/// Items of a sequence in one chunk of the body.
const ITEMS_PER_CHUNK: usize = 128;

impl Answer {
    /// PS3.18 table 10.5.3-1.
    pub fn status(&self) -> StatusCode {
        let stored = self.results.iter().filter(|result| matches!(result, PartResult::Stored { .. })).count();
        match stored {
            0 => StatusCode::CONFLICT,
            all if all == self.results.len() => StatusCode::OK,
            _ => StatusCode::ACCEPTED,
        }
    }

    pub fn render(self, representation: Offer, dicomweb_url: &str) -> Body {
        let format = if representation == DICOM_XML { Format::Xml } else { Format::Json };
        let url = dicomweb_url.to_owned();
        let chunks = Chunks { answer: self, url, format, at: Step::Head, result: 0, items: 0 };
        Body::from_bytes_stream(futures_util::stream::iter(chunks.map(Ok::<_, std::io::Error>)))
    }

    /// Where all of it can be retrieved; nothing when it is of several studies.
    fn retrieve_url(&self, dicomweb_url: &str) -> Option<String> {
        let mut studies = self.results.iter().filter_map(|result| match result {
            PartResult::Stored { key, .. } => Some(&key.study_instance_uid),
            _ => None,
        });
        let study = match &self.study {
            Some(study) => study,
            None => {
                let first = studies.next()?;
                if studies.any(|study| study != first) {
                    return None;
                }
                first
            }
        };
        Some(format!("{dicomweb_url}/studies/{study}"))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Json,
    Xml,
}

/// Sequences in tag order, as both representations want.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Head,
    Sequence(Sequence),
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sequence {
    Failed,
    Referenced,
    OtherFailures,
}

impl Sequence {
    fn name(self) -> Name {
        match self {
            Sequence::Failed => Name("00081198", "SQ", "FailedSOPSequence"),
            Sequence::Referenced => Name("00081199", "SQ", "ReferencedSOPSequence"),
            Sequence::OtherFailures => Name("0008119A", "SQ", "OtherFailuresSequence"),
        }
    }

    fn next(self) -> Step {
        match self {
            Sequence::Failed => Step::Sequence(Sequence::Referenced),
            Sequence::Referenced => Step::Sequence(Sequence::OtherFailures),
            Sequence::OtherFailures => Step::Done,
        }
    }

    fn holds(self, result: &PartResult) -> bool {
        matches!(
            (self, result),
            (Sequence::Failed, PartResult::Failed { .. })
                | (Sequence::Referenced, PartResult::Stored { .. })
                | (Sequence::OtherFailures, PartResult::Unidentified { .. })
        )
    }
}

/// Tag, VR, keyword.
#[derive(Debug, Clone, Copy)]
struct Name(&'static str, &'static str, &'static str);

const RETRIEVE_URL: Name = Name("00081190", "UR", "RetrieveURL");
const REFERENCED_SOP_CLASS_UID: Name = Name("00081150", "UI", "ReferencedSOPClassUID");
const REFERENCED_SOP_INSTANCE_UID: Name = Name("00081155", "UI", "ReferencedSOPInstanceUID");
const FAILURE_REASON: Name = Name("00081197", "US", "FailureReason");

struct Chunks {
    answer: Answer,
    url: String,
    format: Format,
    at: Step,
    /// The next result to look at for the present sequence.
    result: usize,
    /// Items of it so far.
    items: usize,
}

impl Iterator for Chunks {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let mut out = String::new();
        while out.is_empty() {
            match self.at {
                Step::Head => {
                    self.head(&mut out);
                    self.at = Step::Sequence(Sequence::Failed);
                }
                Step::Sequence(sequence) => self.items(sequence, &mut out),
                Step::Done => return None,
            }
        }
        Some(out.into())
    }
}

impl Chunks {
    fn head(&mut self, out: &mut String) {
        let url = self.answer.retrieve_url(&self.url);
        out.push_str(match self.format {
            Format::Json => "{",
            Format::Xml => {
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
                 <NativeDicomModel xmlns=\"http://dicom.nema.org/PS3.19/models/NativeDICOM\">"
            }
        });
        // Type 2: present, also when there is no one place to name.
        self.element(out, RETRIEVE_URL, url.as_deref().map(Value::Text));
    }

    /// Some items of a sequence, with its beginning or its end when they are due. A sequence
    /// without items is left out: an empty FailedSOPSequence would tell of failures.
    fn items(&mut self, sequence: Sequence, out: &mut String) {
        let mut written = 0;
        while self.result < self.answer.results.len() {
            if written == ITEMS_PER_CHUNK {
                return;
            }
            let at = self.result;
            self.result += 1;
            if !sequence.holds(&self.answer.results[at]) {
                continue;
            }
            self.open_item(sequence, out);
            self.item(&self.answer.results[at], out);
            out.push_str(match self.format {
                Format::Json => "}",
                Format::Xml => "</Item>",
            });
            written += 1;
        }
        self.close(sequence, out);
    }

    fn open_item(&mut self, sequence: Sequence, out: &mut String) {
        let Name(tag, vr, keyword) = sequence.name();
        self.items += 1;
        match (self.format, self.items) {
            (Format::Json, 1) => out.push_str(&format!(",\"{tag}\":{{\"vr\":\"{vr}\",\"Value\":[{{")),
            (Format::Json, _) => out.push_str(",{"),
            (Format::Xml, number) => {
                if number == 1 {
                    let open = format!("<DicomAttribute tag=\"{tag}\" vr=\"{vr}\" keyword=\"{keyword}\">");
                    out.push_str(&open);
                }
                out.push_str(&format!("<Item number=\"{number}\">"));
            }
        }
    }

    fn item(&self, result: &PartResult, out: &mut String) {
        let mut separator = "";
        let mut element = |name: Name, value: Value<'_>| {
            if self.format == Format::Json {
                out.push_str(separator);
                separator = ",";
            }
            self.element(out, name, Some(value));
        };
        match result {
            PartResult::Stored { key, sop_class_uid } => {
                element(REFERENCED_SOP_CLASS_UID, Value::Text(sop_class_uid.as_str()));
                element(REFERENCED_SOP_INSTANCE_UID, Value::Text(key.sop_instance_uid.as_str()));
                let url = format!(
                    "{}/studies/{}/series/{}/instances/{}",
                    self.url, key.study_instance_uid, key.series_instance_uid, key.sop_instance_uid
                );
                element(RETRIEVE_URL, Value::Text(&url));
            }
            PartResult::Failed { sop_class_uid, sop_instance_uid, reason } => {
                element(REFERENCED_SOP_CLASS_UID, Value::Text(sop_class_uid.as_str()));
                element(REFERENCED_SOP_INSTANCE_UID, Value::Text(sop_instance_uid.as_str()));
                element(FAILURE_REASON, Value::Number(*reason));
            }
            PartResult::Unidentified { reason } => element(FAILURE_REASON, Value::Number(*reason)),
        }
    }

    /// The end of a sequence that was begun, and after the last one that of the data set.
    fn close(&mut self, sequence: Sequence, out: &mut String) {
        if self.items > 0 {
            out.push_str(match self.format {
                Format::Json => "]}",
                Format::Xml => "</DicomAttribute>",
            });
        }
        (self.result, self.items) = (0, 0);
        self.at = sequence.next();
        if self.at == Step::Done {
            out.push_str(match self.format {
                Format::Json => "}",
                Format::Xml => "</NativeDicomModel>",
            });
        }
    }

    fn element(&self, out: &mut String, Name(tag, vr, keyword): Name, value: Option<Value<'_>>) {
        match (self.format, value) {
            (Format::Json, None) => out.push_str(&format!("\"{tag}\":{{\"vr\":\"{vr}\"}}")),
            (Format::Json, Some(value)) => {
                let value = value.json();
                out.push_str(&format!("\"{tag}\":{{\"vr\":\"{vr}\",\"Value\":[{value}]}}"));
            }
            (Format::Xml, value) => {
                let value = value.map(|value| format!("<Value number=\"1\">{}</Value>", value.xml()));
                out.push_str(&format!(
                    "<DicomAttribute tag=\"{tag}\" vr=\"{vr}\" keyword=\"{keyword}\">{}</DicomAttribute>",
                    value.unwrap_or_default()
                ));
            }
        }
    }
}

/// UIDs and URLs of ours, and numbers.
enum Value<'a> {
    Text(&'a str),
    Number(u16),
}

impl Value<'_> {
    fn json(&self) -> String {
        match self {
            Value::Text(text) => serde_json::Value::from(*text).to_string(),
            Value::Number(number) => number.to_string(),
        }
    }

    fn xml(&self) -> String {
        match self {
            Value::Text(text) => {
                text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
            }
            Value::Number(number) => number.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::accept::DICOM_JSON;
    use super::*;

    fn uid(text: &str) -> Uid {
        Uid::parse(text).unwrap()
    }

    fn stored(study: &str, instance: &str) -> PartResult {
        PartResult::Stored {
            key: InstanceKey {
                study_instance_uid: uid(study),
                series_instance_uid: uid("1.2"),
                sop_instance_uid: uid(instance),
            },
            sop_class_uid: uid("1.2.840.10008.5.1.4.1.1.2"),
        }
    }

    fn failed(instance: &str) -> PartResult {
        PartResult::Failed { sop_class_uid: uid("1.9"), sop_instance_uid: uid(instance), reason: 0xA900 }
    }

    async fn json(results: Vec<PartResult>) -> serde_json::Value {
        let answer = Answer { study: None, results };
        answer.render(DICOM_JSON, "http://node/dicom-web").into_json().await.unwrap()
    }

    #[tokio::test]
    async fn success_names_each_instance_and_no_failures() {
        let results: Vec<_> = (0..300).map(|n| stored("1.1", &format!("1.3.{n}"))).collect();
        let body = json(results).await;
        assert_eq!(body["00081190"]["Value"][0], "http://node/dicom-web/studies/1.1");
        let items = body["00081199"]["Value"].as_array().unwrap();
        assert_eq!(items.len(), 300);
        assert_eq!(
            items[299]["00081190"]["Value"][0],
            "http://node/dicom-web/studies/1.1/series/1.2/instances/1.3.299"
        );
        assert_eq!(body.as_object().unwrap().len(), 2);
    }

    #[tokio::test]
    async fn failures_stand_where_they_can_be_named() {
        let body = json(vec![
            stored("1.1", "1.3.1"),
            failed("1.3.2"),
            PartResult::Unidentified { reason: 0xC000 },
            stored("1.7", "1.3.3"),
        ])
        .await;
        assert_eq!(body["00081190"], serde_json::json!({ "vr": "UR" }), "two studies have no one place");
        assert_eq!(body["00081198"]["Value"][0]["00081155"]["Value"][0], "1.3.2");
        assert_eq!(body["00081198"]["Value"][0]["00081197"]["Value"][0], 0xA900);
        assert_eq!(body["0008119A"]["Value"][0]["00081197"]["Value"][0], 0xC000);
        assert_eq!(body["00081199"]["Value"].as_array().unwrap().len(), 2);
    }

    #[tokio::test]
    async fn xml_says_the_same() {
        let answer = Answer {
            study: Some(uid("1.1")),
            results: vec![stored("1.1", "1.3.1"), PartResult::Unidentified { reason: 272 }],
        };
        let text = answer.render(DICOM_XML, "http://a&b").into_string().await.unwrap();
        assert!(text.starts_with("<?xml"), "{text}");
        assert!(
            text.contains("keyword=\"RetrieveURL\"><Value number=\"1\">http://a&amp;b/studies/1.1</Value>")
        );
        assert!(text.contains("keyword=\"ReferencedSOPSequence\"><Item number=\"1\">"));
        assert!(text.contains("keyword=\"FailureReason\"><Value number=\"1\">272</Value>"));
        assert!(text.ends_with("</Item></DicomAttribute></NativeDicomModel>"), "{text}");
    }

    #[test]
    fn the_status_tells_all_some_or_none() {
        let status = |results| Answer { study: None, results }.status();
        assert_eq!(status(vec![stored("1.1", "1.2")]), StatusCode::OK);
        assert_eq!(status(vec![stored("1.1", "1.2"), failed("1.3")]), StatusCode::ACCEPTED);
        assert_eq!(status(vec![failed("1.3")]), StatusCode::CONFLICT);
    }
}
