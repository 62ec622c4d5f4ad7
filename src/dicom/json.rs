//! The DICOM JSON Model (PS3.18 Annex F), for QIDO, STOW responses and metadata: written as it is
//! walked, for metadata of a large study is many values.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use dicom_core::{Tag, VR};
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::dataset::{Dataset, Element, Value};

/// A data set as a JSON object, to be serialized or printed. Nesting is as deep as the data set's, which
/// the scan limits bound.
pub fn object(dataset: &Dataset) -> Object<'_> {
    Object(dataset)
}

pub struct Object<'a>(&'a Dataset);

struct Key(Tag);

struct Attribute<'a>(&'a Element);

struct Text<'a>(VR, &'a str);

impl fmt::Display for Object<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

impl Serialize for Object<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(tag, element)| (Key(tag), Attribute(element))))
    }
}

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:04X}{:04X}", self.0.group(), self.0.element()))
    }
}

impl Serialize for Attribute<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Element { vr, value } = self.0;
        let mut members = serializer.serialize_map(None)?;
        members.serialize_entry("vr", (*vr).to_string())?;
        match value {
            Value::Text(values) if values.iter().all(String::is_empty) => {}
            Value::Text(values) => {
                let values: Vec<_> = values.iter().map(|value| Text(*vr, value)).collect();
                members.serialize_entry("Value", &values)?;
            }
            Value::Sequence(items) if items.is_empty() => {}
            Value::Sequence(items) => {
                let items: Vec<_> = items.iter().map(Object).collect();
                members.serialize_entry("Value", &items)?;
            }
            Value::Inline(bytes) if bytes.is_empty() => {}
            Value::Inline(bytes) => members.serialize_entry("InlineBinary", &BASE64.encode(bytes))?,
            Value::BulkDataUri(uri) => members.serialize_entry("BulkDataURI", uri)?,
        }
        members.end()
    }
}

/// PS3.18 §F.2.2, table F.2.3-1. An empty value among several is null.
impl Serialize for Text<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Text(vr, value) = *self;
        match vr {
            _ if value.is_empty() => serializer.serialize_unit(),
            VR::PN => person_name(value, serializer),
            VR::DS | VR::FD | VR::FL | VR::IS | VR::SL | VR::SS | VR::UL | VR::US => {
                number(value, serializer)
            }
            VR::SV | VR::UV => big_number(value, serializer),
            _ => serializer.serialize_str(value),
        }
    }
}

fn person_name<S: Serializer>(value: &str, serializer: S) -> Result<S::Ok, S::Error> {
    let groups = ["Alphabetic", "Ideographic", "Phonetic"].into_iter().zip(value.split('='));
    let groups: Vec<_> = groups.filter(|(_, group)| !group.is_empty()).collect();
    if groups.is_empty() { serializer.serialize_unit() } else { serializer.collect_map(groups) }
}

/// What is no JSON number (1e999, NaN, text that has strayed into DS) stays a string, which
/// PS3.18 allows for these VRs.
fn number<S: Serializer>(value: &str, serializer: S) -> Result<S::Ok, S::Error> {
    let value = value.trim();
    if let Ok(integer) = value.parse::<i64>() {
        return serializer.serialize_i64(integer);
    }
    match value.parse::<f64>() {
        Ok(float) if float.is_finite() => serializer.serialize_f64(float),
        _ => serializer.serialize_str(value),
    }
}

/// Beyond 2⁵³ most readers lose digits.
fn big_number<S: Serializer>(value: &str, serializer: S) -> Result<S::Ok, S::Error> {
    const EXACT: i64 = 1 << 53;
    match value.parse::<i64>() {
        Ok(integer) if (-EXACT..=EXACT).contains(&integer) => serializer.serialize_i64(integer),
        _ => serializer.serialize_str(value),
    }
}

#[cfg(test)]
mod tests {
    use dicom_dictionary_std::tags;
    use serde_json::{Value as Json, json};

    use super::*;

    fn rendered(vr: VR, value: &str) -> Json {
        let mut dataset = Dataset::default();
        dataset.set(tags::PATIENT_NAME, vr, value);
        serde_json::to_value(object(&dataset)).unwrap()["00100010"].clone()
    }

    #[test]
    fn names_have_up_to_three_groups() {
        assert_eq!(
            rendered(VR::PN, "Yamada^Tarou=山田^太郎=やまだ^たろう"),
            json!({ "vr": "PN", "Value": [{ "Alphabetic": "Yamada^Tarou", "Ideographic": "山田^太郎", "Phonetic": "やまだ^たろう" }] })
        );
        assert_eq!(
            rendered(VR::PN, "=山田\\"),
            json!({ "vr": "PN", "Value": [{ "Ideographic": "山田" }, null] })
        );
    }

    #[test]
    fn numbers_are_numbers_where_json_has_them() {
        assert_eq!(rendered(VR::IS, "+12"), json!({ "vr": "IS", "Value": [12] }));
        assert_eq!(rendered(VR::DS, "0.5\\-1E2"), json!({ "vr": "DS", "Value": [0.5, -100.0] }));
        assert_eq!(rendered(VR::DS, "1e999\\NaN\\x"), json!({ "vr": "DS", "Value": ["1e999", "NaN", "x"] }));
        assert_eq!(rendered(VR::FD, "NaN\\inf"), json!({ "vr": "FD", "Value": ["NaN", "inf"] }));
        assert_eq!(
            rendered(VR::UV, "9007199254740992\\18446744073709551615"),
            json!({ "vr": "UV", "Value": [9007199254740992i64, "18446744073709551615"] })
        );
    }

    #[test]
    fn empty_elements_have_no_value_and_empty_values_are_null() {
        assert_eq!(rendered(VR::LO, ""), json!({ "vr": "LO" }));
        assert_eq!(rendered(VR::LO, "A\\\\B"), json!({ "vr": "LO", "Value": ["A", null, "B"] }));
        assert_eq!(rendered(VR::LT, "A\\B"), json!({ "vr": "LT", "Value": ["A\\B"] }));
    }

    #[test]
    fn sequences_nest_and_members_stand_in_tag_order() {
        let mut item = Dataset::default();
        item.set(tags::REFERENCED_SOP_INSTANCE_UID, VR::UI, "1.2");
        item.set(tags::REFERENCED_SOP_CLASS_UID, VR::UI, "1.1");
        let mut dataset = Dataset::default();
        dataset.set_sequence(tags::REFERENCED_SOP_SEQUENCE, vec![item]);
        dataset.set_sequence(tags::FAILED_SOP_SEQUENCE, Vec::new());
        assert_eq!(
            object(&dataset).to_string(),
            r#"{"00081198":{"vr":"SQ"},"00081199":{"vr":"SQ","Value":[{"00081150":{"vr":"UI","Value":["1.1"]},"00081155":{"vr":"UI","Value":["1.2"]}}]}}"#
        );
    }
}
