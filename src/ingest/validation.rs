//! Is the object what its offer claims.

use super::Refusal;
use crate::dicom::{Header, TransferSyntax, Uid};

/// What the command set, or the request's path, says about the data set.
pub struct Claim {
    pub sop_class_uid: Option<Uid>,
    pub sop_instance_uid: Option<Uid>,
    pub study_instance_uid: Option<Uid>,
    pub transfer_syntax: &'static TransferSyntax,
}

/// PS3.4 §B.2.3 (data set does not match SOP class), PS3.18 §10.5.1 (study of the request).
pub fn check(claim: &Claim, header: &Header) -> Result<(), Refusal> {
    let differs = |claimed: &Option<Uid>, found: &Uid| claimed.as_ref().is_some_and(|uid| uid != found);
    if differs(&claim.sop_instance_uid, &header.key.sop_instance_uid) {
        return Err(Refusal::SopInstanceMismatch);
    }
    if differs(&claim.sop_class_uid, &header.sop_class_uid) {
        return Err(Refusal::SopClassMismatch);
    }
    if differs(&claim.study_instance_uid, &header.key.study_instance_uid) {
        return Err(Refusal::StudyMismatch);
    }
    Ok(())
}
