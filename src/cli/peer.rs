//! `relaypacs peer`: who may open associations, beside those of the configuration file.

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};

use super::Failure;
use super::client::{Client, segment};
use super::output::{self, Row};
use crate::config::{Config, PeerConfig, validate_peer};
use crate::dicom::AeTitle;
use crate::lifecycle::Exit;

#[derive(Subcommand)]
pub enum PeerCommand {
    /// Admit a calling AE title
    Add(AddArgs),
    /// Show peers, of the file and added
    List {
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Admit a calling AE title no longer
    Remove { ae_title: AeTitle },
}

#[derive(Args)]
pub struct AddArgs {
    ae_title: AeTitle,
    /// Network (10.1.4.0/24) or address it may come from; may be repeated; anywhere, if left out
    #[arg(long, value_name = "NETWORK")]
    allow: Vec<String>,
    /// Where it listens itself
    #[arg(long, requires = "port")]
    host: Option<String>,
    #[arg(long, requires = "host")]
    port: Option<u16>,
    /// It sends in bulk and can wait: refused while the disk is over its high watermark
    #[arg(long)]
    bulk: bool,
}

#[derive(Serialize, Deserialize)]
struct PeerLine {
    ae_title: AeTitle,
    allow: Vec<String>,
    host: Option<String>,
    port: Option<u16>,
    from_file: bool,
}

impl Row for PeerLine {
    const TITLES: &'static [&'static str] = &["AE TITLE", "FROM", "LISTENS", "KEPT IN"];

    fn cells(&self) -> Vec<String> {
        let allow = if self.allow.is_empty() { "anywhere".to_owned() } else { self.allow.join(" ") };
        let listens = match (&self.host, self.port) {
            (Some(host), Some(port)) => format!("{host}:{port}"),
            _ => "-".to_owned(),
        };
        let kept = if self.from_file { "file" } else { "database" };
        vec![self.ae_title.to_string(), allow, listens, kept.to_owned()]
    }
}

pub async fn run(command: PeerCommand, config: &Config) -> anyhow::Result<Exit> {
    Client::with(config, matches!(command, PeerCommand::Add(_)), async |client| {
        carry_out(command, client).await
    })
    .await?;
    Ok(Exit::Done)
}

async fn carry_out(command: PeerCommand, client: &Client) -> anyhow::Result<()> {
    match command {
        PeerCommand::Add(AddArgs { ae_title, allow, host, port, bulk }) => {
            let peer = PeerConfig { ae_title, allow, host, port, bulk };
            validate_peer(&peer).map_err(Failure::usage)?;
            client.post("/peers", &peer).await?;
            println!("added {}", peer.ae_title);
        }
        PeerCommand::List { json } => {
            let peers: Vec<PeerLine> = client.get("/peers").await?.list().await?;
            output::list(&peers, json)?;
        }
        PeerCommand::Remove { ae_title } => {
            client.delete(&format!("/peers/{}", segment(ae_title.as_str()))).await?;
            println!("removed {ae_title}");
        }
    }
    Ok(())
}
