//! `relaypacs destination`: where objects go, beside the destinations of the configuration file,
//! and how each of them stands.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde::Deserialize;

use super::Failure;
use super::client::{Client, segment};
use super::key::ago;
use super::output::{self, Row};
use crate::clock::Millis;
use crate::config::{Config, DestinationConfig, DestinationKind, Verify, units, validate_destination};
use crate::dicom::AeTitle;
use crate::forward::{DestinationStatus, Which};
use crate::lifecycle::Exit;
use crate::spool::EntryId;

#[derive(Subcommand)]
pub enum DestinationCommand {
    /// Add a destination; it takes what arrives from now on
    Add(Box<AddArgs>),
    /// Show destinations, of the file and added, and what waits for them
    List {
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Connect to a destination and ask for nothing
    Echo { name: String },
    /// Begin no more deliveries to a destination, also after a restart
    Pause { name: String },
    /// Go on delivering
    Resume { name: String },
    /// Queue what was received before, for a destination that never got it
    Backfill {
        name: String,
        /// A date (2026-11-01, UTC), a time (2026-11-01T18:00:00Z) or a while ago (24h)
        #[arg(long, value_name = "WHEN", value_parser = ago)]
        since: Millis,
    },
    /// Try again what was refused for good, put off or given up
    Requeue {
        name: String,
        /// Only what was refused for good
        #[arg(long)]
        poisoned: bool,
        /// Only this one, whichever of these it is; `spool list` numbers them
        #[arg(long, value_name = "N", conflicts_with = "poisoned")]
        entry: Option<u64>,
    },
    /// Give up what was refused for good; the objects stay here
    Cancel {
        name: String,
        /// All that is not verified, as before removing the destination
        #[arg(long)]
        all: bool,
        /// Only this one, if it is not verified; `spool list` numbers them
        #[arg(long, value_name = "N", conflicts_with = "all")]
        entry: Option<u64>,
    },
    /// Remove an added destination for which nothing waits
    Remove { name: String },
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    Dimse,
    Stow,
}

#[derive(Clone, Copy, ValueEnum)]
enum Proof {
    Commitment,
    Query,
    None,
}

#[derive(Args, Clone)]
pub struct AddArgs {
    name: String,
    #[arg(long, value_enum, default_value = "dimse")]
    kind: Kind,
    /// Its AE title (dimse)
    #[arg(long)]
    ae_title: Option<AeTitle>,
    /// Ours towards it; the node's, if left out
    #[arg(long)]
    calling_ae_title: Option<AeTitle>,
    #[arg(long)]
    host: Option<String>,
    #[arg(long)]
    port: Option<u16>,
    /// Base of its DICOMweb service (stow)
    #[arg(long)]
    url: Option<String>,
    #[arg(long, requires = "password_file")]
    username: Option<String>,
    /// File with the password, mode 0600; a relative name is looked for in the data folder
    #[arg(long)]
    password_file: Option<PathBuf>,
    /// File with a bearer token, as password_file
    #[arg(long)]
    token_file: Option<PathBuf>,
    /// Proof that it holds an object; `commitment` for dimse and `query` for stow, if left out
    #[arg(long, value_enum)]
    verify: Option<Proof>,
    /// Its DICOMweb service, to verify by QIDO-RS instead of C-FIND
    #[arg(long)]
    query_url: Option<String>,
    /// Its proof alone frees no space: a required destination must have proven the object too
    #[arg(long)]
    optional: bool,
    /// Associations in parallel, at most 32
    #[arg(long, default_value_t = 2)]
    associations: usize,
    /// Objects per association
    #[arg(long, default_value_t = 200)]
    batch: usize,
    /// For connecting, and for each answer
    #[arg(long, default_value = "30s", value_parser = duration)]
    timeout: Duration,
    /// Proof that did not come by then is asked for again
    #[arg(long, default_value = "1h", value_parser = duration)]
    verify_deadline: Duration,
}

fn duration(text: &str) -> Result<Duration, String> {
    units::duration::parse(text).ok_or_else(|| "not a duration such as 30s or 1h".to_owned())
}

impl From<AddArgs> for DestinationConfig {
    fn from(args: AddArgs) -> DestinationConfig {
        let kind = match args.kind {
            Kind::Dimse => DestinationKind::Dimse,
            Kind::Stow => DestinationKind::Stow,
        };
        let verify = match args.verify {
            Some(Proof::Commitment) => Verify::Commitment,
            Some(Proof::Query) => Verify::Query,
            Some(Proof::None) => Verify::None,
            None => kind.usual_verify(),
        };
        DestinationConfig {
            name: args.name,
            kind,
            ae_title: args.ae_title,
            calling_ae_title: args.calling_ae_title,
            host: args.host,
            port: args.port,
            url: args.url,
            username: args.username,
            password_file: args.password_file,
            token_file: args.token_file,
            verify,
            query_url: args.query_url,
            required: !args.optional,
            associations: args.associations,
            batch: args.batch,
            timeout: args.timeout,
            verify_deadline: args.verify_deadline,
        }
    }
}

impl Row for DestinationStatus {
    const TITLES: &'static [&'static str] = &[
        "NAME", "KIND", "ADDRESS", "STATE", "QUEUED", "SENT", "VERIFIED", "DEFERRED", "POISONED", "KEPT IN",
        "REMARK",
    ];

