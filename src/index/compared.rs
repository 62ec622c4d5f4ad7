//! Values in the form in which they are compared, so that a plain comparison of texts, the same
//! on both databases, finds what PS3.4 §C.2.2.2 wants found. Stored beside the value as it came;
//! a query's value takes the same form.

use dicom_core::VR;

use crate::query::comparable::comparable;

/// Longest value kept, in bytes: PostgreSQL can't index more than 2,704, and no VR but LT allows
/// as much (PS3.5 §6.2). What is longer is not a valid value; it is cut, never refused.
const LONGEST: usize = 1536;
/// Longest part of a value that is indexed together with the whole.
const LONGEST_PART: usize = 768;

/// `value` as it is stored.
pub(super) fn clip(vr: VR, value: &str) -> String {
    match vr {
        VR::LT | VR::ST | VR::UT => value.to_owned(),
        _ => cut(value, LONGEST).to_owned(),
    }
}

/// `value` as part of a key of two.
pub(super) fn clip_key(value: &str) -> &str {
    cut(value, LONGEST_PART)
}

fn cut(value: &str, longest: usize) -> &str {
    let mut end = value.len().min(longest);
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    &value[..end]
}

/// The form in which a value of this VR is compared, each of several values for itself; `None`
/// for a VR whose values are compared as they are.
pub(super) fn compared(vr: VR, value: &str) -> Option<String> {
    if !matches!(vr, VR::PN | VR::DA | VR::TM | VR::DT) {
        return None;
    }
    let values: Vec<String> = value.split('\\').map(|value| comparable(vr, value)).collect();
    Some(cut(&values.join("\\"), LONGEST).to_owned())
}

/// A row of `value_parts`: what finds which whole.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Part {
    pub kind: &'static str,
    pub part: String,
    pub whole: String,
}

/// `kind` of a part that is one of several values.
pub(super) const VALUE: &str = "value";
/// `kind` of a part that is a name among several, or any group of one.
pub(super) const NAME: &str = "name";
/// `kind` of a part that is the n-th group of a name; its whole is the one name.
pub(super) const NAME_GROUPS: [&str; 3] = ["name1", "name2", "name3"];

/// What a search may ask for to find `whole`, which is in its compared form: each of its values,
/// and of person names each group (PS3.5 §6.2.1). A single value that has no groups is found by
/// itself.
pub(super) fn parts(vr: VR, whole: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    if !has_several_values(vr) || (vr != VR::PN && !whole.contains('\\')) {
        return parts;
    }
    for value in whole.split('\\').filter(|value| !value.is_empty()) {
        let value = cut(value, LONGEST_PART);
        let part = |kind, part: &str, whole: &str| Part { kind, part: part.into(), whole: whole.into() };
        if vr != VR::PN {
            parts.push(part(VALUE, value, whole));
            continue;
        }
        parts.push(part(NAME, value, whole));
        for (group, kind) in value.split('=').zip(NAME_GROUPS).filter(|(group, _)| !group.is_empty()) {
            parts.push(part(kind, group, value));
            parts.push(part(NAME, group, whole));
        }
    }
    parts
}

/// In a long text a backslash is a character, a UID of ours never has one.
pub(super) fn has_several_values(vr: VR) -> bool {
    !matches!(vr, VR::LT | VR::ST | VR::UT | VR::UR | VR::UI)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found_by(vr: VR, whole: &str) -> Vec<(&'static str, String)> {
        let mut parts = parts(vr, whole);
        parts.sort();
        parts.dedup();
        parts.into_iter().map(|part| (part.kind, part.part)).collect()
    }

    #[test]
    fn a_name_is_found_by_each_of_its_groups() {
        let whole = compared(VR::PN, "Yamada^Tarou^^=山田^太郎").unwrap();
        let expected = [
            (NAME, "YAMADA^TAROU"),
            (NAME, "YAMADA^TAROU=山田^太郎"),
            (NAME, "山田^太郎"),
            ("name1", "YAMADA^TAROU"),
            ("name2", "山田^太郎"),
        ];
        assert_eq!(found_by(VR::PN, &whole), expected.map(|(kind, part)| (kind, part.to_owned())));
    }

    #[test]
    fn only_several_values_have_parts() {
        assert!(parts(VR::CS, "CT").is_empty());
        assert!(parts(VR::LT, "a\\b").is_empty());
        assert_eq!(found_by(VR::CS, "CT\\PT"), [(VALUE, "CT".to_owned()), (VALUE, "PT".to_owned())]);
    }

    #[test]
    fn a_value_longer_than_any_valid_one_is_cut_between_characters() {
        assert_eq!(clip(VR::LO, &"ä".repeat(2000)).len(), LONGEST);
        assert_eq!(clip(VR::LT, &"ä".repeat(2000)).len(), 4000);
        assert_eq!(cut("aä", 2), "a");
    }
}
