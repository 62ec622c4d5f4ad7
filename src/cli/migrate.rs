//! `relaypacs migrate`: the tables of the database. It works on the database alone, not on the
//! spool. A running node needs its tables, so none may run on the data folder while they go.

use clap::Subcommand;

use super::output::{self, Row};
use crate::config::Config;
use crate::lifecycle::Exit;
use crate::node::FolderLock;
use crate::store::{MigrationStatus, Store};

#[derive(Subcommand)]
pub enum MigrateCommand {
    /// Apply what is missing
    Up,
    /// Take back every step above VERSION
    Down {
        /// 0 takes back all of them, with what the tables hold
        #[arg(long, value_name = "VERSION", value_parser = version)]
        to: i64,
    },
    /// Show every step and whether it is applied
    Status {
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
}

impl Row for MigrationStatus {
    const TITLES: &'static [&'static str] = &["VERSION", "APPLIED", "DESCRIPTION"];

    fn cells(&self) -> Vec<String> {
        vec![self.version.to_string(), output::yes_no(self.applied), self.description.clone()]
    }
}

/// 0, or a step that this program knows.
fn version(text: &str) -> Result<i64, String> {
    let known: Vec<i64> = std::iter::once(0).chain(Store::migration_versions()).collect();
    let version = text.parse().ok().filter(|version| known.contains(version));
    version.ok_or_else(|| {
        let known: Vec<String> = known.iter().map(i64::to_string).collect();
        format!("there is no such version; there are {}", known.join(", "))
    })
}

pub async fn run(command: MigrateCommand, config: &Config) -> anyhow::Result<Exit> {
    // PostgreSQL's tables too: they are this node's.
    let _lock = match command {
        MigrateCommand::Down { .. } => Some(FolderLock::take(&config.node.data_dir).await?),
        _ => None,
    };
    let store = crate::node::open_store(config).await?;
    match command {
        MigrateCommand::Up => store.migrate_up().await?,
        MigrateCommand::Down { to } => store.migrate_down(to).await?,
        MigrateCommand::Status { json } => output::list(&store.migration_status().await?, json)?,
    }
    store.close().await;
    Ok(Exit::Done)
}