    fn cells(&self) -> Vec<String> {
        let state = match (self.paused, self.up) {
            (true, _) => "paused",
            (false, true) => "up",
            (false, false) => "down",
        };
        let counts = [self.queued, self.sent, self.verified, self.deferred, self.poisoned];
        let kept = if self.from_file { "file" } else { "database" };
        let mut cells = vec![self.name.clone(), self.kind.clone(), self.address.clone(), state.to_owned()];
        cells.extend(counts.iter().map(u64::to_string));
        cells.push(kept.to_owned());
        cells.push(self.reason.clone().unwrap_or_default());
        cells
    }
}

#[derive(Deserialize)]
struct Echoed {
    answer: String,
}

#[derive(Deserialize)]
struct Queued {
    queued: u64,
}

#[derive(Deserialize)]
struct Cancelled {
    cancelled: u64,
}

pub async fn run(command: DestinationCommand, config: &Config) -> anyhow::Result<Exit> {
    if let DestinationCommand::Add(args) = &command {
        let mut destination = DestinationConfig::from(AddArgs::clone(args));
        destination.find_secrets(&config.node.data_dir);
        validate_destination(&destination).map_err(Failure::usage)?;
    }
    Client::with(config, matches!(command, DestinationCommand::Add(_)), async |client| {
        carry_out(command, client).await
    })
    .await?;
    Ok(Exit::Done)
}

fn which(entry: Option<u64>, all: bool) -> Which {
    match entry {
        Some(entry) => Which::Entry(EntryId(entry)),
        None if all => Which::All,
        None => Which::Poisoned,
    }
}

async fn carry_out(command: DestinationCommand, client: &Client) -> anyhow::Result<()> {
    let path = |name: &str, verb: &str| format!("/destinations/{}{verb}", segment(name));
    let nothing = serde_json::Value::Null;
    match command {
        DestinationCommand::Add(args) => {
            let destination = DestinationConfig::from(*args);
            client.post("/destinations", &destination).await?;
            println!("added {}", destination.name);
        }
        DestinationCommand::List { json } => {
            let destinations: Vec<DestinationStatus> = client.get("/destinations").await?.list().await?;
            output::list(&destinations, json)?;
        }
        DestinationCommand::Echo { name } => {
            let echoed: Echoed = client.post(&path(&name, "/echo"), &nothing).await?.json().await?;
            println!("{}", echoed.answer);
        }
        DestinationCommand::Pause { name } => {
            client.post(&path(&name, "/pause"), &nothing).await?;
            println!("paused {name}");
        }
        DestinationCommand::Resume { name } => {
            client.post(&path(&name, "/resume"), &nothing).await?;
            println!("resumed {name}");
        }
        DestinationCommand::Backfill { name, since } => {
            let body = serde_json::json!({ "since": since.to_string() });
            let done: Queued = client.post(&path(&name, "/backfill"), &body).await?.json().await?;
            println!("queued {} objects for {name}", done.queued);
        }
        DestinationCommand::Requeue { name, poisoned, entry } => {
            let which = which(entry, !poisoned);
            let done: Queued = client.post(&path(&name, "/requeue"), &which).await?.json().await?;
            println!("queued {} objects for {name}", done.queued);
        }
        DestinationCommand::Cancel { name, all, entry } => {
            let which = which(entry, all);
            let done: Cancelled = client.post(&path(&name, "/cancel"), &which).await?.json().await?;
            println!("gave up {} deliveries to {name}", done.cancelled);
        }
        DestinationCommand::Remove { name } => {
            client.delete(&path(&name, "")).await?;
            println!("removed {name}");
        }
    }
    Ok(())
}
