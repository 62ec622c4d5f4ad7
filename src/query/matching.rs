//! One function per matching type of PS3.4 §C.2.2.2. [`Matching::parse`] chooses the type; the
//! index translates it to SQL, and [`Matching::matches`] says for one value what that must mean.
//!
//! Names match without regard to case and accents; everything else matches as it is written.

use dicom_core::VR;

use super::comparable::{comparable, fold_name, span};
use crate::dicom::Uid;

#[cfg(test)]
mod tests;

/// Values stand in the form of [`comparable`]: names folded, dates and times in full.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Matching {
    /// §C.2.2.2.3: an empty value matches everything.
    Universal,
    /// §C.2.2.2.1
    Single(String),
    /// §C.2.2.2.4: `*` and `?`.
    Wildcard(String),
    /// §C.2.2.2.2: any of these UIDs; for other VRs any of several values.
    List(Vec<String>),
    /// §C.2.2.2.5: either bound may be open; bounds are inclusive. A single time is one too,
    /// since 10 is the same as 100000, and as all that a value of 10 may mean.
    Range { from: Option<String>, to: Option<String> },
}

/// Longer values are no question that a person asks.
const LONGEST_VALUE: usize = 64 << 10;
/// With more, a pattern costs more than it can mean.
const MOST_ASTERISKS: usize = 16;

impl Matching {
    /// The matching type of a key's value, `Err` says what is wrong with it.
    pub fn parse(vr: VR, value: &str) -> Result<Self, &'static str> {
        if value.len() > LONGEST_VALUE {
            return Err("the value is longer than 64 KiB");
        }
        // Else NUL alone would be padding, and what is left a key that everybody matches.
        if value.chars().any(|c| c.is_control() && !may_hold(vr, c)) {
            return Err("the value has a control character");
        }
        let value = value.trim_end_matches(' ');
        let value = if keeps_leading_spaces(vr) { value } else { value.trim_start_matches(' ') };
        if value.bytes().all(|byte| byte == b'*') {
            return Ok(Matching::Universal);
        }
        if has_several_values(vr) && value.contains('\\') {
            return parse_list(vr, value);
        }
        match vr {
            VR::UI => Ok(Matching::Single(parse_uid(value)?)),
            VR::DA | VR::TM | VR::DT => parse_moments(vr, value),
            _ if takes_wildcards(vr) && value.contains(['*', '?']) => parse_wildcard(vr, value),
            VR::PN if fold_name(value).is_empty() => Ok(Matching::Universal),
            _ => Ok(Matching::Single(comparable(vr, value))),
        }
    }

    /// Whether a stored value matches. Of several values one must, and of a name one of its groups.
    pub fn matches(&self, vr: VR, stored: &str) -> bool {
        if *self == Matching::Universal {
            return true;
        }
        if !has_several_values(vr) {
            return self.matches_one(vr, stored);
        }
        stored.split('\\').any(|value| self.matches_one(vr, value))
    }

    fn matches_one(&self, vr: VR, stored: &str) -> bool {
        let stored = stored.trim_end_matches([' ', '\0']);
        let stored = if keeps_leading_spaces(vr) { stored } else { stored.trim_start_matches(' ') };
        let stored = comparable(vr, stored);
        match self {
            Matching::Universal => true,
            // An empty value matches nothing but the universal key.
            _ if stored.is_empty() => false,
            Matching::Single(key) => any_group(vr, key, &stored, |key, value| key == value),
            Matching::Wildcard(key) => any_group(vr, key, &stored, matches_wildcard),
            Matching::List(keys) => {
                keys.iter().any(|key| any_group(vr, key, &stored, |key, value| key == value))
            }
            Matching::Range { from, to } => matches_range(from.as_deref(), to.as_deref(), &stored),
        }
    }
}

/// §C.2.2.2.4: not for UIDs, dates and times, numbers, ages, and what is not text.
pub fn takes_wildcards(vr: VR) -> bool {
    matches!(vr, VR::AE | VR::CS | VR::LO | VR::LT | VR::PN | VR::SH | VR::ST | VR::UC | VR::UR | VR::UT)
}

/// In text of one value a backslash is a character (PS3.5 §6.2).
fn has_several_values(vr: VR) -> bool {
    !matches!(vr, VR::LT | VR::ST | VR::UT | VR::UR)
}

/// PS3.5 §6.1.3, §6.2: lines and tabs are for text.
fn may_hold(vr: VR, control: char) -> bool {
    matches!(vr, VR::LT | VR::ST | VR::UT) && matches!(control, '\t' | '\n' | '\u{C}' | '\r')
}

fn keeps_leading_spaces(vr: VR) -> bool {
    matches!(vr, VR::LT | VR::ST | VR::UT | VR::UR | VR::UC)
}

