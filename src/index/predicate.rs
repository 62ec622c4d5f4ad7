//! One matching key of a query as an SQL condition (PS3.4 §C.2.2.2). Values are bound, never
//! written; the conditions use plain comparisons that the tables' indexes serve.

use dicom_core::{Tag, VR};
use dicom_dictionary_std::tags;

use super::IndexError;
use super::columns::{column_name, table};
use super::compared::{NAME, NAME_GROUPS, VALUE, has_several_values};
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
    push_attribute(sql, dialect, &name, key.attribute.vr, &key.matching);
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
    push_attribute(sql, dialect, &format!("collected.{column}"), key.attribute.vr, &key.matching);
    sql.push(")");
    Ok(())
}

/// A condition on a column whose values may be several, or names with groups.
fn push_attribute(sql: &mut Sql, dialect: Dialect, column: &str, vr: VR, matching: &Matching) {
    match matching {
        _ if vr == VR::PN => push_name(sql, dialect, column, matching),
        _ if !has_several_values(vr) => push_condition(sql, dialect, column, matching),
        // One IN over all that may be asked for keeps to the column's index on both databases.
        Matching::Single(_) | Matching::List(_) => {
            sql.name(column).push(" IN (");
            // Rows of VALUES, for SQLite takes no more than 500 SELECTs together.
            sql.push("SELECT CAST(column1 AS TEXT) FROM (VALUES ");
            for (at, value) in values(matching).iter().enumerate() {
                sql.push(if at > 0 { ", (" } else { "(" }).bind(value).push(")");
            }
            sql.push(") AS asked UNION ALL ");
            push_wholes(sql, dialect, VALUE, matching);
            sql.push(")");
        }
        Matching::Wildcard(_) | Matching::Range { .. } | Matching::Universal => {
            sql.push("((");
            push_condition(sql, dialect, column, matching);
            sql.push(" AND NOT ").name(column).push(dialect.like()).push(dialect.with_backslash());
            sql.push(") OR ").name(column).push(" IN (");
            push_wholes(sql, dialect, VALUE, matching);
            sql.push("))");
        }
    }
}

/// `SELECT whole …` of the values that have a matching part.
fn push_wholes(sql: &mut Sql, dialect: Dialect, kind: &'static str, matching: &Matching) {
    sql.push("SELECT whole FROM value_parts WHERE kind = ").bind(kind).push(" AND ");
    push_condition(sql, dialect, "part", matching);
}

/// A name key matches any group of a name; one with `=` matches group by group.
fn push_name(sql: &mut Sql, dialect: Dialect, column: &str, matching: &Matching) {
    sql.name(column).push(" IN (");
    if let Matching::List(names) = matching {
        for (at, name) in names.iter().enumerate() {
            sql.push(if at > 0 { " UNION ALL " } else { "" });
            push_one_name(sql, dialect, &Matching::Single(name.clone()));
        }
        sql.push(if names.is_empty() { "NULL" } else { "" });
    } else {
        push_one_name(sql, dialect, matching);
    }
    sql.push(")");
}

fn push_one_name(sql: &mut Sql, dialect: Dialect, matching: &Matching) {
    let (Matching::Single(name) | Matching::Wildcard(name)) = matching else {
        return push_wholes(sql, dialect, NAME, matching);
    };
    if !name.contains('=') {
        return push_wholes(sql, dialect, NAME, matching);
    }
    let is_wildcard = matches!(matching, Matching::Wildcard(_));
    sql.push("SELECT whole FROM value_parts WHERE kind = ").bind(NAME);
    for (at, group) in name.split('=').enumerate() {
        let matching = match is_wildcard {
            true => Matching::Wildcard(group.to_owned()),
            false => Matching::Single(group.to_owned()),
        };
        if group.is_empty() || is_universal(&matching) {
            continue;
        }
        let Some(kind) = NAME_GROUPS.get(at) else {
            // No name has a fourth group.
            sql.push(" AND 1 = 0");
            continue;
        };
        sql.push(" AND part IN (");
        push_wholes(sql, dialect, kind, &matching);
        sql.push(")");
    }
}

fn values(matching: &Matching) -> &[String] {
    match matching {
        Matching::Single(value) => std::slice::from_ref(value),
        Matching::List(values) => values,
        _ => &[],
    }
}

/// A condition on a column that holds one value, in its compared form, as the key's value is.
/// An empty value matches nothing.
fn push_condition(sql: &mut Sql, dialect: Dialect, column: &str, matching: &Matching) {
    match matching {
        Matching::Universal => {
            sql.push("1 = 1");
        }
        Matching::Single(_) | Matching::List(_) => {
            let values = values(matching).iter().filter(|value| !value.is_empty());
            sql.name(column).push(" IN ").list(values);
        }
        Matching::Wildcard(pattern) => push_wildcard(sql, dialect, column, pattern),
        Matching::Range { from, to } => {
            sql.push("(").name(column).push(" <> ''");
            for (operator, bound) in [(" >= ", from), (" <= ", to)] {
                if let Some(bound) = bound {
                    sql.push(" AND ").name(column).push(operator).bind(bound);
                }
            }
            sql.push(")");
        }
    }
}

fn push_wildcard(sql: &mut Sql, dialect: Dialect, column: &str, pattern: &str) {
    let prefix: &str = pattern.split(['*', '?']).next().unwrap_or_default();
    sql.push("(");
    if prefix.is_empty() {
        sql.name(column).push(" <> '' AND ");
    } else {
        // What begins with the prefix lies between it and its last possible successor: the index
        // finds it on both databases, which LIKE with a placeholder does on neither.
        sql.name(column).push(" >= ").bind(prefix).push(" AND ");
        sql.name(column).push(" < ").bind(format!("{prefix}\u{10FFFF}")).push(" AND ");
    }
    sql.name(column).push(dialect.like()).bind(dialect.pattern(pattern));
    sql.push(")");
}
