//! `relaypacs healthcheck`: an exit code for containers. Asks the running node only.

use anyhow::Context;

use crate::admin::Readiness;
use crate::cli::client::{Client, silent_node};
use crate::config::Config;
use crate::lifecycle::Exit;
use crate::node::FolderLock;

pub async fn run(config: &Config) -> anyhow::Result<Exit> {
    let Some(client) = Client::of_running_node(config).await else {
        let dir = &config.node.data_dir;
        if FolderLock::is_held(dir).with_context(|| dir.display().to_string())? {
            return Err(silent_node(config).into());
        }
        anyhow::bail!("no node runs on {}", dir.display());
    };
    let readiness: Readiness = client.get("/health").await?.json().await?;
    if let Some(reason) = readiness.reason {
        anyhow::bail!("the node takes no objects: {reason}");
    }
    println!("ready{}", if readiness.database { "" } else { ", without its database" });
    Ok(Exit::Done)
}
