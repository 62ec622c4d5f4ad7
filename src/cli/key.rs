//! `relaypacs key`: credentials of machines for the HTTP door.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Deserialize;

use super::client::{Client, segment};
use super::output::{self, Row};
use crate::admin::{KeyLine, NewKey};
use crate::auth::{Scope, key_name};
use crate::clock::{Clock, Millis, SystemClock};
use crate::config::{Config, units};
use crate::lifecycle::Exit;

#[derive(Subcommand)]
pub enum KeyCommand {
    /// Make a key and print it: this is the only time that it is shown
    Add(AddArgs),
    /// Show keys, without their secrets
    List {
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// End a key's validity
    Revoke {
        /// The part of the key between the underscores, as `key list` shows it
        id: String,
    },
}

#[derive(Args)]
pub struct AddArgs {
    /// What the key is for: 1 to 64 characters
    #[arg(value_parser = key_name)]
    name: String,
    /// dicomweb:read, dicomweb:write, api:read, api:write or admin; may be repeated
    #[arg(long, required = true)]
    scope: Vec<Scope>,
    /// When it ends: a date (2027-01-31, UTC), a time (2027-01-31T18:00:00Z) or a while from now (90d);
    /// never, if left out
    #[arg(long, value_name = "WHEN", value_parser = ahead)]
    expires: Option<Millis>,
}

#[derive(Deserialize)]
struct Added {
    key: String,
}

impl Row for KeyLine {
    const TITLES: &'static [&'static str] = &["ID", "NAME", "SCOPES", "CREATED", "EXPIRES", "REVOKED"];

    fn cells(&self) -> Vec<String> {
        let scopes: Vec<&str> = self.scopes.iter().map(|scope| scope.as_str()).collect();
        let time = |at: Option<Millis>| at.map_or("-".to_owned(), |at| at.to_string());
        vec![
            self.id.clone(),
            self.name.clone(),
            scopes.join(" "),
            self.created_at.to_string(),
            time(self.expires_at),
            time(self.revoked_at),
        ]
    }
}

pub async fn run(command: KeyCommand, config: &Config) -> anyhow::Result<Exit> {
    Client::with(config, matches!(command, KeyCommand::Add(_)), async |client| {
        carry_out(command, client).await
    })
    .await?;
    Ok(Exit::Done)
}

async fn carry_out(command: KeyCommand, client: &Client) -> anyhow::Result<()> {
    match command {
        KeyCommand::Add(args) => {
            let new = NewKey { name: args.name, scopes: args.scope, expires_at: args.expires };
            let added: Added = client.post("/keys", &new).await?.json().await?;
            println!("{}", added.key);
        }
        KeyCommand::List { json } => {
            let keys: Vec<KeyLine> = client.get("/keys").await?.list().await?;
            output::list(&keys, json)?;
        }
        KeyCommand::Revoke { id } => {
            client.delete(&format!("/keys/{}", segment(&id))).await?;
            println!("revoked {id}");
        }
    }
    Ok(())
}

/// A moment to come, as people write it.
fn ahead(text: &str) -> Result<Millis, String> {
    let now = SystemClock.now();
    let at = moment(text, |duration| now.plus(duration))?;
    if at <= now {
        return Err("it must lie ahead".to_owned());
    }
    Ok(at)
}

/// A moment of the past, as people write it.
pub fn ago(text: &str) -> Result<Millis, String> {
    let now = SystemClock.now();
    moment(text, |duration| Millis(now.0.saturating_sub(duration.as_millis() as u64)))
}

fn moment(text: &str, relative: impl Fn(Duration) -> Millis) -> Result<Millis, String> {
    let at = Millis::parse(text).or_else(|| units::duration::parse(text).map(relative));
    at.ok_or_else(|| {
        "neither a date (2027-01-31), nor a time (2027-01-31T18:00:00Z), nor a while (24h, 90d)".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_time_or_a_while_from_now() {
        assert_eq!(ago("1970-01-01T00:00:01Z"), Ok(Millis(1000)));
        assert!(ago("1h").unwrap() < SystemClock.now());
        assert!(ahead("1h").unwrap() > SystemClock.now());
        assert!(ago("yesterday").is_err());
        assert!(ahead("0d").is_err() && ahead("1970-01-31").is_err());
    }
}
