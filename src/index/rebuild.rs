//! The rows made anew: what can be said again by the log is dropped, what can't (rows of freed
//! objects) stays; and summaries collected from the instances instead of kept up step by step.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::{Any, Row, Transaction};

use crate::store::{Sql, StoreError};

/// Drops the rows of held objects and sends the index back to the start of the log. The indexer
/// notices and reads on from there. It must have read all of the log before, see
/// [`super::Index::reindex`].
pub async fn wipe_held(tx: &mut Transaction<'static, Any>) -> Result<(), StoreError> {
    run(tx, "DELETE FROM conflicts WHERE freed_at IS NULL").await?;
    run(tx, "DELETE FROM instances WHERE freed_at IS NULL").await?;
    run(
        tx,
        "DELETE FROM series WHERE NOT EXISTS (SELECT 1 FROM instances WHERE instances.series = series.id)",
    )
    .await?;
    run(tx, "DELETE FROM studies WHERE NOT EXISTS (SELECT 1 FROM series WHERE series.study = studies.id)")
        .await?;
    run(
        tx,
        "DELETE FROM patients WHERE NOT EXISTS (SELECT 1 FROM studies WHERE studies.patient = patients.id)",
    )
    .await?;
    run(tx, "UPDATE index_position SET position = 0 WHERE name = 'index'").await?;
    summaries(tx, None).await
}

/// For a log that is not the one the rows came from (its numbers begin anew): as [`wipe_held`],
/// and what stays gives up its entry numbers, so that no new entry is taken for an old one.
pub(super) async fn forget_log(tx: &mut Transaction<'static, Any>) -> Result<(), StoreError> {
    wipe_held(tx).await?;
    // Negative numbers name no entry; each further log moves them out of the next one's way.
    for table in ["instances", "conflicts"] {
        let lowest = lowest(tx, table).await?;
        let mut sql = Sql::new("UPDATE ");
        sql.push(table).push(" SET entry = ").bind(lowest).push(" - 1 - entry WHERE entry >= 0");
        sql.execute(&mut **tx).await?;
    }
    let lowest = lowest(tx, "history").await?;
    let mut sql = Sql::new("UPDATE history SET entry = ");
    sql.bind(lowest).push(" - 1 - entry WHERE entry >= 0");
    sql.execute(&mut **tx).await.map(drop)
}

async fn lowest(tx: &mut Transaction<'static, Any>, table: &'static str) -> Result<i64, StoreError> {
    let mut sql = Sql::new("SELECT COALESCE(MIN(entry), 0) FROM ");
    sql.push(table);
    let row = sql.fetch_optional(&mut **tx).await?;
    Ok(row.map(|row| row.try_get::<i64, _>(0)).transpose()?.unwrap_or(0).min(0))
}

/// Counts and collects the summaries of one study with its series and patient, or of all.
pub(super) async fn summaries(
    tx: &mut Transaction<'static, Any>,
    study: Option<i64>,
) -> Result<(), StoreError> {
    let series = "UPDATE series SET number_of_series_related_instances = \
         (SELECT COUNT(*) FROM instances i WHERE i.series = series.id), freed_instances = \
         (SELECT COUNT(*) FROM instances i WHERE i.series = series.id AND i.freed_at IS NOT NULL)";
    let studies = "UPDATE studies SET number_of_study_related_series = \
         (SELECT COUNT(*) FROM series e WHERE e.study = studies.id AND e.number_of_series_related_instances > 0), \
         number_of_study_related_instances = \
         (SELECT COUNT(*) FROM instances i WHERE i.study = studies.id), freed_instances = \
         (SELECT COUNT(*) FROM instances i WHERE i.study = studies.id AND i.freed_at IS NOT NULL)";
    let patients = "UPDATE patients SET number_of_patient_related_studies = (SELECT COUNT(*) FROM studies s \
         WHERE s.patient = patients.id AND s.number_of_study_related_instances > 0), \
         number_of_patient_related_series = (SELECT CAST(COALESCE(SUM(s.number_of_study_related_series), 0) AS BIGINT) \
         FROM studies s WHERE s.patient = patients.id), \
         number_of_patient_related_instances = (SELECT CAST(COALESCE(SUM(s.number_of_study_related_instances), 0) AS BIGINT) \
         FROM studies s WHERE s.patient = patients.id), \
         freed_instances = (SELECT CAST(COALESCE(SUM(s.freed_instances), 0) AS BIGINT) \
         FROM studies s WHERE s.patient = patients.id)";
    for (text, condition) in [
        (series, " WHERE study = "),
        (studies, " WHERE id = "),
        (patients, " WHERE id = (SELECT patient FROM studies WHERE id = "),
    ] {
        let mut sql = Sql::new(text);
        if let Some(study) = study {
            sql.push(condition).bind(study);
            sql.push(if condition.contains('(') { ")" } else { "" });
        }
        sql.execute(&mut **tx).await?;
    }
    collected(tx, study).await
}

/// Modalities and SOP classes: each database has another way to join texts, so it is done here.
async fn collected(tx: &mut Transaction<'static, Any>, study: Option<i64>) -> Result<(), StoreError> {
    let mut modalities = Sql::new(
        "SELECT DISTINCT study, modality FROM series WHERE number_of_series_related_instances > 0 \
         AND modality IS NOT NULL AND modality <> ''",
    );
    let mut sop_classes = Sql::new("SELECT DISTINCT study, sop_class_uid FROM instances WHERE 1 = 1");
    if let Some(study) = study {
        modalities.push(" AND study = ").bind(study);
        sop_classes.push(" AND study = ").bind(study);
    }
    let mut summaries: BTreeMap<i64, [BTreeSet<String>; 2]> = BTreeMap::new();
    if let Some(study) = study {
        summaries.entry(study).or_default();
    }
    for (at, sql) in [modalities, sop_classes].into_iter().enumerate() {
        for row in sql.fetch_all(&mut **tx).await? {
            let summary = summaries.entry(row.try_get(0)?).or_default();
            summary[at].insert(row.try_get(1)?);
        }
    }
    for (study, [modalities, sop_classes]) in summaries {
        let joined = |values: BTreeSet<String>| values.into_iter().collect::<Vec<_>>().join("\\");
        let mut sql = Sql::new("UPDATE studies SET modalities_in_study = ");
        sql.bind(joined(modalities)).push(", sop_classes_in_study = ").bind(joined(sop_classes));
        sql.push(" WHERE id = ").bind(study);
        sql.execute(&mut **tx).await?;
    }
    Ok(())
}

async fn run(tx: &mut Transaction<'static, Any>, text: &'static str) -> Result<(), StoreError> {
    Sql::new(text).execute(&mut **tx).await.map(drop)
}
