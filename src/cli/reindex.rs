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
    let client = Client::open(config).await?;
    let begun: Begun = client.post("/reindex", &serde_json::Value::Null).await?.json().await?;
    client.close().await;
    println!(
        "{}",
        if begun.reindexing { "rebuilding the index" } else { "the index is rebuilt at the next start" }
    );
    Ok(Exit::Done)
}
