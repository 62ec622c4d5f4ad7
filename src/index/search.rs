//! A query as one SELECT, and its rows as matches. Rows come in the order in which their entities
//! arrived, so that pages neither overlap nor leave gaps while objects come in.

use std::sync::LazyLock;

use dicom_core::Tag;
use dicom_dictionary_std::tags;
use sqlx::Row;
use sqlx::any::AnyRow;

use super::columns::{Table, column_name, table};
use super::predicate::push_where;
use super::{IndexError, Located, Scope};
use crate::dicom::{Attributes, InstanceKey, Level, Uid};
use crate::query::{Match, Matches, Query};
use crate::spool::EntryId;
use crate::store::{Sql, Store, StoreError};

/// A selected column and what it says.
struct Output {
    column: String,
    kind: OutputKind,
}

enum OutputKind {
    Text(Tag),
    Number(Tag),
    /// How many of the entity's objects were freed, or when the one was.
    Freed,
}

/// Asks the database itself: no cache, no waiting.
pub async fn search(store: &Store, query: &Query) -> Result<Matches, IndexError> {
    if query.page.limit == 0 {
        return Ok(Matches { rows: Vec::new(), more: false });
    }
    let outputs = outputs(query.level);
    let mut sql = Sql::for_only(store.dialect(), "SELECT ");
    for (at, output) in outputs.iter().enumerate() {
        sql.push(if at > 0 { ", " } else { "" }).name(&output.column);
    }
    sql.push(source(query.level));
    push_where(&mut sql, store.dialect(), query.level, &query.keys)?;
    let table = table(query.level);
    // One more than asked for tells whether there are more.
    sql.push(" ORDER BY ").name(table.name).push(".id").limit(query.page.limit as u64 + 1);
    sql.push(" OFFSET ").bind(query.page.offset.min(i64::MAX as u64));
    let mut found = sql.fetch_all(store.reader()).await?;
    let more = found.len() > query.page.limit;
    found.truncate(query.page.limit);
    let rows = found.iter().map(|row| matched(outputs, row)).collect::<Result<_, StoreError>>()?;
    Ok(Matches { rows, more })
}

fn source(level: Level) -> &'static str {
    match level {
        Level::Patient => " FROM patients",
        Level::Study => " FROM studies JOIN patients ON patients.id = studies.patient",
        Level::Series => {
            " FROM series JOIN studies ON studies.id = series.study \
             JOIN patients ON patients.id = studies.patient"
        }
        Level::Image => {
            " FROM instances JOIN series ON series.id = instances.series \
             JOIN studies ON studies.id = instances.study JOIN patients ON patients.id = studies.patient"
        }
    }
}

fn outputs(level: Level) -> &'static [Output] {
    static PATIENT: LazyLock<Vec<Output>> = LazyLock::new(|| columns_of(Level::Patient));
    static STUDY: LazyLock<Vec<Output>> = LazyLock::new(|| columns_of(Level::Study));
    static SERIES: LazyLock<Vec<Output>> = LazyLock::new(|| columns_of(Level::Series));
    static IMAGE: LazyLock<Vec<Output>> = LazyLock::new(|| columns_of(Level::Image));
    match level {
        Level::Patient => &PATIENT,
        Level::Study => &STUDY,
        Level::Series => &SERIES,
        Level::Image => &IMAGE,
    }
}

fn columns_of(level: Level) -> Vec<Output> {
    let mut outputs = Vec::new();
    // The study row has the patient's columns: what the study was received with, even where it
    // contradicts another.
    let tables: &[Level] = match level {
        Level::Patient => &[Level::Patient],
        Level::Study => &[Level::Study],
        Level::Series => &[Level::Series, Level::Study],
        Level::Image => &[Level::Image, Level::Series, Level::Study],
    };
    for table_level in tables {
        let table: &Table = table(*table_level);
        outputs.extend(table.columns.iter().map(|column| Output {
            column: format!("{}.{}", table.name, column.name),
            kind: OutputKind::Text(column.attribute.tag),
        }));
    }
    for (from, name, tag, is_text) in COMPUTED_COLUMNS {
        if *from <= level
            && let Some(column) = column_name(*tag)
        {
            let kind = if *is_text { OutputKind::Text(*tag) } else { OutputKind::Number(*tag) };
            outputs.push(Output { column: format!("{name}.{column}"), kind });
        }
    }
    let freed = match level {
        Level::Patient => "patients.freed_instances",
        Level::Study => "studies.freed_instances",
        Level::Series => "series.freed_instances",
        Level::Image => "instances.freed_at",
    };
    outputs.push(Output { column: freed.to_owned(), kind: OutputKind::Freed });
    outputs
}

