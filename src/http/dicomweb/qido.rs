//! QIDO-RS, the Search transaction (PS3.18 §10.6), on all six resources. Parameters become the
//! same `Query` that C-FIND asks; the answer is written row by row.
//!
//! A parameter that we can't match by is refused, never passed over: a client that filters by it
//! would take everything for what it asked.

use std::sync::Arc;

use bytes::Bytes;
use dicom_core::Tag;
use dicom_core::VR;
use dicom_dictionary_std::tags;
use poem::http::{HeaderValue, StatusCode, header};
use poem::{Body, Response};

use super::accept::{self, DICOM_JSON, DICOM_XML_PARTS, JSON};
use super::multipart::Framing;
use super::search_parameters::{Search, Warnings};
use crate::dicom::dataset::Dataset;
use crate::dicom::{Attribute, Attributes, Level, attributes, json, xml};
use crate::http::error::ApiError;
use crate::http::router::Call;
use crate::query::{Key, Match, Matches, Matching, unique_key};

/// Rows in one chunk of the body.
const ROWS_PER_CHUNK: usize = 64;

/// `GET /studies`
pub async fn studies(call: Call) -> Result<Response, ApiError> {
    search(call, Level::Study).await
}

/// `GET /series`, `GET /studies/{study}/series`
pub async fn series(call: Call) -> Result<Response, ApiError> {
    search(call, Level::Series).await
}

/// `GET /instances`, and under a study, and under a series
pub async fn instances(call: Call) -> Result<Response, ApiError> {
    search(call, Level::Image).await
}

async fn search(call: Call, level: Level) -> Result<Response, ApiError> {
    let representation =
        accept::choose(&accept::ranges(&call.request), &[DICOM_JSON, JSON, DICOM_XML_PARTS])?;
    let mut search = Search::parse(level, super::parameters(&call.request), call.state.limits.query_results)?;
    let mut known = Vec::new();
    for (name, level) in [("study", Level::Study), ("series", Level::Series)] {
        if call.request.raw_path_param(name).is_some() {
            let uid = call.uid(name)?;
            search.query.keys.extend(in_path(level, uid.as_str()));
            known.push(level);
        }
    }
    let matches = call.state.index.search(&search.query).await?;
    if search.is_capped && matches.more {
        search.warnings.add(ADDITIONAL_RESULTS);
    }
    let rows = Rows {
        matches,
        columns: Columns::of(level, &known, &search),
        level,
        dicomweb_url: call.state.dicomweb_url(),
        at: 0,
    };
    let response = if representation == DICOM_XML_PARTS {
        as_xml(rows)
    } else {
        let body = JsonChunks { rows, ended: false };
        Response::builder().content_type(representation.to_string()).body(streamed(body))
    };
    Ok(with_warnings(response, &search.warnings))
}

/// PS3.18 §10.6.3.2.
const ADDITIONAL_RESULTS: &str = "The number of results exceeded the maximum supported by the server. Additional results can be requested.";

fn in_path(level: Level, uid: &str) -> Option<Key> {
    let attribute = attributes::by_tag(unique_key(level))?;
    Some(Key { attribute, matching: Matching::Single(uid.to_owned()) })
}

/// The attributes that a row of the answer has, whether it has a value or not.
struct Columns {
    wanted: Vec<&'static Attribute>,
    /// `includefield=all`: whatever else the index has.
    all: bool,
}

impl Columns {
    /// PS3.18 §10.6.3.3: what is returned by default of the level and of those above it that the
    /// path does not name, what was asked for, and what was matched by.
    fn of(level: Level, known: &[Level], search: &Search) -> Self {
        let of_level = |attribute: &Attribute| {
            let above = match attribute.level {
                Level::Patient => Level::Study,
                other => other,
            };
            above == level || (above < level && !known.contains(&above) && !is_below_known(above, known))
        };
        let every = attributes::INDEXED.iter().chain(attributes::COMPUTED);
        let defaults = every.filter(|attribute| attribute.default_return && of_level(attribute));
        let uids = [Level::Study, Level::Series, Level::Image].into_iter().filter(|upper| *upper <= level);
        let uids = uids.filter_map(|upper| attributes::by_tag(unique_key(upper)));
        let keys = search.query.keys.iter().map(|key| key.attribute);
        let included = search.included.iter().copied();
        let wanted = defaults.chain(uids).chain(keys).chain(included).collect();
        Self { wanted, all: search.include_all }
    }
}

