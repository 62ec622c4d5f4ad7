//! One matching key of a query as an SQL condition (PS3.4 §C.2.2.2). Values are bound, never
//! written; the conditions use plain comparisons that the tables' indexes serve.

use dicom_core::{Tag, VR};
use dicom_dictionary_std::tags;

use super::IndexError;
use super::columns::{column_name, has_parts, table};
use super::compared::{self, Edge};
use crate::dicom::{Attribute, Level};
use crate::query::{Key, Matching};
use crate::store::{Dialect, Sql};

/// Adds ` WHERE …` for all keys of a query at `level`.
pub(super) fn push_where(
    sql: &mut Sql,
    dialect: Dialect,
    level: Level,
    keys: &[Key],
) -> Result<(), IndexError> {
    // Rows that lost all their instances to another study stay, unseen.
    sql.push(match level {
        Level::Patient => " WHERE patients.number_of_patient_related_instances > 0",
        Level::Study => " WHERE studies.number_of_study_related_instances > 0",
        Level::Series => " WHERE series.number_of_series_related_instances > 0",
        Level::Image => " WHERE 1 = 1",
    });
    let asked: Vec<&Key> = keys.iter().filter(|key| !is_universal(&key.matching)).collect();
    let (here, below): (Vec<&Key>, Vec<&Key>) =
        asked.into_iter().partition(|key| is_collected(key.attribute) || key.attribute.level <= level);
    for key in here {
        sql.push(" AND ");
        push_key(sql, dialect, level, key)?;
    }
    push_below(sql, dialect, level, &below)
}

/// Keys of lower levels match an entity that has one entity below it for which all of them hold.
fn push_below(sql: &mut Sql, dialect: Dialect, level: Level, keys: &[&Key]) -> Result<(), IndexError> {
    let Some(deepest) = keys.iter().map(|key| key.attribute.level).max() else { return Ok(()) };
    sql.push(match level {
        Level::Patient => " AND patients.id IN (SELECT studies.patient FROM ",
        Level::Study => " AND studies.id IN (SELECT series.study FROM ",
        Level::Series | Level::Image => " AND series.id IN (SELECT instances.series FROM ",
    });
    sql.push(match (level, deepest) {
        (Level::Patient, Level::Patient | Level::Study) => "studies",
        (Level::Patient, Level::Series) => "studies JOIN series ON series.study = studies.id",
        (Level::Patient, Level::Image) => {
            "instances JOIN series ON series.id = instances.series JOIN studies ON studies.id = instances.study"
        }
        (Level::Study, Level::Image) => "instances JOIN series ON series.id = instances.series",
        (Level::Study, _) => "series",
        (Level::Series | Level::Image, _) => "instances",
    });
    for (at, key) in keys.iter().enumerate() {
        sql.push(if at > 0 { " AND " } else { " WHERE " });
        push_key(sql, dialect, key.attribute.level, key)?;
    }
    sql.push(")");
    Ok(())
}

fn is_universal(matching: &Matching) -> bool {
    match matching {
        Matching::Universal => true,
        Matching::Wildcard(pattern) => pattern.bytes().all(|byte| byte == b'*'),
        Matching::Range { from: None, to: None } => true,
        _ => false,
    }
}

/// What a study collects from below it.
fn is_collected(attribute: &Attribute) -> bool {
    [tags::MODALITIES_IN_STUDY, tags::SOP_CLASSES_IN_STUDY].contains(&attribute.tag)
}

fn push_key(sql: &mut Sql, dialect: Dialect, level: Level, key: &Key) -> Result<(), IndexError> {
    let not_matchable = IndexError::NotMatchable { keyword: key.attribute.keyword };
    if is_collected(key.attribute) {
        return push_collected(sql, dialect, level, key);
    }
    // Patient attributes are on the study row too, which every lower level joins.
    let home = if key.attribute.level == Level::Patient && level > Level::Patient {
        table(Level::Study)
    } else {
        table(key.attribute.level)
    };
    let Some(column) = home.place(key.attribute.tag).and_then(|place| home.columns.get(place)) else {
        return Err(not_matchable);
    };
    let name = format!("{}.{}", home.name, column.compared.as_deref().unwrap_or(&column.name));
    if !has_parts(key.attribute) {
        push_condition(sql, dialect, &name, key.attribute.vr, &key.matching);
        return Ok(());
    }
    sql.name(&name).push(" IN (SELECT whole FROM value_parts WHERE kind = ");
    sql.bind(compared::part_kind(key.attribute.vr)).push(" AND ");
    push_condition(sql, dialect, "part", key.attribute.vr, &key.matching);
    sql.push(")");
    Ok(())
}

