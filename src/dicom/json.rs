//! The DICOM JSON Model (PS3.18 Annex F), for QIDO, STOW responses and metadata.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use dicom_core::VR;
use serde_json::{Map, Number, Value as Json, json};

use super::dataset::{Dataset, Element, Value};

/// A data set as a JSON object. Nesting is as deep as the data set's, which the scan limits bound.
pub fn object(dataset: &Dataset) -> Json {
    let members = dataset
        .iter()
        .map(|(tag, element)| (format!("{:04X}{:04X}", tag.group(), tag.element()), attribute(element)));
    Json::Object(members.collect::<Map<_, _>>())
}

/// Several data sets as a JSON array.
pub fn array<'a>(datasets: impl IntoIterator<Item = &'a Dataset>) -> Json {
    Json::Array(datasets.into_iter().map(object).collect())
}

fn attribute(element: &Element) -> Json {
    let vr = element.vr.to_string();
    match &element.value {
        Value::Text(values) if values.iter().all(String::is_empty) => json!({ "vr": vr }),
        Value::Text(values) => {
            let values: Vec<Json> = values.iter().map(|value| text(element.vr, value)).collect();
            json!({ "vr": vr, "Value": values })
        }
        Value::Sequence(items) if items.is_empty() => json!({ "vr": vr }),
        Value::Sequence(items) => json!({ "vr": vr, "Value": array(items) }),
        Value::Inline(bytes) if bytes.is_empty() => json!({ "vr": vr }),
        Value::Inline(bytes) => json!({ "vr": vr, "InlineBinary": BASE64.encode(bytes) }),
        Value::BulkDataUri(uri) => json!({ "vr": vr, "BulkDataURI": uri }),
    }
}

/// PS3.18 §F.2.2, table F.2.3-1. An empty value among several is null.
fn text(vr: VR, value: &str) -> Json {
    match vr {
        _ if value.is_empty() => Json::Null,
        VR::PN => person_name(value),
        VR::DS | VR::FD | VR::FL | VR::IS | VR::SL | VR::SS | VR::UL | VR::US => number(value),
        VR::SV | VR::UV => big_number(value),
        _ => Json::from(value),
    }
}

fn person_name(value: &str) -> Json {
    let groups = ["Alphabetic", "Ideographic", "Phonetic"].into_iter().zip(value.split('='));
    let members: Map<String, Json> = groups
        .filter(|(_, group)| !group.is_empty())
        .map(|(name, group)| (name.to_owned(), Json::from(group)))
        .collect();
    if members.is_empty() { Json::Null } else { Json::Object(members) }
}

/// What is no JSON number (1e999, NaN, text that has strayed into DS) stays a string, which
/// PS3.18 allows for these VRs.
fn number(value: &str) -> Json {
    let value = value.trim();
    if let Ok(integer) = value.parse::<i64>() {
        return Json::from(integer);
    }
    let float = value.parse().ok().and_then(Number::from_f64);
    float.map_or_else(|| Json::from(value), Json::Number)
}

/// Beyond 2⁵³ most readers lose digits.
fn big_number(value: &str) -> Json {
    const EXACT: i64 = 1 << 53;
    match value.parse::<i64>() {
        Ok(integer) if (-EXACT..=EXACT).contains(&integer) => Json::from(integer),
        _ => Json::from(value),
    }
}

#[cfg(test)]
mod tests {
    use dicom_dictionary_std::tags;

    use super::*;

    fn rendered(vr: VR, value: &str) -> Json {
        let mut dataset = Dataset::default();
        dataset.set(tags::PATIENT_NAME, vr, value);
        object(&dataset)["00100010"].clone()
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
            r#"{"00081198":{"vr":"SQ"},"00081199":{"Value":[{"00081150":{"Value":["1.1"],"vr":"UI"},"00081155":{"Value":["1.2"],"vr":"UI"}}],"vr":"SQ"}}"#
        );
    }
}
