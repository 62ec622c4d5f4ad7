//! The rows of the index, read and written many at a time. No rule about what belongs into them
//! is here: that is [`super::catalogue`].

use std::collections::{BTreeSet, HashMap};

use sqlx::any::AnyRow;
use sqlx::{Any, Row, Transaction};

use super::columns::{self, Column, Table};
use super::compared::{self, Part};
use crate::dicom::Attributes;
use crate::store::sql::Bind;
use crate::store::{Sql, StoreError};

/// Most rows in one INSERT.
const CHUNK: usize = 32;
/// Most values in one IN list. Both are powers of two, to keep every statement prepared.
const LIST: usize = 512;

/// Values of a table's attribute columns, in their order; `None` when no object had it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Texts(pub Vec<Option<String>>);

impl Texts {
    /// What `attributes` say for the columns of `table`.
    pub fn of(table: &Table, attributes: &Attributes) -> Texts {
        let value = |column: &Column| {
            attributes.get(column.attribute.tag).map(|value| compared::clip(column.attribute.vr, value))
        };
        Texts(table.columns.iter().map(value).collect())
    }

    /// Takes from `other` what is missing here; whether anything was.
    pub fn fill_gaps(&mut self, other: &Texts, from: usize) -> bool {
        let mut filled = false;
        for (ours, theirs) in self.0.iter_mut().zip(&other.0).skip(from) {
            let gap = ours.as_deref().is_none_or(str::is_empty);
            let better = theirs.as_deref().is_some_and(|theirs| ours.is_none() || !theirs.is_empty());
            if gap && better {
                ours.clone_from(theirs);
                filled = true;
            }
        }
        filled
    }
}

/// A row of one of the four tables.
pub(super) trait Entity: Sized {
    fn table() -> &'static Table;
    fn id(&self) -> i64;
    fn read(row: &AnyRow, texts: Texts) -> Result<Self, sqlx::Error>;
    /// Values of the fixed columns, in their order.
    fn fixed(&self) -> Vec<Bind>;
    fn texts(&self) -> &Texts;
}

#[derive(Debug, Clone)]
pub(super) struct Patient {
    pub id: i64,
    pub identity: String,
    pub studies: i64,
    pub series: i64,
    pub instances: i64,
    pub freed: i64,
    pub texts: Texts,
}

#[derive(Debug, Clone)]
pub(super) struct Study {
    pub id: i64,
    pub patient: i64,
    pub modalities: BTreeSet<String>,
    pub sop_classes: BTreeSet<String>,
    pub series: i64,
    pub instances: i64,
    pub freed: i64,
    pub identity_conflict: bool,
    pub first_received_at: i64,
    pub last_received_at: i64,
    pub texts: Texts,
}

#[derive(Debug, Clone)]
pub(super) struct Series {
    pub id: i64,
    pub study: i64,
    pub instances: i64,
    pub freed: i64,
    pub texts: Texts,
}

#[derive(Debug, Clone)]
pub(super) struct Instance {
    pub id: i64,
    pub series: i64,
    pub study: i64,
    pub entry: i64,
    pub transfer_syntax_uid: String,
    pub data_set_length: i64,
    pub data_set_sha256: String,
    pub received_at: i64,
    pub freed_at: Option<i64>,
    pub freed_to: Option<String>,
    pub texts: Texts,
}

impl Entity for Patient {
    fn table() -> &'static Table {
        &columns::PATIENTS
    }
    fn id(&self) -> i64 {
        self.id
    }
    fn read(row: &AnyRow, texts: Texts) -> Result<Self, sqlx::Error> {
        Ok(Patient {
            id: row.try_get(0)?,
            identity: row.try_get(1)?,
            studies: row.try_get(2)?,
            series: row.try_get(3)?,
            instances: row.try_get(4)?,
            freed: row.try_get(5)?,
            texts,
        })
    }
    fn fixed(&self) -> Vec<Bind> {
        vec![
            self.id.into(),
            self.identity.as_str().into(),
            self.studies.into(),
            self.series.into(),
            self.instances.into(),
            self.freed.into(),
        ]
    }
    fn texts(&self) -> &Texts {
        &self.texts
    }
}

impl Entity for Study {
    fn table() -> &'static Table {
        &columns::STUDIES
    }
    fn id(&self) -> i64 {
        self.id
    }
    fn read(row: &AnyRow, texts: Texts) -> Result<Self, sqlx::Error> {
        Ok(Study {
            id: row.try_get(0)?,
            patient: row.try_get(1)?,
            modalities: split(&row.try_get::<String, _>(2)?),
            sop_classes: split(&row.try_get::<String, _>(3)?),
            series: row.try_get(4)?,
            instances: row.try_get(5)?,
            freed: row.try_get(6)?,
            identity_conflict: row.try_get::<i64, _>(7)? != 0,
            first_received_at: row.try_get(8)?,
            last_received_at: row.try_get(9)?,
            texts,
        })
    }
    fn fixed(&self) -> Vec<Bind> {
        vec![
            self.id.into(),
            self.patient.into(),
            join(&self.modalities).into(),
            join(&self.sop_classes).into(),
            self.series.into(),
            self.instances.into(),
            self.freed.into(),
            i64::from(self.identity_conflict).into(),
            self.first_received_at.into(),
            self.last_received_at.into(),
        ]
    }
    fn texts(&self) -> &Texts {
        &self.texts
    }
}

