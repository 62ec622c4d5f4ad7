//! What a batch of log facts does to the rows: patients, studies, series, instances and their
//! summaries, in one transaction with the indexer's position. Applying a fact twice changes
//! nothing. Called by the indexer; never deletes.

use std::collections::{BTreeSet, HashMap};

use dicom_dictionary_std::tags;
use sqlx::any::AnyRow;
use sqlx::{Any, Executor, Row, Transaction};

use super::columns::{INSTANCES, PATIENTS, SERIES, STUDIES};
use super::conflicts::Conflict;
use super::rows::{self, Instance, Parts, Patient, Series, Study, Texts, Working};
use super::{compared, history, rebuild};
use crate::clock::Millis;
use crate::spool::{EntryId, Fact, Followed, LogPosition, Missing, SpoolEntry};
use crate::store::{Sql, StoreError};

/// Brings the rows up to date with `facts`, which follow the stored position.
pub async fn apply(tx: &mut Transaction<'static, Any>, facts: &[Followed]) -> Result<(), StoreError> {
    history::record(tx, facts).await?;
    let mut batch = Batch::load(tx, facts).await?;
    let freed_to = history::holders(tx, &purged(facts)).await?;
    for followed in facts {
        match &*followed.fact {
            Fact::Received(entry) => batch.received(entry),
            Fact::Purged { entry, at, .. } => {
                let holders = freed_to.get(entry).cloned().unwrap_or_default();
                batch.purged(*entry, *at, holders);
            }
            Fact::Routed { .. }
            | Fact::Compared { .. }
            | Fact::Delivery { .. }
            | Fact::Unlisted { .. }
            | Fact::CommitmentRequested { .. }
            | Fact::CommitmentClosed { .. } => {}
        }
    }
    batch.write(tx).await?;
    match facts.last() {
        Some(last) => store_position(tx, last.after).await,
        None => Ok(()),
    }
}

/// Moves on without applying `fact`.
pub(super) async fn pass_over(tx: &mut Transaction<'static, Any>, fact: &Followed) -> Result<(), StoreError> {
    store_position(tx, fact.after).await
}

/// Where the index stands in the log.
pub async fn position<'c>(executor: impl Executor<'c, Database = Any>) -> Result<LogPosition, StoreError> {
    let row =
        Sql::new("SELECT position FROM index_position WHERE name = 'index'").fetch_optional(executor).await?;
    let position: i64 = row.map(|row| row.try_get(0)).transpose()?.unwrap_or(0);
    Ok(LogPosition(position as u64))
}

/// Objects that count as held and have numbers above `entry`, in their order, at most a page.
pub async fn held_after<'c>(
    executor: impl Executor<'c, Database = Any>,
    entry: EntryId,
) -> Result<Vec<Missing>, StoreError> {
    const PAGE: u64 = 50_000;
    let mut sql = Sql::new("");
    for table in ["instances", "conflicts"] {
        let columns = "SELECT entry, sop_instance_uid, data_set_sha256 FROM ";
        sql.push(columns).push(table).push(" WHERE freed_at IS NULL AND entry > ").bind(entry.0);
        sql.push(if table == "instances" { " UNION ALL " } else { " ORDER BY entry" });
    }
    sql.limit(PAGE);
    let rows = sql.fetch_all(executor).await?;
    let missing = |row: &AnyRow| {
        let entry = EntryId(row.try_get::<i64, _>(0)? as u64);
        Ok(Missing {
            entry,
            through: entry,
            sop_instance_uid: row.try_get(1)?,
            data_set_sha256: row.try_get(2)?,
        })
    };
    rows.iter().map(missing).collect()
}

async fn store_position(tx: &mut Transaction<'static, Any>, position: LogPosition) -> Result<(), StoreError> {
    let mut sql = Sql::new("INSERT INTO index_position (name, position) VALUES ('index', ");
    sql.bind(position.0).push(") ON CONFLICT (name) DO UPDATE SET position = excluded.position");
    sql.execute(&mut **tx).await.map(drop)
}