/// Highest level that returns it, table, tag, whether it is text.
static COMPUTED_COLUMNS: &[(Level, &str, Tag, bool)] = &[
    (Level::Patient, "patients", tags::NUMBER_OF_PATIENT_RELATED_STUDIES, false),
    (Level::Patient, "patients", tags::NUMBER_OF_PATIENT_RELATED_SERIES, false),
    (Level::Patient, "patients", tags::NUMBER_OF_PATIENT_RELATED_INSTANCES, false),
    (Level::Study, "studies", tags::MODALITIES_IN_STUDY, true),
    (Level::Study, "studies", tags::SOP_CLASSES_IN_STUDY, true),
    (Level::Study, "studies", tags::NUMBER_OF_STUDY_RELATED_SERIES, false),
    (Level::Study, "studies", tags::NUMBER_OF_STUDY_RELATED_INSTANCES, false),
    (Level::Series, "series", tags::NUMBER_OF_SERIES_RELATED_INSTANCES, false),
];

fn matched(outputs: &[Output], row: &AnyRow) -> Result<Match, StoreError> {
    let mut attributes = Attributes::default();
    for (at, output) in outputs.iter().enumerate() {
        match output.kind {
            OutputKind::Text(tag) => {
                if let Some(value) = row.try_get::<Option<String>, _>(at)? {
                    attributes.set(tag, value);
                }
            }
            OutputKind::Number(tag) => attributes.set(tag, row.try_get::<i64, _>(at)?.to_string()),
            OutputKind::Freed => {
                // Of several objects, the least available one counts (PS3.4 §C.4.1.1.3.2).
                let freed = row.try_get::<Option<i64>, _>(at)?.unwrap_or(0) != 0;
                let availability = if freed { "UNAVAILABLE" } else { "ONLINE" };
                attributes.set(tags::INSTANCE_AVAILABILITY, availability);
            }
        }
    }
    Ok(Match { attributes })
}

/// See [`super::Index::instances`].
pub async fn instances(
    store: &Store,
    scope: &Scope,
    after: Option<EntryId>,
    limit: usize,
) -> Result<Vec<Located>, IndexError> {
    let mut sql = Sql::new(
        "SELECT instances.entry, studies.study_instance_uid, series.series_instance_uid, \
         instances.sop_instance_uid, instances.sop_class_uid, instances.transfer_syntax_uid, \
         instances.freed_at, instances.freed_to \
         FROM studies JOIN instances ON instances.study = studies.id \
         JOIN series ON series.id = instances.series WHERE studies.study_instance_uid = ",
    );
    sql.bind(scope.study_instance_uid.as_str());
    if let Some(uid) = &scope.series_instance_uid {
        sql.push(" AND series.series_instance_uid = ").bind(uid.as_str());
    }
    if let Some(uid) = &scope.sop_instance_uid {
        sql.push(" AND instances.sop_instance_uid = ").bind(uid.as_str());
    }
    if let Some(after) = after {
        // Rows are in order of series and id; `after` names the last one seen.
        sql.push(" AND (instances.series, instances.id) > (SELECT seen.series, seen.id FROM instances seen WHERE seen.entry = ");
        sql.bind(after.0).push(")");
    }
    sql.push(" ORDER BY instances.series, instances.id").limit(limit as u64);
    let rows = sql.fetch_all(store.reader()).await?;
    if rows.is_empty()
        && let Some(after) = after
    {
        must_be_known(store, after).await?;
    }
    rows.iter().map(located).collect()
}

/// An object that was received anew meanwhile can't tell any more what comes after it; an empty
/// answer would pass for the end of the study.
async fn must_be_known(store: &Store, entry: EntryId) -> Result<(), IndexError> {
    let mut sql = Sql::new("SELECT 1 FROM instances WHERE entry = ");
    sql.bind(entry.0);
    match sql.fetch_optional(store.reader()).await? {
        Some(_) => Ok(()),
        None => Err(IndexError::Unavailable("the study changed while it was read".into())),
    }
}

fn located(row: &AnyRow) -> Result<Located, IndexError> {
    let read = || -> Result<Located, StoreError> {
        let entry: i64 = row.try_get(0)?;
        let freed: Option<i64> = row.try_get(6)?;
        let freed_to: Option<String> = row.try_get(7)?;
        Ok(Located {
            entry: EntryId(entry as u64),
            key: InstanceKey {
                study_instance_uid: uid(row, 1)?,
                series_instance_uid: uid(row, 2)?,
                sop_instance_uid: uid(row, 3)?,
            },
            sop_class_uid: uid(row, 4)?,
            transfer_syntax_uid: row.try_get(5)?,
            freed: freed.map(|_| freed_to.unwrap_or_default()),
        })
    };
    Ok(read()?)
}

fn uid(row: &AnyRow, at: usize) -> Result<Uid, StoreError> {
    let text: String = row.try_get(at)?;
    Uid::parse(&text).map_err(|error| sqlx::Error::Decode(Box::new(error)).into())
}
