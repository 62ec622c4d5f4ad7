//! Fetches an object back from a DIMSE destination by C-GET (Study Root, IMAGE level, PS3.4 §C.4.3)
//! and compares it while it comes.

use dicom_dictionary_std::tags;

use super::Trouble;
use super::comparison::{Compared, Fetched, longest};
use super::data_set::Writer;
use crate::dicom::TransferSyntax;
use crate::dicom::status::Status;
use crate::dicom::transfer_syntax::{EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN};
use crate::dimse::scu::{Association, Peer, Proposal, Retrieved, ScuError};
use crate::spool::{Spool, SpoolEntry};

const STUDY_ROOT_GET: &str = "1.2.840.10008.5.1.4.1.2.2.3";

pub async fn compare(peer: &Peer, spool: &Spool, entry: &SpoolEntry) -> Result<Compared, Trouble> {
    let Some(syntax) = TransferSyntax::by_uid(&entry.transfer_syntax_uid) else {
        return Ok(Compared::Impossible);
    };
    let mut association = match Association::connect(peer, &proposals(entry)).await {
        Ok(association) => association,
        Err(ScuError::NoContext(_)) => return Ok(Compared::Impossible),
        Err(error) => return Err(Trouble::Failed(error.to_string())),
    };
    let mut fetched = Fetched::new(entry, syntax);
    let got = tokio::time::timeout(
        longest(peer.timeout, entry),
        fetch(&mut association, entry, |bytes| fetched.push(bytes)),
    );
    let got = got.await.unwrap_or(Err(ScuError::TimedOut(peer.timeout)));
    match got {
        Ok(Some(Retrieved::BrokenOff)) | Err(_) => association.abort().await,
        Ok(_) => association.release().await,
    }
    match got {
        Ok(Some(Retrieved::Whole)) => Ok(fetched.compared(spool, entry).await?),
        Ok(Some(Retrieved::BrokenOff)) => Ok(Compared::Different),
        Ok(Some(Retrieved::Nothing(Status::SUCCESS))) => Ok(Compared::Absent),
        Ok(Some(Retrieved::Nothing(_)) | None) => Ok(Compared::Impossible),
        Err(error) => Ok(Compared::BrokenOff(error.to_string())),
    }
}

/// C-GET, and the object's SOP class in the transfer syntax that we sent it in: we are its SCP.
fn proposals(entry: &SpoolEntry) -> [Proposal; 2] {
    [
        Proposal {
            abstract_syntax: STUDY_ROOT_GET.to_owned(),
            transfer_syntaxes: vec![EXPLICIT_LITTLE_ENDIAN.to_owned(), IMPLICIT_LITTLE_ENDIAN.to_owned()],
            scp_role: false,
        },
        Proposal {
            abstract_syntax: entry.sop_class_uid.to_string(),
            transfer_syntaxes: vec![entry.transfer_syntax_uid.clone()],
            scp_role: true,
        },
    ]
}

/// `None` where the destination does not offer it.
async fn fetch(
    association: &mut Association,
    entry: &SpoolEntry,
    take: impl FnMut(&[u8]) -> bool + Send,
) -> Result<Option<Retrieved>, ScuError> {
    let store = association.context(entry.sop_class_uid.as_str(), &entry.transfer_syntax_uid);
    let writer = association.any_context(STUDY_ROOT_GET).and_then(|(_, syntax)| Writer::new(syntax.encoding));
    let (Some(store), Some(writer)) = (store, writer) else { return Ok(None) };
    let key = &entry.key;
    let identifier = writer
        .uid(tags::SOP_INSTANCE_UID, key.sop_instance_uid.as_str())
        .code_string(tags::QUERY_RETRIEVE_LEVEL, "IMAGE")
        .uid(tags::STUDY_INSTANCE_UID, key.study_instance_uid.as_str())
        .uid(tags::SERIES_INSTANCE_UID, key.series_instance_uid.as_str())
        .finish();
    association.get(STUDY_ROOT_GET, &identifier, (store, &key.sop_instance_uid), take).await.map(Some)
}