fn purged(facts: &[Followed]) -> Vec<EntryId> {
    let entry = |followed: &Followed| match &*followed.fact {
        Fact::Purged { entry, .. } => Some(*entry),
        _ => None,
    };
    facts.iter().filter_map(entry).collect()
}

/// The rows that a batch touches.
struct Batch {
    patients: Working<Patient>,
    studies: Working<Study>,
    series: Working<Series>,
    instances: Working<Instance>,
    conflicts: Vec<Conflict>,
    next: NextIds,
    patient_of: HashMap<String, i64>,
    study_of: HashMap<String, i64>,
    series_of: HashMap<(i64, String), i64>,
    instance_of: HashMap<String, i64>,
    instance_of_entry: HashMap<i64, i64>,
    /// Studies that lost an instance to another: their summaries are collected anew.
    moved_from: BTreeSet<i64>,
}

/// The ids that the next new rows get.
struct NextIds {
    patient: i64,
    study: i64,
    series: i64,
    instance: i64,
}

impl Batch {
    async fn load(tx: &mut Transaction<'static, Any>, facts: &[Followed]) -> Result<Batch, StoreError> {
        let received: Vec<&SpoolEntry> = facts.iter().filter_map(received).collect();
        let mut instances = Working::<Instance>::default();
        let uids = distinct(received.iter().map(|entry| entry.key.sop_instance_uid.as_str()));
        instances.keep(rows::load(tx, "sop_instance_uid", &uids).await?);
        let freed: Vec<i64> = purged(facts).iter().map(|entry| entry.0 as i64).collect();
        instances.keep(rows::load(tx, "entry", &freed).await?);

        let mut studies = Working::<Study>::default();
        let uids = distinct(received.iter().map(|entry| entry.key.study_instance_uid.as_str()));
        studies.keep(rows::load(tx, "study_instance_uid", &uids).await?);
        let ids = distinct(instances.iter().map(|instance| instance.study));
        studies.keep(rows::load(tx, "id", &ids).await?);

        let mut series = Working::<Series>::default();
        let uids = distinct(received.iter().map(|entry| entry.key.series_instance_uid.as_str()));
        series.keep(rows::load(tx, "series_instance_uid", &uids).await?);
        let ids = distinct(instances.iter().map(|instance| instance.series));
        series.keep(rows::load(tx, "id", &ids).await?);

        let mut patients = Working::<Patient>::default();
        let identities = distinct(received.iter().map(|entry| identity(entry)));
        patients.keep(rows::load(tx, "identity", &identities).await?);
        let ids = distinct(studies.iter().map(|study| study.patient));
        patients.keep(rows::load(tx, "id", &ids).await?);

        let next = NextIds::load(tx).await?;
        let mut batch = Batch::of(patients, studies, series, instances, next);
        batch.index();
        Ok(batch)
    }

    fn of(
        patients: Working<Patient>,
        studies: Working<Study>,
        series: Working<Series>,
        instances: Working<Instance>,
        next: NextIds,
    ) -> Batch {
        Batch {
            patients,
            studies,
            series,
            instances,
            conflicts: Vec::new(),
            next,
            patient_of: HashMap::new(),
            study_of: HashMap::new(),
            series_of: HashMap::new(),
            instance_of: HashMap::new(),
            instance_of_entry: HashMap::new(),
            moved_from: BTreeSet::new(),
        }
    }

    /// Makes what was loaded findable by the keys of the log.
    fn index(&mut self) {
        for patient in self.patients.iter() {
            self.patient_of.insert(patient.identity.clone(), patient.id);
        }
        let study_uid = STUDIES.place(tags::STUDY_INSTANCE_UID);
        for study in self.studies.iter() {
            self.study_of.insert(text_at(&study.texts, study_uid), study.id);
        }
        let series_uid = SERIES.place(tags::SERIES_INSTANCE_UID);
        for series in self.series.iter() {
            self.series_of.insert((series.study, text_at(&series.texts, series_uid)), series.id);
        }
        let instance_uid = INSTANCES.place(tags::SOP_INSTANCE_UID);
        for instance in self.instances.iter() {
            self.instance_of.insert(text_at(&instance.texts, instance_uid), instance.id);
            self.instance_of_entry.insert(instance.entry, instance.id);
        }
    }

