//! Asks a DIMSE destination by C-FIND (Study Root, PS3.4 §C.6.2) which of some objects it holds:
//! one question per series, by list of UIDs; what that does not find is looked for among all of the
//! series, because not every archive knows lists.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use dicom_dictionary_std::tags;

use super::data_set::{self, Writer};
use super::{Asked, Trouble};
use crate::dicom::status::Status;
use crate::dicom::transfer_syntax::{EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN};
use crate::dicom::{TransferSyntax, Uid};
use crate::dimse::scu::{Association, Proposal, ScuError};
use crate::forward::destination::Reach;
use crate::forward::lane::Lane;
use crate::spool::SpoolEntry;

const STUDY_ROOT_FIND: &str = "1.2.840.10008.5.1.4.1.2.2.1";
/// UIDs in one question.
const LIST: usize = 50;
/// Answers to one question at most; a series is rarely longer.
const MOST_ANSWERS: usize = 50_000;

pub async fn ask(lane: &Lane, entries: &[Arc<SpoolEntry>]) -> Result<Asked, Trouble> {
    let Reach::Dimse(peer) = &lane.destination.reach else {
        return Ok(Asked::NotOffered("not a DIMSE destination".into()));
    };
    let not_offered = || Ok(Asked::NotOffered("no C-FIND in Study Root".into()));
    let proposal = Proposal {
        abstract_syntax: STUDY_ROOT_FIND.to_owned(),
        transfer_syntaxes: vec![EXPLICIT_LITTLE_ENDIAN.to_owned(), IMPLICIT_LITTLE_ENDIAN.to_owned()],
        scp_role: false,
    };
    let association = match Association::connect(peer, &[proposal]).await {
        Ok(association) => association,
        Err(ScuError::NoContext(_)) => return not_offered(),
        Err(error) => return Err(Trouble::Failed(error.to_string())),
    };
    let Some((_, syntax)) = association.any_context(STUDY_ROOT_FIND) else {
        association.release().await;
        return not_offered();
    };
    let mut asker = Asker { association, syntax, found: HashSet::new() };
    match asker.ask_all(entries).await {
        Ok(()) => {
            asker.association.release().await;
            Ok(Asked::Present(asker.found))
        }
        Err(error) => {
            asker.association.abort().await;
            Err(error)
        }
    }
}

struct Asker {
    association: Association,
    syntax: &'static TransferSyntax,
    found: HashSet<Uid>,
}

impl Asker {
    async fn ask_all(&mut self, entries: &[Arc<SpoolEntry>]) -> Result<(), Trouble> {
        let mut series: BTreeMap<(&Uid, &Uid), Vec<&Uid>> = BTreeMap::new();
        for entry in entries {
            let key = &entry.key;
            let instances = series.entry((&key.study_instance_uid, &key.series_instance_uid)).or_default();
            instances.push(&key.sop_instance_uid);
        }
        for ((study, series), instances) in series {
            for list in instances.chunks(LIST) {
                let list: Vec<&str> = list.iter().map(|uid| uid.as_str()).collect();
                self.ask_for(study, series, &list.join("\\")).await?;
            }
            if !instances.iter().all(|uid| self.found.contains(*uid)) {
                self.ask_for(study, series, "").await?;
            }
        }
        Ok(())
    }

    async fn ask_for(&mut self, study: &Uid, series: &Uid, instances: &str) -> Result<(), Trouble> {
        let Some(writer) = Writer::new(self.syntax.encoding) else {
            return Err(Trouble::Failed(
                "C-FIND was accepted in a transfer syntax that was not proposed".into(),
            ));
        };
        let identifier = writer
            .uid(tags::SOP_INSTANCE_UID, instances)
            .code_string(tags::QUERY_RETRIEVE_LEVEL, "IMAGE")
            .uid(tags::STUDY_INSTANCE_UID, study.as_str())
            .uid(tags::SERIES_INSTANCE_UID, series.as_str())
            .finish();
        let Self { association, syntax, found } = self;
        let mut answers = 0;
        let status = association
            .find(STUDY_ROOT_FIND, &identifier, |identifier| {
                found.extend(data_set::sop_instance_uid(identifier, syntax));
                answers += 1;
                answers < MOST_ANSWERS
            })
            .await
            .map_err(|error| Trouble::Failed(error.to_string()))?;
        match status {
            Status::SUCCESS | Status::CANCEL => Ok(()),
            status => Err(Trouble::Failed(format!("C-FIND was answered {status}"))),
        }
    }
}
