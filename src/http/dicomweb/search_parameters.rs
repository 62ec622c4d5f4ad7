//! Query parameters of the Search transaction (PS3.18 §8.3.4, §10.6.1.2) as a `Query`.

use std::borrow::Cow;

use dicom_core::dictionary::{DataDictionary, DataDictionaryEntry};
use dicom_core::{Tag, VR};
use dicom_dictionary_std::StandardDataDictionary;

use crate::dicom::{Attribute, Level, attributes};
use crate::http::error::ApiError;
use crate::query::{Key, Page, Query, QueryError};

/// A search as its parameters ask for it; the path adds its own keys.
#[derive(Debug)]
pub struct Search {
    pub query: Query,
    /// `includefield`, so far as the index has it at this level.
    pub included: Vec<&'static Attribute>,
    pub include_all: bool,
    /// The page is as long as we allow, not as the client wishes.
    pub is_capped: bool,
    pub warnings: Warnings,
}

/// What the answer's Warning headers say (RFC 7234 §5.5, code 299).
#[derive(Debug, Default)]
pub struct Warnings(Vec<&'static str>);

impl Warnings {
    pub fn add(&mut self, text: &'static str) {
        self.0.push(text);
    }

    pub fn iter(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().copied()
    }
}

/// PS3.18 §10.6.3.2.
const NO_FUZZY_MATCHING: &str =
    "The fuzzymatching parameter is not supported. Only literal matching has been performed.";

impl Search {
    pub fn parse<'a>(
        level: Level,
        parameters: impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)>,
        most_rows: usize,
    ) -> Result<Self, ApiError> {
        let page = Page { limit: most_rows, offset: 0 };
        let mut search = Self {
            query: Query { level, keys: Vec::new(), page },
            included: Vec::new(),
            include_all: false,
            is_capped: true,
            warnings: Warnings::default(),
        };
        for (name, value) in parameters {
            search.parameter(&name, &value, most_rows)?;
        }
        Ok(search)
    }

    fn parameter(&mut self, name: &str, value: &str, most_rows: usize) -> Result<(), ApiError> {
        match name {
            "accept" => {}
            "limit" => {
                let limit = whole_number("limit", value)?;
                self.is_capped = limit > most_rows as u64;
                self.query.page.limit = limit.min(most_rows as u64) as usize;
            }
            "offset" => self.query.page.offset = whole_number("offset", value)?,
            "fuzzymatching" => match value {
                "true" => self.warnings.add(NO_FUZZY_MATCHING),
                "false" => {}
                _ => return Err(bad_parameter("fuzzymatching is true or false.")),
            },
            "includefield" => {
                for field in value.split(',').map(str::trim) {
                    self.include(field)?;
                }
            }
            attribute => self.key(attribute, value)?,
        }
        Ok(())
    }

    fn include(&mut self, field: &str) -> Result<(), ApiError> {
        if field == "all" {
            self.include_all = true;
            return Ok(());
        }
        // What the standard has and the index lacks is not returned (PS3.18 §10.6.1.2.2).
        if let Named::Indexed(attribute) = named(field)?
            && attribute.level <= self.query.level
        {
            self.included.push(attribute);
        }
        Ok(())
    }

    fn key(&mut self, name: &str, value: &str) -> Result<(), ApiError> {
        let attribute = match named(name)? {
            Named::Indexed(attribute) if attribute.level <= self.query.level => attribute,
            _ => return Err(not_matchable(name)),
        };
        // PS3.18 §8.3.4.1: UIDs may be separated by commas too.
        let value =
            if attribute.vr == VR::UI { Cow::from(value.replace(',', "\\")) } else { Cow::from(value) };
        let key = Key::parse(attribute, &value).map_err(|error| match error {
            QueryError::NotMatchable { keyword } => not_matchable(keyword),
            QueryError::BadValue { keyword, what } => {
                ApiError::bad_request("BAD_VALUE", format!("{keyword}: {what}."))
            }
        })?;
        self.query.keys.push(key);
        Ok(())
    }
}

/// Digits only. One that is too long for us is still a number, and more than there can be.
fn whole_number(name: &str, text: &str) -> Result<u64, ApiError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(bad_parameter(&format!("{name} is a whole number, not negative.")));
    }
    Ok(text.parse().unwrap_or(u64::MAX))
}

fn bad_parameter(detail: &str) -> ApiError {
    ApiError::bad_request("BAD_PARAMETER", detail.to_owned())
}

/// The name is an attribute's of the standard, so it may be repeated to the client.
fn not_matchable(name: &str) -> ApiError {
    ApiError::bad_request("ATTRIBUTE_NOT_MATCHABLE", format!("{name} can't be matched at this resource."))
}

