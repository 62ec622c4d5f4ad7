//! `relaypacs reindex`: rebuilds the index from the spool. The running node does it in the
//! background, searches seeing what is there so far; without one, the next start does it.

use crate::cli::client::Client;
use crate::config::Config;
use crate::lifecycle::Exit;

#[derive(serde::Deserialize)]
struct Begun {
    /// A running node is at it.
    reindexing: bool,
}

pub async fn run(config: &Config) -> anyhow::Result<Exit> {
    let nothing = serde_json::Value::Null;
    let order = async |client: &Client| client.post("/reindex", &nothing).await?.json().await;
    let begun: Begun = Client::with(config, false, order).await?;
    println!(
        "{}",
        if begun.reindexing { "rebuilding the index" } else { "the index is rebuilt at the next start" }
    );
    Ok(Exit::Done)
}
