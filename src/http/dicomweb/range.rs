//! `Range` of one stored object (RFC 9110 §14), one range at a time.

use poem::http::{HeaderMap, StatusCode, header};

use super::super::error::ApiError;

/// More ranges than this in one header are an attack, not a reader.
const RANGES: usize = 16;

/// First and last byte asked for, both inside the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteRange {
    pub first: u64,
    pub last: u64,
}

impl ByteRange {
    pub fn len(self) -> u64 {
        self.last - self.first + 1
    }
}

/// The range to answer with; `None` is the whole object. A header that can't be read, another
/// unit, a few ranges at once, or an `If-Range` that no longer holds are passed over, as RFC 9110
/// §14.2 allows; what lies outside the object is 416.
pub fn requested(headers: &HeaderMap, etag: &str, length: u64) -> Result<Option<ByteRange>, ApiError> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if text(header::IF_RANGE).is_some_and(|condition| condition.trim() != etag) {
        return Ok(None);
    }
    let Some(set) = text(header::RANGE).and_then(|range| range.trim().strip_prefix("bytes=")) else {
        return Ok(None);
    };
    match set.split(',').count() {
        1 => one(set.trim(), length),
        2..=RANGES => Ok(None),
        _ => Err(not_satisfiable(length)),
    }
}

/// `If-None-Match` names this very representation.
pub fn matches(headers: &HeaderMap, etag: &str) -> bool {
    let values = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known) == etag)
}

fn one(range: &str, length: u64) -> Result<Option<ByteRange>, ApiError> {
    let Some((first, last)) = range.split_once('-') else { return Ok(None) };
    let bounds = match (first.is_empty(), last.is_empty()) {
        (true, true) => return Ok(None),
        (true, false) => number(last).map(|suffix| (length.saturating_sub(suffix), length - 1, suffix > 0)),
        (false, true) => number(first).map(|first| (first, length - 1, true)),
        (false, false) => match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => Some((first, last.min(length - 1), true)),
            _ => None,
        },
    };
    match bounds {
        None => Ok(None),
        Some((first, last, true)) if first < length => Ok(Some(ByteRange { first, last })),
        Some(_) => Err(not_satisfiable(length)),
    }
}

/// Digits only; one that is too long for us is still a number, beyond any object.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().unwrap_or(u64::MAX))
}

fn not_satisfiable(length: u64) -> ApiError {
    let error = ApiError::new(
        StatusCode::RANGE_NOT_SATISFIABLE,
        "RANGE_NOT_SATISFIABLE",
        "The range lies outside the object, or there are too many of them.",
    );
    match format!("bytes */{length}").parse() {
        Ok(value) => error.with(header::CONTENT_RANGE, value),
        Err(_) => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(range: &str) -> Result<Option<ByteRange>, StatusCode> {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, range.parse().unwrap());
        requested(&headers, "\"e\"", 100).map_err(|error| error.status)
    }

    #[test]
    fn a_range_is_cut_to_the_object() {
        assert_eq!(ask("bytes=0-9"), Ok(Some(ByteRange { first: 0, last: 9 })));
        assert_eq!(ask("bytes=90-"), Ok(Some(ByteRange { first: 90, last: 99 })));
        assert_eq!(ask("bytes=90-1000"), Ok(Some(ByteRange { first: 90, last: 99 })));
        assert_eq!(ask("bytes=-10"), Ok(Some(ByteRange { first: 90, last: 99 })));
        assert_eq!(ask("bytes=90-99999999999999999999"), Ok(Some(ByteRange { first: 90, last: 99 })));
        assert_eq!(ask("bytes=-1000"), Ok(Some(ByteRange { first: 0, last: 99 })));
    }

    #[test]
    fn outside_and_many_are_refused_and_nonsense_is_passed_over() {
        for range in [
            "bytes=100-",
            "bytes=99999999999999999999-",
            "bytes=-0",
            &format!("bytes={}0-1", "0-1,".repeat(1000)),
        ] {
            assert_eq!(ask(range), Err(StatusCode::RANGE_NOT_SATISFIABLE));
        }
        for range in ["bytes=9-1", "bytes=a-b", "bytes=+1-+2", "items=0-1", "bytes=-", "bytes=0-1,4-5"] {
            assert_eq!(ask(range), Ok(None), "{range}");
        }
    }

    #[test]
    fn a_stale_condition_means_the_whole() {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, "bytes=0-9".parse().unwrap());
        headers.insert(header::IF_RANGE, "\"old\"".parse().unwrap());
        assert_eq!(requested(&headers, "\"e\"", 100).unwrap(), None);
    }
}
