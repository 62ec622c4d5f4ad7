//! Values in the form they are compared in: names folded, dates and times in full so that their
//! text sorts as they do. Used by matching and by the index, which keeps these forms in columns.

use chrono::{NaiveDate, NaiveDateTime, TimeDelta};
use dicom_core::VR;
use unicode_normalization::UnicodeNormalization;

/// The first and the last moment that a date or time of limited precision may mean. Written as
/// `YYYYMMDD`, `HHMMSS.FFFFFF` and `YYYYMMDDHHMMSS.FFFFFF`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    pub first: String,
    pub last: String,
}

/// The span of a value of VR DA, TM or DT; `None` for anything else, and when it is not valid.
pub fn span(vr: VR, text: &str) -> Option<Span> {
    let text = text.trim_matches([' ', '\0']);
    match vr {
        VR::DA => date(text),
        VR::TM => time(text),
        VR::DT => date_time(text),
        _ => None,
    }
}

/// The form in which a stored value (of a single value or name) is compared and sorted; values
/// that are not valid for their VR compare as empty.
pub fn comparable(vr: VR, text: &str) -> String {
    match vr {
        VR::PN => fold_name(text),
        VR::DA | VR::TM | VR::DT => span(vr, text).map(|span| span.first).unwrap_or_default(),
        _ => text.to_owned(),
    }
}

/// A person name without regard to case and accents, trailing empty components and groups, and
/// padding around components (PS3.5 §6.2.1, PS3.4 §C.2.2.2.1).
pub fn fold_name(name: &str) -> String {
    let bare: String = name.nfd().filter(|c| !('\u{300}'..='\u{36F}').contains(c)).collect();
    let folded: String = bare.to_uppercase().nfc().collect();
    let groups: Vec<String> = folded.split('=').map(fold_group).collect();
    groups.join("=").trim_end_matches('=').to_owned()
}

fn fold_group(group: &str) -> String {
    let components: Vec<&str> = group.split('^').map(|component| component.trim_matches(' ')).collect();
    components.join("^").trim_end_matches('^').to_owned()
}

/// `YYYYMMDD`, or `YYYY.MM.DD` of old (PS3.5 §6.2, DA).
fn date(text: &str) -> Option<Span> {
    let compact = match text.as_bytes() {
        [_, _, _, _, b'.', _, _, b'.', _, _] => text.replace('.', ""),
        _ => text.to_owned(),
    };
    if compact.len() != 8 || !is_calendar_day(&compact) {
        return None;
    }
    Some(Span { first: compact.clone(), last: compact })
}

fn is_calendar_day(digits: &str) -> bool {
    let number = |range| digits.get(range).filter(|text: &&str| is_digits(text)).map(|text| text.parse());
    let (Some(Ok(year)), Some(Ok(month)), Some(Ok(day))) = (number(0..4), number(4..6), number(6..8)) else {
        return false;
    };
    NaiveDate::from_ymd_opt(year as i32, month, day).is_some()
}

/// `HH[MM[SS[.F…]]]`, or with colons of old (PS3.5 §6.2, TM).
fn time(text: &str) -> Option<Span> {
    let compact = match text.as_bytes() {
        [_, _, b':', ..] => text.replacen(':', "", 2),
        _ => text.to_owned(),
    };
    let (clock, fraction) = split_fraction(&compact)?;
    if fraction.is_some() && clock.len() != 6 {
        return None;
    }
    let below = |range, limit: u32| match clock.get(range) {
        None => true,
        Some(two) => is_digits(two) && two.parse::<u32>().is_ok_and(|number| number < limit),
    };
    // A second 60 is a leap second.
    let valid = matches!(clock.len(), 2 | 4 | 6) && below(0..2, 24) && below(2..4, 60) && below(4..6, 61);
    valid.then(|| complete(clock, fraction, "000000", "235959"))
}

/// `YYYY[MM[DD[HH[MM[SS[.F…]]]]]][&ZZXX]` (PS3.5 §6.2, DT). A value with an offset from UTC is
/// moved to UTC; one without is compared as it stands.
fn date_time(text: &str) -> Option<Span> {
    let (local, offset) = split_offset(text)?;
    let (moment, fraction) = split_fraction(local)?;
    let (day, clock) = moment.split_at_checked(moment.len().min(8))?;
    let whole_day = match day.len() {
        4 => format!("{day}0101"),
        6 => format!("{day}01"),
        _ => day.to_owned(),
    };
    if whole_day.len() != 8 || !is_calendar_day(&whole_day) || (fraction.is_some() && clock.len() != 6) {
        return None;
    }
    if !clock.is_empty() {
        time(clock)?;
    }
    let Span { first, last } = complete(moment, fraction, "00000101000000", "99991231235959");
    Some(Span { first: to_utc(first, offset), last: to_utc(last, offset) })
}

