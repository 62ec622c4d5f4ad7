//! Rules: which destinations an object goes to. Pure; the router asks, once per received object.
//!
//! Conditions of one rule are joined by AND, the values of one condition by OR. All rules that
//! match an object apply. Without any rule everything goes to every destination.

use std::net::IpAddr;

use dicom_core::Tag;
use dicom_dictionary_std::tags;

use crate::config::{Conditions, RuleConfig};
use crate::spool::{Origin, SpoolEntry};

/// The rules in force, with the names of all destinations.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    destinations: Vec<String>,
    rules: Vec<RuleConfig>,
}

impl Rules {
    /// `Err` names the rule that points to a destination that does not exist.
    pub fn new(destinations: Vec<String>, rules: Vec<RuleConfig>) -> Result<Rules, String> {
        for rule in &rules {
            if let Some(unknown) = rule.to.iter().find(|name| !destinations.contains(name)) {
                return Err(format!(
                    "rule {:?} sends to {unknown:?}, which is not a destination; add it or correct the rule",
                    rule.name
                ));
            }
        }
        Ok(Rules { destinations, rules })
    }

    /// The destinations of an object, in the order of the configuration; none: unrouted.
    pub fn decide(&self, entry: &SpoolEntry) -> Vec<String> {
        if self.rules.is_empty() {
            return self.destinations.clone();
        }
        let matching: Vec<&RuleConfig> =
            self.rules.iter().filter(|rule| matches(&rule.when, entry)).collect();
        let wanted = |name: &String| matching.iter().any(|rule| rule.to.contains(name));
        self.destinations.iter().filter(|name| wanted(name)).cloned().collect()
    }
}

fn matches(when: &Conditions, entry: &SpoolEntry) -> bool {
    matches_origin(when, &entry.origin)
        && any(&when.sop_class_uid, Some(entry.sop_class_uid.as_str()), text_matches)
        && any(&when.transfer_syntax_uid, Some(&entry.transfer_syntax_uid), text_matches)
        && by_attribute(when).iter().all(|(patterns, tag, how)| any_value(patterns, entry, *tag, *how))
}

type How = fn(&str, &str) -> bool;

fn by_attribute(when: &Conditions) -> [(&[String], Tag, How); 7] {
    [
        (&when.modality, tags::MODALITY, text_matches),
        (&when.station_name, tags::STATION_NAME, text_matches),
        (&when.institution_name, tags::INSTITUTION_NAME, text_matches),
        (&when.body_part_examined, tags::BODY_PART_EXAMINED, text_matches),
        (&when.study_description, tags::STUDY_DESCRIPTION, text_matches),
        (&when.series_description, tags::SERIES_DESCRIPTION, text_matches),
        (&when.referring_physician_name, tags::REFERRING_PHYSICIAN_NAME, name_matches),
    ]
}

fn matches_origin(when: &Conditions, origin: &Origin) -> bool {
    let (calling, called, peer, account) = match origin {
        Origin::Dimse { calling_ae_title, called_ae_title, peer } => {
            (Some(calling_ae_title.as_str()), Some(called_ae_title.as_str()), Some(*peer), None)
        }
        Origin::Stow { account, peer } => (None, None, *peer, Some(account.as_str())),
    };
    let peer = peer.map(|peer| peer.to_canonical().to_string());
    any(&when.door, Some(origin.door()), text_matches)
        && any(&when.calling_ae_title, calling, text_matches)
        && any(&when.called_ae_title, called, text_matches)
        && any(&when.peer, peer.as_deref(), address_matches)
        && any(&when.account, account, text_matches)
}

/// An absent condition holds; an absent value meets no condition.
fn any(patterns: &[String], value: Option<&str>, how: How) -> bool {
    patterns.is_empty() || value.is_some_and(|value| patterns.iter().any(|pattern| how(pattern, value)))
}

