//! Rows of objects that have the UID of another and other content.

use sqlx::{Any, Transaction};

use crate::clock::Millis;
use crate::spool::{EntryId, SpoolEntry};
use crate::store::{Sql, StoreError};

/// What the log says of one.
pub(super) enum Conflict {
    Held(Box<SpoolEntry>),
    /// Or an object that is no conflict, or none any more: then nothing changes.
    Freed(EntryId, Millis),
}

impl Conflict {
    pub(super) async fn write(&self, tx: &mut Transaction<'static, Any>) -> Result<(), StoreError> {
        let sql = match self {
            Conflict::Held(entry) => Conflict::insert(entry),
            Conflict::Freed(entry, at) => {
                let mut sql = Sql::new("UPDATE conflicts SET freed_at = ");
                sql.bind(*at).push(" WHERE freed_at IS NULL AND entry = ").bind(entry.0);
                sql
            }
        };
        sql.execute(&mut **tx).await.map(drop)
    }

    fn insert(entry: &SpoolEntry) -> Sql {
        let mut sql = Sql::new(
            "INSERT INTO conflicts (entry, conflict_with, study_instance_uid, series_instance_uid, \
             sop_instance_uid, sop_class_uid, transfer_syntax_uid, data_set_length, data_set_sha256, \
             received_at) VALUES (",
        );
        sql.bind(entry.id.0).push(", ");
        sql.bind(entry.conflict_with.map_or(0, |with| with.0)).push(", ");
        sql.bind(entry.key.study_instance_uid.as_str()).push(", ");
        sql.bind(entry.key.series_instance_uid.as_str()).push(", ");
        sql.bind(entry.key.sop_instance_uid.as_str()).push(", ");
        sql.bind(entry.sop_class_uid.as_str()).push(", ");
        sql.bind(&entry.transfer_syntax_uid).push(", ");
        sql.bind(entry.data_set_length).push(", ");
        sql.bind(entry.data_set_sha256.to_string()).push(", ");
        sql.bind(entry.received_at).push(") ON CONFLICT (entry) DO NOTHING");
        sql
    }
}