impl Entity for Series {
    fn table() -> &'static Table {
        &columns::SERIES
    }
    fn id(&self) -> i64 {
        self.id
    }
    fn read(row: &AnyRow, texts: Texts) -> Result<Self, sqlx::Error> {
        Ok(Series {
            id: row.try_get(0)?,
            study: row.try_get(1)?,
            instances: row.try_get(2)?,
            freed: row.try_get(3)?,
            texts,
        })
    }
    fn fixed(&self) -> Vec<Bind> {
        vec![self.id.into(), self.study.into(), self.instances.into(), self.freed.into()]
    }
    fn texts(&self) -> &Texts {
        &self.texts
    }
}

impl Entity for Instance {
    fn table() -> &'static Table {
        &columns::INSTANCES
    }
    fn id(&self) -> i64 {
        self.id
    }
    fn read(row: &AnyRow, texts: Texts) -> Result<Self, sqlx::Error> {
        Ok(Instance {
            id: row.try_get(0)?,
            series: row.try_get(1)?,
            study: row.try_get(2)?,
            entry: row.try_get(3)?,
            transfer_syntax_uid: row.try_get(4)?,
            data_set_length: row.try_get(5)?,
            data_set_sha256: row.try_get(6)?,
            received_at: row.try_get(7)?,
            freed_at: row.try_get(8)?,
            freed_to: row.try_get(9)?,
            texts,
        })
    }
    fn fixed(&self) -> Vec<Bind> {
        vec![
            self.id.into(),
            self.series.into(),
            self.study.into(),
            self.entry.into(),
            self.transfer_syntax_uid.as_str().into(),
            self.data_set_length.into(),
            self.data_set_sha256.as_str().into(),
            self.received_at.into(),
            self.freed_at.into(),
            self.freed_to.as_deref().into(),
        ]
    }
    fn texts(&self) -> &Texts {
        &self.texts
    }
}

fn split(values: &str) -> BTreeSet<String> {
    values.split('\\').filter(|value| !value.is_empty()).map(str::to_owned).collect()
}

fn join(values: &BTreeSet<String>) -> String {
    values.iter().map(String::as_str).collect::<Vec<_>>().join("\\")
}

/// Rows whose `column` is one of `values`.
pub(super) async fn load<E: Entity, V: Into<Bind> + Clone>(
    tx: &mut Transaction<'static, Any>,
    column: &str,
    values: &[V],
) -> Result<Vec<E>, StoreError> {
    let table = E::table();
    let mut found = Vec::new();
    for chunk in values.chunks(LIST) {
        let mut sql = select(tx, table);
        sql.push(" WHERE ").name(column).push(" IN ").list(padded(chunk));
        for row in sql.fetch_all(&mut **tx).await? {
            found.push(read_entity(table, &row)?);
        }
    }
    Ok(found)
}

/// Repeats the last value up to the next power of two, so that lists come in few lengths.
pub(super) fn padded<V: Clone>(values: &[V]) -> impl Iterator<Item = V> + '_ {
    let missing = values.len().next_power_of_two() - values.len();
    let last = values.last().into_iter().cycle().take(if values.is_empty() { 0 } else { missing });
    values.iter().chain(last).cloned()
}

fn select(tx: &Transaction<'static, Any>, table: &'static Table) -> Sql {
    let mut sql = Sql::within(tx, "SELECT ");
    let names = table.fixed.iter().copied().chain(table.columns.iter().map(|column| column.name.as_str()));
    for (at, name) in names.enumerate() {
        sql.push(if at > 0 { ", " } else { "" }).name(name);
    }
    sql.push(" FROM ").push(table.name);
    sql
}

fn read_entity<E: Entity>(table: &Table, row: &AnyRow) -> Result<E, StoreError> {
    let mut texts = Vec::with_capacity(table.columns.len());
    for at in 0..table.columns.len() {
        texts.push(row.try_get::<Option<String>, _>(table.fixed.len() + at)?);
    }
    Ok(E::read(row, Texts(texts))?)
}

