//! Values in the form in which they are compared, so that a plain comparison of texts, the same
//! on both databases, finds what PS3.4 §C.2.2.2 wants found. Stored beside the value as it came;
//! a query's value takes the same form.

use dicom_core::VR;

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

/// The form in which a value of this VR is compared. Empty when it has none (a date that is no
/// date), which matches nothing.
pub(super) fn comparable(vr: VR, value: &str) -> String {
    match vr {
        VR::PN => cut(&fold(value), LONGEST).to_owned(),
        VR::DA | VR::TM | VR::DT => bound(vr, value, Edge::First).unwrap_or_default(),
        _ => value.to_owned(),
    }
}

/// Which moment of what a date or time leaves open: `10` is all of that hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Edge {
    First,
    Last,
}

/// A date or time in full digits, `None` when it is not one.
pub(super) fn bound(vr: VR, value: &str, edge: Edge) -> Option<String> {
    let value = value.trim();
    match vr {
        VR::DA => date(value),
        VR::TM => time(value, edge),
        VR::DT => date_time(value, edge),
        _ => Some(value.to_owned()),
    }
}

/// `YYYYMMDD`, or `YYYY.MM.DD` of ACR-NEMA (PS3.5 §6.2).
fn date(value: &str) -> Option<String> {
    let digits: String = match value.as_bytes() {
        [_, _, _, _, b'.', _, _, b'.', _, _] => value.split('.').collect(),
        _ => value.to_owned(),
    };
    (digits.len() == 8 && is_digits(&digits)).then_some(digits)
}

/// `HH[MM[SS[.F{1,6}]]]`, also with the colons of ACR-NEMA.
fn time(value: &str, edge: Edge) -> Option<String> {
    let (whole, fraction) = value.split_once('.').unwrap_or((value, ""));
    let whole = whole.replace(':', "");
    if !matches!(whole.len(), 2 | 4 | 6) || !is_digits(&whole) {
        return None;
    }
    if fraction.len() > 6 || !is_digits(fraction) || (!fraction.is_empty() && whole.len() < 6) {
        return None;
    }
    let (rest, filler) = match edge {
        Edge::First => ("0000", '0'),
        Edge::Last => ("5959", '9'),
    };
    let full = format!("{whole}{}", &rest[whole.len() - 2..]);
    let mut fraction = fraction.to_owned();
    while fraction.len() < 6 {
        fraction.push(filler);
    }
    Some(format!("{full}.{fraction}"))
}

/// `YYYY[MM[DD[HH[MM[SS[.F{1,6}]]]]]][&ZZXX]`, in UTC where it names its offset.
fn date_time(value: &str, edge: Edge) -> Option<String> {
    let (moment, offset) = match value.rfind(['+', '-']) {
        Some(at) => (&value[..at], Some(&value[at..])),
        None => (value, None),
    };
    let digits = moment.split('.').next().unwrap_or_default();
    if !is_digits(digits) || !matches!(digits.len(), 4 | 6 | 8 | 10 | 12 | 14) {
        return None;
    }
    let (day, clock) = moment.split_at(digits.len().min(8));
    let day = match (day.len(), edge) {
        (8, _) => day.to_owned(),
        (6, Edge::First) => format!("{day}01"),
        (4, Edge::First) => format!("{day}0101"),
        (6, Edge::Last) => format!("{day}31"),
        _ => format!("{day}1231"),
    };
    let clock = match (clock, edge) {
        ("", Edge::First) => "000000.000000".to_owned(),
        ("", Edge::Last) => "235959.999999".to_owned(),
        (clock, edge) => time(clock, edge)?,
    };
    match offset {
        Some(offset) => in_utc(&day, &clock, offset),
        None => Some(format!("{day}{clock}")),
    }
}

fn in_utc(day: &str, clock: &str, offset: &str) -> Option<String> {
    use chrono::{Duration, NaiveDateTime};

    let digits = offset.get(1..).filter(|digits| digits.len() == 4 && is_digits(digits))?;
    let minutes = digits[..2].parse::<i64>().ok()? * 60 + digits[2..].parse::<i64>().ok()?;
    let minutes = if offset.starts_with('-') { -minutes } else { minutes };
    let local = NaiveDateTime::parse_from_str(&format!("{day}{clock}"), "%Y%m%d%H%M%S%.f").ok()?;
    let utc = local.checked_sub_signed(Duration::minutes(minutes))?;
    Some(utc.format("%Y%m%d%H%M%S%.6f").to_string())
}

fn is_digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The `kind` of `value_parts` for values of this VR.
pub(super) fn part_kind(vr: VR) -> &'static str {
    if vr == VR::PN { "name" } else { "value" }
}

/// What a search may ask for to find `whole` (in its compared form): each of its values; of a
/// person's name also each group (PS3.5 §6.2.1).
pub(super) fn parts(vr: VR, whole: &str) -> Vec<String> {
    let mut parts = Vec::new();
    for value in whole.split('\\').filter(|value| !value.is_empty()) {
        parts.push(cut(value, LONGEST_PART).to_owned());
        if vr == VR::PN && value.contains('=') {
            let groups = value.split('=').filter(|group| !group.is_empty());
            parts.extend(groups.map(|group| cut(group, LONGEST_PART).to_owned()));
        }
    }
    parts
}

/// A name without case and accents, and without empty components at the end of a group.
fn fold(value: &str) -> String {
    let group = |group: &str| group.trim_end_matches(['^', ' ']).to_uppercase();
    let name = |name: &str| {
        let groups: Vec<String> = name.split('=').map(group).collect();
        groups.join("=").trim_end_matches('=').to_owned()
    };
    value.split('\\').map(name).collect::<Vec<_>>().join("\\")
}

/// A name in a query, in the form of the stored ones.
pub(super) fn fold_query(value: &str) -> String {
    fold(value)
}
