//! `relaypacs migrate`: the tables of the database. It works on the database alone, not on the
//! spool; a running node keeps its connections, so stop it before going down.

use clap::Subcommand;

use super::output::{self, Row};
use crate::config::Config;
use crate::lifecycle::Exit;
use crate::store::MigrationStatus;

#[derive(Subcommand)]
pub enum MigrateCommand {
    /// Apply what is missing
    Up,
    /// Take back every step above VERSION
    Down {
        /// 0 takes back all of them, with what the tables hold
        #[arg(long, value_name = "VERSION")]
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

pub async fn run(command: MigrateCommand, config: &Config) -> anyhow::Result<Exit> {
    let store = crate::node::open_store(config).await?;
    match command {
        MigrateCommand::Up => store.migrate_up().await?,
        MigrateCommand::Down { to } => store.migrate_down(to).await?,
        MigrateCommand::Status { json } => output::list(&store.migration_status().await?, json)?,
    }
    store.close().await;
    Ok(Exit::Done)
}