/// As [`any`], for an attribute: one of its values suffices.
fn any_value(patterns: &[String], entry: &SpoolEntry, tag: Tag, how: How) -> bool {
    if patterns.is_empty() {
        return true;
    }
    let values = entry.attributes.get(tag).unwrap_or_default();
    values.split('\\').any(|value| any(patterns, Some(value.trim()), how))
}

fn text_matches(pattern: &str, value: &str) -> bool {
    wildcard(pattern, value, |a, b| a == b)
}

/// Person names are compared without regard to case (PS3.4 §C.2.2.2.1), each component group
/// (alphabetic, ideographic, phonetic) for itself; trailing delimiters mean nothing (PS3.5 §6.2.1).
fn name_matches(pattern: &str, value: &str) -> bool {
    let pattern = pattern.trim_end_matches('^');
    let same = |a: char, b: char| a == b || a.to_lowercase().eq(b.to_lowercase());
    value.split('=').any(|group| wildcard(pattern, group.trim().trim_end_matches('^'), same))
}

/// An address, with wildcards, or a network such as `10.1.4.0/24`.
fn address_matches(pattern: &str, value: &str) -> bool {
    let Some((network, bits)) = pattern.split_once('/') else { return text_matches(pattern, value) };
    let (Ok(network), Ok(bits)) = (network.parse::<IpAddr>(), bits.parse::<u32>()) else { return false };
    match (network, value.parse::<IpAddr>()) {
        (IpAddr::V4(network), Ok(IpAddr::V4(value))) if bits <= 32 => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            u32::from(network) & mask == u32::from(value) & mask
        }
        (IpAddr::V6(network), Ok(IpAddr::V6(value))) if bits <= 128 => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            u128::from(network) & mask == u128::from(value) & mask
        }
        _ => false,
    }
}