fn push_collected(sql: &mut Sql, dialect: Dialect, level: Level, key: &Key) -> Result<(), IndexError> {
    let (source, tag): (&'static str, Tag) = if key.attribute.tag == tags::MODALITIES_IN_STUDY {
        ("series collected", tags::MODALITY)
    } else {
        ("instances collected", tags::SOP_CLASS_UID)
    };
    let Some(column) = column_name(tag) else {
        return Err(IndexError::NotMatchable { keyword: key.attribute.keyword });
    };
    sql.push("EXISTS (SELECT 1 FROM ").push(source);
    sql.push(match level {
        Level::Patient => {
            " JOIN studies owner ON owner.id = collected.study WHERE owner.patient = patients.id AND "
        }
        _ => " WHERE collected.study = studies.id AND ",
    });
    if tag == tags::MODALITY {
        sql.push("collected.number_of_series_related_instances > 0 AND ");
    }
    push_condition(sql, dialect, &format!("collected.{column}"), key.attribute.vr, &key.matching);
    sql.push(")");
    Ok(())
}

fn push_condition(sql: &mut Sql, dialect: Dialect, column: &str, vr: VR, matching: &Matching) {
    match matching {
        Matching::Universal => {
            sql.push("1 = 1");
        }
        Matching::Single(value) => push_single(sql, column, vr, value),
        Matching::List(values) => {
            let values = values.iter().map(|value| form(vr, value)).filter(|value| !value.is_empty());
            sql.name(column).push(" IN ").list(values);
        }
        Matching::Wildcard(pattern) => push_wildcard(sql, dialect, column, &form(vr, pattern)),
        Matching::Range { from, to } => push_range(sql, column, vr, from.as_deref(), to.as_deref()),
    }
}

/// A query's value in the form of the stored ones.
fn form(vr: VR, value: &str) -> String {
    match vr {
        VR::PN => compared::fold_query(value),
        _ => value.to_owned(),
    }
}

fn push_single(sql: &mut Sql, column: &str, vr: VR, value: &str) {
    if matches!(vr, VR::DA | VR::TM | VR::DT) {
        // What the query leaves open (`10` of a time) is a range: all of that hour.
        return push_range(sql, column, vr, Some(value), Some(value));
    }
    // An empty value is nobody's: asked for by mistake, it must not find those without one.
    let value = form(vr, value);
    sql.push("(").name(column).push(" = ").bind(&value).push(" AND ").name(column).push(" <> '')");
}

fn push_wildcard(sql: &mut Sql, dialect: Dialect, column: &str, pattern: &str) {
    let prefix: &str = pattern.split(['*', '?']).next().unwrap_or_default();
    sql.push("(");
    if !prefix.is_empty() {
        // What begins with the prefix lies between it and its last possible successor: the index
        // finds it on both databases, which LIKE with a placeholder does on neither.
        sql.name(column).push(" >= ").bind(prefix).push(" AND ");
        sql.name(column).push(" < ").bind(format!("{prefix}\u{10FFFF}")).push(" AND ");
    }
    sql.name(column).push(dialect.like()).bind(dialect.pattern(pattern));
    sql.push(")");
}

fn push_range(sql: &mut Sql, column: &str, vr: VR, from: Option<&str>, to: Option<&str>) {
    sql.push("(").name(column).push(" <> ''");
    let bounds = [(" >= ", from, Edge::First), (" <= ", to, Edge::Last)];
    for (operator, value, edge) in bounds {
        let Some(value) = value else { continue };
        match compared::bound(vr, value, edge) {
            Some(bound) => sql.push(" AND ").name(column).push(operator).bind(bound),
            // Not a date: nothing lies there.
            None => sql.push(" AND 1 = 0"),
        };
    }
    sql.push(")");
}
