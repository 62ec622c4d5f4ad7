//! `relaypacs spool`: a look into the spool, and its objects out of it as files.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Subcommand;
use serde_json::Value;

use super::client::Client;
use super::output::{self, Row};
use super::sentence;
use crate::config::Config;
use crate::control::{EntryLine, VerifyLine};
use crate::lifecycle::Exit;
use crate::spool::EntryId;

#[derive(Subcommand)]
pub enum SpoolCommand {
    /// How much it holds, and how full its disk is
    Status {
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// Every object that it holds, and where each is to go
    List {
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Read every object and compare its SHA-256; exits with 1 when one is damaged
    Verify {
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Write every intact object as a Part 10 file into an empty or new folder; exits with 1 when
    /// one is damaged
    Export {
        dir: PathBuf,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
}

impl Row for EntryLine {
    const TITLES: &'static [&'static str] = &["ENTRY", "SOP INSTANCE UID", "BYTES", "RECEIVED", "DELIVERIES"];

    fn cells(&self) -> Vec<String> {
        let deliveries: Vec<String> = self
            .deliveries
            .iter()
            .map(|delivery| {
                let state = format!("{:?}", delivery.state).to_lowercase();
                format!("{}:{state}", delivery.destination)
            })
            .collect();
        let deliveries = match (self.conflict, self.routed, deliveries.is_empty()) {
            (true, ..) => match &self.finding {
                Some(finding) => format!("held: conflict, {finding}"),
                None => "held: conflict".to_owned(),
            },
            (_, false, _) => "not routed yet".to_owned(),
            (_, true, true) => "stays here".to_owned(),
            _ => deliveries.join(" "),
        };
        vec![
            self.entry.to_string(),
            self.sop_instance_uid.clone(),
            self.size.to_string(),
            self.received_at.to_string(),
            deliveries,
        ]
    }
}

pub async fn run(command: SpoolCommand, config: &Config) -> anyhow::Result<Exit> {
    Client::with(config, false, async |client| match command {
        SpoolCommand::Status { json } => status(client, json).await,
        SpoolCommand::List { json } => list(client, json).await,
        SpoolCommand::Verify { json } => verify(client, json).await,
        SpoolCommand::Export { dir, json } => export(client, &dir, json).await,
    })
    .await
}

async fn status(client: &Client, json: bool) -> anyhow::Result<Exit> {
    let status: Value = client.get("/spool").await?.json().await?;
    if json {
        output::json_line(&status)?;
        return Ok(Exit::Done);
    }
    for (name, value) in status.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null()) {
        println!("{:16}  {value}", name.replace('_', " "));
    }
    Ok(Exit::Done)
}

async fn list(client: &Client, json: bool) -> anyhow::Result<Exit> {
    let answer = client.get("/spool/entries").await?;
    if json {
        // As they come: there may be millions.
        answer.each(|line: Value| output::json_line(&line)).await?;
    } else {
        let entries: Vec<EntryLine> = answer.list().await?;
        output::list(&entries, false)?;
    }
    Ok(Exit::Done)
}

async fn verify(client: &Client, json: bool) -> anyhow::Result<Exit> {
    let mut exit = Exit::Done;
    let answer = client.post("/spool/verify", &Value::Null).await?;
    answer
        .each(|line: VerifyLine| {
            if json {
                output::json_line(&line)?;
            }
            match line {
                VerifyLine::Damaged { damaged, detail } => {
                    exit = Exit::Failed;
                    if !json {
                        println!("entry {damaged} is damaged: {detail}");
                    }
                }
                VerifyLine::Missing { missing, through, sop_instance_uid, .. } => {
                    exit = Exit::Failed;
                    let uid = known(&sop_instance_uid);
                    match through {
                        _ if json => {}
                        Some(through) => println!("entries {missing} to {through} are missing"),
                        None => println!("entry {missing} is missing (SOP Instance UID {uid})"),
                    }
                }
                VerifyLine::Sum { verified, damaged_entries, bytes } if !json => {
                    println!("{verified} intact ({bytes} bytes), {damaged_entries} damaged");
                }
                VerifyLine::Sum { .. } => {}
            }
            Ok(())
        })
        .await?;
    Ok(exit)
}

fn known(sop_instance_uid: &str) -> &str {
    if sop_instance_uid.is_empty() { "not known" } else { sop_instance_uid }
}

async fn export(client: &Client, dir: &Path, json: bool) -> anyhow::Result<Exit> {
    std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    let is_empty = std::fs::read_dir(dir)?.next().is_none();
    anyhow::ensure!(is_empty, "{} is not empty", dir.display());
    let mut entries: Vec<(EntryId, String)> = Vec::new();
    let answer = client.get("/spool/entries").await?;
    answer
        .each(|line: EntryLine| {
            entries.push((line.entry, line.sop_instance_uid));
            Ok(())
        })
        .await?;
    let (mut written, mut damaged) = (0, 0);
    for (entry, sop_instance_uid) in entries {
        // Named by us: a UID comes from a peer.
        let file = dir.join(format!("{:010}.dcm", entry.0));
        let line = match export_one(client, entry, &file).await? {
            Exported::Written(bytes) => {
                written += 1;
                serde_json::json!({
                    "entry": entry, "sop_instance_uid": sop_instance_uid, "file": file, "bytes": bytes
                })
            }
            Exported::Freed => continue,
            Exported::Damaged(why) => {
                damaged += 1;
                if !json {
                    println!("not written: {why} (SOP Instance UID {sop_instance_uid})");
                }
                serde_json::json!({ "damaged": entry, "sop_instance_uid": sop_instance_uid, "detail": why })
            }
        };
        if json {
            output::json_line(&line)?;
        }
    }
    if !json {
        println!("wrote {written} files to {}, {damaged} objects are damaged", dir.display());
    }
    Ok(if damaged == 0 { Exit::Done } else { Exit::Failed })
}

enum Exported {
    Written(u64),
    /// Freed since it was listed.
    Freed,
    Damaged(String),
}

/// Only a node that is gone, or our own disk, ends an export.
async fn export_one(client: &Client, entry: EntryId, file: &Path) -> anyhow::Result<Exported> {
    let answer = match client.find(&format!("/spool/entries/{entry}/content")).await? {
        Ok(Some(answer)) => answer,
        Ok(None) => return Ok(Exported::Freed),
        Err(why) => return Ok(Exported::Damaged(sentence(&why))),
    };
    Ok(match answer.save(file).await.with_context(|| file.display().to_string())? {
        Ok(bytes) => Exported::Written(bytes),
        Err(why) => Exported::Damaged(format!("entry {entry} can't be read: {}", sentence(&why))),
    })
}
