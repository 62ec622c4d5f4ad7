//! A look into the spool: how it stands, what it holds, whether what it holds is intact.

use bytes::Bytes;
use futures_util::stream;
use poem::http::StatusCode;
use poem::web::{Data, Path};
use poem::{Body, Response, handler};
use serde::{Deserialize, Serialize};

use super::{Answer, ControlError, json, streamed};
use crate::admin::Admin;
use crate::clock::{Millis, rfc3339};
use crate::spool::{
    CheckBy, Delivery, DeliveryState, EntryId, EntryState, Missing, ObjectReader, Spool, SpoolError,
};

const PAGE: usize = 500;
const CHUNK: usize = 256 * 1024;

/// An entry as `spool list` shows it.
#[derive(Debug, Serialize, Deserialize)]
pub struct EntryLine {
    pub entry: EntryId,
    pub sop_instance_uid: String,
    pub transfer_syntax_uid: String,
    pub data_set_sha256: String,
    /// Bytes of its Part 10 file.
    pub size: u64,
    #[serde(with = "rfc3339")]
    pub received_at: Millis,
    pub conflict: bool,
    /// Why it is one, once it was compared.
    pub finding: Option<String>,
    pub routed: bool,
    pub deliveries: Vec<DeliveryLine>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct DeliveryLine {
    pub destination: String,
    pub state: DeliveryState,
    #[serde(with = "rfc3339")]
    pub since: Millis,
    /// When it may be tried next, where it waits.
    #[serde(with = "rfc3339::option")]
    pub due: Option<Millis>,
    /// Permanent refusals so far.
    pub attempts: u32,
    pub reason: Option<String>,
}

impl From<Delivery> for DeliveryLine {
    fn from(delivery: Delivery) -> Self {
        let waits = matches!(delivery.state, DeliveryState::Queued | DeliveryState::Deferred);
        Self {
            due: waits.then_some(delivery.due),
            destination: delivery.destination,
            state: delivery.state,
            since: delivery.since,
            attempts: delivery.attempts,
            reason: delivery.reason,
        }
    }
}

/// What `spool verify` says: what is missing and each damaged entry, then the sum.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum VerifyLine {
    Damaged {
        damaged: EntryId,
        detail: String,
    },
    /// Listed in `review/`; the UID is empty where nothing but the number is known.
    Missing {
        missing: EntryId,
        /// The last of several side by side.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        through: Option<EntryId>,
        sop_instance_uid: String,
        data_set_sha256: String,
    },
    Sum {
        verified: u64,
        damaged_entries: u64,
        bytes: u64,
    },
}

impl EntryLine {
    fn of(state: EntryState) -> Self {
        Self {
            entry: state.id,
            sop_instance_uid: state.sop_instance_uid.to_string(),
            transfer_syntax_uid: state.transfer_syntax_uid,
            data_set_sha256: state.data_set_sha256.to_string(),
            size: state.size,
            received_at: state.received_at,
            conflict: state.conflict,
            finding: state.finding.map(|finding| finding.to_string()),
            routed: state.routed,
            deliveries: state.deliveries.into_iter().map(DeliveryLine::from).collect(),
        }
    }
}

#[handler]
pub async fn status(Data(admin): Data<&Admin>) -> Answer {
    Ok(json(StatusCode::OK, &admin.spool.status()))
}

/// Held entries, a page at a time from the queue.
fn entries(spool: Spool) -> impl stream::Stream<Item = Result<EntryState, SpoolError>> + Send {
    use futures_util::{StreamExt, TryStreamExt};
    let pages = stream::try_unfold(None, move |after| {
        let spool = spool.clone();
        async move {
            let page = spool.entries(after, PAGE).await?;
            let Some(last) = page.last().map(|state| state.id) else { return Ok::<_, SpoolError>(None) };
            Ok(Some((stream::iter(page).map(Ok), Some(last))))
        }
    });
    pages.try_flatten()
}

#[handler]
pub async fn list(Data(admin): Data<&Admin>) -> Answer {
    use futures_util::StreamExt;
    Ok(streamed(entries(admin.spool.clone()).map(|state| Ok(EntryLine::of(state?)))))
}

