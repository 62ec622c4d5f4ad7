//! The index's tables as the program sees them: which column holds which attribute, derived from
//! [`crate::dicom::attributes::INDEXED`], so that neither rows nor searches repeat the list. A
//! test holds the migrations to it.

use std::sync::LazyLock;

use dicom_core::{Tag, VR};

use crate::dicom::attributes::{INDEXED, by_tag};
use crate::dicom::{Attribute, Level};

/// A column for an attribute, and the one it is compared by, if another.
#[derive(Debug)]
pub(super) struct Column {
    pub attribute: &'static Attribute,
    pub name: String,
    pub compared: Option<String>,
}

/// The rows of one level. `fixed` are the columns that no attribute fills, `id` first.
#[derive(Debug)]
pub(super) struct Table {
    pub name: &'static str,
    pub fixed: &'static [&'static str],
    pub columns: Vec<Column>,
}

pub(super) static PATIENTS: LazyLock<Table> = LazyLock::new(|| Table {
    name: "patients",
    fixed: &[
        "id",
        "identity",
        "number_of_patient_related_studies",
        "number_of_patient_related_series",
        "number_of_patient_related_instances",
        "freed_instances",
    ],
    columns: columns(&[Level::Patient]),
});

pub(super) static STUDIES: LazyLock<Table> = LazyLock::new(|| Table {
    name: "studies",
    fixed: &[
        "id",
        "patient",
        "modalities_in_study",
        "sop_classes_in_study",
        "number_of_study_related_series",
        "number_of_study_related_instances",
        "freed_instances",
        "identity_conflict",
        "first_received_at",
        "last_received_at",
    ],
    columns: columns(&[Level::Patient, Level::Study]),
});

pub(super) static SERIES: LazyLock<Table> = LazyLock::new(|| Table {
    name: "series",
    fixed: &["id", "study", "number_of_series_related_instances", "freed_instances"],
    columns: columns(&[Level::Series]),
});

pub(super) static INSTANCES: LazyLock<Table> = LazyLock::new(|| Table {
    name: "instances",
    fixed: &[
        "id",
        "series",
        "study",
        "entry",
        "transfer_syntax_uid",
        "data_set_length",
        "data_set_sha256",
        "received_at",
        "freed_at",
        "freed_to",
    ],
    columns: columns(&[Level::Image]),
});

/// The table that answers a query at `level`.
pub(super) fn table(level: Level) -> &'static Table {
    match level {
        Level::Patient => &PATIENTS,
        Level::Study => &STUDIES,
        Level::Series => &SERIES,
        Level::Image => &INSTANCES,
    }
}

impl Table {
    /// The place of an attribute among [`Table::columns`].
    pub fn place(&self, tag: Tag) -> Option<usize> {
        self.columns.iter().position(|column| column.attribute.tag == tag)
    }
}

fn columns(levels: &[Level]) -> Vec<Column> {
    INDEXED
        .iter()
        .filter(|attribute| levels.contains(&attribute.level))
        .map(|attribute| {
            let name = snake_case(attribute.keyword);
            let compared = match attribute.vr {
                VR::PN => Some(format!("{name}_folded")),
                VR::DA | VR::TM | VR::DT => Some(format!("{name}_normal")),
                _ => None,
            };
            Column { attribute, name, compared }
        })
        .collect()
}

/// The column of an indexed or computed attribute.
pub(super) fn column_name(tag: Tag) -> Option<String> {
    by_tag(tag).map(|attribute| snake_case(attribute.keyword))
}

/// `SOPInstanceUID` → `sop_instance_uid`.
fn snake_case(keyword: &str) -> String {
    let characters: Vec<char> = keyword.chars().collect();
    let mut name = String::with_capacity(keyword.len() + 8);
    for (at, character) in characters.iter().enumerate() {
        let before = at.checked_sub(1).and_then(|at| characters.get(at));
        let after = characters.get(at + 1);
        let starts_word = character.is_ascii_uppercase()
            && before.is_some_and(|before| {
                !before.is_ascii_uppercase() || after.is_some_and(char::is_ascii_lowercase)
            });
        if starts_word {
            name.push('_');
        }
        name.push(character.to_ascii_lowercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn keywords_become_column_names() {
        for (keyword, name) in [
            ("SOPInstanceUID", "sop_instance_uid"),
            ("PatientID", "patient_id"),
            ("TimezoneOffsetFromUTC", "timezone_offset_from_utc"),
            ("Rows", "rows"),
            ("SOPClassesInStudy", "sop_classes_in_study"),
        ] {
            assert_eq!(snake_case(keyword), name);
        }
    }

    #[test]
    fn the_migrations_have_exactly_the_columns_of_the_attribute_table() {
        let migration = include_str!("../../migrations/0001_index.up.sql");
        for table in [&*PATIENTS, &*STUDIES, &*SERIES, &*INSTANCES] {
            let start = migration.find(&format!("CREATE TABLE {} (", table.name)).unwrap();
            let body = &migration[start..][..migration[start..].find(";\n").unwrap()];
            let migrated: BTreeSet<&str> = body
                .lines()
                .skip(1)
                .filter_map(|line| line.trim().split_once(' '))
                .filter(|(name, _)| *name != "--")
                .map(|(name, _)| name)
                .collect();
            let expected: BTreeSet<&str> = table
                .fixed
                .iter()
                .copied()
                .chain(table.columns.iter().map(|column| column.name.as_str()))
                .chain(table.columns.iter().filter_map(|column| column.compared.as_deref()))
                .collect();
            assert_eq!(migrated, expected, "{}", table.name);
        }
    }
}
