//! Asks a DIMSE destination by C-FIND (Study Root, PS3.4 §C.6.2) which of some objects it lists.

use std::sync::Arc;

use dicom_dictionary_std::tags;

use super::catalogue::{Catalogue, Series, Unanswered};
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
/// Answers to one question at most; a series is rarely longer.
const MOST_ANSWERS: usize = 50_000;

pub fn proposal() -> Proposal {
    Proposal {
        abstract_syntax: STUDY_ROOT_FIND.to_owned(),
        transfer_syntaxes: vec![EXPLICIT_LITTLE_ENDIAN.to_owned(), IMPLICIT_LITTLE_ENDIAN.to_owned()],
        scp_role: false,
    }
}

/// On an association of its own.
pub(super) async fn ask(lane: &Lane, entries: &[Arc<SpoolEntry>]) -> Result<Asked, Trouble> {
    let Reach::Dimse(peer) = &lane.destination.reach else {
        return Ok(Asked::NotOffered("not a DIMSE destination".into()));
    };
    let mut association = match Association::connect(peer, &[proposal()]).await {
        Ok(association) => association,
        Err(ScuError::NoContext(_)) => return Ok(Asked::NotOffered(NOT_OFFERED.into())),
        Err(error) => return Err(Trouble::Failed(error.to_string())),
    };
    let listed = match Find::on(&mut association) {
        Some(find) => Catalogue::Dimse(find).listed(&lane.lists, entries).await,
        None => Err(Unanswered::NotOffered(NOT_OFFERED.into())),
    };
    match &listed {
        Err(Unanswered::Failed(_)) => association.abort().await,
        _ => association.release().await,
    }
    Asked::of(listed)
}

const NOT_OFFERED: &str = "no C-FIND in Study Root";

/// C-FIND on an association that has a context for it.
pub struct Find<'a> {
    association: &'a mut Association,
    syntax: &'static TransferSyntax,
}

impl<'a> Find<'a> {
    pub fn on(association: &'a mut Association) -> Option<Find<'a>> {
        let (_, syntax) = association.any_context(STUDY_ROOT_FIND)?;
        Some(Find { association, syntax })
    }

    /// SOP Instance UIDs of the series that are among `instances`; of all when there are none.
    pub async fn list(&mut self, series: Series<'_>, instances: &[&Uid]) -> Result<Vec<Uid>, Unanswered> {
        let Some(writer) = Writer::new(self.syntax.encoding) else {
            return Err(Unanswered::Failed(
                "C-FIND was accepted in a transfer syntax that was not proposed".into(),
            ));
        };
        let instances: Vec<&str> = instances.iter().map(|uid| uid.as_str()).collect();
        let identifier = writer
            .uid(tags::SOP_INSTANCE_UID, &instances.join("\\"))
            .code_string(tags::QUERY_RETRIEVE_LEVEL, "IMAGE")
            .uid(tags::STUDY_INSTANCE_UID, series.0.as_str())
            .uid(tags::SERIES_INSTANCE_UID, series.1.as_str())
            .finish();
        let syntax = self.syntax;
        let (mut found, mut answers) = (Vec::new(), 0);
        let status = self
            .association
            .find(STUDY_ROOT_FIND, &identifier, |identifier| {
                found.extend(data_set::sop_instance_uid(identifier, syntax));
                answers += 1;
                answers < MOST_ANSWERS
            })
            .await
            .map_err(|error| Unanswered::Failed(error.to_string()))?;
        match status {
            Status::SUCCESS | Status::CANCEL => Ok(found),
            status => Err(Unanswered::Failed(format!("C-FIND was answered {status}"))),
        }
    }
}