/// What an attribute's name in a URL means.
enum Named {
    Indexed(&'static Attribute),
    /// In the standard, and not in the index.
    Known,
}

/// A keyword, eight hexadecimal digits, or a path of them into sequences.
fn named(name: &str) -> Result<Named, ApiError> {
    let unknown =
        || ApiError::bad_request("UNKNOWN_ATTRIBUTE", "A parameter names no attribute of the standard.");
    let mut last = None;
    let mut parts = 0;
    for part in name.split('.') {
        last = Some(tag_of(part).ok_or_else(unknown)?);
        parts += 1;
    }
    let tag = last.ok_or_else(unknown)?;
    match attributes::by_tag(tag) {
        Some(attribute) if parts == 1 => Ok(Named::Indexed(attribute)),
        _ => Ok(Named::Known),
    }
}

fn tag_of(text: &str) -> Option<Tag> {
    let is_tag = text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_tag {
        return StandardDataDictionary.by_name(text).map(|entry| entry.tag());
    }
    let number = u32::from_str_radix(text, 16).ok()?;
    let tag = Tag((number >> 16) as u16, number as u16);
    let is_private = tag.group() % 2 == 1;
    (!is_private && StandardDataDictionary.by_tag(tag).is_some()).then_some(tag)
}

#[cfg(test)]
mod tests {
    use dicom_dictionary_std::tags;

    use super::*;
    use crate::query::Matching;

    fn parse(query: &str) -> Result<Search, ApiError> {
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        Search::parse(Level::Series, pairs.map(|(name, value)| (name.into(), value.into())), 100)
    }

    fn code(query: &str) -> &'static str {
        parse(query).unwrap_err().code
    }

    #[test]
    fn keyword_and_tag_name_the_same_attribute() {
        for name in ["PatientID", "00100020", "0010002" /* and */] {
            let keys = parse(&format!("{name}=A")).map(|search| search.query.keys);
            match name.len() {
                7 => assert!(keys.is_err()),
                _ => assert_eq!(keys.unwrap()[0].attribute.tag, tags::PATIENT_ID),
            }
        }
    }

    #[test]
    fn uids_are_listed_by_comma_or_backslash() {
        for list in ["1.2,1.3", "1.2\\1.3"] {
            let search = parse(&format!("StudyInstanceUID={list}")).unwrap();
            assert_eq!(search.query.keys[0].matching, Matching::List(vec!["1.2".into(), "1.3".into()]));
        }
    }

    #[test]
    fn what_cannot_be_matched_is_refused() {
        assert_eq!(code("NoSuchKeyword=x"), "UNKNOWN_ATTRIBUTE");
        assert_eq!(code("patientid=x"), "UNKNOWN_ATTRIBUTE");
        assert_eq!(code("00091001=x"), "UNKNOWN_ATTRIBUTE");
        assert_eq!(code("RequestAttributesSequence.Nonsense=x"), "UNKNOWN_ATTRIBUTE");
        assert_eq!(code("RequestAttributesSequence.ScheduledProcedureStepID=x"), "ATTRIBUTE_NOT_MATCHABLE");
        assert_eq!(code("PixelSpacing=1"), "ATTRIBUTE_NOT_MATCHABLE");
        assert_eq!(code("InstanceNumber=1"), "ATTRIBUTE_NOT_MATCHABLE");
        assert_eq!(code("StudyDate=yesterday"), "BAD_VALUE");
    }

    #[test]
    fn pages_are_whole_numbers_and_have_a_cap() {
        for bad in ["limit=-1", "limit=", "limit=1e12", "offset=1.5", "offset=-1", "fuzzymatching=maybe"] {
            assert_eq!(code(bad), "BAD_PARAMETER", "{bad}");
        }
        let capped = parse("limit=99999999999999999999999").unwrap();
        assert!(capped.is_capped && capped.query.page.limit == 100);
        let small = parse("limit=5&offset=7").unwrap();
        assert!(!small.is_capped);
        assert_eq!((small.query.page.limit, small.query.page.offset), (5, 7));
    }

    #[test]
    fn fields_are_included_by_name_tag_and_all() {
        let search = parse("includefield=StudyDescription,00100010&includefield=PixelSpacing").unwrap();
        let included: Vec<_> = search.included.iter().map(|attribute| attribute.keyword).collect();
        assert_eq!(included, ["StudyDescription", "PatientName"]);
        assert!(parse("includefield=all").unwrap().include_all);
        assert_eq!(code("includefield=Nonsense"), "UNKNOWN_ATTRIBUTE");
    }

    #[test]
    fn fuzzy_matching_is_literal_with_a_warning() {
        let search = parse("fuzzymatching=true").unwrap();
        assert_eq!(search.warnings.iter().count(), 1);
    }
}