/// Inserts rows, or overwrites those with the same `id`.
pub(super) async fn write<E: Entity>(
    tx: &mut Transaction<'static, Any>,
    rows: &[&E],
    parts: &mut Parts,
) -> Result<(), StoreError> {
    let mut rest = rows;
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at(chunk_length(rest.len()));
        upsert(tx, chunk, parts).execute(&mut **tx).await?;
        rest = after;
    }
    Ok(())
}

/// The largest power of two that fits.
fn chunk_length(rows: usize) -> usize {
    let rows = rows.min(CHUNK);
    1 << rows.ilog2()
}

fn upsert<E: Entity>(tx: &Transaction<'static, Any>, rows: &[&E], parts: &mut Parts) -> Sql {
    let table = E::table();
    let names: Vec<&str> = table
        .fixed
        .iter()
        .copied()
        .chain(table.columns.iter().map(|column| column.name.as_str()))
        .chain(table.columns.iter().filter_map(|column| column.compared.as_deref()))
        .collect();
    let mut sql = Sql::within(tx, "INSERT INTO ");
    sql.push(table.name).push(" (");
    for (at, name) in names.iter().enumerate() {
        sql.push(if at > 0 { ", " } else { "" }).name(name);
    }
    sql.push(") VALUES ");
    for (at, row) in rows.iter().enumerate() {
        sql.push(if at > 0 { ", " } else { "" }).list(values(table, *row, parts));
    }
    sql.push(" ON CONFLICT (id) DO UPDATE SET ");
    for (at, name) in names.iter().enumerate().skip(1) {
        sql.push(if at > 1 { ", " } else { "" }).name(name).push(" = excluded.").name(name);
    }
    sql
}

fn values<E: Entity>(table: &Table, row: &E, parts: &mut Parts) -> Vec<Bind> {
    let mut values = row.fixed();
    let texts = &row.texts().0;
    values.extend(texts.iter().map(|text| Bind::Text(text.clone())));
    for (column, text) in table.columns.iter().zip(texts) {
        let vr = column.attribute.vr;
        let compared = text.as_deref().and_then(|text| compared::compared(vr, text));
        if let Some(whole) = compared.as_deref().or(text.as_deref()) {
            parts.0.extend(compared::parts(vr, whole));
        }
        if column.compared.is_some() {
            values.push(Bind::Text(compared));
        }
    }
    values
}

/// What goes to `value_parts`.
#[derive(Default)]
pub(super) struct Parts(BTreeSet<Part>);

impl Parts {
    pub async fn write(self, tx: &mut Transaction<'static, Any>) -> Result<(), StoreError> {
        let parts: Vec<_> = self.0.into_iter().collect();
        let mut rest = parts.as_slice();
        while !rest.is_empty() {
            let (chunk, after) = rest.split_at(chunk_length(rest.len()));
            let mut sql = Sql::within(tx, "INSERT INTO value_parts (kind, part, whole) VALUES ");
            for (at, part) in chunk.iter().enumerate() {
                sql.push(if at > 0 { ", " } else { "" }).list([part.kind, &part.part, &part.whole]);
            }
            sql.push(" ON CONFLICT DO NOTHING");
            sql.execute(&mut **tx).await?;
            rest = after;
        }
        Ok(())
    }
}

/// Rows of one table while a batch is applied: as loaded, and which of them changed.
pub(super) struct Working<E> {
    rows: HashMap<i64, E>,
    changed: BTreeSet<i64>,
}

impl<E> Default for Working<E> {
    fn default() -> Self {
        Working { rows: HashMap::new(), changed: BTreeSet::new() }
    }
}

impl<E: Entity> Working<E> {
    pub fn keep(&mut self, loaded: Vec<E>) {
        for row in loaded {
            self.rows.entry(row.id()).or_insert(row);
        }
    }

    pub fn insert(&mut self, row: E) {
        self.changed.insert(row.id());
        self.rows.insert(row.id(), row);
    }

    pub fn get(&self, id: i64) -> Option<&E> {
        self.rows.get(&id)
    }

    /// Marks the row as changed.
    pub fn change(&mut self, id: i64) -> Option<&mut E> {
        let row = self.rows.get_mut(&id)?;
        self.changed.insert(id);
        Some(row)
    }

    pub fn iter(&self) -> impl Iterator<Item = &E> {
        self.rows.values()
    }

    pub async fn write(
        &self,
        tx: &mut Transaction<'static, Any>,
        parts: &mut Parts,
    ) -> Result<(), StoreError> {
        let rows: Vec<&E> = self.changed.iter().filter_map(|id| self.rows.get(id)).collect();
        write(tx, &rows, parts).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_come_in_few_lengths() {
        assert_eq!(padded(&[1, 2, 3]).collect::<Vec<_>>(), [1, 2, 3, 3]);
        assert_eq!(padded::<i64>(&[]).count(), 0);
        assert_eq!([1, 3, 7, 8, 500].map(chunk_length), [1, 2, 4, 8, CHUNK]);
    }
}