    fn received(&mut self, entry: &SpoolEntry) {
        if entry.conflict_with.is_some() {
            self.conflicts.push(Conflict::Held(Box::new(entry.clone())));
            return;
        }
        let known = self.instance_of.get(entry.key.sop_instance_uid.as_str()).copied();
        // The log may say it again (a record copied forward, an index rebuilt beside freed rows).
        let is_newer =
            |id: &i64| self.instances.get(*id).is_some_and(|instance| instance.entry < entry.id.0 as i64);
        match known {
            Some(id) if is_newer(&id) => self.replace(id, entry),
            Some(_) => {}
            None => self.insert(entry),
        }
    }

    /// An object that was never here.
    fn insert(&mut self, entry: &SpoolEntry) {
        let study = self.study(entry);
        let series = self.series(study, entry);
        let id = self.next.instance;
        self.next.instance += 1;
        let instance = instance(id, series, study, entry);
        self.instance_of.insert(entry.key.sop_instance_uid.as_str().to_owned(), id);
        self.instance_of_entry.insert(instance.entry, id);
        self.instances.insert(instance);
        self.count(series, study, 1, 0);
        self.summarize(study, entry);
    }

    /// The same UID, received again after its bytes were freed: the row follows the new entry,
    /// to another series even.
    fn replace(&mut self, id: i64, entry: &SpoolEntry) {
        let Some(old) = self.instances.get(id).cloned() else { return };
        self.count(old.series, old.study, -1, -i64::from(old.freed_at.is_some()));
        self.moved_from.insert(old.study);
        self.instance_of_entry.remove(&old.entry);
        let study = self.study(entry);
        let series = self.series(study, entry);
        self.instance_of_entry.insert(entry.id.0 as i64, id);
        self.instances.insert(instance(id, series, study, entry));
        self.count(series, study, 1, 0);
        self.summarize(study, entry);
    }

    fn purged(&mut self, entry: EntryId, at: Millis, holders: String) {
        let Some(&id) = self.instance_of_entry.get(&(entry.0 as i64)) else {
            // Either a conflict, or an object that was received again since.
            self.conflicts.push(Conflict::Freed(entry, at));
            return;
        };
        if self.instances.get(id).is_none_or(|instance| instance.freed_at.is_some()) {
            return;
        }
        let Some(instance) = self.instances.change(id) else { return };
        instance.freed_at = Some(at.0 as i64);
        instance.freed_to = Some(holders);
        let (series, study) = (instance.series, instance.study);
        self.count(series, study, 0, 1);
    }

    fn patient(&mut self, entry: &SpoolEntry) -> i64 {
        let identity = identity(entry);
        let texts = Texts::of(&PATIENTS, &entry.attributes);
        if let Some(&id) = self.patient_of.get(&identity) {
            fill(&mut self.patients, id, &texts, |patient| &mut patient.texts, 0);
            return id;
        }
        let id = self.next.patient;
        self.next.patient += 1;
        self.patient_of.insert(identity.clone(), id);
        self.patients.insert(Patient { id, identity, studies: 0, series: 0, instances: 0, freed: 0, texts });
        id
    }

    fn study(&mut self, entry: &SpoolEntry) -> i64 {
        let uid = entry.key.study_instance_uid.as_str();
        let mut texts = Texts::of(&STUDIES, &entry.attributes);
        set_text(&mut texts, STUDIES.place(tags::STUDY_INSTANCE_UID), uid);
        if let Some(&id) = self.study_of.get(uid) {
            self.join_study(id, entry, &texts);
            return id;
        }
        let patient = self.patient(entry);
        let id = self.next.study;
        self.next.study += 1;
        let received_at = entry.received_at.0 as i64;
        self.study_of.insert(uid.to_owned(), id);
        self.studies.insert(Study {
            id,
            patient,
            modalities: BTreeSet::new(),
            sop_classes: BTreeSet::new(),
            series: 0,
            instances: 0,
            freed: 0,
            identity_conflict: false,
            first_received_at: received_at,
            last_received_at: received_at,
            texts,
        });
        id
    }

