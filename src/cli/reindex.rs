//! `relaypacs reindex`: rebuilds the index from the spool, by the running node or here.

use crate::cli::client::Client;
use crate::config::Config;
use crate::lifecycle::Exit;

pub async fn run(config: &Config) -> anyhow::Result<Exit> {
    let client = Client::open(config).await?;
    client.post("/reindex", &serde_json::Value::Null).await?;
    client.close().await;
    println!("reindexed");
    Ok(Exit::Done)
}
