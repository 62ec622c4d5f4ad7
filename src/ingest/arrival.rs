//! The bytes of one object, read once: scanned, hashed and staged as they come. Nothing here
//! grows with the object.

use bytes::Bytes;
use futures_util::StreamExt;

use super::validation::{Claim, check};
use super::{Chunks, Form, Ingest, Refusal};
use crate::dicom::part10::{self, FileMeta, MetaProgress};
use crate::dicom::{Header, HeaderScanner, TransferSyntax, Uid};
use crate::spool::{Stage, Staged};

/// An object that has arrived whole and is what it claims to be; not yet durable.
pub struct Arrival {
    pub header: Header,
    pub transfer_syntax: &'static TransferSyntax,
    pub staged: Staged,
}

impl Arrival {
    pub async fn receive(ingest: &Ingest, form: Form, mut bytes: Chunks<'_>) -> Result<Arrival, Refusal> {
        let (claim, first) = match form {
            Form::DataSet { affected_sop_class_uid, affected_sop_instance_uid, transfer_syntax } => {
                let claim = Claim {
                    sop_class_uid: Some(affected_sop_class_uid),
                    sop_instance_uid: Some(affected_sop_instance_uid),
                    study_instance_uid: None,
                    transfer_syntax,
                };
                (claim, Bytes::new())
            }
            Form::Part10 { study_instance_uid } => {
                let (meta, first) = read_file_meta(&mut bytes).await?;
                (claim_of(ingest, &meta, study_instance_uid)?, first)
            }
        };
        if let Some(sop_class_uid) = &claim.sop_class_uid {
            ingest.admit_sop_class(sop_class_uid)?;
        }
        let mut gathering = Gathering {
            scanner: HeaderScanner::new(claim.transfer_syntax, ingest.options.scan),
            stage: ingest.spool.stage(),
            length: 0,
            limit: ingest.options.object_limit,
        };
        gathering.take(first).await?;
        while let Some(chunk) = bytes.next().await {
            gathering.take(chunk.map_err(Refusal::Interrupted)?).await?;
        }
        let header = gathering.scanner.finish()?;
        check(&claim, &header)?;
        ingest.admit_sop_class(&header.sop_class_uid)?;
        let staged = gathering.stage.finish().await?;
        Ok(Arrival { header, transfer_syntax: claim.transfer_syntax, staged })
    }
}

struct Gathering {
    scanner: HeaderScanner,
    stage: Stage,
    length: u64,
    limit: u64,
}

impl Gathering {
    async fn take(&mut self, chunk: Bytes) -> Result<(), Refusal> {
        if chunk.is_empty() {
            return Ok(());
        }
        self.length += chunk.len() as u64;
        if self.length > self.limit {
            return Err(Refusal::TooLarge { limit: self.limit });
        }
        self.scanner.push(&chunk)?;
        self.stage.write(chunk).await?;
        Ok(())
    }
}

/// Reads preamble and file meta, which name the transfer syntax; returns what of the data set came
/// along.
async fn read_file_meta(bytes: &mut Chunks<'_>) -> Result<(FileMeta, Bytes), Refusal> {
    // `read_meta` refuses what is longer than file meta can be, so this stays small. What comes in
    // one piece, as nearly all do, is not copied.
    let mut head = Bytes::new();
    let not_part10 = |what: &str| Refusal::NotPart10(what.to_owned());
    loop {
        match part10::read_meta(&head).map_err(not_part10)? {
            MetaProgress::Complete(meta) => {
                let data_set = head.split_off(meta.data_set_offset);
                return Ok((meta, data_set));
            }
            MetaProgress::Incomplete => {}
        }
        let chunk = bytes.next().await.ok_or_else(|| not_part10("it ends inside the file meta"))?;
        let chunk = chunk.map_err(Refusal::Interrupted)?;
        head = if head.is_empty() { chunk } else { [head, chunk].concat().into() };
    }
}

fn claim_of(ingest: &Ingest, meta: &FileMeta, study_instance_uid: Option<Uid>) -> Result<Claim, Refusal> {
    let known = ingest.options.transfer_syntaxes.by_uid(&meta.transfer_syntax_uid);
    let transfer_syntax = known.ok_or(Refusal::UnsupportedTransferSyntax)?;
    // The data set says which object it is; file meta that says otherwise is wrong, and is ours to
    // write anew (PS3.10 §7.1).
    Ok(Claim { sop_class_uid: None, sop_instance_uid: None, study_instance_uid, transfer_syntax })
}