    /// One study, two patients: the first stays, and a person is told.
    fn join_study(&mut self, id: i64, entry: &SpoolEntry, texts: &Texts) {
        let Some(study) = self.studies.get(id) else { return };
        let owner = study.patient;
        let same = is_same_patient(&study.texts, texts);
        let patient_columns = if same { 0 } else { PATIENTS.columns.len() };
        fill(&mut self.studies, id, texts, |study| &mut study.texts, patient_columns);
        if same {
            let patient = Texts::of(&PATIENTS, &entry.attributes);
            fill(&mut self.patients, owner, &patient, |patient| &mut patient.texts, 0);
            return;
        }
        if self.studies.get(id).is_some_and(|study| !study.identity_conflict)
            && let Some(study) = self.studies.change(id)
        {
            study.identity_conflict = true;
        }
    }

    fn series(&mut self, study: i64, entry: &SpoolEntry) -> i64 {
        let uid = entry.key.series_instance_uid.as_str();
        let mut texts = Texts::of(&SERIES, &entry.attributes);
        set_text(&mut texts, SERIES.place(tags::SERIES_INSTANCE_UID), uid);
        let key = (study, uid.to_owned());
        if let Some(&id) = self.series_of.get(&key) {
            fill(&mut self.series, id, &texts, |series| &mut series.texts, 0);
            return id;
        }
        let id = self.next.series;
        self.next.series += 1;
        self.series_of.insert(key, id);
        self.series.insert(Series { id, study, instances: 0, freed: 0, texts });
        id
    }

    /// Moves the counts of the series, its study and its patient. Series and studies count while
    /// they have instances.
    fn count(&mut self, series: i64, study: i64, instances: i64, freed: i64) {
        let mut series_change = 0;
        if let Some(series) = self.series.change(series) {
            let before = series.instances > 0;
            series.instances += instances;
            series.freed += freed;
            series_change = i64::from(series.instances > 0) - i64::from(before);
        }
        let Some(study) = self.studies.change(study) else { return };
        let before = study.instances > 0;
        study.series += series_change;
        study.instances += instances;
        study.freed += freed;
        let study_change = i64::from(study.instances > 0) - i64::from(before);
        if let Some(patient) = self.patients.change(study.patient) {
            patient.studies += study_change;
            patient.series += series_change;
            patient.instances += instances;
            patient.freed += freed;
        }
    }

    fn summarize(&mut self, study: i64, entry: &SpoolEntry) {
        let Some(study) = self.studies.change(study) else { return };
        if let Some(modality) = entry.attributes.get(tags::MODALITY).filter(|modality| !modality.is_empty()) {
            study.modalities.insert(modality.to_owned());
        }
        study.sop_classes.insert(entry.sop_class_uid.as_str().to_owned());
        let received_at = entry.received_at.0 as i64;
        study.first_received_at = study.first_received_at.min(received_at);
        study.last_received_at = study.last_received_at.max(received_at);
    }

    async fn write(self, tx: &mut Transaction<'static, Any>) -> Result<(), StoreError> {
        let mut parts = Parts::default();
        self.patients.write(tx, &mut parts).await?;
        self.studies.write(tx, &mut parts).await?;
        self.series.write(tx, &mut parts).await?;
        self.instances.write(tx, &mut parts).await?;
        parts.write(tx).await?;
        for conflict in &self.conflicts {
            conflict.write(tx).await?;
        }
        for study in self.moved_from {
            rebuild::summaries(tx, Some(study)).await?;
        }
        Ok(())
    }
}

