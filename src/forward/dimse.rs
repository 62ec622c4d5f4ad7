//! Delivers by C-STORE. One association carries a batch, and is kept for the next while work is
//! due; each object streams from the spool, its data set exactly as it was received.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream::{self, Stream};

use super::destination::{Failure, Listed, Transport, Verdict};
use super::http::WebClient;
use super::lane::Lane;
use super::progress::Progress;
use super::verify::catalogue::{Catalogue, Unanswered};
use super::verify::find::{self, Find};
use super::verify::qido::Qido;
use crate::config::Verify;
use crate::dicom::status::Status;
use crate::dicom::transfer_syntax::{EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN};
use crate::dimse::scu::{Association, Peer, Proposal, ScuError};
use crate::spool::{CheckBy, ObjectReader, SpoolEntry};

/// PS3.4 §A.4.
const VERIFICATION: &str = "1.2.840.10008.1.1";
/// PS3.8 §9.3.2.2: ids are the odd numbers of one byte.
const MOST_CONTEXTS: usize = 128;
/// Objects that one search for work gives to one association; small, so that several share it.
const APPETITE: usize = 32;
/// Bytes of an object in memory at a time.
const CHUNK: usize = 256 << 10;
/// A peer may have closed an association that lay idle for so long without our noticing.
const MAY_BE_STALE: Duration = Duration::from_millis(100);

pub struct DimseTransport {
    lane: Arc<Lane>,
    peer: Peer,
    /// Asked instead of the peer.
    query: Option<WebClient>,
    open: Option<Open>,
    /// What was sent lately, newest first: proposed again, so that the next batch finds its context.
    seen: VecDeque<Context>,
}

/// SOP class and transfer syntax.
type Context = (String, String);

struct Open {
    association: Association,
    proposed: Vec<Context>,
    sent: usize,
    last_used: Instant,
}

/// How a C-STORE ended without an answer.
enum Trouble {
    Scu(ScuError),
    Stalled,
    CutOff,
}

impl DimseTransport {
    pub fn new(lane: Arc<Lane>, peer: Peer) -> Result<Self, Failure> {
        let query = lane.destination.query.clone().map(WebClient::new).transpose()?;
        Ok(Self { lane, peer, query, open: None, seen: VecDeque::new() })
    }

    async fn association(&mut self, entries: &[Arc<SpoolEntry>]) -> Result<Open, Failure> {
        let batch = self.lane.destination.batch;
        let first = context_of(&entries[0]);
        if let Some(open) = self.open.take() {
            if open.sent < batch && open.proposed.contains(&first) {
                return Ok(open);
            }
            open.association.release().await;
        }
        for entry in entries.iter().rev() {
            self.note(context_of(entry));
        }
        let proposed: Vec<Context> = self.seen.iter().cloned().collect();
        let mut proposals: Vec<Proposal> = proposed.iter().map(proposal).collect();
        if self.asks_by_find() {
            proposals.push(find::proposal());
        }
        tokio::select! {
            connected = Association::connect(&self.peer, &proposals) => match connected {
                Ok(association) => Ok(Open { association, proposed, sent: 0, last_used: Instant::now() }),
                Err(error) => Err(Failure::new(error.to_string())),
            },
            () = self.lane.cut_off.cancelled() => Err(Failure::new("stopping")),
        }
    }

    fn note(&mut self, context: Context) {
        self.seen.retain(|seen| *seen != context);
        self.seen.push_front(context);
        // One is left for the question that goes before.
        self.seen.truncate(MOST_CONTEXTS - 1);
    }

    fn asks_by_find(&self) -> bool {
        self.query.is_none() && self.lane.destination.verify != Verify::None
    }

    /// One question on `open`, which is kept if it is still good.
    async fn find(&mut self, mut open: Open, entries: &[Arc<SpoolEntry>]) -> Listed {
        let asked = match Find::on(&mut open.association) {
            None => Err(Unanswered::NotOffered("accepts no presentation context for C-FIND".into())),
            Some(find) => {
                let listed = Catalogue::Dimse(find).listed(&self.lane.lists, entries);
                let answered = tokio::time::timeout(self.peer.timeout, listed).await;
                answered.unwrap_or_else(|_| {
                    let limit = self.peer.timeout.as_secs_f32();
                    Err(Unanswered::Failed(format!("C-FIND was not answered within {limit} s")))
                })
            }
        };
        if let Err(Unanswered::Failed(_)) = &asked {
            open.association.abort().await;
        } else {
            open.last_used = Instant::now();
            self.open = Some(open);
        }
        Listed::of(asked)
    }

    /// One C-STORE on `open`. The association is kept if it is still good.
    async fn store(&mut self, mut open: Open, entry: &SpoolEntry) -> Result<Verdict, (Trouble, Duration)> {
        let idle = open.last_used.elapsed();
        let (class, syntax) = (entry.sop_class_uid.as_str(), entry.transfer_syntax_uid.as_str());
        if open.association.context(class, syntax).is_none() {
            self.open = Some(open);
            return Ok(Verdict::Refused(format!(
                "accepts no presentation context for SOP class {class} in transfer syntax {syntax}"
            )));
        }
        let reader = match self.lane.spool.load(entry.id, CheckBy::Sha256).await {
            Ok(reader) => reader,
            Err(error) => {
                self.open = Some(open);
                return Ok(Verdict::Unreadable(error.to_string()));
            }
        };
        let progress = Progress::default();
        match self.transfer(&mut open.association, reader, &progress).await {
            Ok(status) => {
                open.sent += 1;
                open.last_used = Instant::now();
                self.open = Some(open);
                Ok(Verdict::of_status(status))
            }
            Err(trouble) => {
                open.association.abort().await;
                if progress.whole() > 0 {
                    self.lane.got_no_answer([entry.id]);
                }
                match trouble {
                    Trouble::Scu(ScuError::Source(reason)) => Ok(Verdict::Unreadable(reason)),
                    trouble => Err((trouble, idle)),
                }
            }
        }
    }

