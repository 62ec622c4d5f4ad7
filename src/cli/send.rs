//! `relaypacs send`: C-STORE of Part 10 files to a peer, in the transfer syntax that each has.
//! Objects stream from disk; one result for each goes to standard output, progress to standard
//! error.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::output;
use super::remote::RemoteArgs;
use crate::config::Config;
use crate::dicom::status::Status;
use crate::dimse::associate::MOST_CONTEXTS;
use crate::dimse::scu::{Association, Peer, Proposal, ScuError};
use crate::lifecycle::Exit;

mod files;

use files::{Candidate, Object};

/// Send Part 10 files to a peer (C-STORE)
#[derive(Debug, Args)]
pub struct SendArgs {
    #[command(flatten)]
    remote: RemoteArgs,
    /// Files, and directories with all that is below them
    #[arg(required = true, value_name = "FILES")]
    files: Vec<PathBuf>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

/// What became of one file. Its JSON is stable.
#[derive(Debug, Serialize)]
struct Line<'a> {
    file: &'a str,
    /// `stored`, `failed` or `skipped`.
    result: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    sop_class_uid: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sop_instance_uid: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transfer_syntax_uid: Option<&'a str>,
    /// DIMSE status, when the peer answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// Prints results and counts them.
struct Report {
    json: bool,
    progress: bool,
    total: usize,
    stored: usize,
    failed: usize,
    skipped: usize,
}

pub async fn run(args: SendArgs, config: &Config) -> anyhow::Result<Exit> {
    let peer = args.remote.peer(config)?;
    let paths = args.files;
    let candidates = tokio::task::spawn_blocking(move || files::find(&paths)).await?;
    let mut report = Report::new(args.json, candidates.len());
    let mut objects = Vec::new();
    for candidate in candidates {
        match candidate {
            Candidate::Object(object) => objects.push(object),
            Candidate::Skipped { path, reason } => report.unsent(&path, "skipped", &reason)?,
            Candidate::Unreadable { path, reason } => report.unsent(&path, "failed", &reason)?,
        }
    }
    for batch in batches(objects) {
        send_batch(&peer, &batch, &mut report).await?;
    }
    report.finish();
    Ok(if report.failed == 0 { Exit::Done } else { Exit::Failed })
}

/// Objects in the order given, divided so that each part has at most 128 different pairs of SOP
/// class and transfer syntax.
fn batches(objects: Vec<Object>) -> Vec<Vec<Object>> {
    let mut contexts: Vec<(String, String)> = Vec::new();
    let mut batches: Vec<Vec<Object>> = Vec::new();
    for object in objects {
        let context = object.context();
        let position = contexts.iter().position(|known| *known == context).unwrap_or_else(|| {
            contexts.push(context);
            contexts.len() - 1
        });
        let batch = position / MOST_CONTEXTS;
        if batch == batches.len() {
            batches.push(Vec::new());
        }
        batches[batch].push(object);
    }
    batches
}

/// One transfer syntax per context: the peer can't choose another than the file has.
fn proposals(batch: &[Object]) -> Vec<Proposal> {
    let mut proposals: Vec<Proposal> = Vec::new();
    for object in batch {
        let (abstract_syntax, transfer_syntax) = object.context();
        let proposal =
            Proposal { abstract_syntax, transfer_syntaxes: vec![transfer_syntax], scp_role: false };
        if !proposals.contains(&proposal) {
            proposals.push(proposal);
        }
    }
    proposals
}

/// Sends what one association can carry. An association that fails takes its object with it; the
/// next object gets a new one.
async fn send_batch(peer: &Peer, batch: &[Object], report: &mut Report) -> anyhow::Result<()> {
    let proposals = proposals(batch);
    let mut open: Option<Association> = None;
    let mut rest = batch.iter();
    while let Some(object) = rest.next() {
        let mut association = match open.take() {
            Some(association) => association,
            None => match Association::connect(peer, &proposals).await {
                Ok(association) => association,
                Err(error) => {
                    for object in std::iter::once(object).chain(rest) {
                        report.failed(object, None, &error.to_string())?;
                    }
                    return Ok(());
                }
            },
        };
        match store(&mut association, object).await {
            Ok(status) => report.answered(object, status)?,
            Err(error) => {
                report.failed(object, None, &error.to_string())?;
                // A refused context leaves the association as it was.
                if !matches!(error, ScuError::NoContext(_)) {
                    association.abort().await;
                    continue;
                }
            }
        }
        open = Some(association);
    }
    if let Some(association) = open {
        association.release().await;
    }
    Ok(())
}

async fn store(association: &mut Association, object: &Object) -> Result<Status, ScuError> {
    let mut data_set = std::pin::pin!(object.data_set());
    let (class, instance) = (&object.sop_class_uid, &object.sop_instance_uid);
    association.store(class, instance, &object.transfer_syntax_uid, data_set.as_mut()).await
}

impl Report {
    fn new(json: bool, total: usize) -> Self {
        let progress = std::io::stderr().is_terminal();
        Self { json, progress, total, stored: 0, failed: 0, skipped: 0 }
    }