impl NextIds {
    async fn load(tx: &mut Transaction<'static, Any>) -> Result<NextIds, StoreError> {
        let sql = Sql::new(
            "SELECT (SELECT COALESCE(MAX(id), 0) + 1 FROM patients), \
             (SELECT COALESCE(MAX(id), 0) + 1 FROM studies), \
             (SELECT COALESCE(MAX(id), 0) + 1 FROM series), \
             (SELECT COALESCE(MAX(id), 0) + 1 FROM instances)",
        );
        let Some(row) = sql.fetch_optional(&mut **tx).await? else {
            return Ok(NextIds { patient: 1, study: 1, series: 1, instance: 1 });
        };
        Ok(NextIds {
            patient: row.try_get(0)?,
            study: row.try_get(1)?,
            series: row.try_get(2)?,
            instance: row.try_get(3)?,
        })
    }
}

fn instance(id: i64, series: i64, study: i64, entry: &SpoolEntry) -> Instance {
    let mut texts = Texts::of(&INSTANCES, &entry.attributes);
    set_text(&mut texts, INSTANCES.place(tags::SOP_INSTANCE_UID), entry.key.sop_instance_uid.as_str());
    set_text(&mut texts, INSTANCES.place(tags::SOP_CLASS_UID), entry.sop_class_uid.as_str());
    Instance {
        id,
        series,
        study,
        entry: entry.id.0 as i64,
        transfer_syntax_uid: entry.transfer_syntax_uid.clone(),
        data_set_length: entry.data_set_length as i64,
        data_set_sha256: entry.data_set_sha256.to_string(),
        received_at: entry.received_at.0 as i64,
        freed_at: None,
        freed_to: None,
        texts,
    }
}

fn received(followed: &Followed) -> Option<&SpoolEntry> {
    match &*followed.fact {
        Fact::Received(entry) if entry.conflict_with.is_none() => Some(entry),
        _ => None,
    }
}

/// One patient for each Patient ID and its issuer (PS3.3 §C.2.2); without an ID, for each study,
/// because nothing says that two of them are the same person.
fn identity(entry: &SpoolEntry) -> String {
    let value = |tag| entry.attributes.get(tag).map(compared::clip_key).unwrap_or_default();
    let id = value(tags::PATIENT_ID);
    if id.is_empty() {
        return serde_json::json!([entry.key.study_instance_uid.as_str()]).to_string();
    }
    serde_json::json!([id, value(tags::ISSUER_OF_PATIENT_ID)]).to_string()
}

/// Whether two objects of one study name one patient; what one of them does not say can't differ.
fn is_same_patient(study: &Texts, object: &Texts) -> bool {
    let agree = |tag| {
        let place = STUDIES.place(tag);
        let (ours, theirs) = (text_at(study, place), text_at(object, place));
        ours == theirs || theirs.is_empty() || ours.is_empty()
    };
    agree(tags::PATIENT_ID) && agree(tags::ISSUER_OF_PATIENT_ID)
}

fn fill<E: rows::Entity>(
    working: &mut Working<E>,
    id: i64,
    texts: &Texts,
    of: fn(&mut E) -> &mut Texts,
    from: usize,
) {
    let has_gap = working.get(id).is_some_and(|row| row.texts().clone().fill_gaps(texts, from));
    if has_gap && let Some(row) = working.change(id) {
        of(row).fill_gaps(texts, from);
    }
}

fn text_at(texts: &Texts, place: Option<usize>) -> String {
    place.and_then(|place| texts.0.get(place)).cloned().flatten().unwrap_or_default()
}

fn set_text(texts: &mut Texts, place: Option<usize>, value: &str) {
    if let Some(text) = place.and_then(|place| texts.0.get_mut(place)) {
        *text = Some(value.to_owned());
    }
}

fn distinct<T: Ord>(values: impl Iterator<Item = T>) -> Vec<T> {
    values.collect::<BTreeSet<T>>().into_iter().collect()
}