    async fn transfer(
        &self,
        association: &mut Association,
        reader: ObjectReader,
        progress: &Progress,
    ) -> Result<Status, Trouble> {
        let entry = Arc::clone(&reader.entry);
        let mut data_set = std::pin::pin!(data_set(reader, progress.clone()));
        let store = association.store(
            &entry.sop_class_uid,
            &entry.key.sop_instance_uid,
            &entry.transfer_syntax_uid,
            data_set.as_mut(),
        );
        tokio::select! {
            status = store => status.map_err(Trouble::Scu),
            () = progress.stalled(self.peer.timeout) => Err(Trouble::Stalled),
            () = self.lane.cut_off.cancelled() => Err(Trouble::CutOff),
        }
    }
}

impl Transport for DimseTransport {
    fn appetite(&self) -> usize {
        APPETITE.min(self.lane.destination.batch)
    }

    async fn listed(&mut self, entries: &[Arc<SpoolEntry>]) -> Result<Listed, Failure> {
        if let Some(client) = &self.query {
            return Ok(Listed::of(Catalogue::Web(Qido(client)).listed(&self.lane.lists, entries).await));
        }
        let open = self.association(entries).await?;
        let idle = open.last_used.elapsed();
        let listed = self.find(open, entries).await;
        if idle < MAY_BE_STALE || !matches!(listed, Listed::NoAnswer(_)) {
            return Ok(listed);
        }
        // It may have been closed while it lay idle: a fresh one tells.
        let open = self.association(entries).await?;
        Ok(self.find(open, entries).await)
    }

    async fn send(&mut self, entries: &[Arc<SpoolEntry>]) -> Result<Vec<Verdict>, Failure> {
        let open = self.association(entries).await?;
        let (trouble, idle) = match self.store(open, &entries[0]).await {
            Ok(verdict) => return Ok(vec![verdict]),
            Err(trouble) => trouble,
        };
        if idle < MAY_BE_STALE || !matches!(trouble, Trouble::Scu(_)) {
            return Err(failure(trouble, self.peer.timeout));
        }
        // It may have been closed while it lay idle: a fresh one tells.
        let open = self.association(entries).await?;
        match self.store(open, &entries[0]).await {
            Ok(verdict) => Ok(vec![verdict]),
            Err((trouble, _)) => Err(failure(trouble, self.peer.timeout)),
        }
    }

    async fn rest(&mut self) {
        if let Some(open) = self.open.take() {
            open.association.release().await;
        }
    }
}

fn failure(trouble: Trouble, timeout: Duration) -> Failure {
    match trouble {
        Trouble::Scu(error) => Failure::during_object(error.to_string()),
        Trouble::Stalled => Failure::during_object(format!(
            "made no progress for {} s during an object",
            timeout.as_secs_f32()
        )),
        Trouble::CutOff => Failure::new("stopping"),
    }
}

fn context_of(entry: &Arc<SpoolEntry>) -> Context {
    (entry.sop_class_uid.to_string(), entry.transfer_syntax_uid.clone())
}

/// One transfer syntax per context, so that the peer can't choose another than we have.
fn proposal((class, syntax): &Context) -> Proposal {
    Proposal { abstract_syntax: class.clone(), transfer_syntaxes: vec![syntax.clone()], scp_role: false }
}

/// The data set, without our preamble and file meta.
fn data_set(reader: ObjectReader, progress: Progress) -> impl Stream<Item = io::Result<Bytes>> + Send {
    let begin = u64::from(reader.entry.prefix_length);
    stream::try_unfold((reader, begin), move |(reader, at)| {
        let progress = progress.clone();
        async move {
            progress.made();
            if at >= reader.len() {
                progress.went_out();
                return Ok(None);
            }
            let bytes = reader.read_at(at, CHUNK).await.map_err(io::Error::other)?;
            let next = at + bytes.len() as u64;
            Ok(Some((bytes, (reader, next))))
        }
    })
}

/// C-ECHO on an association of its own.
pub async fn echo(peer: &Peer) -> Result<String, Failure> {
    let proposal = Proposal {
        abstract_syntax: VERIFICATION.to_owned(),
        transfer_syntaxes: vec![IMPLICIT_LITTLE_ENDIAN.to_owned(), EXPLICIT_LITTLE_ENDIAN.to_owned()],
        scp_role: false,
    };
    let began = Instant::now();
    let failed = |error: ScuError| Failure::new(error.to_string());
    let mut association = Association::connect(peer, &[proposal]).await.map_err(failed)?;
    let answer = association.echo().await;
    association.release().await;
    let took = began.elapsed().as_millis();
    match answer.map_err(failed)? {
        Status::SUCCESS => Ok(format!("C-ECHO answered 0000 after {took} ms")),
        status => Err(Failure::new(format!("C-ECHO answered {status}"))),
    }
}