/// `*` stands for any characters, `?` for one. Linear in memory, without recursion.
fn wildcard(pattern: &str, value: &str, same: impl Fn(char, char) -> bool) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let value: Vec<char> = value.chars().collect();
    let (mut p, mut v) = (0, 0);
    let mut after_star: Option<(usize, usize)> = None;
    while v < value.len() {
        match pattern.get(p) {
            Some('*') => {
                after_star = Some((p + 1, v));
                p += 1;
            }
            Some(&c) if c == '?' || same(c, value[v]) => {
                p += 1;
                v += 1;
            }
            _ => {
                // Let the last star swallow one more character, and try again from there.
                let Some((star, taken)) = after_star else { return false };
                after_star = Some((star, taken + 1));
                p = star;
                v = taken + 1;
            }
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Millis;
    use crate::dicom::{AeTitle, Attributes, InstanceKey, Uid};
    use crate::spool::{Digest, EntryId};

    fn uid(text: &str) -> Uid {
        Uid::parse(text).unwrap()
    }

    fn entry(origin: Origin, values: &[(Tag, &str)]) -> SpoolEntry {
        let mut attributes = Attributes::default();
        for (tag, value) in values {
            attributes.set(*tag, *value);
        }
        SpoolEntry {
            id: EntryId(1),
            key: InstanceKey {
                study_instance_uid: uid("1.2"),
                series_instance_uid: uid("1.2.3"),
                sop_instance_uid: uid("1.2.3.4"),
            },
            sop_class_uid: uid("1.2.840.10008.5.1.4.1.1.2"),
            transfer_syntax_uid: "1.2.840.10008.1.2.1".into(),
            data_set_sha256: Digest([0; 32]),
            data_set_length: 10,
            prefix_length: 300,
            origin,
            received_at: Millis(0),
            attributes,
            rule_set: 0,
            conflict_with: None,
        }
    }

    fn from_ct() -> SpoolEntry {
        let origin = Origin::Dimse {
            calling_ae_title: AeTitle::parse("CT_1").unwrap(),
            called_ae_title: AeTitle::parse("RELAYPACS").unwrap(),
            peer: "10.1.4.7".parse().unwrap(),
        };
        entry(origin, &[(tags::MODALITY, "CT"), (tags::REFERRING_PHYSICIAN_NAME, "Doe^Jane=ドウ")])
    }

    fn from_web() -> SpoolEntry {
        entry(Origin::Stow { account: "key1".into(), peer: None }, &[(tags::MODALITY, "MR")])
    }

    fn rule(to: &str, when: &str) -> RuleConfig {
        let when = serde_json::from_str(when).unwrap();
        RuleConfig { name: format!("to-{to}"), when, to: vec![to.into()] }
    }

    fn rules(rules: Vec<RuleConfig>) -> Rules {
        Rules::new(vec!["a".into(), "b".into(), "c".into()], rules).unwrap()
    }

    #[test]
    fn without_rules_everything_goes_everywhere() {
        assert_eq!(rules(vec![]).decide(&from_ct()), ["a", "b", "c"]);
        assert!(Rules::default().decide(&from_ct()).is_empty());
    }

    #[test]
    fn all_matching_rules_apply_and_a_destination_is_named_once() {
        let rules = rules(vec![
            rule("c", r#"{"modality": ["MR", "CT"]}"#),
            rule("a", r#"{"calling_ae_title": ["CT_*"], "door": ["dimse"]}"#),
            rule("c", "{}"),
            rule("b", r#"{"modality": ["US"]}"#),
        ]);
        assert_eq!(rules.decide(&from_ct()), ["a", "c"]);
        assert_eq!(rules.decide(&from_web()), ["c"]);
    }

    #[test]
    fn conditions_are_joined_by_and_values_by_or() {
        let both = rules(vec![rule("a", r#"{"modality": ["CT"], "door": ["stow"]}"#)]);
        assert!(both.decide(&from_ct()).is_empty());
        let either = rules(vec![rule("a", r#"{"modality": ["US", "C?"]}"#)]);
        assert_eq!(either.decide(&from_ct()), ["a"]);
    }

    #[test]
    fn an_absent_value_meets_no_condition() {
        let any_station = rules(vec![rule("a", r#"{"calling_ae_title": ["*"]}"#)]);
        assert!(any_station.decide(&from_web()).is_empty());
    }

    #[test]
    fn names_match_without_case_other_text_with_case() {
        for (when, expected) in [
            (r#"{"referring_physician_name": ["DOE^*"]}"#, true),
            (r#"{"referring_physician_name": ["doe^jane^^"]}"#, true),
            (r#"{"referring_physician_name": ["ド*"]}"#, true),
            (r#"{"referring_physician_name": ["roe*"]}"#, false),
            (r#"{"modality": ["ct"]}"#, false),
        ] {
            assert_eq!(!rules(vec![rule("a", when)]).decide(&from_ct()).is_empty(), expected, "{when}");
        }
    }

    #[test]
    fn peers_match_by_address_wildcard_or_network() {
        for (pattern, expected) in [
            ("10.1.4.7", true),
            ("10.1.*", true),
            ("10.1.4.0/24", true),
            ("0.0.0.0/0", true),
            ("10.1.5.0/24", false),
            ("10.1.4.7/99", false),
            ("fd00::/8", false),
        ] {
            assert_eq!(address_matches(pattern, "10.1.4.7"), expected, "{pattern}");
        }
        assert!(address_matches("fd00::/8", "fd12::1"));
    }

    #[test]
    fn wildcards_backtrack_without_blowing_up() {
        assert!(text_matches("*a?c*", "xxabcabd"));
        assert!(!text_matches("a*b", "acbc"));
        assert!(text_matches("***", ""));
        assert!(!text_matches(&"*a".repeat(50), &"a".repeat(49)));
        assert!(!text_matches(&format!("{}b", "*a".repeat(200)), &"a".repeat(5000)));
    }

    #[test]
    fn a_rule_to_nowhere_is_refused() {
        let error = Rules::new(vec!["a".into()], vec![rule("z", "{}")]).unwrap_err();
        assert!(error.contains("\"z\""), "{error}");
    }
}