fn parse_uid(value: &str) -> Result<String, &'static str> {
    Uid::parse(value).map(String::from).map_err(|_| "not a UID")
}

/// Of one key. Names are looked for one by one.
const MOST_VALUES: usize = 1000;
const MOST_NAMES: usize = 100;

fn parse_list(vr: VR, value: &str) -> Result<Matching, &'static str> {
    match value.split('\\').count() {
        count if count > MOST_VALUES => return Err("more than 1,000 values can't be matched"),
        count if count > MOST_NAMES && vr == VR::PN => return Err("more than 100 names can't be matched"),
        _ => {}
    }
    let values = value.split('\\').map(|value| value.trim_matches(' '));
    let values = values.filter(|value| !value.is_empty());
    let mut list: Vec<String> = match vr {
        VR::UI => values.map(parse_uid).collect::<Result<_, _>>()?,
        VR::DA => values
            .map(|value| span(vr, value).map(|span| span.first).ok_or("not a date"))
            .collect::<Result<_, _>>()?,
        VR::TM | VR::DT => return Err("several times can't be matched"),
        _ if takes_wildcards(vr) && value.contains(['*', '?']) => {
            return Err("wildcards among several values can't be matched");
        }
        _ => values.map(|value| comparable(vr, value)).collect(),
    };
    // A name may have been nothing but delimiters.
    list.retain(|value| !value.is_empty());
    match list.len() {
        0 => Ok(Matching::Universal),
        1 => Ok(Matching::Single(list.remove(0))),
        _ => Ok(Matching::List(list)),
    }
}

fn parse_wildcard(vr: VR, value: &str) -> Result<Matching, &'static str> {
    let mut pattern = comparable(vr, value);
    while pattern.contains("**") {
        pattern = pattern.replace("**", "*");
    }
    if pattern == "*" {
        return Ok(Matching::Universal);
    }
    if pattern.bytes().filter(|byte| *byte == b'*').count() > MOST_ASTERISKS {
        return Err("too many wildcards");
    }
    Ok(Matching::Wildcard(pattern))
}

/// A date or time, or a range of them.
fn parse_moments(vr: VR, value: &str) -> Result<Matching, &'static str> {
    if let Some(span) = span(vr, value) {
        return Ok(match vr {
            VR::DA => Matching::Single(span.first),
            _ => Matching::Range { from: Some(span.first), to: Some(span.last) },
        });
    }
    // In DT a hyphen may belong to an offset from UTC: the one that leaves two whole values counts.
    let hyphens = value.match_indices('-').map(|(at, _)| at);
    let range = hyphens.take(4).find_map(|at| parse_range(vr, &value[..at], &value[at + 1..]));
    range.ok_or("not a date or time, nor a range of them")
}

/// §C.2.2.2.5
fn parse_range(vr: VR, from: &str, to: &str) -> Option<Matching> {
    let (from, to) = (from.trim_matches(' '), to.trim_matches(' '));
    let bound = |text: &str| match text {
        "" => Some(None),
        _ => span(vr, text).map(Some),
    };
    let (from, to) = (bound(from)?, bound(to)?);
    if from.is_none() && to.is_none() {
        return None;
    }
    Some(Matching::Range { from: from.map(|span| span.first), to: to.map(|span| span.last) })
}

/// A name key without `=` may match any group of a name; one with `=` matches group by group, and
/// its empty groups match everything.
fn any_group(vr: VR, key: &str, stored: &str, matches: impl Fn(&str, &str) -> bool) -> bool {
    if vr != VR::PN {
        return matches(key, stored);
    }
    if !key.contains('=') {
        return matches(key, stored) || stored.split('=').any(|group| matches(key, group));
    }
    let mut groups = stored.split('=');
    key.split('=').all(|key| {
        let group = groups.next().unwrap_or_default();
        key.is_empty() || matches(key, group)
    })
}

/// Greedy, with one step back to the last asterisk: never worse than the product of the lengths.
fn matches_wildcard(pattern: &str, value: &str) -> bool {
    let (pattern, value): (Vec<char>, Vec<char>) = (pattern.chars().collect(), value.chars().collect());
    let (mut p, mut v) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while v < value.len() {
        match pattern.get(p) {
            Some('*') => {
                retry = Some((p, v));
                p += 1;
            }
            Some(c) if *c == '?' || *c == value[v] => {
                p += 1;
                v += 1;
            }
            _ => {
                let Some((asterisk, from)) = retry else { return false };
                retry = Some((asterisk, from + 1));
                (p, v) = (asterisk + 1, from + 1);
            }
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

fn matches_range(from: Option<&str>, to: Option<&str>, stored: &str) -> bool {
    from.is_none_or(|from| from <= stored) && to.is_none_or(|to| stored <= to)
}