/// The Part 10 file, once all of it was found intact.
#[handler]
pub async fn content(Data(admin): Data<&Admin>, Path(id): Path<u64>) -> Answer {
    let id = EntryId(id);
    let reader = match check(&admin.spool, id).await? {
        Check::Intact(reader) => reader,
        Check::Freed => return Err(SpoolError::Freed(id).into()),
        Check::Damaged(detail) => return Err(SpoolError::Damaged { id, detail }.into()),
    };
    let chunks = stream::try_unfold((reader, 0), |(reader, offset): (ObjectReader, u64)| async move {
        let chunk: Bytes = reader.read_at(offset, CHUNK).await.map_err(std::io::Error::other)?;
        if chunk.is_empty() {
            return Ok::<_, std::io::Error>(None);
        }
        let next = offset + chunk.len() as u64;
        Ok(Some((chunk, (reader, next))))
    });
    Ok(Response::builder().content_type("application/dicom").body(Body::from_bytes_stream(chunks)))
}

/// Rehashes every object; goes on after a damaged one.
#[handler]
pub async fn verify(Data(admin): Data<&Admin>) -> Answer {
    use futures_util::StreamExt;
    struct Walk {
        spool: Spool,
        after: Option<EntryId>,
        page: std::vec::IntoIter<EntryState>,
        sum: Option<(u64, u64, u64)>,
    }
    let walk =
        Walk { spool: admin.spool.clone(), after: None, page: vec![].into_iter(), sum: Some((0, 0, 0)) };
    let missing = admin.spool.missing().await?.into_iter().map(|one| {
        let Missing { entry: missing, through, sop_instance_uid, data_set_sha256 } = one;
        let through = (through != missing).then_some(through);
        Ok(VerifyLine::Missing { missing, through, sop_instance_uid, data_set_sha256 })
    });
    let found = stream::try_unfold(walk, |mut walk| async move {
        loop {
            let Some((verified, damaged, bytes)) = walk.sum else { return Ok(None) };
            let Some(state) = walk.page.next() else {
                let page = walk.spool.entries(walk.after, PAGE).await?;
                walk.after = page.last().map(|state| state.id);
                if page.is_empty() {
                    walk.sum = None;
                    return Ok(Some((VerifyLine::Sum { verified, damaged_entries: damaged, bytes }, walk)));
                }
                walk.page = page.into_iter();
                continue;
            };
            match check(&walk.spool, state.id).await? {
                Check::Intact(_) => walk.sum = Some((verified + 1, damaged, bytes + state.size)),
                Check::Freed => {}
                Check::Damaged(detail) => {
                    walk.sum = Some((verified, damaged + 1, bytes));
                    return Ok(Some((VerifyLine::Damaged { damaged: state.id, detail }, walk)));
                }
            }
        }
    });
    Ok(streamed::<VerifyLine, _>(stream::iter(missing).chain(found)))
}

enum Check {
    Intact(ObjectReader),
    /// Freed since it was listed.
    Freed,
    Damaged(String),
}

async fn check(spool: &Spool, id: EntryId) -> Result<Check, ControlError> {
    let reader = match spool.open(id, CheckBy::Sha256).await {
        Ok(reader) => reader,
        Err(SpoolError::Freed(_) | SpoolError::Unknown(_)) => return Ok(Check::Freed),
        Err(SpoolError::Damaged { detail, .. }) => return Ok(Check::Damaged(detail)),
        Err(error) => return Err(error.into()),
    };
    match tokio::task::spawn_blocking(move || (reader.is_intact(), reader)).await {
        Ok((Ok(true), reader)) => Ok(Check::Intact(reader)),
        Ok((Ok(false), _)) => Ok(Check::Damaged("its SHA-256 differs".to_owned())),
        Ok((Err(SpoolError::Damaged { detail, .. }), _)) => Ok(Check::Damaged(detail)),
        Ok((Err(error), _)) => Ok(Check::Damaged(error.to_string())),
        Err(error) => Err(ControlError::failed(error)),
    }
}