/// A path that names a series names its study.
fn is_below_known(level: Level, known: &[Level]) -> bool {
    known.iter().any(|named| level < *named)
}

/// Matches on their way to data sets.
struct Rows {
    matches: Arc<Matches>,
    columns: Columns,
    level: Level,
    dicomweb_url: String,
    at: usize,
}

impl Iterator for Rows {
    type Item = Dataset;

    fn next(&mut self) -> Option<Dataset> {
        let row = self.matches.rows.get(self.at)?;
        self.at += 1;
        Some(self.dataset(row))
    }
}

impl Rows {
    fn dataset(&self, row: &Match) -> Dataset {
        let mut dataset = Dataset::default();
        if self.columns.all {
            for (tag, value) in row.attributes.iter() {
                if let Some(attribute) = attributes::by_tag(tag) {
                    dataset.set_attribute(attribute, value);
                }
            }
        }
        for attribute in &self.columns.wanted {
            dataset.set_attribute(attribute, row.attributes.get(attribute.tag).unwrap_or_default());
        }
        if let Some(availability) = row.attributes.get(tags::INSTANCE_AVAILABILITY) {
            dataset.set(tags::INSTANCE_AVAILABILITY, VR::CS, availability);
        }
        dataset.set(tags::RETRIEVE_URL, VR::UR, &self.retrieve_url(&row.attributes));
        if row.attributes.iter().any(|(_, value)| !value.is_ascii()) {
            dataset.set(tags::SPECIFIC_CHARACTER_SET, VR::CS, "ISO_IR 192");
        }
        dataset
    }

    fn retrieve_url(&self, attributes: &Attributes) -> String {
        let uid = |tag: Tag| attributes.get(tag).unwrap_or_default();
        let mut url = format!("{}/studies/{}", self.dicomweb_url, uid(tags::STUDY_INSTANCE_UID));
        if self.level >= Level::Series {
            url += &format!("/series/{}", uid(tags::SERIES_INSTANCE_UID));
        }
        if self.level >= Level::Image {
            url += &format!("/instances/{}", uid(tags::SOP_INSTANCE_UID));
        }
        url
    }
}

fn streamed(chunks: impl Iterator<Item = Bytes> + Send + 'static) -> Body {
    Body::from_bytes_stream(futures_util::stream::iter(chunks.map(Ok::<_, std::io::Error>)))
}

/// `[{…},{…}]`, some rows at a time.
struct JsonChunks {
    rows: Rows,
    ended: bool,
}

impl Iterator for JsonChunks {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        let mut chunk = String::new();
        for _ in 0..ROWS_PER_CHUNK {
            let separator = if self.rows.at == 0 { "[" } else { "," };
            match self.rows.next() {
                Some(row) => chunk += &format!("{separator}{}", json::object(&row)),
                None => {
                    chunk += if self.rows.at == 0 { "[]" } else { "]" };
                    self.ended = true;
                    break;
                }
            }
        }
        Some(chunk.into())
    }
}

/// One part for each match; no content when there is none, as there is no empty multipart.
fn as_xml(rows: Rows) -> Response {
    if rows.matches.rows.is_empty() {
        return Response::builder().status(StatusCode::NO_CONTENT).finish();
    }
    let framing = Framing::new();
    let content_type = framing.content_type("application/dicom+xml");
    let close = framing.close();
    let parts = rows.map(move |row| {
        let mut part = framing.open("Content-Type: application/dicom+xml\r\n").to_vec();
        part.extend_from_slice(xml::document(&row).as_bytes());
        Bytes::from(part)
    });
    Response::builder().content_type(content_type).body(streamed(parts.chain(std::iter::once(close))))
}

fn with_warnings(mut response: Response, warnings: &Warnings) -> Response {
    for text in warnings.iter() {
        if let Ok(value) = HeaderValue::from_str(&format!("299 relaypacs \"{text}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    response
}