    fn answered(&mut self, object: &Object, status: Status) -> anyhow::Result<()> {
        if status != Status::SUCCESS && !status.is_warning() {
            return self.failed(object, Some(status), "the peer refused it");
        }
        self.stored += 1;
        let reason = status.is_warning().then(|| "stored with a warning".to_owned());
        self.print(&line(object, "stored", Some(status), reason))
    }

    fn failed(&mut self, object: &Object, status: Option<Status>, reason: &str) -> anyhow::Result<()> {
        self.failed += 1;
        self.print(&line(object, "failed", status, Some(reason.to_owned())))
    }

    /// For a file that is not an object we could send.
    fn unsent(&mut self, path: &str, result: &'static str, reason: &str) -> anyhow::Result<()> {
        *(if result == "skipped" { &mut self.skipped } else { &mut self.failed }) += 1;
        self.print(&Line {
            file: path,
            result,
            sop_class_uid: None,
            sop_instance_uid: None,
            transfer_syntax_uid: None,
            status: None,
            reason: Some(reason.to_owned()),
        })
    }

    fn print(&self, line: &Line<'_>) -> anyhow::Result<()> {
        self.progress("\r\x1b[K");
        if self.json {
            output::json_line(line)?;
        } else {
            let status = line.status.as_deref().unwrap_or("-");
            let reason = line.reason.as_deref().map(|reason| format!("  ({reason})")).unwrap_or_default();
            output::write_line(&format!("{:<7}  {status:<4}  {}{reason}", line.result, line.file))?;
        }
        let done = self.stored + self.failed + self.skipped;
        self.progress(&format!("{done} of {}", self.total));
        Ok(())
    }

    fn progress(&self, text: &str) {
        if self.progress {
            // Not worth failing for.
            let _ = write!(std::io::stderr(), "{text}");
        }
    }

    fn finish(&self) {
        self.progress("\r\x1b[K");
        eprintln!("{} stored, {} failed, {} skipped", self.stored, self.failed, self.skipped);
    }
}

fn line<'a>(
    object: &'a Object,
    result: &'static str,
    status: Option<Status>,
    reason: Option<String>,
) -> Line<'a> {
    Line {
        file: &object.name,
        result,
        sop_class_uid: Some(object.sop_class_uid.as_str()),
        sop_instance_uid: Some(object.sop_instance_uid.as_str()),
        transfer_syntax_uid: Some(&object.transfer_syntax_uid),
        status: status.map(|status| status.to_string()),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dicom::Uid;

    fn object(class: usize) -> Object {
        Object {
            name: class.to_string(),
            path: PathBuf::new(),
            sop_class_uid: Uid::parse(&format!("1.2.{class}")).unwrap(),
            sop_instance_uid: Uid::parse("1.2.3").unwrap(),
            transfer_syntax_uid: "1.2.840.10008.1.2".into(),
            data_set_offset: 0,
        }
    }

    #[test]
    fn no_association_gets_more_than_128_contexts() {
        let objects = (0..300).chain(0..300).map(object).collect();
        let batches = batches(objects);
        let contexts: Vec<usize> = batches.iter().map(|batch| proposals(batch).len()).collect();
        assert_eq!(contexts, [128, 128, 44]);
        assert_eq!(batches.iter().map(Vec::len).sum::<usize>(), 600);
    }
}
