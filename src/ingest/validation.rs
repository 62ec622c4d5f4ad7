//! Is the object what its offer claims.

use super::Refusal;
use crate::dicom::{Header, TransferSyntax, Uid};

/// What the command set, or the file meta and the request's path, say about the data set.
pub struct Claim {
    pub sop_class_uid: Uid,
    pub sop_instance_uid: Uid,
    pub study_instance_uid: Option<Uid>,
    pub transfer_syntax: &'static TransferSyntax,
}

/// PS3.4 §B.2.3 (data set does not match SOP class), PS3.18 §10.5.1 (study of the request).
pub fn check(claim: &Claim, header: &Header) -> Result<(), Refusal> {
    if header.key.sop_instance_uid != claim.sop_instance_uid {
        return Err(Refusal::SopInstanceMismatch);
    }
    if header.sop_class_uid != claim.sop_class_uid {
        return Err(Refusal::SopClassMismatch);
    }
    match &claim.study_instance_uid {
        Some(study) if *study != header.key.study_instance_uid => Err(Refusal::StudyMismatch),
        _ => Ok(()),
    }
}
