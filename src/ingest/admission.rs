//! Before the bytes: is there room, and is this a SOP class that the node stores.

use super::{Ingest, Refusal};
use crate::dicom::{Uid, sop_class};

impl Ingest {
    /// Whether the node takes objects now: `Err` names why not, for readiness and for refusing a
    /// sender's association early.
    pub fn ready(&self) -> Result<(), Refusal> {
        let status = self.spool.status();
        // What failed stands in the log; it is not for peers.
        if status.failure.is_some() {
            return Err(Refusal::OutOfResources("the spool's disk failed".to_owned()));
        }
        if status.full {
            return Err(Refusal::OutOfResources("the spool's disk is full".to_owned()));
        }
        Ok(())
    }

    /// Whether room is short: over the high watermark, so that senders who can wait should.
    pub fn is_short(&self) -> bool {
        self.spool.status().capacity_ratio >= self.spool.options().high_watermark
    }

    /// Storage SOP classes only; what no dictionary lists, as configured.
    pub(super) fn admit_sop_class(&self, sop_class_uid: &Uid) -> Result<(), Refusal> {
        let admitted = match sop_class::kind(sop_class_uid.as_str()) {
            sop_class::Kind::Storage => true,
            sop_class::Kind::Other => false,
            sop_class::Kind::Unknown => self.options.unknown_sop_classes,
        };
        if admitted { Ok(()) } else { Err(Refusal::UnsupportedSopClass(sop_class_uid.clone())) }
    }
}