/// A moment in full, `offset` minutes ahead of UTC. A leap second, and the 31st that stands for the
/// end of a shorter month, are no moments of a calendar and stay.
fn to_utc(moment: String, offset: i64) -> String {
    let (whole, fraction) = moment.split_at(moment.len().min(14));
    match NaiveDateTime::parse_from_str(whole, "%Y%m%d%H%M%S") {
        Ok(local) if offset != 0 => {
            let utc = local - TimeDelta::minutes(offset);
            format!("{}{fraction}", utc.format("%Y%m%d%H%M%S"))
        }
        _ => moment,
    }
}

/// Cuts off `+HHMM` or `-HHMM` within -1200 and +1400, in minutes. `None`: what follows the sign is
/// no offset.
fn split_offset(text: &str) -> Option<(&str, i64)> {
    let Some(at) = text.find(['+', '-']) else { return Some((text, 0)) };
    let (moment, offset) = text.split_at(at);
    let number: i64 =
        offset.get(1..).filter(|digits| digits.len() == 4 && is_digits(digits))?.parse().ok()?;
    let (sign, limit) = if offset.starts_with('-') { (-1, 1200) } else { (1, 1400) };
    let minutes = sign * (number / 100 * 60 + number % 100);
    (number <= limit && number % 100 < 60).then_some((moment, minutes))
}

fn split_fraction(text: &str) -> Option<(&str, Option<&str>)> {
    match text.split_once('.') {
        None => Some((text, None)),
        Some((whole, fraction)) if (1..=6).contains(&fraction.len()) && is_digits(fraction) => {
            Some((whole, Some(fraction)))
        }
        Some(_) => None,
    }
}

/// Fills up what `known` leaves open, from the first and the last moment there can be.
fn complete(known: &str, fraction: Option<&str>, first: &str, last: &str) -> Span {
    let fill = |rest: &str, digit: char| {
        let mut text = known.to_owned();
        text.extend(rest.get(known.len()..));
        text.push('.');
        let fraction = fraction.unwrap_or_default();
        text.push_str(fraction);
        text.extend(std::iter::repeat_n(digit, 6 - fraction.len()));
        text
    };
    Span { first: fill(first, '0'), last: fill(last, '9') }
}

fn is_digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_with_an_offset_are_compared_in_utc() {
        let first = |text| span(VR::DT, text).map(|span| span.first);
        assert_eq!(first("20240110013000+0100").as_deref(), Some("20240110003000.000000"));
        assert_eq!(first("20231231233000.5-0100").as_deref(), Some("20240101003000.500000"));
        assert_eq!(first("20240110013000+0160"), None);
    }

    fn bounds(vr: VR, text: &str) -> Option<(String, String)> {
        span(vr, text).map(|span| (span.first, span.last))
    }

    fn pair(first: &str, last: &str) -> Option<(String, String)> {
        Some((first.to_owned(), last.to_owned()))
    }

    #[test]
    fn dates_are_days_of_the_calendar() {
        assert_eq!(bounds(VR::DA, "20240229"), pair("20240229", "20240229"));
        assert_eq!(bounds(VR::DA, "2024.02.29 "), pair("20240229", "20240229"));
        for text in ["20230229", "20241301", "2024", "202402291", "", "2024022x", "00000000", "2024é9"] {
            assert_eq!(bounds(VR::DA, text), None, "{text:?}");
        }
    }

    #[test]
    fn times_of_limited_precision_are_spans() {
        assert_eq!(bounds(VR::TM, "10"), pair("100000.000000", "105959.999999"));
        assert_eq!(bounds(VR::TM, "1030"), pair("103000.000000", "103059.999999"));
        assert_eq!(bounds(VR::TM, "103059.5"), pair("103059.500000", "103059.599999"));
        assert_eq!(bounds(VR::TM, "10:30:59"), pair("103059.000000", "103059.999999"));
        for text in ["", "1", "24", "1060", "103061", "1030.5", "103059.", "103059.1234567", "ab", "1030é"] {
            assert_eq!(bounds(VR::TM, text), None, "{text:?}");
        }
    }

    #[test]
    fn date_times_of_limited_precision_are_spans() {
        assert_eq!(bounds(VR::DT, "2024"), pair("20240101000000.000000", "20241231235959.999999"));
        assert_eq!(bounds(VR::DT, "202402"), pair("20240201000000.000000", "20240231235959.999999"));
        assert_eq!(
            bounds(VR::DT, "20240229103059.25-0500"),
            pair("20240229153059.250000", "20240229153059.259999")
        );
        for text in ["", "202", "20241", "20240230", "2024022925", "20240229-9999", "20240229103059+1500"] {
            assert_eq!(bounds(VR::DT, text), None, "{text:?}");
        }
    }

    #[test]
    fn names_fold_case_accents_and_empty_components() {
        assert_eq!(fold_name("Müller^Jérôme^^^"), "MULLER^JEROME");
        assert_eq!(
            fold_name("Yamada ^Tarou=山田^太郎=やまだ^たろう"),
            "YAMADA^TAROU=山田^太郎=やまだ^たろう"
        );
        assert_eq!(fold_name("Wang^XiaoDong=王^小東="), "WANG^XIAODONG=王^小東");
        assert_eq!(fold_name("が"), "が");
        assert_eq!(fold_name("groß"), fold_name("GROSS"));
    }
}
